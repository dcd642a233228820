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
	Passing   bool   // made for a fork, listed nowhere, and gone with it
	Reason    string // of a failure

	// Parent is what copies take over of the sandbox: whose it was, its limits,
	// tags and metadata.
	Parent Parent
	Spec   Spec   // of the sandbox, with its template's revision
	Base   Ref    // root file system it was started from
	Memory Ref    // memory and writable layer
	Files  Ref    // the writable layer alone, for when the memory can't be restored
	Key    string // the driver's word for what a restore of Memory needs
	Size   int64  // bytes it takes on disk

	Retention  time.Duration // after the last use; 0: none
	ExpiresAt  time.Time     // zero: never
	LastUsedAt time.Time
	CreatedAt  time.Time
	UpdatedAt  time.Time
	Node       string
}

// Parent is what copies of a sandbox take over, beyond its Spec.
type Parent struct {
	Project  string // UUID
	External External
	Timeout  time.Duration
	Idle     time.Duration
	Persist  bool
	AlwaysOn bool
	Tags     []string
	Metadata map[string]any
}

// ParentOf returns what copies of sb take over.
func ParentOf(sb Sandbox) Parent {
	return Parent{
		Project: sb.Project, External: sb.External, Timeout: sb.Timeout, Idle: sb.Idle,
		Persist: sb.Persist, AlwaysOn: sb.AlwaysOn, Tags: sb.Tags, Metadata: sb.Metadata,
	}
}

// SnapshotRequest asks for a snapshot.
type SnapshotRequest struct {
	Comment   string
	Keep      bool
	Retention time.Duration
	Expires   time.Duration // from now; 0: never

	Idempotency Idempotency // the same Key returns the snapshot it made
}

// ForkRequest asks for copies of a running sandbox, or of a snapshot.
type ForkRequest struct {
	Snapshot string // ID; empty: of the sandbox as it is now
	Count    int    // 1 to 16
	Name     string
	External External // empty fields: the parent's
	Timeout  time.Duration
	Metadata map[string]any // nil: the parent's

	Idempotency Idempotency // the same Key returns the copies it made
}
