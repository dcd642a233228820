package store

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"silica.dev/silica/sandbox"
)

var (
	noBuild    = sandbox.E(sandbox.NotFound, sandbox.CodeNotFound, "build not found")
	buildMoved = sandbox.E(sandbox.Conflict, sandbox.CodeBuildState, "the build is in another state by now")
)

const selectBuild = `select id, tenant, template, state, spec, base, revision, code, message, created_at, started_at, finished_at, updated_at from builds `

func scanBuild(row scanner) (b sandbox.Build, err error) {
	var spec string
	var created, started, finished, updated int64
	if err := row.Scan(&b.ID, &b.Tenant, &b.Template, &b.State, &spec, &b.Base, &b.Revision, &b.Code, &b.Message, &created, &started, &finished, &updated); err != nil {
		return sandbox.Build{}, err
	}
	b.CreatedAt, b.StartedAt, b.FinishedAt, b.UpdatedAt = fromMicros(created), fromMicros(started), fromMicros(finished), fromMicros(updated)
	return b, json.Unmarshal([]byte(spec), &b.Spec)
}

// insertBuild adds a build, with its first event.
func (t *tx) insertBuild(b sandbox.Build) error {
	spec, err := json.Marshal(b.Spec)
	if err != nil {
		return fmt.Errorf("spec of build %s: %w", b.ID, err)
	}
	if _, err := t.exec(`insert into builds (id, node, tenant, template, state, spec, base, revision, code, message, created_at, started_at, finished_at, updated_at)
		values ($1, $2, $3, $4, $5, $6, '', '', '', '', $7, 0, 0, $7)`,
		b.ID, t.node, string(b.Tenant), b.Template, string(b.State), string(spec), micros(b.CreatedAt)); err != nil {
		return err
	}
	return t.buildEvents(b.ID, sandbox.BuildEvent{Event: string(b.State), State: b.State, At: b.CreatedAt})
}

// buildEvents adds events to a build's history, in order.
func (t *tx) buildEvents(build string, events ...sandbox.BuildEvent) error {
	var seq int64
	if err := t.row(`select coalesce(max(seq), 0) from build_events where build = $1`, build).Scan(&seq); err != nil {
		return err
	}
	for _, e := range events {
		seq++
		if _, err := t.exec(`insert into build_events (build, seq, event, state, step, body, took, at) values ($1, $2, $3, $4, $5, $6, $7, $8)`,
			build, seq, e.Event, string(e.State), e.Step, e.Text, e.Took.Microseconds(), micros(e.At)); err != nil {
			return err
		}
	}
	return nil
}

// moveBuild changes the state of a build, and what change sets, with an event.
func (t *tx) moveBuild(id string, to sandbox.BuildState, at time.Time, change func(*sandbox.Build)) (b sandbox.Build, err error) {
	b, err = scanBuild(t.row(selectBuild+`where node = $1 and id = $2`, t.node, id))
	if none(err) {
		return b, noBuild
	}
	if err != nil {
		return b, err
	}
	from := b.State
	if !from.CanBecome(to) {
		return b, buildMoved.With("state", string(from))
	}
	b.State, b.UpdatedAt = to, at
	if to.Final() {
		b.FinishedAt = at
	}
	if change != nil {
		change(&b)
	}
	n, err := t.exec(`update builds set state = $1, base = $2, revision = $3, code = $4, message = $5, started_at = $6, finished_at = $7, updated_at = $8
		where id = $9 and state = $10`, string(to), b.Base, b.Revision, b.Code, b.Message, micros(b.StartedAt), micros(b.FinishedAt), micros(at), id, string(from))
	if err != nil {
		return b, err
	}
	if n == 0 {
		return b, buildMoved
	}
	events := []sandbox.BuildEvent{}
	if b.Code != "" {
		events = append(events, sandbox.BuildEvent{Event: "error", State: to, Text: b.Code + ": " + b.Message, At: at})
	}
	return b, t.buildEvents(id, append(events, sandbox.BuildEvent{Event: string(to), State: to, At: at})...)
}

// MoveBuild changes the state of a build, and whatever change sets, in one
// transaction with its event. [sandbox.CodeBuildState] says that it can't become
// that any more, and nothing has happened. change may run twice.
func (s *Store) MoveBuild(ctx context.Context, id string, to sandbox.BuildState, change func(*sandbox.Build)) (b sandbox.Build, err error) {
	err = s.do(ctx, fmt.Sprintf("move build %s to %s", id, to), func(t *tx) (err error) {
		b, err = t.moveBuild(id, to, time.Now(), change)
		return err
	})
	return b, err
}

// PublishBuild makes what was built the revision of t that serves: template,
// revision, seeds and the build's end are one transaction. t has the fields of
// the revision; the rest of its row stays as it is.
func (s *Store) PublishBuild(ctx context.Context, id string, t sandbox.Template, seeds ...sandbox.Seed) (b sandbox.Build, err error) {
	err = s.do(ctx, "publish build "+id, func(x *tx) (err error) {
		at := time.Now()
		if b, err = x.moveBuild(id, sandbox.BuildReady, at, func(b *sandbox.Build) { b.Revision = t.Revision }); err != nil {
			return err
		}
		for _, n := range seeds {
			if err := x.saveSeed(n); err != nil {
				return err
			}
		}
		if err := x.saveRevision(t, b.Base, at); err != nil {
			return err
		}
		n, err := x.exec(`update templates set revision = $1, updated_at = $2 where node = $3 and id = $4 and deleted_at = 0`,
			t.Revision, micros(at), x.node, t.ID)
		if err == nil && n == 0 {
			err = noTemplate
		}
		return err
	})
	return b, err
}

// AddBuildEvents adds what a build tells to its history.
func (s *Store) AddBuildEvents(ctx context.Context, build string, events []sandbox.BuildEvent) error {
	return s.do(ctx, "keep events of build "+build, func(t *tx) error { return t.buildEvents(build, events...) })
}

// BuildEvents returns at most limit events of a build that came after seq.
func (s *Store) BuildEvents(ctx context.Context, build string, after int64, limit int) ([]sandbox.BuildEvent, error) {
	rows, err := s.read.QueryContext(ctx, `select build, seq, event, state, step, body, took, at from build_events
		where build = $1 and seq > $2 order by seq limit $3`, build, after, limit)
	if err != nil {
		return nil, wrap(err, "read events of build %s", build)
	}
	defer rows.Close()
	var list []sandbox.BuildEvent
	for rows.Next() {
		var e sandbox.BuildEvent
		var took, at int64
		if err := rows.Scan(&e.Build, &e.Seq, &e.Event, &e.State, &e.Step, &e.Text, &took, &at); err != nil {
			return nil, wrap(err, "read events of build %s", build)
		}
		e.Took, e.At = time.Duration(took)*time.Microsecond, fromMicros(at)
		list = append(list, e)
	}
	return list, wrap(rows.Err(), "read events of build %s", build)
}

// Build returns a build of this node. [sandbox.NotFound] when there is none.
func (s *Store) Build(ctx context.Context, id string) (sandbox.Build, error) {
	b, err := scanBuild(s.read.QueryRowContext(ctx, selectBuild+`where node = $1 and id = $2`, s.cfg.Node, id))
	if none(err) {
		return sandbox.Build{}, noBuild
	}
	return b, wrap(err, "read build")
}

// Builds returns the builds of a template, newest first, at most limit.
func (s *Store) Builds(ctx context.Context, template string, limit int) ([]sandbox.Build, error) {
	return s.builds(ctx, `where node = $1 and template = $2 order by created_at desc, id desc limit $3`, s.cfg.Node, template, limit)
}

// OpenBuilds returns the builds that are not final, oldest first.
func (s *Store) OpenBuilds(ctx context.Context) ([]sandbox.Build, error) {
	return s.builds(ctx, `where node = $1 and state not in ($2, $3, $4) order by created_at, id`, s.cfg.Node,
		string(sandbox.BuildReady), string(sandbox.BuildFailed), string(sandbox.BuildCancelled))
}

func (s *Store) builds(ctx context.Context, where string, args ...any) ([]sandbox.Build, error) {
	rows, err := s.read.QueryContext(ctx, selectBuild+where, args...)
	if err != nil {
		return nil, wrap(err, "list builds")
	}
	defer rows.Close()
	var list []sandbox.Build
	for rows.Next() {
		b, err := scanBuild(rows)
		if err != nil {
			return nil, wrap(err, "list builds")
		}
		list = append(list, b)
	}
	return list, wrap(rows.Err(), "list builds")
}
