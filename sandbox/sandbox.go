package sandbox

import "time"

// Units of Spec.
const (
	MiB int64 = 1 << 20
	// Core is one CPU in thousandths.
	Core int64 = 1000
)

// Resources is the size of a sandbox.
type Resources struct {
	MilliCPU int64 // thousandths of a core
	Memory   int64 // bytes
	Disk     int64 // bytes of writable layer
}

// Spec is what a sandbox is made of, resolved: no defaults are left open.
type Spec struct {
	Template string // ID of the template
	Revision string // of the template, once it is resolved
	Image    string // slug of the template, as callers see it
	Resources
	Env map[string]string // set for every process started in it
}

// External carries the caller's own names for whom a sandbox is for. They are
// attribution and never authorise anything.
type External struct {
	Workspace, User, Project string
}

// BootPath says how a sandbox came to run.
type BootPath string

const (
	BootSnapshot BootPath = "snapshot" // restored from memory: its template's, its own, or its parent's
	BootPool     BootPath = "pool"     // restored ahead of time, then claimed
	BootCold     BootPath = "cold"     // started from its root file system
)

// Sandbox is the record of one sandbox. The zero time means "not yet".
type Sandbox struct {
	ID        ID
	Tenant    TenantID
	Owner     string // the user whose key created it
	Workspace string // UUID
	Project   string // UUID
	External  External
	Name      string // chosen by the caller, may be empty
	Slug      string // DNS label, unique
	Spec      Spec
	State     State
	Ready     bool   // the agent has answered and identity is set
	Reason    string // why it is in Failed
	BootPath  BootPath
	Boot      time.Duration // from the request to the agent's answer
	Timeout   time.Duration // hard limit of running time
	Idle      time.Duration // 0: no idle limit
	Persist   bool          // pause instead of destroy when time is up
	AlwaysOn  bool          // neither limit acts
	AutoStart bool
	Tags      []string
	Metadata  map[string]any
	// Base is the root file system that it started from. What it has written
	// fits no other.
	Base Ref
	// Files is its writable layer as it was when it last stopped or paused, or in
	// the snapshot that it was last started from; empty: neither. Of a persistent
	// one they are kept until the next stop or its end.
	Files Ref
	// Memory is its memory, and its files once more, while it is paused; empty:
	// it can only boot. It is given up when it runs again.
	Memory Ref
	Saved  int64 // bytes that Memory and Files of a pause with memory take
	// Ran is how long it ran before StartedAt, in earlier stretches.
	Ran time.Duration

	// Freed says that the host holds nothing of it any more, but for Files. A
	// sandbox that has ended with Freed unset is cleaned up again after a
	// restart.
	Freed bool
	Node  string // the server that has it, when several share a database

	CreatedAt   time.Time
	UpdatedAt   time.Time
	StartedAt   time.Time // of the present or last stretch of running
	StoppedAt   time.Time // its end; zero while it goes on
	ExtendedAt  time.Time // when Timeout began to count anew; zero: at StartedAt
	ReadyAt     time.Time
	DestroyedAt time.Time
}

// Deadline is when the hard timeout ends the sandbox; zero for never.
func (s Sandbox) Deadline() time.Time {
	if s.AlwaysOn || s.Timeout <= 0 || s.StartedAt.IsZero() {
		return time.Time{}
	}
	return s.LimitSince().Add(s.Timeout)
}

// LimitSince is when Timeout began to count.
func (s Sandbox) LimitSince() time.Time {
	if !s.ExtendedAt.IsZero() {
		return s.ExtendedAt
	}
	return s.StartedAt
}

// IdleLimit is how long it may go unused; 0 for ever.
func (s Sandbox) IdleLimit() time.Duration {
	if s.AlwaysOn {
		return 0
	}
	return s.Idle
}

// Runtime is how long the sandbox ran in all, up to its end or to now.
func (s Sandbox) Runtime(now time.Time) time.Duration {
	if s.StartedAt.IsZero() {
		return s.Ran
	}
	for _, end := range []time.Time{s.DestroyedAt, s.StoppedAt} { // the earlier one, if both
		if !end.IsZero() {
			now = end
		}
	}
	return s.Ran + max(now.Sub(s.StartedAt), 0)
}

// Filter selects sandboxes of one tenant. Empty fields do not restrict.
type Filter struct {
	Tenant             TenantID
	Workspace, Project string
	External           External
	Name, Template     string
	States             []State           // empty: every public state but Destroyed
	Metadata           map[string]string // plain values, written as text; all must be there
	Tags               []string          // all must be there
	Limit, Offset      int               // Limit 0: the store's own bound
	After              Position          // only what comes after it; zero: from the start
}

// Position is a place in a list that is sorted newest first.
type Position struct {
	CreatedAt time.Time
	ID        ID
}

// Listing is one page of a list.
type Listing struct {
	Sandboxes []Sandbox
	Total     int  // on all pages
	More      bool // there are others after these
}
