package api

// CommandRequest is the body of POST /sandboxes/{id}/commands.
type CommandRequest struct {
	Command     string            `json:"command"` // for a shell
	Cwd         string            `json:"cwd,omitempty"`
	Env         map[string]string `json:"env,omitempty"`
	TTY         bool              `json:"tty,omitempty"`         // a terminal of 80 by 24
	Interactive bool              `json:"interactive,omitempty"` // the input is open
	Timeout     int               `json:"timeout,omitempty"`     // in seconds; 0: none
}

// Command is a background process with an id that is never used again.
type Command struct {
	ID string `json:"id"`
	Process
	TTY      bool `json:"tty"`
	TimedOut bool `json:"timed_out"` // it was killed because its time was over
}

// CommandKill is the body of POST …/commands/{cid}/kill.
type CommandKill struct {
	Signal string `json:"signal,omitempty"` // SIGKILL
}
