package api

import "time"

// TerminalRequest is the body of POST /sandboxes/{id}/terminal. With SessionID
// it asks for a fresh token of a terminal that exists.
type TerminalRequest struct {
	Cols       int               `json:"cols,omitempty"` // 80
	Rows       int               `json:"rows,omitempty"` // 24
	Shell      string            `json:"shell,omitempty"`
	WorkingDir string            `json:"working_dir,omitempty"`
	Env        map[string]string `json:"env,omitempty"`
	SessionID  string            `json:"session_id,omitempty"`
}

// TerminalSession is its answer. StreamAuth opens WSURL once, until it expires.
type TerminalSession struct {
	SessionID           string    `json:"session_id"`
	SandboxID           string    `json:"sandbox_id"`
	WSURL               string    `json:"ws_url"`
	StreamAuth          string    `json:"stream_auth"`
	StreamAuthExpiresAt time.Time `json:"stream_auth_expires_at"`
}

// Terminal is one that runs.
type Terminal struct {
	SessionID string    `json:"session_id"`
	SandboxID string    `json:"sandbox_id"`
	PID       string    `json:"pid"`
	Shell     string    `json:"shell"`
	Cwd       string    `json:"cwd"` // where it was started
	StartedAt time.Time `json:"started_at"`
	// What it has printed: the offset of the first byte that is kept, and of
	// the one that comes next.
	FirstOffset uint64 `json:"first_offset"`
	NextOffset  uint64 `json:"next_offset"`
}

// TerminalDeleted is the answer of DELETE …/terminal/{session}.
type TerminalDeleted struct {
	SessionID string `json:"session_id"`
	Deleted   bool   `json:"deleted"`
}

// TerminalSize is the body, and the answer, of the resizing routes.
type TerminalSize struct {
	SessionID string `json:"session_id,omitempty"`
	Cols      int    `json:"cols"`
	Rows      int    `json:"rows"`
}
