package supervisor

import (
	"context"
	"errors"
	"fmt"
	"time"

	"silica.dev/silica/internal/event"
	"silica.dev/silica/sandbox"
)

// Reasons of sandboxes that were destroyed, but not by their users.
const (
	reasonTimeout = "timeout" // the hard limit of its running time
	reasonDrained = "drained" // the operator emptied the machine
)

// hostTimeout bounds one attempt to free a sandbox on the host.
const hostTimeout = 30 * time.Second

// Destroy ends a sandbox for ever. It answers when the end is durable and the
// host has let go of it, or when DestroyWait is over: then the rest goes on
// by itself. Repeating it returns the same.
func (s *Supervisor) Destroy(ctx context.Context, c sandbox.Caller, id string) (sandbox.Sandbox, error) {
	starting, cancel := context.WithTimeoutCause(ctx, s.cfg.DestroyWait, errStarting)
	defer cancel()
	if err := s.afterRecovery(starting); err != nil {
		return sandbox.Sandbox{}, err
	}
	got, err := s.bury(ctx, c.Tenant, id, "", nil)
	if err != nil {
		return sandbox.Sandbox{}, err
	}
	if u := s.lookup(got.ID); u != nil {
		t := time.NewTimer(s.cfg.DestroyWait)
		defer t.Stop()
		select {
		case <-u.gone:
		case <-s.life.Done():
		case <-t.C:
		case <-ctx.Done():
		}
	}
	return got, nil
}

// bury moves a sandbox to Destroyed from whatever state it is in, and has it
// freed. still, unless nil, says for which row that is to be done at all. A
// sandbox at its end already is returned as it is.
func (s *Supervisor) bury(ctx context.Context, tenant sandbox.TenantID, id, reason string, still func(sandbox.Sandbox) bool) (sandbox.Sandbox, error) {
	for {
		sb, err := s.store.Sandbox(ctx, tenant, id)
		if err != nil || sb.State == sandbox.Destroyed || still != nil && !still(sb) {
			return sb, err
		}
		got, err := s.store.Move(ctx, sb.ID, sb.State, sandbox.Destroyed, func(sb *sandbox.Sandbox) {
			sb.Ready, sb.DestroyedAt = false, now()
			if reason != "" {
				sb.Reason = reason
			}
		})
		// It moved since we looked: look again. Few moves are possible.
		if isKind(err, sandbox.Conflict) {
			continue
		}
		if err != nil {
			return sandbox.Sandbox{}, err
		}
		u := s.unit(got.ID)
		u.end(errDestroyed)
		s.free(u)
		return got, nil
	}
}

// expire ends a running sandbox whose time is up.
func (s *Supervisor) expire(tenant sandbox.TenantID, id sandbox.ID) {
	s.spawn(func() {
		var sb sandbox.Sandbox
		err := s.persist(s.life, "expire", func() (err error) {
			sb, err = s.bury(s.life, tenant, string(id), reasonTimeout, func(sb sandbox.Sandbox) bool {
				end := sb.Deadline()
				return sb.State == sandbox.Running && !end.IsZero() && !end.After(time.Now())
			})
			return err
		})
		switch {
		case err != nil && s.life.Err() == nil:
			s.log.Error("a sandbox could not be ended at its deadline", "sandbox", id, "err", err)
		case err == nil && sb.State == sandbox.Running: // the clock was set back, or the deadline moved
			s.deadlines.set(sb, sb.Deadline())
		}
	})
}

// failure says why a sandbox went to Failed.
type failure struct {
	code   string // of the error event
	reason string // a sentence for the user
}

// fail moves a sandbox to Failed, from the first of the states that it is in,
// and has it freed. false says that it was in none of them.
func (s *Supervisor) fail(u *unit, f failure, from ...sandbox.State) bool {
	for _, state := range from {
		err := s.persist(s.life, "fail", func() error {
			_, err := s.store.Move(s.life, u.id, state, sandbox.Failed, func(sb *sandbox.Sandbox) {
				sb.Ready, sb.Reason = false, f.reason
			}, event.Event{Type: event.Error, Data: map[string]any{"code": f.code, "message": f.reason}})
			return err
		})
		if isKind(err, sandbox.Conflict) {
			continue
		}
		if err != nil {
			if s.life.Err() == nil && !isKind(err, sandbox.NotFound) {
				s.log.Error("a failure could not be noted", "sandbox", u.id, "reason", f.reason, "err", err)
			}
			return false
		}
		u.end(errLost.With("reason", f.reason))
		s.free(u)
		return true
	}
	return false
}

// retire destroys a sandbox that no tenant owns, if it is still in from.
func (s *Supervisor) retire(u *unit, from sandbox.State) bool {
	err := s.persist(s.life, "retire", func() error {
		_, err := s.store.Move(s.life, u.id, from, sandbox.Destroyed, func(sb *sandbox.Sandbox) {
			sb.Ready, sb.DestroyedAt = false, now()
		})
		return err
	})
	if err != nil {
		if s.life.Err() == nil && !isKind(err, sandbox.Conflict) {
			s.log.Error("a pool member could not be retired", "sandbox", u.id, "err", err)
		}
		return false
	}
	u.end(errDestroyed)
	s.free(u)
	return true
}

// free has the host let go of a sandbox whose row is at its end, trying until it
// succeeds. It returns at once; u.gone says when it is done.
func (s *Supervisor) free(u *unit) {
	if !u.startFreeing() {
		return
	}
	s.spawn(func() {
		var last []sandbox.Reading
		for wait := 100 * time.Millisecond; ; wait = min(2*wait, time.Minute) {
			if r := s.lastReading(s.life, u); r != nil {
				last = r
			}
			err := s.destroyOnHost(u)
			if err == nil {
				break
			}
			if s.life.Err() != nil {
				return // Recover goes on with it
			}
			s.log.Warn("a sandbox could not be freed; trying again", "sandbox", u.id, "wait", wait, "err", err)
			if !pause(s.life, wait) {
				return
			}
		}
		close(u.gone)
		err := s.persist(s.life, "mark freed", func() error { return s.store.MarkFreed(s.life, u.id, last...) })
		if err != nil && s.life.Err() == nil {
			s.log.Error("a freed sandbox could not be marked", "sandbox", u.id, "err", err)
		}
		s.forget(u)
		s.wakePool()
	})
}

func (s *Supervisor) destroyOnHost(u *unit) error {
	// A start under way is being undone: its context ended with the unit's life.
	if err := u.take(s.life); err != nil {
		return err
	}
	defer u.give()
	u.hangUp()
	ctx, cancel := context.WithTimeout(s.life, hostTimeout)
	defer cancel()
	if err := s.driver.Destroy(ctx, u.id); err != nil {
		if ctx.Err() != nil && s.life.Err() == nil {
			err = errors.Join(err, fmt.Errorf("no answer within %v", hostTimeout))
		}
		return err
	}
	return nil
}
