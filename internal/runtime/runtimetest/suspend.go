package runtimetest

import (
	"errors"
	"strings"
	"testing"

	"silica.dev/silica/internal/runtime"
	"silica.dev/silica/sandbox"
)

func (h *harness) suspender() runtime.Suspender {
	s, ok := h.Driver.(runtime.Suspender)
	if !ok {
		h.t.Skip("the driver keeps no memory with files")
	}
	return s
}

func (h *harness) suspend(id sandbox.ID) runtime.State {
	h.t.Helper()
	st, err := h.suspender().Suspend(h.ctx, id)
	if err != nil {
		h.t.Fatalf("Suspend(%s): %v", id, err)
	}
	if st.Memory == "" || st.Files == "" || st.Memory == st.Files || st.Size <= 0 {
		h.t.Fatalf("Suspend(%s) = %+v", id, st)
	}
	return st
}

func (h *harness) restore(id sandbox.ID, memory sandbox.Ref) {
	h.t.Helper()
	if err := h.Driver.Start(h.ctx, h.request(id, memory)); err != nil {
		h.t.Fatalf("Start(memory %q): %v", memory, err)
	}
}

// holds tells what the file /root/f of a sandbox holds.
func (h *harness) holds(id sandbox.ID) string {
	h.t.Helper()
	return strings.TrimSpace(h.sh(id, "cat /root/f"))
}

func suspends(t *testing.T, h *harness) {
	h.suspender()
	id := h.start("")
	seed := h.init(id)
	for round, want := range []string{"one", "two", "three"} {
		h.sh(id, "echo "+want+" > /root/f")
		st := h.suspend(id)
		h.destroy(id)
		h.restore(id, st.Memory)
		if got := h.init(id); got != seed {
			t.Errorf("round %d: the agent's seed is %q, was %q: it is not the same process", round, got, seed)
		}
		if got := h.holds(id); got != want {
			t.Errorf("round %d: the file holds %q, want %q", round, got, want)
		}
	}
}

func captures(t *testing.T, h *harness) {
	k := h.suspender()
	id := h.start("")
	seed := h.init(id)
	h.sh(id, "echo before > /root/f")
	st, err := k.Capture(h.ctx, id)
	if err != nil {
		t.Fatalf("Capture: %v", err)
	}
	h.sh(id, "echo after > /root/f")
	for range 2 {
		other := sandbox.NewID()
		h.restore(other, st.Memory)
		if got := h.init(other); got != seed {
			t.Errorf("a copy has seed %q, the original %q", got, seed)
		}
		if got := h.holds(other); got != "before" {
			t.Errorf("the file of a copy holds %q, want before", got)
		}
		h.sh(other, "echo mine > /root/f")
	}
	if got := h.holds(id); got != "after" {
		t.Errorf("the file of the original holds %q, want after", got)
	}
	if _, err := k.Capture(h.ctx, sandbox.NewID()); !isNotFound(err) {
		t.Errorf("Capture of an unknown sandbox: got %v, want not found", err)
	}
}

func filesWithoutMemory(t *testing.T, h *harness) {
	h.suspender()
	id := h.start("")
	seed := h.init(id)
	h.sh(id, "echo dear > /root/f")
	st := h.suspend(id)
	h.destroy(id)
	if h.Damage != nil && h.Reopen != nil {
		if err := h.Damage(st.Memory); err != nil {
			t.Fatal(err)
		}
		h.Driver = h.Reopen()
		if err := h.Driver.Start(h.ctx, h.request(id, st.Memory)); !errors.Is(err, runtime.ErrSnapshotUnusable) {
			t.Errorf("Start from damaged memory = %v, want ErrSnapshotUnusable", err)
		}
	}
	for _, id := range []sandbox.ID{id, sandbox.NewID()} {
		h.startWith(id, st.Files)
		if got := h.init(id); got == seed {
			t.Error("a cold start has the seed of what was suspended")
		}
		if got := h.holds(id); got != "dear" {
			t.Errorf("the file holds %q, want dear", got)
		}
	}
}

func thawsSuspended(t *testing.T, h *harness) {
	k := h.suspender()
	id := h.start("")
	seed := h.init(id)
	h.suspend(id)
	h.suspend(id) // it may be repeated
	for range 2 {
		if err := k.Thaw(h.ctx, id); err != nil {
			t.Fatalf("Thaw: %v", err)
		}
	}
	if got := h.init(id); got != seed {
		t.Errorf("after a thaw the agent's seed is %q, was %q", got, seed)
	}
	h.sh(id, "echo on > /root/f")
	st := h.suspend(id)
	if h.Reopen != nil { // as a daemon that was killed in the middle
		h.Driver = h.Reopen()
		if err := h.suspender().Thaw(h.ctx, id); err != nil {
			t.Fatalf("Thaw by another driver: %v", err)
		}
		if got := h.holds(id); got != "on" {
			t.Errorf("after that the file holds %q", got)
		}
	}
	h.destroy(id)
	h.restore(id, st.Memory)
	if got := h.holds(id); got != "on" {
		t.Errorf("restored, the file holds %q", got)
	}
	if _, err := h.suspender().Suspend(h.ctx, sandbox.NewID()); !isNotFound(err) {
		t.Errorf("Suspend of an unknown sandbox: got %v, want not found", err)
	}
}
