package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"silica.dev/silica/sandbox"
)

// Snapshots are rows of the node of their sandbox: what they refer to is in its
// data folder.

var (
	noSnapshot  = sandbox.E(sandbox.NotFound, sandbox.CodeNotFound, "snapshot not found")
	notReadyYet = sandbox.E(sandbox.Conflict, sandbox.CodeSnapshotNotReady, "the snapshot is still being taken")
	neverReady  = sandbox.E(sandbox.Conflict, sandbox.CodeSnapshotNotReady, "the snapshot has failed: take another one")
	notRunning  = sandbox.E(sandbox.Conflict, sandbox.CodeNotRunning, "the sandbox neither runs nor is paused")
)

var snapshotColumns = []string{
	"id", "tenant", "workspace", "sandbox", "status", "passing", "comment", "keep", "reason", "spec", "parent",
	"base", "memory", "files", "driver_key", "size", "retention", "expires_at", "last_used_at", "created_at", "updated_at", "node",
}

var (
	selectSnapshot = "select " + strings.Join(snapshotColumns, ", ") + " from snapshots "
	insertSnapshot = "insert into snapshots (" + strings.Join(snapshotColumns, ", ") + ") values (" + numbered(len(snapshotColumns)) + ")"
)

// addSnapshot inserts a snapshot, whose ExpiresAt is that by age.
func (t *tx) addSnapshot(n sandbox.Snapshot) error {
	spec, err := json.Marshal(n.Spec)
	if err != nil {
		return fmt.Errorf("spec: %w", err)
	}
	parent, err := json.Marshal(n.Parent)
	if err != nil {
		return fmt.Errorf("parent: %w", err)
	}
	_, err = t.exec(insertSnapshot,
		n.ID, string(n.Tenant), n.Workspace, string(n.Sandbox), string(n.Status), n.Passing, n.Comment, n.Keep, n.Reason, string(spec), string(parent),
		string(n.Base), string(n.Memory), string(n.Files), n.Key, n.Size, n.Retention.Microseconds(), micros(n.ExpiresAt),
		micros(n.LastUsedAt), micros(n.CreatedAt), micros(n.UpdatedAt), n.Node)
	return err
}

func scanSnapshot(row scanner) (n sandbox.Snapshot, err error) {
	var spec, parent string
	var retention, expires, used, created, updated int64
	err = row.Scan(&n.ID, &n.Tenant, &n.Workspace, &n.Sandbox, &n.Status, &n.Passing, &n.Comment, &n.Keep, &n.Reason, &spec, &parent,
		&n.Base, &n.Memory, &n.Files, &n.Key, &n.Size, &retention, &expires, &used, &created, &updated, &n.Node)
	if err != nil {
		return n, err
	}
	for _, j := range []struct {
		text string
		into any
	}{{spec, &n.Spec}, {parent, &n.Parent}} {
		d := json.NewDecoder(strings.NewReader(j.text))
		d.UseNumber() // as of a sandbox's row
		if err := d.Decode(j.into); err != nil {
			return n, fmt.Errorf("row of %s: %v", n.ID, err)
		}
	}
	n.Retention, n.ExpiresAt, n.LastUsedAt = duration(retention), fromMicros(expires), fromMicros(used)
	n.CreatedAt, n.UpdatedAt = fromMicros(created), fromMicros(updated)
	if unused := n.LastUsedAt.Add(n.Retention); n.Retention > 0 && (n.ExpiresAt.IsZero() || unused.Before(n.ExpiresAt)) {
		n.ExpiresAt = unused
	}
	if n.Keep {
		n.ExpiresAt = time.Time{}
	}
	return n, nil
}

// AddSnapshot begins a snapshot of a sandbox, and fills in what is of the sandbox.
// Of one that is paused it is ready at once: it has the same files and memory.
// QUOTA_EXCEEDED when the tenant's room for what is saved is used up. It recognises
// a repeated request (fresh is false).
func (s *Store) AddSnapshot(ctx context.Context, n sandbox.Snapshot, k sandbox.Idempotency) (got sandbox.Snapshot, fresh bool, err error) {
	err = s.do(ctx, "begin snapshot", func(t *tx) error {
		fresh = false
		if err := t.lockTenant(n.Tenant); err != nil {
			return err
		}
		ids, err := t.made(n.Tenant, k, n.CreatedAt)
		if err != nil {
			return err
		}
		if got, err = snapshotMade(t.row, n.Tenant, ids); err != nil || got.ID != "" {
			return err
		}
		if !n.Passing {
			if err := t.roomToSave(n.Tenant, 0); err != nil {
				return err
			}
		}
		sb, err := scan(t.row(selectSandbox+`where id = $1 and tenant = $2 and tenant <> ''`, string(n.Sandbox), string(n.Tenant)))
		if none(err) {
			return noSandbox
		}
		if err != nil {
			return err
		}
		if sb.Node != t.node {
			return errNotHere
		}
		row := n
		row.Workspace, row.Spec, row.Parent, row.Base, row.Node = sb.Workspace, sb.Spec, sandbox.ParentOf(sb), sb.Base, sb.Node
		switch {
		case sb.State == sandbox.Running && sb.Ready:
			row.Status = sandbox.SnapshotCreating
		case sb.State == sandbox.Paused && sb.Files != "":
			row.Status, row.Memory, row.Files, row.Size = sandbox.SnapshotReady, sb.Memory, sb.Files, sb.Saved
		default:
			return notRunning.With("state", sb.State)
		}
		if err := t.addSnapshot(row); err != nil {
			return err
		}
		if err := t.remember(n.Tenant, k, n.CreatedAt, n.ID); err != nil {
			return err
		}
		fresh = true
		got, err = scanSnapshot(t.row(selectSnapshot+`where id = $1`, n.ID))
		return err
	})
	return got, fresh, err
}

// saved is what a tenant may have saved, and what it has, in bytes.
const saved = `select max_saved,
	(select cast(coalesce(sum(size), 0) as bigint) from snapshots where tenant = $1) +
	(select cast(coalesce(sum(saved), 0) as bigint) from sandboxes where tenant = $1 and state = $2)
	from tenants where id = $1`

// roomToSave holds a tenant to the bytes that it may have saved. The caller has
// locked the tenant.
func (t *tx) roomToSave(tenant sandbox.TenantID, more int64) error {
	return withinSaved(t.row(saved, string(tenant), string(sandbox.Paused)), more)
}

func withinSaved(row scanner, more int64) error {
	var most, has int64
	if err := row.Scan(&most, &has); err != nil || most <= 0 || has < most && has+more <= most {
		return err
	}
	return quotaExceeded("snapshots_mb", most/sandbox.MiB, has/sandbox.MiB, "the tenant's %d MiB for snapshots and paused sandboxes are used up", most/sandbox.MiB)
}

// RoomToSave tells whether a tenant may save anything more.
func (s *Store) RoomToSave(ctx context.Context, tenant sandbox.TenantID) error {
	err := withinSaved(s.read.QueryRowContext(ctx, saved, string(tenant), string(sandbox.Paused)), 0)
	if sandbox.HasCode(err, sandbox.CodeQuota) {
		return err
	}
	return wrap(err, "look for room")
}

// RoomToImport tells whether a tenant may save so many bytes more.
func (s *Store) RoomToImport(ctx context.Context, tenant sandbox.TenantID, size int64) error {
	err := withinSaved(s.read.QueryRowContext(ctx, saved, string(tenant), string(sandbox.Paused)), size)
	if none(err) {
		return noTenant
	}
	return wrap(err, "look for room")
}

// ImportSnapshot adds a snapshot of no sandbox of ours, whose artifacts are there, to
// the tenant's first workspace. QUOTA_EXCEEDED as for AddSnapshot.
func (s *Store) ImportSnapshot(ctx context.Context, n sandbox.Snapshot) (got sandbox.Snapshot, err error) {
	err = s.do(ctx, "import snapshot", func(t *tx) error {
		if err := t.lockTenant(n.Tenant); err != nil {
			return err
		}
		if err := t.roomToSave(n.Tenant, n.Size); err != nil {
			return err
		}
		row := n
		row.Sandbox, row.Node = "", t.node
		if row.Workspace, row.Parent.Project, err = t.place(n.Tenant, sandbox.Place{}, sandbox.Place{}, n.CreatedAt); err != nil {
			return err
		}
		if err := t.addSnapshot(row); err != nil {
			return err
		}
		got, err = scanSnapshot(t.row(selectSnapshot+`where id = $1`, n.ID))
		return err
	})
	return got, err
}

// EndSnapshot makes a snapshot that is being taken ready, or failed when it has a
// Reason; failed, too, with the error, when it is larger than what the tenant
// may have. A Conflict says that it has ended already.
func (s *Store) EndSnapshot(ctx context.Context, n sandbox.Snapshot) (got sandbox.Snapshot, err error) {
	var refusal error
	err = s.do(ctx, "end snapshot", func(t *tx) error {
		refusal = nil
		if err := t.lockTenant(n.Tenant); err != nil {
			return err
		}
		row := n
		row.Status = sandbox.SnapshotReady
		if row.Reason == "" && !row.Passing {
			refusal = t.roomToSave(n.Tenant, n.Size)
			if refusal != nil && !sandbox.HasCode(refusal, sandbox.CodeQuota) {
				return refusal
			}
			if refusal != nil {
				row.Reason = sandbox.AsError(refusal).Message
			}
		}
		if row.Reason != "" {
			row.Status, row.Memory, row.Files, row.Size = sandbox.SnapshotFailed, "", "", 0
		}
		changed, err := t.exec(`update snapshots set status = $2, reason = $3, memory = $4, files = $5, driver_key = $6, size = $7, updated_at = $8
			where id = $1 and status = $9 and node = $10`,
			row.ID, string(row.Status), row.Reason, string(row.Memory), string(row.Files), row.Key, row.Size, micros(rowTime()),
			string(sandbox.SnapshotCreating), t.node)
		if err != nil {
			return err
		}
		if changed == 0 {
			return sandbox.E(sandbox.Conflict, sandbox.CodeConflict, "the snapshot is not being taken any more")
		}
		got, err = scanSnapshot(t.row(selectSnapshot+`where id = $1`, n.ID))
		return err
	})
	if err == nil {
		err = refusal
	}
	return got, err
}

// Snapshot returns one snapshot of a tenant.
func (s *Store) Snapshot(ctx context.Context, tenant sandbox.TenantID, id string) (sandbox.Snapshot, error) {
	if !utf8.ValidString(id) || strings.ContainsRune(id, 0) { // PostgreSQL takes no such text
		return sandbox.Snapshot{}, noSnapshot
	}
	n, err := scanSnapshot(s.read.QueryRowContext(ctx, selectSnapshot+`where id = $1 and tenant = $2 and tenant <> '' and passing = $3`, id, string(tenant), false))
	if none(err) {
		return sandbox.Snapshot{}, noSnapshot
	}
	return n, wrap(err, "read snapshot")
}

// Snapshots lists a tenant's snapshots, newest first: of one sandbox, also one
// whose row is gone, or of all with an empty id.
func (s *Store) Snapshots(ctx context.Context, tenant sandbox.TenantID, id sandbox.ID) ([]sandbox.Snapshot, error) {
	where, args := `where tenant = $1 and tenant <> '' and passing = $2`, []any{string(tenant), false}
	if id != "" {
		where, args = where+` and sandbox = $3`, append(args, string(id))
	}
	return queryList(ctx, s, "list snapshots", scanSnapshot, selectSnapshot+where+` order by created_at desc, id desc`, args...)
}

// DeleteSnapshot removes a snapshot that is not being taken, whose artifacts the
// caller then looks after. What was started from it has its own references.
func (s *Store) DeleteSnapshot(ctx context.Context, tenant sandbox.TenantID, id string) (got sandbox.Snapshot, err error) {
	err = s.do(ctx, "delete snapshot", func(t *tx) error {
		if got, err = scanSnapshot(t.row(selectSnapshot+`where id = $1 and tenant = $2`, id, string(tenant))); none(err) {
			return noSnapshot
		}
		if err != nil {
			return err
		}
		if got.Node != t.node {
			return errNotHere
		}
		if got.Status == sandbox.SnapshotCreating {
			return notReadyYet
		}
		_, err := t.exec(`delete from snapshots where id = $1`, id)
		return err
	})
	got.Status, got.UpdatedAt = sandbox.SnapshotDeleted, rowTime()
	return got, err
}

// ExpiredSnapshots lists those of this node, whosever they are, that nobody has to
// keep any longer at the time now.
func (s *Store) ExpiredSnapshots(ctx context.Context, now time.Time) ([]sandbox.Snapshot, error) {
	return queryList(ctx, s, "list expired snapshots", scanSnapshot, selectSnapshot+`where node = $1 and keep = $2 and passing = $2 and status <> $3
		and (expires_at > 0 and expires_at <= $4 or retention > 0 and last_used_at + retention <= $4) order by created_at limit 1000`,
		s.cfg.Node, false, string(sandbox.SnapshotCreating), micros(now))
}

// CutSnapshots ends what a daemon of this node did not: snapshots that were being
// taken have failed, and those made for forks, which it returns, are gone.
func (s *Store) CutSnapshots(ctx context.Context, reason string) (gone []sandbox.Snapshot, err error) {
	gone, err = queryList(ctx, s, "list passing snapshots", scanSnapshot, selectSnapshot+`where node = $1 and passing = $2`, s.cfg.Node, true)
	if err != nil {
		return nil, err
	}
	return gone, s.do(ctx, "end cut snapshots", func(t *tx) error {
		if _, err := t.exec(`delete from snapshots where node = $1 and passing = $2`, t.node, true); err != nil {
			return err
		}
		_, err := t.exec(`update snapshots set status = $1, reason = $2, updated_at = $3 where node = $4 and status = $5`,
			string(sandbox.SnapshotFailed), reason, micros(rowTime()), t.node, string(sandbox.SnapshotCreating))
		return err
	})
}

// useSnapshot finds a snapshot that can be started from, and notes that it was used. The
// caller has locked the tenant.
func (t *tx) useSnapshot(tenant sandbox.TenantID, id string) (sandbox.Snapshot, error) {
	n, err := scanSnapshot(t.row(selectSnapshot+`where id = $1 and tenant = $2 and tenant <> ''`, id, string(tenant)))
	switch {
	case none(err):
		return n, noSnapshot
	case err != nil:
		return n, err
	case n.Node != t.node:
		return n, errNotHere
	case n.Status == sandbox.SnapshotCreating:
		return n, notReadyYet
	case n.Status != sandbox.SnapshotReady:
		return n, neverReady
	}
	_, err = t.exec(`update snapshots set last_used_at = $2 where id = $1`, id, micros(rowTime()))
	return n, err
}

// Fork admits copies of the snapshot that req names: all of them or none. It fills
// in what is the snapshot's, and a passing one is gone with it. It recognises a
// repeated request (fresh is false), and then leaves the snapshot alone. limit is
// as for Create.
func (s *Store) Fork(ctx context.Context, tenant sandbox.TenantID, req sandbox.ForkRequest, copies []sandbox.Sandbox, limit int) (got []sandbox.Sandbox, fresh bool, err error) {
	err = s.do(ctx, "fork", func(t *tx) error {
		got, fresh = nil, false
		if err := t.lockTenant(tenant); err != nil {
			return err
		}
		at := rowTime()
		ids, err := t.made(tenant, req.Idempotency, at)
		if err != nil {
			return err
		}
		if got, err = sandboxesOf(t.row, tenant, ids); err != nil || len(got) > 0 {
			return err
		}
		n, err := t.useSnapshot(tenant, req.Snapshot)
		if err != nil {
			return err
		}
		ids = nil
		for _, sb := range copies {
			sb.Tenant, sb.Workspace, sb.Project, sb.Spec, sb.Node = n.Tenant, n.Workspace, n.Parent.Project, n.Spec, n.Node
			sb.Base, sb.Memory, sb.Files, sb.State = n.Base, n.Memory, n.Files, sandbox.Provisioning
			if err := t.admit(sb, limit, s.cfg.Prices, false); err != nil {
				return err
			}
			if err := t.insert(sb); err != nil {
				return err
			}
			if err := t.record(stateChanged(sb, "")); err != nil {
				return err
			}
			got, ids = append(got, sb), append(ids, string(sb.ID))
		}
		if err := t.remember(tenant, req.Idempotency, at, ids...); err != nil {
			return err
		}
		fresh = true
		if n.Passing {
			_, err = t.exec(`delete from snapshots where id = $1`, n.ID)
		}
		return err
	})
	return got, fresh, err
}

// errTried takes back what was only tried.
var errTried = errors.New("tried")

// RoomToFork tells whether a tenant may have n more sandboxes like sb, by trying
// and taking it back. A Fork looks again.
func (s *Store) RoomToFork(ctx context.Context, sb sandbox.Sandbox, n, limit int) error {
	err := s.do(ctx, "look for room", func(t *tx) error {
		if err := t.lockTenant(sb.Tenant); err != nil {
			return err
		}
		for range n {
			one := sandbox.Sandbox{
				ID: sandbox.NewID(), Slug: sandbox.NewSlug(), State: sandbox.Provisioning, Tenant: sb.Tenant, Workspace: sb.Workspace, Project: sb.Project,
				Spec: sb.Spec, External: sb.External, Node: sb.Node, CreatedAt: rowTime(), UpdatedAt: rowTime(),
			}
			if err := t.admit(one, limit, s.cfg.Prices, false); err != nil {
				return err
			}
			if err := t.insert(one); err != nil {
				return err
			}
		}
		return errTried
	})
	if errors.Is(err, errTried) {
		return nil
	}
	return err
}

// Revert pauses a sandbox that is in the state from, running or paused, as it was
// in a snapshot of it. old is what it was before.
func (s *Store) Revert(ctx context.Context, id sandbox.ID, from sandbox.State, snapshot string, change func(*sandbox.Sandbox)) (got, old sandbox.Sandbox, err error) {
	if from != sandbox.Running && from != sandbox.Paused {
		return got, old, illegal(from, sandbox.Paused)
	}
	err = s.do(ctx, "revert "+string(id), func(t *tx) error {
		if old, err = scan(t.row(selectSandbox+`where id = $1`, string(id))); none(err) {
			return noSandbox
		}
		if err != nil {
			return err
		}
		if err := t.lockTenant(old.Tenant); err != nil {
			return err
		}
		n, err := t.useSnapshot(old.Tenant, snapshot)
		if err != nil {
			return err
		}
		if n.Sandbox != id {
			return noSnapshot
		}
		got, err = t.change(id, from, sandbox.Paused, func(sb *sandbox.Sandbox) {
			sb.Base, sb.Memory, sb.Files, sb.Saved = n.Base, n.Memory, n.Files, 0
			change(sb)
		})
		if err != nil {
			return err
		}
		return t.record(stateChanged(got, from))
	})
	return got, old, err
}
