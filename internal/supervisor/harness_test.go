package supervisor

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"silica.dev/silica/internal/event"
	"silica.dev/silica/internal/runtime/runtimetest"
	"silica.dev/silica/internal/store"
	"silica.dev/silica/internal/store/pgtest"
	"silica.dev/silica/sandbox"
)

// patience bounds every wait for a condition.
const patience = 20 * time.Second

var size = sandbox.Resources{MilliCPU: sandbox.Core, Memory: 512 * sandbox.MiB, Disk: 1024 * sandbox.MiB}

// machine is one installation: a database and a fake host, with whoever
// supervises it just now.
type machine struct {
	*Supervisor
	t      testing.TB
	ctx    context.Context
	rows   store.Config
	db     *store.Store
	log    *event.Log
	fake   *runtimetest.Fake
	builds *fakeBuilds
	host   fakeCapacity
	cfg    Config
	a, b   sandbox.Caller // of two tenants
	// describe adds to templates what their rows do not keep.
	describe func(*sandbox.Template)
}

// newMachine returns a machine with a template "base" and its snapshot, that has
// recovered from nothing.
func newMachine(t testing.TB, cfg Config) *machine {
	t.Helper()
	return newMachineOn(t, cfg, sqlite(t))
}

func newMachineOn(t testing.TB, cfg Config, rows store.Config) *machine {
	t.Helper()
	m := bareMachineOn(t, cfg, rows)
	m.a, m.b = m.tenant("a"), m.tenant("b")
	m.template("r1")
	m.up()
	return m
}

func TestMain(m *testing.M) { pgtest.Main(m) }

// onBoth runs a test with rows in SQLite and in PostgreSQL.
func onBoth(t *testing.T, test func(t *testing.T, rows store.Config)) {
	t.Helper()
	t.Run("sqlite", func(t *testing.T) { test(t, sqlite(t)) })
	t.Run("postgres", func(t *testing.T) {
		_, url := pgtest.New(t, "")
		test(t, store.Config{URL: url, Node: "node_a"})
	})
}

func sqlite(t testing.TB) store.Config {
	return store.Config{Path: filepath.Join(t.TempDir(), "silica.db"), Node: "node_a"}
}

func bareMachine(t testing.TB, cfg Config) *machine {
	t.Helper()
	return bareMachineOn(t, cfg, sqlite(t))
}

func bareMachineOn(t testing.TB, cfg Config, rows store.Config) *machine {
	ctx, cancel := context.WithTimeout(context.Background(), 5*patience)
	cfg.Template, cfg.Default = "base", size
	if cfg.CreateWait == 0 {
		cfg.CreateWait = patience
	}
	m := &machine{
		t: t, ctx: ctx, cfg: cfg, rows: rows,
		fake: runtimetest.NewFake(), builds: &fakeBuilds{},
	}
	m.openDB()
	t.Cleanup(func() {
		m.down()
		cancel()
		for _, o := range m.fake.Overlaps() {
			t.Errorf("the driver's contract was broken: %s", o)
		}
	})
	return m
}

func (m *machine) openDB() {
	m.t.Helper()
	db, err := store.Open(m.ctx, m.rows)
	if err != nil {
		m.t.Fatal(err)
	}
	m.db, m.log = db, event.NewLog(db)
	db.Announce(m.log.Announce)
}

func (m *machine) tenant(slug string) sandbox.Caller {
	m.t.Helper()
	tn, err := m.db.CreateTenant(m.ctx, sandbox.Tenant{Slug: slug})
	if err != nil {
		m.t.Fatal(err)
	}
	return sandbox.Caller{Tenant: tn.ID, User: "usr_" + slug}
}

// template makes a revision of "base" current, with a snapshot for size.
func (m *machine) template(revision string) sandbox.Ref { return m.templateOf("base", revision) }

// templateOf is template for another slug.
func (m *machine) templateOf(slug, revision string) sandbox.Ref {
	m.t.Helper()
	tpl := sandbox.Template{Slug: slug, Revision: revision, Image: runtimetest.Image(revision), Workdir: "/root",
		Env: map[string]string{"FROM": "template", "BOTH": "template"}, CreatedAt: time.Now()}
	if err := m.db.SaveTemplate(m.ctx, tpl); err != nil {
		m.t.Fatal(err)
	}
	id := sandbox.NewID()
	if err := m.fake.Start(m.ctx, startRequest(id, tpl.Image)); err != nil {
		m.t.Fatal(err)
	}
	ref, err := m.fake.Snapshot(m.ctx, id)
	if err != nil {
		m.t.Fatal(err)
	}
	if err := m.fake.Destroy(m.ctx, id); err != nil {
		m.t.Fatal(err)
	}
	err = m.db.SaveSeed(m.ctx, sandbox.Seed{Template: slug, Revision: revision, Key: m.fake.SnapshotKey(size), Ref: ref})
	if err != nil {
		m.t.Fatal(err)
	}
	return ref
}

func (m *machine) deps(st Store) Deps {
	var out io.Writer = io.Discard
	if testing.Verbose() {
		out = m.t.Output()
	}
	return Deps{Store: st, Templates: m, Driver: m.fake, Events: m.log, Builds: m.builds, Capacity: &m.host, Kept: m.fake,
		Log: slog.New(slog.NewTextHandler(out, nil))}
}

// Template, FindTemplate, Seed and AllTemplates are the rows, as the machine describes them.
func (m *machine) Template(ctx context.Context, slug string) (sandbox.Template, error) {
	t, err := m.db.Template(ctx, slug)
	if err == nil && m.describe != nil {
		m.describe(&t)
	}
	return t, err
}

func (m *machine) FindTemplate(ctx context.Context, tenant sandbox.TenantID, name string) (sandbox.Template, error) {
	t, err := m.db.FindTemplate(ctx, tenant, name)
	if err == nil && m.describe != nil {
		m.describe(&t)
	}
	return t, err
}

func (m *machine) Seed(ctx context.Context, slug, revision, key string) (sandbox.Seed, error) {
	return m.db.Seed(ctx, slug, revision, key)
}

func (m *machine) AllTemplates(ctx context.Context) ([]sandbox.Template, error) {
	list, err := m.db.Templates(ctx)
	for i := range list {
		if m.describe != nil {
			m.describe(&list[i])
		}
	}
	return list, err
}

// up starts a supervisor and has it recover.
func (m *machine) up() {
	m.t.Helper()
	m.Supervisor = New(m.cfg, m.deps(m.db))
	if err := m.Recover(m.ctx); err != nil {
		m.t.Fatal(err)
	}
}

// down stops the daemon; its sandboxes stay.
func (m *machine) down() {
	if m.Supervisor != nil {
		m.Close()
		m.Supervisor = nil
	}
	if m.db != nil {
		_ = m.db.Close()
		m.db = nil
	}
}

// restart ends the daemon and starts the next one.
func (m *machine) restart() {
	m.t.Helper()
	m.down()
	m.fake = m.fake.Reopen()
	m.openDB()
	m.up()
}

func (m *machine) create(c sandbox.Caller, req sandbox.CreateRequest) sandbox.Sandbox {
	m.t.Helper()
	sb, err := m.Create(m.ctx, c, req)
	if err != nil {
		m.t.Fatalf("Create: %v", err)
	}
	return sb
}

func (m *machine) get(c sandbox.Caller, id sandbox.ID) sandbox.Sandbox {
	m.t.Helper()
	sb, err := m.Get(m.ctx, c, string(id))
	if err != nil {
		m.t.Fatalf("Get(%s): %v", id, err)
	}
	return sb
}

// eventually waits until cond holds.
func (m *machine) eventually(what string, cond func() bool) {
	m.t.Helper()
	for end := time.Now().Add(patience); !cond(); {
		if time.Now().After(end) {
			m.t.Fatalf("not within %v: %s", patience, what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

func (m *machine) onHost() []sandbox.ID {
	m.t.Helper()
	ids, err := m.fake.List(m.ctx)
	if err != nil {
		m.t.Fatal(err)
	}
	return ids
}

func (m *machine) nothingOnHost() {
	m.t.Helper()
	m.eventually("the host is empty and every row freed", func() bool {
		rows, err := m.db.Unfreed(m.ctx)
		return err == nil && len(rows) == 0 && len(m.onHost()) == 0
	})
}

func (m *machine) warm(n int) (ids []sandbox.ID) {
	m.t.Helper()
	m.eventually(fmt.Sprintf("the pool has %d members", n), func() bool {
		rows, err := m.db.Warm(m.ctx)
		ids = nil
		for _, sb := range rows {
			ids = append(ids, sb.ID)
		}
		return err == nil && len(rows) == n
	})
	return ids
}

// history tells a sandbox's stored events: states and error codes, in order.
func (m *machine) history(id sandbox.ID) (list []string) {
	m.t.Helper()
	events, err := m.db.EventsAfter(m.ctx, id, 0, 1000)
	if err != nil {
		m.t.Fatal(err)
	}
	for _, e := range events {
		switch e.Type {
		case event.StateChanged:
			list = append(list, fmt.Sprint(e.Data["state"]))
		case event.Error:
			list = append(list, fmt.Sprint(e.Data["code"]))
		}
	}
	return list
}

func code(err error) string {
	if err == nil {
		return ""
	}
	return sandbox.AsError(err).Code
}

// fakeCapacity is a host that is full or not.
type fakeCapacity struct{ full, asked atomic.Bool }

func (f *fakeCapacity) Room(context.Context, sandbox.Resources) error {
	f.asked.Store(true)
	if f.full.Load() {
		return sandbox.E(sandbox.Unavailable, sandbox.CodeHostFull, "no memory")
	}
	return nil
}

// fakeBuilds says what is being built, and counts what is asked to be remade.
type fakeBuilds struct {
	mu       sync.Mutex
	building map[string]chan sandbox.Template
	remakes  int
}

func (f *fakeBuilds) Building(slug string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.building[slug] != nil
}

func (f *fakeBuilds) Await(ctx context.Context, slug string, tell func(sandbox.BuildEvent)) (sandbox.Template, error) {
	f.mu.Lock()
	ch := f.building[slug]
	f.mu.Unlock()
	tell(sandbox.BuildEvent{Event: "building", State: sandbox.BuildBuilding, Text: "half way"})
	select {
	case t, ok := <-ch:
		if !ok {
			return t, sandbox.E(sandbox.Unavailable, sandbox.CodeTemplateNotReady, "its build failed")
		}
		return t, nil
	case <-ctx.Done():
		return sandbox.Template{}, context.Cause(ctx)
	}
}

func (f *fakeBuilds) Remake(sandbox.Template, sandbox.Resources, sandbox.Ref) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.remakes++
}

func (f *fakeBuilds) asked() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.remakes
}
