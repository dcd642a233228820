package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"silica.dev/silica/sandbox"
)

// CopySQLite writes a consistent copy of the SQLite database at from, which a
// server may be using, to the file to, which must not exist.
func CopySQLite(ctx context.Context, from, to string) error {
	db, err := sql.Open("sqlite", sqliteDSN(from, "mode", "rw"))
	if err != nil {
		return fmt.Errorf("open database: %w", err)
	}
	defer db.Close()
	db.SetMaxOpenConns(1)
	if _, err := db.ExecContext(ctx, `vacuum into ?`, to); err != nil {
		return fmt.Errorf("copy database: %w", err)
	}
	return nil
}

// Artifacts returns the refs that the rows of a database name. cfg names the database as for Open; nothing in it is
// changed.
func Artifacts(ctx context.Context, cfg Config) (refs []sandbox.Ref, err error) {
	driver, dsn := "sqlite", sqliteDSN(cfg.Path, "mode", "rw", "_query_only", "on")
	if cfg.URL != "" {
		driver, dsn = "pgx", cfg.URL
	}
	db, err := sql.Open(driver, dsn)
	if err != nil {
		return nil, fmt.Errorf("open database: %w", err)
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	rows, err := db.QueryContext(ctx, heldRefs, holdingArgs...)
	if err != nil {
		return nil, fmt.Errorf("list artifacts: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var ref string
		if err := rows.Scan(&ref); err != nil {
			return nil, fmt.Errorf("list artifacts: %w", err)
		}
		refs = append(refs, sandbox.Ref(ref))
	}
	return refs, rows.Err()
}
