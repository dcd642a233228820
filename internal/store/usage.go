package store

import (
	"context"
	"fmt"
	"time"

	"silica.dev/silica/sandbox"
)

var groupColumns = map[sandbox.GroupBy]string{
	sandbox.ByNothing: "''", sandbox.ByWorkspace: "r.workspace", sandbox.ByProject: "r.project",
	sandbox.ByExternalUser: "r.ext_user", sandbox.ByExternalWorkspace: "r.ext_workspace", sandbox.ByExternalProject: "r.ext_project",
}

// runsWithin selects the runs of f that overlap its window.
func runsWithin(f sandbox.UsageFilter) where {
	w := where{}
	w.equal("r.tenant", string(f.Tenant))
	w.add("r.started_at < $%d", micros(f.Window.To))
	w.add("(r.ended_at = 0 or r.ended_at > $%d)", micros(f.Window.From))
	for _, c := range []struct{ column, value string }{
		{"r.workspace", f.Workspace}, {"r.project", f.Project},
		{"r.ext_workspace", f.External.Workspace}, {"r.ext_user", f.External.User}, {"r.ext_project", f.External.Project},
	} {
		if c.value != "" {
			w.equal(c.column, c.value)
		}
	}
	return w
}

// SumUsage adds up the runs that overlap the filter's window, which must end by
// now, in groups. There is none for what nobody used.
func (s *Store) SumUsage(ctx context.Context, f sandbox.UsageFilter, by sandbox.GroupBy) ([]sandbox.UsageSum, error) {
	if by == sandbox.ByDay {
		return s.sumByDay(ctx, f)
	}
	column, ok := groupColumns[by]
	if !ok {
		return nil, sandbox.Field("group_by", "is nothing usage can be grouped by")
	}
	w := runsWithin(f)
	// $2 is the window's end and $3 its beginning. Milliseconds keep the
	// products within 63 bits.
	const ms = `((case when r.ended_at = 0 or r.ended_at > $2 then $2 else r.ended_at end) - (case when r.started_at < $3 then $3 else r.started_at end)) / 1000`
	return queryList(ctx, s, "usage", func(row scanner) (sandbox.UsageSum, error) {
		u := sandbox.UsageSum{From: f.Window.From, To: f.Window.To}
		var runtime, cpu int64
		err := row.Scan(&u.Group, &u.Runs, &runtime, &u.MilliCPU, &u.MemoryMiB, &u.DiskMiB, &cpu, &u.NetworkIn, &u.NetworkOut)
		u.Runtime, u.CPU = time.Duration(runtime)*time.Millisecond, duration(cpu)
		return u, err
	}, fmt.Sprintf(`select %[1]s, count(*), cast(sum(%[2]s) as bigint), cast(sum(%[2]s * r.milli_cpu) as bigint),
		cast(sum(%[2]s * (r.memory / 1048576)) as bigint), cast(sum(%[2]s * (coalesce(s.disk, 0) / 1048576)) as bigint),
		cast(sum(r.cpu_us) as bigint), cast(sum(r.net_in) as bigint), cast(sum(r.net_out) as bigint)
		from runs r left join sandboxes s on s.id = r.sandbox %[3]s group by 1 having count(*) > 0 order by 1 limit %[4]d`,
		column, ms, w.text(), maxGroups), w.args...)
}

// maxGroups bounds one answer.
const maxGroups = 10_000

// maxDays bounds the window of usage by day.
const maxDays = 366

func (s *Store) sumByDay(ctx context.Context, f sandbox.UsageFilter) ([]sandbox.UsageSum, error) {
	if f.Window.To.Sub(f.Window.From) > maxDays*24*time.Hour {
		return nil, sandbox.Field("from", fmt.Sprintf("must be within %d days of to, by day", maxDays))
	}
	var all []sandbox.UsageSum
	for from := f.Window.From; from.Before(f.Window.To); {
		next := from.UTC().Truncate(24 * time.Hour).Add(24 * time.Hour)
		day := f
		day.Window = sandbox.Window{From: from, To: next}
		if f.Window.To.Before(next) {
			day.Window.To = f.Window.To
		}
		sums, err := s.SumUsage(ctx, day, sandbox.ByNothing)
		if err != nil {
			return nil, err
		}
		for _, u := range sums {
			u.Group = from.UTC().Format(time.DateOnly)
			all = append(all, u)
		}
		from = next
	}
	return all, nil
}

// Runs returns the runs that overlap the filter's window, newest first, limit of
// them after offset, and how many there are.
func (s *Store) Runs(ctx context.Context, f sandbox.UsageFilter, limit, offset int) (list []sandbox.Run, total int, err error) {
	w := runsWithin(f)
	if err := s.read.QueryRowContext(ctx, `select count(*) from runs r `+w.text(), w.args...).Scan(&total); err != nil {
		return nil, 0, wrap(err, "count runs")
	}
	list, err = queryList(ctx, s, "runs", scanRun, `select r.sandbox, r.tenant, r.workspace, r.project, r.ext_workspace, r.ext_user, r.ext_project,
		r.milli_cpu, r.memory, r.started_at, r.ended_at, r.cpu_us, r.net_in, r.net_out from runs r `+w.text()+
		fmt.Sprintf(` order by r.started_at desc, r.sandbox limit %d offset %d`, limit, offset), w.args...)
	return list, total, err
}

func scanRun(row scanner) (r sandbox.Run, err error) {
	var started, ended, cpu int64
	err = row.Scan(&r.Sandbox, &r.Tenant, &r.Workspace, &r.Project, &r.External.Workspace, &r.External.User, &r.External.Project,
		&r.MilliCPU, &r.Memory, &started, &ended, &cpu, &r.NetworkIn, &r.NetworkOut)
	r.StartedAt, r.EndedAt, r.CPU = fromMicros(started), fromMicros(ended), duration(cpu)
	return r, err
}
