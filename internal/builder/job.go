package builder

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"silica.dev/silica/internal/runtime"
	"silica.dev/silica/sandbox"
)

const (
	// progress is the event of something that takes long: shown while it lasts,
	// kept when what is done changes and not how far it is.
	progress = "progress"
	// stepOutput is the event of what a step writes.
	stepOutput = "step_output"

	// publishRetry is the pause after a database that was away.
	publishRetry = time.Second
	// maxBuildTime bounds a whole build.
	maxBuildTime = 2 * time.Hour
)

var errBuildTime = sandbox.E(sandbox.Timeout, sandbox.CodeTimeout, "the build took longer than "+maxBuildTime.String())

// job is one build under way.
type job struct {
	*Builder
	build   sandbox.Build
	slug    string // of its template, to say what is done
	journal *journal
	seen    string // what is being done, without its numbers
}

// build takes a build from queued to its end. When ctx ends, the row stays as it
// is: either it was cancelled, or the next daemon begins anew.
func (b *Builder) build(ctx context.Context, row sandbox.Build) {
	ctx, cancel := context.WithTimeoutCause(ctx, maxBuildTime, errBuildTime)
	defer cancel()
	j := &job{Builder: b, build: row, slug: row.Template}
	j.journal = newJournal(func(events []sandbox.BuildEvent) {
		if err := b.Store.AddBuildEvents(context.WithoutCancel(ctx), row.ID, events); err != nil {
			b.Log.Warn("lines of a build's log are lost", "build", row.ID, "err", err)
		}
		b.queue.changed(row.ID)
	})
	defer j.journal.flush()
	began := b.now()
	err := j.run(ctx)
	if j.build.Tenant != "" {
		defer b.unwatch(j.slug)
	}
	switch {
	case err == nil:
		b.Log.Info("template built", "template", j.slug, "build", row.ID, "revision", j.build.Revision, "took", b.now().Sub(began))
	case sandbox.HasCode(err, sandbox.CodeBuildState): // it was cancelled
	case ctx.Err() != nil && context.Cause(ctx) != errBuildTime:
	default:
		b.Log.Warn("a build failed", "template", j.slug, "build", row.ID, "state", j.build.State, "err", err)
		j.fail(ctx, err)
	}
}

func (j *job) run(ctx context.Context) (err error) {
	if err := j.move(ctx, sandbox.BuildBuilding, func(b *sandbox.Build) { b.StartedAt = j.now() }); err != nil {
		return err
	}
	t, err := j.Store.Template(ctx, j.build.Template)
	if err != nil {
		return err
	}
	j.slug = t.Slug
	spec, err := j.grounded(ctx, t)
	if err != nil {
		return err
	}
	m, err := j.makeImage(ctx, spec, j.report)
	j.journal.flush()
	if err != nil {
		return err
	}
	release := j.hold(m.Image)
	next := t // with the fields of the new revision
	next.Revision, next.Image, next.Built = revision(j.build.Spec, j.Setting, m.Image), m.Image, j.build.Spec
	next.Env, next.Workdir, next.User = m.Env, m.Workdir, m.User
	defer func() {
		release()
		if err != nil { // nobody will ask for it; what serves already stays
			j.abandon(context.WithoutCancel(ctx), next)
		}
	}()
	if err := j.move(ctx, sandbox.BuildSnapshotting, func(b *sandbox.Build) { b.Base, b.Revision = m.Base, next.Revision }); err != nil {
		return err
	}
	refs, err := j.snapshot(ctx, next)
	if err != nil {
		return err
	}
	if err := j.move(ctx, sandbox.BuildDistributing, nil); err != nil {
		return err
	}
	j.doing(j.slug, "reading everything back")
	for _, ref := range append(refs, next.Image) {
		if err := j.Blobs.Verify(ctx, ref); err != nil {
			return fmt.Errorf("verify %s: %w", ref, err)
		}
	}
	return j.publish(ctx, t, next)
}

// grounded is the build's spec with the template it stands on, if it does, named
// by ID: a slug may become another's meanwhile.
func (j *job) grounded(ctx context.Context, t sandbox.Template) (sandbox.BuildSpec, error) {
	spec := j.build.Spec
	name, ok := strings.CutPrefix(spec.From, "template:")
	if !ok {
		return spec, nil
	}
	base, err := j.Store.FindTemplate(ctx, t.Tenant, name)
	switch {
	case sandbox.AsError(err).Kind == sandbox.NotFound && err != nil:
		return spec, sandbox.E(sandbox.Invalid, sandbox.CodeUnsupportedBase, "from: there is no template "+name)
	case err != nil:
		return spec, err
	case base.ID == t.ID:
		return spec, sandbox.E(sandbox.Invalid, sandbox.CodeUnsupportedBase, "from: a template can't stand on itself")
	case base.Revision == "":
		return spec, sandbox.E(sandbox.Conflict, sandbox.CodeTemplateNotReady, "from: the template "+name+" is not built yet")
	}
	spec.From = "template:" + base.ID
	return spec, nil
}

// snapshot makes and proves the memory that copies start from, and returns what
// it is made of: nothing where the runtime keeps no memory.
func (j *job) snapshot(ctx context.Context, t sandbox.Template) (refs []sandbox.Ref, err error) {
	driver, ok := j.Driver.(runtime.Snapshotter)
	if !ok {
		return nil, j.move(ctx, sandbox.BuildCertifying, nil)
	}
	name := nameOf(t.ID, t.Revision, driver.SnapshotKey(t.Built.Resources()))
	var moved error
	begin := sync.OnceFunc(func() { moved = j.move(ctx, sandbox.BuildCertifying, nil) })
	j.mu.Lock()
	j.tests[name] = begin
	delete(j.tries, name) // somebody asked for this one
	j.mu.Unlock()
	seed, err := j.Seed(ctx, t, t.Built.Resources(), "")
	j.mu.Lock()
	delete(j.tests, name)
	j.mu.Unlock()
	if err != nil {
		return nil, err
	}
	begin() // it was there already, and proven when it was made
	return []sandbox.Ref{seed.Ref}, moved
}

// certifying says that a snapshot is tested, to the log and to the build that has
// asked for it.
func (b *Builder) certifying(q seedRequest, doing string) {
	b.doing(q.template.Slug, doing)
	b.mu.Lock()
	begin := b.tests[q.name]
	b.mu.Unlock()
	if begin != nil {
		begin()
	}
}

// publish has the revision serve, and frees what served before. A database that
// is away is waited for: the work is done.
func (j *job) publish(ctx context.Context, old, next sandbox.Template) error {
	for {
		j.journal.flush()
		got, err := j.Store.PublishBuild(ctx, j.build.ID, next)
		if kind := sandbox.AsError(err).Kind; err != nil && (kind == sandbox.Unavailable || kind == sandbox.Timeout) && ctx.Err() == nil {
			if now, err := j.Store.Build(ctx, j.build.ID); err == nil && now.State == sandbox.BuildReady {
				got = now // it had happened
			} else if pause(ctx, publishRetry) {
				continue
			}
		} else if err != nil {
			return err
		}
		j.build = got
		break
	}
	images := []sandbox.Ref{}
	if old.Image != next.Image {
		images = append(images, old.Image)
	}
	j.forgetRevisions(ctx, next.ID, next.Revision, images...)
	j.queue.changed(j.build.ID, j.build.Template)
	j.published()
	return nil
}

// abandon frees what a build has made, unless it is what serves.
func (j *job) abandon(ctx context.Context, next sandbox.Template) {
	now, err := j.Store.Template(ctx, next.ID)
	if err != nil {
		j.Log.Warn("what a failed build has made is not freed", "build", j.build.ID, "err", err)
		return
	}
	if now.Revision != next.Revision {
		j.forgetRevisions(ctx, next.ID, now.Revision)
	}
	j.discard(ctx, next.Image)
}

// move changes the state of the build, after all that was told before.
func (j *job) move(ctx context.Context, to sandbox.BuildState, change func(*sandbox.Build)) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	j.journal.flush()
	got, err := j.Store.MoveBuild(ctx, j.build.ID, to, change)
	if err != nil {
		return err
	}
	j.build = got
	j.queue.changed(got.ID, got.Template)
	return nil
}

// fail ends the build. A database that is away is waited for.
func (j *job) fail(ctx context.Context, cause error) {
	code, message := j.verdict(cause)
	ctx = context.WithoutCancel(ctx)
	for n := 1; n <= 60; n++ {
		j.journal.flush()
		got, err := j.Store.MoveBuild(ctx, j.build.ID, sandbox.BuildFailed, func(b *sandbox.Build) { b.Code, b.Message = code, message })
		if err == nil {
			j.build = got
		}
		if err == nil || sandbox.HasCode(err, sandbox.CodeBuildState) || !pause(ctx, publishRetry) {
			break
		}
	}
	j.queue.changed(j.build.ID, j.build.Template)
}

// verdict is what the user is told of a failure: its own code where there is one,
// else that of the state it happened in.
func (j *job) verdict(err error) (code, message string) {
	var e *sandbox.Error
	known := errors.As(err, &e) && e.Kind != sandbox.Internal
	if known {
		code, message = e.Code, e.Message
	}
	switch {
	case errors.Is(err, ErrNotCertified) || j.build.State == sandbox.BuildCertifying:
		code, message = sandbox.CodeCertification, either(message, "copies of it are not what they must be")
	case j.build.State == sandbox.BuildSnapshotting:
		code, message = sandbox.CodeSnapshotFailed, either(message, "its memory could not be kept")
	case j.build.State == sandbox.BuildDistributing:
		code, message = sandbox.CodeNotDistributed, either(message, "what was built could not be read back")
	case !known:
		code, message = sandbox.CodeBuildFailed, "the build failed for a reason inside the server"
	}
	return code, message
}

func either(text, other string) string {
	if text != "" {
		return text
	}
	return other
}

// report takes what making the image tells.
func (j *job) report(e sandbox.BuildEvent) {
	switch e.Event {
	case progress:
		j.doing(j.slug, e.Text)
		step := stepOf(Status{Doing: e.Text})
		if step == j.seen {
			return
		}
		j.seen = step
	case stepOutput, "step_finished":
	default:
		j.doing(j.slug, e.Text)
	}
	e.State, e.At = sandbox.BuildBuilding, j.now()
	j.journal.add(e)
}

// pause waits, and tells whether ctx is still there.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
