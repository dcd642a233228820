package agent

import (
	"context"
	"errors"
	"time"

	"connectrpc.com/connect"

	"silica.dev/silica/internal/agent/files"
	"silica.dev/silica/internal/agent/proc"
	"silica.dev/silica/internal/agent/watch"
	"silica.dev/silica/internal/guest"
	"silica.dev/silica/internal/guest/guestpb"
	"silica.dev/silica/sandbox"
)

// service translates the protocol; it decides nothing.
type service struct{ a *Agent }

// answer makes an RPC's answer of a result.
func answer[T any](msg *T, err error) (*connect.Response[T], error) {
	if err != nil {
		return nil, wireError(err)
	}
	return connect.NewResponse(msg), nil
}

func wireError(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return connect.NewError(connect.CodeCanceled, err)
	}
	return guest.WireError(err)
}

func (s service) Init(_ context.Context, r *connect.Request[guestpb.InitRequest]) (*connect.Response[guestpb.InitResponse], error) {
	err := s.a.init(r.Msg)
	return answer(&guestpb.InitResponse{AgentVersion: s.a.cfg.Version, Seed: s.a.seed}, err)
}

func (s service) SetEnv(_ context.Context, r *connect.Request[guestpb.SetEnvRequest]) (*connect.Response[guestpb.SetEnvResponse], error) {
	return answer(&guestpb.SetEnvResponse{}, s.a.setEnv(r.Msg.Env))
}

func (s service) Metrics(context.Context, *connect.Request[guestpb.MetricsRequest]) (*connect.Response[guestpb.MetricsResponse], error) {
	return answer(s.a.metrics())
}

func (s service) Notices(ctx context.Context, r *connect.Request[guestpb.NoticesRequest], st *connect.ServerStream[guestpb.Notice]) error {
	return wireError(s.a.notices.follow(ctx, r.Msg.After, st.Send))
}

func (s service) Relieve(context.Context, *connect.Request[guestpb.RelieveRequest]) (*connect.Response[guestpb.RelieveResponse], error) {
	v := s.a.table.Relieve()
	return answer(&guestpb.RelieveResponse{Pid: uint32(v.PID), Command: v.Name, Memory: v.Memory}, nil)
}

func (s service) Start(ctx context.Context, r *connect.Request[guestpb.StartRequest], st *connect.ServerStream[guestpb.ProcessEvent]) error {
	spec, err := s.a.spec(r.Msg)
	if err != nil {
		return wireError(err)
	}
	return wireError(s.a.table.Run(ctx, spec, &eventSink{st: st, last: func() { lastMessage(ctx) }}))
}

// spec completes what is to run with the sandbox's identity.
func (a *Agent) spec(m *guestpb.StartRequest) (proc.Spec, error) {
	const longest = int64(1<<63-1) / int64(time.Millisecond)
	if m.TimeoutMs < 0 || m.TimeoutMs > longest {
		return proc.Spec{}, sandbox.Field("timeout_ms", "is out of range")
	}
	spec := a.complete(m.Args, m.Cwd, m.Env, m.Pty != nil)
	spec.Stdin, spec.Timeout = m.Stdin, time.Duration(m.TimeoutMs)*time.Millisecond
	if m.Pty != nil {
		size := sizeOf(m.Pty)
		spec.PTY = &size
	}
	return spec, nil
}

func sizeOf(p *guestpb.Pty) proc.Size {
	return proc.Size{Cols: uint16(min(p.Cols, 1<<16-1)), Rows: uint16(min(p.Rows, 1<<16-1))}
}

// eventSink sends a process's events. Output is nearly all of them, and one
// message serves for all of it: Send has encoded it when it returns.
type eventSink struct {
	st   *connect.ServerStream[guestpb.ProcessEvent]
	last func() // before the last event
	out  guestpb.ProcessEvent_Output
	ev   guestpb.ProcessEvent
}

func (s *eventSink) Started(pid int) error {
	return s.st.Send(&guestpb.ProcessEvent{Event: &guestpb.ProcessEvent_Started_{Started: &guestpb.ProcessEvent_Started{Pid: uint32(pid)}}})
}

// streamOf is how streams travel.
var streamOf = map[proc.Stream]guestpb.ProcessEvent_Stream{
	proc.Stdout:   guestpb.ProcessEvent_STDOUT,
	proc.Stderr:   guestpb.ProcessEvent_STDERR,
	proc.Terminal: guestpb.ProcessEvent_TERMINAL,
	proc.System:   guestpb.ProcessEvent_SYSTEM,
}

func (s *eventSink) Output(stream proc.Stream, data []byte) error {
	s.out.Stream, s.out.Data = streamOf[stream], data
	s.ev.Event = &guestpb.ProcessEvent_Output_{Output: &s.out}
	return s.st.Send(&s.ev)
}

func (s *eventSink) Keepalive() error {
	return s.st.Send(&guestpb.ProcessEvent{Event: &guestpb.ProcessEvent_Keepalive_{Keepalive: &guestpb.ProcessEvent_Keepalive{}}})
}

func (s *eventSink) Exited(e proc.Exit) error {
	s.last()
	return s.st.Send(&guestpb.ProcessEvent{Event: &guestpb.ProcessEvent_Exited_{Exited: wireExit(e)}})
}

func wireExit(e proc.Exit) *guestpb.ProcessEvent_Exited {
	out := &guestpb.ProcessEvent_Exited{ExitCode: int32(e.Code), TimedOut: e.TimedOut, OutOfMemory: e.OutOfMemory}
	if e.Signal != 0 {
		out.Signal = signalName(e.Signal)
	}
	return out
}

func (s service) Stat(_ context.Context, r *connect.Request[guestpb.StatRequest]) (*connect.Response[guestpb.StatResponse], error) {
	e, err := s.a.files.Stat(r.Msg.Path)
	return answer(&guestpb.StatResponse{Entry: e}, err)
}

func (s service) ListDir(ctx context.Context, r *connect.Request[guestpb.ListDirRequest]) (*connect.Response[guestpb.ListDirResponse], error) {
	list, cut, err := s.a.files.List(ctx, r.Msg.Path, r.Msg.Depth, r.Msg.Limit)
	return answer(&guestpb.ListDirResponse{Entries: list, Truncated: cut}, err)
}

func (s service) MakeDir(_ context.Context, r *connect.Request[guestpb.MakeDirRequest]) (*connect.Response[guestpb.MakeDirResponse], error) {
	e, err := s.a.files.MakeDir(r.Msg.Path, r.Msg.Mode, r.Msg.Parents)
	return answer(&guestpb.MakeDirResponse{Entry: e}, err)
}

func (s service) Move(ctx context.Context, r *connect.Request[guestpb.MoveRequest]) (*connect.Response[guestpb.MoveResponse], error) {
	e, err := s.a.files.Move(ctx, r.Msg.From, r.Msg.To, r.Msg.Keep)
	return answer(&guestpb.MoveResponse{Entry: e}, err)
}

func (s service) Copy(ctx context.Context, r *connect.Request[guestpb.CopyRequest]) (*connect.Response[guestpb.CopyResponse], error) {
	e, err := s.a.files.Copy(ctx, r.Msg.From, r.Msg.To, r.Msg.Recursive, r.Msg.Keep)
	return answer(&guestpb.CopyResponse{Entry: e}, err)
}

func (s service) Change(ctx context.Context, r *connect.Request[guestpb.ChangeRequest]) (*connect.Response[guestpb.ChangeResponse], error) {
	m := r.Msg
	e, err := s.a.files.Change(ctx, m.Path, files.Change{Mode: m.Mode, UID: m.Uid, GID: m.Gid, Recursive: m.Recursive})
	return answer(&guestpb.ChangeResponse{Entry: e}, err)
}

func (s service) Remove(_ context.Context, r *connect.Request[guestpb.RemoveRequest]) (*connect.Response[guestpb.RemoveResponse], error) {
	return answer(&guestpb.RemoveResponse{}, s.a.files.Remove(r.Msg.Path, r.Msg.Recursive))
}

func (s service) Watch(ctx context.Context, r *connect.Request[guestpb.WatchRequest], st *connect.ServerStream[guestpb.WatchEvent]) error {
	return wireError(watch.Watch(ctx, r.Msg.Path, r.Msg.Recursive, st.Send))
}

func (s service) Glob(ctx context.Context, r *connect.Request[guestpb.GlobRequest]) (*connect.Response[guestpb.GlobResponse], error) {
	m := r.Msg
	found, err := s.a.files.Glob(ctx, files.Find{Path: m.Path, Pattern: m.Pattern, Limit: int(m.Limit), All: m.All, Type: m.Type})
	return answer(&guestpb.GlobResponse{Entries: found.Entries, Truncated: found.Truncated, TimedOut: found.TimedOut}, err)
}

func (s service) Search(ctx context.Context, r *connect.Request[guestpb.SearchRequest]) (*connect.Response[guestpb.SearchResponse], error) {
	return answer(s.a.files.Search(ctx, r.Msg))
}

func (s service) Replace(ctx context.Context, r *connect.Request[guestpb.ReplaceRequest]) (*connect.Response[guestpb.ReplaceResponse], error) {
	return answer(s.a.files.Replace(ctx, r.Msg))
}
