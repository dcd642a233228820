package sandbox

import "time"

// Tenant is an isolated customer. Nothing of one is visible to another.
type Tenant struct {
	ID           TenantID
	Slug         string
	Name         string
	Plan         string // a word for people
	MaxSandboxes int    // concurrent ones; 0: the server's default
	MaxKeys      int    // 0: no limit
	// Limits bounds what all its live sandboxes have together; of Disk, what all
	// that are not destroyed have. Zero fields: no limit.
	Limits Resources
	// MaxSaved bounds the bytes that its snapshots and paused sandboxes take; 0:
	// no limit.
	MaxSaved  int64
	CreatedAt time.Time
}

// User is somebody, or something, of a tenant that keys belong to.
type User struct {
	ID        string // "usr_…"
	Tenant    TenantID
	Name      string
	Email     string
	Role      Role // in the whole tenant; empty: only in workspaces it is a member of
	CreatedAt time.Time
}

// Workspace is a part of a tenant that members and keys can be confined to.
type Workspace struct {
	ID          string // UUID
	Tenant      TenantID
	Slug        string
	Name        string
	Description string
	Metadata    map[string]string
	CreatedAt   time.Time
	UpdatedAt   time.Time
}

// Project is a part of a workspace.
type Project struct {
	ID        string // UUID
	Tenant    TenantID
	Workspace string
	Slug      string
	Name      string
	CreatedAt time.Time
}

// Member is a user's role in one workspace.
type Member struct {
	Workspace string
	User      User
	Role      Role
	CreatedAt time.Time
}

// KeyType says what a key is for. It gives the secret its prefix.
type KeyType string

const (
	UserKey     KeyType = "user"     // msk_u_
	AdminKey    KeyType = "admin"    // msk_a_
	PlatformKey KeyType = "platform" // msk_p_: of a service rather than of a person
	ScopedKey   KeyType = "scoped"   // msk_s_: derived from another, for a short time
)

// Key is an API key without its secret: only a hash of that is kept.
type Key struct {
	ID         string // "key_…"
	Tenant     TenantID
	User       string // "usr_…": whom its sandboxes belong to
	Name       string
	Type       KeyType
	Prefix     string    // first characters of the secret, to recognise it by
	Admin      bool      // may manage tenants and keys
	Scopes     Scopes    // what it may at most; its user's role limits it further
	Workspace  string    // all it can see; empty: the whole tenant
	Parent     string    // of a ScopedKey: the key it came from, and ends with
	ExpiresAt  time.Time // zero: never
	LastUsedAt time.Time // to some minutes
	CreatedAt  time.Time
}

// Caller is who makes a request, known from the key alone.
type Caller struct {
	KeyID        string
	Tenant       TenantID
	User         string
	Role         Role
	Admin        bool
	Derived      bool      // by a ScopedKey
	Scopes       Scopes    // what it may do, all things considered
	Workspace    string    // all it can see; empty: the whole tenant
	ExpiresAt    time.Time // zero: never
	MaxSandboxes int       // the tenant's own limit; 0: the server's default
}

// Sees tells whether what is in a workspace is the caller's business, given
// that the tenant is its own.
func (c Caller) Sees(workspace string) bool { return c.Workspace == "" || c.Workspace == workspace }
