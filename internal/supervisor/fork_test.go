package supervisor

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	driver "silica.dev/silica/internal/runtime"
	"silica.dev/silica/internal/runtime/runtimetest"
	"silica.dev/silica/internal/store"
	"silica.dev/silica/sandbox"
)

func (m *machine) snap(sb sandbox.Sandbox) sandbox.Snapshot {
	m.t.Helper()
	n, err := m.TakeSnapshot(m.ctx, m.a, string(sb.ID), sandbox.SnapshotRequest{Comment: "c"})
	if err != nil || n.Status != sandbox.SnapshotReady {
		m.t.Fatalf("TakeSnapshot = %+v, %v", n, err)
	}
	return n
}

func TestSnapshotRestoreAndDelete(t *testing.T) {
	m := newMachine(t, Config{})
	sb := m.create(m.a, sandbox.CreateRequest{Timeout: time.Hour})
	m.write(sb, "/root/f", "before")
	n := m.snap(sb)
	m.write(sb, "/root/f", "after")
	for range 2 { // as often as one likes
		got, err := m.Restore(m.ctx, m.a, string(sb.ID), n.ID)
		if err != nil || got.State != sandbox.Running || got.ID != sb.ID || got.Slug != sb.Slug || got.BootPath != sandbox.BootSnapshot {
			t.Fatalf("Restore = %+v, %v", got, err)
		}
		m.holds(sb, "/root/f", "before")
		m.write(sb, "/root/f", "else")
	}
	m.pause(sb)
	if _, err := m.Restore(m.ctx, m.a, string(sb.ID), n.ID); err != nil {
		t.Fatalf("Restore of a paused one: %v", err)
	}
	m.holds(sb, "/root/f", "before")

	list, err := m.Snapshots(m.ctx, m.a, sb.Slug)
	if err != nil || len(list) != 1 || list[0].ID != n.ID {
		t.Errorf("Snapshots = %v, %v", list, err)
	}
	if _, err := m.Snapshot(m.ctx, m.b, n.ID); code(err) != sandbox.CodeNotFound {
		t.Errorf("another tenant reads it: %v", err)
	}
	if _, err := m.Restore(m.ctx, m.a, string(m.create(m.a, sandbox.CreateRequest{}).ID), n.ID); code(err) != sandbox.CodeNotFound {
		t.Errorf("restore of another sandbox's: %v", err)
	}
	if got, err := m.DeleteSnapshot(m.ctx, m.a, n.ID); err != nil || got.Status != sandbox.SnapshotDeleted {
		t.Errorf("DeleteSnapshot = %+v, %v", got, err)
	}
	if _, err := m.Destroy(m.ctx, m.a, string(sb.ID)); err != nil {
		t.Fatal(err)
	}
	m.eventually("nothing is kept", func() bool { return len(m.fake.Kept()) == 0 })
	if _, err := m.Restore(m.ctx, m.a, string(sb.ID), n.ID); code(err) != sandbox.CodeNotFound {
		t.Errorf("restore of a deleted one: %v", err)
	}
}

func TestRestoreWhoseBaseIsGoneChangesNothing(t *testing.T) {
	m := newMachine(t, Config{})
	sb := m.create(m.a, sandbox.CreateRequest{Timeout: time.Hour})
	n := m.snap(sb)
	m.write(sb, "/root/f", "now")
	for _, ref := range []sandbox.Ref{n.Files, n.Base} {
		m.fake.Lose(ref)
		if _, err := m.Restore(m.ctx, m.a, string(sb.ID), n.ID); code(err) != sandbox.CodeSnapshotUnusable {
			t.Errorf("Restore = %v", err)
		}
		if _, err := m.Fork(m.ctx, m.a, "", sandbox.ForkRequest{Snapshot: n.ID}); code(err) != sandbox.CodeSnapshotUnusable {
			t.Errorf("Fork = %v", err)
		}
		m.holds(sb, "/root/f", "now")
	}
}

func TestForksAreCopiesWithTheirOwnIdentity(t *testing.T) {
	m := newMachine(t, Config{})
	sb := m.create(m.a, sandbox.CreateRequest{Name: "parent", Timeout: time.Hour, Env: map[string]string{"A": "1"}, Tags: []string{"x"}})
	m.write(sb, "/root/f", "of the parent")
	got, err := m.Fork(m.ctx, m.a, string(sb.ID), sandbox.ForkRequest{Count: 4, Name: "copy"})
	if err != nil || len(got) != 4 {
		t.Fatalf("Fork = %v, %v", got, err)
	}
	seen := map[string]bool{sb.Slug: true}
	for _, c := range got {
		if c.State != sandbox.Running || c.BootPath != sandbox.BootSnapshot || seen[c.Slug] || !slices.Equal(c.Tags, sb.Tags) || c.Memory != "" || c.Files != "" {
			t.Errorf("a copy is %+v", c)
		}
		seen[c.Slug] = true
		m.holds(c, "/root/f", "of the parent")
		if out := m.run(c, "echo $A"); out != "1\n" {
			t.Errorf("its environment has A=%q", out)
		}
		m.write(c, "/root/f", "mine")
	}
	if got[0].Name != "copy-1" || got[3].Name != "copy-4" {
		t.Errorf("names %q and %q", got[0].Name, got[3].Name)
	}
	m.holds(sb, "/root/f", "of the parent")
	m.eventually("the passing snapshot is gone", func() bool { return len(m.fake.Kept()) == 0 })
	if list, err := m.Snapshots(m.ctx, m.a, ""); err != nil || len(list) != 0 {
		t.Errorf("snapshots left: %v, %v", list, err)
	}
}

func TestForkOfASnapshotOutlivesItsParent(t *testing.T) {
	m := newMachine(t, Config{})
	sb := m.create(m.a, sandbox.CreateRequest{Timeout: time.Hour})
	m.write(sb, "/root/f", "dear")
	n := m.snap(sb)
	if _, err := m.Destroy(m.ctx, m.a, string(sb.ID)); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Fork(m.ctx, m.a, string(sb.ID), sandbox.ForkRequest{}); code(err) != sandbox.CodeNotRunning {
		t.Errorf("fork of a destroyed one: %v", err)
	}
	got, err := m.Fork(m.ctx, m.a, "", sandbox.ForkRequest{Snapshot: n.ID})
	if err != nil || got[0].Timeout != time.Hour {
		t.Fatalf("Fork = %v, %v", got, err)
	}
	m.holds(got[0], "/root/f", "dear")
	if _, err := m.Fork(m.ctx, m.b, "", sandbox.ForkRequest{Snapshot: n.ID}); code(err) != sandbox.CodeNotFound {
		t.Errorf("fork of another tenant's: %v", err)
	}
}

// A persistent copy that dies goes back to the files that it began with.
func TestPersistentCopiesFallBackToTheirFirstFiles(t *testing.T) {
	m := newMachine(t, Config{})
	sb := m.create(m.a, sandbox.CreateRequest{Timeout: time.Hour, Persist: true})
	m.write(sb, "/root/f", "dear")
	got, err := m.Fork(m.ctx, m.a, string(sb.ID), sandbox.ForkRequest{Count: 2})
	if err != nil {
		t.Fatal(err)
	}
	m.write(got[0], "/root/f", "later")
	if err := m.fake.Kill(got[0].ID, driver.Exit{Reason: "crash"}); err != nil {
		t.Fatal(err)
	}
	m.eventually("it is paused", func() bool { return m.get(m.a, got[0].ID).State == sandbox.Paused })
	m.start(got[0])
	m.holds(got[0], "/root/f", "dear")
	for _, c := range got {
		if _, err := m.Destroy(m.ctx, m.a, string(c.ID)); err != nil {
			t.Fatal(err)
		}
	}
	m.eventually("nothing is kept", func() bool { return len(m.fake.Kept()) == 0 })
}

// "Idempotency-Key": who asks again gets what was made, and nothing stands still for it.
func TestRepeatedSnapshotAndFork(t *testing.T) {
	onBoth(t, func(t *testing.T, rows store.Config) {
		m := newMachineOn(t, Config{MaxSandboxes: 3}, rows)
		sb := m.create(m.a, sandbox.CreateRequest{Timeout: time.Hour})
		var captured atomic.Int32
		m.fake.Set(runtimetest.Knobs{Capture: func(context.Context, sandbox.ID) error { captured.Add(1); return nil }})
		take := sandbox.SnapshotRequest{Idempotency: sandbox.Idempotency{Key: "s", Digest: [32]byte{1}}}
		fork := sandbox.ForkRequest{Count: 2, Idempotency: sandbox.Idempotency{Key: "f", Digest: [32]byte{1}}}
		n, err := m.TakeSnapshot(m.ctx, m.a, string(sb.ID), take)
		if err != nil {
			t.Fatal(err)
		}
		copies, err := m.Fork(m.ctx, m.a, string(sb.ID), fork)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := m.Destroy(m.ctx, m.a, string(sb.ID)); err != nil {
			t.Fatal(err)
		}
		if again, err := m.TakeSnapshot(m.ctx, m.a, string(sb.ID), take); err != nil || again.ID != n.ID || again.Status != sandbox.SnapshotReady {
			t.Errorf("the same snapshot again: %+v, %v", again, err)
		}
		again, err := m.Fork(m.ctx, m.a, string(sb.ID), fork)
		if err != nil || len(again) != 2 || again[0].ID != copies[0].ID || again[1].ID != copies[1].ID || !again[1].Ready {
			t.Errorf("the same copies again: %+v, %v", again, err)
		}
		if captured.Load() != 2 {
			t.Errorf("captured %d times, want once for each", captured.Load())
		}
		fork.Idempotency.Digest[0]++
		if _, err := m.Fork(m.ctx, m.a, string(sb.ID), fork); code(err) != sandbox.CodeIdempotency {
			t.Errorf("another fork with the key: %v", err)
		}
	})
}

// Two at once with one key both capture, and only one makes copies.
func TestForkRepeatedAtOnce(t *testing.T) {
	m := newMachine(t, Config{})
	sb := m.create(m.a, sandbox.CreateRequest{Timeout: time.Hour})
	fork := sandbox.ForkRequest{Count: 2, Idempotency: sandbox.Idempotency{Key: "f"}}
	first := make([]sandbox.ID, 4)
	var wg sync.WaitGroup
	for i := range first {
		wg.Go(func() {
			if got, err := m.Fork(m.ctx, m.a, string(sb.ID), fork); err != nil || len(got) != 2 {
				t.Errorf("Fork = %v, %v", got, err)
			} else {
				first[i] = got[0].ID
			}
		})
	}
	wg.Wait()
	if slices.ContainsFunc(first, func(id sandbox.ID) bool { return id != first[0] }) {
		t.Errorf("different copies: %v", first)
	}
	if l, err := m.List(m.ctx, m.a, sandbox.Filter{}); err != nil || len(l.Sandboxes) != 3 {
		t.Errorf("%d sandboxes, %v; want the parent and two", len(l.Sandboxes), err)
	}
	m.eventually("nothing is kept of the others", func() bool { return len(m.fake.Kept()) == 0 })
}

// A snapshot that is deleted while copies start from it goes when they have.
func TestDeleteOfASnapshotInUse(t *testing.T) {
	m := newMachine(t, Config{CreateWait: time.Millisecond})
	sb := m.create(m.a, sandbox.CreateRequest{Timeout: time.Hour})
	m.eventually("it runs", func() bool { return m.get(m.a, sb.ID).Ready })
	n, err := m.TakeSnapshot(m.ctx, m.a, string(sb.ID), sandbox.SnapshotRequest{})
	if err != nil {
		t.Fatal(err)
	}
	m.eventually("it is ready", func() bool {
		n, err = m.Snapshot(m.ctx, m.a, n.ID)
		return err == nil && n.Status == sandbox.SnapshotReady
	})
	goOn := make(chan struct{})
	m.fake.Set(runtimetest.Knobs{Start: func(context.Context, driver.StartRequest) error { <-goOn; return nil }})
	got, err := m.Fork(m.ctx, m.a, "", sandbox.ForkRequest{Snapshot: n.ID, Count: 3})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.DeleteSnapshot(m.ctx, m.a, n.ID); err != nil {
		t.Fatal(err)
	}
	if len(m.fake.Kept()) != 2 {
		t.Errorf("kept while copies start from it: %v", m.fake.Kept())
	}
	close(goOn)
	for _, c := range got {
		m.eventually("a copy runs", func() bool { return m.get(m.a, c.ID).Ready })
	}
	m.eventually("nothing is kept", func() bool { return len(m.fake.Kept()) == 0 })
}

func TestForkCountsAgainstLimits(t *testing.T) {
	m := newMachine(t, Config{MaxSandboxes: 3})
	sb := m.create(m.a, sandbox.CreateRequest{Timeout: time.Hour})
	if _, err := m.Fork(m.ctx, m.a, string(sb.ID), sandbox.ForkRequest{Count: 3}); code(err) != sandbox.CodeSandboxLimit {
		t.Errorf("three where two have room: %v", err)
	}
	if l, err := m.List(m.ctx, m.a, sandbox.Filter{}); err != nil || len(l.Sandboxes) != 1 {
		t.Errorf("after it: %d sandboxes, %v", len(l.Sandboxes), err)
	}
	if kept := m.fake.Kept(); len(kept) != 0 {
		t.Errorf("it was saved for a fork that may not be: %v", kept)
	}
	if got, err := m.Fork(m.ctx, m.a, string(sb.ID), sandbox.ForkRequest{Count: 2}); err != nil || len(got) != 2 {
		t.Errorf("two: %v, %v", got, err)
	}
	for _, count := range []int{-1, 17} {
		if _, err := m.Fork(m.ctx, m.a, string(sb.ID), sandbox.ForkRequest{Count: count}); code(err) != sandbox.CodeValidation {
			t.Errorf("%d copies: %v", count, err)
		}
	}
}

func TestSnapshotThatCantBeTakenLeavesItRunning(t *testing.T) {
	m := newMachine(t, Config{})
	sb := m.create(m.a, sandbox.CreateRequest{Timeout: time.Hour})
	m.fake.Set(runtimetest.Knobs{Capture: func(context.Context, sandbox.ID) error {
		return sandbox.E(sandbox.Exhausted, sandbox.CodeHostFull, "full")
	}})
	if _, err := m.TakeSnapshot(m.ctx, m.a, string(sb.ID), sandbox.SnapshotRequest{}); code(err) != sandbox.CodeHostFull {
		t.Errorf("TakeSnapshot = %v", err)
	}
	if _, err := m.Fork(m.ctx, m.a, string(sb.ID), sandbox.ForkRequest{}); code(err) != sandbox.CodeHostFull {
		t.Errorf("Fork = %v", err)
	}
	list, err := m.Snapshots(m.ctx, m.a, string(sb.ID))
	if err != nil || len(list) != 1 || list[0].Status != sandbox.SnapshotFailed || list[0].Reason == "" {
		t.Errorf("Snapshots = %+v, %v; want the failed one", list, err)
	}
	m.run(sb, "echo on")
}

func TestCrashWhileASnapshotIsTaken(t *testing.T) {
	m := newMachine(t, Config{})
	sb := m.create(m.a, sandbox.CreateRequest{Timeout: time.Hour})
	for _, take := range []func(){
		func() { _, _ = m.TakeSnapshot(m.ctx, m.a, string(sb.ID), sandbox.SnapshotRequest{}) },
		func() { _, _ = m.Fork(m.ctx, m.a, string(sb.ID), sandbox.ForkRequest{Count: 2}) },
	} {
		taking := make(chan struct{})
		m.fake.Set(runtimetest.Knobs{Capture: func(ctx context.Context, _ sandbox.ID) error { close(taking); <-ctx.Done(); return ctx.Err() }})
		done := make(chan struct{})
		go func() { take(); close(done) }()
		<-taking
		m.Close()
		<-done
		m.restart()
		list, err := m.Snapshots(m.ctx, m.a, "")
		if err != nil || len(list) != 1 || list[0].Status != sandbox.SnapshotFailed {
			t.Errorf("after a crash: %+v, %v; want one that has failed", list, err)
		}
		if l, err := m.List(m.ctx, m.a, sandbox.Filter{}); err != nil || len(l.Sandboxes) != 1 {
			t.Errorf("after a crash: %d sandboxes, %v", len(l.Sandboxes), err)
		}
		m.run(sb, "echo on")
	}
}

func TestCrashWhileForksStart(t *testing.T) {
	m := newMachine(t, Config{})
	sb := m.create(m.a, sandbox.CreateRequest{Timeout: time.Hour})
	m.write(sb, "/root/f", "dear")
	starting := make(chan struct{}, 3)
	m.fake.Set(runtimetest.Knobs{Start: func(ctx context.Context, _ driver.StartRequest) error {
		starting <- struct{}{}
		<-ctx.Done()
		return ctx.Err()
	}})
	done := make(chan struct{})
	go func() { _, _ = m.Fork(m.ctx, m.a, string(sb.ID), sandbox.ForkRequest{Count: 3}); close(done) }()
	<-starting
	m.Close()
	<-done
	m.restart()
	m.eventually("all copies run", func() bool {
		l, err := m.List(m.ctx, m.a, sandbox.Filter{})
		return err == nil && len(l.Sandboxes) == 4 && !slices.ContainsFunc(l.Sandboxes, func(sb sandbox.Sandbox) bool { return !sb.Ready })
	})
	l, err := m.List(m.ctx, m.a, sandbox.Filter{})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range l.Sandboxes {
		m.holds(c, "/root/f", "dear")
	}
	m.eventually("nothing is kept", func() bool { return len(m.fake.Kept()) == 0 })
}

func TestSnapshotsExpireByThemselves(t *testing.T) {
	m := newMachine(t, Config{ExpireEvery: 5 * time.Millisecond})
	sb := m.create(m.a, sandbox.CreateRequest{Timeout: time.Hour})
	stays := m.snap(sb)
	if _, err := m.TakeSnapshot(m.ctx, m.a, string(sb.ID), sandbox.SnapshotRequest{Expires: time.Millisecond}); err != nil {
		t.Fatal(err)
	}
	m.eventually("the expired one is gone", func() bool {
		list, err := m.Snapshots(m.ctx, m.a, "")
		return err == nil && len(list) == 1 && list[0].ID == stays.ID && len(m.fake.Kept()) == 2
	})
}
