package gvisor_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"silica.dev/silica/internal/runtime"
	"silica.dev/silica/sandbox"
)

// descriptors returns what a process has open that two could share by mistake.
func descriptors(t *testing.T, pid int) map[string]bool {
	t.Helper()
	found := map[string]bool{}
	fds, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	if err != nil || len(fds) == 0 {
		t.Fatalf("descriptors of %d: %v %v", pid, fds, err)
	}
	for _, fd := range fds {
		target, err := os.Readlink(fd)
		if err != nil {
			continue
		}
		if strings.HasPrefix(target, "socket:") || strings.HasPrefix(target, "pipe:") || strings.Contains(target, "layer-") || strings.Contains(target, "/slots/") {
			found[target] = true
		}
	}
	return found
}

// TestNothingShared: sandboxes created at once share no descriptor with each
// other or with the engine, each is in its own cgroup, and the engine never
// moves into one.
func TestNothingShared(t *testing.T) {
	h := newHost(t)
	engine := h.enginePid()
	before, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", engine))
	origin := h.start("")
	ref := h.snapshot(origin)
	var wg sync.WaitGroup
	for i := range 6 {
		snapshot := ref
		if i%2 == 0 {
			snapshot = ""
		}
		wg.Go(func() {
			id := sandbox.NewID()
			err := h.driver.Start(t.Context(), runtime.StartRequest{ID: id, Image: h.image, Snapshot: snapshot, Resources: small})
			if err != nil {
				t.Errorf("Start: %v", err)
			}
		})
	}
	// A checkpoint opens control sockets while others are created.
	wg.Go(func() {
		for range 5 {
			if _, err := h.driver.Snapshot(t.Context(), origin); err != nil {
				t.Errorf("Snapshot: %v", err)
			}
		}
	})
	wg.Wait()
	after, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", engine))
	if !bytes.Equal(before, after) {
		t.Errorf("the engine moved from\n%s to\n%s", before, after)
	}
	sentries := h.sentries()
	if len(sentries) != 7 {
		t.Fatalf("%d sentries, want 7", len(sentries))
	}
	for _, pid := range h.processes() { // the sentries' helpers, too
		score, err := os.ReadFile(fmt.Sprintf("/proc/%d/oom_score_adj", pid))
		if got := strings.TrimSpace(string(score)); err == nil && pid != engine && got != "500" {
			t.Errorf("process %d has an oom_score_adj of %s, want 500: it must go before the engine", pid, got)
		}
	}
	owner := map[string]string{}
	for d := range descriptors(t, engine) {
		owner[d] = "the engine"
	}
	for slot, pid := range sentries {
		for d := range descriptors(t, pid) {
			if other, ok := owner[d]; ok {
				t.Errorf("%s and %s both have %s open", slot, other, d)
			}
			owner[d] = slot
		}
		group, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
		if !strings.Contains(string(group), "/"+h.name+"/"+slot+"\n") {
			t.Errorf("%s is in\n%s", slot, group)
		}
		std, _ := os.Readlink(fmt.Sprintf("/proc/%d/fd/1", pid))
		if std != "/dev/null" {
			t.Errorf("%s writes to %s", slot, std)
		}
	}
}

// TestPacketSockets: after a slot was used many times, only the living sentry
// listens on its device.
func TestPacketSockets(t *testing.T) {
	h := newHost(t)
	origin := h.start("")
	ref := h.snapshot(origin)
	h.destroy(origin)
	for range 10 {
		h.destroy(h.start(ref))
	}
	if n := packetSockets(t, h.enginePid()); n != 0 {
		t.Errorf("the engine has %d packet sockets open, want none", n)
	}
	id := h.start(ref)
	out, err := exec.Command("nsenter", "--net=/proc/"+fmt.Sprint(h.sentry(id))+"/ns/net", "cat", "/proc/net/packet").Output()
	if err != nil {
		t.Fatal(err)
	}
	if n := bytes.Count(out, []byte("\n")) - 1; n != 1 {
		t.Errorf("%d packet sockets in the sandbox's namespace, want 1:\n%s", n, out)
	}
}

// packetSockets counts those a process has open.
func packetSockets(t *testing.T, pid int) (n int) {
	t.Helper()
	handle, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(handle)
	fds, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	for _, path := range fds {
		number, _ := strconv.Atoi(filepath.Base(path))
		fd, err := unix.PidfdGetfd(handle, number, 0)
		if err != nil {
			continue // closed meanwhile
		}
		if domain, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN); err == nil && domain == unix.AF_PACKET {
			n++
		}
		unix.Close(fd)
	}
	return n
}

// TestLongPaths: control sockets have addresses of 108 bytes; data folders don't.
func TestLongPaths(t *testing.T) {
	dir := filepath.Join(t.TempDir(), strings.Repeat("a-rather-long-name/", 10))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	h := newHostIn(t, dir)
	id := h.start("")
	copied := h.start(h.snapshot(id))
	if out, code := h.sh(copied, "echo fine"); out != "fine\n" || code != 0 {
		t.Errorf("echo printed %q, exit %d", out, code)
	}
}
