package store

import (
	"context"
	"time"

	"silica.dev/silica/internal/event"
	"silica.dev/silica/sandbox"
)

// Edit changes fields of a tenant's sandbox that has not ended, whatever state
// it is in, in one transaction with the events: two at once never undo one
// another's. change sees the row as it is then; its error leaves everything as
// it was. A Conflict says that the sandbox has ended, or that its new Name or
// Slug is another's: a name stands for an ID in paths, so no two live sandboxes
// of a tenant share one, nor a name and a slug.
func (s *Store) Edit(ctx context.Context, tenant sandbox.TenantID, id sandbox.ID, change func(*sandbox.Sandbox) error, events ...event.Event) (got sandbox.Sandbox, err error) {
	err = s.do(ctx, "edit "+string(id), func(t *tx) error {
		// Takes the tenant's row: names are compared one edit at a time.
		if _, err := t.exec(`update tenants set serial = serial + 1 where id = $1`, string(tenant)); err != nil {
			return err
		}
		old, err := scan(t.row(selectSandbox+`where id = $1 and tenant = $2 and tenant <> ''`, string(id), string(tenant)))
		if none(err) {
			return noSandbox
		}
		if err != nil {
			return err
		}
		if ended(old.State) {
			return moved.With("state", old.State)
		}
		row, before := old, labels(old)
		if err := change(&row); err != nil {
			return err
		}
		if err := t.nameable(old, row); err != nil {
			return err
		}
		row.ID, row.Tenant, row.State, row.UpdatedAt = old.ID, old.Tenant, old.State, time.Now().UTC().Truncate(time.Microsecond)
		if err := t.update(row, old.State); err != nil {
			if unique(err) {
				return slugTaken(row.Slug)
			}
			return err
		}
		if err := t.relabel(row, before); err != nil {
			return err
		}
		for _, e := range events {
			e.Sandbox, e.Tenant, e.At = row.ID, row.Tenant, row.UpdatedAt
			if err := t.record(e); err != nil {
				return err
			}
		}
		got, err = scan(t.row(selectSandbox+`where id = $1`, string(id))) // as everybody else will read it
		return err
	})
	return got, err
}

// nameable holds what becomes of a sandbox's Name and Slug against the others.
func (t *tx) nameable(old, next sandbox.Sandbox) error {
	if next.Name != old.Name && next.Name != "" {
		free, err := t.free(old, next.Name)
		if err == nil && !free {
			err = nameTaken(next.Name)
		}
		if err != nil {
			return err
		}
	}
	if next.Slug == old.Slug {
		return nil
	}
	free, err := t.free(old, next.Slug)
	if err == nil && !free {
		err = slugTaken(next.Slug)
	}
	return err
}

// free tells whether no other sandbox that lives answers to name in sb's tenant.
func (t *tx) free(sb sandbox.Sandbox, name string) (bool, error) {
	var n int
	err := t.row(`select count(*) from sandboxes where tenant = $1 and id <> $2 and state <> $4 and (name = $3 or slug = $3 or id = $3)`,
		string(sb.Tenant), string(sb.ID), name, string(sandbox.Destroyed)).Scan(&n)
	return n == 0, err
}

func nameTaken(name string) error {
	return sandbox.E(sandbox.Conflict, sandbox.CodeConflict, "another sandbox answers to this name").With("field", "name").With("name", name)
}

func slugTaken(slug string) error {
	return sandbox.E(sandbox.Conflict, sandbox.CodeConflict, "this slug is taken").With("field", "slug").With("slug", slug)
}

// Readmit moves a paused sandbox to Provisioning, if its tenant has room for one
// more live one (limit 0: no limit), as Create admits a new one.
func (s *Store) Readmit(ctx context.Context, id sandbox.ID, limit int, change func(*sandbox.Sandbox)) (got sandbox.Sandbox, err error) {
	err = s.do(ctx, "start "+string(id), func(t *tx) error {
		old, err := scan(t.row(selectSandbox+`where id = $1`, string(id)))
		if none(err) {
			return noSandbox
		}
		if err != nil {
			return err
		}
		if err := t.lockTenant(old.Tenant); err != nil {
			return err
		}
		if err := t.admit(old, limit, s.cfg.Prices, true); err != nil {
			return err
		}
		if got, err = t.change(id, sandbox.Paused, sandbox.Provisioning, change); err != nil {
			return err
		}
		return t.record(stateChanged(got, sandbox.Paused))
	})
	return got, err
}

// Row returns a sandbox whosever it is.
func (s *Store) Row(ctx context.Context, id sandbox.ID) (sandbox.Sandbox, error) {
	sb, err := scan(s.read.QueryRowContext(ctx, selectSandbox+`where id = $1`, string(id)))
	if none(err) {
		return sandbox.Sandbox{}, noSandbox
	}
	return sb, wrap(err, "read sandbox")
}
