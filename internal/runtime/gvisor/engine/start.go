package engine

import (
	"context"
	"errors"
	"fmt"
	"time"

	"silica.dev/silica/internal/runtime"
	"silica.dev/silica/internal/runtime/gvisor/wire"
	"silica.dev/silica/sandbox"
)

// Start brings up a sandbox, by restoring a snapshot or from the image, and
// returns when its agent has answered. After an error nothing is left.
func (e *Engine) Start(ctx context.Context, req wire.StartRequest) (wire.StartResponse, error) {
	if !sandbox.ValidID(string(req.ID)) {
		return wire.StartResponse{}, sandbox.Field("id", "not a sandbox id")
	}
	if req.Resources.Memory <= 0 || req.Resources.Disk <= 0 || req.Resources.MilliCPU <= 0 {
		return wire.StartResponse{}, sandbox.Field("resources", "must be positive")
	}
	if req.Files != "" && req.Snapshot != "" {
		return wire.StartResponse{}, sandbox.Field("files", "can't be brought to a snapshot, which has its own")
	}
	ctx, finish, err := e.begin(ctx, req.ID)
	if err != nil {
		return wire.StartResponse{}, err
	}
	defer finish()

	var t wire.Timing
	clock := stopwatch{time.Now()}
	if err := e.line.Acquire(ctx, 1); err != nil {
		return wire.StartResponse{}, fmt.Errorf("wait in line: %w", err)
	}
	defer e.line.Release(1)
	t.Queue = clock.lap()

	s, pooled, err := e.slotFor(ctx, key{req.Image, req.ImageRef, req.Resources, req.Files}, req.ID)
	if err != nil {
		return wire.StartResponse{}, fmt.Errorf("start %s: %w", req.ID, err)
	}
	t.Create, t.Pooled = clock.lap(), pooled

	if err := e.bringUp(ctx, s, req, &t); err != nil {
		err = errors.Join(err, e.free(context.WithoutCancel(ctx), s))
		return wire.StartResponse{}, fmt.Errorf("start %s: %w", req.ID, err)
	}
	return wire.StartResponse{Address: s.record().Address, Timing: t}, nil
}

// begin notes that id is being started. ctx ends with the caller's, or when
// Destroy asks.
func (e *Engine) begin(ctx context.Context, id sandbox.ID) (context.Context, func(), error) {
	ctx, cancel := context.WithCancel(ctx)
	op := &start{cancel: cancel, done: make(chan struct{})}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.starts[id] != nil || e.byID[id] != nil {
		cancel()
		return nil, nil, sandbox.E(sandbox.Conflict, sandbox.CodeConflict, "the sandbox exists already")
	}
	e.starts[id] = op
	e.pool.start()
	return ctx, func() {
		cancel()
		e.mu.Lock()
		delete(e.starts, id)
		e.mu.Unlock()
		e.pool.end()
		close(op.done)
	}, nil
}

// slotFor returns a slot with an empty sentry, claimed for id.
func (e *Engine) slotFor(ctx context.Context, k key, id sandbox.ID) (_ *slot, pooled bool, err error) {
	s := e.pool.take(k)
	if s == nil {
		if s, err = e.newSlot(ctx, k, id); err != nil {
			return nil, false, err
		}
	}
	pooled = s.record().ID == ""
	err = s.update(func(r *record) { r.ID, r.Phase, r.Started = id, starting, time.Now() })
	if err != nil {
		return nil, false, errors.Join(err, e.free(context.WithoutCancel(ctx), s))
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.byID[id] = s
	return s, pooled, nil
}

// bringUp puts a sandbox into an empty sentry and waits for its agent. A failure
// with a snapshot is the snapshot's, unless the caller gave up.
func (e *Engine) bringUp(ctx context.Context, s *slot, req wire.StartRequest, t *wire.Timing) error {
	clock := stopwatch{time.Now()}
	links, err := links(s.net)
	if err != nil {
		return fmt.Errorf("packet socket: %w", err)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, e.cfg.ReadyTimeout, errNotReady)
	defer cancel()
	// The library's calls know no context; they end when the sentry does.
	stop := context.AfterFunc(ctx, func() { _ = s.sentry.proc.kill() })
	defer stop()

	err = s.sentry.boot(req.Snapshot, links)
	t.Restore = clock.lap()
	if err == nil {
		err = s.sentry.ready(ctx)
		t.Ready = clock.lap()
	}
	if err == nil {
		err = s.sentry.loaded(req)
		t.Load = clock.lap()
	}
	s.sentry.closePipes()
	if err == nil && !stop() {
		err = context.Cause(ctx) // too late: it is being killed
	}
	if err == nil {
		if err := s.update(func(r *record) { r.Phase = running }); err != nil {
			return err
		}
		e.work.Go(func() { e.guard(s) })
		return nil
	}
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, errNotReady) {
		return cause
	}
	err = fmt.Errorf("%w%s", err, panicText(s.dir))
	if req.Snapshot != "" {
		return errors.Join(runtime.ErrSnapshotUnusable, err)
	}
	return err
}

var errNotReady = errors.New("the agent did not answer in time")

// Destroy ends a sandbox. When it returns no process of it is left and its ID is
// forgotten; the slot's network and folders are given back right after.
func (e *Engine) Destroy(ctx context.Context, id sandbox.ID) error {
	e.mu.Lock()
	op := e.starts[id]
	e.mu.Unlock()
	if op != nil { // of a daemon that is gone
		op.cancel()
		select {
		case <-op.done:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	s, err := e.find(id)
	if err != nil {
		return nil
	}
	// From here on the slot is nobody's: a crash leaves a slot to be freed.
	if err := s.update(func(r *record) { r.ID, r.Phase = "", dying }); err != nil {
		return fmt.Errorf("destroy %s: %w", id, err)
	}
	if s.sentry != nil {
		if err := s.end(ctx); err != nil {
			return fmt.Errorf("destroy %s: %w", id, err)
		}
	}
	e.mu.Lock()
	delete(e.byID, id)
	e.mu.Unlock()
	e.freeLater(s)
	return nil
}

// stopwatch measures consecutive steps.
type stopwatch struct{ last time.Time }

func (w *stopwatch) lap() time.Duration {
	now := time.Now()
	d := now.Sub(w.last)
	w.last = now
	return d
}
