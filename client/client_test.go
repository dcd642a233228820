package client_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"silica.dev/silica/api"
	"silica.dev/silica/client"
)

// serve answers every request with f and counts them.
func serve(t *testing.T, f func(n int, w http.ResponseWriter, r *http.Request), opts ...client.Option) (*client.Client, *atomic.Int64) {
	t.Helper()
	var n atomic.Int64
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		f(int(n.Add(1)), w, r)
	}))
	t.Cleanup(srv.Close)
	c, err := client.New(srv.URL, "msk_u_x", opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c, &n
}

func refuse(w http.ResponseWriter, status int, code string) {
	w.WriteHeader(status)
	_, _ = io.WriteString(w, `{"error":{"code":"`+code+`","message":"m","details":null,"request_id":"r"}}`)
}

func cut(w http.ResponseWriter) {
	conn, _, err := w.(http.Hijacker).Hijack()
	if err == nil {
		conn.Close()
	}
}

// "retries that never run a command twice": what each call does when its first
// attempt meets bad luck.
func TestRetries(t *testing.T) {
	ctx := t.Context()
	exec := func(c *client.Client) error {
		_, err := c.Exec(ctx, "sbx_1", api.ExecRequest{Command: "x"})
		return err
	}
	execStream := func(c *client.Client) error {
		for _, err := range c.ExecStream(ctx, "sbx_1", api.ExecRequest{Command: "x"}) {
			if err != nil {
				return err
			}
		}
		return nil
	}
	create := func(c *client.Client) error { _, err := c.Create(ctx, api.CreateSandbox{}); return err }
	get := func(c *client.Client) error { _, err := c.Get(ctx, "sbx_1"); return err }
	del := func(c *client.Client) error { _, err := c.Delete(ctx, "sbx_1"); return err }
	key := func(c *client.Client) error { _, err := c.CreateKey(ctx, api.CreateKey{}); return err }
	up := func(c *client.Client) error {
		_, err := c.Upload(ctx, "sbx_1", "/a", strings.NewReader("x"))
		return err
	}
	status := func(s int, code string) func(http.ResponseWriter) {
		return func(w http.ResponseWriter) { refuse(w, s, code) }
	}
	for _, tt := range []struct {
		name  string
		call  func(*client.Client) error
		first func(http.ResponseWriter)
		again bool
	}{
		{"get, connection cut", get, cut, true},
		{"get, 503", get, status(503, "UNAVAILABLE"), true},
		{"get, 429", get, status(429, "RATE_LIMITED"), true},
		{"get, 500", get, status(500, "INTERNAL_ERROR"), false},
		{"get, 404", get, status(404, "NOT_FOUND"), false},
		{"create, connection cut", create, cut, true},
		{"create, 503", create, status(503, "UNAVAILABLE"), true},
		{"create, 409", create, status(409, "SANDBOX_LIMIT_EXCEEDED"), false},
		{"delete, connection cut", del, cut, true},
		{"exec, 429", exec, status(429, "RATE_LIMITED"), true},
		{"exec, connection cut", exec, cut, false},
		{"exec, 503", exec, status(503, "UNAVAILABLE"), false},
		{"exec, 504", exec, status(504, "EXEC_TIMEOUT"), false},
		{"exec stream, connection cut", execStream, cut, false},
		{"upload, 429", up, status(429, "RATE_LIMITED"), false},
		{"key, connection cut", key, cut, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			keys := map[string]bool{}
			c, n := serve(t, func(n int, w http.ResponseWriter, r *http.Request) {
				if k := r.Header.Get("Idempotency-Key"); k != "" {
					keys[k] = true
				}
				if n == 1 {
					tt.first(w)
					return
				}
				_, _ = io.WriteString(w, "{}")
			})
			err := tt.call(c)
			if want := map[bool]int64{true: 2, false: 1}[tt.again]; n.Load() != want {
				t.Errorf("%d requests, want %d (%v)", n.Load(), want, err)
			}
			if !tt.again && err == nil {
				t.Error("the failure was swallowed")
			}
			if strings.HasPrefix(tt.name, "create") && len(keys) != 1 {
				t.Errorf("idempotency keys: %v", keys)
			}
		})
	}
}

// "429/503 honour Retry-After", and giving up ends the wait.
func TestRetryAfter(t *testing.T) {
	var at []time.Time
	c, _ := serve(t, func(n int, w http.ResponseWriter, _ *http.Request) {
		at = append(at, time.Now())
		if n == 1 {
			w.Header().Set("Retry-After", "0.3")
			refuse(w, 429, "RATE_LIMITED")
			return
		}
		_, _ = io.WriteString(w, "{}")
	})
	if _, err := c.Get(t.Context(), "x"); err != nil {
		t.Fatal(err)
	}
	if d := at[1].Sub(at[0]); d < 300*time.Millisecond {
		t.Errorf("repeated after %v", d)
	}

	c, n := serve(t, func(_ int, w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", "60")
		refuse(w, 429, "RATE_LIMITED")
	})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := c.Get(ctx, "x")
	var e *client.Error
	if !errors.As(err, &e) || e.RetryAfter != time.Minute || n.Load() != 1 {
		t.Errorf("%v after %d requests", err, n.Load())
	}
}

func TestErrorsOfOthers(t *testing.T) {
	c, _ := serve(t, func(_ int, w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusTeapot)
		_, _ = io.WriteString(w, "<html>")
	})
	_, err := c.Get(t.Context(), "x")
	var e *client.Error
	if !errors.As(err, &e) || e.Status != http.StatusTeapot || !strings.Contains(err.Error(), "418") {
		t.Errorf("%v", err)
	}
}

func TestNewChecksURL(t *testing.T) {
	for _, u := range []string{"", "localhost:8080", "ftp://x", "http://", "://"} {
		if _, err := client.New(u, "k"); err == nil {
			t.Errorf("%q was taken", u)
		}
	}
}

// An exec stream that ends without an exit is an error, never a success.
func TestExecStreamCutShort(t *testing.T) {
	c, _ := serve(t, func(_ int, w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "event: stdout\ndata: {\"type\":\"stdout\",\"data\":\"x\\n\"}\n\n: heartbeat\n\nevent: stdout\ndata: {\"ty")
	})
	var got []api.ExecEvent
	var last error
	for ev, err := range c.ExecStream(t.Context(), "x", api.ExecRequest{Command: "x"}) {
		if err != nil {
			last = err
			continue
		}
		got = append(got, ev)
	}
	if len(got) != 1 || got[0].Data != "x\n" || !errors.Is(last, io.ErrUnexpectedEOF) {
		t.Errorf("%v %v", got, last)
	}
}
