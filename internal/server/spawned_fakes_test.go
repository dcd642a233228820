package server

import (
	"context"
	"slices"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"silica.dev/silica/internal/guest"
	"silica.dev/silica/internal/guest/guestpb"
	"silica.dev/silica/sandbox"
)

// spawned is a process that outlives its callers, with all it wrote.
type spawned struct {
	*guestpb.Process
	req  *guestpb.SpawnRequest
	out  []byte
	lost uint64 // so many bytes at the beginning are not kept
}

func (a *fakeAgent) Spawn(_ context.Context, req *connect.Request[guestpb.SpawnRequest]) (*connect.Response[guestpb.SpawnResponse], error) {
	start := req.Msg.Start
	if a.noBash && start.Args[0] == "/bin/bash" {
		return nil, guest.WireError(noFile)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	id := uint64(len(a.spawned) + 1)
	p := &spawned{req: req.Msg, Process: &guestpb.Process{
		Id: id, Pid: uint32(100 + id), Kind: req.Msg.Kind, Name: req.Msg.Name, Command: req.Msg.Command, Args: start.Args, Cwd: start.Cwd,
		StartedUnixNano: time.Now().UnixNano(), Running: true, Terminal: start.Pty != nil,
	}}
	a.spawned = append(a.spawned, p)
	if p.Kind == guest.KindApp {
		hook := a.spawnHook
		if hook == nil { // it is installed, and runs
			hook = func(id uint64) { a.prints(id, guest.AppBegun+"\n") }
		}
		go hook(id)
	}
	return connect.NewResponse(&guestpb.SpawnResponse{Process: proto.CloneOf(p.Process)}), nil // the hook goes on changing it
}

// spawnedStep changes what a spawned process is, or wrote, and tells who follows.
func (a *fakeAgent) spawnedStep(id uint64, step func(*spawned)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	step(a.spawned[id-1])
	close(a.stepped)
	a.stepped = make(chan struct{})
}

func (a *fakeAgent) spawnedKind(id uint64) string {
	a.mu.Lock()
	defer a.mu.Unlock()
	if id < 1 || id > uint64(len(a.spawned)) {
		return ""
	}
	return a.spawned[id-1].Kind
}

func (a *fakeAgent) prints(id uint64, text string) {
	a.spawnedStep(id, func(p *spawned) { p.out = append(p.out, text...); p.End = uint64(len(p.out)) })
}

func (a *fakeAgent) ends(id uint64, code int32) {
	a.spawnedStep(id, func(p *spawned) { p.Running, p.Exit = false, &guestpb.ProcessEvent_Exited{ExitCode: code} })
}

func (a *fakeAgent) ListProcesses(_ context.Context, req *connect.Request[guestpb.ListProcessesRequest]) (*connect.Response[guestpb.ListProcessesResponse], error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	var res guestpb.ListProcessesResponse
	for _, p := range a.spawned {
		if (req.Msg.Kind == "" || req.Msg.Kind == p.Kind) && (req.Msg.Id == 0 || req.Msg.Id == p.Id) {
			res.Processes = append(res.Processes, proto.CloneOf(p.Process))
		}
	}
	if req.Msg.Id != 0 && len(res.Processes) == 0 {
		return nil, guest.WireError(sandbox.E(sandbox.NotFound, sandbox.CodeNotFound, "no such process"))
	}
	return connect.NewResponse(&res), nil
}

func (a *fakeAgent) Attach(ctx context.Context, req *connect.Request[guestpb.AttachRequest], out *connect.ServerStream[guestpb.AttachEvent]) error {
	a.mu.Lock()
	known := req.Msg.Id >= 1 && req.Msg.Id <= uint64(len(a.spawned))
	a.mu.Unlock()
	if !known {
		return guest.WireError(sandbox.E(sandbox.NotFound, sandbox.CodeNotFound, "no such process"))
	}
	at := req.Msg.Offset
	if err := out.Send(&guestpb.AttachEvent{Event: &guestpb.AttachEvent_Attached_{Attached: &guestpb.AttachEvent_Attached{Offset: at}}}); err != nil {
		return err
	}
	for {
		a.mu.Lock()
		p, stepped := a.spawned[req.Msg.Id-1], a.stepped
		data, exit, lost, terminal := slices.Clone(p.out[min(at, uint64(len(p.out))):]), p.Exit, p.lost, p.Terminal
		a.mu.Unlock()
		if at < lost {
			data = data[lost-at:]
			if err := out.Send(&guestpb.AttachEvent{Event: &guestpb.AttachEvent_Gap_{Gap: &guestpb.AttachEvent_Gap{From: at, To: lost}}}); err != nil {
				return err
			}
			at = lost
		}
		if len(data) > 0 {
			stream := guestpb.ProcessEvent_STDOUT
			if terminal {
				stream = guestpb.ProcessEvent_TERMINAL
			}
			if err := out.Send(&guestpb.AttachEvent{Event: &guestpb.AttachEvent_Output_{Output: &guestpb.AttachEvent_Output{
				Stream: stream, Data: data, Offset: at, UnixNano: time.Now().UnixNano(),
			}}}); err != nil {
				return err
			}
			at += uint64(len(data))
			continue
		}
		if exit != nil {
			return out.Send(&guestpb.AttachEvent{Event: &guestpb.AttachEvent_Exited{Exited: exit}})
		}
		if req.Msg.Once {
			return nil
		}
		select {
		case <-stepped:
		case <-ctx.Done():
			return ctx.Err()
		case <-a.ended:
			return nil
		}
	}
}
