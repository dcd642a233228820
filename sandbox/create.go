package sandbox

import "time"

// Place names a workspace or project: by ID, or by slug, which makes one with
// Name when there is none yet. All empty: the default one.
type Place struct {
	ID, Slug, Name string
}

// Idempotency lets a caller repeat a create. The same Key within 24 hours
// returns the sandbox it made; another Digest with it is a Conflict.
type Idempotency struct {
	Key    string   // empty: none
	Digest [32]byte // of the request's meaning, not of its spelling
}

// CreateRequest asks for a sandbox. Zero values take the server's defaults.
type CreateRequest struct {
	Template  string
	Resources Resources // each zero field: the default
	Timeout   time.Duration
	Idle      time.Duration
	Name      string
	Env       map[string]string
	Metadata  map[string]any
	Tags      []string
	External  External
	Workspace Place
	Project   Place
	AutoStart bool
	Persist   bool
	AlwaysOn  bool

	Idempotency Idempotency
}
