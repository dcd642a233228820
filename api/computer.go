package api

import "time"

// Computer is a sandbox in the words of clients that know computers. Status is
// one of starting, running, stopped and error; State is the sandbox's own word.
type Computer struct {
	ID                  string            `json:"id"`
	Slug                string            `json:"slug"`
	Name                *string           `json:"name"`
	Status              string            `json:"status"`
	State               string            `json:"state"`
	StateReason         *string           `json:"state_reason"`
	Ready               bool              `json:"ready"`
	Visibility          string            `json:"visibility"` // "private"
	TemplateType        string            `json:"template_type"`
	TemplateID          string            `json:"template_id"`
	Size                *string           `json:"size"`
	ResourceContract    *ResourceContract `json:"resource_contract"`
	CPUCount            int64             `json:"cpu_count"`
	MemoryMB            int64             `json:"memory_mb"`
	DiskSizeMB          int64             `json:"disk_size_mb"`
	TenantID            string            `json:"tenant_id"`
	OwnerID             string            `json:"owner_id"`
	WorkspaceID         string            `json:"workspace_id"`
	ProjectID           string            `json:"project_id"`
	ExternalWorkspaceID *string           `json:"external_workspace_id"`
	ExternalUserID      *string           `json:"external_user_id"`
	ExternalProjectID   *string           `json:"external_project_id"`
	IPAddress           *string           `json:"ip_address"`
	PreviewURL          *string           `json:"preview_url"`
	Persistent          bool              `json:"persistent"`
	AlwaysOn            bool              `json:"always_on"`
	TimeoutSec          int64             `json:"timeout_sec"`
	IdleTimeoutSec      int64             `json:"idle_timeout_sec"`
	Metadata            map[string]string `json:"metadata"` // what is no text is written as JSON
	CreatedAt           time.Time         `json:"created_at"`
	UpdatedAt           time.Time         `json:"updated_at"`
	StartedAt           *time.Time        `json:"started_at"`
}

// DeletedComputer is the answer of DELETE /computers/{id}.
type DeletedComputer struct {
	ID              string `json:"id"`
	Status          string `json:"status"`
	State           string `json:"state"`
	TotalRuntimeSec int64  `json:"total_runtime_sec"`
}

// Port is a TCP port that something in the sandbox listens on.
type Port struct {
	Port     int64  `json:"port"`
	Protocol string `json:"protocol"` // "tcp"
	Address  string `json:"address"`  // it listens on
	Exposed  bool   `json:"exposed"`
}
