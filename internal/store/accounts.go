package store

import (
	"cmp"
	"context"
	"fmt"
	"regexp"
	"strings"

	"silica.dev/silica/sandbox"
)

// metaAdminKey goes before the hashes of the keys that EnsureAdminKey has made,
// in the names of values of the installation.
const metaAdminKey = "admin_key_"

// operatorSlug names the tenant of the first admin key.
const operatorSlug = "default"

var (
	noTenant  = sandbox.E(sandbox.NotFound, sandbox.CodeNotFound, "tenant not found")
	lastAdmin = sandbox.E(sandbox.Conflict, sandbox.CodeConflict, "this would remove the last admin key")
)

var validSlug = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

// EnsureAdminKey makes secret an admin key of the operator's tenant, unless this
// was done before: a key that was deleted since must not come back by a setting
// nobody removed. The tenant is made with the first one.
func (s *Store) EnsureAdminKey(ctx context.Context, secret string) (created bool, err error) {
	if len(secret) <= len(secretPrefix) || !strings.HasPrefix(secret, secretPrefix) {
		return false, sandbox.Field("key", `must begin with "msk_"`)
	}
	err = s.do(ctx, "ensure admin key", func(t *tx) error {
		created = false
		var n int
		if err := t.row(`select count(*) from api_keys where hash = $1`, hash(secret)).Scan(&n); err != nil {
			return err
		}
		made, err := t.exec(`insert into meta (name, value) values ($1, 'made') on conflict (name) do nothing`, metaAdminKey+hash(secret))
		if err != nil || made == 0 || n > 0 {
			return err
		}
		var tenant sandbox.TenantID
		err = t.row(`select id from tenants where slug = $1`, operatorSlug).Scan(&tenant)
		if none(err) {
			tn := sandbox.Tenant{Slug: operatorSlug, Name: "Default"}
			err = t.addTenant(&tn)
			tenant = tn.ID
		}
		if err != nil {
			return err
		}
		k := sandbox.Key{Tenant: tenant, Name: "first admin key", Admin: true, Scopes: sandbox.AllScopes}
		created = true
		return t.addKey(&k, secret)
	})
	return created, err
}

// HasAdminKey tells whether anybody can manage this installation.
func (s *Store) HasAdminKey(ctx context.Context) (bool, error) {
	var n int
	err := s.read.QueryRowContext(ctx, `select count(*) from api_keys where admin = $1`, true).Scan(&n)
	return n > 0, wrap(err, "count admin keys")
}

func (t *tx) addTenant(tn *sandbox.Tenant) error {
	tn.ID, tn.CreatedAt = cmp.Or(tn.ID, sandbox.TenantID(sandbox.NewName("tnt_"))), rowTime()
	_, err := t.exec(`insert into tenants (id, slug, name, plan, max_sandboxes, max_keys, max_milli_cpu, max_memory, max_disk, max_saved, created_at)
		values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)`, string(tn.ID), tn.Slug, tn.Name, tn.Plan, tn.MaxSandboxes, tn.MaxKeys,
		tn.Limits.MilliCPU, tn.Limits.Memory, tn.Limits.Disk, tn.MaxSaved, micros(tn.CreatedAt))
	if unique(err) {
		return sandbox.E(sandbox.Conflict, sandbox.CodeConflict, fmt.Sprintf("there is a tenant %q already", tn.Slug))
	}
	return err
}

// CreateTenant makes a tenant and fills in ID and CreatedAt. Without a Slug it
// gets one. A Conflict says that the slug is taken.
func (s *Store) CreateTenant(ctx context.Context, tn sandbox.Tenant) (sandbox.Tenant, error) {
	tn.Slug = cmp.Or(tn.Slug, sandbox.NewSlug())
	tn.Name = cmp.Or(tn.Name, tn.Slug)
	if !validSlug.MatchString(tn.Slug) {
		return sandbox.Tenant{}, sandbox.Field("slug", "must be 1 to 63 lower-case letters, digits and hyphens, with no hyphen at either end")
	}
	if tn.MaxSandboxes < 0 {
		return sandbox.Tenant{}, sandbox.Field("max_sandboxes", "must not be negative")
	}
	err := s.do(ctx, "create tenant", func(t *tx) error { return t.addTenant(&tn) })
	if err != nil {
		return sandbox.Tenant{}, err
	}
	return tn, nil
}

const selectTenant = `select id, slug, name, plan, max_sandboxes, max_keys, max_milli_cpu, max_memory, max_disk, max_saved, created_at from tenants `

func scanTenant(row scanner) (tn sandbox.Tenant, err error) {
	var created int64
	err = row.Scan(&tn.ID, &tn.Slug, &tn.Name, &tn.Plan, &tn.MaxSandboxes, &tn.MaxKeys,
		&tn.Limits.MilliCPU, &tn.Limits.Memory, &tn.Limits.Disk, &tn.MaxSaved, &created)
	tn.CreatedAt = fromMicros(created)
	return tn, err
}

// Tenants returns all tenants, oldest first.
func (s *Store) Tenants(ctx context.Context) ([]sandbox.Tenant, error) {
	return queryList(ctx, s, "list tenants", scanTenant, selectTenant+`order by created_at, id`)
}

// Tenant returns one tenant.
func (s *Store) Tenant(ctx context.Context, id sandbox.TenantID) (sandbox.Tenant, error) {
	tn, err := scanTenant(s.read.QueryRowContext(ctx, selectTenant+`where id = $1`, string(id)))
	if none(err) {
		return sandbox.Tenant{}, noTenant
	}
	return tn, wrap(err, "tenant")
}

// ChangeTenant changes name, plan and limits of a tenant. change may run twice.
func (s *Store) ChangeTenant(ctx context.Context, id sandbox.TenantID, change func(*sandbox.Tenant)) (tn sandbox.Tenant, err error) {
	err = s.doAccounts(ctx, "change tenant", func(t *tx) error {
		if err := t.lockTenant(id); err != nil {
			return err
		}
		if tn, err = scanTenant(t.row(selectTenant+`where id = $1`, string(id))); err != nil {
			return err
		}
		change(&tn)
		_, err := t.exec(`update tenants set name = $2, plan = $3, max_sandboxes = $4, max_keys = $5, max_milli_cpu = $6, max_memory = $7, max_disk = $8, max_saved = $9
			where id = $1`, string(id), tn.Name, tn.Plan, tn.MaxSandboxes, tn.MaxKeys, tn.Limits.MilliCPU, tn.Limits.Memory, tn.Limits.Disk, tn.MaxSaved)
		return err
	})
	return tn, err
}

// lockTenant takes the tenant's row until the transaction ends, so that what is
// counted of the tenant stays as it is.
func (t *tx) lockTenant(id sandbox.TenantID) error {
	n, err := t.exec(`update tenants set serial = serial + 1 where id = $1`, string(id))
	if err == nil && n == 0 {
		err = noTenant
	}
	return err
}

// queryList reads all rows of a query.
func queryList[T any](ctx context.Context, s *Store, what string, scan func(scanner) (T, error), query string, args ...any) ([]T, error) {
	rows, err := s.read.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, wrap(err, "%s", what)
	}
	defer rows.Close()
	var list []T
	for rows.Next() {
		v, err := scan(rows)
		if err != nil {
			return nil, wrap(err, "%s", what)
		}
		list = append(list, v)
	}
	return list, wrap(rows.Err(), "%s", what)
}

// DeleteTenant removes a tenant with its keys, users, workspaces and projects. It
// refuses with a Conflict while a sandbox of it is neither destroyed nor
// failed, and when it owns the last admin key. Rows of its ended sandboxes stay
// until they are old; nobody can read them.
func (s *Store) DeleteTenant(ctx context.Context, id sandbox.TenantID) error {
	return s.doAccounts(ctx, "delete tenant", func(t *tx) error {
		if err := t.lockTenant(id); err != nil {
			return err
		}
		var live int
		if err := t.row(`select count(*) from sandboxes where tenant = $1 and state not in ($2, $3)`,
			string(id), string(sandbox.Destroyed), string(sandbox.Failed)).Scan(&live); err != nil {
			return err
		}
		if live > 0 {
			return sandbox.E(sandbox.Conflict, sandbox.CodeConflict, fmt.Sprintf("the tenant has %d live sandboxes: destroy them first", live))
		}
		for _, table := range []string{"api_keys", "members", "users", "projects", "workspaces", "idempotency", "external_quotas", "snapshots"} {
			if _, err := t.exec(`delete from `+table+` where tenant = $1`, string(id)); err != nil {
				return err
			}
		}
		if _, err := t.exec(`delete from tenants where id = $1`, string(id)); err != nil {
			return err
		}
		return t.keepAdmin()
	})
}

// keepAdmin fails when no admin key is left.
func (t *tx) keepAdmin() error {
	return t.need(lastAdmin, `select count(*) from api_keys where admin = $1`, true)
}
