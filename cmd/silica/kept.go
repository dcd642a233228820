package main

import (
	"context"
	"fmt"
	"slices"

	"silica.dev/silica/internal/blob"
	"silica.dev/silica/internal/portable"
	"silica.dev/silica/internal/store"
	"silica.dev/silica/sandbox"
)

// largest is what one sandbox may have.
var largest = sandbox.Resources{MilliCPU: 16 * sandbox.Core, Memory: 32768 * sandbox.MiB, Disk: 81920 * sandbox.MiB}

// newCarrier makes what exports and imports snapshots.
func newCarrier(c Config, rows *store.Store, blobs *blob.Local) portable.Carrier {
	return portable.Carrier{
		Rows: rows, Blobs: blobs, Max: largest, Version: version,
		Room: func(size int64) error { return roomFor(func() (measure, error) { return diskOf(c.Data) }, size) },
	}
}

// neededBlobs is the store of artifacts for who makes and replaces images. It
// deletes none that a sandbox needs to start again.
type neededBlobs struct {
	blob.Store
	rows *store.Store
}

// Delete refuses with a Conflict what is needed.
func (n neededBlobs) Delete(ctx context.Context, ref sandbox.Ref) error {
	needed, err := n.rows.Kept(ctx)
	if err != nil {
		return fmt.Errorf("delete %s: %w", ref, err)
	}
	if slices.Contains(needed, ref) {
		return sandbox.E(sandbox.Conflict, sandbox.CodeConflict, "a sandbox needs the artifact")
	}
	return n.Store.Delete(ctx, ref)
}
