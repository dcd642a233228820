package store

import (
	"context"
	"time"

	"silica.dev/silica/sandbox"
)

// track opens a run when sb has come to run, and closes it when it has left.
// What no tenant owns has no runs.
func (t *tx) track(sb sandbox.Sandbox, from sandbox.State) error {
	ran, runs := from == sandbox.Running, sb.State == sandbox.Running
	if sb.Tenant == "" || ran == runs {
		return nil
	}
	at := micros(sb.UpdatedAt)
	if ran {
		_, err := t.exec(`update runs set ended_at = case when started_at > $1 then started_at else $1 end
			where sandbox = $2 and ended_at = 0`, at, string(sb.ID))
		return err
	}
	_, err := t.exec(`insert into runs (sandbox, tenant, workspace, project, ext_workspace, ext_user, ext_project, milli_cpu, memory,
		started_at, ended_at, metered_at, cpu_us, net_in, net_out, seen_cpu_us, seen_net_in, seen_net_out)
		values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, 0, $10, 0, 0, 0, 0, 0, 0)`,
		string(sb.ID), string(sb.Tenant), sb.Workspace, sb.Project, sb.External.Workspace, sb.External.User, sb.External.Project,
		sb.Spec.MilliCPU, sb.Spec.Memory, at)
	return err
}

// Measure adds readings to the runs in which they were taken, all in one
// transaction. The same reading may come again.
func (s *Store) Measure(ctx context.Context, readings []sandbox.Reading) error {
	if len(readings) == 0 {
		return nil
	}
	return s.do(ctx, "measure", func(t *tx) error { return t.measure(readings) })
}

// since is the SQL for what a counter has grown by since it was last seen, and
// since its base when it never was. A counter that stands lower began anew.
func since(column, now, base string) string {
	return now + ` - case when seen_cpu_us = 0 then cast(` + base + ` as bigint)
		when seen_` + column + ` <= ` + now + ` then seen_` + column + ` else 0 end`
}

var addReading = `update runs set
	cpu_us = cpu_us + ` + since("cpu_us", "$2", "$3") + `,
	net_in = net_in + ` + since("net_in", "$4", "$5") + `,
	net_out = net_out + ` + since("net_out", "$6", "$7") + `,
	seen_cpu_us = $2, seen_net_in = $4, seen_net_out = $6, metered_at = $8
	where sandbox = $1 and metered_at <= $8
	and started_at = (select max(started_at) from runs where sandbox = $1 and started_at <= $8)`

func (t *tx) measure(readings []sandbox.Reading) error {
	for _, r := range readings {
		_, err := t.exec(addReading, string(r.Sandbox), r.Now.CPU.Microseconds(), r.Base.CPU.Microseconds(),
			r.Now.NetworkIn, r.Base.NetworkIn, r.Now.NetworkOut, r.Base.NetworkOut, micros(r.At))
		if err != nil {
			return err
		}
	}
	return nil
}

// EndRun closes the run of a sandbox that was lost at an unknown moment, when it
// was last measured.
func (s *Store) EndRun(ctx context.Context, id sandbox.ID) error {
	return s.do(ctx, "end run", func(t *tx) error {
		_, err := t.exec(`update runs set ended_at = metered_at where sandbox = $1 and ended_at = 0`, string(id))
		return err
	})
}

// Usage adds up the runs of a sandbox until now, and the reading live of what
// runs just now, unless that is nil.
func (s *Store) Usage(ctx context.Context, id sandbox.ID, now time.Time, live *sandbox.Reading) (sandbox.Usage, error) {
	rows, err := s.read.QueryContext(ctx, `select milli_cpu, memory, started_at, ended_at, cpu_us, net_in, net_out,
		seen_cpu_us, seen_net_in, seen_net_out from runs where sandbox = $1 order by started_at`, string(id))
	if err != nil {
		return sandbox.Usage{}, wrap(err, "read runs")
	}
	defer rows.Close()
	var u sandbox.Usage
	var last, seen sandbox.Counters
	for rows.Next() {
		var milliCPU, memory, started, ended, cpu, seenCPU int64
		last, seen = sandbox.Counters{}, sandbox.Counters{}
		err := rows.Scan(&milliCPU, &memory, &started, &ended, &cpu, &last.NetworkIn, &last.NetworkOut,
			&seenCPU, &seen.NetworkIn, &seen.NetworkOut)
		if err != nil {
			return sandbox.Usage{}, wrap(err, "read runs")
		}
		if ended == 0 {
			ended = max(micros(now), started)
		}
		last.CPU, seen.CPU = duration(cpu), duration(seenCPU)
		ran := duration(ended - started)
		u.Runtime += ran
		u.CPUTime += ran / 1000 * time.Duration(milliCPU)
		u.MemoryMiBMilli += ran.Milliseconds() * (memory / sandbox.MiB)
		u.CPU += last.CPU
		u.NetworkIn += last.NetworkIn
		u.NetworkOut += last.NetworkOut
	}
	if live != nil {
		if seen.CPU == 0 {
			seen = live.Base
		}
		u.CPU += grown(live.Now.CPU, seen.CPU)
		u.NetworkIn += grown(live.Now.NetworkIn, seen.NetworkIn)
		u.NetworkOut += grown(live.Now.NetworkOut, seen.NetworkOut)
	}
	return u, wrap(rows.Err(), "read runs")
}

// grown is what [since] is in SQL.
func grown[N int64 | time.Duration](now, seen N) N {
	if now < seen {
		return now
	}
	return now - seen
}
