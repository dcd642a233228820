package runtimetest

import (
	"context"
	"time"

	"connectrpc.com/connect"

	"silica.dev/silica/internal/guest"
	"silica.dev/silica/internal/guest/guestpb"
	"silica.dev/silica/sandbox"
)

// Faults is what can be wrong with a sandbox that starts and answers.
type Faults struct {
	ClockSkew time.Duration // its clock is off by this much, whatever Init says
	Random    []byte        // what its random device gives; nil: fresh bytes
	Offline   bool          // no route leads out
	Nameless  bool          // it knows no nameserver
	Unlimited bool          // nothing holds it to its size
	Unruly    bool          // it may have any number of processes
	ReadOnly  bool          // nothing can be written
	Hostname  string        // it keeps this name, whatever Init says
	Failing   string        // this command fails
	// Shared has its files be those of the snapshot it was started from, and so
	// of every other copy.
	Shared bool
}

func (a *Agent) fault(f Faults) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.wrong = f
}

func (a *Agent) faults() Faults {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.wrong
}

// A spawned process is part of memory, as on a real host: copies of a snapshot
// have it running.

// Spawn implements the RPC, for apps: an app begins at once and runs until it is
// signalled, unless its install or start command is one that ends badly.
func (a *Agent) Spawn(_ context.Context, r *connect.Request[guestpb.SpawnRequest]) (*connect.Response[guestpb.SpawnResponse], error) {
	app, ok := guest.ReadApp(r.Msg.Start.GetArgs())
	if !ok {
		return nil, guest.WireError(sandbox.E(sandbox.Invalid, sandbox.CodeValidation, "the fake agent spawns apps only"))
	}
	p := &guestpb.Process{Kind: r.Msg.Kind, Name: r.Msg.Name, Command: r.Msg.Command, Args: r.Msg.Start.Args, StartedUnixNano: time.Now().UnixNano(), Running: true}
	for _, command := range []string{app.Install, app.Start} {
		sh := &shell{agent: a, ctx: context.Background(), env: map[string]string{}, cwd: "/", stdout: discard{}, stderr: discard{}}
		if quick := command == "false" || len(command) > 4 && command[:4] == "exit"; quick && p.Running {
			p.Running, p.Exit = false, &guestpb.ProcessEvent_Exited{ExitCode: int32(sh.script(command))}
		}
	}
	text := []byte("running " + app.Start + "\n")
	if !p.Running {
		text = []byte("it went wrong\n")
	}
	if err := a.memory.write(guest.AppLog, text, 0); err != nil {
		return nil, guest.WireError(err)
	}
	return connect.NewResponse(&guestpb.SpawnResponse{Process: a.memory.spawn(p)}), nil
}

// Attach implements the RPC, for apps.
func (a *Agent) Attach(ctx context.Context, r *connect.Request[guestpb.AttachRequest], s *connect.ServerStream[guestpb.AttachEvent]) error {
	p := a.memory.spawned(r.Msg.Id)
	if p == nil {
		return guest.WireError(sandbox.E(sandbox.NotFound, sandbox.CodeNotFound, "no such process"))
	}
	if err := s.Send(&guestpb.AttachEvent{Event: &guestpb.AttachEvent_Attached_{Attached: &guestpb.AttachEvent_Attached{Process: p}}}); err != nil {
		return err
	}
	if p.Exit != nil {
		return s.Send(&guestpb.AttachEvent{Event: &guestpb.AttachEvent_Exited{Exited: p.Exit}})
	}
	out := &guestpb.AttachEvent_Output{Stream: guestpb.ProcessEvent_STDOUT, Data: []byte(guest.AppBegun + "\n")}
	if err := s.Send(&guestpb.AttachEvent{Event: &guestpb.AttachEvent_Output_{Output: out}}); err != nil {
		return err
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-a.done:
		return nil
	}
}

type discard struct{}

func (discard) Write(b []byte) (int, error) { return len(b), nil }
