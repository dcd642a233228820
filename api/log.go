package api

import "time"

// LogLine is one line of a sandbox's log.
type LogLine struct {
	ID        string    `json:"id"` // what Last-Event-ID takes
	Timestamp time.Time `json:"timestamp"`
	Source    string    `json:"source"` // "lifecycle"
	Stream    string    `json:"stream"` // "system"
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
