package gvisor

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"silica.dev/silica/internal/runtime/gvisor/wire"
	"silica.dev/silica/sandbox"
)

// newEngines returns a driver that knows of no engine but its current one.
func newEngines(t *testing.T) *Driver {
	t.Helper()
	d := &Driver{
		cfg: Config{DataDir: t.TempDir()}, log: slog.New(slog.DiscardHandler),
		older: map[string]*engine{}, lives: map[sandbox.ID]*live{},
	}
	d.ctx, d.stop = context.WithCancel(context.Background())
	t.Cleanup(func() {
		d.stop()
		d.work.Wait()
	})
	d.current = d.engine("current")
	return d
}

// serve answers in the place of the engine id.
func serve(t *testing.T, d *Driver, id string, h http.HandlerFunc) {
	t.Helper()
	if err := os.MkdirAll(d.engineDir(id), 0o700); err != nil {
		t.Fatal(err)
	}
	l, err := wire.Listen(filepath.Join(d.engineDir(id), socketName))
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: h}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(l)
	}()
	t.Cleanup(func() {
		_ = server.Close()
		<-done
	})
}

func answer(w http.ResponseWriter, err error, res any) {
	if err != nil {
		w.WriteHeader(http.StatusInternalServerError)
		res = wire.NewError(err)
	}
	_ = json.NewEncoder(w).Encode(res)
}

func TestNotFoundTakesTheWordOfAllEngines(t *testing.T) {
	const id = sandbox.ID("sought")
	unknown := sandbox.E(sandbox.NotFound, sandbox.CodeNotFound, "no such sandbox")
	broken := sandbox.E(sandbox.Unavailable, sandbox.CodeUnavailable, "not now")
	for name, tc := range map[string]struct {
		current, a, b error // nil: this one has it
		want          sandbox.Kind
		found         bool
	}{
		"nobody has it":             {current: unknown, a: unknown, b: unknown, want: sandbox.NotFound},
		"the current does not know": {current: broken, a: unknown, b: unknown, want: sandbox.Unavailable},
		"an older does not know":    {current: unknown, a: broken, b: unknown, want: sandbox.Unavailable},
		"one has it":                {current: broken, a: unknown, b: nil, found: true},
	} {
		t.Run(name, func(t *testing.T) {
			d := newEngines(t)
			for engine, err := range map[string]error{"current": tc.current, "a": tc.a, "b": tc.b} {
				serve(t, d, engine, func(w http.ResponseWriter, r *http.Request) {
					if r.URL.Path == wire.PathWait {
						<-r.Context().Done()
						return
					}
					answer(w, err, wire.Found{Address: "192.0.2.1"})
				})
			}
			d.older["a"], d.older["b"] = d.engine("a"), d.engine("b")
			for range 20 { // the older ones are asked in any order
				l, err := d.find(t.Context(), id)
				if tc.found {
					if err != nil || l.engine.id != "b" {
						t.Fatalf("find = %+v, %v", l, err)
					}
				} else if err == nil || sandbox.AsError(err).Kind != tc.want {
					t.Fatalf("find = %v, want %v", err, tc.want)
				}
			}
		})
	}
}

// older leaves a sandbox of an engine whose program is a shell script that notes
// its starts; starts counts them.
func older(t *testing.T, d *Driver, id string) (starts func() int) {
	t.Helper()
	slot, dir := filepath.Join(d.root(), "slots", "1"), d.engineDir(id)
	notes := filepath.Join(dir, "starts")
	record, err := json.Marshal(map[string]string{"Engine": id, "ID": "held"})
	if err = errors.Join(err, os.MkdirAll(slot, 0o700), os.MkdirAll(dir, 0o700),
		os.WriteFile(filepath.Join(slot, "slot.json"), record, 0o600),
		os.WriteFile(filepath.Join(dir, programName), []byte("#!/bin/sh\necho x >>'"+notes+"'\necho no memory >&2\nexit 7\n"), 0o700)); err != nil {
		t.Fatal(err)
	}
	return func() int {
		text, _ := os.ReadFile(notes)
		return bytes.Count(text, []byte("x"))
	}
}

func TestAnOlderEngineThatDoesNotStartIsAnError(t *testing.T) {
	d := newEngines(t)
	starts := older(t, d, "earlier")
	err := d.findOlder(t.Context())
	if err == nil {
		t.Fatal("findOlder passed over an engine that holds a sandbox")
	}
	for _, part := range []string{"earlier", "exit status 7", "no memory"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("the error does not say %q: %v", part, err)
		}
	}
	if got := starts(); got != upTries {
		t.Errorf("started %d times, want %d", got, upTries)
	}
}

func TestAnOlderEngineMayTakeMoreThanOneTry(t *testing.T) {
	d := newEngines(t)
	starts := older(t, d, "earlier")
	serve(t, d, "earlier", func(w http.ResponseWriter, _ *http.Request) {
		var err error
		if starts() < 2 {
			err = sandbox.E(sandbox.Unavailable, sandbox.CodeUnavailable, "not yet")
		}
		answer(w, err, wire.Pong{})
	})
	if err := d.findOlder(t.Context()); err != nil || d.older["earlier"] == nil {
		t.Errorf("findOlder = %v, %v", d.older, err)
	}
}

func TestGivingUpOnAnOlderEngineEndsWithItsContext(t *testing.T) {
	d := newEngines(t)
	starts := older(t, d, "earlier")
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := d.findOlder(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("findOlder = %v", err)
	}
	if got := starts(); got > 1 {
		t.Errorf("started %d times", got)
	}
}
