// Package storage tells who holds what on disk, and removes what nobody holds, so
// that neither those who make artifacts nor those who name them need count
// references.
package storage

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"silica.dev/silica/internal/blob"
	"silica.dev/silica/sandbox"
)

// Grace is how long an artifact is left alone that no row names: it is put before
// its row is written.
const Grace = time.Hour

// Rows is the database.
type Rows interface {
	// Holders lists every row that names an artifact.
	Holders(ctx context.Context) ([]sandbox.Holder, error)
}

// Blobs is where artifacts are.
type Blobs interface {
	Usage(ctx context.Context) ([]blob.Usage, error)
	Collect(ctx context.Context, ref sandbox.Ref, before time.Time) error
}

// Ledger is both.
type Ledger struct {
	Rows  Rows
	Blobs Blobs
}

// Artifacts lists what is on disk, the largest first.
func (l Ledger) Artifacts(ctx context.Context) ([]sandbox.Artifact, error) {
	// In this order what is put and named meanwhile is held, or not listed.
	used, err := l.Blobs.Usage(ctx)
	if err != nil {
		return nil, err
	}
	holders, err := l.Rows.Holders(ctx)
	if err != nil {
		return nil, err
	}
	by := map[sandbox.Ref][]sandbox.Holder{}
	for _, h := range holders {
		by[h.Ref] = append(by[h.Ref], h)
	}
	list := make([]sandbox.Artifact, len(used))
	for i, u := range used {
		list[i] = sandbox.Artifact{Ref: u.Ref, Size: u.Size, PutAt: u.PutAt, Holders: by[u.Ref]}
	}
	slices.SortStableFunc(list, func(a, b sandbox.Artifact) int { return int(min(max(b.Size-a.Size, -1), 1)) })
	return list, nil
}

// Collect removes what no row names and was put before the grace, and returns
// it. What is in use is left for another time.
func (l Ledger) Collect(ctx context.Context) (removed []sandbox.Artifact, err error) {
	before := time.Now().Add(-Grace)
	list, err := l.Artifacts(ctx)
	if err != nil {
		return nil, err
	}
	for _, a := range list {
		if len(a.Holders) > 0 || a.PutAt.After(before) {
			continue
		}
		err := l.Blobs.Collect(ctx, a.Ref, before)
		var refused *sandbox.Error
		if errors.As(err, &refused) && refused.Kind == sandbox.Conflict {
			continue
		}
		if err != nil {
			return removed, fmt.Errorf("collect %s: %w", a.Ref, err)
		}
		removed = append(removed, a)
	}
	return removed, nil
}
