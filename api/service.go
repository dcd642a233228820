package api

import "time"

// ServiceRequest is the body of POST /sandboxes/{id}/services.
type ServiceRequest struct {
	Name    string            `json:"name"`
	Command string            `json:"command"` // for a shell
	Port    int               `json:"port,omitempty"`
	Env     map[string]string `json:"env,omitempty"`
	Cwd     string            `json:"cwd,omitempty"`
	Restart string            `json:"restart,omitempty"` // always, on-failure or never
}

// Service is a process that is kept running.
type Service struct {
	ID            string            `json:"id"`
	SandboxID     string            `json:"sandbox_id"`
	ComputerID    string            `json:"computer_id"` // the same
	Name          string            `json:"name"`
	Command       string            `json:"command"`
	Status        string            `json:"status"` // starting, running, stopping, stopped, backoff or failed
	Port          *int              `json:"port"`
	Env           map[string]string `json:"env"`
	Cwd           string            `json:"cwd"`
	Restart       string            `json:"restart"`
	RestartPolicy string            `json:"restart_policy"` // the same
	PID           *string           `json:"pid"`
	RestartCount  int               `json:"restart_count"`
	ExitCode      *int32            `json:"exit_code"` // the last time it ended
	StartedAt     *time.Time        `json:"started_at"`
	NextStartAt   *time.Time        `json:"next_start_at"` // in backoff
	CreatedAt     time.Time         `json:"created_at"`
	UpdatedAt     time.Time         `json:"updated_at"`
}

// ServiceDeleted is the answer of DELETE …/services/{service}.
type ServiceDeleted struct {
	ID      string `json:"id"`
	Name    string `json:"name"`
	Deleted bool   `json:"deleted"`
}

// ServiceLog is one event of the stream of a service's logs.
type ServiceLog struct {
	ID        string    `json:"-"`    // for Last-Event-ID
	Type      string    `json:"type"` // log, gap or error
	Timestamp time.Time `json:"timestamp"`
	Stream    string    `json:"stream,omitempty"` // stdout, stderr, or system for the supervisor's remarks
	Message   string    `json:"message,omitempty"`
	LostBytes uint64    `json:"lost_bytes,omitempty"` // of a gap
	Code      string    `json:"code,omitempty"`       // of an error
}
