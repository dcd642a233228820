// Package blob keeps immutable artifacts (images, snapshots) under the digest of
// their content, so that nobody else need care where they are or whether a
// half-written one could be mistaken for a whole.
package blob

import (
	"context"

	"silica.dev/silica/sandbox"
)

// Store holds artifacts. An artifact is a flat folder of named files; its Ref is
// the SHA-256 of its manifest (name, size and SHA-256 of each file, sorted).
type Store interface {
	// Put takes over the flat folder dir (on the same file system as the
	// store, see TempDir) and returns when every byte and name is durable.
	// Putting content that is already there is a success and removes dir.
	Put(ctx context.Context, dir string) (sandbox.Ref, error)
	// TempDir returns a fresh folder that Put can take over. What is not Put
	// is removed at the next start.
	TempDir(ctx context.Context) (string, error)
	// Open returns a host folder with the artifact's files, which stays until
	// release is called. [sandbox.NotFound] when there is none.
	Open(ctx context.Context, ref sandbox.Ref) (dir string, release func(), err error)
	// Verify reads everything back and compares digests.
	Verify(ctx context.Context, ref sandbox.Ref) error
	// Delete removes an artifact nobody has open; absent is a success.
	Delete(ctx context.Context, ref sandbox.Ref) error
	// List names all artifacts.
	List(ctx context.Context) ([]sandbox.Ref, error)
}
