package store

import (
	"context"
	"fmt"
	"time"

	"silica.dev/silica/sandbox"
)

var noCredits = sandbox.E(sandbox.Exhausted, sandbox.CodeCredits, "the credits are used up")

// use is what a tenant, or one external user of it, has. The states are those
// that keep anything: parameters 2 to 4 of every query that uses it.
const use = `select count(*),
	coalesce(sum(case when state <> $4 then 1 else 0 end), 0),
	cast(coalesce(sum(case when state <> $4 then milli_cpu else 0 end), 0) as bigint),
	cast(coalesce(sum(case when state <> $4 then memory else 0 end), 0) as bigint),
	cast(coalesce(sum(disk), 0) as bigint)
	from sandboxes where tenant = $1 and state in ($2, $3, $4) `

func useArgs(tenant sandbox.TenantID) []any {
	return []any{string(tenant), string(sandbox.Provisioning), string(sandbox.Running), string(sandbox.Paused)}
}

func scanUse(row scanner) (u sandbox.TenantUse, err error) {
	err = row.Scan(&u.Kept, &u.Sandboxes, &u.MilliCPU, &u.Memory, &u.Disk)
	return u, err
}

// admit holds the tenant, and the external user, of a sandbox that is about to
// live to what they may have. The caller has locked the tenant. limit is how
// many live ones a tenant may have that has no limit of its own; 0: any number.
// kept says that the sandbox is there already.
func (t *tx) admit(sb sandbox.Sandbox, limit int, prices sandbox.Prices, kept bool) error {
	var own int
	var most sandbox.Resources
	var balance sandbox.Credits
	err := t.row(`select max_sandboxes, max_milli_cpu, max_memory, max_disk, balance from tenants where id = $1`, string(sb.Tenant)).
		Scan(&own, &most.MilliCPU, &most.Memory, &most.Disk, &balance)
	if err != nil {
		return err
	}
	if own > 0 {
		limit = own
	}
	if prices.On() && balance <= 0 {
		return noCredits
	}
	if limit <= 0 && most == (sandbox.Resources{}) && sb.External.User == "" {
		return nil
	}
	has, err := scanUse(t.row(use, useArgs(sb.Tenant)...))
	if err != nil {
		return err
	}
	if limit > 0 && has.Sandboxes >= int64(limit) {
		return sandbox.E(sandbox.Conflict, sandbox.CodeSandboxLimit,
			fmt.Sprintf("the limit of %d concurrent sandboxes is reached: destroy one first", limit)).With("limit", limit)
	}
	more := sb.Spec.Resources
	if kept {
		more.Disk = 0
	}
	for _, q := range []struct {
		name             string
		limit, has, more int64
		unit             int64
	}{
		{"vcpus", most.MilliCPU, has.MilliCPU, more.MilliCPU, sandbox.Core},
		{"memory_mb", most.Memory, has.Memory, more.Memory, sandbox.MiB},
		{"storage_mb", most.Disk, has.Disk, more.Disk, sandbox.MiB},
	} {
		if q.limit > 0 && q.has+q.more > q.limit {
			return quotaExceeded(q.name, q.limit/q.unit, q.has/q.unit, "the tenant's quota of %d %s is used up", q.limit/q.unit, q.name)
		}
	}
	if sb.External.User == "" {
		return nil
	}
	return t.admitUser(sb, more.Disk, kept)
}

func (t *tx) admitUser(sb sandbox.Sandbox, disk int64, kept bool) error {
	q, err := scanQuota(t.row(selectQuota, string(sb.Tenant), sb.External.User))
	if none(err) {
		return nil
	}
	if err != nil {
		return err
	}
	has, err := scanUse(t.row(use+`and ext_user = $5`, append(useArgs(sb.Tenant), sb.External.User)...))
	if err != nil {
		return err
	}
	const gib = 1 << 30
	switch {
	case q.MaxSandboxes > 0 && !kept && has.Kept >= q.MaxSandboxes:
		return quotaExceeded("max_sandboxes", q.MaxSandboxes, has.Kept, "the external user has %d sandboxes, and may have no more", has.Kept)
	case q.MaxConcurrent > 0 && has.Sandboxes >= q.MaxConcurrent:
		return quotaExceeded("max_concurrent", q.MaxConcurrent, has.Sandboxes, "the external user has %d sandboxes at once, and may have no more", has.Sandboxes)
	case q.MaxStorageGB > 0 && has.Disk+disk > q.MaxStorageGB*gib:
		return quotaExceeded("max_storage_gb", q.MaxStorageGB, has.Disk/gib, "the external user's storage of %d GB is used up", q.MaxStorageGB)
	case q.MaxCreditCents == 0:
		return nil
	}
	var used sandbox.Credits
	err = t.row(`select cast(coalesce(-sum(amount), 0) as bigint) from ledger where tenant = $1 and ext_user = $2`, string(sb.Tenant), sb.External.User).Scan(&used)
	if err == nil && used.Whole() >= q.MaxCreditCents {
		err = noCredits.With("quota", "max_credit_cents").With("limit", q.MaxCreditCents).With("used", used.Whole())
	}
	return err
}

// Use counts what a tenant has.
func (s *Store) Use(ctx context.Context, tenant sandbox.TenantID) (sandbox.TenantUse, error) {
	u, err := scanUse(s.read.QueryRowContext(ctx, use, useArgs(tenant)...))
	if err != nil {
		return u, wrap(err, "use of a tenant")
	}
	var most int64
	if err := s.read.QueryRowContext(ctx, saved, string(tenant), string(sandbox.Paused)).Scan(&most, &u.Saved); err != nil && !none(err) {
		return u, wrap(err, "saved by a tenant")
	}
	err = s.read.QueryRowContext(ctx, `select count(*) from api_keys where tenant = $1 and type <> $2`, string(tenant), string(sandbox.ScopedKey)).Scan(&u.Keys)
	return u, wrap(err, "count keys")
}

const selectQuota = `select ext_user, max_sandboxes, max_concurrent, max_storage_gb, max_credit_cents, updated_at
	from external_quotas where tenant = $1 and ext_user = $2`

func scanQuota(row scanner) (q sandbox.ExternalQuota, err error) {
	var updated int64
	err = row.Scan(&q.User, &q.MaxSandboxes, &q.MaxConcurrent, &q.MaxStorageGB, &q.MaxCreditCents, &updated)
	q.UpdatedAt = fromMicros(updated)
	return q, err
}

// Quota returns the quota of an external user; one without bounds when none was
// set.
func (s *Store) Quota(ctx context.Context, tenant sandbox.TenantID, user string) (sandbox.ExternalQuota, error) {
	q, err := scanQuota(s.read.QueryRowContext(ctx, selectQuota, string(tenant), user))
	if err != nil && !none(err) {
		return q, wrap(err, "quota")
	}
	has, err := scanUse(s.read.QueryRowContext(ctx, use+`and ext_user = $5`, append(useArgs(tenant), user)...))
	q.User, q.Sandboxes = user, has.Kept
	return q, wrap(err, "use of an external user")
}

// SetQuota sets the quota of an external user.
func (s *Store) SetQuota(ctx context.Context, tenant sandbox.TenantID, q sandbox.ExternalQuota) error {
	return s.do(ctx, "set quota", func(t *tx) error {
		if err := t.lockTenant(tenant); err != nil {
			return err
		}
		_, err := t.exec(`insert into external_quotas (tenant, ext_user, max_sandboxes, max_concurrent, max_storage_gb, max_credit_cents, updated_at)
			values ($1, $2, $3, $4, $5, $6, $7) on conflict (tenant, ext_user) do update set max_sandboxes = excluded.max_sandboxes,
			max_concurrent = excluded.max_concurrent, max_storage_gb = excluded.max_storage_gb, max_credit_cents = excluded.max_credit_cents,
			updated_at = excluded.updated_at`,
			string(tenant), q.User, q.MaxSandboxes, q.MaxConcurrent, q.MaxStorageGB, q.MaxCreditCents, micros(time.Now()))
		return err
	})
}

// DeleteQuota takes all bounds from an external user.
func (s *Store) DeleteQuota(ctx context.Context, tenant sandbox.TenantID, user string) error {
	return s.do(ctx, "delete quota", func(t *tx) error {
		_, err := t.exec(`delete from external_quotas where tenant = $1 and ext_user = $2`, string(tenant), user)
		return err
	})
}
