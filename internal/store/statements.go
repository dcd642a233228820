package store

import (
	"context"
	"database/sql"
	"sync"
)

// mostStatements bounds those that are kept: lists are put together of what
// callers ask for.
const mostStatements = 128

// statements is a database that keeps what it is asked prepared. To parse it anew
// each time was a quarter of what a commit to SQLite costs.
type statements struct {
	*sql.DB

	mu   sync.Mutex
	kept map[string]*sql.Stmt
}

func prepared(db *sql.DB) *statements {
	return &statements{DB: db, kept: map[string]*sql.Stmt{}}
}

// find returns what is kept of a query, and whether there is room to keep more.
func (s *statements) find(query string) (st *sql.Stmt, room bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.kept[query], len(s.kept) < mostStatements
}

// keep returns a query prepared; nil when there is no room for it, or when it can't
// be: it tells its error when it is asked. It takes a connection, so whoever holds
// the only one must not call it.
func (s *statements) keep(ctx context.Context, query string) *sql.Stmt {
	st, room := s.find(query)
	if st != nil || !room {
		return st
	}
	st, err := s.DB.PrepareContext(ctx, query)
	if err != nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if first := s.kept[query]; first != nil || len(s.kept) >= mostStatements {
		_ = st.Close()
		return first
	}
	s.kept[query] = st
	return st
}

// QueryContext is that of the database.
func (s *statements) QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	if st := s.keep(ctx, query); st != nil {
		return st.QueryContext(ctx, args...)
	}
	return s.DB.QueryContext(ctx, query, args...)
}

// QueryRowContext is that of the database.
func (s *statements) QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row {
	if st := s.keep(ctx, query); st != nil {
		return st.QueryRowContext(ctx, args...)
	}
	return s.DB.QueryRowContext(ctx, query, args...)
}
