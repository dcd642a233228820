package guest

import (
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"

	"silica.dev/silica/internal/guest/guestpb"
	"silica.dev/silica/internal/guest/guestpb/guestpbconnect"
	"silica.dev/silica/sandbox"
)

// hostile stands for a sandbox whose agent was replaced.
type hostile struct {
	guestpbconnect.UnimplementedAgentHandler
	start func(context.Context, *connect.ServerStream[guestpb.ProcessEvent]) error
	stat  func() error
}

func (h *hostile) Start(ctx context.Context, _ *connect.Request[guestpb.StartRequest], st *connect.ServerStream[guestpb.ProcessEvent]) error {
	return h.start(ctx, st)
}

func (h *hostile) Stat(context.Context, *connect.Request[guestpb.StatRequest]) (*connect.Response[guestpb.StatResponse], error) {
	return nil, h.stat()
}

// dialed returns a client of h and the number of connections it made.
func dialed(t *testing.T, h http.Handler) (*Client, *atomic.Int32) {
	t.Helper()
	srv := httptest.NewServer(h)
	n := new(atomic.Int32)
	c := NewClient(func(ctx context.Context) (net.Conn, error) {
		n.Add(1)
		return (&net.Dialer{}).DialContext(ctx, "tcp", srv.Listener.Addr().String())
	})
	t.Cleanup(func() { c.Close(); srv.CloseClientConnections(); srv.Close() })
	return c, n
}

func rpc(h *hostile) http.Handler {
	path, handler := guestpbconnect.NewAgentHandler(h)
	mux := http.NewServeMux()
	mux.Handle(path, handler)
	return mux
}

func TestErrorsAreBelievedByCodeOnly(t *testing.T) {
	h := &hostile{}
	c, _ := dialed(t, rpc(h))
	for _, tt := range []struct {
		name string
		err  error
		kind sandbox.Kind
		code string
	}{
		{"known", WireError(sandbox.E(sandbox.NotFound, sandbox.CodeFileNotFound, "gone")), sandbox.NotFound, sandbox.CodeFileNotFound},
		{"a kind that does not fit", WireError(&sandbox.Error{Kind: sandbox.Exhausted, Code: sandbox.CodeFileNotFound}), sandbox.NotFound, sandbox.CodeFileNotFound},
		{"not the agent's to say", WireError(sandbox.E(sandbox.Unauthenticated, sandbox.CodeUnauthorized, "log in again")), sandbox.Internal, sandbox.CodeInternal},
		{"no code", connect.NewError(connect.CodeNotFound, errors.New("x")), sandbox.Internal, sandbox.CodeInternal},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h.stat = func() error { return tt.err }
			_, err := c.Stat(t.Context(), "/x")
			e := sandbox.AsError(err)
			if err == nil || e.Kind != tt.kind || e.Code != tt.code {
				t.Errorf("got %v, want %v %s", err, tt.kind, tt.code)
			}
		})
	}
	h.stat = func() error {
		return WireError(sandbox.E(sandbox.NotFound, sandbox.CodeFileNotFound, strings.Repeat("long ", 1<<16)))
	}
	if _, err := c.Stat(t.Context(), "/x"); len(err.Error()) > 2*maxErrorText {
		t.Errorf("a message of %d bytes got through", len(err.Error()))
	}
}

func TestStreamThatBreaks(t *testing.T) {
	h := &hostile{start: func(_ context.Context, st *connect.ServerStream[guestpb.ProcessEvent]) error {
		_ = st.Send(&guestpb.ProcessEvent{Event: &guestpb.ProcessEvent_Started_{Started: &guestpb.ProcessEvent_Started{Pid: 1}}})
		panic(http.ErrAbortHandler)
	}}
	c, _ := dialed(t, rpc(h))
	var last error
	n := 0
	for _, err := range c.Start(t.Context(), &guestpb.StartRequest{}) {
		if last = err; err == nil {
			n++
		}
	}
	if n != 1 || !sandbox.HasCode(last, sandbox.CodeSandboxGone) {
		t.Errorf("%d events, then %v", n, last)
	}
}

func TestCancelIsTheCallers(t *testing.T) {
	h := &hostile{start: func(ctx context.Context, st *connect.ServerStream[guestpb.ProcessEvent]) error {
		_ = st.Send(&guestpb.ProcessEvent{})
		<-ctx.Done()
		return ctx.Err()
	}}
	c, _ := dialed(t, rpc(h))
	why := errors.New("the user left")
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	var last error
	for _, err := range c.Start(ctx, &guestpb.StartRequest{}) {
		last = err
		cancel(why)
	}
	if !errors.Is(last, why) {
		t.Errorf("got %v", last)
	}
}

// Who stops at the exit keeps the connection; an agent that does not end its
// stream then can't hold anybody up for long.
func TestStopAtTheExit(t *testing.T) {
	exit := &guestpb.ProcessEvent{Event: &guestpb.ProcessEvent_Exited_{Exited: &guestpb.ProcessEvent_Exited{}}}
	h := &hostile{start: func(_ context.Context, st *connect.ServerStream[guestpb.ProcessEvent]) error { return st.Send(exit) }}
	c, dials := dialed(t, rpc(h))
	run := func() {
		for ev, err := range c.Start(t.Context(), &guestpb.StartRequest{}) {
			if err != nil {
				t.Fatal(err)
			}
			if ev.GetExited() != nil {
				break
			}
		}
	}
	run()
	run()
	if n := dials.Load(); n != 1 {
		t.Errorf("%d connections, want 1", n)
	}
	h.start = func(ctx context.Context, st *connect.ServerStream[guestpb.ProcessEvent]) error {
		_ = st.Send(exit)
		<-ctx.Done()
		return nil
	}
	begin := time.Now()
	run()
	if d := time.Since(begin); d > trailer+2*time.Second {
		t.Errorf("held up for %s", d)
	}
}

func TestNothingIsUnpacked(t *testing.T) {
	c, _ := dialed(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for _, name := range []string{"Accept-Encoding", "Connect-Accept-Encoding"} {
			if v := r.Header.Get(name); v != "" && v != "identity" {
				t.Errorf("%s: %s was asked for", name, v)
			}
		}
		w.Header().Set("Content-Type", "application/proto")
		w.Header().Set("Content-Encoding", "gzip")
		z := gzip.NewWriter(w)
		_, _ = io.CopyN(z, zeros{}, 2*maxMessage)
		z.Close()
	}))
	if _, err := c.Metrics(t.Context()); err == nil {
		t.Error("a packed answer was taken")
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func TestReadFileChecksTheAnswer(t *testing.T) {
	for _, tt := range []struct {
		name   string
		offset int64
		answer http.HandlerFunc
		size   int64
		body   string
		fails  bool
	}{
		{"whole", 0, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "0123456789") }, 10, "0123456789", false},
		{"part", 4, func(w http.ResponseWriter, r *http.Request) {
			http.ServeContent(w, r, "x", time.Time{}, strings.NewReader("0123456789"))
		}, 10, "456789", false},
		{"the whole for a part", 4, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "0123456789") }, 0, "", true},
		{"no size", 0, func(w http.ResponseWriter, _ *http.Request) {
			w.(http.Flusher).Flush()
			fmt.Fprint(w, "x")
		}, -1, "x", false},
		{"an endless error", 0, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set(CodeHeader, sandbox.CodeFileNotFound)
			w.WriteHeader(http.StatusNotFound)
			_, _ = io.Copy(w, io.LimitReader(zeros{}, 8<<20))
		}, 0, "", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, _ := dialed(t, tt.answer)
			f, err := c.ReadFile(t.Context(), "/x", tt.offset)
			if tt.fails {
				if err == nil {
					t.Error("no error")
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if b, err := io.ReadAll(f); string(b) != tt.body || err != nil || f.Size != tt.size {
				t.Errorf("%q, size %d, %v; want %q, %d", b, f.Size, err, tt.body, tt.size)
			}
		})
	}
}

// An error of the sender's own body comes back as it was, not as the sandbox's.
func TestSendersErrorStays(t *testing.T) {
	c, _ := dialed(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) }))
	mine := sandbox.E(sandbox.TooLarge, sandbox.CodeFileTooLarge, "too large")
	_, err := c.WriteFile(t.Context(), "/x", 0, io.MultiReader(io.LimitReader(zeros{}, 1<<20), failing{mine}))
	if !sandbox.HasCode(err, sandbox.CodeFileTooLarge) {
		t.Errorf("got %v", err)
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

func TestLostSandbox(t *testing.T) {
	gone := sandbox.E(sandbox.NotFound, sandbox.CodeNotFound, "no such sandbox")
	c := NewClient(func(context.Context) (net.Conn, error) { return nil, gone })
	if _, err := c.Metrics(t.Context()); !sandbox.HasCode(err, sandbox.CodeNotFound) {
		t.Errorf("what dial said is lost: %v", err)
	}
	c = NewClient(func(context.Context) (net.Conn, error) { return nil, errors.New("no route") })
	if _, err := c.Metrics(t.Context()); !sandbox.HasCode(err, sandbox.CodeSandboxGone) {
		t.Errorf("got %v", err)
	}
}
