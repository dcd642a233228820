package supervisor

import (
	"context"
	"sync"
)

// queue admits starts a few at a time, first come first served, and lets the
// pool know when nobody waits.
type queue struct {
	mu     sync.Mutex
	free   int
	line   []chan struct{} // who waits, in order; closed to let in
	active int             // admitted
	idle   chan struct{}   // closed while nobody is admitted or waits
}

func newQueue(n int) *queue {
	idle := make(chan struct{})
	close(idle)
	return &queue{free: n, idle: idle}
}

// enter waits for a place; leave gives it back.
func (q *queue) enter(ctx context.Context) (leave func(), err error) {
	q.mu.Lock()
	if q.active == 0 && len(q.line) == 0 {
		q.idle = make(chan struct{})
	}
	if q.free > 0 {
		q.free--
		q.active++
		q.mu.Unlock()
		return sync.OnceFunc(q.leave), nil
	}
	turn := make(chan struct{})
	q.line = append(q.line, turn)
	q.mu.Unlock()
	select {
	case <-turn:
		return sync.OnceFunc(q.leave), nil
	case <-ctx.Done():
	}
	q.mu.Lock()
	for i, t := range q.line {
		if t == turn {
			q.line = append(q.line[:i], q.line[i+1:]...)
			q.mu.Unlock()
			return nil, context.Cause(ctx)
		}
	}
	q.mu.Unlock()
	q.leave() // it was our turn at the same moment
	return nil, context.Cause(ctx)
}

func (q *queue) leave() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.line) > 0 { // the place goes to the next one
		close(q.line[0])
		q.line = q.line[1:]
		return
	}
	q.free++
	q.active--
	if q.active == 0 {
		close(q.idle)
	}
}

// quiet is closed when nobody is admitted or waits.
func (q *queue) quiet() <-chan struct{} {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.idle
}
