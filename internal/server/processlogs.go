package server

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"silica.dev/silica/api"
	"silica.dev/silica/internal/guest"
	"silica.dev/silica/internal/guest/guestpb"
	"silica.dev/silica/sandbox"
)

// Bounds of an answer with logs: lines, if none are asked for and at most, and
// bytes of text; less while the tenant's other answers hold much.
const (
	tailLines    = 1000
	maxTailLines = 10_000
	maxLogText   = 1 << 20
	logCost      = 8 * maxLogText // of the text, its lines, and the answer made of both
)

// tailOf reads how many lines are wanted.
func tailOf(r *http.Request) (int, error) {
	for _, name := range []string{"tail", "lines"} {
		if v := r.URL.Query().Get(name); v != "" {
			n, err := strconv.Atoi(v)
			if err != nil || n < 1 {
				return 0, sandbox.Field(name, "must be a positive number")
			}
			return min(n, maxTailLines), nil
		}
	}
	return tailLines, nil
}

func (s *Server) processLogs(w http.ResponseWriter, r *http.Request, c sandbox.Caller) error {
	tail, err := tailOf(r)
	if err != nil {
		return err
	}
	return s.withProcess(r, c, func(ctx context.Context, g *guest.Client, _ sandbox.ID, p *guestpb.Process) error {
		return s.writeLogs(ctx, w, c, g, p.Id, tail)
	})
}

// writeLogs answers with the last lines of what is kept of a process.
func (s *Server) writeLogs(ctx context.Context, w http.ResponseWriter, c sandbox.Caller, g *guest.Client, id uint64, tail int) error {
	most := outputFloor
	if s.execMemory.take(c.Tenant, logCost, false) {
		defer s.execMemory.give(c.Tenant, logCost)
		most = maxLogText
	}
	var text []byte
	cut := false
	for ev, err := range g.Attach(ctx, &guestpb.AttachRequest{Id: id, TailLines: uint32(tail), Once: true}) {
		if err != nil {
			return err
		}
		text = append(text, ev.GetOutput().GetData()...)
		if len(text) > 2*most { // the end is what is asked for
			text, cut = slices.Delete(text, 0, len(text)-most), true
		}
	}
	if len(text) > most {
		text, cut = text[len(text)-most:], true
	}
	if cut { // begin with a line
		text = text[bytes.IndexByte(text, '\n')+1:]
	}
	a := api.Logs{Data: validText(text), Lines: []string{}, Truncated: cut}
	for line := range strings.Lines(a.Data) {
		a.Lines = append(a.Lines, strings.TrimRight(line, "\r\n"))
	}
	if n := len(a.Lines) - tail; n > 0 {
		a.Lines = a.Lines[n:]
	}
	writeJSON(w, http.StatusOK, a)
	return nil
}

// processStream sends what a process wrote and writes until its exit. Every
// event's id is where the next begins, so that a client that comes back with it
// neither misses nor repeats anything.
func (s *Server) processStream(w http.ResponseWriter, r *http.Request, c sandbox.Caller) error {
	at, err := positionOf(r)
	if err != nil {
		return err
	}
	ctx, g, _, err := s.deps.Sandboxes.Guest(r.Context(), c, param(r, "id"))
	if err != nil {
		return err
	}
	pctx, _, cancel := s.patient(ctx)
	defer cancel()
	p, err := findProcess(pctx, g, param(r, "pid"))
	if err == nil && at.id != 0 && at.id != p.Id { // the number is another's by now
		if p, err = g.Process(pctx, at.id); err == nil && p.Kind != kindProcess {
			err = errNoProcess
		}
	}
	if err != nil {
		return err
	}
	cancel()
	t := &tailing{name: eventName, exits: true}
	return s.tail(ctx, w, g, &guestpb.AttachRequest{Id: p.Id, Offset: at.offset}, t)
}

// position is where a client's stream broke off: "<id>-<offset>", or an offset.
type position struct {
	id, offset uint64
	given      bool
}

func positionOf(r *http.Request) (p position, err error) {
	name, v := api.HeaderLastEventID, r.Header.Get(api.HeaderLastEventID)
	if v == "" {
		name, v = "offset", r.URL.Query().Get("offset")
	}
	if v == "" {
		return position{}, nil
	}
	id, offset, both := strings.Cut(v, "-")
	if !both {
		id, offset = "0", v
	}
	p.given = true
	var err1, err2 error
	p.id, err1 = strconv.ParseUint(id, 10, 62)
	p.offset, err2 = strconv.ParseUint(offset, 10, 62)
	if err1 != nil || err2 != nil {
		return position{}, sandbox.Field(name, "is no id of an event of this stream")
	}
	return p, nil
}

// tailing turns what a process writes into the events of a stream.
type tailing struct {
	out   *eventStream
	id    uint64
	at    uint64 // everything before was sent
	name  func(guestpb.ProcessEvent_Stream) string
	exits bool // the exit is an event; else the stream is one of lines for people
}

// eventName is what events with output are called.
func eventName(s guestpb.ProcessEvent_Stream) string {
	switch s {
	case guestpb.ProcessEvent_STDERR:
		return "stderr"
	case guestpb.ProcessEvent_SYSTEM:
		return "system"
	}
	return "stdout"
}

// tail answers with a stream of what Attach tells, until its end.
func (s *Server) tail(ctx context.Context, w http.ResponseWriter, g *guest.Client, req *guestpb.AttachRequest, t *tailing) error {
	actx, cancel := context.WithCancel(ctx)
	ch, wait := pump(actx, g.Attach(actx, req))
	defer func() { cancel(); wait() }()
	// Whatever prevents the stream still gets an ordinary answer.
	var first item[*guestpb.AttachEvent]
	select {
	case first = <-ch:
	case <-time.After(s.cfg.GuestWait):
		return errMute
	}
	if first.err != nil {
		return first.err
	}
	if first.v.GetAttached() == nil {
		return lost(errors.New("the agent did not begin with where it begins"))
	}
	out := s.openStreamUntil(w, ctx, s.closing)
	defer out.close()
	t.out, t.id, t.at = out, req.Id, first.v.GetAttached().Offset
	for {
		select {
		case it, ok := <-ch:
			switch {
			case !ok && ctx.Err() == nil: // the end of what there is
				return nil
			case !ok || it.err != nil:
				return t.broke(ctx, s.closing, it.err)
			}
			if t.event(it.v) {
				return nil
			}
		case <-out.beat.C:
			out.comment("heartbeat")
		case <-out.ctx.Done():
			return t.broke(ctx, s.closing, nil)
		}
	}
}

// broke ends a stream before the process has, and says why.
func (t *tailing) broke(ctx, closing context.Context, err error) error {
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	switch {
	case closing.Err() != nil:
		t.out.farewell()
		return nil
	case err == nil, errors.Is(err, context.Canceled):
		return noteOnly(t.out, context.Canceled)
	}
	e := sandbox.AsError(err)
	t.out.object("", api.ProcessError, map[string]any{"code": e.Code, "message": e.Message})
	return noteOnly(t.out, err)
}

// event passes one event on and tells whether it was the last.
func (t *tailing) event(ev *guestpb.AttachEvent) bool {
	switch e := ev.Event.(type) {
	case *guestpb.AttachEvent_Output_:
		t.output(e.Output)
		t.out.flush()
	case *guestpb.AttachEvent_Gap_:
		if e.Gap.To > t.at {
			from := t.at
			t.at = e.Gap.To
			t.out.object(t.place(), api.ProcessGap, map[string]any{"from": from, "to": t.at, "lost_bytes": t.at - from})
		}
	case *guestpb.AttachEvent_Exited:
		if t.exits {
			t.out.object(t.place(), api.ExecExit, exitData(e.Exited))
		}
		return true
	}
	return false
}

// place is where the next event begins.
func (t *tailing) place() string {
	return strconv.FormatUint(t.id, 10) + "-" + strconv.FormatUint(t.at, 10)
}

// output sends a piece of output as events, a line each as far as it has any.
// What is no whole line is sent all the same: nothing waits.
func (t *tailing) output(o *guestpb.AttachEvent_Output) {
	now := time.Unix(0, o.UnixNano)
	name := t.name(o.Stream)
	for p := o.Data; len(p) > 0; {
		n := bytes.IndexByte(p, '\n') + 1
		if n == 0 {
			n = len(p)
		}
		n = fits(p[:n], maxText)
		t.at += uint64(n)
		if t.exits {
			t.out.output(t.place(), name, p[:n], now, false)
		} else {
			t.out.logLine(t.place(), name, p[:n], now)
		}
		p = p[n:]
		if len(t.out.buf) > 256<<10 {
			t.out.flush()
		}
	}
}

// logLine writes an event of a service's logs.
func (e *eventStream) logLine(id, stream string, p []byte, now time.Time) {
	e.begin(id, "log", now)
	e.buf = append(append(append(e.buf, `,"stream":"`...), stream...), `","message":"`...)
	e.buf, _ = escape(e.buf, bytes.TrimRight(p, "\r\n"))
	e.buf = append(e.buf, "\"}\n\n"...)
}
