package e2e

import (
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// "disk full on the host: no sandbox stuck in a passing state after restart;
// nothing leaked; nothing acknowledged is lost".
func TestHostDiskFull(t *testing.T) {
	s, err := theLab.newServer(options{flags: []string{"--warm-pool=0", "--empty-slots=0"}})
	if err != nil {
		t.Fatal(err)
	}
	// A small file system of its own for the data.
	if err := os.MkdirAll(s.data, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("none", s.data, "tmpfs", 0, "size=4g"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(s.data, unix.MNT_DETACH) })
	closed := false
	t.Cleanup(func() {
		if !closed {
			s.close()
		}
	})
	if err := theLab.cloneTemplate(s.data); err != nil {
		t.Fatal(err)
	}
	if err := s.begin(); err != nil {
		t.Fatalf("%v\n%s", err, s.log.tail(0, 40))
	}
	c := s.tenant(t)
	id := c.create(t, nil)
	c.upload(t, id, "/root/mark", []byte("kept")).want(t, 200, "")

	filler := filepath.Join(s.data, "filler")
	fill(t, filler)
	for range 3 {
		a := c.do(t, "POST", "sandboxes", obj{})
		if a.Status == http.StatusInternalServerError {
			t.Errorf("create on a full disk: got %s, want an error that says what to do", a)
		}
		if a.Status == http.StatusCreated {
			c.do(t, "GET", "sandboxes/"+a.str("id"), nil).want(t, 200, "")
		}
	}
	if got := c.exec(t, id, "cat /root/mark"); got.str("stdout") != "kept" {
		t.Errorf("exec on a full disk: got %s", got)
	}
	if err := s.kill(); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	s.restart(t)
	eventually(t, 30*time.Second, "no sandbox is in a passing state", func() bool {
		return len(c.do(t, "GET", "sandboxes?state=provisioning", nil).list()) == 0
	})
	if got := c.sh(t, id, "cat /root/mark"); got != "kept" {
		t.Errorf("after the restart: got %q", got)
	}
	if got := c.sh(t, c.create(t, nil), "echo works"); got != "works" {
		t.Errorf("a new one: got %q", got)
	}
	closed = true
	for _, l := range s.close() {
		if l != "mount "+s.data {
			t.Errorf("left behind: %s", l)
		}
	}
}

// fill writes until the file system has no room.
func fill(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for size := 64 << 20; size >= 4096; size /= 2 {
		block := make([]byte, size)
		for {
			if _, err := f.Write(block); err != nil {
				break
			}
		}
	}
}
