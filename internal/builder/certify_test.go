package builder

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"silica.dev/silica/internal/runtime"
	"silica.dev/silica/internal/runtime/runtimetest"
	"silica.dev/silica/sandbox"
)

// warm is a template whose copies have a server running.
func warm(spec sandbox.BuildSpec) sandbox.Template {
	spec.WarmStart, spec.VCPU, spec.MemoryMiB, spec.DiskMiB = true, 1, 256, 512
	return sandbox.Template{Slug: "w", Revision: "r1", Image: runtimetest.Image("w"), Workdir: "/workspace", Built: spec}
}

// ofCopies says what is wrong with copies, and not with their original.
func ofCopies(f runtimetest.Faults) runtimetest.Knobs {
	return runtimetest.Knobs{Faults: func(r runtime.StartRequest) runtimetest.Faults {
		if r.Snapshot == "" {
			return runtimetest.Faults{}
		}
		return f
	}}
}

// Each property of a copy is tested by itself, and whoever reads the error knows
// which one it was.
func TestWhatCopiesMustBe(t *testing.T) {
	cases := map[string]struct {
		check  string
		faults runtimetest.Faults
		says   string
	}{
		"clock behind":      {"clock", runtimetest.Faults{ClockSkew: -time.Minute}, "off by -1m"},
		"clock ahead":       {"clock", runtimetest.Faults{ClockSkew: time.Minute}, "off by 1m"},
		"no clock":          {"clock", runtimetest.Faults{Failing: "date"}, "date does not work"},
		"same random bytes": {"randomness", runtimetest.Faults{Random: []byte("0123456789abcdef")}, "same random bytes"},
		"no route":          {"network", runtimetest.Faults{Offline: true}, "no default route"},
		"no nameserver":     {"network", runtimetest.Faults{Nameless: true}, "nameserver"},
		"no limits":         {"limits", runtimetest.Faults{Unlimited: true}, "MiB"},
		"any processes":     {"limits", runtimetest.Faults{Unruly: true}, "number of processes"},
		"read-only":         {"file_system", runtimetest.Faults{ReadOnly: true}, "can be written to /tmp"},
		"files are shared":  {"independence", runtimetest.Faults{Shared: true}, "in the other"},
		"name of another":   {"independence", runtimetest.Faults{Hostname: "other"}, "called \"other\""},
		"ready command":     {"ready_command", runtimetest.Faults{Failing: "cat"}, "cat does not work"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				w.driver.Set(ofCopies(c.faults))
				tmpl := warm(sandbox.BuildSpec{StartCmd: "serve", ReadyCmd: "cat /etc/os-release"})
				_, err := w.Seed(t.Context(), tmpl, recipe.Spec.Resources(), "")
				e := sandbox.AsError(err)
				if e.Code != sandbox.CodeCertification || e.Details["check"] != c.check || !errors.Is(err, ErrNotCertified) || !strings.Contains(e.Message, c.says) {
					t.Fatalf("got %v (%v), want the check %q and %q", err, e.Details, c.check, c.says)
				}
				if seeds := w.seeds(t); len(seeds) != 0 || len(w.blobs.deleted) != 1 {
					t.Errorf("left behind: rows %v, deleted %v", seeds, w.blobs.deleted)
				}
				// A sound host has the same template.
				w.driver.Set(runtimetest.Knobs{})
				w.pass(delay(1))
				if _, err := w.Seed(t.Context(), tmpl, recipe.Spec.Resources(), ""); err != nil {
					t.Errorf("with nothing wrong: %v", err)
				}
			})
		})
	}
}

func TestCopyThatDoesNotStart(t *testing.T) {
	w := newWorld(t)
	n := 0
	w.driver.Set(runtimetest.Knobs{Start: func(_ context.Context, r runtime.StartRequest) error {
		if r.Snapshot != "" {
			if n++; n == 2 { // the first one does
				return runtime.ErrSnapshotUnusable
			}
		}
		return nil
	}})
	_, err := w.Ensure(t.Context(), recipe)
	if e := sandbox.AsError(err); e.Code != sandbox.CodeCertification || !strings.Contains(e.Message, "its test of restore") {
		t.Errorf("got %v", err)
	}
}

func TestWhatKeepsASnapshotFromBeingTaken(t *testing.T) {
	boom := errors.New("boom")
	cases := map[string]struct {
		knobs runtimetest.Knobs
		spec  sandbox.BuildSpec
		step  string
		says  string
	}{
		"cold start": {runtimetest.Knobs{Start: func(context.Context, runtime.StartRequest) error { return boom }}, sandbox.BuildSpec{}, "starting it once", ""},
		"full host": {runtimetest.Knobs{Start: func(context.Context, runtime.StartRequest) error {
			return sandbox.E(sandbox.Unavailable, sandbox.CodeHostFull, "no memory is left")
		}}, sandbox.BuildSpec{}, "starting it once", "no memory is left"},
		"snapshot":           {runtimetest.Knobs{Snapshot: func(context.Context, sandbox.ID) error { return boom }}, sandbox.BuildSpec{StartCmd: "serve"}, "taking the memory snapshot", ""},
		"app that ends":      {runtimetest.Knobs{}, sandbox.BuildSpec{StartCmd: "exit 3"}, "starting its app", "exit code 3: it went wrong"},
		"app never ready":    {runtimetest.Knobs{}, sandbox.BuildSpec{StartCmd: "serve", ReadyCmd: "cat /none"}, "starting its app", "exit code 1: cat: /none"},
		"port never answers": {runtimetest.Knobs{}, sandbox.BuildSpec{StartCmd: "serve", PreviewPort: 3000}, "starting its app", "port 3000"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				w.driver.Set(c.knobs)
				_, err := w.Seed(t.Context(), warm(c.spec), recipe.Spec.Resources(), "")
				e := sandbox.AsError(err)
				if e.Code != sandbox.CodeSnapshotFailed || e.Details["step"] != c.step || !strings.Contains(e.Message, c.says) || strings.Contains(e.Message, "boom") {
					t.Errorf("got %v (%q, %v), want the step %q and %q", err, e.Message, e.Details, c.step, c.says)
				}
			})
		})
	}
}

// The app of a warm template runs in its copies, and is not started in them.
func TestWarmCopiesHaveTheAppRunning(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		tmpl := warm(sandbox.BuildSpec{StartCmd: "serve", ReadyCmd: "cat /tmp/miosa-run/template.log"})
		s, err := w.Seed(t.Context(), tmpl, recipe.Spec.Resources(), "")
		if err != nil {
			t.Fatal(err)
		}
		m, err := w.start(t.Context(), seedRequest{template: tmpl, res: recipe.Spec.Resources()}, s.Ref, "copy")
		if err != nil {
			t.Fatal(err)
		}
		defer m.destroy(t.Context())
		if p, err := m.client.LastApp(t.Context()); err != nil || p == nil || !p.Running || p.Command != "serve" {
			t.Errorf("in a copy runs %v, %v", p, err)
		}
	})
}

// Whatever a template's size, its own seed is not in the line of those tenants ask
// for, nor forgotten for them.
func TestOwnSizeOfEveryTemplate(t *testing.T) {
	w := newWorld(t)
	tmpl := warm(sandbox.BuildSpec{StartCmd: "serve"})
	if _, own := w.snapshotName(tmpl, tmpl.Built.Resources()); !own {
		t.Error("its own size is taken for a tenant's")
	}
	other := tmpl.Built.Resources()
	other.Disk *= 2
	if _, own := w.snapshotName(tmpl, other); own {
		t.Error("another size is taken for its own")
	}
}
