package bench

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"silica.dev/silica/api"
)

// fakeServer answers what the harness asks, at once. Two creates of the
// 50 at once are refused, which must show as failed and in no percentile.
func fakeServer(t *testing.T, alive *atomic.Int64) *httptest.Server {
	var creates atomic.Int64
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		pool := "pool"
		var v any
		switch {
		case r.Method == http.MethodDelete:
			alive.Add(-1)
			v = api.DestroyedSandbox{State: api.StateDestroyed}
		case strings.HasSuffix(r.URL.Path, api.PathSandboxes):
			if n := creates.Add(1); n == 40 || n == 50 {
				w.WriteHeader(http.StatusServiceUnavailable)
				return
			}
			alive.Add(1)
			v = api.Sandbox{ID: "sbx_x", State: api.StateRunning, Ready: true, BootPath: &pool}
		case strings.HasSuffix(r.URL.Path, "/exec"):
			v = api.ExecResult{}
		case strings.HasSuffix(r.URL.Path, "/files/download"):
			_, _ = io.Copy(w, noise(fileSize))
			return
		default:
			_, _ = io.Copy(io.Discard, r.Body)
			v = api.FileWritten{}
		}
		_ = json.NewEncoder(w).Encode(v)
	}))
	t.Cleanup(s.Close)
	return s
}

func TestRunAgainstServer(t *testing.T) {
	var alive atomic.Int64
	s := fakeServer(t, &alive)
	c := Config{URL: s.URL, Key: "msk_x", Quick: true, Log: func(string) {}}
	r, err := Run(context.Background(), c)
	if err != nil {
		t.Fatal(err)
	}
	if n := alive.Load(); n != 0 {
		t.Errorf("%d sandboxes were left alive", n)
	}
	starts := r.Sections[0]
	if len(starts.Rows) != 3 {
		t.Fatalf("rows of %q: %+v", starts.Title, starts.Rows)
	}
	for _, row := range starts.Rows {
		if row.N == 0 || row.P50 <= 0 || !strings.Contains(row.What, "pool") {
			t.Errorf("%+v", row)
		}
	}
	if at50 := starts.Rows[2]; at50.Failed != 2 || at50.N != 48 {
		t.Errorf("50 at once: %d and %d failed, want 48 and 2", at50.N, at50.Failed)
	}
}

func TestNothingWorks(t *testing.T) {
	s := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(s.Close)
	_, err := Run(context.Background(), Config{URL: s.URL, Key: "msk_x", Quick: true, Log: func(string) {}})
	if err == nil || !strings.Contains(err.Error(), "every start failed") {
		t.Errorf("got %v, want that every start failed", err)
	}
}
