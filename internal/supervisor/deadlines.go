package supervisor

import (
	"container/heap"
	"context"
	"sync"
	"time"

	"silica.dev/silica/sandbox"
)

// limitKind is which of a sandbox's limits an alarm is for.
type limitKind int

const (
	hardLimit limitKind = iota // of its running time
	idleLimit                  // of its not being used
)

// alarm is a limit of one sandbox.
type alarm struct {
	id     sandbox.ID
	kind   limitKind
	tenant sandbox.TenantID
	// row is the deadline that the row had when the alarm was set, and since when
	// it counted. They are times of the wall clock, and only ever compared with
	// others of the row's.
	row, since time.Time

	at    time.Time // with Go's monotonic reading: no jump of the wall clock moves it
	index int
}

type alarmKey struct {
	id   sandbox.ID
	kind limitKind
}

// deadlines says whose time is up, from a heap that is rebuilt from rows. It
// waits by the monotonic clock: when the host's wall clock jumps, nothing is
// due early or late.
type deadlines struct {
	changed chan struct{} // has room for one

	mu    sync.Mutex
	heap  alarmHeap
	byKey map[alarmKey]*alarm
}

func newDeadlines() *deadlines {
	return &deadlines{changed: make(chan struct{}, 1), byKey: map[alarmKey]*alarm{}}
}

// set replaces the sandbox's alarm of a's kind by a, to go off after wait.
func (d *deadlines) set(a alarm, wait time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.drop(alarmKey{a.id, a.kind})
	a.at = time.Now().Add(wait)
	d.byKey[alarmKey{a.id, a.kind}] = &a
	heap.Push(&d.heap, &a)
	select {
	case d.changed <- struct{}{}:
	default:
	}
}

// move is set for a hard limit, whose alarm, when one is set already and counts
// since the same moment, is moved by as much as the row's deadline was: so it
// follows a change of the row, and not one of the wall clock.
func (d *deadlines) move(a alarm, wait time.Duration) {
	d.mu.Lock()
	if old := d.byKey[alarmKey{a.id, a.kind}]; old != nil && old.since.Equal(a.since) {
		wait = time.Until(old.at) + a.row.Sub(old.row)
	}
	d.mu.Unlock()
	d.set(a, wait)
}

func (d *deadlines) has(id sandbox.ID, kind limitKind) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.byKey[alarmKey{id, kind}] != nil
}

// remove drops a sandbox's alarms of these kinds; none: of all.
func (d *deadlines) remove(id sandbox.ID, kinds ...limitKind) {
	if len(kinds) == 0 {
		kinds = []limitKind{hardLimit, idleLimit}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, k := range kinds {
		d.drop(alarmKey{id, k})
	}
}

func (d *deadlines) drop(k alarmKey) {
	if a, ok := d.byKey[k]; ok {
		heap.Remove(&d.heap, a.index)
		delete(d.byKey, k)
	}
}

// due takes out what is due; next is when to look again, zero for never.
func (d *deadlines) due(now time.Time) (list []alarm, next time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for len(d.heap) > 0 {
		if d.heap[0].at.After(now) {
			return list, d.heap[0].at
		}
		a := heap.Pop(&d.heap).(*alarm)
		delete(d.byKey, alarmKey{a.id, a.kind})
		list = append(list, *a)
	}
	return list, time.Time{}
}

// run calls ring for every alarm that goes off, until ctx ends. ring must not
// block.
func (d *deadlines) run(ctx context.Context, ring func(alarm)) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		list, next := d.due(time.Now())
		for _, a := range list {
			ring(a)
		}
		if next.IsZero() {
			timer.Stop()
		} else {
			timer.Reset(time.Until(next))
		}
		select {
		case <-timer.C:
		case <-d.changed:
		case <-ctx.Done():
			return
		}
	}
}

// alarmHeap implements heap.Interface, soonest first.
type alarmHeap []*alarm

func (h alarmHeap) Len() int           { return len(h) }
func (h alarmHeap) Less(i, j int) bool { return h[i].at.Before(h[j].at) }
func (h alarmHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}

// Push implements heap.Interface.
func (h *alarmHeap) Push(x any) {
	a := x.(*alarm)
	a.index = len(*h)
	*h = append(*h, a)
}

// Pop implements heap.Interface.
func (h *alarmHeap) Pop() any {
	old := *h
	a := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	return a
}
