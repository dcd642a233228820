package gvisor_test

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"silica.dev/silica/internal/runtime"
	"silica.dev/silica/internal/runtime/gvisor/wire"
	"silica.dev/silica/internal/runtime/runtimetest"
	"silica.dev/silica/sandbox"
)

// A disk without room for the files leaves the sandbox running.
func TestKeepOnAFullDisk(t *testing.T) {
	h := newHost(t)
	id := h.start("")
	h.sh(id, "head -c 30000000 /dev/urandom > /root/f; sha256sum /root/f > /root/sum")
	small := t.TempDir()
	if err := unix.Mount("tmpfs", small, "tmpfs", 0, "size=4m"); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Unmount(small, 0) }()
	if status, fault := h.ask(wire.PathKeep, wire.KeepRequest{ID: id, Dir: small}); status == http.StatusOK {
		t.Errorf("keeping 30 MB in 4: %+v", fault)
	}
	if out, code := h.sh(id, "sha256sum -c /root/sum && echo runs on"); code != 0 || !strings.Contains(out, "runs on") {
		t.Errorf("after that: %q, exit %d", out, code)
	}
	if _, err := h.driver.KeepFiles(t.Context(), id); err != nil {
		t.Errorf("keeping it where there is room: %v", err)
	}
}

// A deleted file that is held open is not kept: it would take disk for ever.
func TestKeepDropsDeletedFiles(t *testing.T) {
	h := newHost(t)
	id := h.start("")
	h.sh(id, "echo dear > /root/f; nohup sh -c 'exec 3>/root/gone; rm /root/gone; head -c 50000000 /dev/urandom >&3; touch /root/held; sleep 1000' >/dev/null 2>&1 & while [ ! -e /root/held ]; do sleep 0.05; done")
	ref, err := h.driver.KeepFiles(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	dir, release, err := h.blobs.Open(t.Context(), ref)
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	if info, err := os.Stat(filepath.Join(dir, "pages.img")); err != nil || info.Size() > 8<<20 {
		t.Errorf("the pages kept: %v, %v", info.Size(), err)
	}
	h.destroy(id)
	err = h.driver.Start(t.Context(), runtime.StartRequest{ID: id, Resources: small, Image: h.image, Files: ref})
	if err != nil {
		t.Fatal(err)
	}
	if out, _ := h.sh(id, "cat /root/f"); strings.TrimSpace(out) != "dear" {
		t.Errorf("the file holds %q", out)
	}
	// Any sandbox over the same image may start with them, as forks do.
	h.destroy(id)
	if err := h.driver.Start(t.Context(), runtime.StartRequest{ID: sandbox.NewID(), Resources: small, Image: runtimetest.Image("other"), Files: ref}); err == nil {
		t.Error("they were put over another image")
	}
}
