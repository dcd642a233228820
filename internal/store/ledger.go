package store

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"time"

	"silica.dev/silica/sandbox"
)

// How often ended runs are charged, and in how many of these rounds also those
// that go on: each charge of one is a row for ever.
const (
	settleEvery = time.Minute
	settleOpen  = 10
)

// settleLoop charges runs while there are prices.
func (s *Store) settleLoop() {
	if !s.cfg.Prices.On() {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		<-s.quit
		cancel()
	}()
	t := time.NewTicker(settleEvery)
	defer t.Stop()
	since := time.Time{} // the first time everything
	for round := 1; ; round++ {
		now := time.Now()
		err := s.Settle(ctx, since, now, round%settleOpen == 1)
		switch {
		case err == nil:
			since = now.Add(-time.Hour)
		case ctx.Err() == nil && s.cfg.OnPruneError != nil:
			s.cfg.OnPruneError(fmt.Errorf("charge runs: %w", err))
		}
		select {
		case <-s.quit:
			return
		case <-t.C:
		}
	}
}

// settleBatch keeps each transaction short.
const settleBatch = 64

// runName names a run in the books.
const runName = `r.sandbox || '@' || cast(r.started_at as text)`

// Settle charges what runs that have ended since a time cost and is not in the
// ledger yet; with open also those that go on, up to now. However often and by
// however many it is called, nothing is charged twice.
func (s *Store) Settle(ctx context.Context, since, now time.Time, open bool) error {
	most := int64(0) // ended_at of those that go on is 0
	if !open {
		most = -1
	}
	names, err := queryList(ctx, s, "unsettled runs", func(row scanner) (n runID, err error) {
		return n, row.Scan(&n.tenant, &n.sandbox, &n.started)
	}, `select r.tenant, r.sandbox, r.started_at from runs r left join charges c on c.run = `+runName+`
		where (r.ended_at > $1 or r.ended_at = $2) and coalesce(c.final, $3) = $3`, max(micros(since), 1)-1, most, false)
	if err != nil {
		return err
	}
	for len(names) > 0 {
		n := min(len(names), settleBatch)
		err := s.do(ctx, "charge runs", func(t *tx) error {
			for _, id := range names[:n] {
				if err := t.charge(id, s.cfg.Prices, now); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
		names = names[n:]
	}
	return nil
}

type runID struct {
	tenant, sandbox string
	started         int64
}

// charge writes what a run has cost up to now, less what it was charged before.
func (t *tx) charge(id runID, prices sandbox.Prices, now time.Time) error {
	// Also takes the tenant's row: of two who charge, the second sees the first's.
	if n, err := t.exec(`update tenants set serial = serial + 1 where id = $1`, id.tenant); err != nil || n == 0 {
		return err // a tenant that is gone pays nothing
	}
	name := fmt.Sprintf("%s@%d", id.sandbox, id.started)
	var e sandbox.Entry
	var milliCPU, memory, ended int64
	err := t.row(`select milli_cpu, memory, ended_at, workspace, ext_user from runs where sandbox = $1 and started_at = $2`, id.sandbox, id.started).
		Scan(&milliCPU, &memory, &ended, &e.Workspace, &e.User)
	if none(err) {
		return nil
	}
	if err != nil {
		return err
	}
	var charged sandbox.Credits
	var final bool
	err = t.row(`select amount, final from charges where run = $1`, name).Scan(&charged, &final)
	if err != nil && !none(err) || final {
		return err
	}
	ms := max(cmp.Or(ended, micros(now))-id.started, 0) / 1000
	cost := prices.Cost(ms*milliCPU, ms*(memory/sandbox.MiB))
	if due := cost - charged; due > 0 {
		charged = cost
		e.Kind, e.Amount, e.Sandbox = sandbox.EntryUsage, -due, sandbox.ID(id.sandbox)
		if _, err := t.book(sandbox.TenantID(id.tenant), e, name); err != nil {
			return err
		}
	}
	_, err = t.exec(`insert into charges (run, amount, final) values ($1, $2, $3)
		on conflict (run) do update set amount = excluded.amount, final = excluded.final`, name, int64(charged), ended != 0)
	return err
}

// book adds a line to a tenant's ledger. It is the only writer of balances. The
// caller has locked the tenant.
func (t *tx) book(tenant sandbox.TenantID, e sandbox.Entry, run string) (sandbox.Entry, error) {
	e.ID, e.At = sandbox.NewLine("txn_"), rowTime()
	if err := t.row(`update tenants set balance = balance + $2 where id = $1 returning balance`, string(tenant), int64(e.Amount)).Scan(&e.Balance); err != nil {
		return e, err
	}
	_, err := t.exec(`insert into ledger (id, tenant, kind, amount, balance, run, sandbox, workspace, ext_user, note, expires_at, at)
		values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, 0, $11)`,
		e.ID, string(tenant), e.Kind, int64(e.Amount), int64(e.Balance), run, string(e.Sandbox), e.Workspace, e.User, e.Note, micros(e.At))
	return e, err
}

// Grant gives a tenant credits. The same key, unless it is empty, returns the
// grant it made.
func (s *Store) Grant(ctx context.Context, tenant sandbox.TenantID, amount sandbox.Credits, note, key string) (got sandbox.Entry, err error) {
	if key != "" {
		key = "grant:" + key
	}
	err = s.do(ctx, "grant credits", func(t *tx) error {
		if err := t.lockTenant(tenant); err != nil {
			return err
		}
		if key != "" {
			if got, err = scanEntry(t.row(selectEntry+`where tenant = $1 and run = $2`, string(tenant), key)); !none(err) {
				if err == nil && got.Amount != amount {
					err = sandbox.E(sandbox.Conflict, sandbox.CodeIdempotency, "this idempotency key was used for another amount")
				}
				return err
			}
		}
		var balance sandbox.Credits
		if err := t.row(`select balance from tenants where id = $1`, string(tenant)).Scan(&balance); err != nil {
			return err
		}
		if amount > 0 && balance > math.MaxInt64-amount {
			return sandbox.Field("amount", "is more than can be counted")
		}
		got, err = t.book(tenant, sandbox.Entry{Kind: sandbox.EntryGrant, Amount: amount, Note: note}, key)
		return err
	})
	return got, err
}

const selectEntry = `select id, kind, amount, balance, sandbox, workspace, ext_user, note, at from ledger `

func scanEntry(row scanner) (e sandbox.Entry, err error) {
	var at int64
	err = row.Scan(&e.ID, &e.Kind, &e.Amount, &e.Balance, &e.Sandbox, &e.Workspace, &e.User, &e.Note, &at)
	e.At = fromMicros(at)
	return e, err
}

// Entries returns a tenant's ledger, newest first, limit lines after offset, and
// how many there are.
func (s *Store) Entries(ctx context.Context, tenant sandbox.TenantID, limit, offset int) (list []sandbox.Entry, total int, err error) {
	if err := s.read.QueryRowContext(ctx, `select count(*) from ledger where tenant = $1`, string(tenant)).Scan(&total); err != nil {
		return nil, 0, wrap(err, "count the ledger")
	}
	list, err = queryList(ctx, s, "ledger", scanEntry, selectEntry+`where tenant = $1 order by id desc limit $2 offset $3`, string(tenant), limit, offset)
	return list, total, err
}

// Balance returns what a tenant has left, and what was granted and used within a
// window.
func (s *Store) Balance(ctx context.Context, tenant sandbox.TenantID, w sandbox.Window) (balance, granted, used sandbox.Credits, err error) {
	if err = s.read.QueryRowContext(ctx, `select balance from tenants where id = $1`, string(tenant)).Scan(&balance); err != nil {
		return 0, 0, 0, wrap(err, "balance")
	}
	err = s.read.QueryRowContext(ctx, `select cast(coalesce(sum(case when kind = $4 then amount else 0 end), 0) as bigint),
		cast(coalesce(sum(case when kind = $5 then -amount else 0 end), 0) as bigint)
		from ledger where tenant = $1 and at >= $2 and at < $3`, string(tenant), micros(w.From), micros(w.To), sandbox.EntryGrant, sandbox.EntryUsage).
		Scan(&granted, &used)
	return balance, granted, used, wrap(err, "sums of the ledger")
}
