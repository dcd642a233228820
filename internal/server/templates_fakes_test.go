package server

import (
	"context"
	"io"
	"log/slog"
	"sync"
	"testing"

	"silica.dev/silica/internal/builder"
	"silica.dev/silica/internal/image"
	"silica.dev/silica/internal/runtime/runtimetest"
	"silica.dev/silica/sandbox"
)

// workshop makes images of nothing. It holds builds up while it is closed.
type workshop struct {
	mu     sync.Mutex
	closed chan struct{} // nil: it is open
	fail   error
	n      int
}

func (w *workshop) Build(ctx context.Context, _ image.Spec, report func(image.Progress)) (image.Image, error) {
	w.mu.Lock()
	w.n++
	n, closed, fail := w.n, w.closed, w.fail
	w.mu.Unlock()
	report(image.Progress{Message: "installing packages", Done: 1, Total: 2})
	if closed != nil {
		select {
		case <-closed:
		case <-ctx.Done():
			return image.Image{}, context.Cause(ctx)
		}
	}
	return image.Image{Ref: runtimetest.Image(string(rune('a' + n))), Size: 1}, fail
}

func (*workshop) Resolve(context.Context, string) (string, error) { return "", nil }

func (*workshop) Rebuild(context.Context, sandbox.Ref, io.Reader, func(image.Progress)) (image.Image, error) {
	return image.Image{Ref: runtimetest.Image("rebuilt"), Size: 1}, nil
}

// shut holds builds up until open is called.
func (w *workshop) shut() (open func()) {
	ch := make(chan struct{})
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = ch
	return func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.closed = nil
		close(ch)
	}
}

// shelf has every artifact.
type shelf struct{}

func (shelf) Open(context.Context, sandbox.Ref) (string, func(), error) { return "", func() {}, nil }
func (shelf) Verify(context.Context, sandbox.Ref) error                 { return nil }
func (shelf) Delete(context.Context, sandbox.Ref) error                 { return nil }
func (shelf) List(context.Context) ([]sandbox.Ref, error)               { return nil, nil }

// catalogue is the real one, over fake images and a fake driver.
func (w *world) catalogue(t *testing.T) *builder.Catalogue {
	t.Helper()
	b := builder.New(builder.Config{Driver: runtimetest.NewFake(), Images: &w.workshop, Blobs: shelf{}, Store: w.rows, Log: slog.New(slog.DiscardHandler)})
	c := builder.NewCatalogue(b, func() {})
	err := c.Define(t.Context(), []builder.Recipe{
		{Slug: "miosa-sandbox", Name: "Sandbox", Spec: sandbox.BuildSpec{From: "debian:bookworm", VCPU: 1, MemoryMiB: 1024, DiskMiB: 3072}},
	})
	if err != nil {
		t.Fatal(err)
	}
	c.Start()
	t.Cleanup(c.Close)
	return c
}
