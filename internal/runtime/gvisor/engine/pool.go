package engine

import (
	"context"
	"errors"
	"sync"
	"time"

	"silica.dev/silica/internal/runtime/gvisor/wire"
)

// pool holds slots with an empty sentry, ready for a start with their key.
type pool struct {
	wake chan struct{} // one token: look at the target again

	mu     sync.Mutex
	key    key
	target int
	ready  []*slot
	busy   int // starts under way; the pool is filled between them
}

// goal is how many slots of which kind the pool should hold.
type goal struct {
	key key
	n   int
}

// set replaces the goal and returns what no longer serves it, for the caller to
// free. nil empties the pool.
func (p *pool) set(g *goal) (surplus []*slot) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if g == nil {
		g = &goal{}
	}
	if p.key != g.key {
		surplus, p.ready = p.ready, nil
	} else if len(p.ready) > g.n {
		surplus, p.ready = p.ready[g.n:], p.ready[:g.n]
	}
	p.key, p.target = g.key, g.n
	p.signal()
	return surplus
}

// take hands out a ready slot with this key, or nil.
func (p *pool) take(k key) *slot {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.key != k || len(p.ready) == 0 {
		return nil
	}
	s := p.ready[0]
	p.ready = append([]*slot(nil), p.ready[1:]...)
	return s
}

// put adds a slot, unless it is not wanted any more.
func (p *pool) put(k key, s *slot) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.key != k || len(p.ready) >= p.target {
		return false
	}
	p.ready = append(p.ready, s)
	return true
}

// remove takes out a slot that died; false if somebody else has it already.
func (p *pool) remove(s *slot) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, r := range p.ready {
		if r == s {
			p.ready = append(append([]*slot(nil), p.ready[:i]...), p.ready[i+1:]...)
			p.signal()
			return true
		}
	}
	return false
}

// want returns the key of the slot to make next.
func (p *pool) want() (key, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.key, p.busy == 0 && len(p.ready) < p.target
}

// start and end bracket a start, during which the pool is left as it is: making
// a slot takes a whole core.
func (p *pool) start() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.busy++
}

func (p *pool) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.busy--
	p.signal()
}

func (p *pool) signal() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// Prepare asks for n empty slots; the answer does not wait for them.
func (e *Engine) Prepare(req wire.PrepareRequest) {
	g := goal{key{image: req.Image, ref: req.ImageRef, resources: req.Resources}, req.N}
	for _, s := range e.pool.set(&g) {
		e.freeLater(s)
	}
}

// filler is the goroutine that fills the pool.
type filler struct {
	stop context.CancelFunc
	done chan struct{}
}

func (f *filler) start(run func(context.Context)) {
	ctx, stop := context.WithCancel(context.Background())
	f.stop, f.done = stop, make(chan struct{})
	go func() { defer close(f.done); run(ctx) }()
}

func (f *filler) end() {
	f.stop()
	<-f.done
}

// refill keeps the pool at its target.
func (e *Engine) refill(ctx context.Context) {
	const (
		retry = 5 * time.Second // after a failure, which the next start would report
		// settle lets the start that took a slot, and its first commands, have
		// the CPUs.
		settle = 150 * time.Millisecond
	)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-e.pool.wake:
			select {
			case <-time.After(settle):
			case <-ctx.Done():
				return
			}
		case <-timer.C:
		}
		for {
			k, ok := e.pool.want()
			if !ok || ctx.Err() != nil {
				break
			}
			s, err := e.newSlot(ctx, k, "")
			if err != nil {
				if !errors.Is(err, context.Canceled) {
					e.cfg.Log.Error("make an empty slot", "err", err)
				}
				timer.Reset(retry)
				break
			}
			if s.ended() || !e.pool.put(k, s) {
				e.freeLater(s)
			} else if s.ended() && e.pool.remove(s) { // it died in between
				e.freeLater(s)
			}
		}
	}
}

// freeLater frees a slot that no sandbox owns in the background, again and again
// until it is done or the engine ends; the next engine goes on then.
func (e *Engine) freeLater(s *slot) {
	e.frees.Go(func() {
		for pause := 50 * time.Millisecond; ; pause = min(2*pause, 10*time.Second) {
			err := e.free(e.ctx, s)
			if err == nil || e.ctx.Err() != nil {
				return
			}
			e.cfg.Log.Error("free slot", "slot", s.number, "err", err)
			select {
			case <-time.After(pause):
			case <-e.ctx.Done():
				return
			}
		}
	})
}
