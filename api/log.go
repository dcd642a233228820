package api

import "time"

// LogLine is one line of a sandbox's log.
type LogLine struct {
	ID        string    `json:"id"` // what Last-Event-ID takes; empty for the app's lines
	Timestamp time.Time `json:"timestamp"`
	Source    string    `json:"source"` // "lifecycle", or "template" for its app
	Stream    string    `json:"stream"` // "system", or "stdout" for the app
	Level     string    `json:"level"`  // "info" or "error"
	Line      string    `json:"line"`
	Message   string    `json:"message"` // the line again
}

// SandboxLog is the answer of GET /sandboxes/{id}/logs: the last lines, oldest first,
// as text, as lines and with what is known of each.
type SandboxLog struct {
	SandboxID string    `json:"sandbox_id"`
	Content   string    `json:"content"`
	Lines     []string  `json:"lines"`
	Entries   []LogLine `json:"entries"`
}
