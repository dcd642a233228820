package store

import (
	"context"
	"encoding/json"
	"slices"
	"time"

	"silica.dev/silica/internal/event"
	"silica.dev/silica/sandbox"
)

// maxErrors bounds the error events of a sandbox that are kept: what is inside
// says most of them, and is hostile.
const maxErrors = 200

// AppendEvent stores an event and returns it with its Seq. Of more errors of one
// sandbox than are kept, the first says so in their place and the others are
// dropped: they come back with Seq 0.
func (s *Store) AppendEvent(ctx context.Context, e event.Event) (event.Event, error) {
	if e.At.IsZero() {
		e.At = time.Now()
	}
	var got event.Event
	err := s.do(ctx, "append event", func(t *tx) error {
		got = e
		if e.Type == event.Error {
			var n int
			if err := t.row(`select count(*) from events where sandbox = $1 and type = $2`, string(e.Sandbox), event.Error).Scan(&n); err != nil {
				return err
			}
			switch {
			case n > maxErrors:
				return nil
			case n == maxErrors:
				got.Data = map[string]any{"code": sandbox.CodeRateLimited, "message": "too many errors: later ones are not recorded"}
			}
		}
		if err := t.record(got); err != nil {
			return err
		}
		got = t.events[0]
		return nil
	})
	return got, err
}

// EventsAfter returns up to limit events of a sandbox with a Seq above after, in
// order.
func (s *Store) EventsAfter(ctx context.Context, id sandbox.ID, after int64, limit int) ([]event.Event, error) {
	return s.events(ctx, `select seq, sandbox, tenant, type, data, at from events
		where sandbox = $1 and seq > $2 order by seq limit $3`, string(id), after, limit)
}

// EventsTail returns the last n events of a sandbox, in order.
func (s *Store) EventsTail(ctx context.Context, id sandbox.ID, n int) ([]event.Event, error) {
	list, err := s.events(ctx, `select seq, sandbox, tenant, type, data, at from events
		where sandbox = $1 order by seq desc limit $2`, string(id), n)
	slices.Reverse(list)
	return list, err
}

func (s *Store) events(ctx context.Context, query string, args ...any) ([]event.Event, error) {
	rows, err := s.read.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, wrap(err, "read events")
	}
	defer rows.Close()
	var list []event.Event
	for rows.Next() {
		var e event.Event
		var data string
		var at int64
		if err := rows.Scan(&e.Seq, &e.Sandbox, &e.Tenant, &e.Type, &data, &at); err != nil {
			return nil, wrap(err, "read events")
		}
		if err := json.Unmarshal([]byte(data), &e.Data); err != nil {
			return nil, wrap(err, "read event %d", e.Seq)
		}
		e.At = fromMicros(at)
		list = append(list, e)
	}
	return list, wrap(rows.Err(), "read events")
}

// LastEvent returns the highest Seq of a sandbox, 0 for none.
func (s *Store) LastEvent(ctx context.Context, id sandbox.ID) (seq int64, err error) {
	err = s.read.QueryRowContext(ctx, `select coalesce(max(seq), 0) from events where sandbox = $1`, string(id)).Scan(&seq)
	return seq, wrap(err, "read last event")
}
