package supervisor

import (
	"context"
	"fmt"
	"time"

	"silica.dev/silica/sandbox"
)

// maxForks bounds the copies that one request makes.
const maxForks = 16

// Fork makes copies of a sandbox as it is now, or of a snapshot, each with an
// identity of its own: all of them are admitted, or none. It answers as Create
// does. The sandbox stands still only while it is copied.
func (s *Supervisor) Fork(ctx context.Context, c sandbox.Caller, id string, req sandbox.ForkRequest) ([]sandbox.Sandbox, error) {
	if err := s.open(); err != nil {
		return nil, err
	}
	if req.Count == 0 {
		req.Count = 1
	}
	if err := s.cfg.allowFork(req); err != nil {
		return nil, err
	}
	earlier, err := s.store.Made(ctx, c.Tenant, req.Idempotency)
	if err != nil || len(earlier) > 0 { // before anything stands still for it
		return s.awaitAll(ctx, earlier), err
	}
	n, err := s.origin(ctx, c, id, req)
	if err != nil {
		return nil, err
	}
	copies := copiesOf(n, c, req)
	units := make([]*unit, len(copies)) // known before the rows are
	for i, sb := range copies {
		units[i] = s.unit(sb.ID)
	}
	req.Snapshot = n.ID
	got, fresh, err := s.store.Fork(context.WithoutCancel(ctx), c.Tenant, req, copies, s.limitOf(c))
	if !fresh {
		for _, u := range units {
			s.forget(u)
		}
		if n.Passing {
			s.dropPassing(n)
		}
		if err != nil {
			return nil, err
		}
		return s.awaitAll(ctx, got), nil
	}
	for i, sb := range got {
		s.spawn(func() { s.wake(units[i], sb) })
	}
	return s.awaitAll(ctx, got), nil
}

func (c Config) allowFork(req sandbox.ForkRequest) error {
	if req.Count < 1 || req.Count > maxForks {
		return sandbox.Field("count", fmt.Sprintf("must be between 1 and %d", maxForks))
	}
	if len(req.Name) > maxName-3 {
		return sandbox.Field("name", fmt.Sprintf("must be at most %d bytes", maxName-3))
	}
	if req.Timeout == 0 {
		return nil
	}
	return between("timeout_sec", int64(req.Timeout), int64(time.Second), int64(c.MaxTimeout), int64(time.Second), "seconds")
}

// origin is the snapshot to make copies of: the one that is asked for, or one of
// the sandbox as it is now, which passes with the fork.
func (s *Supervisor) origin(ctx context.Context, c sandbox.Caller, id string, req sandbox.ForkRequest) (n sandbox.Snapshot, err error) {
	if req.Snapshot != "" {
		if n, err = s.Snapshot(ctx, c, req.Snapshot); err != nil {
			return n, err
		}
		if id != "" {
			sb, err := s.store.Sandbox(ctx, c.Tenant, id)
			if err == nil && n.Sandbox != sb.ID {
				err = errNoSnapshot
			}
			if err != nil {
				return n, err
			}
		}
		if n.Status == sandbox.SnapshotReady { // or the store says what it is
			err = s.whole(ctx, n)
		}
		if err == nil {
			err = s.makeRoom(ctx, sandbox.Spec{Resources: n.Spec.Resources})
		}
		return n, err
	}
	sb, err := s.store.Sandbox(ctx, c.Tenant, id)
	if err == nil {
		err = s.makeRoom(ctx, sandbox.Spec{Resources: sb.Spec.Resources})
	}
	if err == nil { // before anything stands still for nothing
		err = s.store.RoomToFork(ctx, sb, req.Count, s.limitOf(c))
	}
	if err != nil {
		return n, err
	}
	n, u, err := s.begin(ctx, c, string(sb.ID), sandbox.Snapshot{Passing: true}, sandbox.Idempotency{})
	if err != nil || u == nil {
		return n, err
	}
	return s.capture(u, n)
}

// copiesOf are the rows of copies, but for what the store takes from the snapshot.
func copiesOf(n sandbox.Snapshot, c sandbox.Caller, req sandbox.ForkRequest) []sandbox.Sandbox {
	or := func(v, parent string) string {
		if v == "" {
			return parent
		}
		return v
	}
	p := n.Parent
	at := now()
	copies := make([]sandbox.Sandbox, req.Count)
	for i := range copies {
		sb := sandbox.Sandbox{
			ID: sandbox.NewID(), Slug: sandbox.NewSlug(), State: sandbox.Provisioning, Tenant: n.Tenant, Owner: c.User,
			Name: req.Name, Timeout: p.Timeout, Idle: p.Idle, Persist: p.Persist, AlwaysOn: p.AlwaysOn,
			Tags: p.Tags, Metadata: p.Metadata, CreatedAt: at, UpdatedAt: at,
			External: sandbox.External{
				Workspace: or(req.External.Workspace, p.External.Workspace), User: or(req.External.User, p.External.User),
				Project: or(req.External.Project, p.External.Project),
			},
		}
		if req.Name != "" && req.Count > 1 { // a name stands for an ID
			sb.Name = fmt.Sprintf("%s-%d", req.Name, i+1)
		}
		if req.Timeout != 0 {
			sb.Timeout = req.Timeout
		}
		if req.Metadata != nil {
			sb.Metadata = req.Metadata
		}
		copies[i] = sb
	}
	return copies
}

// dropPassing removes a snapshot that was made for a fork which did not come.
func (s *Supervisor) dropPassing(n sandbox.Snapshot) {
	if _, err := s.store.DeleteSnapshot(context.WithoutCancel(s.life), n.Tenant, n.ID); err != nil && !isKind(err, sandbox.NotFound) {
		s.log.Warn("the snapshot of a fork could not be deleted", "snapshot", n.ID, "err", err)
		return // the next start does it
	}
	s.discard(n.Memory, n.Files)
}

// awaitAll waits up to CreateWait for all of them together, and returns how they
// are then.
func (s *Supervisor) awaitAll(ctx context.Context, list []sandbox.Sandbox) []sandbox.Sandbox {
	wait, cancel := context.WithTimeout(ctx, s.cfg.CreateWait)
	defer cancel()
	for i, sb := range list {
		if u := s.lookup(sb.ID); u != nil {
			select {
			case <-u.ready:
			case <-u.life.Done():
			case <-wait.Done():
			}
		}
		// Its row is durable, so that an error would be wrong.
		if got, err := s.store.Sandbox(context.WithoutCancel(ctx), sb.Tenant, string(sb.ID)); err == nil {
			list[i] = got
		}
	}
	return list
}
