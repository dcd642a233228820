package server

import (
	"sync"
	"time"

	"silica.dev/silica/internal/event"
	"silica.dev/silica/internal/guest/guestpb"
	"silica.dev/silica/sandbox"
)

const (
	livePause = 50 * time.Millisecond // output is collected for so long
	livePiece = 16 << 10              // and up to this much
	liveMost  = 256 << 10             // more in one pause is left out
)

// live shows the output of one command to whoever follows the sandbox's events.
// It never holds the command up: small writes are put together, and of a flood
// only the beginning of every pause is shown.
type live struct {
	publish func(event.Event)
	sandbox sandbox.Sandbox
	execID  string

	mu      sync.Mutex
	timer   *time.Timer // nil: nothing is waiting
	stream  guestpb.ProcessEvent_Stream
	waiting []byte                                  // of stream
	join    map[guestpb.ProcessEvent_Stream]*pieces // characters cut in two
	shown   int                                     // in this pause
	since   time.Time                               // when this pause began
	dropped int
}

func (l *live) add(stream guestpb.ProcessEvent_Stream, p []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if now := time.Now(); now.Sub(l.since) >= livePause {
		l.since, l.shown = now, 0
	}
	if l.stream != stream {
		l.flush()
		l.stream = stream
	}
	for len(p) > 0 {
		if l.shown >= liveMost {
			l.dropped += len(p)
			return
		}
		n := min(len(p), livePiece-len(l.waiting))
		l.waiting = append(l.waiting, p[:n]...)
		l.shown += n
		p = p[n:]
		if len(l.waiting) == livePiece {
			l.flush()
		}
	}
	if len(l.waiting) > 0 && l.timer == nil {
		l.timer = time.AfterFunc(livePause, func() {
			l.mu.Lock()
			defer l.mu.Unlock()
			l.flush()
		})
	}
}

// close shows what is left.
func (l *live) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.flush()
	for stream, j := range l.join {
		l.send(stream, j.rest())
	}
}

// flush shows what is waiting. l.mu is held.
func (l *live) flush() {
	if l.timer != nil {
		l.timer.Stop()
		l.timer = nil
	}
	if len(l.waiting) == 0 {
		return
	}
	j := l.join[l.stream]
	if j == nil {
		j = &pieces{}
		if l.join == nil {
			l.join = map[guestpb.ProcessEvent_Stream]*pieces{}
		}
		l.join[l.stream] = j
	}
	l.send(l.stream, j.whole(l.waiting))
	l.waiting = l.waiting[:0]
}

func (l *live) send(stream guestpb.ProcessEvent_Stream, p []byte) {
	if len(p) == 0 {
		return
	}
	data := map[string]any{"exec_id": l.execID, "stream": streamName(stream), "data": validText(p)}
	if l.dropped > 0 {
		data["dropped_bytes"] = l.dropped
		l.dropped = 0
	}
	l.publish(event.Event{Sandbox: l.sandbox.ID, Tenant: l.sandbox.Tenant, Type: event.ExecOutput, Data: data, At: time.Now()})
}

func streamName(s guestpb.ProcessEvent_Stream) string {
	if s == guestpb.ProcessEvent_STDERR {
		return "stderr"
	}
	return "stdout"
}
