// Package builder makes templates ready to start from, so that every later
// start is a restore: spec → image → cold start → memory snapshot → proof
// that the snapshot restores.
//
// Builds are rows, and so is what they have come to: whatever a build makes is
// named by a template only once it is whole, in one transaction. A crash leaves
// builds that begin anew, temporary folders, which the blob store removes,
// sandboxes no row owns, which recovery destroys, and artifacts no row names,
// which [Builder.Sweep] deletes.
package builder

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"sync"
	"time"

	"silica.dev/silica/internal/image"
	"silica.dev/silica/internal/runtime"
	"silica.dev/silica/sandbox"
)

// Store keeps the rows. Unknown names are [sandbox.NotFound].
type Store interface {
	// DefineTemplate makes the row of an official template; what was built of it
	// stays.
	DefineTemplate(ctx context.Context, t sandbox.Template) (sandbox.Template, error)
	CreateTemplate(ctx context.Context, t sandbox.Template, limit int) (sandbox.Template, error)
	// EditTemplate changes one in a transaction with the build that change
	// returns, if it does.
	EditTemplate(ctx context.Context, id string, change func(*sandbox.Template) (*sandbox.Build, error)) (sandbox.Template, error)
	// Template finds by ID, deleted ones, too; FindTemplate by ID or slug what a
	// tenant may see.
	Template(ctx context.Context, id string) (sandbox.Template, error)
	FindTemplate(ctx context.Context, tenant sandbox.TenantID, name string) (sandbox.Template, error)
	Templates(ctx context.Context) ([]sandbox.Template, error)
	VisibleTemplates(ctx context.Context, tenant sandbox.TenantID) ([]sandbox.Template, error)

	SaveSeed(ctx context.Context, s sandbox.Seed) error
	Seed(ctx context.Context, template, revision, key string) (sandbox.Seed, error)
	Seeds(ctx context.Context) ([]sandbox.Seed, error)
	DeleteSeed(ctx context.Context, ref sandbox.Ref) error

	// MoveBuild changes a build's state with its event, if it may become that.
	MoveBuild(ctx context.Context, id string, to sandbox.BuildState, change func(*sandbox.Build)) (sandbox.Build, error)
	// PublishBuild ends a build and has its revision serve.
	PublishBuild(ctx context.Context, id string, t sandbox.Template, seeds ...sandbox.Seed) (sandbox.Build, error)
	Build(ctx context.Context, id string) (sandbox.Build, error)
	Builds(ctx context.Context, template string, limit int) ([]sandbox.Build, error)
	OpenBuilds(ctx context.Context) ([]sandbox.Build, error)
	AddBuildEvents(ctx context.Context, build string, events []sandbox.BuildEvent) error
	BuildEvents(ctx context.Context, build string, after int64, limit int) ([]sandbox.BuildEvent, error)
}

// Images makes root file systems, from sandboxes too: an [image.Builder].
type Images interface {
	Build(ctx context.Context, spec image.Spec, report func(image.Progress)) (image.Image, error)
	Resolve(ctx context.Context, from string) (digest string, err error)
	Rebuild(ctx context.Context, base sandbox.Ref, changes io.Reader, report func(image.Progress)) (image.Image, error)
}

// Blobs is what the builder asks of the blob store.
type Blobs interface {
	Open(ctx context.Context, ref sandbox.Ref) (dir string, release func(), err error)
	Verify(ctx context.Context, ref sandbox.Ref) error
	Delete(ctx context.Context, ref sandbox.Ref) error
	List(ctx context.Context) ([]sandbox.Ref, error)
}

// Config is what a builder works with. All but Report is needed.
type Config struct {
	Driver runtime.Driver
	Images Images
	Blobs  Blobs
	Store  Store
	Log    *slog.Logger
	// Setting stands for what else decides an image's content: the agent's
	// digest, the operator's mirrors. Another setting, another revision.
	Setting string
	// Report is told of progress, about once a second. It must not block.
	Report func(Status)
	Making Making

	// Nameservers are what sandboxes are told to ask; none: the image's.
	Nameservers []string
}

// Builder makes templates ready. Its methods may be called at the same time.
type Builder struct {
	Config
	now func() time.Time // a test's clock
	// bench has room for one: snapshots are made one after the other, so that
	// they leave the machine to those who wait for a start.
	bench chan struct{}
	queue *queue
	// published is told that another revision serves. Set it before Run.
	published func()

	mu      sync.Mutex
	status  map[string]Status // by slug
	told    map[string]told
	flights map[string]*flight // by template and key
	tries   map[string]*tries
	tests   map[string]func()    // what to call when a snapshot is tested, by template and key
	held    map[sandbox.Ref]int  // by builds under way
	doomed  map[sandbox.Ref]bool // to be deleted once nothing needs them

	making makeState
}

// New returns a builder that has done nothing yet.
func New(c Config) *Builder {
	return &Builder{Config: c, now: time.Now, bench: make(chan struct{}, 1), queue: newQueue(), published: func() {}, status: map[string]Status{}, told: map[string]told{},
		flights: map[string]*flight{}, tries: map[string]*tries{}, tests: map[string]func(){}, held: map[sandbox.Ref]int{}, doomed: map[sandbox.Ref]bool{}}
}

// Ensure makes an official template ready and returns it: at once when it was
// made before, in minutes the first time. It needs [Builder.Run].
func (b *Builder) Ensure(ctx context.Context, r Recipe) (sandbox.Template, error) {
	t, err := b.ensure(ctx, r)
	if err != nil {
		b.failed(r.Slug, err)
		return sandbox.Template{}, fmt.Errorf("build template %s: %w", r.Slug, err)
	}
	b.ready(r.Slug)
	return t, nil
}

func (b *Builder) ensure(ctx context.Context, r Recipe) (sandbox.Template, error) {
	b.begin(r.Slug, "checking what is there")
	t, err := b.define(ctx, r)
	if err != nil {
		return sandbox.Template{}, err
	}
	if t.Revision != revision(t.Spec, b.Setting, t.Image) || !b.whole(ctx, t.Image, "image") {
		if err := b.rebuild(ctx, t.ID); err != nil {
			return sandbox.Template{}, err
		}
		if t, err = b.Store.Template(ctx, t.ID); err != nil {
			return sandbox.Template{}, err
		}
	}
	if _, ok := b.Driver.(runtime.Snapshotter); ok {
		if _, err := b.Seed(ctx, t, t.Built.Resources(), ""); err != nil {
			return sandbox.Template{}, err
		}
	}
	return t, nil
}

// define makes the row of an official template say what the catalogue says.
func (b *Builder) define(ctx context.Context, r Recipe) (sandbox.Template, error) {
	t := r.template()
	t.CreatedAt, t.UpdatedAt = b.now(), b.now()
	return b.Store.DefineTemplate(ctx, t)
}

// rebuild has a template built as its row says, and waits for the end.
func (b *Builder) rebuild(ctx context.Context, id string) error {
	build, err := b.want(ctx, id)
	if err == nil {
		build, err = b.Await(ctx, build.ID)
	}
	if err != nil || build.State == sandbox.BuildReady {
		return err
	}
	kind := sandbox.Unavailable
	if build.Code == sandbox.CodeValidation || build.Code == sandbox.CodeUnsupportedBase || build.Code == sandbox.CodeInvalidStep {
		kind = sandbox.Invalid // another try would end alike
	}
	return sandbox.E(kind, build.Code, build.Message)
}

// want returns the build of a template's present spec that is on its way, queueing
// one if there is none.
func (b *Builder) want(ctx context.Context, id string) (got sandbox.Build, err error) {
	t, err := b.Store.Template(ctx, id)
	if err != nil {
		return got, err
	}
	if t.Pending != "" {
		got, err = b.Store.Build(ctx, t.Pending)
		if err == nil && !got.State.Final() && revision(got.Spec, "", "") == revision(t.Spec, "", "") {
			return got, nil
		}
	}
	_, err = b.Store.EditTemplate(ctx, id, func(t *sandbox.Template) (*sandbox.Build, error) {
		got = b.newBuild(*t)
		return &got, nil
	})
	b.queue.changed(got.ID, id)
	return got, err
}

func (b *Builder) newBuild(t sandbox.Template) sandbox.Build {
	at := b.now()
	return sandbox.Build{ID: sandbox.NewName("bld_"), Tenant: t.Tenant, Template: t.ID, State: sandbox.BuildQueued, Spec: t.Spec, CreatedAt: at, UpdatedAt: at}
}

// whole tells whether an artifact is there, without reading it all.
func (b *Builder) whole(ctx context.Context, ref sandbox.Ref, what string) bool {
	_, release, err := b.Blobs.Open(ctx, ref)
	if err != nil {
		b.Log.Warn("artifact is unusable and will be made again", "what", what, "ref", ref, "err", err)
		return false
	}
	release()
	return true
}

// forgetRevisions frees what revisions of a template other than keep needed. What
// is still in use stays until nothing needs it.
func (b *Builder) forgetRevisions(ctx context.Context, template, keep string, images ...sandbox.Ref) {
	seeds, err := b.Store.Seeds(ctx)
	if err != nil {
		b.Log.Warn("earlier revisions not freed", "template", template, "err", err)
		return
	}
	for _, s := range seeds {
		if s.Template == template && s.Revision != keep {
			b.forget(ctx, s.Ref)
		}
	}
	for _, ref := range images {
		b.discard(ctx, ref)
	}
}

// forget removes a snapshot's row, then its artifact.
func (b *Builder) forget(ctx context.Context, ref sandbox.Ref) {
	if err := b.Store.DeleteSeed(ctx, ref); err != nil {
		b.Log.Warn("snapshot not forgotten", "ref", ref, "err", err)
		return
	}
	b.discard(ctx, ref)
}

// discard deletes an artifact, now or once nothing needs it any more.
func (b *Builder) discard(ctx context.Context, ref sandbox.Ref) {
	if ref == "" {
		return
	}
	used, err := b.used(ctx)
	if err == nil && used[ref] {
		return // by another template: two may have the same image
	}
	if err == nil {
		err = b.Blobs.Delete(ctx, ref)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if err == nil {
		delete(b.doomed, ref)
		return
	}
	b.doomed[ref] = true
	if sandbox.AsError(err).Kind != sandbox.Conflict {
		b.Log.Warn("artifact not deleted", "ref", ref, "err", err)
	}
}

// collect tries again to delete what was in use when it was discarded.
func (b *Builder) collect(ctx context.Context) {
	b.mu.Lock()
	var refs []sandbox.Ref
	for ref := range b.doomed {
		refs = append(refs, ref)
	}
	b.mu.Unlock()
	for _, ref := range refs {
		b.discard(ctx, ref)
	}
}

// hold keeps an artifact of a build under way from being deleted.
func (b *Builder) hold(ref sandbox.Ref) (release func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.held[ref]++
	return sync.OnceFunc(func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		if b.held[ref]--; b.held[ref] == 0 {
			delete(b.held, ref)
		}
	})
}

// used is what templates, snapshots and builds under way need, and what later
// builds can begin from.
func (b *Builder) used(ctx context.Context) (map[sandbox.Ref]bool, error) {
	used := map[sandbox.Ref]bool{}
	templates, err := b.Store.Templates(ctx)
	if err != nil {
		return nil, fmt.Errorf("what templates need: %w", err)
	}
	for _, t := range templates {
		used[t.Image] = used[t.Image] || t.DeletedAt.IsZero()
		if ref, ok := t.Spec.IsCaptured(); ok {
			used[ref] = used[ref] || t.DeletedAt.IsZero()
		}
	}
	seeds, err := b.Store.Seeds(ctx)
	if err != nil {
		return nil, fmt.Errorf("what snapshots need: %w", err)
	}
	for _, s := range seeds {
		used[s.Ref] = true
	}
	b.cache().names(used)
	b.mu.Lock()
	defer b.mu.Unlock()
	for ref := range b.held {
		used[ref] = true
	}
	return used, nil
}

// Sweep deletes artifacts that neither a template or snapshot row nor keep
// names: what a crash left between storing and naming, and what no revision that
// serves needs. Call it before anything else is under way; an artifact just
// stored looks the same.
func (b *Builder) Sweep(ctx context.Context, keep ...sandbox.Ref) error {
	if err := b.forgetUnpublished(ctx); err != nil {
		return fmt.Errorf("sweep: %w", err)
	}
	used, err := b.used(ctx)
	if err != nil {
		return fmt.Errorf("sweep: %w", err)
	}
	refs, err := b.Blobs.List(ctx)
	if err != nil {
		return fmt.Errorf("sweep: %w", err)
	}
	for _, ref := range refs {
		if !used[ref] && !slices.Contains(keep, ref) {
			b.Log.Info("deleting an artifact nothing refers to", "ref", ref)
			b.discard(ctx, ref)
		}
	}
	return nil
}

// forgetUnpublished removes the rows of snapshots that no revision that serves
// needs: of builds that were cut short.
func (b *Builder) forgetUnpublished(ctx context.Context) error {
	templates, err := b.Store.Templates(ctx)
	if err != nil {
		return err
	}
	seeds, err := b.Store.Seeds(ctx)
	if err != nil {
		return err
	}
	for _, s := range seeds {
		serves := slices.ContainsFunc(templates, func(t sandbox.Template) bool {
			return t.ID == s.Template && t.Revision == s.Revision && t.DeletedAt.IsZero()
		})
		if !serves {
			err = errors.Join(err, b.Store.DeleteSeed(ctx, s.Ref))
		}
	}
	return err
}

// Maintain calls Ensure until it succeeds, waiting longer after each failure,
// or until ctx ends.
func (b *Builder) Maintain(ctx context.Context, r Recipe) (sandbox.Template, error) {
	for n := 1; ; n++ {
		t, err := b.Ensure(ctx, r)
		if err == nil || ctx.Err() != nil || sandbox.AsError(err).Kind == sandbox.Invalid {
			return t, err
		}
		wait := delay(n)
		b.Log.Error("template not ready; trying again", "template", r.Slug, "wait", wait, "err", err)
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return sandbox.Template{}, context.Cause(ctx)
		}
	}
}

// delay is how long to wait after the n-th try in a row.
func delay(n int) time.Duration {
	const most = 5 * time.Minute
	if n > 9 {
		return most
	}
	return min(time.Second<<(n-1), most)
}
