package api

import "time"

// Tenant is an isolated customer of the installation.
type Tenant struct {
	ID           string    `json:"id"`
	Slug         string    `json:"slug"`
	Name         string    `json:"name"`
	MaxSandboxes int       `json:"max_sandboxes"` // 0: the server's default
	CreatedAt    time.Time `json:"created_at"`
}

// CreateTenant is the body of POST /tenants.
type CreateTenant struct {
	Name         string `json:"name,omitempty"`
	Slug         string `json:"slug,omitempty"`
	MaxSandboxes int    `json:"max_sandboxes,omitempty"`
}

// Key is an API key. Token and Key hold the secret, once, in the answer that
// made it.
type Key struct {
	ID        string    `json:"id"`
	TenantID  string    `json:"tenant_id"`
	UserID    string    `json:"user_id"`
	Name      string    `json:"name"`
	Prefix    string    `json:"prefix"`
	Admin     bool      `json:"admin"`
	CreatedAt time.Time `json:"created_at"`
	Token     string    `json:"token,omitempty"`
	Key       string    `json:"key,omitempty"`
}

// CreateKey is the body of POST /api-keys. Only an admin key may name another
// tenant than its own, or make admin keys.
type CreateKey struct {
	Name     string `json:"name,omitempty"`
	TenantID string `json:"tenant_id,omitempty"`
	Admin    bool   `json:"admin,omitempty"`
}

// Deleted is the answer of DELETE on tenants and keys.
type Deleted struct {
	ID      string `json:"id"`
	Deleted bool   `json:"deleted"`
}
