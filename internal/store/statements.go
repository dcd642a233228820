package store

import (
	"context"
	"database/sql"
	"sync"
)

// mostStatements bounds those that are kept: lists are put together of what
// callers ask for.
const mostStatements = 128

// statements keeps what a database is asked, prepared. To parse it anew each time
// was a quarter of what a commit costs.
type statements struct {
	*sql.DB

	mu   sync.Mutex
	kept map[string]*sql.Stmt // nil: asked, but not prepared yet
}

func prepared(db *sql.DB) *statements {
	return &statements{DB: db, kept: map[string]*sql.Stmt{}}
}

// of is what is kept of a query; nil when nothing is. missing says that it may be.
func (s *statements) of(query string) (st *sql.Stmt, missing bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	st, asked := s.kept[query]
	if !asked && len(s.kept) < mostStatements {
		s.kept[query], asked = nil, true
	}
	return st, st == nil && asked
}

// prepare keeps a query. It needs a connection, so it must not wait for itself in a
// transaction. A query that can't be prepared tells its error when it is asked.
func (s *statements) prepare(ctx context.Context, query string) *sql.Stmt {
	st, err := s.DB.PrepareContext(ctx, query)
	if err != nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if first := s.kept[query]; first != nil {
		_ = st.Close()
		return first
	}
	s.kept[query] = st
	return st
}

// prepareAsked keeps what was asked in transactions since it was last called.
func (s *statements) prepareAsked(ctx context.Context) {
	s.mu.Lock()
	var asked []string
	for query, st := range s.kept {
		if st == nil {
			asked = append(asked, query)
		}
	}
	s.mu.Unlock()
	for _, query := range asked {
		s.prepare(ctx, query)
	}
}

// QueryContext is that of the database.
func (s *statements) QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	st, missing := s.of(query)
	if missing {
		st = s.prepare(ctx, query)
	}
	if st == nil {
		return s.DB.QueryContext(ctx, query, args...)
	}
	return st.QueryContext(ctx, args...)
}

// QueryRowContext is that of the database.
func (s *statements) QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row {
	st, missing := s.of(query)
	if missing {
		st = s.prepare(ctx, query)
	}
	if st == nil {
		return s.DB.QueryRowContext(ctx, query, args...)
	}
	return st.QueryRowContext(ctx, args...)
}
