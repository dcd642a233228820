package runtimetest

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"path"
	"strconv"
	"sync"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"silica.dev/silica/internal/guest"
	"silica.dev/silica/internal/guest/guestpb"
	"silica.dev/silica/internal/guest/guestpb/guestpbconnect"
	"silica.dev/silica/sandbox"
)

// Agent is the fake guest agent of one fake sandbox: files in memory, and a
// shell that knows a few commands (see shell.go).
type Agent struct {
	guestpbconnect.UnimplementedAgentHandler
	memory *memory
	server *http.Server
	conns  chan net.Conn
	done   chan struct{} // closed when the sandbox ends

	mu      sync.Mutex
	inits   []*guestpb.InitRequest
	notices []*guestpb.Notice
	changed chan struct{} // closed and replaced at each notice
	hung    chan struct{} // non-nil: answers wait until it is closed
	nextPID uint32
	procs   map[uint32]*process
	wrong   Faults
	res     sandbox.Resources
}

func newAgent(m *memory, res sandbox.Resources) *Agent {
	a := &Agent{
		memory: m, res: res, conns: make(chan net.Conn), done: make(chan struct{}),
		changed: make(chan struct{}), procs: map[uint32]*process{},
	}
	mux := http.NewServeMux()
	mux.Handle(guestpbconnect.NewAgentHandler(a))
	mux.HandleFunc("GET /files", a.getFile)
	mux.HandleFunc("PUT /files", a.putFile)
	mux.HandleFunc("POST /files/spool", a.spool)
	mux.HandleFunc("POST /files/commit", a.commit)
	mux.HandleFunc("GET /files/capture", a.capture)
	a.server = &http.Server{Handler: a.patient(mux)}
	go func() { _ = a.server.Serve(a) }() // stop ends it
	return a
}

// Accept, Close and Addr make the agent its own listener.
func (a *Agent) Accept() (net.Conn, error) {
	select {
	case c := <-a.conns:
		return c, nil
	case <-a.done:
		return nil, net.ErrClosed
	}
}

// Close is part of net.Listener; stop does the work.
func (a *Agent) Close() error { return nil }

// Addr is part of net.Listener.
func (a *Agent) Addr() net.Addr { return &net.UnixAddr{Name: "fake-agent", Net: "unix"} }

func (a *Agent) dial(ctx context.Context) (net.Conn, error) {
	ours, theirs := net.Pipe()
	select {
	case a.conns <- theirs:
		return ours, nil
	case <-a.done:
		return nil, errors.New("the sandbox has ended")
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

func (a *Agent) stop() {
	close(a.done)
	_ = a.server.Close()
}

// patient holds requests back while the agent hangs.
func (a *Agent) patient(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a.mu.Lock()
		hung := a.hung
		a.mu.Unlock()
		if hung != nil {
			select {
			case <-hung:
			case <-r.Context().Done():
			case <-a.done:
			}
		}
		next.ServeHTTP(w, r)
	})
}

// Hang makes the agent accept connections and answer nothing, until resume is
// called.
func (a *Agent) Hang() (resume func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.hung = make(chan struct{})
	return sync.OnceFunc(func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		close(a.hung)
		a.hung = nil
	})
}

// Inits lists the identities the agent was given, in order.
func (a *Agent) Inits() []*guestpb.InitRequest {
	a.mu.Lock()
	defer a.mu.Unlock()
	return append([]*guestpb.InitRequest(nil), a.inits...)
}

// Notify sends a notice to whoever listens, now or later.
func (a *Agent) Notify(kind guestpb.Notice_Kind, message string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.notices = append(a.notices, &guestpb.Notice{
		Seq: uint64(len(a.notices) + 1), Kind: kind, Message: message, UnixNano: time.Now().UnixNano(),
	})
	close(a.changed)
	a.changed = make(chan struct{})
}

// SetEnv replaces the environment of the last Init.
func (a *Agent) SetEnv(_ context.Context, r *connect.Request[guestpb.SetEnvRequest]) (*connect.Response[guestpb.SetEnvResponse], error) {
	a.mu.Lock()
	last := &guestpb.InitRequest{}
	if n := len(a.inits); n > 0 {
		last = proto.CloneOf(a.inits[n-1])
	}
	last.Env = r.Msg.Env
	a.inits = append(a.inits, last)
	a.mu.Unlock()
	a.memory.identify(last)
	return connect.NewResponse(&guestpb.SetEnvResponse{}), nil
}

// Init implements the RPC.
func (a *Agent) Init(_ context.Context, r *connect.Request[guestpb.InitRequest]) (*connect.Response[guestpb.InitResponse], error) {
	a.mu.Lock()
	a.inits = append(a.inits, r.Msg)
	a.mu.Unlock()
	a.memory.identify(r.Msg)
	return connect.NewResponse(&guestpb.InitResponse{AgentVersion: "fake", Seed: a.memory.seed}), nil
}

// Metrics implements the RPC.
func (a *Agent) Metrics(context.Context, *connect.Request[guestpb.MetricsRequest]) (*connect.Response[guestpb.MetricsResponse], error) {
	res := a.res
	if a.faults().Unlimited {
		res = sandbox.Resources{Memory: 1 << 40, Disk: 1 << 40}
	}
	return connect.NewResponse(&guestpb.MetricsResponse{
		MemoryTotal: res.Memory, MemoryUsed: 64 << 20, DiskTotal: res.Disk, DiskUsed: 1 << 20, Processes: 1,
	}), nil
}

// Relieve implements the RPC: there is never anything to end.
func (a *Agent) Relieve(context.Context, *connect.Request[guestpb.RelieveRequest]) (*connect.Response[guestpb.RelieveResponse], error) {
	return connect.NewResponse(&guestpb.RelieveResponse{}), nil
}

// Notices implements the RPC.
func (a *Agent) Notices(ctx context.Context, r *connect.Request[guestpb.NoticesRequest], s *connect.ServerStream[guestpb.Notice]) error {
	if err := s.Send(&guestpb.Notice{Kind: guestpb.Notice_READY}); err != nil {
		return err
	}
	for after := r.Msg.After; ; {
		a.mu.Lock()
		notices, changed := a.notices, a.changed
		a.mu.Unlock()
		for ; after < uint64(len(notices)); after++ {
			if err := s.Send(notices[after]); err != nil {
				return err
			}
		}
		select {
		case <-changed:
		case <-a.done:
			return errors.New("the sandbox has ended")
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Stat implements the RPC.
func (a *Agent) Stat(_ context.Context, r *connect.Request[guestpb.StatRequest]) (*connect.Response[guestpb.StatResponse], error) {
	e, err := a.memory.stat(r.Msg.Path)
	if err != nil {
		return nil, guest.WireError(err)
	}
	return connect.NewResponse(&guestpb.StatResponse{Entry: e}), nil
}

// ListDir implements the RPC.
func (a *Agent) ListDir(_ context.Context, r *connect.Request[guestpb.ListDirRequest]) (*connect.Response[guestpb.ListDirResponse], error) {
	es, err := a.memory.list(r.Msg.Path, int(max(r.Msg.Depth, 1)))
	if err != nil {
		return nil, guest.WireError(err)
	}
	return connect.NewResponse(&guestpb.ListDirResponse{Entries: es}), nil
}

// MakeDir implements the RPC; parents are always made.
func (a *Agent) MakeDir(_ context.Context, r *connect.Request[guestpb.MakeDirRequest]) (*connect.Response[guestpb.MakeDirResponse], error) {
	if err := a.memory.mkdir(r.Msg.Path); err != nil {
		return nil, guest.WireError(err)
	}
	e, err := a.memory.stat(r.Msg.Path)
	if err != nil {
		return nil, guest.WireError(err)
	}
	return connect.NewResponse(&guestpb.MakeDirResponse{Entry: e}), nil
}

// Move implements the RPC, for files.
func (a *Agent) Move(_ context.Context, r *connect.Request[guestpb.MoveRequest]) (*connect.Response[guestpb.MoveResponse], error) {
	if err := a.memory.rename(r.Msg.From, r.Msg.To); err != nil {
		return nil, guest.WireError(err)
	}
	e, err := a.memory.stat(r.Msg.To)
	if err != nil {
		return nil, guest.WireError(err)
	}
	return connect.NewResponse(&guestpb.MoveResponse{Entry: e}), nil
}

// Remove implements the RPC.
func (a *Agent) Remove(_ context.Context, r *connect.Request[guestpb.RemoveRequest]) (*connect.Response[guestpb.RemoveResponse], error) {
	if err := a.memory.remove(r.Msg.Path, r.Msg.Recursive); err != nil {
		return nil, guest.WireError(err)
	}
	return connect.NewResponse(&guestpb.RemoveResponse{}), nil
}

// fail is the file routes' side of errors.
func fail(w http.ResponseWriter, err error) {
	e := sandbox.AsError(err)
	w.Header().Set(guest.CodeHeader, e.Code)
	http.Error(w, e.Message, http.StatusConflict)
}

func (a *Agent) getFile(w http.ResponseWriter, r *http.Request) {
	data, modified, err := a.memory.read(r.URL.Query().Get("path"))
	if err != nil {
		fail(w, err)
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Last-Modified", modified.UTC().Format(http.TimeFormat))
	status := http.StatusOK
	if from, ok := rangeStart(r.Header.Get("Range")); ok && from <= int64(len(data)) {
		data, status = data[from:], http.StatusPartialContent
	}
	w.Header().Set("Content-Length", strconv.Itoa(len(data)))
	w.WriteHeader(status)
	_, _ = w.Write(data)
}

// rangeStart reads the only form of Range the host's client sends.
func rangeStart(header string) (int64, bool) {
	const prefix = "bytes="
	if len(header) < len(prefix)+2 || header[:len(prefix)] != prefix || header[len(header)-1] != '-' {
		return 0, false
	}
	n, err := strconv.ParseInt(header[len(prefix):len(header)-1], 10, 64)
	return n, err == nil
}

func (a *Agent) putFile(w http.ResponseWriter, r *http.Request) {
	mode, _ := strconv.ParseUint(r.URL.Query().Get("mode"), 8, 32)
	a.store(w, r, r.URL.Query().Get("path"), uint32(mode))
}

func (a *Agent) spool(w http.ResponseWriter, r *http.Request) {
	a.store(w, r, "/.spool/"+sandbox.NewName(""), 0)
}

func (a *Agent) store(w http.ResponseWriter, r *http.Request, to string, mode uint32) {
	data, err := io.ReadAll(r.Body)
	if err != nil {
		return // a broken upload changes nothing
	}
	if err := a.memory.write(to, data, mode); err != nil {
		fail(w, err)
		return
	}
	written(w, to, len(data))
}

func (a *Agent) commit(w http.ResponseWriter, r *http.Request) {
	from, to := r.URL.Query().Get("from"), r.URL.Query().Get("to")
	if err := a.memory.rename(from, to); err != nil {
		fail(w, err)
		return
	}
	e, err := a.memory.stat(to)
	if err != nil {
		fail(w, err)
		return
	}
	written(w, to, int(e.Size))
}

func written(w http.ResponseWriter, to string, size int) {
	_ = json.NewEncoder(w).Encode(map[string]any{"path": path.Clean(to), "size": size})
}
