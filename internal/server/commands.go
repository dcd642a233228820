package server

import (
	"context"
	"net/http"
	"strconv"
	"strings"

	"silica.dev/silica/api"
	"silica.dev/silica/internal/guest"
	"silica.dev/silica/internal/guest/guestpb"
	"silica.dev/silica/sandbox"
)

// commandPrefix begins the id of a command. What follows is the agent's name for
// the process, which, unlike its number, is never used again.
const commandPrefix = "cmd_"

var errNoCommand = sandbox.E(sandbox.NotFound, sandbox.CodeNotFound, "command not found")

// createCommand starts a command that goes on by itself, as a background process
// does.
func (s *Server) createCommand(w http.ResponseWriter, r *http.Request, c sandbox.Caller) error {
	f, err := readFields(r)
	if err != nil {
		return err
	}
	req := &guestpb.SpawnRequest{
		Kind: kindCommand, Command: f.command(),
		Start: &guestpb.StartRequest{Cwd: f.workdir(), Env: f.env("env")},
	}
	// sudo asks for what every command is: root's.
	_, _ = f.boolean("sudo")
	switch f.text(maxLabel, "user") {
	case "", "root", "0":
	default:
		f.reject("user", "must be root: every command is; run it with su to be somebody else")
	}
	req.Start.Stdin, _ = f.boolean("interactive")
	if tty, _ := f.boolean("tty"); tty {
		req.Start.Pty = &guestpb.Pty{Cols: 80, Rows: 24}
	}
	limit, _ := f.integer(0, maxSocketTime, "timeout", "timeout_sec")
	req.Start.TimeoutMs = limit * 1000
	if f.err != nil {
		return f.err
	}
	return s.spawn(w, r, c, req)
}

func (s *Server) listCommands(w http.ResponseWriter, r *http.Request, c sandbox.Caller) error {
	ctx, g, sb, err := s.deps.Sandboxes.Guest(r.Context(), c, param(r, "id"))
	if err != nil {
		return err
	}
	ctx, _, cancel := s.patient(ctx)
	defer cancel()
	all, err := g.Processes(ctx, kindCommand)
	if err != nil {
		return err
	}
	var list []*guestpb.Process
	for _, p := range all {
		if isCommand(p) {
			list = append(list, p)
		}
	}
	return writeList(w, r, list, wireCommand(sb.ID))
}

// isCommand tells whether p was started by this resource; what exec runs has no
// id.
func isCommand(p *guestpb.Process) bool { return p != nil && p.Kind == kindCommand && p.Id != 0 }

func findCommand(ctx context.Context, g *guest.Client, cid string) (*guestpb.Process, error) {
	digits, ok := strings.CutPrefix(cid, commandPrefix)
	id, err := strconv.ParseUint(digits, 10, 64)
	if !ok || err != nil || id == 0 {
		return nil, errNoCommand
	}
	p, err := g.Process(ctx, id)
	switch {
	case err != nil && absent(err), err == nil && !isCommand(p):
		return nil, errNoCommand.Because(err)
	}
	return p, err
}

// wireOne is a process as an answer about it alone has it.
func wireOne(id sandbox.ID, p *guestpb.Process) any {
	if isCommand(p) {
		return wireCommand(id)(p)
	}
	return wireProcess(id)(p)
}

func wireCommand(id sandbox.ID) func(*guestpb.Process) api.Command {
	process := wireProcess(id)
	return func(p *guestpb.Process) api.Command {
		return api.Command{
			ID: commandPrefix + strconv.FormatUint(p.Id, 10), Process: process(p),
			TTY: p.Terminal, TimedOut: p.Exit.GetTimedOut(),
		}
	}
}

// killCommand ends a command and everything it started, at once unless another
// signal is asked for. Who kills what has ended already is told so.
func (s *Server) killCommand(w http.ResponseWriter, r *http.Request, c sandbox.Caller) error {
	f, err := readFields(r)
	if err != nil {
		return err
	}
	_, signal := f.signal("KILL")
	if f.err != nil {
		return f.err
	}
	return s.withProcess(r, c, func(ctx context.Context, g *guest.Client, id sandbox.ID, p *guestpb.Process) error {
		now, err := s.endTree(ctx, g, p, signal)
		if err != nil {
			return err
		}
		writeOne(w, http.StatusOK, wireOne(id, now))
		return nil
	})
}
