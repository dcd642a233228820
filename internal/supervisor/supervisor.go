// Package supervisor holds the rules of a sandbox's life, and is the only writer of
// its state, so that no route, driver or timer need know what may follow what.
//
// Rows are written before the host is touched, so after a crash a row is the
// trace of everything that may need cleaning up; Recover reads them. There is
// one way to clean up: move the row to an end, then free.
package supervisor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"silica.dev/silica/internal/guest"
	driver "silica.dev/silica/internal/runtime"
	"silica.dev/silica/sandbox"
)

// What callers are told.
var (
	errNoTemplate = sandbox.E(sandbox.Malformed, sandbox.CodeInvalidTemplate, "template_id is not a recognized template")
	errNotBuilt   = sandbox.E(sandbox.Conflict, sandbox.CodeTemplateNotReady, "the template has no revision that serves: have it built first, with POST …/builds")
	errNotRunning = sandbox.E(sandbox.Conflict, sandbox.CodeNotRunning, "the sandbox is not running")
	errPaused     = sandbox.E(sandbox.Conflict, sandbox.CodeNotRunning, "the sandbox is paused: start it first, with POST …/start")
	errStopping   = sandbox.E(sandbox.Conflict, sandbox.CodeNotRunning, "the sandbox is being stopped")
	errDraining   = sandbox.E(sandbox.Unavailable, sandbox.CodeDraining, "the server is being emptied and takes no new sandboxes")
	errClosing    = sandbox.E(sandbox.Unavailable, sandbox.CodeUnavailable, "the server is shutting down")
	errStarting   = sandbox.E(sandbox.Unavailable, sandbox.CodeUnavailable, "the server is starting: try again in a moment")
	errDestroyed  = sandbox.E(sandbox.Conflict, sandbox.CodeNotRunning, "the sandbox was destroyed")
	errLost       = sandbox.E(sandbox.Conflict, sandbox.CodeSandboxGone, "the sandbox has failed")
)

// Supervisor applies the rules. Make one with New, then call Recover before
// anything else.
type Supervisor struct {
	cfg       Config
	store     Store
	templates Templates
	driver    driver.Driver
	events    Events
	builds    Builds
	capacity  Capacity
	kept      Kept
	observer  Observer
	log       *slog.Logger

	starts    *queue
	demand    *demand
	deadlines *deadlines
	arming    sync.Mutex    // alarms follow changed rows one at a time
	refill    chan struct{} // has room for one: look at the pool
	recovered chan struct{} // closed once Recover is through

	// life ends with Close; every goroutine here is under it.
	life    context.Context
	endLife context.CancelCauseFunc
	work    sync.WaitGroup

	mu        sync.Mutex
	units     map[sandbox.ID]*unit
	forgotten chan struct{} // closed and replaced when a unit goes
	draining  bool
	closed    bool
}

// New returns a supervisor at rest.
func New(cfg Config, d Deps) *Supervisor {
	cfg = cfg.withDefaults()
	if d.Builds == nil {
		d.Builds = noBuilds{}
	}
	if d.Observer == nil {
		d.Observer = nobody{}
	}
	if d.Log == nil {
		d.Log = slog.New(slog.DiscardHandler)
	}
	s := &Supervisor{
		cfg: cfg, store: d.Store, templates: d.Templates, driver: d.Driver, events: d.Events, builds: d.Builds, capacity: d.Capacity, observer: d.Observer, kept: d.Kept, log: d.Log,
		starts: newQueue(cfg.Starts), deadlines: newDeadlines(), demand: newDemand(), refill: make(chan struct{}, 1), recovered: make(chan struct{}),
		units: map[sandbox.ID]*unit{}, forgotten: make(chan struct{}),
	}
	s.life, s.endLife = context.WithCancelCause(context.Background())
	return s
}

// Close stops all work and leaves the sandboxes running. What is half done is
// finished after the next Recover.
func (s *Supervisor) Close() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.endLife(errClosing)
	s.work.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, u := range s.units {
		u.hangUp()
	}
}

// spawn runs f as a goroutine that Close waits for; after Close it does nothing
// and returns false.
func (s *Supervisor) spawn(f func()) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.work.Go(f)
	return true
}

// now is the time as rows keep it.
func now() time.Time { return time.Now().UTC().Truncate(time.Microsecond) }

// Get returns one sandbox of the caller's tenant.
func (s *Supervisor) Get(ctx context.Context, c sandbox.Caller, id string) (sandbox.Sandbox, error) {
	return s.store.Sandbox(ctx, c.Tenant, id)
}

// List returns a page of the sandboxes that f selects of the caller's tenant, or of
// its workspace when it sees only one, newest first.
func (s *Supervisor) List(ctx context.Context, c sandbox.Caller, f sandbox.Filter) (sandbox.Listing, error) {
	f.Tenant = c.Tenant
	if f.Workspace == "" {
		f.Workspace = c.Workspace
	}
	if !c.Sees(f.Workspace) {
		return sandbox.Listing{}, nil
	}
	return s.store.List(ctx, f)
}

// Guest admits work on a running sandbox, and wakes one that is paused if it is
// such that use wakes it. The returned context ends with ctx, or with a
// classified cause when the sandbox ends; the client is shared and must not be
// closed.
func (s *Supervisor) Guest(ctx context.Context, c sandbox.Caller, id string) (context.Context, *guest.Client, sandbox.Sandbox, error) {
	waking, cancel := context.WithTimeoutCause(ctx, s.cfg.StartTimeout, errWaking)
	defer cancel()
	for {
		sb, err := s.store.Sandbox(ctx, c.Tenant, id)
		if err != nil {
			return nil, nil, sandbox.Sandbox{}, err
		}
		if sb, err = s.awake(waking, c, sb); err != nil {
			return nil, nil, sandbox.Sandbox{}, err
		}
		e, err := s.letIn(ctx, sb)
		if err == nil {
			return e.bound, e.unit.agent(s.driver), sb, nil
		}
		if !again(err, sb) || !pause(waking, 5*time.Millisecond) {
			return nil, nil, sandbox.Sandbox{}, err
		}
	}
}

// absent says why a running row has no unit.
func (s *Supervisor) absent() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return errClosing
	}
	if !s.hasRecovered() {
		return errStarting
	}
	return errNotRunning // it has ended since its row was read
}

func (s *Supervisor) hasRecovered() bool {
	select {
	case <-s.recovered:
		return true
	default:
		return false
	}
}

// afterRecovery waits until rows and host agree. What changes a row or asks for
// a unit before that would be missed by Recover, or miss what it finds.
func (s *Supervisor) afterRecovery(ctx context.Context) error {
	select {
	case <-s.recovered:
		return nil
	case <-s.life.Done():
		return errClosing
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// settled is afterRecovery for requests that may wait a moment only.
func (s *Supervisor) settled(ctx context.Context) error {
	starting, cancel := context.WithTimeoutCause(ctx, s.cfg.DestroyWait, errStarting)
	defer cancel()
	return s.afterRecovery(starting)
}

// Ready blocks until the sandbox is ready or can't be any more, or ctx ends; then
// the error is ctx's cause.
func (s *Supervisor) Ready(ctx context.Context, c sandbox.Caller, id string) (sandbox.Sandbox, error) {
	sb, err := s.store.Sandbox(ctx, c.Tenant, id)
	if err != nil || decided(sb) {
		return sb, err
	}
	if err := s.afterRecovery(ctx); err != nil {
		return sb, err
	}
	if u := s.lookup(sb.ID); u != nil {
		select {
		case <-u.ready:
		case <-u.life.Done():
		case <-ctx.Done():
			return sb, context.Cause(ctx)
		}
	}
	if err := context.Cause(s.life); err != nil {
		return sb, err
	}
	return s.store.Sandbox(ctx, c.Tenant, id)
}

// decided tells whether waiting for readiness is over.
func decided(sb sandbox.Sandbox) bool {
	return sb.Ready || sb.State != sandbox.Provisioning && sb.State != sandbox.Running
}

// persist repeats a write that the database can't take just now, until it can
// or ctx ends: the host has moved on already, and the row must follow.
func (s *Supervisor) persist(ctx context.Context, what string, write func() error) error {
	for wait := 50 * time.Millisecond; ; wait = min(2*wait, 5*time.Second) {
		err := write()
		var e *sandbox.Error
		if err == nil || ctx.Err() != nil || !errors.As(err, &e) || e.Kind != sandbox.Unavailable {
			return err
		}
		s.log.Warn("the database does not take a write; trying again", "what", what, "wait", wait, "err", err)
		if !pause(ctx, wait) {
			return fmt.Errorf("%s: %w", what, err)
		}
	}
}

// pause waits for d, or returns false when ctx ends first.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// isKind tells whether err is classified as k.
func isKind(err error, k sandbox.Kind) bool {
	var e *sandbox.Error
	return errors.As(err, &e) && e.Kind == k
}
