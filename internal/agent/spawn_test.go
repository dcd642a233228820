package agent_test

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"silica.dev/silica/internal/guest/guestpb"
	"silica.dev/silica/sandbox"
)

func (a *guestAgent) spawn(t *testing.T, start *guestpb.StartRequest) *guestpb.Process {
	t.Helper()
	p, err := a.Spawn(t.Context(), &guestpb.SpawnRequest{Start: start, Kind: "test", Name: "n", Command: "as written"})
	if err != nil {
		t.Fatalf("spawn %q: %v", start.Args, err)
	}
	if p.Id == 0 || p.Pid == 0 || !p.Running && p.Exit == nil {
		t.Fatalf("spawned %v", p)
	}
	return p
}

// attached is what one Attach told.
type attached struct {
	first    *guestpb.AttachEvent_Attached
	out      string
	byStream map[guestpb.ProcessEvent_Stream]string
	next     uint64
	lost     uint64
	exit     *guestpb.ProcessEvent_Exited
}

// attach reads until the stream's end, or until enough is true.
func (a *guestAgent) attach(t *testing.T, req *guestpb.AttachRequest, enough func(*attached) bool) *attached {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	r := &attached{byStream: map[guestpb.ProcessEvent_Stream]string{}}
	for ev, err := range a.Attach(ctx, req) {
		if err != nil {
			t.Fatalf("attach: %v, after %q", err, cut(r.out))
		}
		switch e := ev.Event.(type) {
		case *guestpb.AttachEvent_Attached_:
			r.first, r.next = e.Attached, e.Attached.Offset
		case *guestpb.AttachEvent_Output_:
			if e.Output.Offset != r.next || e.Output.UnixNano == 0 {
				t.Fatalf("output at %d, expected at %d", e.Output.Offset, r.next)
			}
			r.next += uint64(len(e.Output.Data))
			r.out += string(e.Output.Data)
			r.byStream[e.Output.Stream] += string(e.Output.Data)
		case *guestpb.AttachEvent_Gap_:
			if e.Gap.From != r.next {
				t.Fatalf("gap at %d, expected at %d", e.Gap.From, r.next)
			}
			r.lost += e.Gap.To - e.Gap.From
			r.next = e.Gap.To
		case *guestpb.AttachEvent_Exited:
			r.exit = e.Exited
		}
		if enough != nil && enough(r) {
			break
		}
	}
	return r
}

func cut(s string) string { return s[max(0, len(s)-200):] }

func TestSpawnedIsReplayedAndFollowed(t *testing.T) {
	a := one(t)
	start := shell("echo one; echo two >&2; read x; echo got $x; exit 3")
	start.Stdin = true
	p := a.spawn(t, start)
	if r := a.attach(t, &guestpb.AttachRequest{Id: p.Id}, func(r *attached) bool { return r.next >= 8 }); !strings.Contains(r.out, "one\n") || r.exit != nil {
		t.Errorf("live: %q %v", r.out, r.exit)
	}
	if r := a.attach(t, &guestpb.AttachRequest{Id: p.Id, Once: true}, nil); r.next != 8 || r.exit != nil || !r.first.Process.Running {
		t.Errorf("once: %q %v %v", r.out, r.exit, r.first)
	}
	done := make(chan *attached)
	for range 3 {
		go func() { done <- a.attach(t, &guestpb.AttachRequest{Id: p.Id, Offset: 4}, nil) }()
	}
	if err := a.SendInput(t.Context(), &guestpb.SendInputRequest{Id: p.Id, Data: []byte("it\n")}); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if r := <-done; !strings.HasSuffix(r.out, "got it\n") || r.next != 15 || r.exit.GetExitCode() != 3 {
			t.Errorf("followed: %q %v", r.out, r.exit)
		}
	}
	if r := a.attach(t, &guestpb.AttachRequest{Id: p.Id, ExitOnly: true}, nil); r.out != "" || r.exit.GetExitCode() != 3 {
		t.Errorf("its exit only: %q %v", r.out, r.exit)
	}
	r := a.attach(t, &guestpb.AttachRequest{Id: p.Id}, nil)
	if r.byStream[guestpb.ProcessEvent_STDOUT] != "one\ngot it\n" || r.byStream[guestpb.ProcessEvent_STDERR] != "two\n" || r.exit.GetExitCode() != 3 {
		t.Errorf("replayed: %v %v", r.byStream, r.exit)
	}
	if q := r.first.Process; q.Running || q.Kind != "test" || q.Name != "n" || q.Command != "as written" || q.EndedUnixNano < q.StartedUnixNano || q.Exit.GetExitCode() != 3 || q.End != 15 {
		t.Errorf("described as %v", q)
	}
	if r := a.attach(t, &guestpb.AttachRequest{Id: p.Id, TailLines: 1}, nil); r.out != "got it\n" || r.exit == nil {
		t.Errorf("tail: %q", r.out)
	}
	if err := a.SendInput(t.Context(), &guestpb.SendInputRequest{Id: p.Id, Data: []byte("x")}); !sandbox.HasCode(err, sandbox.CodeConflict) {
		t.Errorf("input after its end: %v", err)
	}
	if err := a.Signal(t.Context(), &guestpb.SignalRequest{Id: p.Id, Signal: 15}); !sandbox.HasCode(err, sandbox.CodeNotFound) {
		t.Errorf("signal after its end: %v", err)
	}
}

func TestSpawnRefuses(t *testing.T) {
	a := one(t)
	for _, tt := range []struct {
		req  *guestpb.SpawnRequest
		code string
	}{
		{&guestpb.SpawnRequest{Kind: "k"}, sandbox.CodeValidation},
		{&guestpb.SpawnRequest{Start: shell("true")}, sandbox.CodeValidation},
		{&guestpb.SpawnRequest{Kind: "k", Start: &guestpb.StartRequest{Args: []string{"no-such-command"}, Cwd: "/"}}, sandbox.CodeFileNotFound},
		{&guestpb.SpawnRequest{Kind: "k", Start: &guestpb.StartRequest{Args: []string{"/etc"}, Cwd: "/"}}, sandbox.CodePermissionDenied},
		{&guestpb.SpawnRequest{Kind: "k", Start: &guestpb.StartRequest{Args: []string{"true"}, Cwd: "/nowhere"}}, sandbox.CodeWorkdirNotFound},
	} {
		if p, err := a.Spawn(t.Context(), tt.req); !sandbox.HasCode(err, tt.code) {
			t.Errorf("%v: %v, %v; want %s", tt.req, p, err, tt.code)
		}
	}
	if list, err := a.Processes(t.Context(), "k"); err != nil || len(list) != 0 {
		t.Errorf("listed: %v, %v", list, err)
	}
	for ev, err := range a.Attach(t.Context(), &guestpb.AttachRequest{Id: 99}) {
		if !sandbox.HasCode(err, sandbox.CodeNotFound) {
			t.Errorf("attach to nothing: %v, %v", ev, err)
		}
	}
}

func TestSpawnedTerminal(t *testing.T) {
	a := one(t)
	start := shell("stty size; read x; stty size; echo $x")
	start.Pty = &guestpb.Pty{Cols: 100, Rows: 30}
	p := a.spawn(t, start)
	a.attach(t, &guestpb.AttachRequest{Id: p.Id}, func(r *attached) bool { return strings.Contains(r.out, "30 100") })
	if err := a.Resize(t.Context(), &guestpb.ResizeRequest{Id: p.Id, Pty: &guestpb.Pty{Cols: 120, Rows: 40}}); err != nil {
		t.Fatal(err)
	}
	if err := a.SendInput(t.Context(), &guestpb.SendInputRequest{Id: p.Id, Data: []byte("ä\n")}); err != nil {
		t.Fatal(err)
	}
	r := a.attach(t, &guestpb.AttachRequest{Id: p.Id}, nil)
	if got := r.byStream[guestpb.ProcessEvent_TERMINAL]; !strings.Contains(got, "40 120\r\nä\r\n") || r.exit.GetExitCode() != 0 || !r.first.Process.Terminal {
		t.Errorf("terminal: %q %v", got, r.exit)
	}
	if err := a.Resize(t.Context(), &guestpb.ResizeRequest{Id: p.Id, Pty: &guestpb.Pty{Cols: 1, Rows: 1}}); !sandbox.HasCode(err, sandbox.CodeNotFound) {
		t.Errorf("resize after its end: %v", err)
	}
}

func TestSpawnedTreeIsKilledById(t *testing.T) {
	eachTracker(t, func(t *testing.T, a *guestAgent) {
		p := a.spawn(t, shell("sleep 4711 & setsid sleep 4711 & wait")) // and the shell has it in its arguments
		until(t, "all run", func() bool { return a.alive(t, "sleep 4711") == 3 })
		if err := a.Signal(t.Context(), &guestpb.SignalRequest{Id: p.Id, Signal: 9, Tree: true}); err != nil {
			t.Fatal(err)
		}
		if r := a.attach(t, &guestpb.AttachRequest{Id: p.Id}, nil); r.exit.GetSignal() != "SIGKILL" {
			t.Errorf("exit %v", r.exit)
		}
		until(t, "none runs", func() bool { return a.alive(t, "sleep 4711") == 0 })
	})
}

// A process that prints without end costs no more than its ring, and no reader
// holds it up.
func TestSpawnedFlood(t *testing.T) {
	a := one(t)
	const size = 64 << 20
	p := a.spawn(t, shell(fmt.Sprintf("yes 'a line of sixteen' | head -c %d; echo; echo the end", size)))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for ev, err := range a.Attach(ctx, &guestpb.AttachRequest{Id: p.Id}) { // reads a little and then no more
		if err != nil {
			t.Fatal(err)
		}
		if ev.GetOutput() == nil {
			continue
		}
		r := a.attach(t, &guestpb.AttachRequest{Id: p.Id, Live: true}, nil)
		if r.exit.GetExitCode() != 0 || r.next != size+9 || !strings.HasSuffix(r.out, "\nthe end\n") {
			t.Errorf("live: %d bytes and %d lost up to %d, ends with %q, %v", len(r.out), r.lost, r.next, cut(r.out), r.exit)
		}
		break
	}
	r := a.attach(t, &guestpb.AttachRequest{Id: p.Id}, nil)
	if r.next != size+9 || r.lost == 0 || len(r.out) > 4<<20 || len(r.out) < 3<<20 {
		t.Errorf("kept %d bytes, %d lost, up to %d", len(r.out), r.lost, r.next)
	}
	if r := a.attach(t, &guestpb.AttachRequest{Id: p.Id, TailLines: 2}, nil); strings.Count(r.out, "\n") != 2 || !strings.HasSuffix(r.out, "\nthe end\n") {
		t.Errorf("tail: %q", r.out)
	}
}

func TestManyShortSpawned(t *testing.T) {
	a := one(t)
	n := 1000
	var last *guestpb.Process
	for i := range n {
		last = a.spawn(t, &guestpb.StartRequest{Args: []string{"echo", fmt.Sprint(i)}, Cwd: "/"})
	}
	until(t, "the last has ended", func() bool { p, err := a.Process(t.Context(), last.Id); return err == nil && !p.Running })
	list, err := a.Processes(t.Context(), "test")
	if err != nil || len(list) > 256+2 || len(list) < 200 {
		t.Fatalf("%d listed, %v", len(list), err)
	}
	if r := a.attach(t, &guestpb.AttachRequest{Id: last.Id}, nil); r.out != fmt.Sprintln(n-1) {
		t.Errorf("got %q", r.out)
	}
	if a.root != "" && os.Getenv(envAddr) == "" {
		files, err := os.ReadDir(a.root + "/var/lib/silica/output")
		if err != nil || len(files) > 258 {
			t.Errorf("%d files, %v", len(files), err)
		}
	}
}
