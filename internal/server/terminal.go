package server

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"path"
	"strconv"
	"strings"
	"time"

	"silica.dev/silica/api"
	"silica.dev/silica/internal/guest"
	"silica.dev/silica/internal/guest/guestpb"
	"silica.dev/silica/internal/server/socket"
	"silica.dev/silica/sandbox"
)

// kindTerminal marks a terminal's process in the agent's table. It lives there
// until it ends or is deleted, whoever watches.
const kindTerminal = "terminal"

// replayLines is how much of a terminal somebody sees who attaches anew.
const replayLines = 1000

var errNoTerminal = sandbox.E(sandbox.NotFound, sandbox.CodeNotFound, "terminal not found")

// createTerminal starts a terminal, or takes up one that runs, and hands out a
// token for its stream.
func (s *Server) createTerminal(w http.ResponseWriter, r *http.Request, c sandbox.Caller) error {
	f, err := readFields(r)
	if err != nil {
		return err
	}
	session := f.text(maxLabel, "session_id")
	req := &guestpb.StartRequest{
		Pty:  f.pty(),
		Args: shellArgs(f.text(maxCommand, "shell")),
		Cwd:  f.text(maxPath, "working_dir", "cwd", "dir"),
		Env:  f.env("env"),
	}
	if f.err != nil {
		return f.err
	}
	ctx, g, sb, err := s.deps.Sandboxes.Guest(r.Context(), c, param(r, "id"))
	if err != nil {
		return err
	}
	ctx, _, cancel := s.patient(ctx)
	defer cancel()
	var p *guestpb.Process
	if session != "" {
		p, err = terminal(ctx, g, session)
	} else {
		p, err = spawnTerminal(ctx, g, req)
	}
	if err != nil {
		return err
	}
	session = sessionID(p.Id)
	token, expires := s.tokens.mint(c.KeyID, sb.ID, session, time.Now())
	writeOne(w, http.StatusCreated, api.TerminalSession{
		SessionID: session, SandboxID: string(sb.ID), WSURL: s.socketURL(r) + "/stream", StreamAuth: token, StreamAuthExpiresAt: expires.UTC(),
	})
	return nil
}

// loginShell is what people expect; loginSh is for images without it.
var (
	loginShell = []string{"/bin/bash", "-l"}
	loginSh    = []string{"/bin/sh", "-l"}
)

// shellArgs makes a command of the shell that was asked for: one of the known
// shells is a login shell.
func shellArgs(shell string) []string {
	words, plain := plainWords(shell)
	switch {
	case strings.TrimSpace(shell) == "":
		return loginShell
	case !plain:
		return []string{"/bin/sh", "-c", shell}
	case len(words) > 1:
		return words
	}
	switch path.Base(words[0]) {
	case "bash", "sh", "dash", "zsh", "ksh", "ash":
		words = append(words, "-l")
	}
	return words
}

func spawnTerminal(ctx context.Context, g *guest.Client, req *guestpb.StartRequest) (*guestpb.Process, error) {
	p, err := g.Spawn(ctx, &guestpb.SpawnRequest{Start: req, Kind: kindTerminal, Command: strings.Join(req.Args, " ")})
	if err != nil && absent(err) && &req.Args[0] == &loginShell[0] {
		req.Args = loginSh
		p, err = g.Spawn(ctx, &guestpb.SpawnRequest{Start: req, Kind: kindTerminal, Command: strings.Join(req.Args, " ")})
	}
	return p, err
}

// pty reads the size of a new terminal.
func (f *fields) pty() *guestpb.Pty {
	side := func(name string, standard int64) uint32 {
		n, given := f.integer(0, maxCells, name)
		if !given || n == 0 {
			n = standard
		}
		return uint32(n)
	}
	return &guestpb.Pty{Cols: side("cols", 80), Rows: side("rows", 24)}
}

// sessionID names a terminal by the number of its process, which is never used
// again.
func sessionID(id uint64) string { return fmt.Sprintf("%016x", id) }

// terminal finds a terminal of this sandbox, running or ended.
func terminal(ctx context.Context, g *guest.Client, session string) (*guestpb.Process, error) {
	id, err := strconv.ParseUint(session, 16, 64)
	if err != nil || sessionID(id) != session {
		return nil, errNoTerminal
	}
	p, err := g.Process(ctx, id)
	if err != nil && absent(err) || err == nil && p.GetKind() != kindTerminal {
		return nil, errNoTerminal
	}
	return p, err
}

// socketURL is the absolute ws URL of this request's path.
func (s *Server) socketURL(r *http.Request) string {
	base := "ws://" + r.Host
	if r.TLS != nil {
		base = "wss://" + r.Host
	}
	if s.cfg.PublicURL != "" {
		base = "ws" + strings.TrimSuffix(strings.TrimPrefix(s.cfg.PublicURL, "http"), "/")
	}
	return base + strings.TrimSuffix(r.URL.EscapedPath(), "/")
}

func (s *Server) listTerminals(w http.ResponseWriter, r *http.Request, c sandbox.Caller) error {
	ctx, g, sb, err := s.deps.Sandboxes.Guest(r.Context(), c, param(r, "id"))
	if err != nil {
		return err
	}
	ctx, _, cancel := s.patient(ctx)
	defer cancel()
	all, err := g.Processes(ctx, kindTerminal)
	if err != nil {
		return err
	}
	var live []*guestpb.Process
	for _, p := range all {
		if p.Running && p.Kind == kindTerminal {
			live = append(live, p)
		}
	}
	return writeList(w, r, live, func(p *guestpb.Process) api.Terminal {
		return api.Terminal{
			SessionID: sessionID(p.Id), SandboxID: string(sb.ID), PID: strconv.FormatUint(uint64(p.Pid), 10),
			Shell: validText([]byte(cutText(p.Command, maxLabel))), Cwd: validText([]byte(cutText(p.Cwd, maxPath))),
			StartedAt: time.Unix(0, p.StartedUnixNano).UTC(), FirstOffset: p.First, NextOffset: p.End,
		}
	})
}

// withTerminal finds the terminal that the path or the body names.
func (s *Server) withTerminal(r *http.Request, c sandbox.Caller, session string, do func(context.Context, *guest.Client, *guestpb.Process) error) error {
	ctx, g, _, err := s.deps.Sandboxes.Guest(r.Context(), c, param(r, "id"))
	if err != nil {
		return err
	}
	ctx, _, cancel := s.patient(ctx)
	defer cancel()
	p, err := terminal(ctx, g, session)
	if err != nil {
		return err
	}
	return do(ctx, g, p)
}

// deleteTerminal kills a terminal and everything in it.
func (s *Server) deleteTerminal(w http.ResponseWriter, r *http.Request, c sandbox.Caller) error {
	session := param(r, "session")
	err := s.withTerminal(r, c, session, func(ctx context.Context, g *guest.Client, p *guestpb.Process) error {
		err := g.Signal(ctx, &guestpb.SignalRequest{Id: p.Id, Signal: signals["KILL"], Tree: true})
		if err != nil && absent(err) { // it had ended
			return nil
		}
		return err
	})
	if err != nil {
		return err
	}
	writeOne(w, http.StatusOK, api.TerminalDeleted{SessionID: session, Deleted: true})
	return nil
}

// resizeTerminal is for clients that resize beside the stream. The session is in
// the path or in the body.
func (s *Server) resizeTerminal(w http.ResponseWriter, r *http.Request, c sandbox.Caller) error {
	f, err := readFields(r)
	if err != nil {
		return err
	}
	session := param(r, "session")
	if session == "" {
		session = f.text(maxLabel, "session_id")
	}
	cols, _ := f.integer(0, 1<<30, "cols")
	rows, _ := f.integer(0, 1<<30, "rows")
	err = s.withTerminal(r, c, session, func(ctx context.Context, g *guest.Client, p *guestpb.Process) error {
		if f.err != nil {
			return f.err
		}
		return program{guest: g, id: p.Id, terminal: true}.Resize(ctx, int(cols), int(rows))
	})
	if err != nil {
		return err
	}
	writeOne(w, http.StatusOK, api.TerminalSize{SessionID: session, Cols: int(cols), Rows: int(rows)})
	return nil
}

// terminalStream is the WebSocket of a terminal. It first sends what was printed
// lately, or with ?offset= from that byte on; then a client can tell from where
// a later stream must go on, and what it missed.
func (s *Server) terminalStream(w http.ResponseWriter, r *http.Request, c sandbox.Caller) error {
	if !socket.Asked(r) {
		return s.noSocket(r, c)
	}
	q := r.URL.Query()
	at := &guestpb.AttachRequest{TailLines: replayLines}
	exact := q.Has("offset")
	if exact {
		n, err := strconv.ParseUint(q.Get("offset"), 10, 63)
		if err != nil {
			return sandbox.Field("offset", "must be a number of bytes")
		}
		at = &guestpb.AttachRequest{Offset: n}
	}
	ctx, g, _, err := s.deps.Sandboxes.Guest(r.Context(), c, param(r, "id"))
	if err != nil {
		return err
	}
	p, err := terminal(ctx, g, q.Get("session_id"))
	if err != nil {
		return err
	}
	at.Id = p.Id
	to := program{guest: g, id: p.Id, terminal: true}
	if err := firstSize(ctx, to, q.Get("cols"), q.Get("rows")); err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watching, leave := context.WithCancelCause(ctx)
	defer leave(nil)
	defer context.AfterFunc(s.closing, func() { leave(errShutdown) })()

	var talk *dialogue
	for ev, err := range g.Attach(watching, at) {
		if talk == nil {
			if err != nil {
				return err
			}
			offset := ev.GetAttached().GetOffset()
			w.Header().Set("X-Stream-Offset", strconv.FormatUint(offset, 10))
			if talk, err = s.openDialogue(w, r, ctx, socket.Terminal{}); err != nil {
				return err
			}
			defer talk.close()
			if exact {
				talk.note(map[string]any{"type": "attached", "session_id": q.Get("session_id"), "offset": offset})
			}
			talk.listen(to, func() { leave(errClientLeft) })
			continue
		}
		if err != nil {
			return talk.broke(err)
		}
		switch e := ev.Event.(type) {
		case *guestpb.AttachEvent_Output_:
			if talk.output(e.Output.Stream, e.Output.Data) != nil {
				return nil // the client has left
			}
		case *guestpb.AttachEvent_Gap_:
			if exact {
				talk.note(map[string]any{"type": "gap", "from": e.Gap.From, "to": e.Gap.To})
			}
		case *guestpb.AttachEvent_Exited:
			talk.exit(e.Exited)
			return nil
		}
	}
	if talk == nil {
		return lost(errNoVerdict)
	}
	if watching.Err() != nil {
		return talk.broke(context.Cause(watching))
	}
	return talk.broke(lost(errNoVerdict))
}

// firstSize fits a terminal to the client that attaches, if that says its size.
func firstSize(ctx context.Context, to program, cols, rows string) error {
	if cols == "" || rows == "" || cols == "0" || rows == "0" {
		return nil
	}
	c, err := strconv.Atoi(cols)
	if err != nil {
		return sandbox.Field("cols", "must be a number")
	}
	r, err := strconv.Atoi(rows)
	if err != nil {
		return sandbox.Field("rows", "must be a number")
	}
	if err := checkSize(int64(c), int64(r)); err != nil {
		return err
	}
	_ = to.Resize(ctx, c, r) // it may have ended: there is still what it printed
	return nil
}

// note sends a text frame.
func (talk *dialogue) note(v any) {
	raw, err := json.Marshal(v)
	if err != nil {
		panic("note can't be encoded: " + err.Error())
	}
	_ = talk.conn.Text(raw) // a client that has left is noticed by listen
}
