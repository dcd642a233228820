package api

import (
	"net/url"
	"strconv"
	"time"
)

// States a sandbox may be in.
const (
	StateProvisioning = "provisioning"
	StateRunning      = "running"
	StatePaused       = "paused"
	StateDestroyed    = "destroyed"
	StateError        = "error"
)

// CreateSandbox is the body of POST /sandboxes. Zero values take the server's
// defaults.
type CreateSandbox struct {
	TemplateID string `json:"template_id,omitempty"`
	Size       string `json:"size,omitempty"` // xs, small, medium, large, xl
	CPUCount   int64  `json:"cpu_count,omitempty"`
	MemoryMB   int64  `json:"memory_mb,omitempty"`
	DiskMB     int64  `json:"disk_mb,omitempty"`

	TimeoutSec     int64             `json:"timeout_sec,omitempty"`
	IdleTimeoutSec int64             `json:"idle_timeout_sec,omitempty"`
	Env            map[string]string `json:"env,omitempty"`
	Metadata       map[string]any    `json:"metadata,omitempty"`
	Tags           []string          `json:"tags,omitempty"`
	Name           string            `json:"name,omitempty"`
	AutoStart      bool              `json:"auto_start,omitempty"`
	Persistent     bool              `json:"persistent,omitempty"`
	AlwaysOn       bool              `json:"always_on,omitempty"`

	WorkspaceID   string `json:"workspace_id,omitempty"`
	WorkspaceSlug string `json:"workspace_slug,omitempty"`
	WorkspaceName string `json:"workspace_name,omitempty"`
	ProjectID     string `json:"project_id,omitempty"`
	ProjectSlug   string `json:"project_slug,omitempty"`
	ProjectName   string `json:"project_name,omitempty"`

	ExternalWorkspaceID string `json:"external_workspace_id,omitempty"`
	ExternalUserID      string `json:"external_user_id,omitempty"`
	ExternalProjectID   string `json:"external_project_id,omitempty"`

	// IdempotencyKey travels as a header. The Go client makes one when it is
	// empty, so that it may repeat a create whose answer was lost.
	IdempotencyKey string `json:"-"`
}

// Sandbox is one sandbox. Null is "not yet" or "none".
type Sandbox struct {
	ID                  string            `json:"id"`
	Slug                string            `json:"slug"`
	Name                *string           `json:"name"`
	TenantID            string            `json:"tenant_id"`
	OwnerID             string            `json:"owner_id"`
	WorkspaceID         string            `json:"workspace_id"`
	ProjectID           string            `json:"project_id"`
	ExternalWorkspaceID *string           `json:"external_workspace_id"`
	ExternalUserID      *string           `json:"external_user_id"`
	ExternalProjectID   *string           `json:"external_project_id"`
	TemplateID          string            `json:"template_id"`
	ImageID             string            `json:"image_id"`
	State               string            `json:"state"`
	Status              string            `json:"status"` // the state again
	StateReason         *string           `json:"state_reason"`
	Ready               bool              `json:"ready"`
	Size                *string           `json:"size"`
	ResourceContract    *ResourceContract `json:"resource_contract"`
	CPUCount            int64             `json:"cpu_count"`
	MemoryMB            int64             `json:"memory_mb"`
	DiskSizeMB          int64             `json:"disk_size_mb"`
	DiskMB              int64             `json:"disk_mb"` // disk_size_mb again
	BootPath            *string           `json:"boot_path"`
	BootMS              *int64            `json:"boot_ms"`
	PreviewURL          *string           `json:"preview_url"`
	AutoStart           bool              `json:"auto_start"`
	Persistent          bool              `json:"persistent"`
	AlwaysOn            bool              `json:"always_on"`
	TimeoutSec          int64             `json:"timeout_sec"`
	IdleTimeoutSec      int64             `json:"idle_timeout_sec"`
	TimeoutRemainingMS  *int64            `json:"timeout_remaining_ms"`
	TotalRuntimeSec     *int64            `json:"total_runtime_sec"` // set once destroyed
	Memory              *bool             `json:"memory"`            // while paused: whether its memory is kept, and not only its files
	Metadata            map[string]any    `json:"metadata"`
	// Tags is an array of strings; the server leaves it out when there are
	// none, and shapes it otherwise for one client that reads an object.
	Tags        any        `json:"tags,omitempty"`
	CreatedAt   time.Time  `json:"created_at"`
	UpdatedAt   time.Time  `json:"updated_at"`
	StartedAt   *time.Time `json:"started_at"`
	ReadyAt     *time.Time `json:"ready_at"`
	DestroyedAt *time.Time `json:"destroyed_at"`
}

// ResourceContract names the published size a sandbox has.
type ResourceContract struct {
	ID         string `json:"id"` // "sandbox/small@v1"
	Product    string `json:"product"`
	Size       string `json:"size"`
	Version    string `json:"version"`
	VCPUs      int64  `json:"vcpus"`
	MemoryMB   int64  `json:"memory_mb"`
	DiskSizeMB int64  `json:"disk_size_mb"`
}

// Size is a published shape of a sandbox.
type Size struct {
	Name                         string
	CPUCount, MemoryMB, DiskSize int64 // cores, MiB, MiB
}

// Sizes lists the published shapes, smallest first.
var Sizes = [...]Size{
	{"xs", 1, 2048, 10240},
	{"small", 2, 4096, 10240},
	{"medium", 4, 8192, 20480},
	{"large", 8, 16384, 40960},
	{"xl", 16, 32768, 81920},
}

// DestroyedSandbox is the answer of DELETE /sandboxes/{id}, the same each time.
type DestroyedSandbox struct {
	ID              string `json:"id"`
	State           string `json:"state"`
	TotalRuntimeSec int64  `json:"total_runtime_sec"`
}

// Readiness is the answer of GET /sandboxes/{id}/readiness, and the data of
// the events of its stream.
type Readiness struct {
	ID        string     `json:"id"`
	SandboxID string     `json:"sandbox_id"`
	Ready     bool       `json:"ready"`
	Status    string     `json:"status"` // "ready", or the state
	State     string     `json:"state"`
	BootPath  *string    `json:"boot_path"`
	BootMS    *int64     `json:"boot_ms"`
	ReadyAt   *time.Time `json:"ready_at"`
	Reason    *string    `json:"reason"`
}

// List is the answer of every list.
type List[T any] struct {
	Data []T  `json:"data"`
	Meta Meta `json:"meta"`
	Page Page `json:"page"`
	// NextCursor asks for the next page of lists that know cursors; null on the
	// last one.
	NextCursor *string `json:"next_cursor,omitempty"`
}

// Meta counts a list in one public dialect.
type Meta struct {
	Total   int `json:"total"`
	Page    int `json:"page"`
	PerPage int `json:"per_page"`
}

// Page counts a list in the other.
type Page struct {
	Page     int `json:"page"`
	PageSize int `json:"page_size"`
	Total    int `json:"total"`
}

// SandboxFilter narrows GET /sandboxes. Empty fields do not; destroyed
// sandboxes are listed only when State asks for them.
type SandboxFilter struct {
	WorkspaceID, ProjectID                                 string
	ExternalWorkspaceID, ExternalUserID, ExternalProjectID string
	State                                                  string // or several, with commas
	Name, TemplateID                                       string
	Metadata                                               map[string]string // plain values; all must fit
	Tags                                                   []string          // all must be there
	Page, PageSize                                         int               // 0: everything, up to the server's bound
	Limit                                                  int               // of a page that Cursor, a NextCursor, begins
	Cursor                                                 string
}

// Query returns f as a query string.
func (f SandboxFilter) Query() url.Values {
	q := url.Values{}
	for name, v := range map[string]string{
		"workspace_id": f.WorkspaceID, "project_id": f.ProjectID,
		"external_workspace_id": f.ExternalWorkspaceID, "external_user_id": f.ExternalUserID,
		"external_project_id": f.ExternalProjectID, "state": f.State,
		"name": f.Name, "template_id": f.TemplateID, "cursor": f.Cursor,
	} {
		if v != "" {
			q.Set(name, v)
		}
	}
	for k, v := range f.Metadata {
		q.Set("metadata."+k, v)
	}
	for _, tag := range f.Tags {
		q.Add("tag", tag)
	}
	if f.Limit > 0 {
		q.Set("limit", strconv.Itoa(f.Limit))
	}
	if f.Page > 0 {
		q.Set("page", strconv.Itoa(f.Page))
	}
	if f.PageSize > 0 {
		q.Set("page_size", strconv.Itoa(f.PageSize))
	}
	return q
}
