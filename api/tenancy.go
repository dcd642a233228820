package api

import "time"

// User is somebody, or something, that keys belong to. Role is in the whole
// tenant; "" only has roles in workspaces.
type User struct {
	ID        string    `json:"id"`
	TenantID  string    `json:"tenant_id"`
	Name      string    `json:"name"`
	Email     string    `json:"email"`
	Role      string    `json:"role"`
	CreatedAt time.Time `json:"created_at"`
}

// UserRequest is the body of POST and PATCH on users. Absent fields stay.
type UserRequest struct {
	Name  string `json:"name,omitempty"`
	Email string `json:"email,omitempty"`
	Role  string `json:"role,omitempty"` // owner, admin, developer, viewer, none
}

// Workspace is a part of a tenant that members and keys can be confined to.
type Workspace struct {
	ID          string            `json:"id"`
	TenantID    string            `json:"tenant_id"`
	Slug        string            `json:"slug"`
	Name        string            `json:"name"`
	Description string            `json:"description"`
	Metadata    map[string]string `json:"metadata"`
	CreatedAt   time.Time         `json:"created_at"`
	UpdatedAt   time.Time         `json:"updated_at"`
}

// WorkspaceRequest is the body of POST and PATCH on workspaces; Slug of POST only.
type WorkspaceRequest struct {
	Name        string            `json:"name,omitempty"`
	Slug        string            `json:"slug,omitempty"`
	Description string            `json:"description,omitempty"`
	Metadata    map[string]string `json:"metadata,omitempty"`
}

// Member is a user's role in a workspace.
type Member struct {
	ID          string    `json:"id"` // the user's
	UserID      string    `json:"user_id"`
	WorkspaceID string    `json:"workspace_id"`
	Role        string    `json:"role"`
	Name        string    `json:"name"`
	Email       string    `json:"email"`
	CreatedAt   time.Time `json:"created_at"`
}

// MemberRequest is the body of POST and PATCH on members; UserID of POST only.
type MemberRequest struct {
	UserID string `json:"user_id,omitempty"`
	Role   string `json:"role,omitempty"`
}

// Project is a part of a workspace.
type Project struct {
	ID          string    `json:"id"`
	TenantID    string    `json:"tenant_id"`
	WorkspaceID string    `json:"workspace_id"`
	Slug        string    `json:"slug"`
	Name        string    `json:"name"`
	CreatedAt   time.Time `json:"created_at"`
}

// ProjectRequest is the body of POST /projects. It finds or makes the project,
// and by slug also the workspace.
type ProjectRequest struct {
	WorkspaceID   string `json:"workspace_id,omitempty"`
	WorkspaceSlug string `json:"workspace_slug,omitempty"`
	Slug          string `json:"slug,omitempty"`
	Name          string `json:"name,omitempty"`
}

// Quota bounds what one of a tenant's own users may have; 0: no bound.
type Quota struct {
	ExternalUserID   string `json:"external_user_id"`
	MaxSandboxes     int64  `json:"max_sandboxes"`
	MaxConcurrent    int64  `json:"max_concurrent"`
	MaxStorageGB     int64  `json:"max_storage_gb"`
	MaxCreditCents   int64  `json:"max_credit_cents"`
	CurrentSandboxes int64  `json:"current_sandboxes"`
}

// QuotaRequest is the body of PUT /quotas/external/{external_user_id}. It
// replaces the quota.
type QuotaRequest struct {
	MaxSandboxes   int64 `json:"max_sandboxes,omitempty"`
	MaxConcurrent  int64 `json:"max_concurrent,omitempty"`
	MaxStorageGB   int64 `json:"max_storage_gb,omitempty"`
	MaxCreditCents int64 `json:"max_credit_cents,omitempty"`
}

// Plan is what a tenant may have and has. In Limits, 0 is no limit.
type Plan struct {
	TenantID string           `json:"tenant_id"`
	Plan     string           `json:"plan"`
	Name     string           `json:"name"`
	Limits   map[string]int64 `json:"limits"`
	Usage    map[string]int64 `json:"usage"`
}

// UsageReport is the answer of GET /usage.
type UsageReport struct {
	PeriodStart time.Time     `json:"period_start"`
	PeriodEnd   time.Time     `json:"period_end"`
	GroupBy     string        `json:"group_by"`
	Results     []UsageResult `json:"results"`
}

// UsageResult is what one group used. The ids are empty but for what it is
// grouped by.
type UsageResult struct {
	ExternalUserID      string  `json:"external_user_id"`
	ExternalProjectID   string  `json:"external_project_id"`
	ExternalWorkspaceID string  `json:"external_workspace_id"`
	WorkspaceID         string  `json:"workspace_id"`
	ProjectID           string  `json:"project_id"`
	Date                string  `json:"date"`
	SandboxSeconds      int64   `json:"sandbox_seconds"`
	ComputerSeconds     int64   `json:"computer_seconds"` // the same: a computer is a sandbox
	ActiveCPUSeconds    float64 `json:"active_cpu_seconds"`
	StorageGBHours      float64 `json:"storage_gb_hours"`
	NetworkInBytes      int64   `json:"network_in_bytes"`
	NetworkOutBytes     int64   `json:"network_out_bytes"`
	Sessions            int64   `json:"sessions"`
	CreditCents         int64   `json:"credit_cents"`
}

// UsageSummary is the answer of GET /usage/summary.
type UsageSummary struct {
	PeriodStart  time.Time `json:"period_start"`
	PeriodEnd    time.Time `json:"period_end"`
	ComputeHours float64   `json:"compute_hours"`
	StorageGB    float64   `json:"storage_gb"` // on average
	BandwidthGB  float64   `json:"bandwidth_gb"`
	AITokens     int64     `json:"ai_tokens"` // always 0
	TotalCredits int64     `json:"total_credits"`
}

// UsageSession is one stretch in which a sandbox ran.
type UsageSession struct {
	ID                  string     `json:"id"`
	SandboxID           string     `json:"sandbox_id"`
	ComputerID          string     `json:"computer_id"`
	WorkspaceID         string     `json:"workspace_id"`
	ProjectID           string     `json:"project_id"`
	ExternalWorkspaceID string     `json:"external_workspace_id"`
	ExternalUserID      string     `json:"external_user_id"`
	ExternalProjectID   string     `json:"external_project_id"`
	StartedAt           time.Time  `json:"started_at"`
	EndedAt             *time.Time `json:"ended_at"`
	DurationSeconds     int64      `json:"duration_seconds"`
	CPUMillis           int64      `json:"active_cpu_ms"`
	NetworkInBytes      int64      `json:"network_in_bytes"`
	NetworkOutBytes     int64      `json:"network_out_bytes"`
	CreditCents         int64      `json:"credit_cents"`
}

// Balance is the answer of GET /credits/balance: full credits, rounded down.
type Balance struct {
	Balance        int64      `json:"balance"`
	BalanceCredits int64      `json:"balance_credits"`
	ExpiresAt      *time.Time `json:"expires_at"` // credits do not expire
	Billing        bool       `json:"billing"`    // whether this server charges at all
}

// CreditEntry is one line of a tenant's ledger. Amounts are credits, usage below 0.
type CreditEntry struct {
	ID             string    `json:"id"`
	Type           string    `json:"type"` // grant, usage
	Amount         float64   `json:"amount"`
	BalanceAfter   float64   `json:"balance_after"`
	Description    string    `json:"description"`
	SandboxID      string    `json:"sandbox_id"`
	WorkspaceID    string    `json:"workspace_id"`
	ExternalUserID string    `json:"external_user_id"`
	CreatedAt      time.Time `json:"created_at"`
}

// CreditUsage is the answer of GET /credits/usage.
type CreditUsage struct {
	PeriodStart time.Time `json:"period_start"`
	PeriodEnd   time.Time `json:"period_end"`
	Used        int64     `json:"used"`
	Granted     int64     `json:"granted"`
	Balance     int64     `json:"balance"`
}

// GrantRequest is the body of POST /tenants/{id}/credits.
type GrantRequest struct {
	Amount int64  `json:"amount"` // credits; below 0 takes some back
	Note   string `json:"note,omitempty"`
}

// AuditEntry says who changed what, from where, with which result.
type AuditEntry struct {
	ID          string    `json:"id"`
	WorkspaceID string    `json:"workspace_id"`
	KeyID       string    `json:"key_id"`
	UserID      string    `json:"user_id"`
	Action      string    `json:"action"` // method and route
	Method      string    `json:"method"`
	Route       string    `json:"route"`
	ResourceID  string    `json:"resource_id"`
	Status      int       `json:"status"`
	Code        string    `json:"code"`
	IPAddress   string    `json:"ip_address"`
	UserAgent   string    `json:"user_agent"`
	RequestID   string    `json:"request_id"`
	CreatedAt   time.Time `json:"created_at"`
}

// AuditPage is the answer of GET /audit.
type AuditPage struct {
	Data       []AuditEntry `json:"data"`
	NextCursor *string      `json:"next_cursor"` // null: there is no more
}
