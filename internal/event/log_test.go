package event

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"silica.dev/silica/sandbox"
)

// memStore keeps events in memory and announces them, as the database does.
type memStore struct {
	log *Log

	mu     sync.Mutex
	events []Event
}

func (m *memStore) AppendEvent(_ context.Context, e Event) (Event, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	e.Seq = int64(len(m.events) + 1)
	m.events = append(m.events, e)
	m.log.Announce(e)
	return e, nil
}

func (m *memStore) EventsAfter(_ context.Context, id sandbox.ID, after int64, limit int) ([]Event, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var list []Event
	for _, e := range m.events {
		if e.Sandbox == id && e.Seq > after && len(list) < limit {
			list = append(list, e)
		}
	}
	return list, nil
}

func (m *memStore) EventsTail(ctx context.Context, id sandbox.ID, n int) ([]Event, error) {
	list, err := m.EventsAfter(ctx, id, 0, len(m.events))
	return list[max(len(list)-n, 0):], err
}

func (m *memStore) LastEvent(_ context.Context, id sandbox.ID) (last int64, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, e := range m.events {
		if e.Sandbox == id {
			last = e.Seq
		}
	}
	return last, nil
}

func newLog() *Log {
	m := &memStore{}
	m.log = NewLog(m)
	return m.log
}

func record(t *testing.T, l *Log, id sandbox.ID, n int) {
	t.Helper()
	for range n {
		if err := l.Record(context.Background(), Event{Sandbox: id, Type: StateChanged}); err != nil {
			t.Fatal(err)
		}
	}
}

func seqs(t *testing.T, l *Log, id sandbox.ID, after int64, until int64) (got []int64) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	for e, err := range l.Follow(ctx, id, after) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, e.Seq)
		if e.Seq >= until {
			break
		}
	}
	return got
}

func TestFollowReadsOldThenNew(t *testing.T) {
	l := newLog()
	record(t, l, "other", 1) // 1
	record(t, l, "a", 3)     // 2 3 4
	if got := seqs(t, l, "a", 0, 4); !slices.Equal(got, []int64{2, 3, 4}) {
		t.Errorf("from the start: %v", got)
	}
	if got := seqs(t, l, "a", 3, 4); !slices.Equal(got, []int64{4}) {
		t.Errorf("after 3: %v", got)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	next := l.Follow(ctx, "a", -1)
	record(t, l, "a", 2) // 5 6, before the loop
	var got []int64
	for e, err := range next {
		if err != nil {
			t.Fatal(err)
		}
		if got = append(got, e.Seq); e.Seq == 6 {
			break
		}
	}
	if !slices.Equal(got, []int64{5, 6}) {
		t.Errorf("only what comes: %v", got)
	}
}

func TestSlowReaderLosesOutputButNoStoredEvent(t *testing.T) {
	l := newLog()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	events := l.Follow(ctx, "a", 0)
	const stored = 3 * queueLength
	for i := range stored { // nobody reads: none of this may block
		l.Publish(Event{Sandbox: "a", Type: ExecOutput, Data: map[string]any{"data": fmt.Sprint(i)}})
		record(t, l, "a", 1)
	}
	last, live := int64(0), 0
	for e, err := range events {
		if err != nil {
			t.Fatal(err)
		}
		if e.Seq == 0 {
			live++
			continue
		}
		if e.Seq != last+1 {
			t.Fatalf("stored event %d came after %d", e.Seq, last)
		}
		if last = e.Seq; last == stored {
			break
		}
	}
	if live >= stored {
		t.Errorf("all %d outputs were held for a reader that did not read", live)
	}
}

func TestLiveOutputIsBoundedInBytes(t *testing.T) {
	l := newLog()
	r := &reader{wake: make(chan struct{}, 1)}
	l.add("a", r)
	for range 100 {
		l.Publish(Event{Sandbox: "a", Type: ExecOutput, Data: map[string]any{"data": strings.Repeat("x", 64<<10)}})
	}
	if r.bytes > queueBytes {
		t.Errorf("%d bytes are held, the bound is %d", r.bytes, queueBytes)
	}
}

func TestManyReadersSeeEveryStoredEventInOrder(t *testing.T) {
	l := newLog()
	const readers, events = 8, 500
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var wg sync.WaitGroup
	for range readers {
		seq := l.Follow(ctx, "a", 0)
		wg.Go(func() {
			last := int64(0)
			for e, err := range seq {
				if err != nil || e.Seq != 0 && e.Seq != last+1 {
					t.Errorf("event %d after %d, %v", e.Seq, last, err)
					return
				}
				if last = max(last, e.Seq); last == events {
					return
				}
			}
		})
	}
	for range events {
		l.Publish(Event{Sandbox: "a", Type: ExecOutput})
		record(t, l, "a", 1)
	}
	wg.Wait()
	if len(l.readers) != 0 {
		t.Errorf("readers are left: %v", l.readers)
	}
}

func TestReaderThatLeavesIsForgotten(t *testing.T) {
	l := newLog()
	ctx, cancel := context.WithCancel(context.Background())
	_ = l.Follow(ctx, "a", 0)
	done := make(chan struct{})
	seq := l.Follow(ctx, "a", 0)
	go func() {
		defer close(done)
		for range seq {
		}
	}()
	cancel()
	<-done
	for { // the first one was never looped over: its removal runs beside us
		l.mu.Lock()
		n := len(l.readers)
		l.mu.Unlock()
		if n == 0 {
			return
		}
	}
}

func TestCloseTellsWhy(t *testing.T) {
	l := newLog()
	record(t, l, "a", 1)
	why := errors.New("closing")
	for _, when := range []string{"while following", "before"} {
		seq := l.Follow(context.Background(), "a", 0)
		var got error
		n := 0
		for _, err := range seq {
			if err != nil {
				got = err
				continue
			}
			n++
			l.Close(why)
		}
		if !errors.Is(got, why) || n != 1 {
			t.Errorf("%s: %d events, then %v", when, n, got)
		}
	}
}
