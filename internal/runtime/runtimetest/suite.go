// Package runtimetest holds what every driver must do, as tests, and a fake driver
// with fault knobs, so that rules and routes can be tested without a host.
package runtimetest

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"silica.dev/silica/internal/guest"
	"silica.dev/silica/internal/guest/guestpb"
	"silica.dev/silica/internal/runtime"
	"silica.dev/silica/sandbox"
)

// Fixture is one driver on a host of its own. Nothing is running on it.
type Fixture struct {
	Driver    runtime.Driver
	Image     sandbox.Ref // holds an agent, a shell, echo, cat, od and sleep
	Resources sandbox.Resources

	// Reopen ends the driver as a crash of its daemon would and returns a new
	// one on the same data. nil skips what needs it.
	Reopen func() runtime.Driver
	// Kill ends a sandbox as a crash of its kernel would. nil skips.
	Kill func(id sandbox.ID) error
	// Damage spoils a stored snapshot. nil skips.
	Damage func(ref sandbox.Ref) error
}

// patience bounds each wait in the suite. It is no measure of speed.
const patience = 60 * time.Second

// Run holds a driver to its contract. Every case gets a fixture of its own.
func Run(t *testing.T, newFixture func(t *testing.T) Fixture) {
	cases := []struct {
		name string
		run  func(t *testing.T, h *harness)
	}{
		{"starts from an image and runs a command", startsCold},
		{"takes an identity more than once", takesIdentity},
		{"copies of a snapshot share its memory and files, not its randomness", copies},
		{"a snapshot leaves its sandbox running", snapshotLeavesRunning},
		{"starts several at once", startsSeveral},
		{"destroy frees everything, twice and of the unknown too", destroys},
		{"wait returns when a sandbox is destroyed", waitDestroyed},
		{"wait says why a sandbox died by itself", waitKilled},
		{"names every sandbox and no other", lists},
		{"dialing what isn't there fails at once", dialsNothing},
		{"a connection breaks when its sandbox ends", connectionBreaks},
		{"sandboxes survive their driver", survivesRestart},
		{"blames a snapshot it can't restore", blamesSnapshot},
		{"a cancelled start leaves nothing behind", cancelledStart},
		{"kept files come back in a cold start", keepsFiles},
		{"a sandbox whose files were kept stands still until it is thawed", thaws},
		{"keeping the files of what isn't there fails", keepsNothing},
		{"a suspended sandbox goes on where it stood", suspends},
		{"a capture leaves its sandbox running, and copies start from it", captures},
		{"the files come back when the memory can't be restored", filesWithoutMemory},
		{"a suspended sandbox stands still until it is thawed", thawsSuspended},
		{"measures use", meters},
		{"prepared slots are no sandboxes", prepares},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) { c.run(t, newHarness(t, newFixture(t))) })
	}
}

// harness is a fixture with the verbs the cases are written in.
type harness struct {
	Fixture
	t   *testing.T
	ctx context.Context
}

func newHarness(t *testing.T, f Fixture) *harness {
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	h := &harness{Fixture: f, t: t, ctx: ctx}
	t.Cleanup(func() {
		defer cancel()
		ids, err := h.Driver.List(ctx)
		if err != nil {
			t.Errorf("List at the end: %v", err)
		}
		for _, id := range ids {
			if err := h.Driver.Destroy(ctx, id); err != nil {
				t.Errorf("Destroy(%s) at the end: %v", id, err)
			}
		}
	})
	return h
}

func (h *harness) start(snapshot sandbox.Ref) sandbox.ID {
	h.t.Helper()
	id := sandbox.NewID()
	if err := h.Driver.Start(h.ctx, h.request(id, snapshot)); err != nil {
		h.t.Fatalf("Start(snapshot %q): %v", snapshot, err)
	}
	return id
}

func (h *harness) request(id sandbox.ID, snapshot sandbox.Ref) runtime.StartRequest {
	return runtime.StartRequest{ID: id, Resources: h.Resources, Image: h.Image, Snapshot: snapshot}
}

func (h *harness) agent(id sandbox.ID) *guest.Client {
	c := guest.NewClient(func(ctx context.Context) (net.Conn, error) { return h.Driver.Dial(ctx, id, guest.Port) })
	h.t.Cleanup(c.Close)
	return c
}

// init gives id an identity and returns the agent's seed.
func (h *harness) init(id sandbox.ID) string {
	h.t.Helper()
	entropy := make([]byte, 32)
	_, _ = rand.Read(entropy)
	res, err := h.agent(id).Init(h.ctx, &guestpb.InitRequest{
		Hostname: "s" + strings.ToLower(string(id[len(id)-8:])), UnixNano: time.Now().UnixNano(), Entropy: entropy,
		Env: map[string]string{"WHO": string(id)},
	})
	if err != nil {
		h.t.Fatalf("Init(%s): %v", id, err)
	}
	if res.Seed == "" {
		h.t.Fatalf("Init(%s) names no seed", id)
	}
	return res.Seed
}

func (h *harness) sh(id sandbox.ID, script string) string {
	h.t.Helper()
	out, code, err := exec(h.ctx, h.agent(id), "sh", "-c", script)
	if err != nil || code != 0 {
		h.t.Fatalf("sh -c %q in %s: exit %d, output %q, error %v", script, id, code, out, err)
	}
	return out
}

// exec runs a program and returns its standard output.
func exec(ctx context.Context, c *guest.Client, args ...string) (stdout string, code int, err error) {
	var out bytes.Buffer
	code = -1
	for ev, err := range c.Start(ctx, &guestpb.StartRequest{Args: args}) {
		if err != nil {
			return out.String(), code, err
		}
		if o := ev.GetOutput(); o != nil && o.Stream == guestpb.ProcessEvent_STDOUT {
			out.Write(o.Data)
		}
		if e := ev.GetExited(); e != nil {
			code = int(e.ExitCode)
		}
	}
	return out.String(), code, nil
}

func (h *harness) list() []sandbox.ID {
	h.t.Helper()
	ids, err := h.Driver.List(h.ctx)
	if err != nil {
		h.t.Fatalf("List: %v", err)
	}
	return ids
}

func (h *harness) destroy(id sandbox.ID) {
	h.t.Helper()
	if err := h.Driver.Destroy(h.ctx, id); err != nil {
		h.t.Fatalf("Destroy(%s): %v", id, err)
	}
}

func (h *harness) snapshotter() runtime.Snapshotter {
	s, ok := h.Driver.(runtime.Snapshotter)
	if !ok {
		h.t.Skip("the driver keeps no snapshots")
	}
	return s
}

func (h *harness) snapshot(id sandbox.ID) sandbox.Ref {
	h.t.Helper()
	ref, err := h.snapshotter().Snapshot(h.ctx, id)
	if err != nil {
		h.t.Fatalf("Snapshot(%s): %v", id, err)
	}
	return ref
}

func isNotFound(err error) bool {
	var e *sandbox.Error
	return errors.As(err, &e) && e.Kind == sandbox.NotFound
}

func startsCold(t *testing.T, h *harness) {
	id := h.start("")
	h.init(id)
	if got := h.sh(id, "echo hello"); got != "hello\n" {
		t.Errorf("echo hello printed %q", got)
	}
	if got := h.sh(id, "echo $WHO"); got != string(id)+"\n" {
		t.Errorf("the environment of Init did not arrive: got %q, want %q", got, id)
	}
}

func takesIdentity(t *testing.T, h *harness) {
	id := h.start("")
	if a, b := h.init(id), h.init(id); a != b {
		t.Errorf("the agent's seed changed from %q to %q", a, b)
	}
}

const randomBytes = "od -An -tx1 -N16 /dev/urandom"

func copies(t *testing.T, h *harness) {
	h.snapshotter()
	origin := h.start("")
	seed := h.init(origin)
	h.sh(origin, "echo kept > /root/kept")
	ref := h.snapshot(origin)
	h.destroy(origin)

	random := map[string]sandbox.ID{}
	for range 2 {
		id := h.start(ref)
		if got := h.init(id); got != seed {
			t.Errorf("copy %s has seed %q, the original %q: it did not come from memory", id, got, seed)
		}
		if got := h.sh(id, "cat /root/kept"); got != "kept\n" {
			t.Errorf("copy %s has %q in its file, want kept", id, got)
		}
		bytes := h.sh(id, randomBytes)
		if other, ok := random[bytes]; ok {
			t.Errorf("copies %s and %s drew the same random bytes %q", id, other, bytes)
		}
		random[bytes] = id
	}
}

func snapshotLeavesRunning(t *testing.T, h *harness) {
	h.snapshotter()
	id := h.start("")
	h.init(id)
	h.snapshot(id)
	if got := h.sh(id, "echo on"); got != "on\n" {
		t.Errorf("after a snapshot echo printed %q", got)
	}
}

func startsSeveral(t *testing.T, h *harness) {
	const n = 3
	ids, errs := make([]sandbox.ID, n), make([]error, n)
	var wg sync.WaitGroup
	for i := range ids {
		ids[i] = sandbox.NewID()
		wg.Go(func() { errs[i] = h.Driver.Start(h.ctx, h.request(ids[i], "")) })
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatalf("Start of %d at once: %v", n, err)
	}
	for i, id := range ids {
		h.init(id)
		if got, want := h.sh(id, fmt.Sprintf("echo %d", i)), fmt.Sprintf("%d\n", i); got != want {
			t.Errorf("echo in %s printed %q, want %q", id, got, want)
		}
	}
}

func destroys(t *testing.T, h *harness) {
	id := h.start("")
	h.destroy(id)
	h.destroy(id)
	h.destroy(sandbox.NewID())
	if got := h.list(); len(got) != 0 {
		t.Errorf("List after Destroy = %v", got)
	}
	if err := h.Driver.Start(h.ctx, h.request(id, "")); err != nil {
		t.Errorf("Start of an id that was destroyed: %v", err)
	}
}

// waiting starts Wait and returns its result's channel.
func (h *harness) waiting(id sandbox.ID) <-chan runtime.Exit {
	done := make(chan runtime.Exit, 1)
	go func() {
		exit, err := h.Driver.Wait(h.ctx, id)
		if err != nil && !isNotFound(err) {
			h.t.Errorf("Wait(%s): %v", id, err)
		}
		done <- exit
	}()
	return done
}

func (h *harness) within(what string, done <-chan runtime.Exit) runtime.Exit {
	h.t.Helper()
	select {
	case e := <-done:
		return e
	case <-time.After(patience):
		h.t.Fatalf("%s did not happen within %v", what, patience)
		return runtime.Exit{}
	}
}

func waitDestroyed(t *testing.T, h *harness) {
	id := h.start("")
	a, b := h.waiting(id), h.waiting(id)
	select {
	case e := <-a:
		t.Fatalf("Wait returned %+v while the sandbox ran", e)
	case <-time.After(50 * time.Millisecond): // long enough for a wrong answer to come
	}
	h.destroy(id)
	h.within("the first Wait's return", a)
	h.within("the second Wait's return", b)
	if _, err := h.Driver.Wait(h.ctx, sandbox.NewID()); !isNotFound(err) {
		t.Errorf("Wait of an unknown id = %v, want NotFound", err)
	}
}

func waitKilled(t *testing.T, h *harness) {
	if h.Kill == nil {
		t.Skip("the fixture can't kill")
	}
	id := h.start("")
	done := h.waiting(id)
	if err := h.Kill(id); err != nil {
		t.Fatalf("Kill(%s): %v", id, err)
	}
	if e := h.within("Wait's return after a kill", done); e.Reason == "" {
		t.Errorf("Wait names no reason: %+v", e)
	}
	h.destroy(id)
	if got := h.list(); len(got) != 0 {
		t.Errorf("List after the death and Destroy = %v", got)
	}
}

func lists(t *testing.T, h *harness) {
	want := []sandbox.ID{h.start(""), h.start("")}
	slices.Sort(want)
	if got := h.list(); !slices.Equal(got, want) {
		t.Errorf("List = %v, want %v", got, want)
	}
	h.destroy(want[0])
	if got := h.list(); !slices.Equal(got, want[1:]) {
		t.Errorf("List after one Destroy = %v, want %v", got, want[1:])
	}
}

func dialsNothing(t *testing.T, h *harness) {
	if c, err := h.Driver.Dial(h.ctx, sandbox.NewID(), guest.Port); !isNotFound(err) {
		closeConn(c)
		t.Errorf("Dial of an unknown sandbox = %v, want NotFound", err)
	}
	id := h.start("")
	if c, err := h.Driver.Dial(h.ctx, id, 9); err == nil {
		closeConn(c)
		t.Error("Dial of a port nobody listens on succeeded")
	}
	h.destroy(id)
	if c, err := h.Driver.Dial(h.ctx, id, guest.Port); !isNotFound(err) {
		closeConn(c)
		t.Errorf("Dial of a destroyed sandbox = %v, want NotFound", err)
	}
}

func closeConn(c net.Conn) {
	if c != nil {
		_ = c.Close()
	}
}

func connectionBreaks(t *testing.T, h *harness) {
	id := h.start("")
	c, err := h.Driver.Dial(h.ctx, id, guest.Port)
	if err != nil {
		t.Fatalf("Dial: %v", err)
	}
	defer c.Close()
	broken := make(chan error, 1)
	go func() {
		_, err := io.Copy(io.Discard, c)
		broken <- err
	}()
	h.destroy(id)
	select {
	case <-broken:
	case <-time.After(patience):
		t.Fatalf("a connection hangs %v after its sandbox was destroyed", patience)
	}
}

func survivesRestart(t *testing.T, h *harness) {
	if h.Reopen == nil {
		t.Skip("the fixture can't reopen")
	}
	id := h.start("")
	seed := h.init(id)
	h.sh(id, "echo before > /root/when")
	h.Driver = h.Reopen()
	if got := h.list(); !slices.Equal(got, []sandbox.ID{id}) {
		t.Fatalf("List of the new driver = %v, want %v", got, id)
	}
	if got := h.init(id); got != seed {
		t.Errorf("the agent's seed changed from %q to %q", seed, got)
	}
	if got := h.sh(id, "cat /root/when"); got != "before\n" {
		t.Errorf("the file holds %q after the restart", got)
	}
	done := h.waiting(id)
	h.destroy(id)
	h.within("the new driver's Wait", done)
	if got := h.list(); len(got) != 0 {
		t.Errorf("List after Destroy by the new driver = %v", got)
	}
}

func blamesSnapshot(t *testing.T, h *harness) {
	h.snapshotter()
	refs := map[string]sandbox.Ref{"missing": sandbox.Ref("sha256:" + strings.Repeat("0", 64))}
	if h.Damage != nil {
		origin := h.start("")
		h.init(origin)
		refs["damaged"] = h.snapshot(origin)
		h.destroy(origin)
		if err := h.Damage(refs["damaged"]); err != nil {
			t.Fatalf("Damage: %v", err)
		}
	}
	for what, ref := range refs {
		id := sandbox.NewID()
		if err := h.Driver.Start(h.ctx, h.request(id, ref)); !errors.Is(err, runtime.ErrSnapshotUnusable) {
			t.Errorf("Start from a %s snapshot = %v, want ErrSnapshotUnusable", what, err)
		}
		if got := h.list(); len(got) != 0 {
			t.Errorf("a %s snapshot left %v behind", what, got)
		}
		if err := h.Driver.Start(h.ctx, h.request(id, "")); err != nil {
			t.Errorf("the same sandbox does not start without the %s snapshot: %v", what, err)
		}
		h.destroy(id)
	}
}

func cancelledStart(t *testing.T, h *harness) {
	for _, after := range []time.Duration{0, time.Millisecond, 10 * time.Millisecond, 25 * time.Millisecond} {
		id := sandbox.NewID()
		ctx, cancel := context.WithTimeout(h.ctx, after)
		err := h.Driver.Start(ctx, h.request(id, ""))
		cancel()
		if err != nil {
			if got := h.list(); len(got) != 0 {
				t.Errorf("a start cancelled after %v (%v) left %v behind", after, err, got)
			}
			if err := h.Driver.Start(h.ctx, h.request(id, "")); err != nil {
				t.Errorf("Start after one cancelled at %v: %v", after, err)
			}
		}
		h.destroy(id)
	}
}

func meters(t *testing.T, h *harness) {
	m, ok := h.Driver.(runtime.Meter)
	if !ok {
		t.Skip("the driver does not measure")
	}
	id := h.start("")
	h.init(id)
	u, err := m.Usage(h.ctx, id)
	if err != nil || u.Memory <= 0 || u.CPU <= 0 {
		t.Errorf("Usage = %+v, %v; want memory and CPU time above 0", u, err)
	}
	if _, err := m.Usage(h.ctx, sandbox.NewID()); !isNotFound(err) {
		t.Errorf("Usage of an unknown id = %v, want NotFound", err)
	}
}

func prepares(t *testing.T, h *harness) {
	p, ok := h.Driver.(runtime.Pooler)
	if !ok {
		t.Skip("the driver has no slots")
	}
	if err := p.Prepare(h.ctx, h.Image, h.Resources, 2); err != nil {
		t.Fatalf("Prepare: %v", err)
	}
	for range 3 { // one more than there are slots
		id := h.start("")
		h.init(id)
		if got := h.list(); !slices.Equal(got, []sandbox.ID{id}) {
			t.Errorf("List = %v, want only %s", got, id)
		}
		h.destroy(id)
	}
	if err := p.Prepare(h.ctx, h.Image, h.Resources, 0); err != nil {
		t.Fatalf("Prepare of none: %v", err)
	}
}

func (h *harness) keeper() runtime.FileKeeper {
	k, ok := h.Driver.(runtime.FileKeeper)
	if !ok {
		h.t.Skip("the driver keeps no files")
	}
	return k
}

func (h *harness) keep(id sandbox.ID) sandbox.Ref {
	h.t.Helper()
	ref, err := h.keeper().KeepFiles(h.ctx, id)
	if err != nil {
		h.t.Fatalf("KeepFiles(%s): %v", id, err)
	}
	return ref
}

func (h *harness) startWith(id sandbox.ID, files sandbox.Ref) {
	h.t.Helper()
	req := h.request(id, "")
	req.Files = files
	if err := h.Driver.Start(h.ctx, req); err != nil {
		h.t.Fatalf("Start(files %q): %v", files, err)
	}
}

func keepsFiles(t *testing.T, h *harness) {
	h.keeper()
	id := h.start("")
	h.init(id)
	h.sh(id, "echo one > /root/kept")
	first := h.keep(id)
	h.destroy(id)
	for round, want := range []string{"one", "one"} { // the same files may be started from again
		h.startWith(id, first)
		h.init(id)
		if got := strings.TrimSpace(h.sh(id, "cat /root/kept")); got != want {
			t.Errorf("round %d: the file holds %q, want %q", round, got, want)
		}
		h.sh(id, "echo two > /root/kept")
		if round == 0 {
			h.destroy(id)
		}
	}
	second := h.keep(id)
	if second == first {
		t.Error("two keeps made one blob")
	}
	h.destroy(id)
	h.startWith(id, second)
	h.init(id)
	if got := strings.TrimSpace(h.sh(id, "cat /root/kept")); got != "two" {
		t.Errorf("after the second keep the file holds %q, want \"two\"", got)
	}
}

func thaws(t *testing.T, h *harness) {
	k := h.keeper()
	id := h.start("")
	h.init(id)
	if err := k.Thaw(h.ctx, id); err != nil {
		t.Errorf("Thaw of one that runs: %v", err)
	}
	h.keep(id)
	h.keep(id) // it may be repeated
	for range 2 {
		if err := k.Thaw(h.ctx, id); err != nil {
			t.Fatalf("Thaw: %v", err)
		}
	}
	h.sh(id, "echo still here > /root/after")
	ref := h.keep(id)
	h.destroy(id)
	h.startWith(id, ref)
	h.init(id)
	if got := strings.TrimSpace(h.sh(id, "cat /root/after")); got != "still here" {
		t.Errorf("what was written after the thaw: got %q", got)
	}
}

func keepsNothing(t *testing.T, h *harness) {
	k := h.keeper()
	id := sandbox.NewID()
	if _, err := k.KeepFiles(h.ctx, id); !isNotFound(err) {
		t.Errorf("KeepFiles of an unknown sandbox: got %v, want not found", err)
	}
	if err := k.Thaw(h.ctx, id); !isNotFound(err) {
		t.Errorf("Thaw of an unknown sandbox: got %v, want not found", err)
	}
	req := h.request(id, "")
	req.Files = sandbox.Ref("sha256:" + strings.Repeat("0", 64))
	if err := h.Driver.Start(h.ctx, req); err == nil {
		t.Error("a start with files that are not there succeeded")
	}
	if ids := h.list(); len(ids) != 0 {
		t.Errorf("left behind: %v", ids)
	}
}
