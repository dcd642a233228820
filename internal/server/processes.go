package server

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"time"

	"silica.dev/silica/api"
	"silica.dev/silica/internal/guest"
	"silica.dev/silica/internal/guest/guestpb"
	"silica.dev/silica/sandbox"
)

// kindProcess marks background processes in the agent's table. They live there,
// whoever watches; the daemon knows nothing of them.
const kindProcess = "process"

var errNoProcess = sandbox.E(sandbox.NotFound, sandbox.CodeNotFound, "process not found")

func (s *Server) createProcess(w http.ResponseWriter, r *http.Request, c sandbox.Caller) error {
	f, err := readFields(r)
	if err != nil {
		return err
	}
	req := &guestpb.SpawnRequest{
		Kind:    kindProcess,
		Name:    f.label(maxLabel, "name"),
		Command: f.command(),
		Start:   &guestpb.StartRequest{Cwd: f.workdir(), Env: f.env("env"), Stdin: true},
	}
	if f.err != nil {
		return f.err
	}
	return s.spawn(w, r, c, req)
}

// spawn starts a process in the background and answers with it.
func (s *Server) spawn(w http.ResponseWriter, r *http.Request, c sandbox.Caller, req *guestpb.SpawnRequest) error {
	ctx, g, sb, err := s.deps.Sandboxes.Guest(r.Context(), c, param(r, "id"))
	if err != nil {
		return err
	}
	ctx, _, cancel := s.patient(ctx)
	defer cancel()
	p, err := spawnCommand(ctx, g, req, sb.Spec.Env)
	if err != nil {
		return err
	}
	writeOne(w, http.StatusCreated, wireOne(sb.ID, p))
	return nil
}

// spawnCommand starts a command as [runCommand] does, in the background.
func spawnCommand(ctx context.Context, g *guest.Client, req *guestpb.SpawnRequest, env map[string]string) (p *guestpb.Process, err error) {
	all := ways(req.Command, req.Start.Env, env)
	for i, args := range all {
		req.Start.Args = args
		p, err = g.Spawn(ctx, req)
		if err == nil || i+1 == len(all) || !absent(err) && !sandbox.HasCode(err, sandbox.CodePermissionDenied) {
			break
		}
	}
	return p, err
}

// listProcesses lists the background processes or, if asked, those of another
// kind, or all.
func (s *Server) listProcesses(w http.ResponseWriter, r *http.Request, c sandbox.Caller) error {
	kind := r.URL.Query().Get("kind")
	switch kind {
	case "":
		kind = kindProcess
	case "all", kindProcess, kindTerminal, kindService, kindCommand:
	default:
		return sandbox.Field("kind", "must be process, terminal, service, command or all")
	}
	ctx, g, sb, err := s.deps.Sandboxes.Guest(r.Context(), c, param(r, "id"))
	if err != nil {
		return err
	}
	ctx, _, cancel := s.patient(ctx)
	defer cancel()
	ask := kind
	if kind != kindProcess && kind != kindTerminal { // the others have no list of their own
		ask = ""
	}
	all, err := g.Processes(ctx, ask)
	if err != nil {
		return err
	}
	var list []*guestpb.Process
	for _, p := range all {
		if p != nil && (kind == "all" || kindOf(p) == kind) {
			list = append(list, p)
		}
	}
	return writeList(w, r, list, wireProcess(sb.ID))
}

// kindCommand marks what the commands resource started. Commands of exec, which
// the agent calls nothing, are listed as the same.
const kindCommand = "command"

func kindOf(p *guestpb.Process) string {
	switch p.Kind {
	case "":
		return kindCommand
	case kindProcess, kindTerminal, kindService, kindCommand:
		return p.Kind
	}
	return "other" // an agent's word is not repeated
}

// wireProcess makes processes of the wire. Everything in them is the sandbox's word.
func wireProcess(id sandbox.ID) func(*guestpb.Process) api.Process {
	return func(p *guestpb.Process) api.Process {
		a := api.Process{
			PID: strconv.FormatUint(uint64(p.Pid), 10), SandboxID: string(id), Name: shown(p.Name, maxLabel), Kind: kindOf(p),
			Command: shown(p.Command, maxShown), Cwd: shown(p.Cwd, maxPath), Status: api.ProcessRunning,
			StartedAt: time.Unix(0, p.StartedUnixNano).UTC(), FirstOffset: p.First, NextOffset: p.End,
		}
		if a.Command == "" {
			a.Command = shown(strings.Join(p.Args, " "), maxShown)
		}
		if p.Running {
			return a
		}
		a.Status = api.ProcessFailed
		a.EndedAt = timeOrNull(time.Unix(0, p.EndedUnixNano))
		code := p.Exit.GetExitCode()
		a.ExitCode, a.Signal = &code, orNull(shown(p.Exit.GetSignal(), 32))
		if code == 0 {
			a.Status = api.ProcessExited
		}
		return a
	}
}

// maxShown bounds the command in answers.
const maxShown = 4 << 10

func shown(text string, most int) string { return validText([]byte(cutText(text, most))) }

// withProcess finds the process that the path names and does something with it.
// Numbers are used again: of several the one that runs is meant, or the newest.
func (s *Server) withProcess(r *http.Request, c sandbox.Caller, do func(context.Context, *guest.Client, sandbox.ID, *guestpb.Process) error) error {
	ctx, g, sb, err := s.deps.Sandboxes.Guest(r.Context(), c, param(r, "id"))
	if err != nil {
		return err
	}
	ctx, _, cancel := s.patient(ctx)
	defer cancel()
	p, err := named(ctx, g, r)
	if err != nil {
		return err
	}
	return do(ctx, g, sb.ID, p)
}

// named finds what the path names: a process by its number or a command by its id.
func named(ctx context.Context, g *guest.Client, r *http.Request) (*guestpb.Process, error) {
	if cid := param(r, "cid"); cid != "" {
		return findCommand(ctx, g, cid)
	}
	return findProcess(ctx, g, param(r, "pid"))
}

func findProcess(ctx context.Context, g *guest.Client, pid string) (*guestpb.Process, error) {
	number, err := strconv.ParseUint(pid, 10, 32)
	if err != nil {
		return nil, errNoProcess
	}
	all, err := g.Processes(ctx, kindProcess)
	if err != nil {
		return nil, err
	}
	var found *guestpb.Process
	for _, p := range all { // by start
		if p != nil && p.Pid == uint32(number) && p.Kind == kindProcess && p.Id != 0 && (found == nil || !found.Running) {
			found = p
		}
	}
	if found == nil {
		return nil, errNoProcess
	}
	return found, nil
}

// maxWait bounds how long a request for a process waits for its end, in seconds.
const maxWait = 300

func (s *Server) getProcess(w http.ResponseWriter, r *http.Request, c sandbox.Caller) error {
	wait := 0
	if v := r.URL.Query().Get("wait"); v != "" {
		var err error
		if wait, err = strconv.Atoi(v); err != nil || wait < 0 || wait > maxWait {
			return sandbox.Field("wait", "must be from 0 to 300")
		}
	}
	ctx, g, sb, err := s.deps.Sandboxes.Guest(r.Context(), c, param(r, "id"))
	if err != nil {
		return err
	}
	pctx, patience, cancel := s.patient(ctx)
	defer cancel()
	p, err := named(pctx, g, r)
	if err == nil && p.Running && wait > 0 {
		patience.rest()
		s.awaitExit(pctx, g, p.Id, time.Duration(wait)*time.Second)
		patience.wait()
		p, err = g.Process(pctx, p.Id)
	}
	if err != nil {
		return err
	}
	writeOne(w, http.StatusOK, wireOne(sb.ID, p))
	return nil
}

// awaitExit returns when a process has ended, or the time is over, or the
// server closes, or the agent does not say.
func (s *Server) awaitExit(ctx context.Context, g *guest.Client, id uint64, limit time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	defer context.AfterFunc(s.closing, cancel)()
	for ev, err := range g.Attach(ctx, &guestpb.AttachRequest{Id: id, Live: true, ExitOnly: true}) {
		if err != nil || ev.GetExited() != nil {
			return
		}
	}
}

// stopGrace is how long a process that was asked to end may take.
const stopGrace = 3 * time.Second

// deleteProcess ends a process and everything it started. It stays listed, and
// its output with it.
func (s *Server) deleteProcess(w http.ResponseWriter, r *http.Request, c sandbox.Caller) error {
	return s.withProcess(r, c, func(ctx context.Context, g *guest.Client, id sandbox.ID, p *guestpb.Process) error {
		if p.Running {
			if _, err := s.endTree(ctx, g, p, signals["TERM"]); err != nil {
				return err
			}
		}
		// Who left meanwhile still wanted it to end.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopGrace)
		defer cancel()
		now, err := s.endTree(ctx, g, p, signals["KILL"])
		if err != nil {
			return err
		}
		writeOne(w, http.StatusOK, wireOne(id, now))
		return nil
	})
}

// endTree sends a signal to a process and everything it started, gives it a
// while to end, and tells what became of it.
func (s *Server) endTree(ctx context.Context, g *guest.Client, p *guestpb.Process, signal int32) (*guestpb.Process, error) {
	err := g.Signal(ctx, &guestpb.SignalRequest{Id: p.Id, Signal: signal, Tree: true})
	if err != nil && !absent(err) { // else nobody is left
		return nil, err
	}
	s.awaitExit(ctx, g, p.Id, stopGrace)
	return g.Process(ctx, p.Id)
}

func (s *Server) processInput(w http.ResponseWriter, r *http.Request, c sandbox.Caller) error {
	f, err := readFields(r)
	if err != nil {
		return err
	}
	data := f.bytes("data", "data_base64")
	end, _ := f.boolean("close", "eof")
	if f.err != nil {
		return f.err
	}
	return s.withProcess(r, c, func(ctx context.Context, g *guest.Client, _ sandbox.ID, p *guestpb.Process) error {
		if err := g.SendInput(ctx, &guestpb.SendInputRequest{Id: p.Id, Data: data, Close: end}); err != nil {
			return err
		}
		writeOne(w, http.StatusOK, api.ProcessWritten{PID: strconv.FormatUint(uint64(p.Pid), 10), BytesWritten: len(data), Closed: end})
		return nil
	})
}

// bytes reads what is text under the one name, or anything in base64 under the other.
func (f *fields) bytes(text, encoded string) []byte {
	s, isText := read(f, "a string", decodeAs[string], text)
	raw, isRaw := read(f, "base64", func(m json.RawMessage) ([]byte, bool) {
		v, ok := decodeAs[string](m)
		b, err := base64.StdEncoding.DecodeString(v)
		return b, ok && err == nil
	}, encoded)
	switch {
	case isText && isRaw:
		f.reject(encoded, "and %s can't both be given", text)
	case isRaw:
		return raw
	}
	return []byte(s)
}

// signal reads a signal, by name or number; standard is meant if there is none.
func (f *fields) signal(standard string) (name string, number int32) {
	name, given := read(f, "a name or a number", func(m json.RawMessage) (string, bool) {
		if n, ok := decodeInteger(m); ok {
			return strconv.FormatInt(n, 10), true
		}
		return decodeAs[string](m)
	}, "signal")
	if !given {
		name = standard
	}
	number, known := signalNumber(name)
	if !known {
		f.reject("signal", "must be a signal's name or number")
	}
	return name, number
}

func (s *Server) signalProcess(w http.ResponseWriter, r *http.Request, c sandbox.Caller) error {
	f, err := readFields(r)
	if err != nil {
		return err
	}
	name, number := f.signal("")
	tree, given := f.boolean("tree")
	tree = tree || !given
	if f.err != nil {
		return f.err
	}
	return s.withProcess(r, c, func(ctx context.Context, g *guest.Client, _ sandbox.ID, p *guestpb.Process) error {
		if err := g.Signal(ctx, &guestpb.SignalRequest{Id: p.Id, Signal: number, Tree: tree}); err != nil {
			if absent(err) {
				return sandbox.E(sandbox.Conflict, sandbox.CodeConflict, "the process has ended").Because(err)
			}
			return err
		}
		writeOne(w, http.StatusOK, api.ProcessSignal{PID: param(r, "pid"), Signal: strings.ToUpper(name), Tree: &tree})
		return nil
	})
}
