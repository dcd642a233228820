package sandbox

import "time"

// Node is one server among those that share a database.
type Node struct {
	ID       string
	URL      string // where the others reach it, empty for nowhere
	Version  string
	LastSeen time.Time // by its own clock
}
