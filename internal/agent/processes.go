package agent

import (
	"context"
	"strings"

	"connectrpc.com/connect"

	"silica.dev/silica/internal/agent/journal"
	"silica.dev/silica/internal/agent/proc"
	"silica.dev/silica/internal/guest/guestpb"
	"silica.dev/silica/sandbox"
)

// Bounds of what lists repeat of each process.
const (
	maxLabel   = 1 << 10
	maxCommand = 4 << 10
)

func (s service) Spawn(_ context.Context, r *connect.Request[guestpb.SpawnRequest]) (*connect.Response[guestpb.SpawnResponse], error) {
	m := r.Msg
	if m.Start == nil || m.Kind == "" || len(m.Kind)+len(m.Name) > maxLabel {
		return nil, wireError(sandbox.Field("kind", "and what to start must be given, and kind and name be short"))
	}
	spec, err := s.a.spec(m.Start)
	if err != nil {
		return nil, wireError(err)
	}
	info, err := s.a.table.Spawn(spec, proc.Label{Kind: m.Kind, Name: m.Name, Command: m.Command})
	return answer(&guestpb.SpawnResponse{Process: wireProcess(info)}, err)
}

func (s service) Attach(ctx context.Context, r *connect.Request[guestpb.AttachRequest], st *connect.ServerStream[guestpb.AttachEvent]) error {
	m := r.Msg
	replay := proc.Replay{Offset: m.Offset, Lines: int(min(m.TailLines, maxTail)), Live: m.Live, Once: m.Once, Quiet: m.ExitOnly}
	o := &observer{st: st}
	if found, err := s.a.services.Attach(ctx, m.Id, replay, o); found {
		return wireError(err)
	}
	return wireError(s.a.table.Attach(ctx, m.Id, replay, o))
}

// maxTail bounds how many lines are looked for.
const maxTail = 100_000

// observer sends what Attach tells. One message serves for all output: Send has
// encoded it when it returns.
type observer struct {
	st  *connect.ServerStream[guestpb.AttachEvent]
	out guestpb.AttachEvent_Output
	ev  guestpb.AttachEvent
}

func (o *observer) Attached(i proc.Info, offset uint64) error {
	return o.st.Send(&guestpb.AttachEvent{Event: &guestpb.AttachEvent_Attached_{Attached: &guestpb.AttachEvent_Attached{Process: wireProcess(i), Offset: offset}}})
}

func (o *observer) Record(r journal.Record) error {
	o.out.Stream, o.out.Data, o.out.Offset = streamOf[proc.Stream(r.Stream)], r.Data, r.Offset
	o.out.UnixNano = r.Time.UnixNano()
	o.ev.Event = &guestpb.AttachEvent_Output_{Output: &o.out}
	return o.st.Send(&o.ev)
}

func (o *observer) Gap(from, to uint64) error {
	return o.st.Send(&guestpb.AttachEvent{Event: &guestpb.AttachEvent_Gap_{Gap: &guestpb.AttachEvent_Gap{From: from, To: to}}})
}

func (o *observer) Keepalive() error {
	return o.st.Send(&guestpb.AttachEvent{Event: &guestpb.AttachEvent_Keepalive{Keepalive: &guestpb.ProcessEvent_Keepalive{}}})
}

func (o *observer) Exited(e proc.Exit) error {
	return o.st.Send(&guestpb.AttachEvent{Event: &guestpb.AttachEvent_Exited{Exited: wireExit(e)}})
}

func wireProcess(i proc.Info) *guestpb.Process {
	p := &guestpb.Process{
		Id: i.ID, Pid: uint32(i.PID), Kind: i.Label.Kind, Name: i.Label.Name, Command: cutText(i.Label.Command, maxCommand),
		Cwd: i.Dir, StartedUnixNano: i.Started.UnixNano(), Running: i.Running, First: i.First, End: i.End, Terminal: i.PTY,
	}
	left := maxCommand
	for _, a := range i.Args {
		if left -= len(a) + 1; left < 0 {
			break
		}
		p.Args = append(p.Args, a)
	}
	if !i.Running {
		p.EndedUnixNano, p.Exit = i.Ended.UnixNano(), wireExit(i.Exit)
	}
	return p
}

// cutText shortens what need not be shown whole. A character cut in two would
// make the message unfit for the wire.
func cutText(s string, n int) string { return strings.ToValidUTF8(s[:min(len(s), n)], "") }

// refOf names a process by what a request gives.
func refOf(id uint64, pid uint32) proc.Ref { return proc.Ref{ID: id, PID: int(pid)} }

func (s service) SendInput(ctx context.Context, r *connect.Request[guestpb.SendInputRequest]) (*connect.Response[guestpb.SendInputResponse], error) {
	err := s.a.table.Input(ctx, refOf(r.Msg.Id, r.Msg.Pid), r.Msg.Data, r.Msg.Close)
	return answer(&guestpb.SendInputResponse{}, err)
}

func (s service) Resize(_ context.Context, r *connect.Request[guestpb.ResizeRequest]) (*connect.Response[guestpb.ResizeResponse], error) {
	if r.Msg.Pty == nil {
		return nil, wireError(sandbox.Field("pty", "must be given"))
	}
	return answer(&guestpb.ResizeResponse{}, s.a.table.Resize(refOf(r.Msg.Id, r.Msg.Pid), sizeOf(r.Msg.Pty)))
}

func (s service) Signal(_ context.Context, r *connect.Request[guestpb.SignalRequest]) (*connect.Response[guestpb.SignalResponse], error) {
	err := s.a.table.Signal(refOf(r.Msg.Id, r.Msg.Pid), int(r.Msg.Signal), r.Msg.Tree)
	return answer(&guestpb.SignalResponse{}, err)
}

func (s service) ListProcesses(_ context.Context, r *connect.Request[guestpb.ListProcessesRequest]) (*connect.Response[guestpb.ListProcessesResponse], error) {
	res := &guestpb.ListProcessesResponse{}
	if r.Msg.Id != 0 {
		i, err := s.a.table.Get(r.Msg.Id)
		if err != nil {
			return nil, wireError(err)
		}
		res.Processes = append(res.Processes, wireProcess(i))
		return answer(res, nil)
	}
	for _, i := range s.a.table.List(r.Msg.Kind) {
		res.Processes = append(res.Processes, wireProcess(i))
	}
	return answer(res, nil)
}
