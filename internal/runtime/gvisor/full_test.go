package gvisor_test

import (
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"silica.dev/silica/internal/runtime/gvisor/wire"
)

// A save that finds no room at any moment leaves the sandbox running.
func TestSaveWithoutRoomAtAnyMoment(t *testing.T) {
	h := newHost(t)
	id := h.start("")
	h.sh(id, "head -c 3000000 /dev/urandom > /root/f; sha256sum /root/f > /root/sum")
	room := t.TempDir()
	if err := unix.Mount("tmpfs", room, "tmpfs", 0, "size=64m"); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Unmount(room, unix.MNT_DETACH) }()
	for kib := 0; kib < 8192; kib += 1024 {
		filler, err := os.Create(room + "/filler")
		if err != nil {
			t.Fatal(err)
		}
		req := wire.SaveRequest{ID: id, Memory: room + "/memory", Files: room + "/files", Stand: true}
		for _, dir := range []string{req.Memory, req.Files} {
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		if err := unix.Fallocate(int(filler.Fd()), 0, 0, 64<<20-int64(kib)<<10); err != nil {
			t.Fatal(err)
		}
		filler.Close()
		status, fault := h.ask(wire.PathSave, req)
		_ = h.driver.Thaw(t.Context(), id)
		if out, code := h.sh(id, "sha256sum -c /root/sum && echo runs on"); code != 0 || !strings.Contains(out, "runs on") {
			t.Fatalf("with %d KiB: %d %+v, and after it: %q, exit %d", kib, status, fault, out, code)
		}
		for _, path := range []string{req.Memory, req.Files, room + "/filler"} {
			if err := os.RemoveAll(path); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// A host disk without room makes writes fail, and nothing else.
func TestRunOnAFullDisk(t *testing.T) {
	room := t.TempDir()
	if err := unix.Mount("tmpfs", room, "tmpfs", 0, "size=1g"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(room, unix.MNT_DETACH) })
	h := newHostIn(t, room)
	id := h.start("")
	h.sh(id, "head -c 3000000 /dev/urandom > /root/f; sha256sum /root/f > /root/sum")
	filler, err := os.Create(room + "/filler")
	if err != nil {
		t.Fatal(err)
	}
	defer filler.Close()
	end := int64(0)
	for size := int64(1) << 30; size >= 4096; {
		if err := unix.Fallocate(int(filler.Fd()), 0, end, size); err != nil {
			size /= 2
			continue
		}
		end += size
	}
	for i := range 9 {
		h.sh(id, "for i in $(seq 20); do echo x > /root/x$i; head -c 100000 /dev/urandom > /root/y$i; cp /root/y$i /dev/shm/; rm -f /root/y$((i-5)); done")
		if i%3 == 0 {
			if _, err := h.driver.Suspend(t.Context(), id); err == nil {
				t.Error("it was saved where there is no room")
			}
		}
		if out, code := h.sh(id, "sha256sum -c /root/sum && echo runs on"); code != 0 || !strings.Contains(out, "runs on") {
			t.Fatalf("round %d: %q, exit %d", i, out, code)
		}
	}
	if err := filler.Truncate(0); err != nil {
		t.Fatal(err)
	}
	if _, err := h.driver.Suspend(t.Context(), id); err != nil {
		t.Error(err)
	}
}
