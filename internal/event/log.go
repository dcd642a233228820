package event

import (
	"context"
	"fmt"
	"iter"
	"sync"
	"time"

	"silica.dev/silica/sandbox"
)

// Store keeps events.
type Store interface {
	// AppendEvent stores an event and returns it with its Seq.
	AppendEvent(ctx context.Context, e Event) (Event, error)
	// EventsAfter returns up to limit events with a Seq above after, in order.
	EventsAfter(ctx context.Context, id sandbox.ID, after int64, limit int) ([]Event, error)
	// EventsTail returns the last n events, in order.
	EventsTail(ctx context.Context, id sandbox.ID, n int) ([]Event, error)
	// LastEvent returns the highest Seq of a sandbox, 0 for none.
	LastEvent(ctx context.Context, id sandbox.ID) (int64, error)
}

// Bounds of what is held for one reader.
const (
	queueLength = 256
	queueBytes  = 1 << 20
	pageLength  = 100
)

// Log fans events out to readers. Stored ones reach it through Announce, after
// whoever wrote them has made them durable.
type Log struct {
	store Store

	mu      sync.Mutex
	readers map[sandbox.ID]map[*reader]struct{}
	closed  error // why; nil while open
}

// NewLog returns a log over what store keeps. Have the store call Announce.
func NewLog(store Store) *Log {
	return &Log{store: store, readers: map[sandbox.ID]map[*reader]struct{}{}}
}

// reader is one who follows. wake has room for one: it says "look", not what.
type reader struct {
	wake chan struct{}

	mu     sync.Mutex
	queue  []Event
	bytes  int   // of live output in queue, about
	behind bool  // a stored event did not fit: read on from the store
	closed error // the log has closed
}

// offer never blocks. Live output that does not fit is lost.
func (r *reader) offer(e Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	size := 0
	if text, ok := e.Data["data"].(string); ok && e.Seq == 0 {
		size = len(text)
	}
	switch full := len(r.queue) >= queueLength || r.bytes+size > queueBytes; {
	case !full:
		r.queue = append(r.queue, e)
		r.bytes += size
	case e.Seq > 0:
		r.behind = true
	default:
		return
	}
	r.poke()
}

func (r *reader) poke() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// take empties the queue.
func (r *reader) take() (queue []Event, behind bool, closed error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	queue, behind = r.queue, r.behind
	r.queue, r.bytes, r.behind = nil, 0, false
	return queue, behind, r.closed
}

// Announce shows a stored event to whoever follows its sandbox. It never
// blocks. Events of one sandbox come in the order of their Seq.
func (l *Log) Announce(e Event) { l.Publish(e) }

// Publish shows a live event, which is stored nowhere. It never blocks.
func (l *Log) Publish(e Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for r := range l.readers[e.Sandbox] {
		r.offer(e)
	}
}

// Record stores an event; the store's Announce shows it.
func (l *Log) Record(ctx context.Context, e Event) error {
	if e.At.IsZero() {
		e.At = time.Now()
	}
	if _, err := l.store.AppendEvent(ctx, e); err != nil {
		return fmt.Errorf("record event: %w", err)
	}
	return nil
}

// Tail returns the last n stored events of a sandbox, in order.
func (l *Log) Tail(ctx context.Context, id sandbox.ID, n int) ([]Event, error) {
	list, err := l.store.EventsTail(ctx, id, n)
	if err != nil {
		return nil, fmt.Errorf("read events: %w", err)
	}
	return list, nil
}

// Follow yields the stored events of one sandbox with a Seq above after (below
// 0: only those still to come), then stored and live ones as they happen, until
// ctx ends. It listens from the moment of the call, so a state read between
// Follow and the loop misses nothing. A reader too slow for live output loses
// some of that, never a stored event. An error comes last: the store's, or the
// reason why the log was closed. Give it a ctx that ends, even when the
// sequence is never looped over.
func (l *Log) Follow(ctx context.Context, id sandbox.ID, after int64) iter.Seq2[Event, error] {
	r := &reader{wake: make(chan struct{}, 1)}
	l.add(id, r)
	stop := context.AfterFunc(ctx, func() { l.remove(id, r) })
	var err error
	if after < 0 {
		after, err = l.store.LastEvent(ctx, id)
	}
	return func(yield func(Event, error) bool) {
		defer l.remove(id, r)
		defer stop()
		if err == nil {
			err = l.follow(ctx, id, after, r, yield)
		}
		if err != nil && ctx.Err() == nil {
			yield(Event{}, err)
		}
	}
}

// follow returns nil when the loop was left or ctx has ended.
func (l *Log) follow(ctx context.Context, id sandbox.ID, after int64, r *reader, yield func(Event, error) bool) error {
	stored := func() (more bool, err error) {
		for {
			page, err := l.store.EventsAfter(ctx, id, after, pageLength)
			if err != nil {
				return false, fmt.Errorf("follow %s: %w", id, err)
			}
			for _, e := range page {
				if !yield(e, nil) {
					return false, nil
				}
				after = e.Seq
			}
			if len(page) < pageLength {
				return true, nil
			}
		}
	}
	if more, err := stored(); !more || err != nil {
		return err
	}
	for {
		queue, behind, closed := r.take()
		for _, e := range queue {
			if e.Seq > 0 && e.Seq <= after {
				continue // came from the store already
			}
			if !yield(e, nil) {
				return nil
			}
			after = max(after, e.Seq)
		}
		// What did not fit came after all that was in the queue.
		if behind {
			if more, err := stored(); !more || err != nil {
				return err
			}
			continue
		}
		if closed != nil {
			return closed
		}
		select {
		case <-r.wake:
		case <-ctx.Done():
			return nil
		}
	}
}

func (l *Log) add(id sandbox.ID, r *reader) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed != nil {
		r.closed = l.closed
		return
	}
	if l.readers[id] == nil {
		l.readers[id] = map[*reader]struct{}{}
	}
	l.readers[id][r] = struct{}{}
}

func (l *Log) remove(id sandbox.ID, r *reader) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.readers[id], r)
	if len(l.readers[id]) == 0 {
		delete(l.readers, id)
	}
}

// Close ends every reader, now and later, with reason after what is stored.
func (l *Log) Close(reason error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed != nil {
		return
	}
	l.closed = reason
	for _, rs := range l.readers {
		for r := range rs {
			r.mu.Lock()
			r.closed = reason
			r.mu.Unlock()
			r.poke()
		}
	}
}
