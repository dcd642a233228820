package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

	"silica.dev/silica/internal/store/pgtest"
)

// postgres is the server of this run; nil where none is installed.
var (
	postgres  *pgtest.Server
	databases atomic.Int64
)

func TestMain(m *testing.M) {
	var err error
	if postgres, err = pgtest.Start(context.Background()); err != nil && !errors.Is(err, pgtest.ErrMissing) {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	if postgres != nil {
		if err := postgres.Close(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// onBoth runs a test on an empty SQLite and on an empty PostgreSQL. Tests of rows
// belong in it: the databases must not differ.
func onBoth(t *testing.T, test func(t *testing.T, s *Store)) {
	t.Helper()
	t.Run("sqlite", func(t *testing.T) { test(t, openSQLite(t)) })
	t.Run("postgres", func(t *testing.T) { test(t, openPostgres(t, newDatabase(t))) })
}

func openSQLite(t testing.TB) *Store {
	t.Helper()
	return openStore(t, Config{Path: filepath.Join(t.TempDir(), "silica.db")})
}

func openPostgres(t testing.TB, url string) *Store {
	t.Helper()
	return openStore(t, Config{URL: url})
}

// newDatabase makes an empty one on the server of this run.
func newDatabase(t testing.TB) string {
	t.Helper()
	if postgres == nil {
		t.Skip(pgtest.ErrMissing)
	}
	url, err := postgres.Database(context.Background(), fmt.Sprint("test", databases.Add(1)))
	if err != nil {
		t.Fatal(err)
	}
	return url
}

func openStore(t testing.TB, cfg Config) *Store {
	t.Helper()
	s, err := Open(context.Background(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}
