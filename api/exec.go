package api

import "time"

// ExecRequest is the body of POST /sandboxes/{id}/exec and …/exec/stream.
type ExecRequest struct {
	Command    string            `json:"command"` // for a shell
	TimeoutSec int64             `json:"timeout,omitempty"`
	WorkingDir string            `json:"working_dir,omitempty"`
	Env        map[string]string `json:"env,omitempty"`
}

// ExecPythonRequest is the body of POST /sandboxes/{id}/exec/python.
type ExecPythonRequest struct {
	Code       string            `json:"code"`
	TimeoutSec int64             `json:"timeout,omitempty"`
	WorkingDir string            `json:"working_dir,omitempty"`
	Env        map[string]string `json:"env,omitempty"`
}

// ExecResult is the answer of POST /sandboxes/{id}/exec. In the texts, bytes
// that are not UTF-8 are U+FFFD; the exact ones are then in the Base64 fields.
type ExecResult struct {
	SandboxID    string `json:"sandbox_id"`
	ExecID       string `json:"exec_id"`
	ExitCode     int    `json:"exit_code"`
	Success      bool   `json:"success"`
	Signal       string `json:"signal,omitempty"`
	OutOfMemory  bool   `json:"out_of_memory,omitempty"`
	Truncated    bool   `json:"truncated"` // output beyond the limit was dropped
	DurationMS   int64  `json:"duration_ms"`
	Stdout       string `json:"stdout"`
	Stderr       string `json:"stderr"`
	Output       string `json:"output"` // both, as they came
	StdoutBase64 []byte `json:"stdout_base64,omitempty"`
	StderrBase64 []byte `json:"stderr_base64,omitempty"`
}

// Types of exec stream events.
const (
	ExecStdout = "stdout"
	ExecStderr = "stderr"
	ExecExit   = "exit"
	ExecError  = "error"
)

// ExecEvent is one event of POST /sandboxes/{id}/exec/stream. The data of all
// events of one stream, joined, are the program's output.
type ExecEvent struct {
	Type      string    `json:"type"`
	Timestamp time.Time `json:"timestamp"`
	ExecID    string    `json:"exec_id,omitempty"`

	// Output. Line is Data without the end of line; Partial says that the
	// line goes on in the next event of the stream.
	Stream     string `json:"stream,omitempty"`
	Line       string `json:"line,omitempty"`
	Data       string `json:"data,omitempty"`
	DataBase64 []byte `json:"data_base64,omitempty"` // the exact bytes, when they are not UTF-8
	Partial    bool   `json:"partial,omitempty"`

	// Exit.
	ExitCode    int    `json:"exit_code"`
	Success     bool   `json:"success"`
	Signal      string `json:"signal,omitempty"`
	TimedOut    bool   `json:"timed_out,omitempty"`
	OutOfMemory bool   `json:"out_of_memory,omitempty"`
	DurationMS  int64  `json:"duration_ms,omitempty"`

	// Error: the stream ends without an exit.
	Code    string `json:"code,omitempty"`
	Message string `json:"message,omitempty"`

	// Of build_event: what goes on with the template that the sandbox waits for.
	Event      string `json:"event,omitempty"`
	BuildID    string `json:"build_id,omitempty"`
	BuildState string `json:"build_state,omitempty"`
	Step       int    `json:"step,omitempty"`
}

// Bytes returns the output an event carries, exactly as the program wrote it.
func (e ExecEvent) Bytes() []byte {
	if len(e.DataBase64) > 0 {
		return e.DataBase64
	}
	return []byte(e.Data)
}

// Types of sandbox events.
const (
	EventStateChanged = "state_changed"
	EventUpdated      = "updated"
	EventExecOutput   = "exec_output"
	EventError        = "error"
	EventBuild        = "build_event" // of the template that the sandbox waits for; of a build's log, too
	EventClosing      = "closing"     // the server goes away: connect again
)

// Event is one event of GET /sandboxes/{id}/events.
type Event struct {
	ID        string    `json:"-"` // for Last-Event-ID; empty for live output
	Type      string    `json:"type"`
	Timestamp time.Time `json:"timestamp"`

	State         string  `json:"state,omitempty"`
	PreviousState *string `json:"previous_state,omitempty"`
	Reason        string  `json:"reason,omitempty"`

	ExecID string `json:"exec_id,omitempty"`
	Stream string `json:"stream,omitempty"`
	Data   string `json:"data,omitempty"`

	Code    string `json:"code,omitempty"`
	Message string `json:"message,omitempty"`
}
