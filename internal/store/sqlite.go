package store

import (
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"

	"github.com/pressly/goose/v3"
	"modernc.org/sqlite" // the driver named "sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"silica.dev/silica/sandbox"
)

// sqliteDialect is the embedded database, in one file that one daemon has.
type sqliteDialect struct{}

// Each connection that reads SQLite costs about 2 MiB.
const sqliteReaders = 4

func (sqliteDialect) open(cfg Config) (write, read *sql.DB, err error) {
	// Rows hold the environments of tenants: the file is made for its owner only.
	f, err := os.OpenFile(cfg.Path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, nil, fmt.Errorf("open database: %w", err)
	}
	_ = f.Close()
	if write, err = sql.Open("sqlite", sqliteDSN(cfg.Path, "_txlock", "immediate")); err != nil {
		return nil, nil, fmt.Errorf("open database: %w", err)
	}
	if read, err = sql.Open("sqlite", sqliteDSN(cfg.Path, "_query_only", "on")); err != nil {
		_ = write.Close()
		return nil, nil, fmt.Errorf("open database for reading: %w", err)
	}
	read.SetMaxOpenConns(sqliteReaders)
	read.SetMaxIdleConns(sqliteReaders)
	return write, read, nil
}

func sqliteDSN(path string, more ...string) string {
	q := url.Values{
		// FULL makes a commit durable before it returns; NORMAL would lose the
		// last ones in a power cut.
		"_pragma": {"journal_mode(WAL)", "synchronous(FULL)", "busy_timeout(5000)", "foreign_keys(on)", "temp_store(memory)"},
	}
	for i := 0; i+1 < len(more); i += 2 {
		q.Set(more[i], more[i+1])
	}
	return "file:" + (&url.URL{Path: path}).EscapedPath() + "?" + q.Encode()
}

// A commit to a file either succeeds or has not happened.
func (sqliteDialect) begin(*sql.Tx) (string, error)           { return "", nil }
func (sqliteDialect) committed(*sql.DB, string) (bool, error) { return false, nil }

func (sqliteDialect) numberKey() string { return "integer primary key autoincrement" }

func (sqliteDialect) goose() (goose.Dialect, []goose.ProviderOption, error) {
	return goose.DialectSQLite3, nil, nil
}

func classifySQLite(err error) *sandbox.Error {
	var se *sqlite.Error
	if !errors.As(err, &se) {
		return nil
	}
	switch se.Code() & 0xff { // the rest of the code says where it happened
	case sqlite3.SQLITE_FULL:
		return errDatabaseFull
	case sqlite3.SQLITE_IOERR, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY:
		return errDatabaseAway
	}
	return nil
}

func uniqueSQLite(err error) bool {
	var se *sqlite.Error
	return errors.As(err, &se) && (se.Code() == sqlite3.SQLITE_CONSTRAINT_UNIQUE || se.Code() == sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY)
}
