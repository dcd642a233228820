package supervisor

import (
	"context"
	"errors"
	"fmt"
	"time"

	driver "silica.dev/silica/internal/runtime"
	"silica.dev/silica/sandbox"
)

var (
	errNoSnapshot = sandbox.E(sandbox.NotFound, sandbox.CodeNotFound, "snapshot not found")
	errUnusable   = sandbox.E(sandbox.Conflict, sandbox.CodeSnapshotUnusable, "the snapshot's files, or what they were written over, are missing or damaged")
	errImported   = sandbox.E(sandbox.Conflict, sandbox.CodeConflict, "the snapshot was imported and is of no sandbox here: fork it")
	errSaveFull   = sandbox.E(sandbox.Unavailable, sandbox.CodeHostFull, "the server's disk has no room for the snapshot")
)

// TakeSnapshot stores memory and files of a sandbox, which stands still only while
// they are copied, and answers when they are durable or when CreateWait is over:
// then the work goes on. Of a paused one it is ready at once. A repeated request is
// answered with the snapshot as it is by then.
func (s *Supervisor) TakeSnapshot(ctx context.Context, c sandbox.Caller, id string, req sandbox.SnapshotRequest) (sandbox.Snapshot, error) {
	if err := checkSnapshot(req); err != nil {
		return sandbox.Snapshot{}, err
	}
	if earlier, err := s.store.Snapped(ctx, c.Tenant, req.Idempotency); err != nil || earlier.ID != "" {
		return earlier, err
	}
	at := now()
	n := sandbox.Snapshot{Comment: req.Comment, Keep: req.Keep, Retention: req.Retention}
	if req.Expires > 0 {
		n.ExpiresAt = at.Add(req.Expires)
	}
	n, u, err := s.begin(ctx, c, id, n, req.Idempotency)
	if err != nil || u == nil {
		return n, err
	}
	done := make(chan error, 1)
	ended := n
	if !s.spawn(func() {
		var err error
		ended, err = s.capture(u, n)
		done <- err
	}) {
		return sandbox.Snapshot{}, errClosing // the next daemon ends it
	}
	t := time.NewTimer(s.cfg.CreateWait)
	defer t.Stop()
	select {
	case err := <-done:
		return ended, err
	case <-t.C:
	case <-ctx.Done():
	}
	return s.store.Snapshot(context.WithoutCancel(ctx), c.Tenant, n.ID)
}

// maxComment bounds what a row holds, in bytes.
const maxComment = 4 << 10

func checkSnapshot(req sandbox.SnapshotRequest) error {
	switch {
	case len(req.Comment) > maxComment:
		return sandbox.Field("comment", fmt.Sprintf("must be at most %d bytes", maxComment))
	case req.Retention < 0:
		return sandbox.Field("retention", "must not be negative")
	case req.Expires < 0:
		return sandbox.Field("expires", "must not be negative")
	}
	return nil
}

// begin writes the row of a snapshot of a sandbox that runs or is paused. u is of
// one that is to be captured.
func (s *Supervisor) begin(ctx context.Context, c sandbox.Caller, id string, n sandbox.Snapshot, k sandbox.Idempotency) (_ sandbox.Snapshot, u *unit, err error) {
	if err := s.settled(ctx); err != nil {
		return n, nil, err
	}
	if s.suspender() == nil {
		return n, nil, errCantPause
	}
	sb, err := s.store.Sandbox(ctx, c.Tenant, id)
	if err == nil {
		sb, err = s.settledState(ctx, sb)
	}
	if err != nil {
		return n, nil, err
	}
	if sb.Base == "" {
		return n, nil, errCantKeep.Because(errors.New("the row does not say what it was started from"))
	}
	if sb.State == sandbox.Running {
		if u = s.lookup(sb.ID); u == nil {
			return n, nil, s.absent()
		}
	}
	at := now()
	n.ID, n.Tenant, n.Sandbox = sandbox.NewName("snap_"), c.Tenant, sb.ID
	n.CreatedAt, n.UpdatedAt, n.LastUsedAt = at, at, at
	// A caller who leaves now must not leave a row that nobody works on.
	got, fresh, err := s.store.AddSnapshot(context.WithoutCancel(ctx), n, k)
	if err != nil {
		return n, nil, err
	}
	if !fresh || got.Status == sandbox.SnapshotReady { // nothing is to be done
		return got, nil, nil
	}
	if u == nil { // it was started since
		if u = s.lookup(sb.ID); u == nil {
			return got, nil, errors.Join(s.absent(), s.giveUp(got, "the sandbox has ended"))
		}
	}
	return got, u, nil
}

// capture takes a snapshot whose row says that it is being taken, and ends it.
func (s *Supervisor) capture(u *unit, n sandbox.Snapshot) (sandbox.Snapshot, error) {
	st, err := s.captured(u)
	if err != nil {
		if s.life.Err() != nil {
			return n, errClosing // the next daemon ends it
		}
		s.log.Warn("a snapshot could not be taken", "sandbox", u.id, "snapshot", n.ID, "err", err)
		return n, errors.Join(err, s.giveUp(n, sandbox.AsError(err).Message))
	}
	n.Memory, n.Files, n.Key, n.Size = st.Memory, st.Files, st.Key, st.Size
	got, err := s.endSnapshot(n)
	if err != nil {
		s.discard(st.Memory, st.Files)
	}
	return got, err
}

func (s *Supervisor) captured(u *unit) (driver.State, error) {
	ctx, cancel := context.WithTimeoutCause(u.life, keepTimeout,
		sandbox.E(sandbox.Timeout, sandbox.CodeTimeout, "the snapshot could not be taken in time"))
	defer cancel()
	if err := u.take(ctx); err != nil {
		return driver.State{}, err
	}
	defer u.give()
	if err := context.Cause(u.life); err != nil {
		return driver.State{}, err
	}
	st, err := s.suspender().Capture(ctx, u.id)
	if err != nil && ctx.Err() != nil {
		err = fmt.Errorf("%w (%w)", context.Cause(ctx), err)
	}
	if sandbox.HasCode(err, sandbox.CodeHostFull) {
		err = errSaveFull.Because(err)
	}
	return st, err
}

// giveUp ends a snapshot that could not be taken.
func (s *Supervisor) giveUp(n sandbox.Snapshot, reason string) error {
	if n.Passing { // nobody has seen it
		_, err := s.endSnapshot(sandbox.Snapshot{ID: n.ID, Tenant: n.Tenant, Passing: true, Reason: reason})
		if err == nil {
			_, err = s.store.DeleteSnapshot(s.life, n.Tenant, n.ID)
		}
		return err
	}
	n.Reason = reason
	_, err := s.endSnapshot(n)
	return err
}

func (s *Supervisor) endSnapshot(n sandbox.Snapshot) (got sandbox.Snapshot, err error) {
	err = s.persist(s.life, "end snapshot", func() (err error) {
		got, err = s.store.EndSnapshot(s.life, n)
		return err
	})
	return got, err
}

// Snapshot returns one snapshot that the caller sees.
func (s *Supervisor) Snapshot(ctx context.Context, c sandbox.Caller, id string) (sandbox.Snapshot, error) {
	n, err := s.store.Snapshot(ctx, c.Tenant, id)
	if err == nil && !c.Sees(n.Workspace) {
		return sandbox.Snapshot{}, errNoSnapshot
	}
	return n, err
}

// Snapshots lists the snapshots of a sandbox, also one that has ended, newest
// first, or with an empty id all that the caller sees.
func (s *Supervisor) Snapshots(ctx context.Context, c sandbox.Caller, id string) ([]sandbox.Snapshot, error) {
	var of sandbox.ID
	var gone error
	if id != "" {
		sb, err := s.store.Sandbox(ctx, c.Tenant, id)
		switch {
		case err == nil:
			of = sb.ID
		case isKind(err, sandbox.NotFound) && sandbox.ValidID(id): // its row may be gone before they are
			of, gone = sandbox.ID(id), err
		default:
			return nil, err
		}
	}
	all, err := s.store.Snapshots(ctx, c.Tenant, of)
	if err != nil {
		return nil, err
	}
	seen := make([]sandbox.Snapshot, 0, len(all))
	for _, n := range all {
		if c.Sees(n.Workspace) {
			seen = append(seen, n)
		}
	}
	if len(seen) == 0 && gone != nil {
		return nil, gone
	}
	return seen, nil
}

// DeleteSnapshot removes a snapshot. What is being started from it goes on, and
// lets go of what it needs by itself.
func (s *Supervisor) DeleteSnapshot(ctx context.Context, c sandbox.Caller, id string) (sandbox.Snapshot, error) {
	n, err := s.Snapshot(ctx, c, id)
	if err != nil {
		return n, err
	}
	got, err := s.store.DeleteSnapshot(ctx, c.Tenant, n.ID)
	if err != nil {
		return n, err
	}
	s.discard(got.Memory, got.Files)
	return got, nil
}

// expireSnapshots deletes what nobody has to keep any longer.
func (s *Supervisor) expireSnapshots() {
	for pause(s.life, s.cfg.ExpireEvery) {
		expired, err := s.store.ExpiredSnapshots(s.life, now())
		for _, n := range expired {
			var got sandbox.Snapshot
			if got, err = s.store.DeleteSnapshot(s.life, n.Tenant, n.ID); err != nil {
				break
			}
			s.log.Info("a snapshot has expired", "snapshot", n.ID, "sandbox", n.Sandbox)
			s.discard(got.Memory, got.Files)
		}
		if err != nil && s.life.Err() == nil && !isKind(err, sandbox.NotFound) {
			s.log.Warn("expired snapshots could not be deleted", "err", err)
		}
	}
}

// Restore has a sandbox go on from a snapshot of it, under the same identity. What
// it has done since is lost, and what works in it ends. If it can't run just
// then, it is paused as it was in the snapshot.
func (s *Supervisor) Restore(ctx context.Context, c sandbox.Caller, id, snapshotID string) (sandbox.Sandbox, error) {
	if err := s.open(); err != nil {
		return sandbox.Sandbox{}, err
	}
	if id == "" { // and its snapshot has none
		return sandbox.Sandbox{}, errImported
	}
	sb, err := s.store.Sandbox(ctx, c.Tenant, id)
	if err != nil {
		return sandbox.Sandbox{}, err
	}
	n, err := s.Snapshot(ctx, c, snapshotID)
	if err == nil && n.Sandbox != sb.ID {
		err = errNoSnapshot
	}
	if err != nil {
		return sandbox.Sandbox{}, err
	}
	if n.Status == sandbox.SnapshotReady { // or Revert says what it is
		if err := s.whole(ctx, n); err != nil {
			return sandbox.Sandbox{}, err
		}
	}
	for {
		if sb, err = s.settledState(ctx, sb); err != nil {
			return sandbox.Sandbox{}, err
		}
		err := s.revert(ctx, sb, n.ID)
		if err == nil {
			return s.Start(ctx, c, string(sb.ID))
		}
		if !sandbox.HasCode(err, sandbox.CodeConflict) {
			return sandbox.Sandbox{}, err
		}
		was := sb.State // it has moved since
		if sb, err = s.store.Sandbox(ctx, c.Tenant, string(sb.ID)); err != nil || sb.State == was {
			return sandbox.Sandbox{}, errors.Join(err, errWaking)
		}
	}
}

// revert pauses a sandbox as it was in a snapshot, and frees what ran.
func (s *Supervisor) revert(ctx context.Context, sb sandbox.Sandbox, snapshot string) error {
	change := func(sb *sandbox.Sandbox) {
		sb.Ready, sb.Reason = false, reasonRestored
		if sb.StoppedAt.IsZero() {
			sb.StoppedAt, sb.Freed = now(), false
		}
	}
	u := s.lookup(sb.ID)
	if sb.State == sandbox.Running {
		if u == nil {
			return s.absent()
		}
		turn, cancel := context.WithTimeoutCause(ctx, s.cfg.StartTimeout, errWaking)
		defer cancel()
		if err := u.take(turn); err != nil {
			return err
		}
	}
	_, old, err := s.store.Revert(context.WithoutCancel(ctx), sb.ID, sb.State, snapshot, change)
	if err == nil && sb.State == sandbox.Running {
		u.end(errRestored)
	}
	if sb.State == sandbox.Running {
		u.give()
	}
	if err != nil {
		return err
	}
	if sb.State == sandbox.Running {
		s.free(u)
		s.awaitGone(ctx, sb.ID)
	}
	s.discard(old.Memory, old.Files)
	return nil
}
