package api

import "time"

// ProcessRequest is the body of POST /sandboxes/{id}/processes.
type ProcessRequest struct {
	Command string            `json:"command"` // for a shell
	Name    string            `json:"name,omitempty"`
	Cwd     string            `json:"cwd,omitempty"`
	Env     map[string]string `json:"env,omitempty"`
}

// Statuses of processes.
const (
	ProcessRunning = "running"
	ProcessExited  = "exited" // with code 0
	ProcessFailed  = "failed" // with another, or by a signal
)

// Process is one that runs in the background. PID is a number in a string.
type Process struct {
	PID       string     `json:"pid"`
	SandboxID string     `json:"sandbox_id"`
	Name      string     `json:"name"`
	Kind      string     `json:"kind"` // process, terminal, service or command
	Command   string     `json:"command"`
	Cwd       string     `json:"cwd"`
	Status    string     `json:"status"`
	StartedAt time.Time  `json:"started_at"`
	EndedAt   *time.Time `json:"ended_at"`
	ExitCode  *int32     `json:"exit_code"`
	Signal    *string    `json:"signal"`
	// What it has written: the offset of the first byte that is kept, and of
	// the one that comes next.
	FirstOffset uint64 `json:"first_offset"`
	NextOffset  uint64 `json:"next_offset"`
}

// Logs is the answer of the routes that end in logs: the last lines as one text
// and one by one.
type Logs struct {
	Data      string   `json:"data"`
	Lines     []string `json:"lines"`
	Truncated bool     `json:"truncated"` // there are fewer lines than asked for because they are long
}

// Types of events of a process's stream besides stdout, stderr and exit.
const (
	ProcessGap   = "gap"   // output was lost
	ProcessError = "error" // the stream ends, the process may go on
)

// ProcessEvent is one event of GET …/processes/{pid}/stream: output and the
// exit, as of a command, and besides them ProcessGap and ProcessError.
type ProcessEvent struct {
	ExecEvent
	ID        string `json:"-"` // for Last-Event-ID
	LostBytes uint64 `json:"lost_bytes,omitempty"`
}

// ProcessInput is the body of POST …/processes/{pid}/stdin.
type ProcessInput struct {
	Data       string `json:"data,omitempty"`
	DataBase64 []byte `json:"data_base64,omitempty"`
	Close      bool   `json:"close,omitempty"` // after the data
}

// ProcessWritten is its answer.
type ProcessWritten struct {
	PID          string `json:"pid"`
	BytesWritten int    `json:"bytes_written"`
	Closed       bool   `json:"closed"`
}

// ProcessSignal is the body, and the answer, of POST …/processes/{pid}/signal.
type ProcessSignal struct {
	PID    string `json:"pid,omitempty"`
	Signal string `json:"signal"` // SIGTERM, TERM, or 15
	Tree   *bool  `json:"tree,omitempty"`
}
