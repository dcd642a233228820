package api

import "time"

// Tenant is an isolated customer of the installation. Limits of 0 are the
// server's default for MaxSandboxes, and none for the others.
type Tenant struct {
	ID             string    `json:"id"`
	Slug           string    `json:"slug"`
	Name           string    `json:"name"`
	Plan           string    `json:"plan"`
	MaxSandboxes   int       `json:"max_sandboxes"`
	MaxVCPUs       float64   `json:"max_vcpus"` // of all live sandboxes together
	MaxMemoryMB    int64     `json:"max_memory_mb"`
	MaxStorageMB   int64     `json:"max_storage_mb"`   // of all that are not destroyed
	MaxSnapshotsMB int64     `json:"max_snapshots_mb"` // on disk, of snapshots and paused sandboxes
	MaxKeys        int       `json:"max_keys"`
	CreatedAt      time.Time `json:"created_at"`
}

// CreateTenant is the body of POST /tenants.
type CreateTenant struct {
	Name           string  `json:"name,omitempty"`
	Slug           string  `json:"slug,omitempty"`
	Plan           string  `json:"plan,omitempty"`
	MaxSandboxes   int     `json:"max_sandboxes,omitempty"`
	MaxVCPUs       float64 `json:"max_vcpus,omitempty"`
	MaxMemoryMB    int64   `json:"max_memory_mb,omitempty"`
	MaxStorageMB   int64   `json:"max_storage_mb,omitempty"`
	MaxSnapshotsMB int64   `json:"max_snapshots_mb,omitempty"`
	MaxKeys        int     `json:"max_keys,omitempty"`
}

// ChangeTenant is the body of PATCH /tenants/{id}. What is nil stays as it is.
type ChangeTenant struct {
	Name           *string  `json:"name,omitempty"`
	Plan           *string  `json:"plan,omitempty"`
	MaxSandboxes   *int     `json:"max_sandboxes,omitempty"`
	MaxVCPUs       *float64 `json:"max_vcpus,omitempty"`
	MaxMemoryMB    *int64   `json:"max_memory_mb,omitempty"`
	MaxStorageMB   *int64   `json:"max_storage_mb,omitempty"`
	MaxSnapshotsMB *int64   `json:"max_snapshots_mb,omitempty"`
	MaxKeys        *int     `json:"max_keys,omitempty"`
}

// Key is an API key. Token and Key hold the secret, once, in the answer that
// made it.
type Key struct {
	ID          string     `json:"id"`
	TenantID    string     `json:"tenant_id"`
	UserID      string     `json:"user_id"`
	Name        string     `json:"name"`
	KeyType     string     `json:"key_type"` // user, platform, admin, scoped
	Prefix      string     `json:"prefix"`
	Admin       bool       `json:"admin"`
	Scopes      []string   `json:"scopes"`       // "*" is everything its user may
	WorkspaceID *string    `json:"workspace_id"` // all it can see; null: the whole tenant
	ExpiresAt   *time.Time `json:"expires_at"`
	LastUsedAt  *time.Time `json:"last_used_at"` // to some minutes
	CreatedAt   time.Time  `json:"created_at"`
	Token       string     `json:"token,omitempty"`
	Key         string     `json:"key,omitempty"`
}

// CreateKey is the body of POST /api-keys. Only an admin key may name another
// tenant than its own, or make admin keys.
type CreateKey struct {
	Name        string     `json:"name,omitempty"`
	TenantID    string     `json:"tenant_id,omitempty"`
	Admin       bool       `json:"admin,omitempty"`
	KeyType     string     `json:"key_type,omitempty"`
	Scopes      []string   `json:"scopes,omitempty"` // none: everything the caller may
	WorkspaceID string     `json:"workspace_id,omitempty"`
	UserID      string     `json:"user_id,omitempty"` // none: the caller's own
	ExpiresAt   *time.Time `json:"expires_at,omitempty"`
}

// CreateScopedToken is the body of POST /tokens/scoped. The answer is a Key.
type CreateScopedToken struct {
	Name             string   `json:"name,omitempty"`
	UserID           string   `json:"user_id,omitempty"`
	WorkspaceID      string   `json:"workspace_id,omitempty"`
	Scopes           []string `json:"scopes,omitempty"`
	ExpiresInSeconds int      `json:"expires_in_seconds,omitempty"` // 3600; at most a day
}

// Ticket opens one stream, as ?ticket=, within ExpiresIn seconds.
type Ticket struct {
	Ticket    string `json:"ticket"`
	ExpiresIn int    `json:"expires_in"`
}

// Deleted is the answer of DELETE on tenants and keys.
type Deleted struct {
	ID      string `json:"id"`
	Deleted bool   `json:"deleted"`
}
