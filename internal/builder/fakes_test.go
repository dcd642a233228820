package builder

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"silica.dev/silica/internal/image"
	"silica.dev/silica/internal/runtime/runtimetest"
	"silica.dev/silica/sandbox"
)

var notFound = sandbox.E(sandbox.NotFound, sandbox.CodeNotFound, "not found")

// rows is a Store in memory.
type rows struct {
	mu        sync.Mutex
	templates map[string]sandbox.Template
	snapshots map[[3]string]sandbox.Seed
	saveErr   error // what SaveSeed answers
}

func (r *rows) SaveTemplate(_ context.Context, t sandbox.Template) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.templates[t.Slug] = t
	return nil
}

func (r *rows) Template(_ context.Context, slug string) (sandbox.Template, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	t, ok := r.templates[slug]
	if !ok {
		return t, notFound
	}
	return t, nil
}

func (r *rows) Templates(context.Context) ([]sandbox.Template, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Collect(maps.Values(r.templates)), nil
}

func (r *rows) SaveSeed(_ context.Context, s sandbox.Seed) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.saveErr != nil {
		return r.saveErr
	}
	r.snapshots[[3]string{s.Template, s.Revision, s.Key}] = s
	return nil
}

func (r *rows) Seed(_ context.Context, slug, revision, key string) (sandbox.Seed, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s, ok := r.snapshots[[3]string{slug, revision, key}]
	if !ok {
		return s, notFound
	}
	return s, nil
}

func (r *rows) Seeds(context.Context) ([]sandbox.Seed, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Collect(maps.Values(r.snapshots)), nil
}

func (r *rows) DeleteSeed(_ context.Context, ref sandbox.Ref) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	maps.DeleteFunc(r.snapshots, func(_ [3]string, s sandbox.Seed) bool { return s.Ref == ref })
	return nil
}

// artifacts is a blob store that has everything but what was lost.
type artifacts struct {
	mu      sync.Mutex
	lost    map[sandbox.Ref]bool
	deleted []sandbox.Ref
	listed  []sandbox.Ref
	dir     string // where every artifact is
}

func (a *artifacts) Open(_ context.Context, ref sandbox.Ref) (string, func(), error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if ref == "" || a.lost[ref] || slices.Contains(a.deleted, ref) {
		return "", nil, notFound
	}
	return a.dir, func() {}, nil
}

func (a *artifacts) Delete(_ context.Context, ref sandbox.Ref) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.deleted = append(a.deleted, ref)
	return nil
}

func (a *artifacts) List(context.Context) ([]sandbox.Ref, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.listed, nil
}

// images counts builds; each gives a new image.
type images struct {
	mu   sync.Mutex
	n    int
	fail func() error
}

func (i *images) Build(_ context.Context, spec image.Spec, report func(image.Progress)) (image.Image, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.n++
	report(image.Progress{Message: "installing packages", Done: 1, Total: 2})
	if i.fail != nil {
		if err := i.fail(); err != nil {
			return image.Image{}, err
		}
	}
	return image.Image{Ref: runtimetest.Image(spec.From + string(rune('a'+i.n))), Size: 1}, nil
}

// world is a builder with everything around it fake.
type world struct {
	*Builder
	driver  *runtimetest.Fake
	rows    *rows
	blobs   *artifacts
	images  *images
	clock   time.Time
	reports []Status
	mu      sync.Mutex
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{
		driver: runtimetest.NewFake(), images: &images{}, clock: time.Unix(1e9, 0),
		rows:  &rows{templates: map[string]sandbox.Template{}, snapshots: map[[3]string]sandbox.Seed{}},
		blobs: &artifacts{lost: map[sandbox.Ref]bool{}},
	}
	w.restart("v1")
	t.Cleanup(func() {
		if left, err := w.driver.List(t.Context()); err == nil && len(left) > 0 {
			t.Errorf("sandboxes left: %v", left)
		}
		if bad := w.driver.Overlaps(); len(bad) > 0 {
			t.Errorf("the driver's contract was broken: %v", bad)
		}
		w.Builder.mu.Lock()
		defer w.Builder.mu.Unlock()
		if len(w.flights) > 0 {
			t.Errorf("flights %v: want none left", w.flights)
		}
	})
	return w
}

// restart gives the world the builder of a new daemon.
func (w *world) restart(setting string) {
	w.Builder = New(Config{Driver: w.driver, Images: w.images, Blobs: w.blobs, Store: w.rows, Setting: setting, Nameservers: []string{"10.0.0.1"},
		Log: slog.New(slog.DiscardHandler), Report: func(s Status) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.reports = append(w.reports, s)
		}})
	w.Builder.now = func() time.Time {
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.clock
	}
}

func (w *world) pass(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.clock = w.clock.Add(d)
}

func (w *world) starts() int { return len(w.driver.Starts()) }
