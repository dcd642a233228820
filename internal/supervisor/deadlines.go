package supervisor

import (
	"container/heap"
	"context"
	"sync"
	"time"

	"silica.dev/silica/sandbox"
)

// deadlines says whose time is up, from a heap that is rebuilt from rows.
type deadlines struct {
	changed chan struct{} // has room for one

	mu   sync.Mutex
	heap deadlineHeap
	byID map[sandbox.ID]*deadline
}

type deadline struct {
	at     time.Time
	tenant sandbox.TenantID
	id     sandbox.ID
	index  int
}

func newDeadlines() *deadlines {
	return &deadlines{changed: make(chan struct{}, 1), byID: map[sandbox.ID]*deadline{}}
}

// set replaces the deadline of a sandbox; the zero time removes it.
func (d *deadlines) set(sb sandbox.Sandbox, at time.Time) {
	d.remove(sb.ID)
	if at.IsZero() {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	item := &deadline{at: at, tenant: sb.Tenant, id: sb.ID}
	d.byID[sb.ID] = item
	heap.Push(&d.heap, item)
	select {
	case d.changed <- struct{}{}:
	default:
	}
}

func (d *deadlines) remove(id sandbox.ID) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if item, ok := d.byID[id]; ok {
		heap.Remove(&d.heap, item.index)
		delete(d.byID, id)
	}
}

// due takes out what is due; next is when to look again, zero for never.
func (d *deadlines) due(now time.Time) (list []*deadline, next time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for len(d.heap) > 0 {
		if d.heap[0].at.After(now) {
			return list, d.heap[0].at
		}
		item := heap.Pop(&d.heap).(*deadline)
		delete(d.byID, item.id)
		list = append(list, item)
	}
	return list, time.Time{}
}

// run calls expire for everything whose time is up, until ctx ends. expire must
// not block.
func (d *deadlines) run(ctx context.Context, expire func(sandbox.TenantID, sandbox.ID)) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		list, next := d.due(time.Now())
		for _, item := range list {
			expire(item.tenant, item.id)
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

// deadlineHeap implements heap.Interface, soonest first.
type deadlineHeap []*deadline

func (h deadlineHeap) Len() int           { return len(h) }
func (h deadlineHeap) Less(i, j int) bool { return h[i].at.Before(h[j].at) }
func (h deadlineHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}

// Push implements heap.Interface.
func (h *deadlineHeap) Push(x any) {
	item := x.(*deadline)
	item.index = len(*h)
	*h = append(*h, item)
}

// Pop implements heap.Interface.
func (h *deadlineHeap) Pop() any {
	old := *h
	item := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	return item
}
