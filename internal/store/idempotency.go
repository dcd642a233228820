package store

import (
	"context"
	"database/sql"
	"encoding/hex"
	"strings"
	"time"

	"silica.dev/silica/sandbox"
)

// keepIdempotency is how long a repeated request is recognised.
const keepIdempotency = 24 * time.Hour

// otherRequest says that a key stands for something else.
var otherRequest = sandbox.E(sandbox.Conflict, sandbox.CodeIdempotency, "this idempotency key was used for a different request")

// made returns the ids of what an earlier request with the same key made; none when
// there was none. A key that is too old is as good as none.
func made(row scanner, k sandbox.Idempotency, at time.Time) ([]string, error) {
	var digest, ids string
	var since int64
	err := row.Scan(&digest, &ids, &since)
	switch {
	case none(err):
		return nil, nil
	case err != nil:
		return nil, err
	case at.Sub(fromMicros(since)) >= keepIdempotency:
		return nil, nil
	case digest != hex.EncodeToString(k.Digest[:]):
		return nil, otherRequest
	}
	return strings.Fields(ids), nil
}

// selectMade finds what a key of a tenant stands for. The column is called sandbox, as
// a server of the version before may share the database.
const selectMade = `select digest, sandbox, created_at from idempotency where tenant = $1 and name = $2`

func (t *tx) made(tenant sandbox.TenantID, k sandbox.Idempotency, at time.Time) ([]string, error) {
	if k.Key == "" {
		return nil, nil
	}
	return made(t.row(selectMade, string(tenant), k.Key), k, at)
}

// remember has a key stand for what its request made, in place of what it stood for.
func (t *tx) remember(tenant sandbox.TenantID, k sandbox.Idempotency, at time.Time, ids ...string) error {
	if k.Key == "" {
		return nil
	}
	_, err := t.exec(`insert into idempotency (tenant, name, digest, sandbox, created_at) values ($1, $2, $3, $4, $5)
		on conflict (tenant, name) do update set digest = excluded.digest, sandbox = excluded.sandbox, created_at = excluded.created_at`,
		string(tenant), k.Key, hex.EncodeToString(k.Digest[:]), strings.Join(ids, " "), micros(at))
	return err
}

// repeated finds the sandbox of an earlier request with the same key.
func (t *tx) repeated(sb sandbox.Sandbox, k sandbox.Idempotency) (sandbox.Sandbox, error) {
	ids, err := t.made(sb.Tenant, k, sb.CreatedAt)
	if err != nil {
		return sandbox.Sandbox{}, err
	}
	list, err := sandboxesOf(t.row, sb.Tenant, ids)
	if err != nil || len(list) == 0 {
		return sandbox.Sandbox{}, err
	}
	return list[0], nil
}

// rowQuery asks for one row, in a transaction or outside of one.
type rowQuery func(query string, args ...any) *sql.Row

func (s *Store) reading(ctx context.Context) rowQuery {
	return func(query string, args ...any) *sql.Row { return s.read.QueryRowContext(ctx, query, args...) }
}

// sandboxesOf reads a tenant's sandboxes, but for those that are kept no longer.
func sandboxesOf(row rowQuery, tenant sandbox.TenantID, ids []string) (list []sandbox.Sandbox, err error) {
	for _, id := range ids {
		sb, err := scan(row(selectSandbox+`where id = $1 and tenant = $2`, id, string(tenant)))
		if none(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		list = append(list, sb)
	}
	return list, nil
}

// snapshotMade reads the snapshot of an earlier request, unless it was deleted or
// has failed: who asks again wants another one then.
func snapshotMade(row rowQuery, tenant sandbox.TenantID, ids []string) (sandbox.Snapshot, error) {
	for _, id := range ids {
		n, err := scanSnapshot(row(selectSnapshot+`where id = $1 and tenant = $2`, id, string(tenant)))
		if none(err) || err == nil && n.Status == sandbox.SnapshotFailed {
			continue
		}
		return n, err
	}
	return sandbox.Snapshot{}, nil
}

// Made returns the sandboxes that an earlier create or fork with the same key made.
func (s *Store) Made(ctx context.Context, tenant sandbox.TenantID, k sandbox.Idempotency) ([]sandbox.Sandbox, error) {
	ids, err := s.made(ctx, tenant, k)
	if err != nil || len(ids) == 0 {
		return nil, err
	}
	list, err := sandboxesOf(s.reading(ctx), tenant, ids)
	return list, wrap(err, "look for what an earlier request made")
}

// Snapped returns the snapshot that an earlier request with the same key made; the
// zero Snapshot when there is none.
func (s *Store) Snapped(ctx context.Context, tenant sandbox.TenantID, k sandbox.Idempotency) (sandbox.Snapshot, error) {
	ids, err := s.made(ctx, tenant, k)
	if err != nil || len(ids) == 0 {
		return sandbox.Snapshot{}, err
	}
	n, err := snapshotMade(s.reading(ctx), tenant, ids)
	return n, wrap(err, "look for a snapshot")
}

func (s *Store) made(ctx context.Context, tenant sandbox.TenantID, k sandbox.Idempotency) ([]string, error) {
	if k.Key == "" {
		return nil, nil
	}
	ids, err := made(s.read.QueryRowContext(ctx, selectMade, string(tenant), k.Key), k, rowTime())
	return ids, wrap(err, "look for an idempotency key")
}
