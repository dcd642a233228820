package store

import (
	"bytes"
	"cmp"
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"

	"github.com/pressly/goose/v3"

	"silica.dev/silica/sandbox"
)

//go:embed migrations
var migrations embed.FS

// dialect is all in which the databases differ: everything else is the same SQL
// in both. Columns are text, bigint and boolean, parameters $1, $2 …
type dialect interface {
	// open connects a writer, of one connection, and readers.
	open(cfg Config) (write, read *sql.DB, err error)
	// begin is the first thing in a writing transaction. turn names it for
	// committed, which tells whether the last one has happened although its
	// commit was cut off.
	begin(tx *sql.Tx) (turn string, err error)
	committed(db *sql.DB, turn string) (bool, error)
	// numberKey defines a primary key that numbers its rows, none twice.
	numberKey() string
	// goose names the dialect to who runs the migrations.
	goose() (goose.Dialect, []goose.ProviderOption, error)
}

func migrate(ctx context.Context, d dialect, db *sql.DB) error {
	dir, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return fmt.Errorf("migrations: %w", err)
	}
	name, options, err := d.goose()
	if err != nil {
		return fmt.Errorf("migrations: %w", err)
	}
	p, err := goose.NewProvider(name, db, schema{dir, d.numberKey()}, append(options, goose.WithAllowOutofOrder(true))...)
	if err != nil {
		return fmt.Errorf("migrations: %w", err)
	}
	if _, err := p.Up(ctx); err != nil {
		return fmt.Errorf("upgrade database: %w", err)
	}
	return nil
}

// schema is the folder of migrations in the words of a dialect.
type schema struct {
	fs.FS
	numberKey string
}

func (s schema) Open(name string) (fs.File, error) {
	f, err := s.FS.Open(name)
	if err != nil || !strings.HasSuffix(name, ".sql") {
		return f, err
	}
	text, err := io.ReadAll(f)
	if err != nil {
		return nil, err
	}
	return script{f, bytes.NewReader(bytes.ReplaceAll(text, []byte("ROW_NUMBER_KEY"), []byte(s.numberKey)))}, nil
}

// script is a file with another content.
type script struct {
	fs.File
	text io.Reader
}

func (s script) Read(p []byte) (int, error) { return s.text.Read(p) }

var (
	errClosed       = sandbox.E(sandbox.Unavailable, sandbox.CodeUnavailable, "the server is shutting down")
	errDatabaseFull = sandbox.E(sandbox.Unavailable, sandbox.CodeHostFull, "the server's disk is full")
	errDatabaseAway = sandbox.E(sandbox.Unavailable, sandbox.CodeUnavailable, "the server's database can't be used just now: try again soon")
	errUnknown      = sandbox.E(sandbox.Timeout, sandbox.CodeTimeout, "the server's database went away while it stored this: it may have happened, look before you repeat it")
	errNotHere      = sandbox.E(sandbox.Unavailable, sandbox.CodeNodeUnavailable, "the sandbox is on another server")
	errBadText      = sandbox.E(sandbox.Invalid, sandbox.CodeValidation, "text must be UTF-8 without NUL characters")
)

// wrap adds what was being done, and classifies.
func wrap(err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf(format+": %w", append(args, classify(err))...)
}

// classify turns what the database says about its condition into what a caller
// can act on. Other errors stay as they are: Internal.
func classify(err error) error {
	var mine *sandbox.Error
	switch {
	case errors.As(err, &mine):
		return err
	case errors.Is(err, sql.ErrConnDone), errors.Is(err, sql.ErrTxDone):
		return errClosed.Because(err)
	}
	if known := cmp.Or(classifySQLite(err), classifyPostgres(err)); known != nil {
		return known.Because(err)
	}
	return err
}

func none(err error) bool { return errors.Is(err, sql.ErrNoRows) }

// unique tells whether err is the violation of a unique constraint.
func unique(err error) bool { return uniqueSQLite(err) || uniquePostgres(err) }
