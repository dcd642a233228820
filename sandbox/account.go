package sandbox

import "time"

// Tenant is an isolated customer. Nothing of one is visible to another.
type Tenant struct {
	ID           TenantID
	Slug         string
	Name         string
	MaxSandboxes int // concurrent ones; 0: the server's default
	CreatedAt    time.Time
}

// Key is an API key without its secret: only a hash of that is kept.
type Key struct {
	ID        string // "key_…"
	Tenant    TenantID
	User      string // "usr_…": whom its sandboxes belong to
	Name      string
	Prefix    string // first characters of the secret, to recognise it by
	Admin     bool   // may manage tenants and keys
	CreatedAt time.Time
}

// Caller is who makes a request, known from the key alone.
type Caller struct {
	KeyID        string
	Tenant       TenantID
	User         string
	Admin        bool
	MaxSandboxes int // the tenant's own limit; 0: the server's default
}
