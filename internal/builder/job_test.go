package builder

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"silica.dev/silica/internal/runtime/runtimetest"
	"silica.dev/silica/sandbox"
)

// house is a world with tenants.
type house struct {
	*world
	t         *testing.T
	catalogue *Catalogue
}

func newHouse(t *testing.T) *house {
	h := &house{world: newWorld(t), t: t}
	h.open()
	return h
}

// open makes the catalogue of the builder of now.
func (h *house) open() { h.catalogue = NewCatalogue(h.Builder, func() {}) }

func (h *house) template(who sandbox.Caller, slug string) sandbox.Template {
	h.t.Helper()
	t, err := h.catalogue.Create(h.t.Context(), who, sandbox.TemplateRequest{Slug: slug, Spec: recipe.Spec})
	if err != nil {
		h.t.Fatal(err)
	}
	return t
}

func (h *house) queue(who sandbox.Caller, name string) sandbox.Build {
	h.t.Helper()
	b, err := h.catalogue.Queue(h.t.Context(), who, name, nil)
	if err != nil {
		h.t.Fatal(err)
	}
	return b
}

// end waits for a build's end.
func (h *house) end(id string) sandbox.Build {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(h.t.Context(), 30*time.Second)
	defer cancel()
	b, err := h.Await(ctx, id)
	if err != nil {
		h.t.Fatalf("build %s is %s: %v", id, b.State, err)
	}
	return b
}

// states lists what a build went through.
func (h *house) states(id string) (list []string) {
	for e, err := range h.Follow(h.t.Context(), id, 0) {
		if err != nil {
			h.t.Fatal(err)
		}
		if e.Event == string(e.State) {
			list = append(list, e.Event)
		}
	}
	return list
}

var (
	ann = sandbox.Caller{Tenant: "tnt_a", User: "usr_a"}
	bob = sandbox.Caller{Tenant: "tnt_b", User: "usr_b"}
)

// stage makes a build hang in a state until its context ends, and tells when it
// is there. again lets all later ones through.
func (h *house) stage(state sandbox.BuildState) (there <-chan struct{}, again func()) {
	ch := make(chan struct{})
	var once sync.Once
	hang := func(ctx context.Context) error {
		once.Do(func() { close(ch) })
		<-ctx.Done()
		return ctx.Err()
	}
	verify := func(f func(context.Context) error) {
		h.blobs.mu.Lock()
		defer h.blobs.mu.Unlock()
		h.blobs.verify = f
	}
	switch state {
	case sandbox.BuildBuilding:
		h.images.set(hang)
	case sandbox.BuildSnapshotting:
		h.driver.Set(runtimetest.Knobs{Snapshot: func(ctx context.Context, _ sandbox.ID) error { return hang(ctx) }})
	case sandbox.BuildCertifying:
		first := true
		h.driver.Set(runtimetest.Knobs{Dial: func(ctx context.Context, _ sandbox.ID) error {
			open, err := h.rows.OpenBuilds(context.Background())
			if first && err == nil && slices.ContainsFunc(open, func(b sandbox.Build) bool { return b.State == sandbox.BuildCertifying }) {
				first = false
				return hang(ctx)
			}
			return nil
		}})
	case sandbox.BuildDistributing:
		verify(hang)
	}
	return ch, func() {
		h.images.set(nil)
		h.driver.Set(runtimetest.Knobs{})
		verify(nil)
	}
}

var stages = []sandbox.BuildState{sandbox.BuildBuilding, sandbox.BuildSnapshotting, sandbox.BuildCertifying, sandbox.BuildDistributing}

// "Survives a daemon restart at any state."
func TestBuildSurvivesTheEndOfTheDaemon(t *testing.T) {
	for _, state := range stages {
		t.Run(string(state), func(t *testing.T) {
			h := newHouse(t)
			tpl := h.template(ann, "app")
			there, again := h.stage(state)
			b := h.queue(ann, "app")
			<-there
			h.kill()
			if row, err := h.rows.Build(t.Context(), b.ID); err != nil || row.State != state {
				t.Fatalf("left as %s, %v; want %s", row.State, err, state)
			}
			again()
			left, err := h.driver.List(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			for _, id := range left { // as recovery does
				if err := h.driver.Destroy(t.Context(), id); err != nil {
					t.Fatal(err)
				}
			}
			h.restart("v1")
			h.open()
			if got := h.end(b.ID); got.State != sandbox.BuildReady {
				t.Fatalf("after the restart: %s %s", got.State, got.Message)
			}
			want := []string{"queued"}
			for _, s := range append(slices.Clone(stages[:slices.Index(stages, state)+1]), "queued") {
				want = append(want, string(s))
			}
			want = append(want, "building", "snapshotting", "certifying", "distributing", "ready")
			if got := h.states(b.ID); !slices.Equal(got, want) {
				t.Errorf("went through %v, want %v", got, want)
			}
			if got, err := h.rows.Template(t.Context(), tpl.ID); err != nil || got.Status != sandbox.TemplateReady || got.Revision == "" {
				t.Errorf("%+v %v", got, err)
			}
		})
	}
}

// forgetBases has the next build make all anew.
func (h *house) forgetBases() {
	h.cache().mu.Lock()
	defer h.cache().mu.Unlock()
	clear(h.cache().entries)
}

// "Cancel … any state; old revision serves on any failure, nothing left behind."
func TestCancelInAnyState(t *testing.T) {
	for _, state := range stages {
		t.Run(string(state), func(t *testing.T) {
			h := newHouse(t)
			tpl := h.template(ann, "app")
			h.end(h.queue(ann, "app").ID)
			served, err := h.rows.Template(t.Context(), tpl.ID)
			if err != nil {
				t.Fatal(err)
			}
			h.forgetBases()
			there, again := h.stage(state)
			b := h.queue(ann, "app")
			<-there
			if got, err := h.catalogue.Cancel(t.Context(), ann, b.ID); err != nil || got.State != sandbox.BuildCancelled || got.Code != sandbox.CodeBuildCancelled {
				t.Fatalf("%+v %v", got, err)
			}
			again()
			other := h.template(bob, "other") // its build comes after the clean-up of the first
			if got := h.end(h.queue(bob, other.ID).ID); got.State != sandbox.BuildReady {
				t.Fatalf("the next one: %s %s", got.State, got.Message)
			}
			if _, err := h.catalogue.Cancel(t.Context(), ann, b.ID); !sandbox.HasCode(err, sandbox.CodeBuildState) {
				t.Errorf("cancelled twice: %v", err)
			}
			h.kill()
			now, err := h.rows.Template(t.Context(), tpl.ID)
			if err != nil || now.Revision != served.Revision || now.Image != served.Image || now.Pending != "" {
				t.Errorf("%+v, %v; want revision %s", now, err, served.Revision)
			}
			for _, s := range h.seeds(t) {
				if s.Template == tpl.ID && s.Revision != served.Revision {
					t.Errorf("left behind: a snapshot of %s", s.Revision)
				}
			}
			if slices.Contains(h.blobs.deleted, served.Image) {
				t.Error("the image that serves was deleted")
			}
		})
	}
}

// Each failure has the code of where it happened, and the old revision serves on.
func TestFailuresHaveCodes(t *testing.T) {
	boom := errors.New("boom")
	cases := map[string]struct {
		fault func(h *house)
		code  string
	}{
		"image": {func(h *house) { h.images.fail = func() error { return boom } }, sandbox.CodeBuildFailed},
		"base": {func(h *house) {
			h.images.fail = func() error { return sandbox.E(sandbox.Invalid, sandbox.CodeUnsupportedBase, "x") }
		}, sandbox.CodeUnsupportedBase},
		"memory": {func(h *house) {
			h.driver.Set(runtimetest.Knobs{Snapshot: func(context.Context, sandbox.ID) error { return boom }})
		}, sandbox.CodeSnapshotFailed},
		"copies": {func(h *house) { h.Driver = liar{h.driver} }, sandbox.CodeCertification},
		"blobs":  {func(h *house) { h.blobs.verify = func(context.Context) error { return boom } }, sandbox.CodeNotDistributed},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			h := newHouse(t)
			tpl := h.template(ann, "app")
			c.fault(h)
			got := h.end(h.queue(ann, "app").ID)
			if got.State != sandbox.BuildFailed || got.Code != c.code || got.Message == "" || strings.Contains(got.Message, "boom") {
				t.Errorf("%s %s %q, want %s", got.State, got.Code, got.Message, c.code)
			}
			h.kill()
			if now, err := h.rows.Template(t.Context(), tpl.ID); err != nil || now.Status != sandbox.TemplateBroken || now.Revision != "" {
				t.Errorf("%+v %v", now, err)
			}
			if left := h.seeds(t); len(left) != 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}

// "Two builds in parallel, round-robin between tenants."
func TestTenantsTakeTurns(t *testing.T) {
	q := newQueue()
	open := []sandbox.Build{}
	add := func(tenant sandbox.TenantID, id, template string) {
		open = append(open, sandbox.Build{ID: id, Tenant: tenant, Template: template, State: sandbox.BuildQueued})
	}
	for _, id := range []string{"a1", "a2", "a3"} {
		add("a", id, id)
	}
	add("b", "b1", "b1")
	add("b", "b2", "b1") // of the same template
	add("c", "c1", "c1")
	var order []string
	next := func() bool {
		b, ok := q.next(open)
		if ok {
			order = append(order, b.ID)
			q.enter(t.Context(), b)
		}
		return ok
	}
	leave := func(id string) {
		i := slices.IndexFunc(open, func(b sandbox.Build) bool { return b.ID == id })
		q.leave(open[i])
		open = slices.Delete(open, i, i+1)
	}
	next()
	next()
	if next() {
		t.Error("three at once")
	}
	for _, id := range []string{"a1", "b1", "c1", "a2", "b2", "a3"} {
		leave(id)
		next()
	}
	if want := []string{"a1", "b1", "c1", "a2", "b2", "a3"}; !slices.Equal(order, want) {
		t.Errorf("order %v, want %v", order, want)
	}
}

// "Running sandboxes are not touched; another's template is like an unknown one."
func TestWhoMayDoWhat(t *testing.T) {
	h := newHouse(t)
	if err := h.catalogue.Define(t.Context(), []Recipe{{Slug: "python", Aliases: []string{"python-3.12"}, Spec: recipe.Spec}}); err != nil {
		t.Fatal(err)
	}
	tpl := h.template(ann, "app")
	b := h.queue(ann, tpl.ID)
	if got := h.end(b.ID); got.State != sandbox.BuildReady {
		t.Fatalf("%+v", got)
	}
	ctx := t.Context()
	for what, err := range map[string]error{
		"find":   func() error { _, err := h.catalogue.FindTemplate(ctx, bob.Tenant, tpl.ID); return err }(),
		"build":  func() error { _, err := h.catalogue.Queue(ctx, bob, tpl.ID, nil); return err }(),
		"change": func() error { _, err := h.catalogue.Change(ctx, bob, tpl.ID, sandbox.TemplateChange{}); return err }(),
		"delete": h.catalogue.Delete(ctx, bob, tpl.ID),
		"see":    func() error { _, err := h.catalogue.GetBuild(ctx, bob, b.ID); return err }(),
		"cancel": func() error { _, err := h.catalogue.Cancel(ctx, bob, b.ID); return err }(),
		"retry":  func() error { _, err := h.catalogue.Retry(ctx, bob, b.ID); return err }(),
	} {
		if err == nil || sandbox.AsError(err).Kind != sandbox.NotFound {
			t.Errorf("%s another tenant's: %v", what, err)
		}
	}
	if got, err := h.catalogue.FindTemplate(ctx, ann.Tenant, "python-3.12"); err != nil || got.Slug != "python" {
		t.Errorf("by alias: %v %v", got.Slug, err)
	}
	for _, slug := range []string{"python", "python-3.12", "validate", "build-spec"} {
		if _, err := h.catalogue.Create(ctx, ann, sandbox.TemplateRequest{Slug: slug, Spec: recipe.Spec}); err == nil || sandbox.AsError(err).Kind != sandbox.Conflict {
			t.Errorf("a built-in name %s: %v", slug, err)
		}
	}
	// One of the catalogue is built for who asks first, and by whom it is the
	// operator's business after that.
	if got := h.end(h.queue(bob, "python").ID); got.State != sandbox.BuildReady {
		t.Fatalf("%+v", got)
	}
	if _, err := h.catalogue.Queue(ctx, bob, "python", nil); !sandbox.HasCode(err, sandbox.CodeForbidden) {
		t.Errorf("once more: %v", err)
	}
	if err := h.catalogue.Delete(ctx, ann, "app"); err != nil {
		t.Fatal(err)
	}
	if left := h.seeds(t); len(left) != 1 || left[0].Template != "python" {
		t.Errorf("snapshots of a deleted template: %v", left)
	}
}

// "From an official one not built yet: the build starts, its progress goes to the
// sandbox's events."
func TestFirstUseBuildsATemplateOfTheCatalogue(t *testing.T) {
	h := newHouse(t)
	r := recipe
	r.Slug = "nextjs"
	if err := h.catalogue.Define(t.Context(), []Recipe{r}); err != nil {
		t.Fatal(err)
	}
	list, err := h.catalogue.Templates(t.Context(), ann)
	if err != nil || len(list) != 1 || list[0].Status != sandbox.TemplateDraft {
		t.Fatalf("listed before it is built: %+v %v", list, err)
	}
	h.images.fail = func() error { return errors.New("no mirror") }
	if _, err := h.catalogue.Await(t.Context(), "nextjs", func(sandbox.BuildEvent) {}); !sandbox.HasCode(err, sandbox.CodeBuildFailed) {
		t.Errorf("a build that fails: %v", err)
	}
	h.images.fail = nil
	var told []string
	got, err := h.catalogue.Await(t.Context(), "nextjs", func(e sandbox.BuildEvent) { told = append(told, e.Event) })
	if err != nil || got.Revision == "" {
		t.Fatalf("%+v %v", got, err)
	}
	if !slices.Contains(told, "building") {
		t.Errorf("told %v", told)
	}
	h.catalogue.Close()
}

func TestOutputIsBounded(t *testing.T) {
	var kept []sandbox.BuildEvent
	j := newJournal(func(e []sandbox.BuildEvent) { kept = append(kept, e...) })
	line := strings.Repeat("x", maxEventText) + "\x00\xff"
	for range 3 * maxBuildOutput / maxEventText {
		j.add(sandbox.BuildEvent{Event: stepOutput, Text: line})
	}
	j.add(sandbox.BuildEvent{Event: "step_finished"})
	j.flush()
	size := 0
	for _, e := range kept {
		size += len(e.Text)
		if strings.Contains(e.Text, "\x00") || !utf8.ValidString(e.Text) {
			t.Fatal("text that no database takes")
		}
	}
	if size > maxBuildOutput+maxEventText || kept[len(kept)-1].Event != "step_finished" || !strings.Contains(kept[len(kept)-2].Text, "too long") {
		t.Errorf("%d bytes kept, the last is %v", size, kept[len(kept)-1])
	}
}
