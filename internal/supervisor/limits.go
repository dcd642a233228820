package supervisor

import (
	"context"
	"time"

	"silica.dev/silica/sandbox"
)

// keepRetry is the pause after a sandbox could not be stopped when its time was
// up: it runs on meanwhile, for its files are worth more than its time.
const keepRetry = 30 * time.Second

// arm sets both alarms of a running sandbox from its row.
func (s *Supervisor) arm(u *unit, sb sandbox.Sandbox) {
	if sb.State != sandbox.Running {
		return
	}
	if end := sb.Deadline(); end.IsZero() {
		s.deadlines.remove(sb.ID, hardLimit)
	} else {
		// A wall clock that was set back while no daemon ran must not make a
		// sandbox live longer than its timeout.
		s.deadlines.move(alarm{id: sb.ID, kind: hardLimit, tenant: sb.Tenant, row: end, since: sb.LimitSince()}, min(time.Until(end), sb.Timeout))
	}
	s.armIdle(u, sb)
}

func (s *Supervisor) armIdle(u *unit, sb sandbox.Sandbox) {
	limit := sb.IdleLimit()
	used, busy := u.limitIdle(limit, sb.Tenant)
	switch {
	case limit <= 0:
		s.deadlines.remove(sb.ID, idleLimit)
	case !busy: // or the end of the use sets it
		s.deadlines.set(alarm{id: sb.ID, kind: idleLimit, tenant: sb.Tenant}, max(limit-time.Since(used), 0))
	}
}

// rearm follows a change of a sandbox's row. Reading it again under the lock
// makes the last of several changes the one that counts.
func (s *Supervisor) rearm(ctx context.Context, sb sandbox.Sandbox) {
	s.arming.Lock()
	defer s.arming.Unlock()
	u := s.lookup(sb.ID)
	if u == nil {
		return // it does not run
	}
	if got, err := s.store.Sandbox(context.WithoutCancel(ctx), sb.Tenant, string(sb.ID)); err == nil {
		sb = got
	}
	s.arm(u, sb)
}

// used ends one use of a sandbox, and lets it become idle.
func (s *Supervisor) used(u *unit) {
	limit, tenant, last := u.leave()
	if !last || limit <= 0 || u.life.Err() != nil || s.deadlines.has(u.id, idleLimit) {
		return // an alarm that is set looks when the sandbox was used last
	}
	s.deadlines.set(alarm{id: u.id, kind: idleLimit, tenant: tenant}, limit)
}

// ring acts on an alarm.
func (s *Supervisor) ring(a alarm) {
	s.spawn(func() {
		var sb sandbox.Sandbox
		err := s.persist(s.life, "look at a deadline", func() (err error) {
			sb, err = s.store.Sandbox(s.life, a.tenant, string(a.id))
			return err
		})
		if err == nil && sb.State == sandbox.Running {
			if s.isDue(a, sb) {
				err = s.timeUp(a, sb)
			} else {
				s.rearm(s.life, sb)
			}
		}
		if err != nil && s.life.Err() == nil && !isKind(err, sandbox.NotFound) {
			s.log.Error("a sandbox could not be ended at its deadline; trying again", "sandbox", a.id, "wait", keepRetry, "err", err)
			s.deadlines.set(a, keepRetry)
		}
	})
}

// isDue tells whether the row still says what the alarm was set for.
func (s *Supervisor) isDue(a alarm, sb sandbox.Sandbox) bool {
	if a.kind == hardLimit {
		return sb.Deadline().Equal(a.row) && !a.row.IsZero()
	}
	u := s.lookup(sb.ID)
	if u == nil || sb.IdleLimit() <= 0 {
		return false
	}
	last, busy := u.lastUse()
	return !busy && time.Since(last) >= sb.IdleLimit()
}

// timeUp ends a running sandbox, or pauses it if its files are to be kept.
func (s *Supervisor) timeUp(a alarm, sb sandbox.Sandbox) error {
	reason := reasonTimeout
	if a.kind == idleLimit {
		reason = reasonIdle
	}
	if sb.Persist {
		_, err := s.halt(s.life, sb.Tenant, sb.ID, reason)
		return err
	}
	return s.persist(s.life, "expire", func() error {
		_, err := s.bury(s.life, sb.Tenant, string(sb.ID), reason, func(sb sandbox.Sandbox) bool {
			return sb.State == sandbox.Running && !sb.Persist && s.isDue(a, sb)
		})
		return err
	})
}
