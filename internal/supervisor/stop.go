package supervisor

import (
	"context"
	"errors"
	"fmt"
	"time"

	"silica.dev/silica/internal/event"
	driver "silica.dev/silica/internal/runtime"
	"silica.dev/silica/sandbox"
)

// keepTimeout bounds the time that keeping a sandbox's files takes; it stands
// still meanwhile.
const keepTimeout = 10 * time.Minute

var (
	errCantKeep = sandbox.E(sandbox.Conflict, sandbox.CodeConflict, "this server can't keep the files of a sandbox")
	errKeepFull = sandbox.E(sandbox.Unavailable, sandbox.CodeHostFull, "the server's disk has no room for the sandbox's files: it runs on")
	errNotYet   = sandbox.E(sandbox.Conflict, sandbox.CodeNotRunning, "the sandbox is being started: stop it when it runs")
)

// Stop ends a sandbox's running. One that is not persistent is destroyed; of a
// persistent one the files are durable when this answers, and Start brings
// them back. One that does not run any more is returned as it is.
func (s *Supervisor) Stop(ctx context.Context, c sandbox.Caller, id string) (sandbox.Sandbox, error) {
	if err := s.settled(ctx); err != nil {
		return sandbox.Sandbox{}, err
	}
	for {
		sb, err := s.store.Sandbox(ctx, c.Tenant, id)
		if err != nil || !sb.State.Live() {
			return sb, err
		}
		if !sb.Persist {
			got, err := s.bury(ctx, c.Tenant, string(sb.ID), reasonStopped, func(sb sandbox.Sandbox) bool {
				return sb.State.Live() && !sb.Persist
			})
			if err != nil {
				return sandbox.Sandbox{}, err
			}
			if got.State == sandbox.Destroyed {
				s.awaitGone(ctx, got.ID)
			}
			if !got.State.Live() {
				return got, nil
			}
			continue // it has just been made persistent
		}
		if sb.State == sandbox.Provisioning {
			if sb, err = s.await(ctx, sb); err != nil {
				return sandbox.Sandbox{}, err
			}
			if sb.State == sandbox.Provisioning {
				return sandbox.Sandbox{}, errNotYet.With("state", sb.State)
			}
			continue
		}
		got, err := s.halt(ctx, c.Tenant, sb.ID, reasonStopped)
		if err == nil && got.State.Live() {
			continue // it was stopped by somebody else, and is started again
		}
		if isKind(err, sandbox.Conflict) {
			if now, err := s.store.Sandbox(ctx, c.Tenant, string(sb.ID)); err == nil && now.State != sandbox.Running {
				continue // somebody else was faster
			}
		}
		return got, err
	}
}

// Restart stops a running sandbox, persistent or not, and boots it again with
// its files. One that is paused is started.
func (s *Supervisor) Restart(ctx context.Context, c sandbox.Caller, id string) (sandbox.Sandbox, error) {
	if err := s.open(); err != nil {
		return sandbox.Sandbox{}, err
	}
	sb, err := s.store.Sandbox(ctx, c.Tenant, id)
	if err != nil {
		return sandbox.Sandbox{}, err
	}
	if sb.State == sandbox.Provisioning {
		if sb, err = s.await(ctx, sb); err != nil {
			return sandbox.Sandbox{}, err
		}
	}
	if sb.State == sandbox.Running {
		if _, err := s.halt(ctx, c.Tenant, sb.ID, ""); err != nil {
			return sandbox.Sandbox{}, err
		}
	}
	return s.Start(ctx, c, string(sb.ID))
}

// halt pauses a running sandbox, with its memory unless the reason is to stop: what
// is kept is durable before the row says so, and the host lets go after that. Until
// the row has moved everything can be undone by letting the sandbox run on, which
// is what a restart of the daemon does. ctx ends only the waiting for others.
func (s *Supervisor) halt(ctx context.Context, tenant sandbox.TenantID, id sandbox.ID, reason string) (sandbox.Sandbox, error) {
	keeper, ok := s.driver.(driver.FileKeeper)
	if !ok {
		return sandbox.Sandbox{}, errCantKeep
	}
	u := s.lookup(id)
	if u == nil {
		return s.store.Sandbox(ctx, tenant, string(id)) // it has ended a moment ago
	}
	turn, cancel := context.WithTimeoutCause(ctx, s.cfg.StartTimeout,
		sandbox.E(sandbox.Unavailable, sandbox.CodeUnavailable, "something else is done to the sandbox: try again in a moment"))
	defer cancel()
	if err := u.take(turn); err != nil {
		return sandbox.Sandbox{}, err
	}
	got, err := s.keep(u, keeper, tenant, reason)
	u.give()
	if err != nil || got.State != sandbox.Paused {
		return got, err
	}
	s.free(u) // who starts it at once waits for that
	return got, nil
}

// keep is halt up to the point where the row says paused. The caller holds the
// unit's host token. A sandbox in another state is returned as it is.
func (s *Supervisor) keep(u *unit, keeper driver.FileKeeper, tenant sandbox.TenantID, reason string) (sandbox.Sandbox, error) {
	sb, err := s.store.Sandbox(s.life, tenant, string(u.id))
	if err != nil || sb.State != sandbox.Running || u.life.Err() != nil {
		return sb, err
	}
	if sb.Base == "" {
		return sb, errCantKeep.Because(errors.New("the row does not say what it was started from"))
	}
	if withMemory(reason) {
		u.refuse(errPausing)
	} else {
		u.refuse(errStopping)
	}
	ctx, cancel := context.WithTimeoutCause(u.life, keepTimeout,
		sandbox.E(sandbox.Timeout, sandbox.CodeTimeout, "it could not be saved in time: it runs on"))
	defer cancel()
	began := time.Now()
	st, err := s.save(ctx, keeper, sb, reason)
	if err != nil {
		u.refuse(nil)
		if sandbox.HasCode(err, sandbox.CodeHostFull) {
			err = errKeepFull.Because(err)
		}
		if u.life.Err() == nil {
			s.record(s.life, sb, sandbox.AsError(err).Code, "it could not be stopped: "+sandbox.AsError(err).Message)
		}
		return sb, fmt.Errorf("save %s: %w", u.id, err)
	}
	var got sandbox.Sandbox
	err = s.persist(u.life, "paused", func() (err error) {
		got, err = s.store.Move(u.life, u.id, sandbox.Running, sandbox.Paused, func(sb *sandbox.Sandbox) {
			sb.Ready, sb.Freed, sb.StoppedAt, sb.Reason = false, false, now(), reason
			sb.Files, sb.Memory, sb.Saved = st.Files, st.Memory, st.Size
		})
		return err
	})
	if err != nil {
		got, err = s.pausedAfterAll(u, st.Files, err)
	}
	if err != nil {
		s.undoKeep(u, keeper, st)
		return sb, fmt.Errorf("note that %s is paused: %w", u.id, err)
	}
	s.log.Info("a sandbox was paused", "sandbox", u.id, "reason", reason, "memory", st.Memory != "", "bytes", st.Size, "took", time.Since(began))
	u.end(errPaused)
	s.discard(sb.Files, sb.Memory)
	return got, nil
}

// pausedAfterAll looks, as soon as the database can tell, whether the row has
// moved although its writer said err: a sandbox must not run on that is paused
// by its row.
func (s *Supervisor) pausedAfterAll(u *unit, ref sandbox.Ref, err error) (row sandbox.Sandbox, _ error) {
	rerr := s.persist(u.life, "look whether it is paused", func() (err error) {
		row, err = s.store.Row(u.life, u.id)
		return err
	})
	if rerr == nil && row.State == sandbox.Paused && row.Files == ref {
		return row, nil
	}
	return row, err
}

// undoKeep lets a sandbox run on whose row did not move.
func (s *Supervisor) undoKeep(u *unit, keeper driver.FileKeeper, st driver.State) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(s.life), hostTimeout)
	defer cancel()
	if err := keeper.Thaw(ctx, u.id); err != nil && u.life.Err() == nil {
		s.log.Error("a sandbox that could not be stopped stands still", "sandbox", u.id, "err", err)
	}
	s.discard(st.Files, st.Memory) // unless the row names them after all
	u.refuse(nil)
}

// discard deletes artifacts that no row names any more. What a failure leaves is
// swept at the next start.
func (s *Supervisor) discard(refs ...sandbox.Ref) {
	ctx := context.WithoutCancel(s.life)
	for _, ref := range refs {
		if ref == "" || s.kept == nil {
			continue
		}
		named, err := s.store.Referenced(ctx, ref)
		if err == nil && !named {
			err = s.kept.Delete(ctx, ref)
		}
		if err != nil {
			s.log.Warn("what was kept could not be deleted", "ref", ref, "err", err)
		}
	}
}

// awaitGone waits, up to DestroyWait, until the host has let go of a sandbox.
func (s *Supervisor) awaitGone(ctx context.Context, id sandbox.ID) {
	u := s.lookup(id)
	if u == nil {
		return
	}
	t := time.NewTimer(s.cfg.DestroyWait)
	defer t.Stop()
	select {
	case <-u.gone:
	case <-s.life.Done():
	case <-t.C:
	case <-ctx.Done():
	}
}

// Start brings a paused sandbox to run, from its memory where that was kept and
// can be restored, or else by booting it with its files. It answers as Create
// does. One that runs, or is about to, is a success.
func (s *Supervisor) Start(ctx context.Context, c sandbox.Caller, id string) (sandbox.Sandbox, error) {
	if err := s.open(); err != nil {
		return sandbox.Sandbox{}, err
	}
	for {
		sb, err := s.store.Sandbox(ctx, c.Tenant, id)
		switch {
		case err != nil:
			return sandbox.Sandbox{}, err
		case sb.State.Live():
			return s.started(ctx, sb)
		case sb.State != sandbox.Paused:
			return sandbox.Sandbox{}, errOver.With("state", sb.State)
		}
		if err := s.makeRoom(ctx, sandbox.Spec{Resources: sb.Spec.Resources}); err != nil {
			return sandbox.Sandbox{}, err
		}
		// Known before the row says so, and nobody else's.
		u, err := s.ownUnit(ctx, sb.ID)
		if err != nil {
			return sandbox.Sandbox{}, err
		}
		if u == nil {
			continue // somebody else starts it
		}
		// A caller who leaves now must not leave a row that nobody works on.
		got, err := s.store.Readmit(context.WithoutCancel(ctx), sb.ID, s.limitOf(c), func(sb *sandbox.Sandbox) {
			sb.Ready, sb.Freed, sb.Reason = false, false, ""
		})
		if err != nil {
			s.forget(u)
			if isKind(err, sandbox.Conflict) && sandbox.HasCode(err, sandbox.CodeConflict) {
				continue // it moved since we looked
			}
			return sandbox.Sandbox{}, err
		}
		s.spawn(func() { s.wake(u, got) })
		return s.started(ctx, got)
	}
}

// started waits as Create does, and makes an error of a start that failed.
func (s *Supervisor) started(ctx context.Context, sb sandbox.Sandbox) (sandbox.Sandbox, error) {
	got, err := s.await(ctx, sb)
	if err == nil && got.State == sandbox.Paused && !asked(got.Reason) {
		return sandbox.Sandbox{}, sandbox.E(sandbox.Unavailable, sandbox.CodeStartFailed, got.Reason)
	}
	return got, err
}

func (s *Supervisor) limitOf(c sandbox.Caller) int {
	if c.MaxSandboxes != 0 {
		return c.MaxSandboxes
	}
	return s.cfg.MaxSandboxes
}

// ownUnit makes the unit of a sandbox that has none. While there is one it waits:
// for the host to let go of what is paused; nil says that the sandbox is being
// started by somebody else.
func (s *Supervisor) ownUnit(ctx context.Context, id sandbox.ID) (*unit, error) {
	wait, cancel := context.WithTimeoutCause(ctx, s.cfg.DestroyWait,
		sandbox.E(sandbox.Unavailable, sandbox.CodeUnavailable, "the sandbox is still being stopped: try again in a moment"))
	defer cancel()
	for {
		s.mu.Lock()
		old, forgotten := s.units[id], s.forgotten
		s.mu.Unlock()
		if old == nil {
			if u, fresh := s.unitOf(id); fresh {
				return u, nil
			}
			continue
		}
		if old.life.Err() == nil {
			pause(wait, 10*time.Millisecond) // its row moves now
			return nil, context.Cause(wait)
		}
		select {
		case <-forgotten:
		case <-s.life.Done():
			return nil, errClosing
		case <-wait.Done():
			return nil, context.Cause(wait)
		}
	}
}

// wake brings a sandbox with kept files from its row to Running. One that can't
// be started is paused again: its files are not lost.
func (s *Supervisor) wake(u *unit, sb sandbox.Sandbox) {
	ctx, cancel := context.WithTimeoutCause(u.life, 2*(s.cfg.StartTimeout+s.cfg.InitTimeout), // from memory, and cold
		sandbox.E(sandbox.Timeout, sandbox.CodeTimeout, "it did not start in time"))
	defer cancel()
	if err := s.boot(ctx, u, sb); err != nil {
		s.bootFailed(u, sb, err)
	}
}

func (s *Supervisor) boot(ctx context.Context, u *unit, sb sandbox.Sandbox) error {
	asked := time.Now()
	t, err := s.templates.Template(ctx, sb.Spec.Template)
	if err != nil && !isKind(err, sandbox.NotFound) { // without it nothing is lost but its defaults
		return fmt.Errorf("its template: %w", err)
	}
	if err := u.take(ctx); err != nil {
		return err
	}
	defer u.give()
	path, lost, err := s.raise(ctx, u, sb, t)
	if err != nil {
		return err
	}
	first := sb.StartedAt.IsZero() // a copy, which starts from what is another's
	var events []event.Event
	if lost != nil {
		events = append(events, event.Event{Type: event.Error, Data: map[string]any{"code": sandbox.CodeMemoryLost,
			"message": "its memory could not be restored: it was booted with its files"}})
	}
	var got sandbox.Sandbox
	err = s.persist(ctx, "running", func() (err error) {
		got, err = s.store.Move(ctx, u.id, sandbox.Provisioning, sandbox.Running, func(sb *sandbox.Sandbox) {
			at := now()
			sb.Ran = sb.Runtime(at)
			sb.StartedAt, sb.ReadyAt, sb.StoppedAt, sb.ExtendedAt = at, at, time.Time{}, time.Time{}
			sb.Ready, sb.BootPath, sb.Boot = true, path, time.Since(asked)
			sb.Memory, sb.Saved = "", 0
			if first {
				sb.Boot = at.Sub(sb.CreatedAt)
			}
			if first && !sb.Persist { // else they are what it falls back to, as after a pause
				sb.Files = ""
			}
		}, events...)
		return err
	})
	if err != nil {
		return fmt.Errorf("note that it runs: %w", err)
	}
	s.attend(u, got)
	s.beginMeter(u, true)
	s.discard(sb.Memory)
	if first {
		s.observer.Started(got.BootPath, got.Boot)
	}
	if got.Files != sb.Files {
		s.discard(sb.Files)
	}
	return nil
}

// raise starts a sandbox from what was kept of it, and gives it its identity.
// lost says why it was not from memory although there was some. The caller holds
// the unit's host token.
func (s *Supervisor) raise(ctx context.Context, u *unit, sb sandbox.Sandbox, t sandbox.Template) (path sandbox.BootPath, lost, err error) {
	leave, err := s.starts.enter(ctx)
	if err != nil {
		return "", nil, err
	}
	defer leave()
	u.births++
	u.hangUp()
	req := driver.StartRequest{ID: u.id, Resources: sb.Spec.Resources, Image: sb.Base}
	if sb.Memory != "" {
		req.Snapshot = sb.Memory
		err := s.startOnce(ctx, req)
		if err != nil && !errors.Is(err, driver.ErrSnapshotUnusable) {
			return "", nil, err
		}
		if err == nil {
			if lost = s.init(ctx, u, sb, t); lost == nil {
				return sandbox.BootSnapshot, nil, nil
			}
			if ctx.Err() != nil {
				return "", nil, lost
			}
			u.hangUp()
			if err := s.driver.Destroy(ctx, u.id); err != nil {
				return "", nil, fmt.Errorf("end what does not answer: %w", err)
			}
		} else {
			lost = err
		}
		s.observer.RestoreFailed()
		s.log.Warn("memory can't be restored: booting with the files", "sandbox", u.id, "memory", sb.Memory, "files", sb.Files, "err", lost)
	}
	req.Snapshot, req.Files = "", sb.Files
	if err := s.startOnce(ctx, req); err != nil {
		return "", nil, err
	}
	return sandbox.BootCold, lost, s.init(ctx, u, sb, t)
}

// bootFailed pauses a sandbox again that could not be started with its files,
// unless it was destroyed meanwhile or the supervisor closes.
func (s *Supervisor) bootFailed(u *unit, sb sandbox.Sandbox, err error) {
	if s.life.Err() != nil || u.life.Err() != nil {
		return
	}
	if sb.StartedAt.IsZero() { // a copy: what it was to start from is its parent's
		s.startFailed(s.life, u, sb, err)
		return
	}
	s.log.Error("a sandbox did not start with its files", "sandbox", sb.ID, "files", sb.Files, "err", err)
	reason := "the sandbox could not be started; its files are kept"
	var e *sandbox.Error
	if errors.As(err, &e) && e.Kind != sandbox.Internal {
		reason += ": " + e.Message
	}
	s.backToFiles(u, failure{code: sandbox.CodeStartFailed, reason: reason}, sandbox.Provisioning)
}

// backToFiles pauses a sandbox that has ended by itself, or could not be started,
// with the files that were last kept of it. false: it was not in from.
func (s *Supervisor) backToFiles(u *unit, f failure, from sandbox.State) bool {
	err := s.persist(s.life, "back to files", func() error {
		_, err := s.store.Move(s.life, u.id, from, sandbox.Paused, func(sb *sandbox.Sandbox) {
			sb.Ready, sb.Freed, sb.Reason = false, false, f.reason
			if from == sandbox.Running {
				sb.StoppedAt = now()
			}
		}, event.Event{Type: event.Error, Data: map[string]any{"code": f.code, "message": f.reason}})
		return err
	})
	if err != nil {
		if s.life.Err() == nil && !isKind(err, sandbox.Conflict) {
			s.log.Error("a sandbox could not be paused", "sandbox", u.id, "err", err)
		}
		return false
	}
	u.end(errPaused)
	s.free(u)
	return true
}
