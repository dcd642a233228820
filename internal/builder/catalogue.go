package builder

import (
	"context"
	"sync"

	"silica.dev/silica/sandbox"
)

var errNotInCatalogue = sandbox.E(sandbox.NotFound, sandbox.CodeNotFound, "there is no such template")

// Catalogue keeps templates usable in the background: it builds those it was
// given until that succeeds, and has snapshots made that starts found missing
// or broken.
type Catalogue struct {
	builder *Builder
	changed func()

	ctx  context.Context // ends with Close
	stop context.CancelCauseFunc
	work sync.WaitGroup

	mu    sync.Mutex
	built map[string]*built // by slug
}

// built is one template under way; done is closed when the rest is set.
type built struct {
	done     chan struct{}
	template sandbox.Template
	err      error
}

// NewCatalogue returns a catalogue in which nothing is being built. changed is
// called whenever a template or a snapshot has become usable.
func NewCatalogue(b *Builder, changed func()) *Catalogue {
	c := &Catalogue{builder: b, changed: changed, built: map[string]*built{}}
	c.ctx, c.stop = context.WithCancelCause(context.Background())
	return c
}

// Close ends what is under way and waits for it.
func (c *Catalogue) Close() {
	c.stop(sandbox.E(sandbox.Unavailable, sandbox.CodeUnavailable, "the server is shutting down"))
	c.work.Wait()
}

// Build makes a template ready, trying until it succeeds. It returns at once.
func (c *Catalogue) Build(r Recipe) {
	b := &built{done: make(chan struct{})}
	c.mu.Lock()
	c.built[r.Slug] = b
	c.mu.Unlock()
	c.work.Go(func() {
		b.template, b.err = c.builder.Maintain(c.ctx, r)
		close(b.done)
		if b.err == nil {
			c.changed()
		}
	})
}

func (c *Catalogue) find(slug string) *built {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.built[slug]
}

// Building tells whether a template that can't be used yet will come.
func (c *Catalogue) Building(slug string) bool {
	b := c.find(slug)
	if b == nil {
		return false
	}
	select {
	case <-b.done:
		return b.err == nil
	default:
		return true
	}
}

// Await blocks until a template of the catalogue can be used, or can't be built.
func (c *Catalogue) Await(ctx context.Context, slug string) (sandbox.Template, error) {
	b := c.find(slug)
	if b == nil {
		return sandbox.Template{}, errNotInCatalogue
	}
	select {
	case <-b.done:
		return b.template, b.err
	case <-ctx.Done():
		return sandbox.Template{}, context.Cause(ctx)
	}
}

// Remake has the snapshot of t for this size made, or made again when broken
// names one that could not be restored. It returns at once; asking while it is
// being made changes nothing.
func (c *Catalogue) Remake(t sandbox.Template, res sandbox.Resources, broken sandbox.Ref) {
	if c.ctx.Err() != nil {
		return
	}
	c.work.Go(func() {
		_, err := c.builder.Seed(c.ctx, t, res, broken)
		switch {
		case err == nil:
			c.changed()
		case c.ctx.Err() == nil:
			c.builder.Log.Warn("snapshot not made; starts of this size are cold", "template", t.Slug, "err", err)
		}
	})
}
