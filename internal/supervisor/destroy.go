package supervisor

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"silica.dev/silica/internal/event"
	"silica.dev/silica/sandbox"
)

// Reasons of sandboxes that were destroyed, but not by their users.
const (
	reasonTimeout = "timeout" // the hard limit of its running time
	reasonIdle    = "idle"    // it was not used for too long
	reasonStopped = "stopped" // by its user
	reasonDrained = "drained" // the operator emptied the machine

	// Of paused ones, beside these.
	reasonPaused   = "paused"   // by its user, with its memory
	reasonRestored = "restored" // from a snapshot, and about to run
)

// hostTimeout bounds one attempt to free a sandbox on the host.
const hostTimeout = 30 * time.Second

// Destroy ends a sandbox for ever. It answers when the end is durable and the
// host has let go of it, or when DestroyWait is over: then the rest goes on
// by itself. Repeating it returns the same.
func (s *Supervisor) Destroy(ctx context.Context, c sandbox.Caller, id string) (sandbox.Sandbox, error) {
	if err := s.settled(ctx); err != nil {
		return sandbox.Sandbox{}, err
	}
	got, err := s.bury(ctx, c.Tenant, id, "", nil)
	if err != nil {
		return sandbox.Sandbox{}, err
	}
	s.awaitGone(ctx, got.ID)
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
			if sb.Files != "" || sb.Memory != "" {
				sb.Freed = false // until they are deleted
			}
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

// failure says why a sandbox went to Failed.
type failure struct {
	code   string // of the error event
	reason string // a sentence for the user
}

// fail moves a sandbox to Failed, from the first of the states that it is in,
// and has it freed. false says that it was in none of them.
//
// A persistent sandbox whose files were kept before is not lost with what ran: it
// is paused, with the files it had then.
func (s *Supervisor) fail(u *unit, f failure, from ...sandbox.State) bool {
	var row sandbox.Sandbox
	err := s.persist(s.life, "look for kept files", func() (err error) { // to fail without a look would delete them
		row, err = s.store.Row(s.life, u.id)
		return err
	})
	if err == nil && row.Persist && row.Files != "" && slices.Contains(from, row.State) {
		f := f
		f.reason += ": its files are as they were when they were last kept"
		if s.backToFiles(u, f, row.State) {
			return true
		}
	}
	for _, state := range from {
		err := s.persist(s.life, "fail", func() error {
			_, err := s.store.Move(s.life, u.id, state, sandbox.Failed, func(sb *sandbox.Sandbox) {
				sb.Ready, sb.Reason, sb.StoppedAt = false, f.reason, now()
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
		s.discardEnded(u)
		err := s.persist(s.life, "mark freed", func() error { return s.store.MarkFreed(s.life, u.id, last...) })
		if err != nil && s.life.Err() == nil {
			s.log.Error("a freed sandbox could not be marked", "sandbox", u.id, "err", err)
		}
		s.forget(u)
		s.wakePool()
		// It may have ended while the host let go of it for a pause.
		if row, err := s.store.Row(s.life, u.id); err == nil && !row.Freed && row.State == sandbox.Destroyed {
			again := s.unit(u.id)
			again.end(errDestroyed)
			s.free(again)
		}
	})
}

// discardEnded deletes what was kept of a sandbox at its end, unless others have it,
// too. The row lets go of it first: of two that end at once, one would see the
// other's name otherwise. What a crash leaves between is swept at the next start.
func (s *Supervisor) discardEnded(u *unit) {
	for wait := 100 * time.Millisecond; ; wait = min(2*wait, time.Minute) {
		row, err := s.store.Row(s.life, u.id)
		if err == nil && (row.Files == "" && row.Memory == "" || row.State != sandbox.Destroyed && row.State != sandbox.Failed) {
			return
		}
		if err == nil {
			_, err = s.store.Update(s.life, u.id, row.State, func(sb *sandbox.Sandbox) { sb.Files, sb.Memory, sb.Saved = "", "", 0 })
		}
		if err == nil {
			s.discard(row.Files, row.Memory)
			return
		}
		if isKind(err, sandbox.NotFound) || s.life.Err() != nil {
			return
		}
		s.log.Warn("what was kept of a sandbox could not be given up; trying again", "sandbox", u.id, "wait", wait, "err", err)
		if !pause(s.life, wait) {
			return
		}
	}
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
