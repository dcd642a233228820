package sandbox

import "time"

// Counters are what the host has counted of a sandbox since it was started.
type Counters struct {
	CPU        time.Duration
	NetworkIn  int64 // bytes received by the sandbox
	NetworkOut int64
}

// Reading is a look at a sandbox's counters.
type Reading struct {
	Sandbox ID
	At      time.Time
	Now     Counters
	// Base is what they showed when the sandbox became its tenant's: starting it,
	// or keeping it warm, is nobody's use. It counts in the first reading only.
	Base Counters
}

// Usage is what a sandbox has used in all the time that it ran. Time in which it
// is paused or stopped is none of it.
type Usage struct {
	Runtime        time.Duration
	CPUTime        time.Duration // Runtime times its cores: what it could have used
	MemoryMiBMilli int64         // milliseconds times MiB of its memory limit
	Counters                     // what it did use
}

// Window is a stretch of time, From to before To.
type Window struct{ From, To time.Time }

// GroupBy says what usage is added up by.
type GroupBy string

// What usage can be grouped by.
const (
	ByNothing           GroupBy = ""
	ByWorkspace         GroupBy = "workspace_id"
	ByProject           GroupBy = "project_id"
	ByExternalUser      GroupBy = "external_user_id"
	ByExternalWorkspace GroupBy = "external_workspace_id"
	ByExternalProject   GroupBy = "external_project_id"
	ByDay               GroupBy = "day" // of UTC
)

// UsageFilter selects runs of one tenant. Empty fields do not restrict.
type UsageFilter struct {
	Tenant             TenantID
	Workspace, Project string
	External           External
	Window             Window
}

// UsageSum is what the runs of one group used within a window, and of a run that
// reaches out of it only what lies within. Counters are whole runs'.
type UsageSum struct {
	Group     string // value of what it is grouped by
	From, To  time.Time
	Runs      int64
	Runtime   time.Duration
	MilliCPU  int64 // cores: thousandths times milliseconds
	MemoryMiB int64 // MiB times milliseconds
	DiskMiB   int64 // MiB times milliseconds
	Counters
}

// Add adds other to u.
func (u *UsageSum) Add(other UsageSum) {
	u.Runs += other.Runs
	u.Runtime += other.Runtime
	u.MilliCPU += other.MilliCPU
	u.MemoryMiB += other.MemoryMiB
	u.DiskMiB += other.DiskMiB
	u.CPU += other.CPU
	u.NetworkIn += other.NetworkIn
	u.NetworkOut += other.NetworkOut
}

// Run is one stretch in which a sandbox ran.
type Run struct {
	Sandbox   ID
	Tenant    TenantID
	Workspace string
	Project   string
	External  External
	MilliCPU  int64
	Memory    int64 // bytes
	StartedAt time.Time
	EndedAt   time.Time // zero while it runs
	Counters
}

// Sample is how much a sandbox had used, and used, at one moment.
type Sample struct {
	At time.Time
	Counters
	Memory int64 // bytes
}

// Metrics is how a sandbox is doing. Zero where it does not run, or can't say.
type Metrics struct {
	Sample
	Past                []Sample // oldest first, all before Sample
	Cores               float64  // in use since the sample before
	MemoryUsed          int64    // bytes, as seen inside
	DiskUsed, DiskTotal int64    // bytes of the writable layer
	Processes           int64
	Load                float64
}
