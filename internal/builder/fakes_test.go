package builder

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"silica.dev/silica/internal/image"
	"silica.dev/silica/internal/runtime/runtimetest"
	"silica.dev/silica/internal/store"
	"silica.dev/silica/sandbox"
)

var notFound = sandbox.E(sandbox.NotFound, sandbox.CodeNotFound, "not found")

// rows is the real store, with faults.
type rows struct {
	*store.Store
	mu      sync.Mutex
	saveErr error // what SaveSeed answers
}

func (r *rows) SaveSeed(ctx context.Context, s sandbox.Seed) error {
	r.mu.Lock()
	err := r.saveErr
	r.mu.Unlock()
	if err != nil {
		return err
	}
	return r.Store.SaveSeed(ctx, s)
}

// seeds lists all snapshots.
func (w *world) seeds(t *testing.T) []sandbox.Seed {
	t.Helper()
	list, err := w.rows.Seeds(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// artifacts is a blob store that has everything but what was lost.
type artifacts struct {
	mu      sync.Mutex
	lost    map[sandbox.Ref]bool
	deleted []sandbox.Ref
	listed  []sandbox.Ref
	dir     string                      // where every artifact is
	verify  func(context.Context) error // what Verify does first
}

func (a *artifacts) Open(_ context.Context, ref sandbox.Ref) (string, func(), error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if ref == "" || a.lost[ref] || slices.Contains(a.deleted, ref) {
		return "", nil, notFound
	}
	return a.dir, func() {}, nil
}

func (a *artifacts) Verify(ctx context.Context, ref sandbox.Ref) error {
	a.mu.Lock()
	check := a.verify
	a.mu.Unlock()
	if check != nil {
		if err := check(ctx); err != nil {
			return err
		}
	}
	_, _, err := a.Open(ctx, ref)
	return err
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
	hang func(context.Context) error // what Build does first
}

func (i *images) Build(ctx context.Context, spec image.Spec, report func(image.Progress)) (image.Image, error) {
	i.mu.Lock()
	i.n++
	n, fail, hang := i.n, i.fail, i.hang
	i.mu.Unlock()
	report(image.Progress{Message: "installing packages", Done: 1, Total: 2})
	if hang != nil {
		if err := hang(ctx); err != nil {
			return image.Image{}, err
		}
	}
	if fail != nil {
		if err := fail(); err != nil {
			return image.Image{}, err
		}
	}
	return image.Image{Ref: runtimetest.Image(spec.From + string(rune('a'+n))), Size: 1}, nil
}

func (i *images) Resolve(context.Context, string) (string, error) { return "", nil }

func (i *images) Rebuild(_ context.Context, base sandbox.Ref, changes io.Reader, _ func(image.Progress)) (image.Image, error) {
	b, err := io.ReadAll(changes)
	return image.Image{Ref: sandbox.Ref(fmt.Sprintf("sha256:%x", sha256.Sum256(append(b, base...))))}, err
}

func (i *images) set(hang func(context.Context) error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.hang = hang
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
	kill    func() // ends the daemon: what is under way stays as it is
	mu      sync.Mutex
}

func newWorld(t *testing.T) *world {
	t.Helper()
	db, err := store.Open(t.Context(), store.Config{Path: filepath.Join(t.TempDir(), "silica.db"), Node: "n"})
	if err != nil {
		t.Fatal(err)
	}
	w := &world{
		driver: runtimetest.NewFake(), images: &images{}, clock: time.Unix(1e9, 0), rows: &rows{Store: db},
		blobs: &artifacts{lost: map[sandbox.Ref]bool{}}, kill: func() {},
	}
	w.restart("v1")
	t.Cleanup(func() {
		w.kill()
		defer db.Close()
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
	w.kill()
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
	ctx, stop := context.WithCancelCause(context.Background())
	done := make(chan struct{})
	b := w.Builder
	go func() {
		defer close(done)
		b.Run(ctx)
	}()
	w.kill = sync.OnceFunc(func() {
		stop(errStopping)
		<-done
	})
}

func (w *world) pass(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.clock = w.clock.Add(d)
}

func (w *world) starts() int { return len(w.driver.Starts()) }
