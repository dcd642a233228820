package store

import (
	"context"
	"errors"
	"time"

	"silica.dev/silica/sandbox"
)

const (
	pruneEvery = time.Hour
	// pruneBatch keeps each transaction short, so that writers don't wait.
	pruneBatch = 2000
)

func (s *Store) pruneLoop() {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		<-s.quit
		cancel()
	}()
	t := time.NewTicker(pruneEvery)
	defer t.Stop()
	for {
		select {
		case <-s.quit:
			return
		case now := <-t.C:
			if err := s.Prune(ctx, now); err != nil && ctx.Err() == nil && s.cfg.OnPruneError != nil {
				s.cfg.OnPruneError(err)
			}
		}
	}
}

// Prune removes what is too old at the time now: repeated-request records after
// 24 hours, events, runs and ended sandboxes as configured, and of these also the
// oldest of a tenant that has too many. A sandbox that may hold
// anything on the host stays. It runs by itself every hour.
func (s *Store) Prune(ctx context.Context, now time.Time) error {
	err := s.pruneTable(ctx, `delete from idempotency where (tenant, name) in
		(select tenant, name from idempotency where created_at < $1 limit $2)`, micros(now.Add(-keepIdempotency)), pruneBatch)
	if s.cfg.KeepEvents > 0 {
		err = errors.Join(err, s.pruneTable(ctx, `delete from events where seq in
			(select seq from events where at < $1 limit $2)`, micros(now.Add(-s.cfg.KeepEvents)), pruneBatch))
	}
	if s.cfg.KeepAudit > 0 {
		err = errors.Join(err, s.pruneTable(ctx, `delete from audit where id in
			(select id from audit where at < $1 limit $2)`, micros(now.Add(-s.cfg.KeepAudit)), pruneBatch))
	}
	err = errors.Join(err, s.pruneTable(ctx, `delete from api_keys where id in
		(select id from api_keys where type = $3 and expires_at > 0 and expires_at < $1 limit $2)`, micros(now), pruneBatch, string(sandbox.ScopedKey)))
	err = errors.Join(err, s.pruneTable(ctx, `delete from tickets where hash in
		(select hash from tickets where expires_at < $1 limit $2)`, micros(now), pruneBatch))
	if s.cfg.KeepSandboxes > 0 {
		err = errors.Join(err, s.pruneTable(ctx, `delete from sandboxes where id in
			(select id from sandboxes where freed = $3 and state in ($4, $5) and updated_at < $1 limit $2)`,
			micros(now.Add(-s.cfg.KeepSandboxes)), pruneBatch, true, string(sandbox.Destroyed), string(sandbox.Failed)))
		// Of a build that long ago its end is enough.
		err = errors.Join(err, s.pruneTable(ctx, `delete from build_events where (build, seq) in
			(select e.build, e.seq from build_events e join builds b on b.id = e.build where e.event = 'step_output'
				and b.finished_at > 0 and b.finished_at < $1 limit $2)`, micros(now.Add(-s.cfg.KeepSandboxes)), pruneBatch))
	}
	if s.cfg.KeepRuns > 0 {
		err = errors.Join(err, s.pruneTable(ctx, `delete from runs where (sandbox, started_at) in
			(select sandbox, started_at from runs where ended_at > 0 and ended_at < $1 limit $2)`,
			micros(now.Add(-s.cfg.KeepRuns)), pruneBatch))
	}
	if s.cfg.MaxEnded > 0 {
		err = errors.Join(err, s.pruneEnded(ctx))
	}
	return errors.Join(err, s.pruneTable(ctx, `delete from labels where (sandbox, name, value) in
		(select sandbox, name, value from labels where sandbox not in (select id from sandboxes) limit $1)`, pruneBatch))
}

// pruneEnded looks for tenants with too many ended sandboxes without holding up
// the writer.
func (s *Store) pruneEnded(ctx context.Context) error {
	tenants, err := s.crowded(ctx)
	for _, tenant := range tenants {
		err = errors.Join(err, s.pruneTable(ctx, `delete from sandboxes where id in
			(select id from sandboxes where tenant = $1 and freed = $2 and state in ($3, $4)
			order by updated_at desc, id limit $5 offset $6)`,
			tenant, true, string(sandbox.Destroyed), string(sandbox.Failed), pruneBatch, s.cfg.MaxEnded))
	}
	return err
}

// crowded lists the tenants with more ended sandboxes than are kept.
func (s *Store) crowded(ctx context.Context) ([]string, error) {
	rows, err := s.read.QueryContext(ctx, `select tenant from sandboxes where freed = $1 and state in ($2, $3)
		group by tenant having count(*) > $4`, true, string(sandbox.Destroyed), string(sandbox.Failed), s.cfg.MaxEnded)
	if err != nil {
		return nil, wrap(err, "count ended sandboxes")
	}
	defer rows.Close()
	var tenants []string
	for rows.Next() {
		var tenant string
		if err := rows.Scan(&tenant); err != nil {
			return nil, wrap(err, "count ended sandboxes")
		}
		tenants = append(tenants, tenant)
	}
	return tenants, wrap(rows.Err(), "count ended sandboxes")
}

func (s *Store) pruneTable(ctx context.Context, query string, args ...any) error {
	for n := int64(pruneBatch); n == pruneBatch; {
		err := s.do(ctx, "prune", func(t *tx) (err error) {
			n, err = t.exec(query, args...)
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}
