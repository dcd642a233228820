// Package event is the ordered log of what happened to sandboxes, so that readers
// that come late or come back see everything once and in order, and no reader
// can hold up the writer.
package event

import (
	"time"

	"silica.dev/silica/sandbox"
)

// Types of events, as the wire spells them.
const (
	StateChanged = "state_changed"
	Updated      = "updated"     // fields of it were changed
	ExecOutput   = "exec_output" // live only: not stored, has no Seq
	Error        = "error"
	Build        = "build_event" // of the template that a sandbox waits for
)

// Event is one thing that happened to one sandbox.
type Event struct {
	Seq     int64 // rises within a sandbox and over all of them; 0: not stored
	Sandbox sandbox.ID
	Tenant  sandbox.TenantID
	Type    string
	// Data holds the fields of the wire's object but for type and timestamp.
	// StateChanged: state, previous_state. ExecOutput: exec_id, stream, data.
	// Updated: fields, and the limits in seconds. Error: code, message. Build:
	// event, build_state, build_id, at, and what of message and step there is.
	Data map[string]any
	At   time.Time
}
