package server

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"silica.dev/silica/api"
	"silica.dev/silica/internal/event"
	"silica.dev/silica/sandbox"
)

// A sandbox's log is what befell it, as lines, and after that what its template's
// app printed. What other programs print in it is in the answers and events of
// whoever started them. The stream has only what befell it.

// Bounds of ?lines= (or tail, limit).
const (
	logLines    = 200
	maxLogLines = 5000
)

func logTail(r *http.Request) (int, error) {
	for _, name := range []string{"lines", "tail", "limit"} {
		v := r.URL.Query().Get(name)
		if v == "" {
			continue
		}
		n, err := strconv.Atoi(v)
		if err != nil || n < 0 {
			return 0, sandbox.Field(name, "must be a number of lines")
		}
		return min(n, maxLogLines), nil
	}
	return logLines, nil
}

func (s *Server) logs(w http.ResponseWriter, r *http.Request, c sandbox.Caller) error {
	n, err := logTail(r)
	if err != nil {
		return err
	}
	sb, err := s.deps.Sandboxes.Get(r.Context(), c, param(r, "id"))
	if err != nil {
		return err
	}
	found, err := s.deps.Events.Tail(r.Context(), sb.ID, n)
	if err != nil {
		return err
	}
	a := api.SandboxLog{SandboxID: string(sb.ID), Lines: []string{}, Entries: []api.LogLine{}}
	for _, ev := range found {
		a.Entries = append(a.Entries, logLine(ev))
	}
	a.Entries = append(a.Entries, s.appLog(r.Context(), c, sb, n)...)
	a.Entries = a.Entries[max(len(a.Entries)-n, 0):]
	for _, l := range a.Entries {
		a.Lines = append(a.Lines, l.Line)
	}
	if len(a.Lines) > 0 {
		a.Content = strings.Join(a.Lines, "\n") + "\n"
	}
	writeOne(w, http.StatusOK, a)
	return nil
}

// logLine writes an event as people read it.
func logLine(ev event.Event) api.LogLine {
	l := api.LogLine{
		ID: strconv.FormatInt(ev.Seq, 10), Timestamp: ev.At.UTC(), Source: "lifecycle", Stream: "system", Level: "info",
	}
	text := func(name string) string {
		if v := ev.Data[name]; v != nil {
			return fmt.Sprint(v)
		}
		return ""
	}
	switch ev.Type {
	case event.StateChanged:
		l.Line = "state: " + text("state")
		if from := text("previous_state"); from != "" {
			l.Line = "state: " + from + " -> " + text("state")
		}
		if path := text("boot_path"); path != "" {
			l.Line += " (boot path " + path + ")"
		}
		if why := text("reason"); why != "" {
			l.Line += ": " + why
		}
		if text("state") == string(sandbox.Failed) {
			l.Level = "error"
		}
	case event.Error:
		l.Level = "error"
		l.Line = text("code") + ": " + text("message")
	default:
		raw, _ := json.Marshal(ev.Data) // of our own making
		l.Line = ev.Type + ": " + string(raw)
	}
	l.Line = strings.NewReplacer("\n", " ", "\r", " ").Replace(l.Line)
	l.Message = l.Line
	return l
}

// logStream sends the last lines, then those that come, until the sandbox has
// ended. With Last-Event-ID it goes on after that line instead.
func (s *Server) logStream(w http.ResponseWriter, r *http.Request, c sandbox.Caller) error {
	n, err := logTail(r)
	if err != nil {
		return err
	}
	after := int64(fromNow)
	if id := r.Header.Get(api.HeaderLastEventID); id != "" {
		if after, err = strconv.ParseInt(id, 10, 64); err != nil || after < 0 {
			return sandbox.Field(api.HeaderLastEventID, "is no id of a line of this log")
		}
	}
	sb, err := s.deps.Sandboxes.Get(r.Context(), c, param(r, "id"))
	if err != nil {
		return err
	}
	var before []event.Event
	if after < 0 {
		if before, err = s.deps.Events.Tail(r.Context(), sb.ID, max(n, 1)); err != nil {
			return err
		}
		after = 0
		if len(before) > 0 {
			after = before[len(before)-1].Seq
		}
		before = before[max(len(before)-n, 0):]
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	follow := s.deps.Events.Follow(ctx, sb.ID, after)
	if sb, err = s.deps.Sandboxes.Get(ctx, c, string(sb.ID)); err != nil {
		return err
	}
	out := s.openStream(w, r)
	defer out.close()
	defer context.AfterFunc(out.ctx, cancel)()
	for _, ev := range before {
		out.befell(ev)
	}
	ch, wait := pump(ctx, follow)
	defer func() { cancel(); wait() }()
	return s.relayLog(out, ch, over(sb.State))
}

func over(state sandbox.State) bool { return state == sandbox.Destroyed || state == sandbox.Failed }

func (s *Server) relayLog(out *eventStream, ch <-chan item[event.Event], ended bool) error {
	var end <-chan time.Time // set once the sandbox has ended
	if ended {
		end = time.After(linger)
	}
	for {
		select {
		case it, ok := <-ch:
			switch {
			case !ok && s.closing.Err() != nil:
				out.farewell()
				return nil
			case !ok:
				return nil
			case it.err != nil && out.ctx.Err() == nil:
				out.object("", api.EventClosing, map[string]any{"reason": "the log can't be read just now", "reconnect": true})
				return noteOnly(out, it.err)
			case it.err != nil || it.v.Seq == 0: // what programs print is no line of this log
				continue
			}
			out.befell(it.v)
			if state, ok := stateOf(it.v); ok && over(state) && end == nil {
				end = time.After(linger)
			}
		case <-end:
			return nil
		case <-out.beat.C:
			out.comment("heartbeat")
		}
	}
}

// befell sends one line of the log, with its own time.
func (e *eventStream) befell(ev event.Event) {
	l := logLine(ev)
	e.begin(l.ID, "log", l.Timestamp)
	raw, err := json.Marshal(map[string]string{
		"id": l.ID, "source": l.Source, "stream": l.Stream, "level": l.Level, "line": l.Line, "message": l.Message,
	})
	if err != nil {
		panic("log line can't be encoded: " + err.Error())
	}
	e.buf = append(append(append(e.buf, ','), raw[1:]...), "\n\n"...)
	e.flush()
}
