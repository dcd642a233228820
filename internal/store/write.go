package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"time"

	"silica.dev/silica/internal/event"
	"silica.dev/silica/sandbox"
)

// job is one caller's transaction. run may be called twice: it must set all its
// results anew each time.
type job struct {
	ctx  context.Context
	run  func(*tx) error
	done chan error
}

// maxBatch bounds how many callers' transactions share one commit.
const maxBatch = 64

// outcomeWait bounds how long the outcome of a commit may stay unknown.
const outcomeWait = 2 * time.Minute

// tx is one transaction.
type tx struct {
	sql    *sql.Tx
	db     *statements
	node   string
	events []event.Event
	asked  []string // what is not kept prepared yet: it holds the only connection
}

func (t *tx) exec(query string, args ...any) (rows int64, err error) {
	var res sql.Result
	if st := t.prepared(query); st != nil {
		res, err = st.Exec(args...)
	} else {
		res, err = t.sql.Exec(query, args...)
	}
	if err != nil {
		return 0, err
	}
	return res.RowsAffected()
}

func (t *tx) row(query string, args ...any) *sql.Row {
	if st := t.prepared(query); st != nil {
		return st.QueryRow(args...)
	}
	return t.sql.QueryRow(query, args...)
}

// prepared is a query as it is kept, for this transaction; nil when it is not.
func (t *tx) prepared(query string) *sql.Stmt {
	st, room := t.db.find(query)
	if st != nil {
		return t.sql.Stmt(st)
	}
	if room {
		t.asked = append(t.asked, query)
	}
	return nil
}

// record stores an event in the transaction.
func (t *tx) record(e event.Event) error {
	data, err := json.Marshal(e.Data)
	if err != nil {
		return fmt.Errorf("event data: %w", err)
	}
	err = t.row(`insert into events (sandbox, tenant, type, data, at) values ($1, $2, $3, $4, $5) returning seq`,
		string(e.Sandbox), string(e.Tenant), e.Type, string(data), micros(e.At)).Scan(&e.Seq)
	if err != nil {
		return fmt.Errorf("store event: %w", err)
	}
	t.events = append(t.events, e)
	return nil
}

// do runs a transaction and returns when it is durable. Once it has begun,
// ctx can't stop it: a caller who leaves must not leave half an answer behind.
func (s *Store) do(ctx context.Context, what string, run func(*tx) error) error {
	j := &job{ctx: ctx, run: run, done: make(chan error, 1)}
	select {
	case s.jobs <- j:
	case <-ctx.Done():
		return fmt.Errorf("%s: %w", what, context.Cause(ctx))
	case <-s.quit:
		return errClosed
	}
	return wrap(<-j.done, "%s", what)
}

func (s *Store) commitLoop() {
	for {
		var batch []*job
		select {
		case j := <-s.jobs:
			batch = append(batch, j)
		case <-s.quit:
			return
		}
	gather:
		for len(batch) < maxBatch {
			select {
			case j := <-s.jobs:
				batch = append(batch, j)
			default:
				break gather
			}
		}
		err := s.commit(batch...)
		for _, j := range batch {
			// One of several failed, and nothing has happened yet (unless nobody
			// knows): each gets a transaction of its own. (A savepoint for each would not do: on a
			// full disk SQLite rolls back the whole transaction.)
			if err != nil && len(batch) > 1 && !sandbox.HasCode(err, errUnknown.Code) {
				j.done <- s.commit(j)
				continue
			}
			j.done <- err
		}
	}
}

// commit runs the jobs in one transaction: all or, on an error, none.
func (s *Store) commit(batch ...*job) error {
	start := time.Now()
	err := s.commitAll(batch)
	if s.cfg.OnCommit != nil {
		s.cfg.OnCommit(time.Since(start), len(batch), err)
	}
	return err
}

func (s *Store) commitAll(batch []*job) error {
	sqlTx, err := s.write.Begin()
	if err != nil {
		return classify(err)
	}
	turn, err := s.begin(sqlTx)
	if err != nil {
		_ = sqlTx.Rollback()
		return classify(err)
	}
	var events []event.Event
	var asked []string
	for _, j := range batch {
		t := &tx{sql: sqlTx, db: s.write, node: s.cfg.Node}
		err := context.Cause(j.ctx)
		if err == nil {
			err = j.run(t)
		}
		if err != nil {
			_ = sqlTx.Rollback()
			return classify(err)
		}
		events, asked = append(events, t.events...), append(asked, t.asked...)
	}
	if err := sqlTx.Commit(); err != nil {
		_ = sqlTx.Rollback()
		if err = classify(err); !sandbox.HasCode(err, sandbox.CodeUnavailable) {
			return err
		}
		if err := s.outcome(turn, err); err != nil {
			return err
		}
	}
	for _, query := range asked {
		s.write.keep(context.Background(), query)
	}
	s.mu.Lock()
	announce := s.announce
	s.mu.Unlock()
	if announce != nil {
		for _, e := range events {
			announce(e)
		}
	}
	return nil
}

// outcome finds out about a commit that was cut off by cause: nil says that it
// has happened. Until the database can tell, others are turned away at once.
func (s *Store) outcome(turn string, cause error) error {
	giveUp := time.NewTimer(outcomeWait)
	defer giveUp.Stop()
	look := time.NewTicker(100 * time.Millisecond)
	defer look.Stop()
	for {
		select {
		case <-look.C:
			switch committed, err := s.committed(s.write.DB, turn); {
			case err == nil && committed:
				return nil
			case err == nil:
				return cause
			}
		case j := <-s.jobs:
			j.done <- errDatabaseAway
		case <-giveUp.C:
			return errUnknown.Because(cause)
		case <-s.quit:
			return errUnknown.Because(cause)
		}
	}
}

func micros(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMicro()
}

func fromMicros(n int64) time.Time {
	if n == 0 {
		return time.Time{}
	}
	return time.UnixMicro(n).UTC()
}
