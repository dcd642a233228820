package api

import "time"

// ComputerEvent is one message of the WebSocket at GET /computers/{id}/events:
// file.created, file.modified and file.deleted with a path, file.overflow where
// some were lost, producer.unavailable with a producer and a reason.
type ComputerEvent struct {
	Type      string         `json:"type"`
	Timestamp time.Time      `json:"timestamp"`
	Payload   map[string]any `json:"payload"`
}
