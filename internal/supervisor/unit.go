package supervisor

import (
	"context"
	"net"
	"sync"
	"time"

	"silica.dev/silica/internal/guest"
	driver "silica.dev/silica/internal/runtime"
	"silica.dev/silica/sandbox"
)

// unit is what the daemon holds of a sandbox while its row is not freed. The
// row is the truth; a unit only says who waits, who works and who is connected.
type unit struct {
	id sandbox.ID
	// life ends, with a classified cause, when the row reaches its end, or
	// when the supervisor closes. It is kept because it is the sandbox's own
	// lifetime, longer than any call.
	life  context.Context
	end   context.CancelCauseFunc
	ready chan struct{} // closed once the agent has its identity
	// host holds one token: who takes it may call the driver's Start and
	// Destroy, and count births.
	host chan struct{}
	// births counts starts, so that the death of a replaced one is not taken
	// for the death of its successor.
	births int
	gone   chan struct{} // closed when nothing is left on the host

	env sync.Mutex // held while the agent is told of its environment

	mu      sync.Mutex
	isReady bool
	freeing bool
	client  *guest.Client
	metered bool             // its use is its tenant's, and counted
	base    sandbox.Counters // what was counted before that
	written sandbox.Reading  // the last that is durable
	last    *sandbox.Reading // before its end on the host
	samples []sandbox.Sample // of the last hour, oldest first
	refusal error            // why no new work is let in just now

	// Of the sandbox's use: how many are at work in it, when the last one
	// ended, and how long it may go unused (0: for ever).
	users  int
	used   time.Time
	idle   time.Duration
	tenant sandbox.TenantID
}

// enter admits a user; each must leave.
func (u *unit) enter() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.refusal != nil {
		return u.refusal
	}
	u.users++
	return nil
}

// leave ends a use. last says that nobody else is at work.
func (u *unit) leave() (idle time.Duration, tenant sandbox.TenantID, last bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.users--
	u.used = time.Now()
	return u.idle, u.tenant, u.users == 0
}

// limitIdle notes how long the sandbox may go unused.
func (u *unit) limitIdle(limit time.Duration, tenant sandbox.TenantID) (used time.Time, busy bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.idle, u.tenant = limit, tenant
	return u.used, u.users > 0
}

// lastUse is when the last use ended, unless one goes on.
func (u *unit) lastUse() (used time.Time, busy bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.used, u.users > 0
}

// refuse keeps new work out with an error; nil lets it in again.
func (u *unit) refuse(err error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.refusal = err
}

// unit returns the unit of id, making it if need be.
func (s *Supervisor) unit(id sandbox.ID) *unit {
	u, _ := s.unitOf(id)
	return u
}

// unitOf is unit, and fresh says that there was none.
func (s *Supervisor) unitOf(id sandbox.ID) (u *unit, fresh bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if u := s.units[id]; u != nil {
		return u, false
	}
	u = &unit{id: id, ready: make(chan struct{}), host: make(chan struct{}, 1), gone: make(chan struct{})}
	u.life, u.end = context.WithCancelCause(s.life)
	s.units[id] = u
	return u, true
}

func (s *Supervisor) lookup(id sandbox.ID) *unit {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.units[id]
}

// forget drops a unit whose row is freed, or was never written.
func (s *Supervisor) forget(u *unit) {
	u.end(errDestroyed)
	u.hangUp()
	s.deadlines.remove(u.id)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.units[u.id] == u {
		delete(s.units, u.id)
	}
	close(s.forgotten)
	s.forgotten = make(chan struct{})
}

// take waits for the right to call the driver's Start and Destroy.
func (u *unit) take(ctx context.Context) error {
	select {
	case u.host <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (u *unit) give() { <-u.host }

func (u *unit) setReady() {
	u.mu.Lock()
	defer u.mu.Unlock()
	if !u.isReady {
		u.isReady = true
		u.used = time.Now() // nobody has yet, but from here on it could be
		close(u.ready)
	}
}

// usable tells whether the agent has its identity and answered since the daemon
// began.
func (u *unit) usable() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.isReady
}

// startFreeing tells whether the caller is the first who wants the unit freed.
func (u *unit) startFreeing() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	first := !u.freeing
	u.freeing = true
	return first
}

// agent returns the client all users of the sandbox share.
func (u *unit) agent(d driver.Driver) *guest.Client {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.client == nil {
		u.client = guest.NewClient(func(ctx context.Context) (net.Conn, error) {
			c, err := d.Dial(ctx, u.id, guest.Port)
			if isKind(err, sandbox.NotFound) {
				// Not the caller's NotFound: its row was there a moment ago.
				return nil, errLost.Because(err)
			}
			return c, err
		})
	}
	return u.client
}

// hangUp closes the connections to an agent that is no more.
func (u *unit) hangUp() {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.client != nil {
		u.client.Close()
		u.client = nil
	}
}
