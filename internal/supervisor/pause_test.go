package supervisor

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	driver "silica.dev/silica/internal/runtime"
	"silica.dev/silica/internal/runtime/runtimetest"
	"silica.dev/silica/sandbox"
)

func (m *machine) pause(sb sandbox.Sandbox) sandbox.Sandbox {
	m.t.Helper()
	got, err := m.Pause(m.ctx, m.a, string(sb.ID))
	if err != nil || got.State != sandbox.Paused || got.Memory == "" || got.Files == "" {
		m.t.Fatalf("Pause = %+v, %v", got, err)
	}
	return got
}

// holds tells what a file holds.
func (m *machine) holds(sb sandbox.Sandbox, path, want string) {
	m.t.Helper()
	if got := strings.TrimSpace(m.read(sb, path)); got != want {
		m.t.Errorf("%s of %s holds %q, want %q", path, sb.ID, got, want)
	}
}

// startsSince counts the starts that were asked for since the last call, from memory
// and cold.
func (m *machine) startsSince(n *int) (memory, cold int) {
	all := m.fake.Starts()
	for _, req := range all[*n:] {
		if req.Snapshot != "" {
			memory++
		} else {
			cold++
		}
	}
	*n = len(all)
	return memory, cold
}

func TestPauseAndResumeFromMemory(t *testing.T) {
	for _, persist := range []bool{true, false} {
		m := newMachine(t, Config{})
		sb := m.create(m.a, sandbox.CreateRequest{Persist: persist, Timeout: time.Hour})
		for _, text := range []string{"one", "two", "three"} {
			m.write(sb, "/root/f", text)
			m.pause(sb)
			m.eventually("the host has nothing of it", func() bool { return len(m.onHost()) == 0 })
			if got := m.pause(sb); got.State != sandbox.Paused { // again is a success
				t.Errorf("paused again: %s", got.State)
			}
			if got := m.start(sb); got.BootPath != sandbox.BootSnapshot || got.Memory != "" || got.Slug != sb.Slug {
				t.Errorf("resumed: %+v", got)
			}
			m.holds(sb, "/root/f", text)
		}
		m.eventually("only the last files are kept of one that runs", func() bool { return len(m.fake.Kept()) == 1 })
		if _, err := m.Destroy(m.ctx, m.a, string(sb.ID)); err != nil {
			t.Fatal(err)
		}
		m.nothingOnHost()
		if kept := m.fake.Kept(); len(kept) != 0 {
			t.Errorf("kept after the end: %v", kept)
		}
	}
}

func TestMemoryThatCantBeRestoredCostsNoFile(t *testing.T) {
	m := newMachine(t, Config{})
	sb := m.create(m.a, sandbox.CreateRequest{Persist: true, Timeout: time.Hour})
	m.write(sb, "/root/f", "dear")
	got := m.pause(sb)
	if err := m.fake.Damage(got.Memory); err != nil {
		t.Fatal(err)
	}
	if got := m.start(sb); got.BootPath != sandbox.BootCold {
		t.Errorf("boot path %q", got.BootPath)
	}
	m.holds(sb, "/root/f", "dear")
	if h := strings.Join(m.history(sb.ID), " "); !strings.Contains(h, sandbox.CodeMemoryLost) {
		t.Errorf("the events say nothing of it: %s", h)
	}
}

func TestUseWakesWhatIsPersistent(t *testing.T) {
	m := newMachine(t, Config{})
	sb := m.create(m.a, sandbox.CreateRequest{Persist: true, Timeout: time.Hour, Idle: 50 * time.Millisecond})
	m.write(sb, "/root/f", "x")
	m.eventually("it is paused for being idle", func() bool {
		got := m.get(m.a, sb.ID)
		return got.State == sandbox.Paused && got.Reason == reasonIdle && got.Memory != ""
	})
	idle := time.Duration(0)
	if _, err := m.Update(m.ctx, m.a, string(sb.ID), sandbox.Change{Idle: &idle}); err != nil {
		t.Fatal(err)
	}
	n := len(m.fake.Starts())
	var all sync.WaitGroup
	for range 8 { // at once: one restore, and all are answered
		all.Go(func() {
			if got, err := m.echo(m.a, sb.ID, "echo on"); err != nil || got != "on\n" {
				t.Errorf("a command on a paused one: %q, %v", got, err)
			}
		})
	}
	all.Wait()
	if memory, cold := m.startsSince(&n); memory != 1 || cold != 0 {
		t.Errorf("%d restores and %d boots, want one restore", memory, cold)
	}

	m.pause(sb)
	m.holds(sb, "/root/f", "x") // also what its user has paused

	m.stop(sb)
	if _, err := m.echo(m.a, sb.ID, "echo on"); code(err) != sandbox.CodeNotRunning {
		t.Errorf("a command on one that its user has stopped: %v", err)
	}
	short := m.create(m.a, sandbox.CreateRequest{Timeout: time.Hour})
	m.pause(short)
	if _, err := m.echo(m.a, short.ID, "echo on"); code(err) != sandbox.CodeNotRunning {
		t.Errorf("a command on one that is not persistent: %v", err)
	}
}

func TestWorkWaitsForAPauseAndWakes(t *testing.T) {
	m := newMachine(t, Config{})
	sb := m.create(m.a, sandbox.CreateRequest{Persist: true, Timeout: time.Hour})
	saving, goOn := make(chan struct{}), make(chan struct{})
	m.fake.Set(runtimetest.Knobs{Keep: func(context.Context, sandbox.ID) error { close(saving); <-goOn; return nil }})
	inside, _, _, err := m.Guest(m.ctx, m.a, string(sb.ID))
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	all.Go(func() { _, _ = m.Pause(m.ctx, m.a, string(sb.ID)) })
	<-saving
	all.Go(func() {
		if got, err := m.echo(m.a, sb.ID, "echo on"); err != nil || got != "on\n" {
			t.Errorf("work that came during the pause: %q, %v", got, err)
		}
	})
	close(goOn)
	all.Wait()
	if <-inside.Done(); code(context.Cause(inside)) != sandbox.CodeNotRunning {
		t.Errorf("work that was under way ended with %v", context.Cause(inside))
	}
}

func TestPauseThatCantBeKeptLeavesItRunning(t *testing.T) {
	m := newMachine(t, Config{})
	sb := m.create(m.a, sandbox.CreateRequest{Timeout: time.Hour})
	m.fake.Set(runtimetest.Knobs{Keep: func(context.Context, sandbox.ID) error {
		return sandbox.E(sandbox.Exhausted, sandbox.CodeHostFull, "full")
	}})
	if _, err := m.Pause(m.ctx, m.a, string(sb.ID)); code(err) != sandbox.CodeHostFull || !isKind(err, sandbox.Unavailable) {
		t.Errorf("Pause = %v", err)
	}
	m.write(sb, "/root/f", "x")
	m.fake.Set(runtimetest.Knobs{})
	if _, err := m.db.ChangeTenant(m.ctx, m.a.Tenant, func(tn *sandbox.Tenant) { tn.MaxSaved = sandbox.MiB }); err != nil {
		t.Fatal(err)
	}
	other := m.create(m.a, sandbox.CreateRequest{Timeout: time.Hour})
	m.pause(other)
	if _, err := m.Pause(m.ctx, m.a, string(sb.ID)); code(err) != sandbox.CodeQuota {
		t.Errorf("Pause beyond the quota = %v", err)
	}
	m.holds(sb, "/root/f", "x")
}

func TestPauseOfWhatHasEnded(t *testing.T) {
	m := newMachine(t, Config{})
	sb := m.create(m.a, sandbox.CreateRequest{})
	if _, err := m.Pause(m.ctx, m.b, string(sb.ID)); code(err) != sandbox.CodeNotFound {
		t.Errorf("another tenant's: %v", err)
	}
	if _, err := m.Destroy(m.ctx, m.a, string(sb.ID)); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Pause(m.ctx, m.a, string(sb.ID)); code(err) != sandbox.CodeNotRunning {
		t.Errorf("a destroyed one: %v", err)
	}
}

func TestManyPausesResumesAndSnapshotsAtOnce(t *testing.T) {
	m := newMachine(t, Config{})
	m.fake.Set(slowly(3))
	sb := m.create(m.a, sandbox.CreateRequest{Persist: true, Timeout: time.Hour})
	m.write(sb, "/root/f", "dear")
	var all sync.WaitGroup
	for i := range 16 {
		all.Go(func() {
			var err error
			switch i % 4 {
			case 0:
				_, err = m.Pause(m.ctx, m.a, string(sb.ID))
			case 1:
				_, err = m.Start(m.ctx, m.a, string(sb.ID))
			case 2:
				_, err = m.TakeSnapshot(m.ctx, m.a, string(sb.ID), sandbox.SnapshotRequest{})
			case 3:
				_, err = m.echo(m.a, sb.ID, "cat /root/f")
			}
			if err != nil && code(err) != sandbox.CodeNotRunning && code(err) != sandbox.CodeConflict {
				t.Errorf("operation %d: %v", i%4, err)
			}
		})
	}
	all.Wait()
	m.start(sb)
	m.holds(sb, "/root/f", "dear")
}

// Whenever the daemon ends in a pause or resume, nothing is lost.
func TestCrashWhilePausing(t *testing.T) {
	m := newMachine(t, Config{})
	sb := m.create(m.a, sandbox.CreateRequest{Persist: true, Timeout: time.Hour})
	m.write(sb, "/root/f", "dear")

	// Everything is saved, and the row does not say so.
	if _, err := m.fake.Suspend(m.ctx, sb.ID); err != nil {
		t.Fatal(err)
	}
	m.restart()
	m.eventually("it runs on", func() bool { return m.get(m.a, sb.ID).State == sandbox.Running && !m.fake.Frozen(sb.ID) })
	m.holds(sb, "/root/f", "dear")

	// In the middle of a resume.
	m.pause(sb)
	for range 2 {
		starting := make(chan struct{})
		m.fake.Set(runtimetest.Knobs{Start: func(ctx context.Context, _ driver.StartRequest) error {
			close(starting)
			<-ctx.Done()
			return ctx.Err()
		}})
		go func() { _, _ = m.Start(m.ctx, m.a, string(sb.ID)) }()
		<-starting
		m.restart()
		m.eventually("it runs", func() bool { return m.get(m.a, sb.ID).Ready })
		if got := m.get(m.a, sb.ID); got.BootPath != sandbox.BootSnapshot {
			t.Errorf("after a crash in a resume it came up by %q", got.BootPath)
		}
		m.holds(sb, "/root/f", "dear")
		m.pause(sb)
	}
}
