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
