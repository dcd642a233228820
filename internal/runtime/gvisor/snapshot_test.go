package gvisor_test

import (
	"bytes"
	"context"
	"encoding/json"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"silica.dev/silica/internal/runtime/gvisor/wire"
	"silica.dev/silica/sandbox"
)

// ask makes one call of the engine itself.
func (h *host) ask(path string, req any) (status int, fault wire.Error) {
	h.t.Helper()
	sockets, _ := filepath.Glob(filepath.Join(h.dir, "engine", "*", "engine.sock"))
	client := http.Client{Timeout: time.Minute, Transport: &http.Transport{
		DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return wire.Dial(ctx, sockets[0]) },
		DisableKeepAlives: true,
	}}
	body, err := json.Marshal(req)
	if err != nil {
		h.t.Fatal(err)
	}
	res, err := client.Post("http://engine"+path, "application/json", bytes.NewReader(body))
	if err != nil {
		h.t.Fatalf("%s: %v", path, err)
	}
	defer res.Body.Close()
	_ = json.NewDecoder(res.Body).Decode(&fault)
	return res.StatusCode, fault
}

// TestBrokenSnapshots: whatever is wrong with a checkpoint's files, the engine
// blames the snapshot soon and keeps nothing of the start.
func TestBrokenSnapshots(t *testing.T) {
	h := newHost(t)
	origin := h.start("")
	whole, release, err := h.blobs.Open(t.Context(), h.snapshot(origin))
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	h.destroy(origin)
	images, _ := filepath.Glob(filepath.Join(h.dir, "blobs", "*", "root.erofs"))
	for _, c := range []struct {
		file string
		size int64 // -1: no file at all
	}{
		{"checkpoint.img", -1}, {"checkpoint.img", 0}, {"checkpoint.img", 1000},
		{"pages.img", -1}, {"pages.img", 0}, {"pages.img", 8192},
		{"pages_meta.img", -1}, {"pages_meta.img", 0}, {"pages_meta.img", 64},
	} {
		dir := t.TempDir()
		if err := os.CopyFS(dir, os.DirFS(whole)); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, c.file)
		if c.size < 0 {
			err = os.Remove(path)
		} else {
			err = os.Truncate(path, c.size)
		}
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		status, fault := h.ask(wire.PathStart, wire.StartRequest{
			ID: sandbox.NewID(), Resources: small, Image: images[0], ImageRef: h.image, Snapshot: dir})
		if status == http.StatusOK || !fault.SnapshotUnusable {
			t.Errorf("%s of %d bytes: status %d, %+v", c.file, c.size, status, fault)
		}
		if took := time.Since(began); took > 10*time.Second {
			t.Errorf("%s of %d bytes: refused after %v", c.file, c.size, took)
		}
	}
	if ids, err := h.driver.List(t.Context()); err != nil || len(ids) != 0 {
		t.Errorf("List = %v, %v", ids, err)
	}
	eventually(t, "all slots are free", func() bool { return h.settled(0) })
}
