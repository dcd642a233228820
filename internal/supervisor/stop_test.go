package supervisor

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"silica.dev/silica/internal/event"
	"silica.dev/silica/internal/guest/guestpb"
	driver "silica.dev/silica/internal/runtime"
	"silica.dev/silica/internal/runtime/runtimetest"
	"silica.dev/silica/sandbox"
)

// write puts a file into a running sandbox, and read gets it.
func (m *machine) write(sb sandbox.Sandbox, path, text string) {
	m.t.Helper()
	m.run(sb, fmt.Sprintf("echo %s > %s", text, path))
}

func (m *machine) read(sb sandbox.Sandbox, path string) string {
	m.t.Helper()
	return m.run(sb, "cat "+path)
}

func (m *machine) run(sb sandbox.Sandbox, script string) (stdout string) {
	m.t.Helper()
	ctx, cancel := context.WithCancel(m.ctx)
	defer cancel()
	ctx, g, _, err := m.Guest(ctx, m.a, string(sb.ID))
	if err != nil {
		m.t.Fatalf("Guest: %v", err)
	}
	for ev, err := range g.Start(ctx, &guestpb.StartRequest{Args: []string{"sh", "-c", script}}) {
		if err != nil {
			m.t.Fatalf("%s: %v", script, err)
		}
		if o := ev.GetOutput(); o != nil {
			stdout += string(o.Data)
		}
	}
	return stdout
}

func (m *machine) stop(sb sandbox.Sandbox) sandbox.Sandbox {
	m.t.Helper()
	got, err := m.Stop(m.ctx, m.a, string(sb.ID))
	if err != nil {
		m.t.Fatalf("Stop: %v", err)
	}
	return got
}

func (m *machine) start(sb sandbox.Sandbox) sandbox.Sandbox {
	m.t.Helper()
	got, err := m.Start(m.ctx, m.a, string(sb.ID))
	if err != nil || got.State != sandbox.Running {
		m.t.Fatalf("Start = %s (%s), %v", got.State, got.Reason, err)
	}
	return got
}

func TestStopDestroysWhatIsNotPersistent(t *testing.T) {
	m := newMachine(t, Config{})
	sb := m.create(m.a, sandbox.CreateRequest{})
	for range 2 {
		if got := m.stop(sb); got.State != sandbox.Destroyed || got.Reason != reasonStopped {
			t.Fatalf("it is %s (%s), want destroyed", got.State, got.Reason)
		}
	}
	m.nothingOnHost()
	if kept := m.fake.Kept(); len(kept) != 0 {
		t.Errorf("kept: %v", kept)
	}
	if _, err := m.Start(m.ctx, m.a, string(sb.ID)); code(err) != sandbox.CodeNotRunning {
		t.Errorf("start of a destroyed one: %v", err)
	}
}

func TestStopAndStartBringFilesBack(t *testing.T) {
	m := newMachine(t, Config{})
	sb := m.create(m.a, sandbox.CreateRequest{Persist: true, Name: "mine", Env: map[string]string{"A": "b"}, Timeout: time.Hour})
	for round := range 3 {
		text := fmt.Sprintf("round%d", round)
		m.write(sb, "/root/f", text)
		for range 2 { // repeating it changes nothing
			if got := m.stop(sb); got.State != sandbox.Paused || got.Files == "" || got.Ready || got.StoppedAt.IsZero() {
				t.Fatalf("stopped: %+v", got)
			}
		}
		m.eventually("the host has nothing of it", func() bool { return len(m.onHost()) == 0 })
		if kept := m.fake.Kept(); len(kept) != 1 {
			t.Errorf("kept: %v, want the last files only", kept)
		}
		if _, _, _, err := m.Guest(m.ctx, m.a, string(sb.ID)); !errors.Is(err, errPaused) && code(err) != sandbox.CodeNotRunning {
			t.Errorf("work on a paused one: %v", err)
		}
		for range 2 {
			got := m.start(sb)
			if got.ID != sb.ID || got.Slug != sb.Slug || got.Name != "mine" || got.BootPath != sandbox.BootCold || !got.Ready || got.Reason != "" {
				t.Fatalf("started: %+v", got)
			}
		}
		if got := m.read(sb, "/root/f"); got != text+"\n" && got != text {
			t.Errorf("round %d: the file holds %q", round, got)
		}
	}
	if inits := m.fake.Agent(sb.ID).Inits(); inits[0].Env["A"] != "b" || inits[0].Env["FROM"] != "template" || inits[0].Hostname != sb.Slug {
		t.Errorf("identity after a start: %v", inits)
	}
	want := []string{"provisioning", "running"}
	for range 3 {
		want = append(want, "paused", "provisioning", "running")
	}
	if got := m.history(sb.ID); !slices.Equal(got, want) {
		t.Errorf("history %v, want %v", got, want)
	}
	m.stop(sb)
	if got, err := m.Destroy(m.ctx, m.a, string(sb.ID)); err != nil || got.State != sandbox.Destroyed {
		t.Fatalf("Destroy = %s, %v", got.State, err)
	}
	m.nothingOnHost()
	if kept := m.fake.Kept(); len(kept) != 0 {
		t.Errorf("kept after the end: %v", kept)
	}
}

// Paused time is not running time.
func TestRuntimeIsOfRunningOnly(t *testing.T) {
	at := time.Unix(1000, 0)
	sb := sandbox.Sandbox{StartedAt: at, StoppedAt: at.Add(10 * time.Second)}
	if got := sb.Runtime(at.Add(time.Hour)); got != 10*time.Second {
		t.Errorf("paused: %v", got)
	}
	sb.DestroyedAt = at.Add(time.Hour)
	if got := sb.Runtime(at.Add(2 * time.Hour)); got != 10*time.Second {
		t.Errorf("destroyed while paused: %v", got)
	}
	again := sandbox.Sandbox{Ran: 10 * time.Second, StartedAt: at, DestroyedAt: at.Add(5 * time.Second)}
	if got := again.Runtime(at.Add(time.Hour)); got != 15*time.Second {
		t.Errorf("destroyed in its second stretch: %v", got)
	}
}

func TestStopThatCantKeepLeavesItRunning(t *testing.T) {
	m := newMachine(t, Config{})
	sb := m.create(m.a, sandbox.CreateRequest{Persist: true})
	full := sandbox.E(sandbox.Exhausted, sandbox.CodeHostFull, "full")
	m.fake.Set(runtimetest.Knobs{Keep: func(context.Context, sandbox.ID) error { return full }})
	if _, err := m.Stop(m.ctx, m.a, string(sb.ID)); code(err) != sandbox.CodeHostFull || !isKind(err, sandbox.Unavailable) {
		t.Errorf("Stop = %v", err)
	}
	m.write(sb, "/root/f", "x") // it takes work
	if got := m.get(m.a, sb.ID); got.State != sandbox.Running || m.fake.Frozen(sb.ID) {
		t.Errorf("it is %s, frozen %v", got.State, m.fake.Frozen(sb.ID))
	}
	m.fake.Set(runtimetest.Knobs{})
	m.stop(sb)
}

func TestNoWorkIsLetInWhileStopping(t *testing.T) {
	m := newMachine(t, Config{})
	sb := m.create(m.a, sandbox.CreateRequest{Persist: true})
	keeping, goOn := make(chan struct{}), make(chan struct{})
	m.fake.Set(runtimetest.Knobs{Keep: func(context.Context, sandbox.ID) error { close(keeping); <-goOn; return nil }})
	inside, _, _, err := m.Guest(m.ctx, m.a, string(sb.ID))
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { _, err := m.Stop(m.ctx, m.a, string(sb.ID)); done <- err }()
	<-keeping
	if _, _, _, err := m.Guest(m.ctx, m.a, string(sb.ID)); code(err) != sandbox.CodeNotRunning {
		t.Errorf("work while stopping: %v", err)
	}
	close(goOn)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if <-inside.Done(); code(context.Cause(inside)) != sandbox.CodeNotRunning {
		t.Errorf("work on it ended with %v", context.Cause(inside))
	}
}

func TestManyStopsAndStartsAtOnce(t *testing.T) {
	m := newMachine(t, Config{})
	sb := m.create(m.a, sandbox.CreateRequest{Persist: true, Timeout: time.Hour})
	var all sync.WaitGroup
	for i := range 12 {
		all.Go(func() {
			do := m.Stop
			if i%2 == 0 {
				do = m.Start
			}
			if _, err := do(m.ctx, m.a, string(sb.ID)); err != nil && code(err) != sandbox.CodeNotRunning && code(err) != sandbox.CodeUnavailable {
				t.Errorf("at once: %v", err)
			}
		})
	}
	all.Wait()
	m.eventually("it is settled", func() bool { s := m.get(m.a, sb.ID).State; return s == sandbox.Running || s == sandbox.Paused })
	m.start(sb)
	m.stop(sb)
	if kept := m.fake.Kept(); len(kept) != 1 {
		t.Errorf("kept: %v, want one", kept)
	}
}

// Only live ones count against the limit, and a start is held to it.
func TestPausedOnesDontCount(t *testing.T) {
	m := newMachine(t, Config{MaxSandboxes: 1})
	sb := m.create(m.a, sandbox.CreateRequest{Persist: true})
	m.stop(sb)
	other := m.create(m.a, sandbox.CreateRequest{})
	if _, err := m.Start(m.ctx, m.a, string(sb.ID)); code(err) != sandbox.CodeSandboxLimit {
		t.Errorf("start above the limit: %v", err)
	}
	m.stop(other)
	m.host.full.Store(true)
	if _, err := m.Start(m.ctx, m.a, string(sb.ID)); code(err) != sandbox.CodeHostFull {
		t.Errorf("start on a full host: %v", err)
	}
	m.host.full.Store(false)
	m.start(sb)
}

func TestStartThatFailsKeepsTheFiles(t *testing.T) {
	m := newMachine(t, Config{})
	sb := m.create(m.a, sandbox.CreateRequest{Persist: true})
	m.write(sb, "/root/f", "dear")
	m.stop(sb)
	m.fake.Set(runtimetest.Knobs{Start: func(context.Context, driver.StartRequest) error { return errors.New("no") }})
	if _, err := m.Start(m.ctx, m.a, string(sb.ID)); code(err) != sandbox.CodeStartFailed {
		t.Errorf("Start = %v", err)
	}
	m.fake.Set(runtimetest.Knobs{})
	if got := m.get(m.a, sb.ID); got.State != sandbox.Paused {
		t.Fatalf("it is %s (%s)", got.State, got.Reason)
	}
	m.start(sb)
	if got := m.read(sb, "/root/f"); got != "dear\n" && got != "dear" {
		t.Errorf("the file holds %q", got)
	}
}

func TestHardTimeoutPausesWhatIsPersistent(t *testing.T) {
	m := newMachine(t, Config{})
	sb := m.create(m.a, sandbox.CreateRequest{Persist: true, Timeout: time.Second})
	m.eventually("it is paused", func() bool { return m.get(m.a, sb.ID).State == sandbox.Paused })
	if got := m.get(m.a, sb.ID); got.Reason != reasonTimeout {
		t.Errorf("reason %q", got.Reason)
	}
	if got := m.start(sb); time.Until(got.Deadline()) <= 0 {
		t.Errorf("its time is up already: %v", got.Deadline())
	}
}

func TestRestartKeepsTheFilesOfAny(t *testing.T) {
	m := newMachine(t, Config{})
	sb := m.create(m.a, sandbox.CreateRequest{Timeout: time.Hour})
	m.write(sb, "/root/f", "x")
	got, err := m.Restart(m.ctx, m.a, string(sb.ID))
	if err != nil || got.State != sandbox.Running || got.BootPath != sandbox.BootCold {
		t.Fatalf("Restart = %+v, %v", got, err)
	}
	if got := m.read(sb, "/root/f"); got != "x\n" && got != "x" {
		t.Errorf("the file holds %q", got)
	}
	m.stop(sb)
	m.nothingOnHost()
	if kept := m.fake.Kept(); len(kept) != 0 {
		t.Errorf("kept after the end: %v", kept)
	}
}

// Whenever the daemon ends in a stop or start, nothing is lost.
func TestCrashWhileStopping(t *testing.T) {
	m := newMachine(t, Config{})
	sb := m.create(m.a, sandbox.CreateRequest{Persist: true, Timeout: time.Hour})
	m.write(sb, "/root/f", "dear")

	// Before the files are kept.
	keeping := make(chan struct{})
	m.fake.Set(runtimetest.Knobs{Keep: func(ctx context.Context, _ sandbox.ID) error { close(keeping); <-ctx.Done(); return ctx.Err() }})
	go func() { _, _ = m.Stop(m.ctx, m.a, string(sb.ID)) }()
	<-keeping
	m.restart()
	if got := m.get(m.a, sb.ID); got.State != sandbox.Running || m.fake.Frozen(sb.ID) {
		t.Fatalf("after a crash while keeping: %s, frozen %v", got.State, m.fake.Frozen(sb.ID))
	}
	m.read(sb, "/root/f")

	// After they were kept, before the row says so.
	if _, err := m.fake.KeepFiles(m.ctx, sb.ID); err != nil {
		t.Fatal(err)
	}
	m.restart()
	m.eventually("it runs on", func() bool { return m.get(m.a, sb.ID).State == sandbox.Running && !m.fake.Frozen(sb.ID) })

	// After the row says so, before the host has let go.
	gone := make(chan struct{})
	m.fake.Set(runtimetest.Knobs{Destroy: func(ctx context.Context, _ sandbox.ID) error { close(gone); <-ctx.Done(); return ctx.Err() }})
	m.cfg.DestroyWait = time.Millisecond
	go func() { _, _ = m.Stop(m.ctx, m.a, string(sb.ID)) }()
	<-gone
	m.restart()
	m.eventually("the host has let go", func() bool { return len(m.onHost()) == 0 })
	if got := m.get(m.a, sb.ID); got.State != sandbox.Paused {
		t.Fatalf("after a crash behind the pause: %s", got.State)
	}
	m.cfg.DestroyWait = patience
	m.restart()

	// In the middle of a start.
	starting := make(chan struct{})
	m.fake.Set(runtimetest.Knobs{Start: func(ctx context.Context, _ driver.StartRequest) error {
		close(starting)
		<-ctx.Done()
		return ctx.Err()
	}})
	go func() { _, _ = m.Start(m.ctx, m.a, string(sb.ID)) }()
	<-starting
	m.restart()
	m.eventually("it runs", func() bool { return m.get(m.a, sb.ID).State == sandbox.Running })
	if got := m.read(sb, "/root/f"); got != "dear\n" && got != "dear" {
		t.Errorf("the file holds %q", got)
	}
}

// What ran is lost with the machine; what was kept is not.
func TestLostPersistentFallsBackToItsFiles(t *testing.T) {
	m := newMachine(t, Config{})
	sb := m.create(m.a, sandbox.CreateRequest{Persist: true, Timeout: time.Hour})
	m.write(sb, "/root/f", "dear")
	m.stop(sb)
	m.start(sb)
	m.write(sb, "/root/f", "newer")
	m.fake.Reboot()
	m.restart()
	m.eventually("it is paused", func() bool { return m.get(m.a, sb.ID).State == sandbox.Paused })
	m.eventually("it is freed", func() bool { return m.lookup(sb.ID) == nil })
	m.start(sb)
	if got := m.read(sb, "/root/f"); got != "dear\n" && got != "dear" {
		t.Errorf("the file holds %q", got)
	}
}

func TestDrainPausesWhatIsPersistent(t *testing.T) {
	m := newMachine(t, Config{})
	keep := m.create(m.a, sandbox.CreateRequest{Persist: true})
	lose := m.create(m.a, sandbox.CreateRequest{})
	if _, left, err := m.Drain(m.ctx, 0); left != 0 || err != nil {
		t.Fatalf("Drain: %d left, %v", left, err)
	}
	if got := m.get(m.a, keep.ID); got.State != sandbox.Paused || got.Reason != reasonDrained {
		t.Errorf("the persistent one is %s (%s)", got.State, got.Reason)
	}
	if got := m.get(m.a, lose.ID); got.State != sandbox.Destroyed {
		t.Errorf("the other is %s", got.State)
	}
	if _, err := m.Start(m.ctx, m.a, string(keep.ID)); code(err) != sandbox.CodeDraining {
		t.Errorf("start while draining: %v", err)
	}
}

// unsure is a store whose commits to Paused happen, and nobody is told.
type unsure struct{ Store }

func (s unsure) Move(ctx context.Context, id sandbox.ID, from, to sandbox.State, change func(*sandbox.Sandbox), events ...event.Event) (sandbox.Sandbox, error) {
	sb, err := s.Store.Move(ctx, id, from, to, change, events...)
	if err == nil && to == sandbox.Paused {
		err = sandbox.E(sandbox.Timeout, sandbox.CodeTimeout, "it may have happened")
	}
	return sb, err
}

// A commit that was cut off may have happened: what is paused by its row must
// not run on, where nobody could start or reach it.
func TestStopWhoseCommitIsUnknown(t *testing.T) {
	m := bareMachineOn(t, Config{}, sqlite(t))
	m.a = m.tenant("a")
	m.template("r1")
	m.Supervisor = New(m.cfg, m.deps(unsure{m.db}))
	if err := m.Recover(m.ctx); err != nil {
		t.Fatal(err)
	}
	sb := m.create(m.a, sandbox.CreateRequest{Persist: true})
	m.write(sb, "/root/f", "kept")
	if got := m.stop(sb); got.State != sandbox.Paused {
		t.Fatalf("it is %s", got.State)
	}
	m.nothingOnHost()
	m.start(sb)
	if got := m.read(sb, "/root/f"); got != "kept\n" && got != "kept" {
		t.Errorf("the file holds %q", got)
	}
}

// away is a store that is away for the next look at a row.
type away struct {
	Store
	once *atomic.Bool
}

func (s away) Row(ctx context.Context, id sandbox.ID) (sandbox.Sandbox, error) {
	if s.once.CompareAndSwap(true, false) {
		return sandbox.Sandbox{}, sandbox.E(sandbox.Unavailable, sandbox.CodeUnavailable, "the database is away")
	}
	return s.Store.Row(ctx, id)
}

// A sandbox that dies while the database is away keeps the files it stopped with.
func TestDeathWhileTheDatabaseIsAway(t *testing.T) {
	m := bareMachineOn(t, Config{}, sqlite(t))
	m.a = m.tenant("a")
	m.template("r1")
	var gone atomic.Bool
	m.Supervisor = New(m.cfg, m.deps(away{m.db, &gone}))
	if err := m.Recover(m.ctx); err != nil {
		t.Fatal(err)
	}
	sb := m.create(m.a, sandbox.CreateRequest{Persist: true})
	m.stop(sb)
	m.start(sb)
	gone.Store(true)
	m.fail(m.lookup(sb.ID), failure{sandbox.CodeSandboxGone, "it ended"}, sandbox.Running)
	if got := m.get(m.a, sb.ID); got.State != sandbox.Paused || got.Files == "" {
		t.Errorf("it is %s with files %q", got.State, got.Files)
	}
}
