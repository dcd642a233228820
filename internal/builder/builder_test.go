package builder

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"silica.dev/silica/internal/runtime"
	"silica.dev/silica/internal/runtime/runtimetest"
	"silica.dev/silica/sandbox"
	"silica.dev/silica/templates"
)

var recipe = Recipe{Slug: "t", Name: "T", Spec: sandbox.BuildSpec{From: "debian:bookworm", Packages: []string{"git"}, VCPU: 1, MemoryMiB: 256, DiskMiB: 512, Workdir: "/root"}}

func ensure(t *testing.T, w *world, r Recipe) sandbox.Template {
	t.Helper()
	tmpl, err := w.Ensure(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	return tmpl
}

func TestCatalogue(t *testing.T) {
	all, err := LoadCatalogue(templates.Files)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range all {
		if r.Slug == "miosa-sandbox" {
			want := sandbox.Resources{MilliCPU: 1000, Memory: 1024 * sandbox.MiB, Disk: 3072 * sandbox.MiB}
			if got := r.Spec.Resources(); got != want || r.Spec.Workdir != "/root" {
				t.Errorf("default template: got %+v in %s, want %+v in /root", got, r.Spec.Workdir, want)
			}
			return
		}
	}
	t.Error("there is no default template")
}

func TestRecipesAreChecked(t *testing.T) {
	good := "slug: t\nfrom: debian:bookworm\nvcpu: 1\nmemoryMib: 256\ndiskMib: 512\n"
	cases := map[string]struct{ text, field string }{
		"good":          {good, ""},
		"unknown field": {good + "startcmd: x\n", "startcmd"},
		"no YAML":       {"slug: [", "-"},
		"slug":          {strings.Replace(good, "slug: t", "slug: ../t", 1), "slug"},
		"from":          {strings.Replace(good, "debian:bookworm", `""`, 1), "from"},
		"workdir":       {good + "workdir: a/b\n", "workdir"},
		"size":          {strings.Replace(good, "memoryMib: 256", "memoryMib: 0", 1), "memoryMib"},
		"env":           {good + "env: {\"a=b\": c}\n", "env"},
		"alias":         {good + "aliases: [\"a b\"]\n", "aliases"},
	}
	for name, c := range cases {
		_, err := ParseRecipe([]byte(c.text))
		switch e := sandbox.AsError(err); {
		case c.field == "" && err != nil, c.field != "" && err == nil:
			t.Errorf("%s: got %v", name, err)
		case c.field == "-" && e.Kind != sandbox.Malformed, c.field != "" && c.field != "-" && e.Details["field"] != c.field:
			t.Errorf("%s: got %v (%v), want field %s", name, err, e.Details, c.field)
		}
	}
}

func TestFirstStartBuildsAndSecondOnlyLooks(t *testing.T) {
	w := newWorld(t)
	tmpl := ensure(t, w, recipe)
	s, err := w.rows.Seed(t.Context(), "t", tmpl.Revision, w.driver.SnapshotKey(recipe.Spec.Resources()))
	if err != nil {
		t.Fatalf("no snapshot row: %v", err)
	}
	starts := w.driver.Starts()
	if len(starts) != 3 || starts[0].Snapshot != "" || starts[1].Snapshot != s.Ref || starts[2].Snapshot != s.Ref || starts[0].ID == starts[1].ID || starts[1].Image != tmpl.Image {
		t.Errorf("starts: got %+v, want a cold one, then two from %s", starts, s.Ref)
	}
	if st := w.Status("t"); !st.Ready || st.String() != "template t is ready" {
		t.Errorf("status: got %+v", st)
	}
	var told []string
	for _, r := range w.reports {
		told = append(told, r.String())
	}
	if text := strings.Join(told, "\n"); !strings.Contains(text, "building template t: installing packages 1/2\n") || !strings.HasSuffix(text, "template t is ready") {
		t.Errorf("reports: got\n%s", text)
	}

	w.restart("v1")
	if again := ensure(t, w, recipe); again.Revision != tmpl.Revision || w.images.n != 1 || w.starts() != 3 || !again.CreatedAt.Equal(tmpl.CreatedAt) {
		t.Errorf("second start: %d images, %d starts, %+v; want nothing made", w.images.n, w.starts(), again)
	}
}

func TestWhatIsMadeAgain(t *testing.T) {
	bigger := recipe
	bigger.Spec.DiskMiB *= 2
	renamed := recipe
	renamed.Name = "other"
	packages := recipe
	packages.Spec.Packages = []string{"git", "curl"}
	cases := map[string]struct {
		before         func(w *world, t sandbox.Template)
		setting        string
		recipe         Recipe
		images, starts int // more of them than before
	}{
		"other name":         {recipe: renamed},
		"other default size": {recipe: bigger, images: 1, starts: 3},
		"other packages":     {recipe: packages, images: 1, starts: 3},
		"other agent":        {recipe: recipe, setting: "v2", images: 1, starts: 3},
		"image lost":         {recipe: recipe, images: 1, starts: 3, before: func(w *world, t sandbox.Template) { w.blobs.lost[t.Image] = true }},
		"snapshot lost":      {recipe: recipe, starts: 3, before: func(w *world, _ sandbox.Template) { w.loseSnapshots(t) }},
		"snapshot row missing": {recipe: recipe, starts: 3, before: func(w *world, _ sandbox.Template) {
			for _, s := range w.seeds(t) {
				if err := w.rows.DeleteSeed(t.Context(), s.Ref); err != nil {
					t.Fatal(err)
				}
			}
		}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			first := ensure(t, w, recipe)
			if c.before != nil {
				c.before(w, first)
			}
			if c.setting == "" {
				c.setting = "v1"
			}
			images, starts := w.images.n, w.starts()
			w.restart(c.setting)
			tmpl := ensure(t, w, c.recipe)
			if got := w.images.n - images; got != c.images {
				t.Errorf("images: got %d more, want %d", got, c.images)
			}
			if got := w.starts() - starts; got != c.starts {
				t.Errorf("starts: got %d more, want %d", got, c.starts)
			}
			row, err := w.rows.Template(t.Context(), "t")
			if err != nil || row.Revision != tmpl.Revision || row.Image != tmpl.Image || row.Name != c.recipe.Name {
				t.Errorf("row: got %+v, %v", row, err)
			}
			for _, s := range w.seeds(t) {
				if s.Revision != tmpl.Revision {
					t.Errorf("a snapshot of revision %s is still there", s.Revision)
				}
			}
		})
	}
}

func (w *world) loseSnapshots(t *testing.T) {
	for _, s := range w.seeds(t) {
		w.blobs.lost[s.Ref] = true
	}
}

func TestFailuresLeaveNothing(t *testing.T) {
	boom := errors.New("boom")
	cases := map[string]func(w *world){
		"image": func(w *world) { w.images.fail = func() error { return boom } },
		"cold start": func(w *world) {
			w.driver.Set(runtimetest.Knobs{Start: func(context.Context, runtime.StartRequest) error { return boom }})
		},
		"dial": func(w *world) {
			w.driver.Set(runtimetest.Knobs{Dial: func(context.Context, sandbox.ID) error { return boom }})
		},
		"snapshot": func(w *world) {
			w.driver.Set(runtimetest.Knobs{Snapshot: func(context.Context, sandbox.ID) error { return boom }})
		},
		"restore": func(w *world) {
			w.driver.Set(runtimetest.Knobs{Start: func(_ context.Context, r runtime.StartRequest) error {
				if r.Snapshot != "" {
					return runtime.ErrSnapshotUnusable
				}
				return nil
			}})
		},
		"row": func(w *world) { w.rows.saveErr = boom },
	}
	for name, breakIt := range cases {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			breakIt(w)
			if _, err := w.Ensure(t.Context(), recipe); err == nil {
				t.Fatal("succeeded")
			}
			if st := w.Status("t"); st.Ready || st.Err == "" || strings.Contains(st.Err, "boom") {
				t.Errorf("status: got %+v, want a failure without its inside", st)
			}
			if left := w.seeds(t); len(left) > 0 {
				t.Errorf("rows: %v", left)
			}
			// Its base image is what the next try begins from.
			if want := map[string]int{"restore": 1, "row": 1}[name]; len(w.blobs.deleted) != want {
				t.Errorf("deleted artifacts: %v, want the useless snapshot if there was one", w.blobs.deleted)
			}
			// What was wrong is put right: the next try succeeds.
			w.driver.Set(runtimetest.Knobs{})
			w.images.fail, w.rows.saveErr = nil, nil
			w.pass(delay(1))
			ensure(t, w, recipe)
		})
	}
}

// liar restores another memory than the one asked for.
type liar struct{ *runtimetest.Fake }

func (l liar) Start(ctx context.Context, r runtime.StartRequest) error {
	r.Snapshot = ""
	return l.Fake.Start(ctx, r)
}

func TestCopyMustBeTheOriginal(t *testing.T) {
	w := newWorld(t)
	w.Driver = liar{w.driver}
	if _, err := w.Ensure(t.Context(), recipe); !sandbox.HasCode(err, sandbox.CodeCertification) {
		t.Errorf("got %v, want %v", err, sandbox.CodeCertification)
	}
}

func TestSeedOnceForMany(t *testing.T) {
	w := newWorld(t)
	tmpl := ensure(t, w, recipe)
	before := w.starts()
	res := recipe.Spec.Resources()
	res.Disk *= 4
	var wg sync.WaitGroup
	refs := make([]sandbox.Ref, 8)
	for i := range refs {
		wg.Go(func() {
			s, err := w.Seed(t.Context(), tmpl, res, "")
			if err != nil {
				t.Error(err)
			}
			refs[i] = s.Ref
		})
	}
	wg.Wait()
	for _, r := range refs {
		if r != refs[0] {
			t.Errorf("refs differ: %v", refs)
		}
	}
	if got := w.starts() - before; got != 3 {
		t.Errorf("%d starts, want 3", got)
	}
}

func TestSnapshotsAreMadeOneAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		tmpl := ensure(t, w, recipe)
		var busy, most atomic.Int32
		w.driver.Set(runtimetest.Knobs{Snapshot: func(context.Context, sandbox.ID) error {
			n := busy.Add(1)
			defer busy.Add(-1)
			most.Store(max(n, most.Load()))
			time.Sleep(5 * time.Millisecond) // what another would need to get here
			return nil
		}})
		var wg sync.WaitGroup
		for i := range int64(6) {
			res := recipe.Spec.Resources()
			res.Disk *= 2 + i
			wg.Go(func() {
				if _, err := w.Seed(t.Context(), tmpl, res, ""); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if most.Load() != 1 {
			t.Errorf("%d at once, want 1", most.Load())
		}
		// Whoever gives up waiting for the bench leaves nothing.
		w.bench <- struct{}{}
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(errors.New("no time for this"))
		res := recipe.Spec.Resources()
		res.Disk *= 100
		if _, err := w.Seed(ctx, tmpl, res, ""); err == nil || len(w.flights) != 0 {
			t.Errorf("who gave up: %v, flights %v", err, w.flights)
		}
		<-w.bench
	})
}

func TestTriesAreForgotten(t *testing.T) {
	w := newWorld(t)
	tmpl := ensure(t, w, recipe)
	for i := range int64(5) {
		w.pass(calm)
		res := recipe.Spec.Resources()
		res.Disk *= 2 + i
		if _, err := w.Seed(t.Context(), tmpl, res, ""); err != nil {
			t.Fatal(err)
		}
	}
	if len(w.tries) != 1 {
		t.Errorf("%d keys held, want the last: %v", len(w.tries), w.tries)
	}
}

func TestBrokenSnapshotIsReplacedOnce(t *testing.T) {
	w := newWorld(t)
	tmpl := ensure(t, w, recipe)
	res := recipe.Spec.Resources()
	broken, err := w.Seed(t.Context(), tmpl, res, "")
	if err != nil {
		t.Fatal(err)
	}
	_, err = w.Seed(t.Context(), tmpl, res, broken.Ref)
	if e := sandbox.AsError(err); e.Kind != sandbox.Unavailable || e.Code != sandbox.CodeTemplateNotReady {
		t.Errorf("right after the first: got %v, want to wait", err)
	}
	w.pass(delay(1))
	fresh, err := w.Seed(t.Context(), tmpl, res, broken.Ref)
	if err != nil || fresh.Ref == broken.Ref {
		t.Fatalf("got %v, %v, want another snapshot", fresh.Ref, err)
	}
	if len(w.blobs.deleted) != 1 || w.blobs.deleted[0] != broken.Ref {
		t.Errorf("deleted %v, want the broken one", w.blobs.deleted)
	}
	starts := w.starts()
	if again, err := w.Seed(t.Context(), tmpl, res, broken.Ref); err != nil || again.Ref != fresh.Ref || w.starts() != starts {
		t.Errorf("a late report of the same break: got %v, %v, want the new snapshot as it is", again.Ref, err)
	}
}

func TestTriesWaitLonger(t *testing.T) {
	w := newWorld(t)
	boom := errors.New("boom")
	w.driver.Set(runtimetest.Knobs{Snapshot: func(context.Context, sandbox.ID) error { return boom }})
	tmpl := recipe.template()
	tmpl.Revision, tmpl.Image, tmpl.Built = "r", runtimetest.Image("x"), recipe.Spec
	for n := 1; n <= 12; n++ {
		if _, err := w.Seed(t.Context(), tmpl, recipe.Spec.Resources(), ""); !errors.Is(err, boom) {
			t.Fatalf("try %d: got %v", n, err)
		}
		starts := w.starts()
		w.pass(delay(n) - time.Millisecond)
		if _, err := w.Seed(t.Context(), tmpl, recipe.Spec.Resources(), ""); sandbox.AsError(err).Kind != sandbox.Unavailable || w.starts() != starts {
			t.Errorf("too soon after try %d: got %v", n, err)
		}
		w.pass(time.Millisecond)
	}
	w.pass(calm)
	_, _ = w.Seed(t.Context(), tmpl, recipe.Spec.Resources(), "")
	w.pass(delay(1))
	if _, err := w.Seed(t.Context(), tmpl, recipe.Spec.Resources(), ""); !errors.Is(err, boom) {
		t.Errorf("after a calm time: got %v, want a try after the shortest wait", err)
	}
}

func TestCancelledLeaderLetsAnotherGoOn(t *testing.T) {
	w := newWorld(t)
	started := make(chan struct{})
	var once sync.Once
	w.driver.Set(runtimetest.Knobs{Snapshot: func(ctx context.Context, _ sandbox.ID) error {
		first := false
		once.Do(func() { first = true; close(started) })
		if first {
			<-ctx.Done()
			return ctx.Err()
		}
		return nil
	}})
	tmpl := recipe.template()
	tmpl.Revision, tmpl.Image, tmpl.Built = "r", runtimetest.Image("x"), recipe.Spec
	ctx, cancel := context.WithCancelCause(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		if _, err := w.Seed(ctx, tmpl, recipe.Spec.Resources(), ""); err == nil {
			t.Error("leader: succeeded")
		}
	})
	<-started
	wg.Go(func() {
		if _, err := w.Seed(t.Context(), tmpl, recipe.Spec.Resources(), ""); err != nil {
			t.Errorf("follower: %v", err)
		}
	})
	cancel(errors.New("no time for this"))
	wg.Wait()
}

// TestCrash ends the daemon while it snapshots: the next one finds no row, only
// a sandbox that nobody owns.
func TestCrash(t *testing.T) {
	w := newWorld(t)
	w.driver.Set(runtimetest.Knobs{Snapshot: func(context.Context, sandbox.ID) error { w.driver.Crash(); return nil }})
	if _, err := w.Ensure(t.Context(), recipe); err == nil {
		t.Fatal("succeeded")
	}
	w.driver = w.driver.Reopen()
	w.restart("v1")
	left, err := w.driver.List(t.Context())
	if err != nil || len(left) != 1 {
		t.Fatalf("left: %v, %v, want the source", left, err)
	}
	for _, id := range left { // as recovery does
		if err := w.driver.Destroy(t.Context(), id); err != nil {
			t.Fatal(err)
		}
	}
	ensure(t, w, recipe)
}

func TestSweepKeepsWhatRowsName(t *testing.T) {
	w := newWorld(t)
	tmpl := ensure(t, w, recipe)
	orphan, kept := runtimetest.Image("orphan"), runtimetest.Image("kept")
	w.blobs.listed = []sandbox.Ref{tmpl.Image, orphan, kept}
	for _, s := range w.seeds(t) {
		w.blobs.listed = append(w.blobs.listed, s.Ref)
	}
	if err := w.Sweep(t.Context(), kept); err != nil {
		t.Fatal(err)
	}
	if len(w.blobs.deleted) != 1 || w.blobs.deleted[0] != orphan {
		t.Errorf("deleted %v, want %v", w.blobs.deleted, orphan)
	}
}

func TestMaintainTriesAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.images.fail = runtimetest.Times(3, errors.New("no mirror"))
		began := time.Now()
		if _, err := w.Maintain(t.Context(), recipe); err != nil {
			t.Fatal(err)
		}
		if got, want := time.Since(began), delay(1)+delay(2)+delay(3); got < want {
			t.Errorf("ready after %v, want to wait %v", got, want)
		}
		w.images.fail = func() error { return sandbox.Field("from", "unknown") }
		other := recipe
		other.Slug, other.Spec.From = "u", "debian:trixie"
		if _, err := w.Maintain(t.Context(), other); sandbox.AsError(err).Kind != sandbox.Invalid {
			t.Errorf("a recipe that can't work: got %v, want an end", err)
		}
	})
}
