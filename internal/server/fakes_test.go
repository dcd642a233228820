package server

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"

	"silica.dev/silica/internal/event"
	"silica.dev/silica/internal/guest"
	"silica.dev/silica/internal/guest/guestpb"
	"silica.dev/silica/internal/guest/guestpb/guestpbconnect"
	"silica.dev/silica/internal/store"
	"silica.dev/silica/sandbox"
)

// world is everything behind the server: sandboxes, log, accounts, catalogue.
type world struct {
	workshop workshop
	agent    *fakeAgent

	mu        sync.Mutex
	changed   chan struct{} // closed and remade at every change
	boxes     map[sandbox.ID]*sandbox.Sandbox
	created   []sandbox.CreateRequest
	byKey     map[string]sandbox.ID
	log       []event.Event
	live      []chan event.Event
	tenants   []sandbox.Tenant
	keys      []sandbox.Key
	createErr error
	notReady  bool // new sandboxes stay provisioning
	cuts      int  // how often the log broke
	ports     map[uint16]string

	snapshots    []*sandbox.Snapshot // newest first
	newSnapshots sandbox.SnapshotStatus
	snapped      []sandbox.SnapshotRequest
	forked       []sandbox.ForkRequest
	restored     [][2]string // sandbox and snapshot

	callers    map[string]sandbox.Caller // by secret
	tickets    map[string]string         // keys by ticket
	onAccounts func()
	rows       *store.Store // what is told of keys, users and use
}

func newWorld(t *testing.T) *world {
	return &world{agent: newFakeAgent(t), changed: make(chan struct{}), boxes: map[sandbox.ID]*sandbox.Sandbox{}, byKey: map[string]sandbox.ID{},
		callers: firstCallers(), tickets: map[string]string{}, onAccounts: func() {}, rows: newRows(t), newSnapshots: sandbox.SnapshotReady}
}

// emptyRows is a database with its tables and the tenants, users and default
// workspaces of the first callers, as a file.
var emptyRows = sync.OnceValues(func() ([]byte, error) {
	dir, err := os.MkdirTemp("", "silica")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	ctx, path := context.Background(), filepath.Join(dir, "silica.db")
	rows, err := store.Open(ctx, store.Config{Path: path})
	if err != nil {
		return nil, err
	}
	for secret, c := range firstCallers() {
		_, err := rows.CreateTenant(ctx, sandbox.Tenant{ID: c.Tenant, Slug: strings.ReplaceAll(string(c.Tenant), "_", "-")})
		if err != nil {
			return nil, err
		}
		if _, err := rows.CreateUser(ctx, sandbox.User{ID: c.User, Tenant: c.Tenant, Role: sandbox.Owner}); err != nil {
			return nil, err
		}
		ws := sandbox.Workspace{Tenant: c.Tenant, Slug: "default"}
		if secret == keyA {
			ws.ID = theWorkspace
		}
		if _, err := rows.CreateWorkspace(ctx, ws, c.User); err != nil {
			return nil, err
		}
	}
	if err := rows.Close(); err != nil {
		return nil, err
	}
	return os.ReadFile(path)
})

// theWorkspace is where sandboxes are.
const theWorkspace = "550e8400-e29b-41d4-a716-446655440000"

func newRows(t *testing.T) *store.Store {
	t.Helper()
	file, err := emptyRows()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "silica.db")
	if err := os.WriteFile(path, file, 0o600); err != nil {
		t.Fatal(err)
	}
	rows, err := store.Open(t.Context(), store.Config{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = rows.Close() })
	return rows
}

func (w *world) Tenant(ctx context.Context, id sandbox.TenantID) (sandbox.Tenant, error) {
	return w.rows.Tenant(ctx, id)
}

func (w *world) ChangeTenant(ctx context.Context, id sandbox.TenantID, change func(*sandbox.Tenant)) (sandbox.Tenant, error) {
	return w.rows.ChangeTenant(ctx, id, change)
}

var noSandbox = sandbox.E(sandbox.NotFound, sandbox.CodeNotFound, "sandbox not found")

func (w *world) touch() { close(w.changed); w.changed = make(chan struct{}) }

func (w *world) Create(_ context.Context, c sandbox.Caller, req sandbox.CreateRequest) (sandbox.Sandbox, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.createErr != nil {
		return sandbox.Sandbox{}, w.createErr
	}
	if id, ok := w.byKey[req.Idempotency.Key]; ok && req.Idempotency.Key != "" {
		return *w.boxes[id], nil
	}
	w.created = append(w.created, req)
	res := req.Resources
	if res == (sandbox.Resources{}) {
		res = sandbox.Resources{MilliCPU: 1000, Memory: 1024 << 20, Disk: 3072 << 20}
	}
	now := time.Now()
	timeout := req.Timeout
	if timeout == 0 {
		timeout = 300 * time.Second
	}
	sb := &sandbox.Sandbox{
		ID: sandbox.NewID(), Tenant: c.Tenant, Owner: c.User, Name: req.Name, Slug: sandbox.NewSlug(), External: req.External,
		Workspace: theWorkspace, Project: "660e8400-e29b-41d4-a716-446655440001",
		Spec:  sandbox.Spec{Template: "miosa-sandbox", Image: "miosa-sandbox", Resources: res, Env: req.Env},
		State: sandbox.Provisioning, Timeout: timeout, Tags: req.Tags, Metadata: req.Metadata, Persist: req.Persist, AlwaysOn: req.AlwaysOn, Idle: req.Idle, CreatedAt: now, UpdatedAt: now,
	}
	w.boxes[sb.ID] = sb
	w.byKey[req.Idempotency.Key] = sb.ID
	w.record(sb, "")
	if !w.notReady {
		w.run(sb)
	}
	return *sb, nil
}

// record logs the state of sb. w.mu is held.
func (w *world) record(sb *sandbox.Sandbox, from sandbox.State) {
	var prev any
	if from != "" {
		prev = string(from)
	}
	w.log = append(w.log, event.Event{
		Seq: int64(len(w.log) + 1), Sandbox: sb.ID, Tenant: sb.Tenant, Type: event.StateChanged, At: time.Now(),
		Data: map[string]any{"state": string(sb.State), "previous_state": prev},
	})
	w.touch()
}

func (w *world) run(sb *sandbox.Sandbox) {
	now := time.Now()
	sb.State, sb.Ready, sb.StartedAt, sb.ReadyAt, sb.BootPath, sb.Boot = sandbox.Running, true, now, now, sandbox.BootSnapshot, 31500*time.Microsecond
	w.record(sb, sandbox.Provisioning)
}

// move changes a sandbox's state from a test.
func (w *world) move(id string, to sandbox.State) {
	w.mu.Lock()
	defer w.mu.Unlock()
	sb := w.boxes[sandbox.ID(id)]
	if to == sandbox.Running {
		w.run(sb)
		return
	}
	from := sb.State
	sb.State, sb.Ready = to, false
	if to == sandbox.Failed {
		sb.Reason = "out of memory"
	}
	if to == sandbox.Destroyed {
		sb.DestroyedAt = time.Now()
	}
	w.record(sb, from)
}

func (w *world) find(c sandbox.Caller, id string) (*sandbox.Sandbox, error) {
	for _, sb := range w.boxes {
		if sb.Tenant == c.Tenant && (string(sb.ID) == id || sb.Slug == id || sb.Name == id && id != "") {
			return sb, nil
		}
	}
	return nil, noSandbox
}

func (w *world) Get(_ context.Context, c sandbox.Caller, id string) (sandbox.Sandbox, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	sb, err := w.find(c, id)
	if err != nil {
		return sandbox.Sandbox{}, err
	}
	return *sb, nil
}

func (w *world) List(_ context.Context, c sandbox.Caller, f sandbox.Filter) (sandbox.Listing, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	var out []sandbox.Sandbox
	for _, sb := range w.boxes {
		match := func(want, got string) bool { return want == "" || want == got }
		if sb.Tenant == c.Tenant && (slices.Contains(f.States, sb.State) || len(f.States) == 0 && sb.State != sandbox.Destroyed) &&
			match(f.Name, sb.Name) && match(f.Template, sb.Spec.Template) &&
			match(f.Workspace, sb.Workspace) && match(f.Project, sb.Project) && match(f.External.Workspace, sb.External.Workspace) &&
			match(f.External.User, sb.External.User) && match(f.External.Project, sb.External.Project) {
			out = append(out, *sb)
		}
	}
	slices.SortFunc(out, func(a, b sandbox.Sandbox) int { return strings.Compare(string(b.ID), string(a.ID)) })
	l := sandbox.Listing{Sandboxes: out, Total: len(out)}
	if f.After.ID != "" {
		l.Sandboxes = slices.DeleteFunc(out, func(sb sandbox.Sandbox) bool { return sb.ID >= f.After.ID })
	}
	l.Sandboxes = l.Sandboxes[min(f.Offset, len(l.Sandboxes)):]
	if l.More = f.Limit > 0 && len(l.Sandboxes) > f.Limit; l.More {
		l.Sandboxes = l.Sandboxes[:f.Limit]
	}
	return l, nil
}

func (w *world) Destroy(_ context.Context, c sandbox.Caller, id string) (sandbox.Sandbox, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	sb, err := w.find(c, id)
	if err != nil {
		return sandbox.Sandbox{}, err
	}
	if sb.State != sandbox.Destroyed {
		from := sb.State
		sb.State, sb.Ready, sb.DestroyedAt = sandbox.Destroyed, false, time.Now()
		w.record(sb, from)
	}
	return *sb, nil
}

func (w *world) Guest(ctx context.Context, c sandbox.Caller, id string) (context.Context, *guest.Client, sandbox.Sandbox, error) {
	sb, err := w.Get(ctx, c, id)
	if err != nil {
		return nil, nil, sb, err
	}
	if sb.State != sandbox.Running {
		return nil, nil, sb, sandbox.E(sandbox.Conflict, sandbox.CodeNotRunning, "the sandbox is "+string(sb.State))
	}
	return ctx, w.agent.client, sb, nil
}

func (w *world) Update(_ context.Context, c sandbox.Caller, id string, ch sandbox.Change) (sandbox.Sandbox, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	sb, err := w.find(c, id)
	if err != nil {
		return sandbox.Sandbox{}, err
	}
	ch.Apply(sb)
	w.touch()
	return *sb, nil
}

func (w *world) Usage(ctx context.Context, c sandbox.Caller, id string) (sandbox.Sandbox, sandbox.Usage, error) {
	sb, err := w.Get(ctx, c, id)
	return sb, sandbox.Usage{
		Runtime: 1500 * time.Millisecond, CPUTime: 3 * time.Second, MemoryMiBMilli: 1500 * 1024,
		Counters: sandbox.Counters{CPU: 1234567 * time.Microsecond, NetworkIn: 10, NetworkOut: 20},
	}, err
}

func (w *world) Metrics(ctx context.Context, c sandbox.Caller, id string, window time.Duration) (sandbox.Sandbox, sandbox.Metrics, error) {
	sb, err := w.Get(ctx, c, id)
	at := time.Now()
	past := sandbox.Sample{At: at.Add(-10 * time.Second), Counters: sandbox.Counters{CPU: time.Second}, Memory: 1 << 20}
	return sb, sandbox.Metrics{
		Sample: sandbox.Sample{At: at, Counters: sandbox.Counters{CPU: 6 * time.Second}, Memory: 2 << 20}, Past: []sandbox.Sample{past},
		Cores: 0.5, MemoryUsed: 512 << 20, DiskUsed: 1, DiskTotal: 4, Processes: 3, Load: 0.25,
	}, err
}

func (w *world) SetEnv(_ context.Context, c sandbox.Caller, id string, ch sandbox.EnvChange) (sandbox.Sandbox, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	sb, err := w.find(c, id)
	if err != nil {
		return sandbox.Sandbox{}, err
	}
	env := map[string]string{}
	if !ch.Replace {
		maps.Copy(env, sb.Spec.Env)
	}
	for _, name := range ch.Unset {
		if _, ok := env[name]; !ok {
			return sandbox.Sandbox{}, sandbox.E(sandbox.NotFound, sandbox.CodeNotFound, "the sandbox has no such variable")
		}
		delete(env, name)
	}
	maps.Copy(env, ch.Set)
	sb.Spec.Env = env
	return *sb, nil
}

func (w *world) Tail(_ context.Context, id sandbox.ID, n int) ([]event.Event, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	var list []event.Event
	for _, ev := range w.log {
		if ev.Sandbox == id {
			list = append(list, ev)
		}
	}
	return list[max(len(list)-n, 0):], nil
}

func (w *world) Extend(_ context.Context, c sandbox.Caller, id string, timeout time.Duration) (sandbox.Sandbox, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	sb, err := w.find(c, id)
	if err != nil {
		return sandbox.Sandbox{}, err
	}
	if timeout != 0 {
		sb.Timeout = timeout
	}
	sb.ExtendedAt = time.Now()
	return *sb, nil
}

func (w *world) Stop(ctx context.Context, c sandbox.Caller, id string) (sandbox.Sandbox, error) {
	if sb, err := w.Get(ctx, c, id); err != nil || !sb.State.Live() {
		return sb, err
	} else if sb.Persist {
		w.move(string(sb.ID), sandbox.Paused)
	} else {
		w.move(string(sb.ID), sandbox.Destroyed)
	}
	return w.Get(ctx, c, id)
}

func (w *world) Start(ctx context.Context, c sandbox.Caller, id string) (sandbox.Sandbox, error) {
	if sb, err := w.Get(ctx, c, id); err != nil || sb.State.Live() {
		return sb, err
	} else if sb.State != sandbox.Paused {
		return sb, sandbox.E(sandbox.Conflict, sandbox.CodeNotRunning, "the sandbox has ended")
	} else {
		w.move(string(sb.ID), sandbox.Running)
	}
	return w.Get(ctx, c, id)
}

func (w *world) Restart(ctx context.Context, c sandbox.Caller, id string) (sandbox.Sandbox, error) {
	if sb, err := w.Get(ctx, c, id); err == nil && sb.State == sandbox.Running {
		w.move(string(sb.ID), sandbox.Paused)
	}
	return w.Start(ctx, c, id)
}

// Dial reaches the ports of the tests: an address each.
func (w *world) Dial(ctx context.Context, c sandbox.Caller, id string, port uint16) (context.Context, net.Conn, error) {
	ctx, _, _, err := w.Guest(ctx, c, id)
	if err != nil {
		return nil, nil, err
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", w.ports[port])
	if err != nil {
		err = sandbox.E(sandbox.Conflict, sandbox.CodePortClosed, "nothing answers").Because(err)
	}
	return ctx, conn, err
}

// Drain destroys nothing: the rules are the supervisor's to test.
func (w *world) Drain(context.Context, time.Duration) (destroyed, left int, err error) {
	return 0, 0, nil
}

func (w *world) Ready(ctx context.Context, c sandbox.Caller, id string) (sandbox.Sandbox, error) {
	for {
		w.mu.Lock()
		changed := w.changed
		w.mu.Unlock()
		sb, err := w.Get(ctx, c, id)
		if err != nil || sb.Ready || !sb.State.Live() {
			return sb, err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return sb, context.Cause(ctx)
		}
	}
}

func (w *world) Follow(ctx context.Context, id sandbox.ID, after int64) iter.Seq2[event.Event, error] {
	live := make(chan event.Event, 1024)
	w.mu.Lock()
	w.live = append(w.live, live)
	cuts := w.cuts
	if after < 0 {
		after = int64(len(w.log))
	}
	w.touch()
	w.mu.Unlock()
	return func(yield func(event.Event, error) bool) {
		for {
			w.mu.Lock()
			changed, log, cut := w.changed, w.log, w.cuts > cuts
			w.mu.Unlock()
			if cut {
				yield(event.Event{}, errors.New("disk I/O error"))
				return
			}
			for _, ev := range log {
				if ev.Sandbox == id && ev.Seq > after {
					after = ev.Seq
					if !yield(ev, nil) {
						return
					}
				}
			}
			select {
			case ev := <-live:
				if ev.Sandbox == id && !yield(ev, nil) {
					return
				}
			case <-changed:
			case <-ctx.Done():
				return
			}
		}
	}
}

// cut breaks the log for those who follow it now.
func (w *world) cut() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cuts++
	w.touch()
}

// awaitFollower returns when somebody follows.
func (w *world) awaitFollower() {
	for {
		w.mu.Lock()
		n, changed := len(w.live), w.changed
		w.mu.Unlock()
		if n > 0 {
			return
		}
		<-changed
	}
}

func (w *world) Publish(ev event.Event) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, ch := range w.live {
		select {
		case ch <- ev:
		default:
		}
	}
}

func (w *world) Record(_ context.Context, ev event.Event) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	ev.Seq = int64(len(w.log) + 1)
	w.log = append(w.log, ev)
	w.touch()
	return nil
}

// The keys of the tests: two tenants and an admin.
const keyA, keyB, keyAdmin = "msk_u_a", "msk_u_b", "msk_a_admin"

func firstCallers() map[string]sandbox.Caller {
	return map[string]sandbox.Caller{
		keyA:     {KeyID: "key_a", Tenant: "tnt_a", User: "usr_a", Role: sandbox.Owner, Scopes: sandbox.Owner.May()},
		keyB:     {KeyID: "key_b", Tenant: "tnt_b", User: "usr_b", Role: sandbox.Owner, Scopes: sandbox.Owner.May()},
		keyAdmin: {KeyID: "key_admin", Tenant: "tnt_admin", User: "usr_admin", Admin: true, Role: sandbox.Owner, Scopes: sandbox.AllScopes},
	}
}

// changeCaller changes what a key may from a test, or, without change, revokes it.
func (w *world) changeCaller(secret string, change func(*sandbox.Caller)) {
	w.mu.Lock()
	c := w.callers[secret]
	delete(w.callers, secret)
	if change != nil {
		change(&c)
		w.callers[secret] = c
	}
	w.mu.Unlock()
	w.onAccounts()
}

func (w *world) Authenticate(_ context.Context, secret string) (sandbox.Caller, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if c, ok := w.callers[secret]; ok {
		return c, nil
	}
	return sandbox.Caller{}, sandbox.E(sandbox.Unauthenticated, sandbox.CodeUnauthorized, "no such key")
}

func (w *world) Caller(_ context.Context, keyID string) (sandbox.Caller, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range w.callers {
		if c.KeyID == keyID {
			return c, nil
		}
	}
	return sandbox.Caller{}, sandbox.E(sandbox.Unauthenticated, sandbox.CodeUnauthorized, "no such key")
}

func (w *world) OnAccounts(fn func()) { w.onAccounts = fn }

func (w *world) NewTicket(_ context.Context, keyID string) (string, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	ticket := "sset_" + rand.Text()
	w.tickets[ticket] = keyID
	return ticket, nil
}

func (w *world) Redeem(ctx context.Context, ticket string) (sandbox.Caller, error) {
	w.mu.Lock()
	keyID := w.tickets[ticket]
	delete(w.tickets, ticket)
	w.mu.Unlock()
	return w.Caller(ctx, keyID)
}

func (w *world) RoleOf(context.Context, sandbox.TenantID, string, string) (sandbox.Role, error) {
	return sandbox.Owner, nil
}

func (w *world) Key(_ context.Context, tenant sandbox.TenantID, id string) (sandbox.Key, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, k := range w.keys {
		if k.Tenant == tenant && k.ID == id {
			return k, nil
		}
	}
	return sandbox.Key{}, sandbox.E(sandbox.NotFound, sandbox.CodeNotFound, "key not found")
}

func (w *world) CreateTenant(_ context.Context, t sandbox.Tenant) (sandbox.Tenant, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	t.ID, t.CreatedAt = sandbox.TenantID(sandbox.NewName("tnt_")), time.Now()
	w.tenants = append(w.tenants, t)
	return t, nil
}

func (w *world) Tenants(context.Context) ([]sandbox.Tenant, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.tenants), nil
}

func (w *world) DeleteTenant(_ context.Context, id sandbox.TenantID) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i, t := range w.tenants {
		if t.ID == id {
			w.tenants = slices.Delete(w.tenants, i, i+1)
			return nil
		}
	}
	return sandbox.E(sandbox.NotFound, sandbox.CodeNotFound, "tenant not found")
}

func (w *world) CreateKey(_ context.Context, k sandbox.Key) (sandbox.Key, string, error) {
	secret := "msk_u_" + rand.Text()
	k.ID, k.Prefix, k.CreatedAt = sandbox.NewName("key_"), secret[:10], time.Now()
	orElse(&k.User, "usr_x")
	orElse(&k.Type, sandbox.UserKey)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.keys = append(w.keys, k)
	return k, secret, nil
}

func (w *world) Keys(_ context.Context, tenant sandbox.TenantID) ([]sandbox.Key, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	var out []sandbox.Key
	for _, k := range w.keys {
		if k.Tenant == tenant {
			out = append(out, k)
		}
	}
	return out, nil
}

func (w *world) DeleteKey(_ context.Context, tenant sandbox.TenantID, id string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i, k := range w.keys {
		if k.Tenant == tenant && k.ID == id {
			w.keys = slices.Delete(w.keys, i, i+1)
			return nil
		}
	}
	return sandbox.E(sandbox.NotFound, sandbox.CodeNotFound, "key not found")
}

// fakeAgent plays the agent: commands are Go functions, files are in a map.
type fakeAgent struct {
	guestpbconnect.UnimplementedAgentHandler
	client *guest.Client

	mu       sync.Mutex
	files    map[string][]byte
	received int64 // bytes of bodies that were thrown away (files under /null)
	commands map[string]func(*process)
	started  []*guestpb.StartRequest
	noBash   bool
	breakOff func() // cuts every connection
	ended    chan struct{}
	any      func(*process) bool // runs what it knows before commands are looked at
	told     chan any            // what processes were sent: input, sizes, signals
	services []*guestpb.Service
	spawned  []*spawned
	// spawnHook is told of each app that is started.
	spawnHook func(id uint64)
	stepped   chan struct{} // closed and remade when one of spawned changes
}

// process is a running command.
type process struct {
	ctx context.Context
	req *guestpb.StartRequest
	out *connect.ServerStream[guestpb.ProcessEvent]
}

func (p *process) stdout(s string) error { return p.write(guestpb.ProcessEvent_STDOUT, s) }
func (p *process) stderr(s string) error { return p.write(guestpb.ProcessEvent_STDERR, s) }

func (p *process) write(stream guestpb.ProcessEvent_Stream, s string) error {
	return p.out.Send(&guestpb.ProcessEvent{Event: &guestpb.ProcessEvent_Output_{Output: &guestpb.ProcessEvent_Output{Stream: stream, Data: []byte(s)}}})
}

func (p *process) exit(e *guestpb.ProcessEvent_Exited) {
	_ = p.out.Send(&guestpb.ProcessEvent{Event: &guestpb.ProcessEvent_Exited_{Exited: e}})
}

func newFakeAgent(t *testing.T) *fakeAgent {
	a := &fakeAgent{files: map[string][]byte{}, commands: map[string]func(*process){}, ended: make(chan struct{}), told: make(chan any), stepped: make(chan struct{})}
	mux := http.NewServeMux()
	mux.Handle(guestpbconnect.NewAgentHandler(a))
	mux.HandleFunc("/files", a.serveFile)
	mux.HandleFunc("POST /files/spool", a.spool)
	mux.HandleFunc("POST /files/commit", a.commit)
	mux.HandleFunc("/files/archive", a.archive)
	mux.HandleFunc("/files/capture", func(http.ResponseWriter, *http.Request) {}) // a tree of nothing
	srv := httptest.NewServer(mux)
	a.client = guest.NewClient(func(ctx context.Context) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "tcp", srv.Listener.Addr().String())
	})
	a.breakOff = srv.CloseClientConnections
	t.Cleanup(func() { close(a.ended); a.client.Close(); srv.CloseClientConnections(); srv.Close() })
	return a
}

func (a *fakeAgent) Start(ctx context.Context, req *connect.Request[guestpb.StartRequest], out *connect.ServerStream[guestpb.ProcessEvent]) error {
	args := req.Msg.Args
	if a.noBash && args[0] == "/bin/bash" {
		_ = out.Send(&guestpb.ProcessEvent{Event: &guestpb.ProcessEvent_Started_{Started: &guestpb.ProcessEvent_Started{}}})
		p := &process{ctx, req.Msg, out}
		_ = p.stderr("/bin/bash: no such file or directory\n")
		p.exit(&guestpb.ProcessEvent_Exited{ExitCode: 127})
		return nil
	}
	if req.Msg.Cwd == "/missing" {
		return guest.WireError(sandbox.E(sandbox.Invalid, sandbox.CodeWorkdirNotFound, "/missing: no such folder"))
	}
	command := strings.Join(args, " ") // plain words come without a shell
	if len(args) == 3 && args[1] == "-c" {
		command = args[2]
	}
	a.mu.Lock()
	a.started = append(a.started, req.Msg)
	run := a.commands[command]
	a.mu.Unlock()
	if err := out.Send(&guestpb.ProcessEvent{Event: &guestpb.ProcessEvent_Started_{Started: &guestpb.ProcessEvent_Started{Pid: 7}}}); err != nil {
		return err
	}
	p := &process{ctx, req.Msg, out}
	if a.any != nil && a.any(p) {
		return nil
	}
	if run == nil {
		_ = p.stderr("sh: " + command + ": not found\n")
		p.exit(&guestpb.ProcessEvent_Exited{ExitCode: 127})
		return nil
	}
	run(p)
	return nil
}

// tell hands what a process is sent to the test, or to its command.
func tell[T any](ctx context.Context, a *fakeAgent, msg any, res *T) (*connect.Response[T], error) {
	select {
	case a.told <- msg:
		return connect.NewResponse(res), nil
	case <-a.ended:
		return nil, guest.WireError(noFile)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (a *fakeAgent) SendInput(ctx context.Context, req *connect.Request[guestpb.SendInputRequest]) (*connect.Response[guestpb.SendInputResponse], error) {
	return tell(ctx, a, req.Msg, &guestpb.SendInputResponse{})
}

func (a *fakeAgent) Resize(ctx context.Context, req *connect.Request[guestpb.ResizeRequest]) (*connect.Response[guestpb.ResizeResponse], error) {
	return tell(ctx, a, req.Msg, &guestpb.ResizeResponse{})
}

func (a *fakeAgent) Signal(ctx context.Context, req *connect.Request[guestpb.SignalRequest]) (*connect.Response[guestpb.SignalResponse], error) {
	if id := req.Msg.Id; a.spawnedKind(id) == kindProcess || a.spawnedKind(id) == kindCommand || a.spawnedKind(id) == guest.KindApp {
		a.ends(id, 128+req.Msg.Signal)
		return connect.NewResponse(&guestpb.SignalResponse{}), nil
	}
	return tell(ctx, a, req.Msg, &guestpb.SignalResponse{})
}

// hang says nothing until the caller has left, or the agent ends.
func (a *fakeAgent) hang(ctx context.Context) {
	select {
	case <-ctx.Done():
	case <-a.ended:
	}
}

func (a *fakeAgent) entry(path string) *guestpb.Entry {
	body, ok := a.files[path]
	if !ok {
		return nil
	}
	return &guestpb.Entry{
		Name: path[strings.LastIndex(path, "/")+1:], Path: path, Type: guestpb.Entry_FILE, Size: int64(len(body)), Mode: 0o644,
		ModifiedUnixNano: time.Now().UnixNano(),
	}
}

var noFile = sandbox.E(sandbox.NotFound, sandbox.CodeFileNotFound, "no such file")

func (a *fakeAgent) Stat(ctx context.Context, req *connect.Request[guestpb.StatRequest]) (*connect.Response[guestpb.StatResponse], error) {
	if req.Msg.Path == "/mute" {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	e := a.entry(req.Msg.Path)
	if e == nil {
		return nil, guest.WireError(noFile)
	}
	return connect.NewResponse(&guestpb.StatResponse{Entry: e}), nil
}

func (a *fakeAgent) ListDir(ctx context.Context, req *connect.Request[guestpb.ListDirRequest]) (*connect.Response[guestpb.ListDirResponse], error) {
	if req.Msg.Path == "/mute" {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	var res guestpb.ListDirResponse
	for path := range a.files {
		if strings.HasPrefix(path, strings.TrimSuffix(req.Msg.Path, "/")+"/") {
			res.Entries = append(res.Entries, a.entry(path))
		}
	}
	slices.SortFunc(res.Entries, func(x, y *guestpb.Entry) int { return strings.Compare(x.Path, y.Path) })
	return connect.NewResponse(&res), nil
}

func (a *fakeAgent) Remove(_ context.Context, req *connect.Request[guestpb.RemoveRequest]) (*connect.Response[guestpb.RemoveResponse], error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.files, req.Msg.Path)
	return connect.NewResponse(&guestpb.RemoveResponse{}), nil
}

// changed answers a change of what is at path, whose content it gets.
func (a *fakeAgent) changed(from, path string, forget bool) (*guestpb.Entry, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	body, ok := a.files[from]
	if !ok {
		return nil, guest.WireError(noFile)
	}
	if forget {
		delete(a.files, from)
	}
	a.files[path] = body
	return a.entry(path), nil
}

func (a *fakeAgent) MakeDir(_ context.Context, req *connect.Request[guestpb.MakeDirRequest]) (*connect.Response[guestpb.MakeDirResponse], error) {
	e := &guestpb.Entry{Name: "x", Path: req.Msg.Path, Type: guestpb.Entry_DIRECTORY, Mode: 0o755}
	return connect.NewResponse(&guestpb.MakeDirResponse{Entry: e}), nil
}

func (a *fakeAgent) Move(_ context.Context, req *connect.Request[guestpb.MoveRequest]) (*connect.Response[guestpb.MoveResponse], error) {
	e, err := a.changed(req.Msg.From, req.Msg.To, true)
	return connect.NewResponse(&guestpb.MoveResponse{Entry: e}), err
}

func (a *fakeAgent) Copy(_ context.Context, req *connect.Request[guestpb.CopyRequest]) (*connect.Response[guestpb.CopyResponse], error) {
	e, err := a.changed(req.Msg.From, req.Msg.To, false)
	return connect.NewResponse(&guestpb.CopyResponse{Entry: e}), err
}

func (a *fakeAgent) Change(_ context.Context, req *connect.Request[guestpb.ChangeRequest]) (*connect.Response[guestpb.ChangeResponse], error) {
	e, err := a.changed(req.Msg.Path, req.Msg.Path, false)
	return connect.NewResponse(&guestpb.ChangeResponse{Entry: e}), err
}

func (a *fakeAgent) Glob(context.Context, *connect.Request[guestpb.GlobRequest]) (*connect.Response[guestpb.GlobResponse], error) {
	return connect.NewResponse(&guestpb.GlobResponse{Entries: []*guestpb.Entry{{Name: "x", Path: "/w/x", Type: guestpb.Entry_SYMLINK, SymlinkTarget: "y"}}}), nil
}

func (a *fakeAgent) Search(context.Context, *connect.Request[guestpb.SearchRequest]) (*connect.Response[guestpb.SearchResponse], error) {
	m := &guestpb.SearchResponse_Match{Path: "/w/x", Line: 3, Column: 1, Text: "x", HasBefore: true, Before: "a\nb"}
	return connect.NewResponse(&guestpb.SearchResponse{Matches: []*guestpb.SearchResponse_Match{m}, Files: 2}), nil
}

func (a *fakeAgent) Replace(context.Context, *connect.Request[guestpb.ReplaceRequest]) (*connect.Response[guestpb.ReplaceResponse], error) {
	return connect.NewResponse(&guestpb.ReplaceResponse{Files: []*guestpb.ReplaceResponse_File{{Path: "/w/x", Replacements: 2}, {Path: "/w/y", Error: "no"}}}), nil
}

// Watch tells of one change; then the folder is gone.
func (a *fakeAgent) Watch(_ context.Context, req *connect.Request[guestpb.WatchRequest], out *connect.ServerStream[guestpb.WatchEvent]) error {
	for _, kind := range []guestpb.WatchEvent_Kind{guestpb.WatchEvent_WATCHING, guestpb.WatchEvent_RENAMED, guestpb.WatchEvent_OVERFLOW, guestpb.WatchEvent_GONE} {
		if err := out.Send(&guestpb.WatchEvent{Kind: kind, Path: req.Msg.Path + "/x", OldPath: req.Msg.Path + "/y"}); err != nil {
			return err
		}
	}
	return nil
}

func (a *fakeAgent) archive(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodPut {
		if _, err := io.Copy(io.Discard, r.Body); err == nil {
			_ = json.NewEncoder(w).Encode(map[string]any{"entries": 1})
		}
		return
	}
	_, _ = io.WriteString(w, "archive")
}

// zeros is a file without end; /zeros/N has N bytes.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func (a *fakeAgent) serveFile(w http.ResponseWriter, r *http.Request) {
	path := r.URL.Query().Get("path")
	if path == "/mute" {
		a.hang(r.Context())
		return
	}
	if r.Method == http.MethodGet {
		if path == "/mute/later" {
			w.Header().Set("Content-Length", "10")
			_, _ = io.WriteString(w, "x")
			_ = http.NewResponseController(w).Flush()
			a.hang(r.Context())
			return
		}
		var size int64
		if n, _ := fmt.Sscanf(path, "/zeros/%d", &size); n == 1 {
			w.Header().Set("Content-Length", fmt.Sprint(size))
			_, _ = io.CopyN(w, zeros{}, size)
			return
		}
		a.mu.Lock()
		body, ok := a.files[path]
		a.mu.Unlock()
		if !ok {
			refuse(w, noFile)
			return
		}
		http.ServeContent(w, r, "", time.Now(), strings.NewReader(string(body)))
		return
	}
	n, ok := a.store(w, r, path)
	if ok {
		_ = json.NewEncoder(w).Encode(map[string]any{"path": path, "size": n})
	}
}

// store keeps a body, whole or not at all.
func (a *fakeAgent) store(w http.ResponseWriter, r *http.Request, path string) (int64, bool) {
	if strings.HasPrefix(path, "/full") {
		refuse(w, sandbox.E(sandbox.Exhausted, sandbox.CodeNoSpace, "no space left"))
		return 0, false
	}
	if strings.HasPrefix(path, "/null") {
		n, err := io.Copy(io.Discard, r.Body)
		a.mu.Lock()
		defer a.mu.Unlock()
		a.received += n
		return n, err == nil
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return 0, false
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.files[path] = body
	return int64(len(body)), true
}

func (a *fakeAgent) spool(w http.ResponseWriter, r *http.Request) {
	path := "/.spool/" + rand.Text()
	if n, ok := a.store(w, r, path); ok {
		_ = json.NewEncoder(w).Encode(map[string]any{"path": path, "size": n})
	}
}

func (a *fakeAgent) commit(w http.ResponseWriter, r *http.Request) {
	from, to := r.URL.Query().Get("from"), r.URL.Query().Get("to")
	if to == "/mute" {
		a.hang(r.Context())
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if to == "/dir" {
		refuse(w, sandbox.E(sandbox.Conflict, sandbox.CodeIsDirectory, "/dir is a folder"))
		return
	}
	a.files[to] = a.files[from]
	delete(a.files, from)
	_ = json.NewEncoder(w).Encode(map[string]any{"path": to, "size": len(a.files[to])})
}

func refuse(w http.ResponseWriter, e *sandbox.Error) {
	w.Header().Set(guest.CodeHeader, e.Code)
	w.WriteHeader(http.StatusConflict)
	_, _ = io.WriteString(w, e.Message)
}

// serveWorld starts the server over real HTTP and returns its base URL.
func serveWorld(t *testing.T, cfg Config) (*world, *Server, string) {
	t.Helper()
	return serveWorldWith(t, cfg, func(*Deps) {})
}

// serveWorldWith is serveWorld with other things behind the server.
func serveWorldWith(t *testing.T, cfg Config, change func(*Deps)) (*world, *Server, string) {
	t.Helper()
	w := newWorld(t)
	deps := Deps{Sandboxes: w, Snapshots: w, Storage: fakeStorage{}, Parcels: fakeParcels{w}, Events: w, Accounts: w, Templates: w.catalogue(t), Directory: w.rows, Books: w.rows, Audit: w.rows}
	change(&deps)
	s := New(cfg, deps)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve(ln) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = s.Shutdown(ctx)
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return w, s, "http://" + ln.Addr().String()
}
