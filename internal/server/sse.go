package server

import (
	"context"
	"encoding/json"
	"iter"
	"net/http"
	"time"

	"silica.dev/silica/api"
)

// maxEvent is what the text of one event may be once escaped. Public clients
// give up on lines of 64 KiB, silently.
const maxEvent = 48 << 10

// eventStream writes server-sent events. Every event is one data line with a
// JSON object that has at least type and timestamp, because some clients do
// not look at event names.
type eventStream struct {
	w http.ResponseWriter
	// ctx ends when the client leaves, a write fails, or the server closes.
	ctx    context.Context
	parent context.Context // tells why, before ctx itself has ended
	cancel context.CancelFunc
	beat   *time.Ticker
	buf    []byte
	stop   func() bool
}

// openStream sends the headers of a stream that only watches.
func (s *Server) openStream(w http.ResponseWriter, r *http.Request) *eventStream {
	return s.openStreamUntil(w, r.Context(), s.closing)
}

func (s *Server) openStreamUntil(w http.ResponseWriter, ctx, closing context.Context) *eventStream {
	h := w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("Cache-Control", "no-cache")
	h.Set("X-Accel-Buffering", "no")
	w.WriteHeader(http.StatusOK)
	e := &eventStream{w: w, parent: ctx, beat: time.NewTicker(s.cfg.Heartbeat)}
	e.ctx, e.cancel = context.WithCancel(ctx)
	e.stop = context.AfterFunc(closing, e.cancel)
	e.flush()
	return e
}

func (e *eventStream) close() {
	if context.Cause(e.parent) == errRevoked {
		e.object("", api.EventClosing, map[string]any{"reason": errRevoked.Message, "reconnect": false})
	}
	e.stop()
	e.beat.Stop()
	e.cancel()
}

// object sends an event whose data is v with type and timestamp added. id may
// be empty.
func (e *eventStream) object(id, name string, v any) {
	raw, err := json.Marshal(v)
	if err != nil || len(raw) < 2 || raw[0] != '{' {
		panic("event is no object")
	}
	e.begin(id, name, time.Now())
	if len(raw) > 2 {
		e.buf = append(e.buf, ',')
	}
	e.buf = append(e.buf, raw[1:]...)
	e.buf = append(e.buf, "\n\n"...)
	e.flush()
}

// begin writes an event up to where its own members go, without the comma.
func (e *eventStream) begin(id, name string, at time.Time) {
	if id != "" {
		e.buf = append(append(append(e.buf, "id: "...), id...), '\n')
	}
	e.buf = append(append(append(e.buf, "event: "...), name...), "\ndata: {\"type\":\""...)
	e.buf = append(append(e.buf, name...), `","timestamp":"`...)
	e.buf = at.UTC().AppendFormat(e.buf, time.RFC3339Nano)
	e.buf = append(e.buf, '"')
}

func (e *eventStream) comment(text string) {
	e.buf = append(append(append(e.buf, ": "...), text...), "\n\n"...)
	e.flush()
}

// farewell tells why the stream ends although nothing has happened.
func (e *eventStream) farewell() {
	e.object("", api.EventClosing, map[string]any{"reason": "the server is shutting down", "reconnect": true})
}

// flush sends what is buffered. After a failure the stream's context is over.
func (e *eventStream) flush() {
	if len(e.buf) > 0 {
		if _, err := e.w.Write(e.buf); err != nil {
			e.cancel()
		}
		e.buf = e.buf[:0]
	}
	if err := http.NewResponseController(e.w).Flush(); err != nil {
		e.cancel()
	}
}

// item is one step of a sequence that pump runs.
type item[T any] struct {
	v   T
	err error
}

// pump runs seq in a goroutine so that its consumer can wait for other things
// too. The channel is closed after the last item. seq must end with ctx; wait
// returns once it has, so call it after ctx is cancelled.
func pump[T any](ctx context.Context, seq iter.Seq2[T, error]) (_ <-chan item[T], wait func()) {
	ch := make(chan item[T])
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer close(ch)
		for v, err := range seq {
			select {
			case ch <- item[T]{v, err}:
			case <-ctx.Done():
				return
			}
		}
	}()
	return ch, func() { <-done }
}
