package builder

import (
	"context"
	"fmt"
	"sync"

	"silica.dev/silica/sandbox"
)

var errNotInCatalogue = sandbox.E(sandbox.NotFound, sandbox.CodeNotFound, "there is no such template")

// Catalogue offers templates: the official ones, which it builds when they are
// first asked for or keeps usable at all times, and those of tenants. It has
// snapshots made that starts found missing or broken.
type Catalogue struct {
	builder *Builder
	changed func()

	ctx  context.Context // ends with Close
	stop context.CancelCauseFunc
	work sync.WaitGroup

	turn chan struct{} // has room for one: who may ask for a snapshot of a size that is not a template's own

	mu      sync.Mutex
	recipes map[string]Recipe // by slug
	aliases map[string]string // to slugs
	built   map[string]*built // under way, by slug
	remakes map[string]bool   // snapshots asked for, by name
}

// maxRemakes bounds the snapshots that wait to be made. Tenants choose sizes, and
// each is another snapshot; what is refused is asked for again by the next start.
const maxRemakes = 16

// built is one template under way; done is closed when the rest is set.
type built struct {
	done     chan struct{}
	template sandbox.Template
	err      error
}

// NewCatalogue returns a catalogue in which nothing is being built. changed is
// called whenever a template or a snapshot has become usable.
func NewCatalogue(b *Builder, changed func()) *Catalogue {
	c := &Catalogue{builder: b, changed: changed, turn: make(chan struct{}, 1), recipes: map[string]Recipe{}, aliases: map[string]string{}, built: map[string]*built{}, remakes: map[string]bool{}}
	c.ctx, c.stop = context.WithCancelCause(context.Background())
	b.published = changed
	return c
}

// Define has the official templates listed, whether or not they were ever built.
// Call it before anybody can ask.
func (c *Catalogue) Define(ctx context.Context, recipes []Recipe) error {
	for _, r := range recipes {
		if _, err := c.builder.define(ctx, r); err != nil {
			return fmt.Errorf("define template %s: %w", r.Slug, err)
		}
		c.mu.Lock()
		c.recipes[r.Slug] = r
		for _, a := range r.Aliases {
			c.aliases[a] = r.Slug
		}
		c.mu.Unlock()
	}
	return nil
}

// Start begins with the builds that are queued.
func (c *Catalogue) Start() { c.begin(func() { c.builder.Run(c.ctx) }) }

// Close ends what is under way and waits for it.
func (c *Catalogue) Close() {
	c.mu.Lock() // nothing begins after this
	c.stop(errStopping)
	c.mu.Unlock()
	c.work.Wait()
}

// Expect says that Build will be called for a template: from now on those who
// ask wait for it. Call it before anybody can ask, as Build itself may have to
// wait for recovery.
func (c *Catalogue) Expect(slug string) { c.entry(slug) }

// entry returns the template under way of that slug, making it if need be.
func (c *Catalogue) entry(slug string) *built {
	c.mu.Lock()
	defer c.mu.Unlock()
	b := c.built[slug]
	if b == nil {
		b = &built{done: make(chan struct{})}
		c.built[slug] = b
	}
	return b
}

// Build makes a template ready, trying until it succeeds. It returns at once.
// Call it once for each, and Start.
func (c *Catalogue) Build(r Recipe) {
	b := c.entry(r.Slug)
	c.begin(func() {
		b.template, b.err = c.builder.Maintain(c.ctx, r)
		close(b.done)
		if b.err == nil {
			c.changed()
		}
	})
}

// once makes a template of the catalogue ready, unless that is under way. Who
// asks after it has failed has it tried again.
func (c *Catalogue) once(slug string) (*built, error) {
	c.mu.Lock()
	b, r := c.built[slug], c.recipes[slug]
	if b != nil || r.Slug == "" {
		c.mu.Unlock()
		if b == nil {
			return nil, errNotInCatalogue
		}
		return b, nil
	}
	b = &built{done: make(chan struct{})}
	c.built[slug] = b
	c.mu.Unlock()
	c.begin(func() {
		b.template, b.err = c.builder.Ensure(c.ctx, r)
		c.mu.Lock()
		delete(c.built, slug)
		c.mu.Unlock()
		close(b.done)
		if b.err == nil {
			c.changed()
		}
	})
	return b, nil
}

// begin runs f as a goroutine that Close waits for, unless that has begun.
func (c *Catalogue) begin(f func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ctx.Err() == nil {
		c.work.Go(f)
	}
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

// Await blocks until a template of the catalogue can be used, or can't be built. It
// has it built if need be, and tells what happens meanwhile. tell is not called
// any more once Await has returned.
func (c *Catalogue) Await(ctx context.Context, id string, tell func(sandbox.BuildEvent)) (sandbox.Template, error) {
	t, err := c.builder.Store.Template(ctx, id)
	if err == nil && t.Revision != "" && c.find(id) == nil {
		return t, nil
	}
	b, err := c.once(id)
	if err != nil {
		return sandbox.Template{}, err
	}
	relayed, stop := context.WithCancel(ctx)
	var relay sync.WaitGroup
	relay.Go(func() { c.relay(relayed, id, tell) })
	defer relay.Wait()
	defer stop()
	select {
	case <-b.done:
		return b.template, b.err
	case <-ctx.Done():
		return sandbox.Template{}, context.Cause(ctx)
	}
}

// relay tells of one build of a template after the other until ctx ends, without
// what the steps write.
func (c *Catalogue) relay(ctx context.Context, id string, tell func(sandbox.BuildEvent)) {
	told := ""
	for ctx.Err() == nil {
		bell := c.builder.queue.bell(id)
		t, err := c.builder.Store.Template(ctx, id)
		if err == nil && t.Pending != "" && t.Pending != told {
			told = t.Pending
			for e, err := range c.builder.Follow(ctx, told, 0) {
				if err == nil && e.Event != stepOutput {
					tell(e)
				}
			}
			continue
		}
		select {
		case <-bell:
		case <-ctx.Done():
		}
	}
}

// Remake has the snapshot of t for this size made, or made again when broken
// names one that could not be restored. It returns at once; asking while it is
// being made, or while too many wait, changes nothing.
func (c *Catalogue) Remake(t sandbox.Template, res sandbox.Resources, broken sandbox.Ref) {
	name, own := c.builder.snapshotName(t, res)
	c.mu.Lock()
	refused := c.remakes[name] || len(c.remakes) >= maxRemakes && !own
	if !refused {
		c.remakes[name] = true
	}
	c.mu.Unlock()
	if refused {
		return
	}
	c.begin(func() {
		err := c.remake(t, res, broken, own)
		c.mu.Lock()
		delete(c.remakes, name)
		c.mu.Unlock()
		switch {
		case err == nil:
			c.changed()
		case c.ctx.Err() == nil:
			c.builder.Log.Warn("snapshot not made; starts of this size are cold", "template", t.Slug, "err", err)
		}
	})
}

// remake waits for its turn, unless the snapshot is the template's own, which
// must not stand in line behind whatever tenants ask for.
func (c *Catalogue) remake(t sandbox.Template, res sandbox.Resources, broken sandbox.Ref, own bool) error {
	if !own {
		select {
		case c.turn <- struct{}{}:
			defer func() { <-c.turn }()
		case <-c.ctx.Done():
			return context.Cause(c.ctx)
		}
	}
	_, err := c.builder.Seed(c.ctx, t, res, broken)
	return err
}
