package gvisor_test

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"silica.dev/silica/sandbox"
)

// killEngine kills the engine as a crash would and waits until it is gone.
func (h *host) killEngine() {
	h.t.Helper()
	pid := h.enginePid()
	if pid == 0 {
		h.t.Fatal("no engine runs")
	}
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		h.t.Fatal(err)
	}
	eventually(h.t, "the engine's end", func() bool { return !slices.Contains(h.processes(), pid) })
}

// TestEngineDies: sandboxes live on, waits go on, and all abilities work for the
// adopted ones.
func TestEngineDies(t *testing.T) {
	h := newHost(t)
	origin := h.start("")
	first := h.snapshot(origin)
	copied := h.start(first)
	seed := h.seed(copied)
	if err := h.driver.Prepare(t.Context(), h.image, small, 1); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a prepared slot", func() bool { return len(h.sentries()) == 3 })
	ended := make(chan string, 1)
	go func() { ended <- h.wait(origin).Reason }()

	h.killEngine()
	want := []sandbox.ID{origin, copied}
	slices.Sort(want)
	ids, err := h.driver.List(t.Context())
	if err != nil || !slices.Equal(ids, want) {
		t.Fatalf("List after the engine's death = %v, %v, want %v", ids, err, want)
	}
	eventually(t, "the dead engine's empty slot is freed", func() bool { return len(h.sentries()) == 2 })
	if got := h.seed(copied); got != seed {
		t.Errorf("the seed was %q and is %q", seed, got)
	}
	if u, err := h.driver.Usage(t.Context(), copied); err != nil || u.Memory == 0 || u.NetworkIn == 0 {
		t.Errorf("Usage of an adopted sandbox = %+v, %v", u, err)
	}
	// An agent waits for the engine's byte on a pipe whose other end has died:
	// a snapshot of it must still start.
	again := h.start(h.snapshot(copied))
	if got := h.seed(again); got != seed {
		t.Errorf("a copy of an adopted sandbox has seed %q, want %q", got, seed)
	}
	if err := h.kill(origin); err != nil {
		t.Fatal(err)
	}
	if reason := <-ended; reason == "" {
		t.Error("Wait across the engine's death names no reason")
	}
}

// TestDiesUnwatched: a sandbox that ends while there is no engine is reported as
// ended, and can be destroyed.
func TestDiesUnwatched(t *testing.T) {
	h := newHost(t)
	id := h.start("")
	h.driver.Close() // or it starts the engine again at once
	h.killEngine()
	if err := h.kill(id); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the sentry's end", func() bool { return len(h.sentries()) == 0 })
	h.panicked(id, "goroutine 1: /host/path")
	h.open()
	if exit := h.wait(id); exit.Reason != "the sandbox ended while nobody watched" {
		t.Errorf("Wait = %+v", exit)
	}
	if ids, _ := h.driver.List(t.Context()); !slices.Contains(ids, id) {
		t.Errorf("List = %v, without the dead %s", ids, id)
	}
	h.destroy(id)
}

// TestPidReused: a record whose process number belongs to another process by now
// is not believed, and that process is left alone.
func TestPidReused(t *testing.T) {
	h := newHost(t)
	id := h.start("")
	sentry := h.sentry(id)
	h.driver.Close()
	h.killEngine()
	records, _ := filepath.Glob(filepath.Join(h.dir, "engine", "slots", "*", "slot.json"))
	data, err := os.ReadFile(records[0])
	if err != nil {
		t.Fatal(err)
	}
	data = bytes.Replace(data, []byte(`"StartTime":`), []byte(`"StartTime":1`), 1)
	if err := os.WriteFile(records[0], data, 0o600); err != nil {
		t.Fatal(err)
	}
	h.open()
	if exit := h.wait(id); exit.Reason == "" {
		t.Error("no reason")
	}
	// The true sentry is found by its cgroup.
	h.destroy(id)
	eventually(t, "the true sentry's end", func() bool { return !slices.Contains(h.processes(), sentry) })
}
