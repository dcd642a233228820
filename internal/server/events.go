package server

import (
	"context"
	"encoding/json"
	"maps"
	"net/http"
	"strconv"
	"time"

	"silica.dev/silica/api"
	"silica.dev/silica/internal/event"
	"silica.dev/silica/sandbox"
)

// linger is how long a stream stays open after the sandbox's end for what
// belongs to it, such as the error that explains it.
const linger = 200 * time.Millisecond

// fromNow asks the log for nothing that is stored already.
const fromNow = -1

// sandboxEvents sends the state as it is, then what happens, until the sandbox
// has ended. With Last-Event-ID it sends what happened after that instead.
func (s *Server) sandboxEvents(w http.ResponseWriter, r *http.Request, c sandbox.Caller) error {
	after := int64(fromNow)
	resumed := r.Header.Get(api.HeaderLastEventID)
	if resumed != "" {
		var err error
		if after, err = strconv.ParseInt(resumed, 10, 64); err != nil || after < 0 {
			return sandbox.Field(api.HeaderLastEventID, "is no id of an event of this stream")
		}
	}
	sb, err := s.deps.Sandboxes.Get(r.Context(), c, param(r, "id"))
	if err != nil {
		return err
	}
	// The log listens from here on, and the state is read after that: nothing
	// can happen unseen in between.
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	log := s.deps.Events.Follow(ctx, sb.ID, after)
	if sb, err = s.deps.Sandboxes.Get(ctx, c, string(sb.ID)); err != nil {
		return err
	}
	out := s.openStream(w, r)
	defer out.close()
	defer context.AfterFunc(out.ctx, cancel)()

	ended := !sb.State.Live() && sb.State != sandbox.Paused
	shown := sandbox.State("")
	if resumed == "" {
		greet(out, sb)
		if ended {
			return nil
		}
		shown = sb.State
	}
	ch, wait := pump(ctx, log)
	defer func() { cancel(); wait() }()
	return s.relayEvents(out, ch, shown, ended)
}

// relayEvents sends what comes from the log until the sandbox has ended. shown
// is the state the client knows of; ended says that it is the last.
func (s *Server) relayEvents(out *eventStream, ch <-chan item[event.Event], shown sandbox.State, ended bool) error {
	var over <-chan time.Time // set once the sandbox has ended
	if ended {
		over = time.After(linger)
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
				// The client comes back with Last-Event-ID and misses nothing.
				out.object("", api.EventClosing, map[string]any{"reason": "the event log can't be read just now", "reconnect": true})
				return noteOnly(out, it.err)
			case it.err != nil:
				continue // the channel closes next
			}
			state, isState := stateOf(it.v)
			if isState && state == shown {
				continue // happened between listening and greeting
			}
			if isState {
				shown = state
			}
			out.sandboxEvent(it.v)
			if ended = ended || state == sandbox.Destroyed || state == sandbox.Failed; ended {
				over = time.After(linger)
			}
		case <-over:
			return nil
		case <-out.beat.C:
			out.comment("heartbeat")
		}
	}
}

// noteOnly leaves err to the access log: the client has been told already.
func noteOnly(out *eventStream, err error) error {
	if rec, ok := out.w.(*response); ok {
		rec.err = err
	}
	return nil
}

// greet sends the current state, and why it is what it is.
func greet(out *eventStream, sb sandbox.Sandbox) {
	data := map[string]any{"state": sb.State, "previous_state": nil, "ready": sb.Ready}
	if sb.Reason != "" {
		data["reason"] = sb.Reason
	}
	out.object("", event.StateChanged, data)
	if sb.State == sandbox.Failed {
		out.object("", event.Error, map[string]any{"message": sb.Reason, "code": sandbox.CodeSandboxGone})
	}
}

func stateOf(ev event.Event) (sandbox.State, bool) {
	if ev.Type != event.StateChanged {
		return "", false
	}
	switch v := ev.Data["state"].(type) {
	case string:
		return sandbox.State(v), true
	case sandbox.State:
		return v, true
	}
	return "", false
}

// sandboxEvent sends one event of the log. Output is cut into pieces that fit.
func (e *eventStream) sandboxEvent(ev event.Event) {
	text, isText := ev.Data["data"].(string)
	if ev.Type != event.ExecOutput || !isText {
		e.logged(ev, nil)
		return
	}
	for rest := []byte(text); len(rest) > 0; {
		n := fits(rest, maxEvent)
		e.logged(ev, string(rest[:n]))
		rest = rest[n:]
	}
}

// logged sends an event of the log with its own time, and with piece, if there
// is one, instead of its data.
func (e *eventStream) logged(ev event.Event, piece any) {
	data := maps.Clone(ev.Data)
	if data == nil {
		data = map[string]any{}
	}
	if piece != nil {
		data["data"] = piece
	}
	data["type"], data["timestamp"] = ev.Type, ev.At.UTC()
	raw, err := json.Marshal(data)
	if err != nil {
		return // not made by us; its successors may be sound
	}
	if ev.Seq > 0 {
		e.buf = append(strconv.AppendInt(append(e.buf, "id: "...), ev.Seq, 10), '\n')
	}
	e.buf = append(append(append(e.buf, "event: "...), ev.Type...), "\ndata: "...)
	e.buf = append(append(e.buf, raw...), "\n\n"...)
	e.flush()
}
