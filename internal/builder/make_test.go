package builder

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"silica.dev/silica/internal/image"
	"silica.dev/silica/internal/runtime"
	"silica.dev/silica/internal/runtime/runtimetest"
	"silica.dev/silica/sandbox"
)

// makingImages makes images of names and of what agents send.
type makingImages struct {
	images
	digest string
	from   []string // base images made
}

func (m *makingImages) Resolve(context.Context, string) (string, error) { return m.digest, nil }

func (m *makingImages) Build(ctx context.Context, spec image.Spec, report func(image.Progress)) (image.Image, error) {
	m.from = append(m.from, spec.From)
	img, err := m.images.Build(ctx, spec, report)
	img.Digest, img.Env, img.Workdir, img.User = m.digest, map[string]string{"PATH": "/bin", "A": "base"}, "/srv", "app"
	return img, err
}

// workbench is a world that makes images.
type workbench struct {
	*world
	images *makingImages
	events []sandbox.BuildEvent
}

func newWorkbench(t *testing.T) *workbench {
	w := &workbench{world: newWorld(t), images: &makingImages{digest: "sha256:one"}}
	w.Images = w.images
	w.Making = Making{Cache: filepath.Join(t.TempDir(), "cache.json"), StepTimeout: time.Second, Env: map[string]string{"MIRROR": "m"}}
	return w
}

// again is the next daemon.
func (w *workbench) again() {
	m := w.Making
	w.restart("v1")
	w.Images, w.Making = w.images, m
}

// make makes spec and lists its events: "1 step_started", for those of steps.
func (w *workbench) make(t *testing.T, spec sandbox.BuildSpec) (made, []string, error) {
	t.Helper()
	w.events = nil
	m, err := w.makeImage(t.Context(), spec, func(e sandbox.BuildEvent) { w.events = append(w.events, e) })
	var told []string
	for _, e := range w.events {
		if e.Step > 0 && e.Event != "step_output" {
			told = append(told, fmt.Sprintf("%d %s", e.Step, strings.TrimPrefix(e.Event, "step_")))
		}
	}
	return m, told, err
}

func (w *workbench) text() string {
	var all []string
	for _, e := range w.events {
		all = append(all, e.Text)
	}
	return strings.Join(all, "\n")
}

var stepped = sandbox.BuildSpec{From: "node:22-bookworm", Env: map[string]string{"B": "spec"}, Steps: []sandbox.Step{
	{Env: map[string]string{"A": "step", "B": "step"}}, {Run: "echo $A $B $MIRROR > first; cat first"}, {Workdir: "app"}, {Run: "pwd > second; cat second"},
}}

func TestSpecWithoutStepsIsItsBase(t *testing.T) {
	w := newWorkbench(t)
	m, _, err := w.make(t, sandbox.BuildSpec{From: "node:22-bookworm"})
	if err != nil || m.Base != "sha256:one" || m.Workdir != "/srv" || m.User != "app" || m.Env["A"] != "base" || w.starts() != 0 {
		t.Fatalf("got %+v, %v after %d starts", m, err, w.starts())
	}
	other, _, err := w.make(t, sandbox.BuildSpec{From: "node:22-bookworm", Workdir: "/w", User: "root", Env: map[string]string{"A": "mine"}})
	if err != nil || other.Image != m.Image || other.Workdir != "/w" || other.User != "root" || other.Env["A"] != "mine" || len(w.images.from) != 1 {
		t.Errorf("another spec on the same base: got %+v, %v after %d builds of the base", other, err, len(w.images.from))
	}
}

func TestStepsAreRunOnceAndBegunFrom(t *testing.T) {
	w := newWorkbench(t)
	first, told, err := w.make(t, stepped)
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"2 started", "2 finished", "3 started", "3 finished", "4 started", "4 finished"}; !slices.Equal(told, want) {
		t.Errorf("told %v, want %v", told, want)
	}
	if text := w.text(); !strings.Contains(text, "step step m\n") || !strings.Contains(text, "/srv/app") {
		t.Errorf("output: got %s", text)
	}
	if first.Env["A"] != "step" || first.Env["B"] != "spec" || first.Env["MIRROR"] != "" || first.Workdir != "/srv/app" {
		t.Errorf("for run time: got %+v", first)
	}
	w.again()
	starts := w.starts()
	same, told, err := w.make(t, stepped)
	if err != nil || same.Image != first.Image || w.starts() != starts || !slices.Equal(told, []string{"2 cached", "3 cached", "4 cached"}) {
		t.Errorf("the same after a restart: got %v, %v, told %v after %d starts", same.Image, err, told, w.starts()-starts)
	}
	longer := stepped
	longer.Steps = append(slices.Clone(stepped.Steps[:3]), sandbox.Step{Run: "cat ../first"})
	_, told, err = w.make(t, longer)
	if err != nil || !slices.Equal(told, []string{"2 cached", "3 cached", "4 started", "4 finished"}) || !strings.Contains(w.text(), "step step m") {
		t.Errorf("another last step: told %v, %v\n%s", told, err, w.text())
	}
	w.images.digest = "sha256:two"
	if _, told, err = w.make(t, stepped); err != nil || told[0] != "2 started" {
		t.Errorf("another base: told %v, %v, want everything run", told, err)
	}
}

func TestWhatTheCacheLostIsMadeAgain(t *testing.T) {
	w := newWorkbench(t)
	first, _, err := w.make(t, stepped)
	if err != nil {
		t.Fatal(err)
	}
	for _, ref := range w.driver.Kept() {
		_ = w.driver.Delete(t.Context(), ref) // the list and the store know nothing of it
	}
	w.blobs.mu.Lock()
	w.blobs.lost[first.Image] = true
	w.blobs.mu.Unlock()
	if _, told, err := w.make(t, stepped); err != nil && !sandbox.HasCode(err, sandbox.CodeNotFound) || told[0] != "2 started" {
		t.Errorf("told %v, %v, want the steps run again", told, err)
	}
	if err := os.WriteFile(w.Making.Cache, []byte("[{"), 0o600); err != nil {
		t.Fatal(err)
	}
	w.again()
	if err := w.Sweep(t.Context()); err != nil {
		t.Errorf("a list that makes no sense: %v", err)
	}
}

func TestFailedStepsSayWhy(t *testing.T) {
	for what, c := range map[string]struct {
		run, code, says string
	}{
		"exit code": {"echo one; echo two; exit 3", sandbox.CodeStepFailed, "step 1 failed with exit code 3"},
		"hangs":     {"echo began; sleep 60", sandbox.CodeStepTimeout, "step 1 did not end within 1s"},
	} {
		w := newWorkbench(t)
		_, told, err := w.make(t, sandbox.BuildSpec{From: "node:22", Steps: []sandbox.Step{{Run: c.run}}})
		e := sandbox.AsError(err)
		if e.Code != c.code || e.Message != c.says || e.Details["step"] != 1 || e.Details["output"] == "" || !slices.Equal(told, []string{"1 started"}) {
			t.Errorf("%s: got %v with %v, told %v", what, err, e.Details, told)
		}
	}
	// The kernel of the build's sandbox dies.
	w := newWorkbench(t)
	_, err := w.makeImage(t.Context(), sandbox.BuildSpec{From: "node:22", Steps: []sandbox.Step{{Run: "sleep 60"}}}, func(e sandbox.BuildEvent) {
		if e.Event == "step_started" && e.Step == 1 {
			ids, _ := w.driver.List(t.Context())
			_ = w.driver.Kill(ids[0], runtime.Exit{Reason: "out of memory"})
		}
	})
	if e := sandbox.AsError(err); e.Code != sandbox.CodeStepFailed {
		t.Errorf("a build whose sandbox died: got %v", err)
	}
}

func TestCacheStaysWithinItsSize(t *testing.T) {
	w := newWorkbench(t)
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "file"), make([]byte, 100), 0o600); err != nil {
		t.Fatal(err)
	}
	w.blobs.dir = dir
	w.Making.CacheBytes = 250
	if err := w.rows.SaveTemplate(t.Context(), sandbox.Template{ID: "named", Slug: "named", Revision: "1", Image: runtimetest.Image("1")}); err != nil {
		t.Fatal(err)
	}
	for i := 1; i <= 4; i++ {
		w.pass(time.Second)
		_, release, err := w.cache().add(t.Context(), kept{Key: fmt.Sprint(i), Ref: runtimetest.Image(fmt.Sprint(i))})
		if err != nil {
			t.Fatal(err)
		}
		release()
	}
	if want := []sandbox.Ref{runtimetest.Image("2")}; !slices.Equal(w.blobs.deleted, want) || len(w.cache().entries) != 2 {
		t.Errorf("deleted %v and kept %d, want %v, which no row names, and 2", w.blobs.deleted, len(w.cache().entries), want)
	}
	w.blobs.listed = []sandbox.Ref{runtimetest.Image("3"), runtimetest.Image("9")}
	if err := w.Sweep(t.Context()); err != nil || !slices.Contains(w.blobs.deleted, runtimetest.Image("9")) || slices.Contains(w.blobs.deleted, runtimetest.Image("3")) {
		t.Errorf("the sweep deleted %v, %v", w.blobs.deleted, err)
	}
}

func TestTemplateAsBase(t *testing.T) {
	w := newWorkbench(t)
	parent := sandbox.Template{ID: "tpl_parent", Slug: "parent", Revision: "1", Image: runtimetest.Image("parent"), Env: map[string]string{"P": "1"}, Workdir: "/p", User: "u"}
	if err := w.rows.SaveTemplate(t.Context(), parent); err != nil {
		t.Fatal(err)
	}
	m, _, err := w.make(t, sandbox.BuildSpec{From: "template:tpl_parent"})
	if err != nil || m.Image != parent.Image || m.Env["P"] != "1" || m.Workdir != "/p" || m.User != "u" || len(w.images.from) > 0 {
		t.Errorf("got %+v, %v", m, err)
	}
	for from, want := range map[string]string{"template:none": sandbox.CodeNoSuchTemplate, "alpine:3": sandbox.CodeUnsupportedBase} {
		if _, _, err := w.make(t, sandbox.BuildSpec{From: from}); !sandbox.HasCode(err, want) {
			t.Errorf("%s: got %v, want %s", from, err, want)
		}
	}
}

func TestBaseWithoutDigestIsMadeAnewAfterAWeek(t *testing.T) {
	w := newWorkbench(t)
	w.images.digest = ""
	for _, wait := range []time.Duration{0, 6 * 24 * time.Hour, 2 * 24 * time.Hour} {
		w.pass(wait)
		if _, _, err := w.make(t, sandbox.BuildSpec{From: "debian:bookworm"}); err != nil {
			t.Fatal(err)
		}
	}
	if len(w.images.from) != 2 {
		t.Errorf("made %d times, want 2", len(w.images.from))
	}
}

func TestCancelledBuildLeavesNothing(t *testing.T) {
	w := newWorkbench(t)
	ctx, cancel := context.WithCancel(t.Context())
	_, err := w.makeImage(ctx, sandbox.BuildSpec{From: "node:22", Steps: []sandbox.Step{{Run: "echo began; sleep 60"}}}, func(e sandbox.BuildEvent) {
		if e.Event == "step_output" && e.Step == 1 {
			cancel()
		}
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want canceled", err)
	}
}
