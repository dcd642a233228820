package builder

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"silica.dev/silica/internal/runtime"
	"silica.dev/silica/sandbox"
)

// seedTimeout bounds making and proving one snapshot.
const seedTimeout = 5 * time.Minute

// calm is how long nothing must have been made for a key until the next try
// counts as the first again.
const calm = 10 * time.Minute

// maxOtherSizes bounds how many snapshots of a template are kept for sizes that are
// not its own. Tenants choose those, and each takes room on the host.
const maxOtherSizes = 16

// flight is one snapshot being made; done is closed when the rest is set.
type flight struct {
	done     chan struct{}
	snapshot sandbox.Seed
	err      error
	givenUp  bool // the caller who made it went away
}

// tries counts attempts for one key in a row, successful ones too: a snapshot
// that is made well and can't be restored must not be made without end.
type tries struct {
	n    int
	last time.Time
	err  error
}

// Seed returns the snapshot that serves a template at a size, and makes it if
// there is none. broken, when not empty, is one that could not be restored: it
// is deleted and replaced, unless somebody else has done so. Calls for the same
// snapshot make it once. After each try the next has to wait longer; until then
// Seed answers [sandbox.Unavailable] at once.
func (b *Builder) Seed(ctx context.Context, t sandbox.Template, res sandbox.Resources, broken sandbox.Ref) (sandbox.Seed, error) {
	driver, ok := b.Driver.(runtime.Snapshotter)
	if !ok {
		return sandbox.Seed{}, sandbox.E(sandbox.Unavailable, sandbox.CodeUnavailable, "this runtime keeps no snapshots")
	}
	key := driver.SnapshotKey(res)
	name := nameOf(t.ID, t.Revision, key)
	for {
		b.mu.Lock()
		f := b.flights[name]
		if f == nil {
			f = &flight{done: make(chan struct{})}
			b.flights[name] = f
			b.mu.Unlock()
			f.snapshot, f.err = b.seed(ctx, driver, seedRequest{t, res, key, name, broken})
			f.givenUp = f.err != nil && ctx.Err() != nil
			b.mu.Lock()
			delete(b.flights, name)
			b.mu.Unlock()
			close(f.done)
			return f.snapshot, f.err
		}
		b.mu.Unlock()
		select {
		case <-f.done:
		case <-ctx.Done():
			return sandbox.Seed{}, context.Cause(ctx)
		}
		if !f.givenUp && (f.err != nil || f.snapshot.Ref != broken) {
			return f.snapshot, f.err
		}
	}
}

func nameOf(template, revision, key string) string { return template + " " + revision + " " + key }

// snapshotName names the snapshot of t for a size. own says that the size is the
// template's.
func (b *Builder) snapshotName(t sandbox.Template, res sandbox.Resources) (name string, own bool) {
	driver, ok := b.Driver.(runtime.Snapshotter)
	if !ok {
		return "", false
	}
	key := driver.SnapshotKey(res)
	return nameOf(t.ID, t.Revision, key), key == driver.SnapshotKey(t.Built.Resources())
}

// trim forgets the oldest snapshots of a template for sizes that are not its own,
// when there are too many.
func (b *Builder) trim(ctx context.Context, driver runtime.Snapshotter, t sandbox.Template) {
	all, err := b.Store.Seeds(ctx)
	if err != nil {
		b.Log.Warn("snapshots not counted", "template", t.Slug, "err", err)
		return
	}
	own := driver.SnapshotKey(t.Built.Resources())
	all = slices.DeleteFunc(all, func(s sandbox.Seed) bool {
		return s.Template != t.ID || s.Revision != t.Revision || s.Key == own
	})
	slices.SortFunc(all, func(a, b sandbox.Seed) int { return b.CreatedAt.Compare(a.CreatedAt) })
	for _, s := range all[min(len(all), maxOtherSizes):] {
		b.Log.Info("forgetting the snapshot of a size for newer ones", "template", t.Slug, "key", s.Key)
		b.forget(ctx, s.Ref)
	}
}

// seedRequest says which snapshot to make.
type seedRequest struct {
	template sandbox.Template
	res      sandbox.Resources
	key      string
	name     string // of the flight
	broken   sandbox.Ref
}

func (b *Builder) seed(ctx context.Context, driver runtime.Snapshotter, q seedRequest) (sandbox.Seed, error) {
	have, err := b.Store.Seed(ctx, q.template.ID, q.template.Revision, q.key)
	switch {
	case err == nil && have.Ref != q.broken && b.whole(ctx, have.Ref, "snapshot"):
		return have, nil
	case err != nil && sandbox.AsError(err).Kind != sandbox.NotFound:
		return sandbox.Seed{}, err
	}
	if err := b.admit(q); err != nil {
		return sandbox.Seed{}, err
	}
	select {
	case b.bench <- struct{}{}:
		defer func() { <-b.bench }()
	case <-ctx.Done():
		return sandbox.Seed{}, context.Cause(ctx)
	}
	if have.Ref != "" {
		b.forget(ctx, have.Ref)
	}
	began := b.now()
	within, cancel := context.WithTimeout(ctx, seedTimeout)
	defer cancel()
	made, err := b.takeSeed(within, driver, q)
	if err == nil {
		err = b.certify(within, q, made)
	}
	if err != nil && made.ref != "" {
		b.discard(context.WithoutCancel(ctx), made.ref)
	}
	if err == nil || ctx.Err() == nil { // the caller's going away is no failure
		b.note(q.name, err)
	}
	if err != nil {
		return sandbox.Seed{}, fmt.Errorf("snapshot of template %s for %s: %w", q.template.Slug, q.key, err)
	}
	s := sandbox.Seed{Template: q.template.ID, Revision: q.template.Revision, Key: q.key, Ref: made.ref, CreatedAt: b.now()}
	if err := b.Store.SaveSeed(ctx, s); err != nil {
		b.discard(context.WithoutCancel(ctx), made.ref)
		return sandbox.Seed{}, err
	}
	b.Log.Info("snapshot made", "template", s.Template, "key", s.Key, "ref", s.Ref, "took", b.now().Sub(began))
	b.trim(ctx, driver, q.template)
	return s, nil
}

// candidate is a snapshot that no row names, and that nobody has tested yet.
type candidate struct {
	ref    sandbox.Ref
	seed   string // of the agent in it
	random []byte // what the original drew after it
}

// takeSeed starts the template cold, has its start command run if copies are to
// have that, and stores its memory. Whoever asked deletes what comes of it. What
// fails is classified as [sandbox.CodeSnapshotFailed].
func (b *Builder) takeSeed(ctx context.Context, driver runtime.Snapshotter, q seedRequest) (made candidate, err error) {
	step := "starting it once"
	fail := func(err error) (candidate, error) { return candidate{ref: made.ref}, notTaken(ctx, step, err) }
	b.doing(q.template.Slug, step)
	source, err := b.start(ctx, q, "", "sandbox")
	if err != nil {
		return fail(err)
	}
	defer source.destroy(ctx) // the copies need the room

	if q.template.Built.WarmStart {
		step = "starting its app"
		if err := source.warmUp(ctx, q.template); err != nil {
			return fail(err)
		}
	}
	step = "taking the memory snapshot"
	b.doing(q.template.Slug, step)
	// One command: the image can run any, and what every first command needs
	// is in memory. No more than that: each path looked up makes restores slower.
	if _, err := source.output(ctx, "/bin/sh", "-c", "true"); err != nil {
		return fail(err)
	}
	// A kept connection would be in the snapshot, cut off in every copy.
	source.client.Close()
	if made.ref, err = driver.Snapshot(ctx, source.id); err != nil {
		return fail(err)
	}
	made.seed = source.seed
	if made.random, err = source.randomness(ctx); err != nil {
		return fail(err)
	}
	return made, nil
}

// notTaken classifies why there is no snapshot, unless ctx has ended.
func notTaken(ctx context.Context, step string, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("%s: %w", step, context.Cause(ctx))
	}
	return sandbox.E(sandbox.Unavailable, sandbox.CodeSnapshotFailed, "no snapshot could be taken of it, when "+step+forUsers(err)).
		With("step", step).Because(err)
}

// admit refuses a try that comes too soon after the last.
func (b *Builder) admit(q seedRequest) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	t := b.tries[q.name]
	if t == nil {
		return nil
	}
	since := b.now().Sub(t.last)
	if since >= calm {
		delete(b.tries, q.name)
		return nil
	}
	if wait := delay(t.n) - since; wait > 0 {
		return sandbox.E(sandbox.Unavailable, sandbox.CodeTemplateNotReady,
			fmt.Sprintf("the snapshot of template %s can't be made just now; next try in %s", q.template.Slug, wait.Round(time.Second))).Because(t.err)
	}
	return nil
}

func (b *Builder) note(name string, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	// What has calmed down counts for nothing: only keys of late are held.
	maps.DeleteFunc(b.tries, func(_ string, t *tries) bool { return b.now().Sub(t.last) >= calm })
	t := b.tries[name]
	if t == nil {
		t = &tries{}
		b.tries[name] = t
	}
	t.n, t.last, t.err = t.n+1, b.now(), err
}
