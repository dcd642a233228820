package supervisor

import (
	"context"
	"errors"
	"fmt"

	driver "silica.dev/silica/internal/runtime"
	"silica.dev/silica/sandbox"
)

var (
	errCantPause   = sandbox.E(sandbox.Conflict, sandbox.CodeConflict, "this server can't keep the memory of a sandbox")
	errPausing     = sandbox.E(sandbox.Conflict, sandbox.CodeNotRunning, "the sandbox is being paused")
	errRestored    = sandbox.E(sandbox.Conflict, sandbox.CodeNotRunning, "the sandbox goes on from a snapshot: start again what was running")
	errInterrupted = sandbox.E(sandbox.Conflict, sandbox.CodeNotRunning, "the sandbox was paused, stopped or destroyed while this was under way: it may have happened")
	errWaking      = sandbox.E(sandbox.Unavailable, sandbox.CodeUnavailable, "the sandbox is still being started: try again in a moment")
)

// Pause keeps memory and files of a running sandbox, persistent or not: both are
// durable when this answers, the host lets go of it right after, and Start brings
// them back. One paused already is a success. When they can't be kept it runs on.
func (s *Supervisor) Pause(ctx context.Context, c sandbox.Caller, id string) (sandbox.Sandbox, error) {
	if err := s.settled(ctx); err != nil {
		return sandbox.Sandbox{}, err
	}
	if s.suspender() == nil {
		return sandbox.Sandbox{}, errCantPause
	}
	for {
		sb, err := s.store.Sandbox(ctx, c.Tenant, id)
		if err != nil || sb.State == sandbox.Paused {
			return sb, err
		}
		if sb, err = s.settledState(ctx, sb); err != nil {
			return sandbox.Sandbox{}, err
		}
		if sb.State == sandbox.Paused {
			continue
		}
		if err := s.store.RoomToSave(ctx, c.Tenant); err != nil {
			return sandbox.Sandbox{}, err
		}
		got, err := s.halt(ctx, c.Tenant, sb.ID, reasonPaused)
		if err == nil && got.State == sandbox.Running {
			continue // it was paused by somebody else, and runs again
		}
		if isKind(err, sandbox.Conflict) {
			if now, err := s.store.Sandbox(ctx, c.Tenant, string(sb.ID)); err == nil && now.State != sandbox.Running {
				continue // somebody else was faster
			}
		}
		if err == nil && got.State != sandbox.Paused {
			return sandbox.Sandbox{}, errOver.With("state", got.State)
		}
		return got, err
	}
}

// settledState waits until a sandbox is in no passing state, and refuses one that
// has ended.
func (s *Supervisor) settledState(ctx context.Context, sb sandbox.Sandbox) (sandbox.Sandbox, error) {
	if sb.State == sandbox.Provisioning {
		var err error
		if sb, err = s.await(ctx, sb); err != nil {
			return sb, err
		}
	}
	switch sb.State {
	case sandbox.Running, sandbox.Paused:
		return sb, nil
	case sandbox.Provisioning:
		return sb, errNotYet.With("state", sb.State)
	}
	return sb, errOver.With("state", sb.State)
}

// suspender is the driver, if it can keep memory with files.
func (s *Supervisor) suspender() driver.Suspender {
	k, _ := s.driver.(driver.Suspender)
	return k
}

// withMemory tells whether a pause for this reason keeps the memory, too.
func withMemory(reason string) bool {
	return reason == reasonPaused || byItself(reason)
}

// byItself tells whether a pause for this reason is nobody's request.
func byItself(reason string) bool {
	return reason == reasonIdle || reason == reasonTimeout || reason == reasonDrained
}

// asked tells whether a paused sandbox with this reason was paused on purpose, and
// not because it could not run.
func asked(reason string) bool {
	return reason == reasonStopped || reason == reasonRestored || withMemory(reason)
}

// save keeps what a pause for this reason keeps of a running sandbox, which stands
// still from then on.
func (s *Supervisor) save(ctx context.Context, keeper driver.FileKeeper, sb sandbox.Sandbox, reason string) (driver.State, error) {
	if k := s.suspender(); k != nil && withMemory(reason) {
		st, err := k.Suspend(ctx, sb.ID)
		if err == nil || !byItself(reason) || ctx.Err() != nil || sandbox.HasCode(err, sandbox.CodeHostFull) || isKind(err, sandbox.NotFound) {
			return st, err
		}
		// Its time is up, and its files are worth more than its memory.
		s.log.Warn("the memory of a sandbox can't be kept: keeping its files", "sandbox", sb.ID, "err", err)
		s.record(ctx, sb, sandbox.CodeMemoryLost, "its memory could not be kept: it is paused with its files")
	}
	ref, err := keeper.KeepFiles(ctx, sb.ID)
	return driver.State{Files: ref}, err
}

// wakes tells whether the use of a paused sandbox starts it: of a persistent one,
// unless its user has stopped it.
func wakes(sb sandbox.Sandbox) bool { return sb.Persist && sb.Reason != reasonStopped }

// awake has a sandbox that is not running run, if it is one that use wakes or that
// is being started again, and waits for it.
func (s *Supervisor) awake(ctx context.Context, c sandbox.Caller, sb sandbox.Sandbox) (sandbox.Sandbox, error) {
	for {
		var err error
		switch {
		case sb.State == sandbox.Running:
			return sb, nil
		case sb.State == sandbox.Paused && wakes(sb):
			if sb, err = s.Start(ctx, c, string(sb.ID)); err != nil {
				return sb, err
			}
		case sb.State == sandbox.Paused:
			return sb, errPaused.With("state", sb.State)
		case sb.State == sandbox.Provisioning && !sb.StartedAt.IsZero() && s.hasRecovered():
			if u := s.lookup(sb.ID); u != nil {
				select {
				case <-u.ready:
				case <-u.life.Done():
				case <-ctx.Done():
				}
			}
			if sb, err = s.store.Sandbox(ctx, c.Tenant, string(sb.ID)); err != nil {
				return sb, err
			}
		default:
			return sb, errNotRunning.With("state", sb.State)
		}
		if ctx.Err() != nil {
			return sb, context.Cause(ctx)
		}
	}
}

// again tells whether work that was refused with err may be let in when it asks
// once more: its sandbox was being paused, and use wakes it.
func again(err error, sb sandbox.Sandbox) bool {
	return errors.Is(err, errPausing) && wakes(sb) || errors.Is(err, errPaused) || errors.Is(err, errRestored)
}

// entry is who was let in.
type entry struct {
	unit  *unit
	bound context.Context
}

// letIn admits work on a sandbox whose row says that it runs.
func (s *Supervisor) letIn(ctx context.Context, sb sandbox.Sandbox) (entry, error) {
	u := s.lookup(sb.ID)
	if u == nil {
		return entry{}, s.absent()
	}
	// A member that was just claimed is running, and gets its identity in
	// these milliseconds; one that outlived the daemon is yet to be adopted.
	if !u.usable() {
		wait, cancel := context.WithTimeout(ctx, s.cfg.CreateWait)
		defer cancel()
		select {
		case <-u.ready:
		case <-u.life.Done():
		case <-wait.Done():
			return entry{}, errNotRunning.With("state", sb.State)
		}
	}
	if err := context.Cause(u.life); err != nil {
		return entry{}, err
	}
	if err := u.enter(); err != nil {
		return entry{}, err
	}
	bound, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(u.life, func() { cancel(interrupted(context.Cause(u.life))) })
	context.AfterFunc(bound, func() { stop(); s.used(u) })
	return entry{u, bound}, nil
}

// interrupted is what work under way ends with when its sandbox does: unlike a
// refusal, which has the same code, it does not say that nothing has happened.
func interrupted(cause error) error {
	if !sandbox.HasCode(cause, sandbox.CodeNotRunning) {
		return cause
	}
	return errInterrupted.With("interrupted", true).Because(cause)
}

// whole tells whether what a snapshot needs at least is there: its files and what
// they were written over. Its memory is checked where it is restored.
func (s *Supervisor) whole(ctx context.Context, n sandbox.Snapshot) error {
	if s.kept == nil {
		return nil
	}
	_, release, err := s.kept.Open(ctx, n.Base)
	if err == nil {
		release()
		err = s.kept.Verify(ctx, n.Files)
	}
	if err != nil && ctx.Err() == nil {
		return errUnusable.Because(fmt.Errorf("snapshot %s: %w", n.ID, err))
	}
	return err
}
