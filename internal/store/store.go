// Package store keeps what must survive a crash, as rows, so that nobody else
// need know how a database is spoken to.
//
// One goroutine writes. It commits everything that waits for it at once, so
// concurrent callers share the cost of making a commit durable; a call returns
// when its own rows are. Readers have connections of their own. On PostgreSQL
// the writers of several daemons take turns, one transaction at a time, so the
// rules of one writer hold there too: what a transaction has read stays true
// until it commits, and numbers of rows rise in the order of commits.
package store

import (
	"cmp"
	"context"
	"errors"
	"sync"
	"time"

	"silica.dev/silica/internal/event"
	"silica.dev/silica/sandbox"
)

// Config says where the rows are and how long finished ones are kept. Zero
// durations take the defaults, negative ones keep for ever.
type Config struct {
	URL           string        // postgres://…; empty: SQLite
	Path          string        // the SQLite file
	Node          string        // the id of this server among those that share the database
	NodeURL       string        // where the others reach it; empty: nowhere
	Version       string        // of this server, to show
	KeepEvents    time.Duration // default 7 days
	KeepSandboxes time.Duration // after their end; default 30 days
	KeepRuns      time.Duration // what was used, after it was; default 400 days
	// MaxEnded is how many ended sandboxes of a tenant are kept, the newest.
	// Default 10,000; negative: all.
	MaxEnded  int
	KeepAudit time.Duration // default 90 days
	// Prices is what running is charged with; none: nothing is charged.
	Prices sandbox.Prices
	// SharedEvery is how often to look whether another server on the same
	// database has changed an account. Default: never on SQLite, and twice a
	// second on PostgreSQL.
	SharedEvery time.Duration
	// OnCommit is told of every transaction: how long it took, and how many
	// writes shared it. It must not block. nil: nobody.
	OnCommit func(took time.Duration, writes int, err error)
	// OnPruneError is told when the hourly cleaning fails. nil: nobody.
	OnPruneError func(error)
}

// Store is the database. Its methods may be called by many goroutines.
type Store struct {
	cfg Config
	dialect
	write  *statements // one connection
	read   *statements
	jobs   chan *job
	quit   chan struct{}
	closed sync.Once
	done   sync.WaitGroup
	keys   keyCache
	others others

	mu         sync.Mutex
	announce   func(event.Event)
	onAccounts func()
}

// Open opens the database, making or upgrading its tables.
func Open(ctx context.Context, cfg Config) (*Store, error) {
	if cfg.KeepEvents == 0 {
		cfg.KeepEvents = 7 * 24 * time.Hour
	}
	if cfg.KeepSandboxes == 0 {
		cfg.KeepSandboxes = 30 * 24 * time.Hour
	}
	if cfg.KeepRuns == 0 {
		cfg.KeepRuns = 400 * 24 * time.Hour
	}
	if cfg.KeepAudit == 0 {
		cfg.KeepAudit = 90 * 24 * time.Hour
	}
	if cfg.MaxEnded == 0 {
		cfg.MaxEnded = 10_000
	}
	s := &Store{cfg: cfg, dialect: sqliteDialect{}, jobs: make(chan *job), quit: make(chan struct{})}
	if cfg.URL != "" {
		s.dialect = postgresDialect{cfg.Node}
		s.cfg.SharedEvery = cmp.Or(cfg.SharedEvery, 500*time.Millisecond)
	}
	write, read, err := s.open(cfg)
	if err != nil {
		return nil, err
	}
	s.write, s.read = prepared(write), prepared(read)
	s.write.SetMaxOpenConns(1)
	if err := migrate(ctx, s.dialect, write); err != nil {
		return nil, errors.Join(classify(err), s.read.Close(), s.write.Close())
	}
	s.done.Go(s.commitLoop)
	if err := s.join(ctx); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	s.done.Go(s.pruneLoop)
	s.done.Go(s.accountsLoop)
	s.done.Go(s.settleLoop)
	return s, nil
}

// Close finishes what is being written and closes the database.
func (s *Store) Close() error {
	var err error
	s.closed.Do(func() {
		_ = s.writeUsed()
		close(s.quit)
		s.done.Wait()
		_ = s.read.Close()
		err = s.write.Close()
	})
	return err
}

// Announce has fn told of every event once its transaction is durable, in the
// order of their Seq. fn must not block and must not call the store. There is
// one fn; set it before the first write.
func (s *Store) Announce(fn func(event.Event)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.announce = fn
}

// Meta reads a value of the installation; "" when it was never set.
func (s *Store) Meta(ctx context.Context, name string) (string, error) {
	var v string
	err := s.read.QueryRowContext(ctx, `select value from meta where name = $1`, name).Scan(&v)
	if none(err) {
		return "", nil
	}
	return v, wrap(err, "meta %s", name)
}

// SetMeta sets a value of the installation.
func (s *Store) SetMeta(ctx context.Context, name, value string) error {
	return s.do(ctx, "set meta", func(t *tx) error {
		_, err := t.exec(`insert into meta (name, value) values ($1, $2)
			on conflict (name) do update set value = excluded.value`, name, value)
		return err
	})
}
