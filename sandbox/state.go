package sandbox

// State is where a sandbox stands in its life. The first five are the wire's;
// Warm never leaves the daemon.
type State string

const (
	Provisioning State = "provisioning" // being started; not yet usable
	Running      State = "running"      // the agent answers
	Paused       State = "paused"       // files on disk, nothing runs
	Destroyed    State = "destroyed"    // final; host resources are freed or being freed
	Failed       State = "error"        // final but for Destroyed; Reason says why

	Warm State = "warm" // restored ahead of time, owned by no tenant yet
)

// moves lists every legal change of state. A state that is absent is final.
var moves = map[State][]State{
	Provisioning: {Running, Warm, Paused, Destroyed, Failed}, // Paused: it was, and could not be started
	Warm:         {Running, Destroyed, Failed},
	Running:      {Paused, Destroyed, Failed},
	Paused:       {Provisioning, Running, Destroyed, Failed},
	Failed:       {Destroyed}, // a failed sandbox may still own host resources
}

// CanBecome tells whether the move from s to next is legal.
func (s State) CanBecome(next State) bool {
	for _, m := range moves[s] {
		if m == next {
			return true
		}
	}
	return false
}

// Public tells whether s may appear on a wire.
func (s State) Public() bool {
	switch s {
	case Provisioning, Running, Paused, Destroyed, Failed:
		return true
	}
	return false
}

// Live tells whether a sandbox in s counts against the tenant's limit of
// concurrent sandboxes.
func (s State) Live() bool { return s == Provisioning || s == Running }
