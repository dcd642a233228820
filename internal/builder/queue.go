package builder

import (
	"cmp"
	"context"
	"errors"
	"iter"
	"slices"
	"sync"
	"time"

	"silica.dev/silica/sandbox"
)

const (
	// maxBuilds is how many builds are under way at once.
	maxBuilds = 2
	// queueLook is how often the queue is looked at without a reason.
	queueLook = 30 * time.Second
	// eventPage is how many events of a build are read at once.
	eventPage = 500
)

var (
	errStopping  = sandbox.E(sandbox.Unavailable, sandbox.CodeUnavailable, "the server is shutting down")
	errCancelled = sandbox.E(sandbox.Conflict, sandbox.CodeBuildCancelled, "the build was cancelled")
	errFinal     = sandbox.E(sandbox.Conflict, sandbox.CodeBuildState, "the build has ended already")
)

// queue decides whose build is next. The builds themselves are rows; this is what
// this process knows of them besides.
type queue struct {
	wake chan struct{} // has room for one: look at the rows

	mu      sync.Mutex
	running map[string]*running // by build
	turns   map[sandbox.TenantID]int
	turn    int
	bells   map[string]chan struct{} // by build or template; closed when it changes
}

type running struct {
	build  sandbox.Build
	cancel context.CancelCauseFunc
}

func newQueue() *queue {
	return &queue{wake: make(chan struct{}, 1), running: map[string]*running{}, turns: map[sandbox.TenantID]int{}, bells: map[string]chan struct{}{}}
}

// changed wakes whoever waits for one of the builds or templates, and the queue.
func (q *queue) changed(ids ...string) {
	q.mu.Lock()
	for _, id := range ids {
		if ch := q.bells[id]; ch != nil {
			close(ch)
			delete(q.bells, id)
		}
	}
	q.mu.Unlock()
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// bell returns what is closed when the build or template changes next.
func (q *queue) bell(id string) <-chan struct{} {
	q.mu.Lock()
	defer q.mu.Unlock()
	ch := q.bells[id]
	if ch == nil {
		ch = make(chan struct{})
		q.bells[id] = ch
	}
	return ch
}

// next chooses among queued builds, oldest first: of the tenant that has the
// fewest under way, then of the one whose turn was longest ago. A template is
// built once at a time.
func (q *queue) next(open []sandbox.Build) (sandbox.Build, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.running) >= maxBuilds {
		return sandbox.Build{}, false
	}
	busy, under := map[string]bool{}, map[sandbox.TenantID]int{}
	for _, r := range q.running {
		busy[r.build.Template] = true
		under[r.build.Tenant]++
	}
	fit := slices.DeleteFunc(slices.Clone(open), func(b sandbox.Build) bool {
		return b.State != sandbox.BuildQueued || busy[b.Template] || q.running[b.ID] != nil
	})
	if len(fit) == 0 {
		return sandbox.Build{}, false
	}
	best := slices.MinFunc(fit, func(a, b sandbox.Build) int { // the first of equals
		return cmp.Or(cmp.Compare(under[a.Tenant], under[b.Tenant]), cmp.Compare(q.turns[a.Tenant], q.turns[b.Tenant]))
	})
	q.turn++
	q.turns[best.Tenant] = q.turn
	return best, true
}

// enter notes that a build is under way. Its context ends with ctx and by cancel.
func (q *queue) enter(ctx context.Context, b sandbox.Build) context.Context {
	ctx, cancel := context.WithCancelCause(ctx)
	q.mu.Lock()
	defer q.mu.Unlock()
	q.running[b.ID] = &running{b, cancel}
	return ctx
}

func (q *queue) leave(b sandbox.Build) {
	q.mu.Lock()
	if r := q.running[b.ID]; r != nil {
		r.cancel(nil)
		delete(q.running, b.ID)
	}
	q.mu.Unlock()
	q.changed(b.ID, b.Template)
}

// stop ends a build that is under way here.
func (q *queue) stop(id string, cause error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if r := q.running[id]; r != nil {
		r.cancel(cause)
	}
}

// Run does builds until ctx ends, two at once, and first of all those again that
// the end of an earlier daemon cut short. It returns when none is under way here
// any more. Call it once.
func (b *Builder) Run(ctx context.Context) {
	var work sync.WaitGroup
	defer work.Wait()
	resumed := false
	for ctx.Err() == nil {
		open, err := b.Store.OpenBuilds(ctx)
		if err == nil && !resumed {
			if err = b.requeue(ctx, open); err == nil {
				resumed = true
				continue
			}
		}
		if err != nil && ctx.Err() == nil {
			b.Log.Warn("the queue of builds can't be read", "err", err)
		}
		if build, ok := b.queue.next(open); err == nil && ok {
			under := b.queue.enter(ctx, build)
			work.Go(func() {
				defer b.queue.leave(build)
				b.build(under, build)
			})
			continue
		}
		t := time.NewTimer(queueLook)
		select {
		case <-b.queue.wake:
		case <-t.C:
			b.collect(ctx)
		case <-ctx.Done():
		}
		t.Stop()
	}
}

// requeue has builds that were cut short begin anew: what they had made before is
// used again where it can be.
func (b *Builder) requeue(ctx context.Context, open []sandbox.Build) error {
	var errs []error
	for _, build := range open {
		if build.State == sandbox.BuildQueued {
			continue
		}
		_, err := b.Store.MoveBuild(ctx, build.ID, sandbox.BuildQueued, nil)
		if err != nil && !sandbox.HasCode(err, sandbox.CodeBuildState) {
			errs = append(errs, err)
		}
		b.queue.changed(build.ID)
	}
	return errors.Join(errs...)
}

// Cancel ends a build, wherever it is. [sandbox.CodeBuildState] says that it has
// ended already.
func (b *Builder) Cancel(ctx context.Context, id string) (sandbox.Build, error) {
	build, err := b.Store.MoveBuild(ctx, id, sandbox.BuildCancelled, func(x *sandbox.Build) {
		x.Code, x.Message = errCancelled.Code, errCancelled.Message
	})
	if sandbox.HasCode(err, sandbox.CodeBuildState) {
		return build, errFinal.With("state", string(build.State))
	}
	if err != nil {
		return sandbox.Build{}, err
	}
	b.queue.stop(id, errCancelled)
	b.queue.changed(id, build.Template)
	return build, nil
}

// Await blocks until a build has ended, and returns how.
func (b *Builder) Await(ctx context.Context, id string) (sandbox.Build, error) {
	for {
		bell := b.queue.bell(id)
		build, err := b.Store.Build(ctx, id)
		if err != nil || build.State.Final() {
			return build, err
		}
		select {
		case <-bell:
		case <-ctx.Done():
			return build, context.Cause(ctx)
		}
	}
}

// Follow yields the events of a build that came after seq, then those that come,
// until the build has ended or ctx does.
func (b *Builder) Follow(ctx context.Context, id string, after int64) iter.Seq2[sandbox.BuildEvent, error] {
	return func(yield func(sandbox.BuildEvent, error) bool) {
		for ctx.Err() == nil {
			bell := b.queue.bell(id)
			build, err := b.Store.Build(ctx, id) // before its events, of which the end is the last
			var events []sandbox.BuildEvent
			if err == nil {
				events, err = b.Store.BuildEvents(ctx, id, after, eventPage)
			}
			if err != nil {
				if ctx.Err() == nil {
					yield(sandbox.BuildEvent{}, err)
				}
				return
			}
			for _, e := range events {
				after = e.Seq
				if !yield(e, nil) {
					return
				}
			}
			if len(events) > 0 {
				continue
			}
			if build.State.Final() {
				return
			}
			select {
			case <-bell:
			case <-ctx.Done():
			}
		}
	}
}
