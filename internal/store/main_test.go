package store

import (
	"context"
	"path/filepath"
	"sync"
	"testing"

	"silica.dev/silica/internal/store/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// onBoth runs a test on an empty SQLite and on an empty PostgreSQL. Tests of rows
// belong in it: the databases must not differ.
func onBoth(t *testing.T, test func(t *testing.T, s *Store)) {
	t.Helper()
	onBothWith(t, Config{}, test)
}

// onBothWith does so with a configuration, but for where the rows are.
func onBothWith(t *testing.T, cfg Config, test func(t *testing.T, s *Store)) {
	t.Helper()
	t.Run("sqlite", func(t *testing.T) {
		cfg := cfg
		cfg.Path = filepath.Join(t.TempDir(), "silica.db")
		test(t, openStore(t, cfg))
	})
	t.Run("postgres", func(t *testing.T) {
		cfg := cfg
		cfg.URL = newDatabase(t)
		test(t, openStore(t, cfg))
	})
}

func openSQLite(t testing.TB) *Store {
	t.Helper()
	return openStore(t, Config{Path: filepath.Join(t.TempDir(), "silica.db")})
}

func openPostgres(t testing.TB, url string) *Store {
	t.Helper()
	return openStore(t, Config{URL: url})
}

// withTables names a database that has its tables: copies of it are made faster.
var withTables struct {
	sync.Mutex
	name string
}

// newDatabase makes an empty one on the server of this run.
func newDatabase(t testing.TB) string {
	t.Helper()
	withTables.Lock()
	defer withTables.Unlock()
	if withTables.name == "" {
		name, url := pgtest.New(t, "")
		s, err := Open(context.Background(), Config{URL: url})
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		withTables.name = name
	}
	_, url := pgtest.New(t, withTables.name)
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
