package runtimetest

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"connectrpc.com/connect"

	"silica.dev/silica/internal/guest"
	"silica.dev/silica/internal/guest/guestpb"
	"silica.dev/silica/sandbox"
)

// process is one run of the fake shell, which knows:
//
//	echo [-n] printf cat [FILE…] pwd cd env hostname uname true false exit [N]
//	date (with nanoseconds)  sleep SECONDS  yes (writes until killed)  flood BYTES  od (16 random bytes)
//
// with '…' "…" $VAR $?, ; && || and newlines between commands, > >> 2>&1 >&2.
type process struct {
	pid     uint32
	args    []string
	started time.Time
	cancel  context.CancelCauseFunc
	stdin   *io.PipeWriter
	cwd     string

	mu   sync.Mutex // guards what follows and orders output
	over bool
	exit int32
}

// killed is the cause of a process's context when a signal ended it.
type killed struct{ signal int32 }

func (k killed) Error() string { return fmt.Sprintf("killed by signal %d", k.signal) }

var errOutOfTime = errors.New("out of time")

// Start implements the RPC.
func (a *Agent) Start(ctx context.Context, r *connect.Request[guestpb.StartRequest], s *connect.ServerStream[guestpb.ProcessEvent]) error {
	req := r.Msg
	_, env, cwd := a.memory.identity()
	if env == nil {
		env = map[string]string{}
	}
	maps.Copy(env, req.Env)
	if req.Cwd != "" {
		cwd = req.Cwd
	}
	if !a.memory.isDir(cwd) {
		return guest.WireError(sandbox.E(sandbox.Invalid, sandbox.CodeWorkdirNotFound, cwd+": no such folder"))
	}
	if len(req.Args) == 0 {
		return guest.WireError(sandbox.E(sandbox.Invalid, sandbox.CodeValidation, "args is empty"))
	}
	pctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	if req.TimeoutMs > 0 {
		t := time.AfterFunc(time.Duration(req.TimeoutMs)*time.Millisecond, func() { cancel(errOutOfTime) })
		defer t.Stop()
	}
	stdin, input := io.Pipe()
	defer stdin.Close()
	if !req.Stdin && req.Pty == nil {
		_ = input.Close()
	}
	a.mu.Lock()
	a.nextPID++
	p := &process{pid: a.nextPID, args: req.Args, started: time.Now(), cancel: cancel, stdin: input, cwd: cwd}
	a.procs[p.pid] = p
	a.mu.Unlock()
	go func() { // the process ends with the sandbox, and what waits for input with the process
		select {
		case <-a.done:
			cancel(killed{9})
		case <-pctx.Done():
		}
		_ = input.CloseWithError(io.EOF)
	}()

	if err := s.Send(&guestpb.ProcessEvent{Event: &guestpb.ProcessEvent_Started_{Started: &guestpb.ProcessEvent_Started{Pid: p.pid}}}); err != nil {
		return err
	}
	out := func(stream guestpb.ProcessEvent_Stream) io.Writer {
		if req.Pty != nil {
			stream = guestpb.ProcessEvent_TERMINAL
		}
		return writerFunc(func(b []byte) (int, error) {
			if pctx.Err() != nil {
				return 0, context.Cause(pctx)
			}
			p.mu.Lock()
			defer p.mu.Unlock()
			for chunk := range slices.Chunk(b, 32<<10) {
				ev := &guestpb.ProcessEvent{Event: &guestpb.ProcessEvent_Output_{Output: &guestpb.ProcessEvent_Output{Stream: stream, Data: chunk}}}
				if err := s.Send(ev); err != nil {
					cancel(err)
					return 0, err
				}
			}
			return len(b), nil
		})
	}
	sh := &shell{
		agent: a, ctx: pctx, env: env, cwd: cwd, stdin: stdin,
		stdout: out(guestpb.ProcessEvent_STDOUT), stderr: out(guestpb.ProcessEvent_STDERR),
	}
	exited := &guestpb.ProcessEvent_Exited{ExitCode: int32(sh.exec(req.Args))}
	var k killed
	if cause := context.Cause(pctx); errors.As(cause, &k) {
		exited = &guestpb.ProcessEvent_Exited{ExitCode: 128 + k.signal, Signal: signalName(k.signal)}
	} else if errors.Is(cause, errOutOfTime) {
		exited = &guestpb.ProcessEvent_Exited{ExitCode: 137, Signal: "SIGKILL", TimedOut: true}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.over, p.exit = true, exited.ExitCode
	return s.Send(&guestpb.ProcessEvent{Event: &guestpb.ProcessEvent_Exited_{Exited: exited}})
}

func signalName(n int32) string {
	switch n {
	case 2:
		return "SIGINT"
	case 9:
		return "SIGKILL"
	case 15:
		return "SIGTERM"
	}
	return "SIG" + strconv.Itoa(int(n))
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

func (a *Agent) process(pid uint32) (*process, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if p, ok := a.procs[pid]; ok {
		return p, nil
	}
	return nil, guest.WireError(sandbox.E(sandbox.NotFound, sandbox.CodeNotFound, "no such process"))
}

// SendInput implements the RPC.
func (a *Agent) SendInput(_ context.Context, r *connect.Request[guestpb.SendInputRequest]) (*connect.Response[guestpb.SendInputResponse], error) {
	p, err := a.process(r.Msg.Pid)
	if err != nil {
		return nil, err
	}
	if len(r.Msg.Data) > 0 {
		if _, err := p.stdin.Write(r.Msg.Data); err != nil {
			return nil, guest.WireError(sandbox.E(sandbox.Conflict, sandbox.CodeConflict, "the input is closed"))
		}
	}
	if r.Msg.Close {
		_ = p.stdin.Close()
	}
	return connect.NewResponse(&guestpb.SendInputResponse{}), nil
}

// Resize implements the RPC.
func (a *Agent) Resize(_ context.Context, r *connect.Request[guestpb.ResizeRequest]) (*connect.Response[guestpb.ResizeResponse], error) {
	if _, err := a.process(r.Msg.Pid); err != nil {
		return nil, err
	}
	return connect.NewResponse(&guestpb.ResizeResponse{}), nil
}

// Signal implements the RPC: every signal kills.
func (a *Agent) Signal(_ context.Context, r *connect.Request[guestpb.SignalRequest]) (*connect.Response[guestpb.SignalResponse], error) {
	p, err := a.process(r.Msg.Pid)
	if err != nil {
		return nil, err
	}
	p.cancel(killed{r.Msg.Signal})
	return connect.NewResponse(&guestpb.SignalResponse{}), nil
}

// ListProcesses implements the RPC.
func (a *Agent) ListProcesses(_ context.Context, r *connect.Request[guestpb.ListProcessesRequest]) (*connect.Response[guestpb.ListProcessesResponse], error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	res := &guestpb.ListProcessesResponse{}
	for _, pid := range slices.Sorted(maps.Keys(a.procs)) {
		p := a.procs[pid]
		p.mu.Lock()
		w := &guestpb.Process{Pid: pid, Args: p.args, Cwd: p.cwd, StartedUnixNano: p.started.UnixNano(), Running: !p.over}
		if p.over {
			w.Exit = &guestpb.ProcessEvent_Exited{ExitCode: p.exit}
		}
		res.Processes = append(res.Processes, w)
		p.mu.Unlock()
	}
	a.memory.mu.Lock()
	res.Processes = append(res.Processes, a.memory.apps...)
	a.memory.mu.Unlock()
	res.Processes = slices.DeleteFunc(res.Processes, func(p *guestpb.Process) bool { return r.Msg.Kind != "" && p.Kind != r.Msg.Kind })
	return connect.NewResponse(res), nil
}

// shell runs commands one after another.
type shell struct {
	agent          *Agent
	ctx            context.Context // of the process this shell is; a shell lives as long as its process
	env            map[string]string
	cwd            string
	stdin          io.Reader
	stdout, stderr io.Writer
	status         int
	exited         bool
}

// exec runs "sh -c SCRIPT", or any one of the commands.
func (s *shell) exec(args []string) int {
	switch path.Base(args[0]) {
	case "sh", "bash":
		for i, a := range args[1:] {
			if strings.HasPrefix(a, "-") && strings.HasSuffix(a, "c") && i+2 < len(args) {
				return s.script(args[i+2])
			}
		}
		script, _ := io.ReadAll(s.stdin)
		return s.script(string(script))
	}
	s.status = s.command(args)
	return s.status
}

func (s *shell) script(text string) int {
	words := split(text)
	skip := false
	for len(words) > 0 && !s.exited && s.ctx.Err() == nil {
		n := slices.IndexFunc(words, func(w word) bool { return w.separator })
		cmd, sep := words, ""
		if n >= 0 {
			cmd, sep, words = words[:n], words[n].text, words[n+1:]
		} else {
			words = nil
		}
		if len(cmd) > 0 && !skip {
			s.simple(cmd)
		}
		skip = sep == "&&" && s.status != 0 || sep == "||" && s.status == 0
	}
	return s.status
}

// word is a word of a script, or what separates commands.
type word struct {
	text      string
	separator bool
	literal   bool // 'quoted': no variables in it
}

func split(text string) []word {
	var words []word
	var cur strings.Builder
	open, literal := false, false
	flush := func() {
		if open {
			words = append(words, word{text: cur.String(), literal: literal})
		}
		cur.Reset()
		open, literal = false, false
	}
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case c == '\'' || c == '"':
			end := strings.IndexByte(text[i+1:], c)
			if end < 0 {
				end = len(text) - i - 1
			}
			cur.WriteString(text[i+1 : i+1+end])
			open, literal = true, literal || c == '\''
			i += end + 1
		case c == ' ' || c == '\t':
			flush()
		case c == ';' || c == '\n':
			flush()
			words = append(words, word{text: ";", separator: true})
		case strings.HasPrefix(text[i:], "&&") || strings.HasPrefix(text[i:], "||"):
			flush()
			words = append(words, word{text: text[i : i+2], separator: true})
			i++
		default:
			cur.WriteByte(c)
			open = true
		}
	}
	flush()
	return words
}

// simple runs one command with its redirections.
func (s *shell) simple(words []word) {
	stdout, stderr := s.stdout, s.stderr
	defer func() { s.stdout, s.stderr = stdout, stderr }()
	var args []string
	var file *bytes.Buffer
	var to string
	var appending bool
	for i := 0; i < len(words); i++ {
		t := words[i].text
		switch {
		case t == ">&2" || t == "1>&2":
			s.stdout = s.stderr
		case t == "2>&1":
			s.stderr = s.stdout
		case strings.HasPrefix(t, ">"):
			appending = strings.HasPrefix(t, ">>")
			to = strings.TrimLeft(t, ">")
			if to == "" && i+1 < len(words) {
				i++
				to = words[i].text
			}
			file = &bytes.Buffer{}
			s.stdout = file
		case words[i].literal:
			args = append(args, t)
		default:
			args = append(args, s.expand(t))
		}
	}
	if len(args) > 0 {
		s.status = s.command(args)
	}
	if file == nil {
		return
	}
	if to != "/dev/null" && s.agent.faults().ReadOnly {
		fmt.Fprintf(stderr, "sh: cannot create %s: Read-only file system\n", to)
		s.status = 2
		return
	}
	write := func() error { return s.agent.memory.write(s.abs(to), file.Bytes(), 0) }
	if appending {
		write = func() error { return s.agent.memory.append(s.abs(to), file.Bytes()) }
	}
	if to == "/dev/null" {
		return
	}
	if err := write(); err != nil {
		fmt.Fprintf(stderr, "sh: %s\n", sandbox.AsError(err).Message)
		s.status = 2
	}
}

func (s *shell) expand(w string) string {
	var out strings.Builder
	for i := 0; i < len(w); i++ {
		if w[i] != '$' || i+1 == len(w) {
			out.WriteByte(w[i])
			continue
		}
		if w[i+1] == '?' {
			out.WriteString(strconv.Itoa(s.status))
			i++
			continue
		}
		j := i + 1
		for j < len(w) && (w[j] == '_' || w[j]|0x20 >= 'a' && w[j]|0x20 <= 'z' || w[j] >= '0' && w[j] <= '9') {
			j++
		}
		out.WriteString(s.env[w[i+1:j]])
		i = j - 1
	}
	return out.String()
}

func (s *shell) abs(p string) string {
	if strings.HasPrefix(p, "/") {
		return path.Clean(p)
	}
	return path.Join(s.cwd, p)
}

func (s *shell) command(args []string) int {
	if name, value, ok := strings.Cut(args[0], "="); ok && len(args) == 1 {
		s.env[name] = value
		return 0
	}
	if f := s.agent.faults().Failing; f != "" && f == args[0] {
		fmt.Fprintln(s.stderr, f+" does not work")
		return 1
	}
	var err error
	switch args = slices.Clone(args); path.Base(args[0]) {
	case "true", ":", "set":
	case "false":
		return 1
	case "exit":
		s.exited = true
		if len(args) > 1 {
			n, _ := strconv.Atoi(args[1])
			return n & 0xff
		}
		return s.status
	case "echo":
		end := "\n"
		if len(args) > 1 && args[1] == "-n" {
			args, end = args[1:], ""
		}
		_, err = io.WriteString(s.stdout, strings.Join(args[1:], " ")+end)
	case "printf":
		_, err = io.WriteString(s.stdout, strings.NewReplacer(`\n`, "\n", `\t`, "\t").Replace(strings.Join(args[1:], " ")))
	case "pwd":
		_, err = fmt.Fprintln(s.stdout, s.cwd)
	case "cd":
		if len(args) < 2 || !s.agent.memory.isDir(s.abs(args[1])) {
			fmt.Fprintln(s.stderr, "sh: cd: no such folder")
			return 2
		}
		s.cwd = s.abs(args[1])
	case "env":
		for _, k := range slices.Sorted(maps.Keys(s.env)) {
			fmt.Fprintf(s.stdout, "%s=%s\n", k, s.env[k])
		}
	case "date":
		at := time.Now().Add(s.agent.faults().ClockSkew)
		_, err = fmt.Fprintf(s.stdout, "%d.%09d\n", at.Unix(), at.Nanosecond())
	case "hostname", "uname":
		name, _, _ := s.agent.memory.identity()
		if kept := s.agent.faults().Hostname; kept != "" {
			name = kept
		}
		_, err = fmt.Fprintln(s.stdout, name)
	case "sleep":
		d := 0.0
		if len(args) > 1 {
			d, _ = strconv.ParseFloat(args[1], 64)
		}
		t := time.NewTimer(time.Duration(d * float64(time.Second)))
		defer t.Stop()
		select {
		case <-t.C:
		case <-s.ctx.Done():
			return 137
		}
	case "yes":
		line := bytes.Repeat([]byte("y\n"), 8<<10)
		for err == nil {
			_, err = s.stdout.Write(line)
		}
	case "flood":
		n := int64(0)
		if len(args) > 1 {
			n, _ = strconv.ParseInt(args[1], 10, 64)
		}
		_, err = io.CopyN(s.stdout, zeros{}, n)
	case "od":
		var b [16]byte
		_, _ = rand.Read(b[:])
		copy(b[:], s.agent.faults().Random)
		_, err = fmt.Fprintf(s.stdout, "% x\n", b)
	case "cat":
		if len(args) == 1 {
			_, err = io.Copy(s.stdout, s.stdin)
		}
		for _, p := range args[1:] {
			if data, ok := s.agent.proc(s.abs(p)); ok {
				_, err = io.WriteString(s.stdout, data)
				continue
			}
			data, _, rerr := s.agent.memory.read(s.abs(p))
			if rerr != nil {
				fmt.Fprintf(s.stderr, "cat: %s\n", sandbox.AsError(rerr).Message)
				return 1
			}
			_, err = s.stdout.Write(data)
		}
	default:
		fmt.Fprintf(s.stderr, "sh: 1: %s: not found\n", args[0])
		return 127
	}
	if err != nil {
		return 1
	}
	return 0
}

// proc is what the kernel inside tells of its network, in files.
func (a *Agent) proc(p string) (text string, ok bool) {
	f := a.faults()
	switch p {
	case "/proc/net/route":
		text = "Iface\tDestination\tGateway\tFlags\n"
		if !f.Offline {
			text += "eth0\t00000000\t0100000A\t0003\n"
		}
		return text, true
	case "/proc/self/limits":
		if text = "1040"; f.Unruly {
			text = "unlimited"
		}
		return "Max processes             " + text + "                " + text + "                processes\n", true
	case "/etc/resolv.conf":
		if !f.Nameless {
			text = "nameserver 10.0.0.1\n"
		}
		return text, true
	}
	return "", false
}

// zeros reads the digit 0 without end.
type zeros struct{}

func (zeros) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = '0'
	}
	return len(b), nil
}
