package server

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"net/http"
	"time"

	"silica.dev/silica/internal/guest/guestpb"
	"silica.dev/silica/sandbox"
)

const (
	// maxText is what the text of a line may be, escaped, in one event, which
	// holds it twice, and once more in base64 when it is not UTF-8.
	maxText = 18 << 10
	// lineWait is how long the beginning of a line waits for its end: a
	// prompt or a progress bar has none.
	lineWait = 200 * time.Millisecond
)

// execStream runs a command and sends its output line by line while it comes.
// How fast the client reads is how fast the command may write.
func (s *Server) execStream(w http.ResponseWriter, r *http.Request, c sandbox.Caller) error {
	x, err := s.admit(r, c)
	if err != nil {
		return err
	}
	defer x.cancel()
	ch, wait := pump(x.ctx, runCommand(x.ctx, x.guest, x))
	defer func() { x.cancel(); wait() }()
	// Whatever prevents the start still gets an ordinary answer.
	first, ok := <-ch
	if first.err != nil {
		return first.err
	}
	if !ok {
		return s.endOf(x)
	}
	w.Header().Set("X-Exec-Id", x.id)
	out := s.openStreamUntil(w, x.ctx, context.Background())
	defer out.close()
	shown := s.show(x)
	defer shown.close()
	f := &follower{x: x, out: out, shown: shown}
	if f.event(first.v) {
		return nil
	}
	return s.relay(f, ch)
}

// relay passes events on until the command's end.
func (s *Server) relay(f *follower, ch <-chan item[*guestpb.ProcessEvent]) error {
	partial := time.NewTimer(lineWait)
	defer partial.Stop()
	for {
		select {
		case it, ok := <-ch:
			if !ok || it.err != nil {
				return f.broke(s.endOf(f.x), it.err)
			}
			if f.event(it.v) {
				return nil
			}
			partial.Reset(lineWait)
		case <-partial.C:
			f.flushPartial()
		case <-f.out.beat.C:
			f.out.comment("heartbeat")
		case <-f.out.ctx.Done():
			if f.x.ctx.Err() == nil { // a write failed: the client does not read
				return f.broke(nil, context.Canceled)
			}
			return f.broke(s.endOf(f.x), nil)
		}
	}
}

// endOf says why a command's events ended before its exit.
func (s *Server) endOf(x *execution) error {
	if x.ctx.Err() != nil {
		return context.Cause(x.ctx)
	}
	return lost(errNoVerdict)
}

// follower turns a command's events into those of the stream.
type follower struct {
	x     *execution
	out   *eventStream
	shown *live
	lines [2]lineBuffer // stdout, stderr
	last  bool          // no output follows what is being written
}

// lineBuffer is the beginning of a line.
type lineBuffer struct{ held []byte }

// event passes one event on and tells whether it was the last.
func (f *follower) event(ev *guestpb.ProcessEvent) bool {
	switch e := ev.Event.(type) {
	case *guestpb.ProcessEvent_Output_:
		f.shown.add(e.Output.Stream, e.Output.Data)
		f.output(e.Output.Stream, e.Output.Data)
		f.out.flush()
	case *guestpb.ProcessEvent_Exited_:
		f.finishLines()
		data := exitData(e.Exited)
		data["exec_id"], data["duration_ms"] = f.x.id, time.Since(f.x.start).Milliseconds()
		if e.Exited.TimedOut {
			data["timed_out"], data["code"], data["message"] = true, errExecTime.Code, errExecTime.Message
		}
		f.out.object("", "exit", data)
		return true
	}
	return false
}

// exitData is what streams tell of an exit.
func exitData(e *guestpb.ProcessEvent_Exited) map[string]any {
	data := map[string]any{"exit_code": e.ExitCode, "success": e.ExitCode == 0 && !e.TimedOut}
	if e.Signal != "" {
		data["signal"] = shown(e.Signal, 32)
	}
	if e.OutOfMemory {
		data["out_of_memory"] = true
	}
	return data
}

// broke ends the stream of a command that has no exit, with an event that says
// why if somebody is there to read it.
func (f *follower) broke(end, err error) error {
	if err == nil {
		err = end
	}
	if !errors.Is(err, context.Canceled) {
		f.finishLines()
		e := sandbox.AsError(err)
		f.out.object("", "error", map[string]any{"code": e.Code, "message": e.Message, "exec_id": f.x.id})
	}
	return noteOnly(f.out, err)
}

// output sends every complete line of p, and keeps the beginning of the next.
func (f *follower) output(stream guestpb.ProcessEvent_Stream, p []byte) {
	l := &f.lines[0]
	if stream == guestpb.ProcessEvent_STDERR {
		l = &f.lines[1]
	}
	now := time.Now()
	for len(p) > 0 {
		end := bytes.IndexByte(p, '\n') + 1
		if end == 0 {
			l.held = append(l.held, p...)
			break
		}
		line := p[:end]
		if len(l.held) > 0 {
			l.held = append(l.held, line...)
			line = l.held
		}
		f.line(stream, line, now)
		l.held = l.held[:0]
		p = p[end:]
	}
	// A line without an end does not grow for ever.
	if len(l.held) >= maxText {
		f.part(stream, l, now)
	}
}

// part sends the whole characters of an unfinished line.
func (f *follower) part(stream guestpb.ProcessEvent_Stream, l *lineBuffer, now time.Time) {
	n := len(l.held) - unfinished(l.held)
	if n == 0 {
		return
	}
	f.line(stream, l.held[:n], now)
	l.held = append(l.held[:0], l.held[n:]...)
}

func (f *follower) flushPartial() {
	f.part(guestpb.ProcessEvent_STDOUT, &f.lines[0], time.Now())
	f.part(guestpb.ProcessEvent_STDERR, &f.lines[1], time.Now())
	f.out.flush()
}

// finishLines sends what has no end of line because there is no more.
func (f *follower) finishLines() {
	f.last = true
	for i, stream := range []guestpb.ProcessEvent_Stream{guestpb.ProcessEvent_STDOUT, guestpb.ProcessEvent_STDERR} {
		if len(f.lines[i].held) > 0 {
			f.line(stream, f.lines[i].held, time.Now())
			f.lines[i].held = nil
		}
	}
}

// line writes events for p, which ends with a line or within one: as many as
// its length asks for. The events' data, joined, are p.
func (f *follower) line(stream guestpb.ProcessEvent_Stream, p []byte, now time.Time) {
	name := streamName(stream)
	for len(p) > 0 {
		n := fits(p, maxText)
		f.out.output("", name, p[:n], now, f.last && n == len(p))
		p = p[n:]
		if len(f.out.buf) > 256<<10 {
			f.out.flush()
		}
	}
}

// output writes one event, of a line or a part of one. last says that the line
// ends here even without an end of line.
func (e *eventStream) output(id, name string, p []byte, now time.Time, last bool) {
	e.begin(id, name, now)
	e.buf = append(append(append(e.buf, `,"stream":"`...), name...), `","line":"`...)
	text, whole := bytes.CutSuffix(p, []byte("\n"))
	shown := text
	if whole {
		shown = bytes.TrimSuffix(text, []byte("\r"))
	}
	from := len(e.buf)
	e.buf, _ = escape(e.buf, shown)
	to := len(e.buf)
	e.buf = append(e.buf, `","data":"`...)
	var bad bool
	if whole && len(shown) == len(text) && to-from == len(text) { // nothing had to be escaped
		e.buf = append(append(e.buf, e.buf[from:to]...), '\\', 'n')
	} else {
		e.buf, bad = escape(e.buf, p)
	}
	e.buf = append(e.buf, '"')
	if !whole && !last {
		e.buf = append(e.buf, `,"partial":true`...)
	}
	if bad {
		e.buf = append(e.buf, `,"data_base64":"`...)
		e.buf = base64.StdEncoding.AppendEncode(e.buf, p)
		e.buf = append(e.buf, '"')
	}
	e.buf = append(e.buf, "}\n\n"...)
}
