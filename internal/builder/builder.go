// Package builder makes templates ready to start from, so that every later
// start is a restore: recipe → image → cold start → memory snapshot → proof
// that the snapshot restores.
//
// Whatever it makes is named by a row only once it is whole. A crash leaves
// temporary folders, which the blob store removes, sandboxes no row owns, which
// recovery destroys, and artifacts no row names, which [Builder.Sweep] deletes.
package builder

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"sync"
	"time"

	"silica.dev/silica/internal/image"
	"silica.dev/silica/internal/runtime"
	"silica.dev/silica/sandbox"
)

// Store keeps the rows. Unknown names are [sandbox.NotFound].
type Store interface {
	SaveTemplate(ctx context.Context, t sandbox.Template) error
	Template(ctx context.Context, slug string) (sandbox.Template, error)
	Templates(ctx context.Context) ([]sandbox.Template, error)
	SaveSeed(ctx context.Context, s sandbox.Seed) error
	Seed(ctx context.Context, slug, revision, key string) (sandbox.Seed, error)
	Seeds(ctx context.Context) ([]sandbox.Seed, error)
	DeleteSeed(ctx context.Context, ref sandbox.Ref) error
}

// Images makes root file systems: an [image.Builder].
type Images interface {
	Build(ctx context.Context, spec image.Spec, report func(image.Progress)) (image.Image, error)
}

// Blobs is what the builder asks of the blob store.
type Blobs interface {
	Open(ctx context.Context, ref sandbox.Ref) (dir string, release func(), err error)
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
	// Nameservers are what sandboxes will be told; none: the image's.
	Nameservers []string
	// Report is told of progress, about once a second. It must not block.
	Report func(Status)
	Making Making
}

// Builder makes templates ready. Its methods may be called at the same time.
type Builder struct {
	Config
	now func() time.Time // a test's clock
	// bench has room for one: snapshots are made one after the other, so that
	// they leave the machine to those who wait for a start.
	bench chan struct{}

	mu      sync.Mutex
	status  map[string]Status // by slug
	told    map[string]told
	flights map[string]*flight // by template and key
	tries   map[string]*tries
	own     map[string]bool // names of the snapshots of templates' own sizes

	making makeState
}

// New returns a builder that has done nothing yet.
func New(c Config) *Builder {
	return &Builder{Config: c, now: time.Now, bench: make(chan struct{}, 1), status: map[string]Status{}, told: map[string]told{},
		flights: map[string]*flight{}, tries: map[string]*tries{}, own: map[string]bool{}}
}

// Ensure makes the template ready and returns it: at once when it was made
// before, in minutes the first time. A template is usable by cold starts
// as soon as its row is there, before Ensure returns.
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
	old, err := b.Store.Template(ctx, r.Slug)
	if err != nil && sandbox.AsError(err).Kind != sandbox.NotFound {
		return sandbox.Template{}, err
	}
	t := r.template(b.Setting, old.Image)
	t.CreatedAt = old.CreatedAt
	if t.Revision != old.Revision || !b.whole(ctx, old.Image, "image") {
		img, err := b.Images.Build(ctx, image.Spec{From: r.From, Packages: r.Packages}, func(p image.Progress) {
			b.doing(r.Slug, p.String())
		})
		if err != nil {
			return sandbox.Template{}, err
		}
		b.Log.Info("image built", "template", r.Slug, "image", img.Ref, "bytes", img.Size)
		t = r.template(b.Setting, img.Ref)
		t.CreatedAt = b.now()
	}
	if !sameTemplate(t, old) {
		if err := b.Store.SaveTemplate(ctx, t); err != nil {
			return sandbox.Template{}, err
		}
	}
	if driver, ok := b.Driver.(runtime.Snapshotter); ok {
		b.mu.Lock()
		b.own[nameOf(t.Key(), t.Revision, driver.SnapshotKey(r.Resources()))] = true
		b.mu.Unlock()
		if _, err := b.Seed(ctx, t, r.Resources(), ""); err != nil {
			return sandbox.Template{}, err
		}
	}
	b.forgetRevisions(ctx, t, old)
	return t, nil
}

func sameTemplate(a, b sandbox.Template) bool {
	return a.Revision == b.Revision && a.Image == b.Image && a.Name == b.Name && a.Description == b.Description &&
		a.Workdir == b.Workdir && maps.Equal(a.Env, b.Env)
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

// forgetRevisions frees what earlier revisions of t's template needed. What is
// still in use stays until the next Sweep.
func (b *Builder) forgetRevisions(ctx context.Context, t, old sandbox.Template) {
	snapshots, err := b.Store.Seeds(ctx)
	if err != nil {
		b.Log.Warn("earlier revisions not freed", "template", t.Slug, "err", err)
		return
	}
	for _, s := range snapshots {
		if s.Template == t.Key() && s.Revision != t.Revision {
			b.forget(ctx, s.Ref)
		}
	}
	if old.Image != "" && old.Image != t.Image {
		b.discard(ctx, old.Image)
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

// discard deletes an artifact no row names any more.
func (b *Builder) discard(ctx context.Context, ref sandbox.Ref) {
	if err := b.Blobs.Delete(ctx, ref); err != nil && sandbox.AsError(err).Kind != sandbox.Conflict {
		b.Log.Warn("artifact not deleted", "ref", ref, "err", err)
	}
}

// Sweep deletes artifacts that neither a template or snapshot row nor keep
// names: what a crash left between storing and naming. Call it before
// anything else is under way; an artifact just stored looks the same.
func (b *Builder) Sweep(ctx context.Context, keep ...sandbox.Ref) error {
	used, err := b.named(ctx)
	if err != nil {
		return fmt.Errorf("sweep: %w", err)
	}
	for _, ref := range keep {
		used[ref] = true
	}
	b.cache().names(used)
	refs, err := b.Blobs.List(ctx)
	if err != nil {
		return fmt.Errorf("sweep: %w", err)
	}
	for _, ref := range refs {
		if !used[ref] {
			b.Log.Info("deleting an artifact nothing refers to", "ref", ref)
			b.discard(ctx, ref)
		}
	}
	return nil
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
