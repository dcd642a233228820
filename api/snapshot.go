package api

import "time"

// Statuses of a snapshot. Nothing follows the last two.
const (
	SnapshotCreating  = "creating"
	SnapshotReady     = "ready"
	SnapshotRestoring = "restoring"
	SnapshotFailed    = "failed"
	SnapshotDeleted   = "deleted"
)

// CreateSnapshot is the body of POST /sandboxes/{id}/snapshots.
type CreateSnapshot struct {
	Comment           string `json:"comment,omitempty"`
	Keep              bool   `json:"keep,omitempty"`               // it never expires
	RetentionSeconds  int64  `json:"retention_seconds,omitempty"`  // since it was last used; 0: none
	ExpirationSeconds int64  `json:"expiration_seconds,omitempty"` // from now; 0: never

	// IdempotencyKey travels as a header. The Go client makes one when it is empty.
	IdempotencyKey string `json:"-"`
}

// Snapshot is memory and files of a sandbox at one moment.
type Snapshot struct {
	ID               string     `json:"id"`
	SnapshotID       string     `json:"snapshot_id"` // the id again
	SandboxID        string     `json:"sandbox_id"`
	WorkspaceID      string     `json:"workspace_id"`
	TemplateID       string     `json:"template_id"`
	Status           string     `json:"status"`
	Error            *string    `json:"error"` // of a failure
	Comment          string     `json:"comment"`
	Keep             bool       `json:"keep"`
	RetentionSeconds *int64     `json:"retention_seconds"`
	SizeBytes        int64      `json:"size_bytes"` // on disk
	Memory           bool       `json:"memory"`     // whether it holds memory, and not only files
	CPUCount         int64      `json:"cpu_count"`
	MemoryMB         int64      `json:"memory_mb"`
	DiskSizeMB       int64      `json:"disk_size_mb"`
	LastUsedAt       *time.Time `json:"last_used_at"`
	ExpiresAt        *time.Time `json:"expires_at"`
	CreatedAt        time.Time  `json:"created_at"`
	UpdatedAt        time.Time  `json:"updated_at"`
}

// SnapshotFilter narrows GET /snapshots. Empty fields do not.
type SnapshotFilter struct {
	SandboxID string // also of one that is destroyed
	Status    string
}

// SnapshotEvent is the data of the events of …/snapshots/{sid}/events.
type SnapshotEvent struct {
	Type       string    `json:"type"` // the status
	Timestamp  time.Time `json:"timestamp"`
	SnapshotID string    `json:"snapshot_id"`
	Status     string    `json:"status"`
	Step       string    `json:"step"`
	Progress   int       `json:"progress"` // 0 to 100
	Error      *string   `json:"error"`
}

// ForkSandbox is the body of POST /sandboxes/{id}/fork and /snapshots/{sid}/fork.
// What is left out is as it is with the parent.
type ForkSandbox struct {
	SnapshotID          string         `json:"snapshot_id,omitempty"` // empty: the sandbox as it is now
	Name                string         `json:"name,omitempty"`
	ExternalWorkspaceID string         `json:"external_workspace_id,omitempty"`
	ExternalUserID      string         `json:"external_user_id,omitempty"`
	ExternalProjectID   string         `json:"external_project_id,omitempty"`
	TimeoutSec          int64          `json:"timeout_sec,omitempty"`
	Metadata            map[string]any `json:"metadata,omitempty"`
	Count               int64          `json:"count,omitempty"` // 1 to 16

	// IdempotencyKey travels as a header. The Go client makes one when it is empty.
	IdempotencyKey string `json:"-"`
}

// DualSandbox is a sandbox with the words of computers beside its own, for
// answers that clients of either read.
type DualSandbox struct {
	Sandbox
	Visibility   string  `json:"visibility"` // "private"
	TemplateType string  `json:"template_type"`
	IPAddress    *string `json:"ip_address"`
}
