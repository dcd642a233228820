package sandbox

import "time"

// SnapshotStatus is where a snapshot stands.
type SnapshotStatus string

const (
	SnapshotCreating  SnapshotStatus = "creating"
	SnapshotReady     SnapshotStatus = "ready"
	SnapshotRestoring SnapshotStatus = "restoring" // ready, and being restored from
	SnapshotFailed    SnapshotStatus = "failed"
	SnapshotDeleted   SnapshotStatus = "deleted"
)

// Snapshot is memory and files of a tenant's sandbox at one moment.
type Snapshot struct {
	ID        string // "snap_…"
	Tenant    TenantID
	Workspace string // of the sandbox
	Sandbox   ID     // it was taken of; may be gone by now
	Status    SnapshotStatus
	Comment   string
	Keep      bool   // does not expire
	Reason    string // of a failure

	Spec   Spec // of the sandbox, with its template's revision
	Base   Ref  // root file system it was started from
	Memory Ref  // memory and writable layer
	Files  Ref  // the writable layer alone, for when the memory can't be restored
	Key    string
	Size   int64 // bytes it takes on disk

	Retention  time.Duration // after the last use; 0: none
	ExpiresAt  time.Time     // zero: never
	LastUsedAt time.Time
	CreatedAt  time.Time
	UpdatedAt  time.Time
	Node       string
}

// SnapshotRequest asks for a snapshot.
type SnapshotRequest struct {
	Comment   string
	Keep      bool
	Retention time.Duration
	Expires   time.Duration // from now; 0: never
}

// ForkRequest asks for copies of a running sandbox, or of a snapshot.
type ForkRequest struct {
	Snapshot string // ID; empty: of the sandbox as it is now
	Count    int    // 1 to 16
	Name     string
	External External // empty fields: the parent's
	Timeout  time.Duration
	Metadata map[string]any // nil: the parent's
}
