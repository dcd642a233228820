package sandbox

import "time"

// Template is a named, versioned recipe and what was built from it.
type Template struct {
	Slug        string // "miosa-sandbox"
	Name        string
	Description string
	Revision    string // hash of the effective recipe
	Image       Ref    // root file system, one EROFS file
	Workdir     string // where commands start; "/root" unless the recipe sets one
	Env         map[string]string
	CreatedAt   time.Time
}

// Snapshot is the memory and writable layer of a sandbox at rest, from which
// copies start.
type Snapshot struct {
	Template string // slug
	Revision string
	// Key is the driver's word for what this snapshot fixes beyond the
	// revision: its own version and whatever of the size can't change at
	// restore.
	Key       string
	Ref       Ref
	CreatedAt time.Time
}
