package gvisor_test

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"silica.dev/silica/internal/guest/guestpb"
	"silica.dev/silica/internal/runtime"
	"silica.dev/silica/internal/runtime/gvisor/wire"
	"silica.dev/silica/sandbox"
)

// big is a sandbox with room for what the measurements fill.
var big = sandbox.Resources{MilliCPU: 2 * sandbox.Core, Memory: 2048 * sandbox.MiB, Disk: 1024 * sandbox.MiB}

// identify does what the daemon does after every start.
func (h *host) identify(id sandbox.ID) {
	h.t.Helper()
	entropy := make([]byte, 32)
	_, err := h.agent(id).Init(h.t.Context(), &guestpb.InitRequest{Hostname: "box", UnixNano: time.Now().UnixNano(), Entropy: entropy})
	if err != nil {
		h.t.Fatal(err)
	}
}

func (h *host) startAs(id sandbox.ID, memory sandbox.Ref) {
	h.t.Helper()
	if err := h.driver.Start(h.t.Context(), runtime.StartRequest{ID: id, Resources: big, Image: h.image, Snapshot: memory}); err != nil {
		h.t.Fatal(err)
	}
	h.identify(id)
}

// TestResumeIsSane looks, after the first, second and tenth resume, at what goes
// wrong in other systems: clock, timers, randomness, network, and what ran.
func TestResumeIsSane(t *testing.T) {
	h := newHost(t)
	id := sandbox.NewID()
	h.startAs(id, "")
	h.sh(id, `echo 'import time
n = 0
while True:
    n += 1
    open("/root/n.new", "w").write(str(n))
    import os; os.rename("/root/n.new", "/root/n")
    time.sleep(0.01)' > /root/count.py; nohup python3 /root/count.py >/dev/null 2>&1 & while [ ! -e /root/n ]; do sleep 0.02; done`)
	count := func() (n int) {
		out, _ := h.sh(id, "cat /root/n")
		_, _ = fmt.Sscan(out, &n)
		return n
	}
	random := map[string]bool{}
	boot := ""
	for round := 1; round <= 10; round++ {
		before := count()
		st, err := h.driver.Suspend(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		h.destroy(id)
		h.startAs(id, st.Memory)
		_ = h.blobs.Delete(t.Context(), st.Memory)
		_ = h.blobs.Delete(t.Context(), st.Files)
		if round > 2 && round < 10 {
			continue
		}
		eventually(t, fmt.Sprintf("round %d: what ran goes on", round), func() bool { return count() > before })
		// The host's clock is read before and after, so the command's own time is no error.
		early := time.Now()
		out, _ := h.sh(id, "date +%s.%N")
		late := time.Now()
		var at float64
		_, _ = fmt.Sscan(out, &at)
		if inside := time.UnixMicro(int64(at * 1e6)); inside.Before(early.Add(-50*time.Millisecond)) || inside.After(late.Add(50*time.Millisecond)) {
			t.Errorf("round %d: it is %v inside, and between %v and %v here", round, inside, early, late)
		}
		began := time.Now()
		if _, code := h.sh(id, "sleep 0.3"); code != 0 || time.Since(began) < 300*time.Millisecond {
			t.Errorf("round %d: 300 ms of sleep took %v, exit %d", round, time.Since(began), code)
		}
		out, _ = h.sh(id, "head -c 16 /dev/urandom | od -An -tx1")
		if random[out] {
			t.Errorf("round %d: the same random bytes again", round)
		}
		random[out] = true
		out, code := h.sh(id, "ip -4 addr show | grep -q 'inet 10' && ip route | grep -q default && echo net")
		if code != 0 || strings.TrimSpace(out) != "net" {
			t.Errorf("round %d: no network: %q, exit %d", round, out, code)
		}
		if out, _ := h.sh(id, "hostname"); strings.TrimSpace(out) != "box" {
			t.Errorf("round %d: its name is %q", round, out)
		}
		out, _ = h.sh(id, "cat /proc/1/stat | cut -d' ' -f22")
		if boot != "" && out != boot {
			t.Errorf("round %d: the agent is another process: it started at %s, was %s", round, out, boot)
		}
		boot = out
	}
}

// A disk without room for memory and files leaves the sandbox running.
func TestSuspendOnAFullDisk(t *testing.T) {
	h := newHost(t)
	id := h.start("")
	h.sh(id, "head -c 30000000 /dev/urandom > /root/f; sha256sum /root/f > /root/sum")
	room := t.TempDir()
	if err := unix.Mount("tmpfs", room, "tmpfs", 0, "size=40m"); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Unmount(room, 0) }()
	req := wire.SaveRequest{ID: id, Memory: room + "/memory", Files: room + "/files", Stand: true}
	for _, dir := range []string{req.Memory, req.Files} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if status, fault := h.ask(wire.PathSave, req); status == 200 {
		t.Errorf("saving 60 MB in 40: %+v", fault)
	}
	if out, code := h.sh(id, "sha256sum -c /root/sum && echo runs on"); code != 0 || !strings.Contains(out, "runs on") {
		t.Errorf("after that: %q, exit %d", out, code)
	}
	if _, err := h.driver.Suspend(t.Context(), id); err != nil {
		t.Errorf("saving it where there is room: %v", err)
	}
}

// An engine that is killed while a sandbox stands still leaves one that can be let
// go, and one killed while it runs none that is let go once too often.
func TestThawAfterTheEngineIsKilled(t *testing.T) {
	h := newHost(t)
	for _, held := range []bool{true, false} {
		id := h.start("")
		h.sh(id, "echo dear > /root/f")
		if held {
			if _, err := h.driver.Suspend(t.Context(), id); err != nil {
				t.Fatal(err)
			}
		}
		if err := unix.Kill(h.enginePid(), unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if err := h.driver.Thaw(t.Context(), id); err != nil {
				t.Fatalf("held %v: Thaw: %v", held, err)
			}
		}
		if out, code := h.sh(id, "cat /root/f"); code != 0 || strings.TrimSpace(out) != "dear" {
			t.Errorf("held %v: after the thaw: %q, exit %d", held, out, code)
		}
		st, err := h.driver.Suspend(t.Context(), id)
		if err != nil {
			t.Fatalf("held %v: the next suspend: %v", held, err)
		}
		h.destroy(id)
		if err := h.driver.Start(t.Context(), runtime.StartRequest{ID: id, Resources: small, Image: h.image, Snapshot: st.Memory}); err != nil {
			t.Fatal(err)
		}
		h.destroy(id)
	}
}

// TestSpeedOfSuspend measures; it fails only where something is out of all
// proportion.
func TestSpeedOfSuspend(t *testing.T) {
	h := newHost(t)
	for _, dirty := range []int{0, 64, 256, 1024} {
		id := sandbox.NewID()
		h.startAs(id, "")
		if dirty > 0 {
			h.sh(id, fmt.Sprintf(`nohup python3 -c 'import os, time
b = bytearray(os.urandom(1 << 20) * %d)
open("/root/filled", "w").close()
time.sleep(1000)' >/dev/null 2>&1 & while [ ! -e /root/filled ]; do sleep 0.05; done`, dirty))
		}
		n := 10
		if dirty > 64 {
			n = 3
		}
		var suspends, resumes, commands, captures times
		var size int64
		for range n {
			captures.add(func() error {
				st, err := h.driver.Capture(t.Context(), id)
				if err == nil {
					err = h.forget(st)
				}
				return err
			}, t)
			var st runtime.State
			suspends.add(func() (err error) { st, err = h.driver.Suspend(t.Context(), id); return err }, t)
			h.destroy(id)
			resumes.add(func() error {
				return h.driver.Start(t.Context(), runtime.StartRequest{ID: id, Resources: big, Image: h.image, Snapshot: st.Memory})
			}, t)
			commands.add(func() error { h.identify(id); _, _ = h.sh(id, "true"); return nil }, t)
			size = st.Size
			if err := h.forget(st); err != nil {
				t.Error(err)
			}
		}
		t.Logf("%4d MiB dirty (%d MiB saved): suspend %v; resume %v; identity and first command %v; capture %v",
			dirty, size>>20, &suspends, &resumes, &commands, &captures)
		h.destroy(id)
	}
}

func (h *host) forget(st runtime.State) error {
	if err := h.blobs.Delete(h.t.Context(), st.Memory); err != nil {
		return err
	}
	return h.blobs.Delete(h.t.Context(), st.Files)
}
