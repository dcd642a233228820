package agent_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"silica.dev/silica/internal/guest/guestpb"
	"silica.dev/silica/sandbox"
)

func TestExec(t *testing.T) {
	a := one(t)
	if _, err := a.WriteFile(t.Context(), "/tmp/silica-n", 0o644, strings.NewReader("no program")); err != nil {
		t.Fatal(err)
	}
	defer a.Remove(context.Background(), "/tmp/silica-n", false)
	for _, tt := range []struct {
		name string
		req  *guestpb.StartRequest
		out  string
		err  string // contained
		code int32
		sig  string
	}{
		{name: "success", req: &guestpb.StartRequest{Args: []string{"true"}, Cwd: "/"}},
		{name: "streams are separate", req: shell("echo out; echo err >&2; exit 3"), out: "out\n", err: "err\n", code: 3},
		{name: "no command", req: &guestpb.StartRequest{Args: []string{"no-such-command"}, Cwd: "/"}, err: "no-such-command: command not found", code: 127},
		{name: "no file", req: &guestpb.StartRequest{Args: []string{"/no/such/file"}, Cwd: "/"}, err: "no such file", code: 127},
		{name: "not executable", req: &guestpb.StartRequest{Args: []string{"/tmp/silica-n"}, Cwd: "/"}, err: "permission denied", code: 126},
		{name: "a directory", req: &guestpb.StartRequest{Args: []string{"/etc"}, Cwd: "/"}, err: "permission denied", code: 126},
		{name: "signalled", req: shell("kill -TERM $$"), code: 143, sig: "SIGTERM"},
		{name: "folder", req: &guestpb.StartRequest{Args: []string{"pwd"}, Cwd: "/proc"}, out: "/proc\n"},
		{name: "environment", req: &guestpb.StartRequest{Args: []string{"sh", "-c", "echo $HOME $USER $LOGNAME $LANG $A${TERM-none}"}, Cwd: "/", Env: map[string]string{"A": "b", "USER": "me"}},
			out: "/root me root C.UTF-8 bnone\n"},
		{name: "no input", req: &guestpb.StartRequest{Args: []string{"cat"}, Cwd: "/"}},
		{name: "bytes", req: shell(`printf '\377\000\001'`), out: "\xff\x00\x01"},
		{name: "no shebang", req: shell(`echo 'echo "$1"' >/tmp/silica-t; chmod 755 /tmp/silica-t; exit 0`)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := a.run(t, tt.req)
			if r.out != tt.out || !strings.Contains(r.err, tt.err) || r.exit.ExitCode != tt.code || r.exit.Signal != tt.sig {
				t.Errorf("%q: out %q, err %q, exit %v; want %q, %q, %d %s", tt.req.Args, r.out, r.err, r.exit, tt.out, tt.err, tt.code, tt.sig)
			}
			if got := strings.Join(r.events, " "); got != "started exited" {
				t.Errorf("events %s", got)
			}
		})
	}
	r := a.run(t, &guestpb.StartRequest{Args: []string{"/tmp/silica-t", "arg"}, Cwd: "/"})
	if r.out != "arg\n" {
		t.Errorf("a script without a first line: %q %q %v", r.out, r.err, r.exit)
	}
	a.sh(t, "rm /tmp/silica-t")
}

func TestExecRefused(t *testing.T) {
	a := one(t)
	for _, tt := range []struct {
		name string
		req  *guestpb.StartRequest
		code string
	}{
		{"no folder", &guestpb.StartRequest{Args: []string{"true"}, Cwd: "/nowhere"}, sandbox.CodeWorkdirNotFound},
		{"a file as folder", &guestpb.StartRequest{Args: []string{"true"}, Cwd: "/etc/hostname"}, sandbox.CodeWorkdirNotFound},
		{"relative folder", &guestpb.StartRequest{Args: []string{"true"}, Cwd: "etc"}, sandbox.CodeWorkdirNotFound},
		{"no args", &guestpb.StartRequest{Cwd: "/"}, sandbox.CodeValidation},
		{"a NUL", &guestpb.StartRequest{Args: []string{"a\x00b"}, Cwd: "/"}, sandbox.CodeValidation},
		{"bad env", &guestpb.StartRequest{Args: []string{"true"}, Cwd: "/", Env: map[string]string{"": "x"}}, sandbox.CodeValidation},
		{"bad timeout", &guestpb.StartRequest{Args: []string{"true"}, Cwd: "/", TimeoutMs: -1}, sandbox.CodeValidation},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := a.try(t.Context(), tt.req)
			if !sandbox.HasCode(err, tt.code) {
				t.Errorf("got %v, want %s", err, tt.code)
			}
		})
	}
}

// A held connection serves one command after the other, also when the reader
// stops at the exit.
func TestConnectionIsReused(t *testing.T) {
	a := one(t)
	for _, stop := range []bool{false, true} {
		for range 5 {
			for ev, err := range a.Start(t.Context(), &guestpb.StartRequest{Args: []string{"true"}, Cwd: "/"}) {
				if err != nil {
					t.Fatal(err)
				}
				if stop && ev.GetExited() != nil {
					break
				}
			}
		}
		if n := a.dials(); n != 1 {
			t.Errorf("reader stops at the exit %v: %d connections, want 1", stop, n)
		}
	}
}

func TestLargeOutputIsWhole(t *testing.T) {
	a := one(t)
	const size = 24 << 20
	h, n := sha256.New(), 0
	errBytes := 0
	req := shell(fmt.Sprintf("head -c %d /dev/zero | tr '\\0' x; head -c 100000 /dev/zero >&2; printf end", size))
	for ev, err := range a.Start(t.Context(), req) {
		if err != nil {
			t.Fatal(err)
		}
		if o := ev.GetOutput(); o != nil {
			if o.Stream == guestpb.ProcessEvent_STDERR {
				errBytes += len(o.Data)
				continue
			}
			h.Write(o.Data)
			n += len(o.Data)
		}
	}
	want := sha256.New()
	want.Write(bytes.Repeat([]byte("x"), size))
	want.Write([]byte("end"))
	if n != size+3 || !bytes.Equal(h.Sum(nil), want.Sum(nil)) || errBytes != 100000 {
		t.Errorf("got %d and %d bytes, or wrong ones", n, errBytes)
	}
}

// A reader that stops holds up the process, and nothing piles up.
func TestSlowReader(t *testing.T) {
	a := one(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	marker := t.TempDir() + "/done"
	if os.Getenv(envAddr) != "" {
		marker = "/tmp/slow-done"
	}
	for ev, err := range a.Start(ctx, shell("head -c 64000000 /dev/zero; touch "+marker)) {
		if err != nil {
			t.Fatal(err)
		}
		if ev.GetOutput() != nil {
			break
		}
	}
	if _, err := a.Stat(t.Context(), marker); !sandbox.HasCode(err, sandbox.CodeFileNotFound) {
		t.Errorf("the process got through though nobody read: %v", err)
	}
}

func TestChildrenLeftBehind(t *testing.T) {
	eachTracker(t, func(t *testing.T, a *guestAgent) {
		// A child that holds the pipes does not hold up the answer, and is
		// neither blocked nor broken by writing on.
		r := a.sh(t, `(i=0; while [ $i -lt 20000 ]; do echo 0123456789; i=$((i+1)); done; touch /tmp/silica-left; exec sleep 987) & echo started`)
		if !strings.HasPrefix(r.out, "started\n") && !strings.Contains(r.out, "\nstarted\n") || r.exit.ExitCode != 0 {
			t.Errorf("got %.40q %v", r.out, r.exit)
		}
		if r.took > 3*time.Second {
			t.Errorf("took %s", r.took)
		}
		until(t, "the child has written all", func() bool {
			_, err := a.Stat(t.Context(), "/tmp/silica-left")
			return err == nil
		})
		if n := a.alive(t, "sleep 987"); n != 1 {
			t.Errorf("%d children alive, want 1", n)
		}
		// It still belongs to the command that left it.
		if err := a.Signal(t.Context(), &guestpb.SignalRequest{Pid: r.pid, Signal: 9, Tree: true}); err != nil {
			t.Error(err)
		}
		until(t, "the child is dead", func() bool { return a.alive(t, "sleep 987") == 0 })
		a.sh(t, "rm /tmp/silica-left")
	})
}

// stubborn leaves behind whatever gets away most easily: other sessions, double
// forks, ignored signals.
func stubborn(mark string) string {
	return `trap "" TERM HUP INT
setsid sh -c 'trap "" TERM; sleep ` + mark + `; :' &
(setsid sh -c '(sleep ` + mark + ` &) ; exit' &)
sh -c 'sleep ` + mark + ` & exit' &
sleep ` + mark + `; sleep ` + mark
}

func TestTimeoutKillsTheTree(t *testing.T) {
	eachTracker(t, func(t *testing.T, a *guestAgent) {
		notices := a.follow(t)
		req := shell(stubborn("9871"))
		req.TimeoutMs = 300
		r := a.run(t, req)
		if !r.exit.TimedOut || r.exit.ExitCode != 137 || r.exit.Signal != "SIGKILL" {
			t.Errorf("got %v", r.exit)
		}
		if r.took > 2*time.Second {
			t.Errorf("took %s", r.took)
		}
		until(t, "the tree is dead", func() bool { return a.alive(t, "9871") == 0 })
		notices.expect(t, guestpb.Notice_TREE_KILLED)
	})
}

func TestClientGoneKillsTheTree(t *testing.T) {
	eachTracker(t, func(t *testing.T, a *guestAgent) {
		ctx, cancel := context.WithCancel(t.Context())
		_, done := a.background(t, ctx, shell(stubborn("9872")))
		until(t, "the tree is up", func() bool { return a.alive(t, "9872") >= 4 })
		cancel()
		<-done
		begin := time.Now()
		until(t, "the tree is dead", func() bool { return a.alive(t, "9872") == 0 })
		if d := time.Since(begin); d > time.Second {
			t.Errorf("the tree died after %s", d)
		}
	})
}

func TestInput(t *testing.T) {
	a := one(t)
	pid, done := a.background(t, t.Context(), &guestpb.StartRequest{Args: []string{"cat"}, Cwd: "/", Stdin: true})
	big := bytes.Repeat([]byte("0123456789abcdef"), 20000)
	if err := a.SendInput(t.Context(), &guestpb.SendInputRequest{Pid: pid, Data: big}); err != nil {
		t.Fatal(err)
	}
	if err := a.SendInput(t.Context(), &guestpb.SendInputRequest{Pid: pid, Data: []byte("end"), Close: true}); err != nil {
		t.Fatal(err)
	}
	if r := <-done; r.out != string(big)+"end" || r.exit.GetExitCode() != 0 {
		t.Errorf("got %d bytes, %v", len(r.out), r.exit)
	}
	if err := a.SendInput(t.Context(), &guestpb.SendInputRequest{Pid: pid, Data: []byte("x")}); err == nil {
		t.Error("input to an ended process is no error")
	}
	pid, done = a.background(t, t.Context(), shell("sleep 0.2"))
	if err := a.SendInput(t.Context(), &guestpb.SendInputRequest{Pid: pid, Data: []byte("x")}); !sandbox.HasCode(err, sandbox.CodeConflict) {
		t.Errorf("input to the null device: %v", err)
	}
	<-done
}

func TestTerminal(t *testing.T) {
	a := one(t)
	req := shell(`test -t 0 && test -t 1 && echo tty; stty size; echo $TERM; read line; echo "got $line"; stty size; exit 5`)
	req.Pty = &guestpb.Pty{Cols: 100, Rows: 30}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	var text string
	var pid uint32
	var exit *guestpb.ProcessEvent_Exited
	typed := false
	for ev, err := range a.Start(ctx, req) {
		if err != nil {
			t.Fatalf("%v after %q", err, text)
		}
		if s := ev.GetStarted(); s != nil {
			pid = s.Pid
		}
		if o := ev.GetOutput(); o != nil {
			if o.Stream != guestpb.ProcessEvent_TERMINAL {
				t.Errorf("stream %s", o.Stream)
			}
			text += string(o.Data)
		}
		if strings.Contains(text, "xterm") && !typed {
			typed = true
			if err := a.Resize(ctx, &guestpb.ResizeRequest{Pid: pid, Pty: &guestpb.Pty{Cols: 120, Rows: 40}}); err != nil {
				t.Error(err)
			}
			if err := a.SendInput(ctx, &guestpb.SendInputRequest{Pid: pid, Data: []byte("hello\n")}); err != nil {
				t.Error(err)
			}
		}
		if e := ev.GetExited(); e != nil {
			exit = e
		}
	}
	for _, want := range []string{"tty\r\n", "30 100", "xterm-256color", "got hello", "40 120"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q lacks %q", text, want)
		}
	}
	if exit.GetExitCode() != 5 {
		t.Errorf("exit %v", exit)
	}
}

func TestSignal(t *testing.T) {
	a := one(t)
	pid, done := a.background(t, t.Context(), shell(`trap 'echo usr1; exit 4' USR1; echo ready; while :; do sleep 0.01; done`))
	until(t, "the signal was seen", func() bool {
		_ = a.Signal(t.Context(), &guestpb.SignalRequest{Pid: pid, Signal: 0})
		return a.alive(t, "trap 'echo usr1") == 1
	})
	until(t, "it ended", func() bool {
		// The first may come before the trap is set.
		_ = a.Signal(t.Context(), &guestpb.SignalRequest{Pid: pid, Signal: 10})
		select {
		case r := <-done:
			if c := r.exit.GetExitCode(); c != 4 && c != 138 {
				t.Errorf("exit %v, out %q", r.exit, r.out)
			}
			return true
		default:
			return false
		}
	})
	if err := a.Signal(t.Context(), &guestpb.SignalRequest{Pid: pid, Signal: 9}); !sandbox.HasCode(err, sandbox.CodeNotFound) {
		t.Errorf("signal to an ended process: %v", err)
	}
	if err := a.Signal(t.Context(), &guestpb.SignalRequest{Pid: 1, Signal: 9}); !sandbox.HasCode(err, sandbox.CodeNotFound) {
		t.Errorf("signal to the agent: %v", err)
	}
	if err := a.Signal(t.Context(), &guestpb.SignalRequest{Pid: pid, Signal: 65}); !sandbox.HasCode(err, sandbox.CodeValidation) {
		t.Errorf("signal 65: %v", err)
	}
}

// Users' programs can't mount, and the agent takes no harm from polite signals.
func TestPrivileges(t *testing.T) {
	a := one(t)
	r := a.sh(t, `grep -E 'Cap(Inh|Prm|Eff|Bnd)' /proc/self/status | cut -f2; kill -TERM 1; kill -INT 1; kill -HUP 1; kill -QUIT 1; mount -t tmpfs none /mnt 2>/dev/null && echo mounted; for f in /proc/1/fd/*; do readlink $f >/dev/null 2>&1 && echo "agent's files"; done; :`)
	lines := strings.Fields(r.out)
	// Some kernels have no raw sockets to give.
	all, noRaw := "00000000a80425fb", "00000000a80405fb"
	if len(lines) < 4 || lines[1] != all && lines[1] != noRaw || lines[2] != lines[1] || lines[3] != lines[1] {
		t.Errorf("capabilities %q, want the default set of container engines", lines)
	}
	if strings.Contains(r.out, "mounted") {
		t.Error("a program could mount")
	}
	if strings.Contains(r.out, "agent's files") {
		t.Error("a program could look into the agent's files")
	}
	if r := a.sh(t, "echo alive"); r.out != "alive\n" {
		t.Errorf("after the signals: %v", r)
	}
}

func TestNoLeaks(t *testing.T) {
	a := one(t)
	count := func() string { // seen by the agent itself: its files are nobody else's to see
		m, err := a.Metrics(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprint(m.Processes)
	}
	a.sh(t, "true")
	before := count()
	for i := range 60 {
		req := shell("sleep 30 & echo $!; exit 0")
		switch i % 3 {
		case 0:
			req.TimeoutMs = 10
			req.Args[2] = "setsid sleep 30 & sleep 30"
		case 1:
			req.Pty = &guestpb.Pty{Cols: 80, Rows: 24}
		}
		r := a.run(t, req)
		if i%3 != 0 {
			_ = a.Signal(t.Context(), &guestpb.SignalRequest{Pid: r.pid, Signal: 9, Tree: true})
		}
	}
	until(t, "as many processes as before", func() bool { return count() == before })
}

func TestConcurrent(t *testing.T) {
	a := one(t)
	done := make(chan error)
	for i := range 40 {
		go func() {
			r, err := a.try(t.Context(), shell(fmt.Sprintf("echo %d; exit %d", i, i)))
			if err == nil && (r.out != fmt.Sprintf("%d\n", i) || r.exit.ExitCode != int32(i)) {
				err = fmt.Errorf("%d got %q and %v", i, r.out, r.exit)
			}
			done <- err
		}()
	}
	for range 40 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}
