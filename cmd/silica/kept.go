package main

import (
	"context"
	"fmt"
	"slices"

	"silica.dev/silica/internal/blob"
	"silica.dev/silica/internal/store"
	"silica.dev/silica/sandbox"
)

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
