// Package wire is what the daemon's driver and the engine process say to each
// other over the engine's unix socket, so that the daemon need not link the
// engine.
package wire

import (
	"errors"
	"time"

	"silica.dev/silica/internal/runtime"
	"silica.dev/silica/sandbox"
)

// Paths of the engine's HTTP surface. Everything is JSON over POST.
const (
	PathPing     = "/ping"
	PathStart    = "/start"
	PathDestroy  = "/destroy"
	PathWait     = "/wait"
	PathLookup   = "/lookup"
	PathList     = "/list"
	PathSnapshot = "/snapshot"
	PathKeep     = "/keep"
	PathThaw     = "/thaw"
	PathSave     = "/save"
	PathUsage    = "/usage"
	PathLimits   = "/limits"
	PathPrepare  = "/prepare"
	PathShutdown = "/shutdown"
)

// Pong says which engine answers.
type Pong struct {
	Version string
	Files   string // the format of kept files
	Pid     int
}

// StartRequest is [runtime.StartRequest] with its blobs as host paths.
type StartRequest struct {
	ID        sandbox.ID
	Resources sandbox.Resources
	Image     string // EROFS file
	ImageRef  sandbox.Ref
	Snapshot  string // folder; empty: boot from the image
	Files     string // folder with the writable layer to boot with; empty: none
}

// Timing tells where a start spent its time.
type Timing struct {
	Queue   time.Duration // waiting in line
	Create  time.Duration // making a slot; 0 when one was ready
	Restore time.Duration // the restore call, or the boot call of a cold start
	Ready   time.Duration // from there to the agent's answer
	Load    time.Duration // until all was in that had to be
	Pooled  bool
}

// StartResponse tells where a started sandbox is reached.
type StartResponse struct {
	Address string // IPv4
	Timing  Timing
}

// IDRequest names a sandbox.
type IDRequest struct{ ID sandbox.ID }

// Found is the answer to a lookup.
type Found struct {
	Address string
	Pid     int // of the sentry
	Slot    int
	Image   sandbox.Ref
}

// ListResponse names all sandboxes that hold anything.
type ListResponse struct{ IDs []sandbox.ID }

// SnapshotRequest asks for a checkpoint into an existing empty folder.
type SnapshotRequest struct {
	ID  sandbox.ID
	Dir string
}

// KeepRequest asks for the writable layer in an existing empty folder.
type KeepRequest struct {
	ID  sandbox.ID
	Dir string
}

// SaveRequest asks for memory and writable layer of one moment, each in an
// existing empty folder.
type SaveRequest struct {
	ID     sandbox.ID
	Memory string
	Files  string
	Stand  bool // stand still afterwards
}

// PrepareRequest is what [runtime.Pooler] asks for.
type PrepareRequest struct {
	Image     string
	ImageRef  sandbox.Ref
	Resources sandbox.Resources
	N         int
}

// ShutdownRequest ends the engine process; sandboxes go on.
type ShutdownRequest struct {
	IfIdle bool // only when it holds no sandbox
}

// Error carries a classified error across the socket.
type Error struct {
	Kind             sandbox.Kind
	Code             string
	Message          string
	Details          map[string]any `json:",omitempty"`
	Cause            string
	SnapshotUnusable bool
}

// NewError takes err apart.
func NewError(err error) Error {
	e := sandbox.AsError(err)
	return Error{
		Kind: e.Kind, Code: e.Code, Message: e.Message, Details: e.Details, Cause: err.Error(),
		SnapshotUnusable: errors.Is(err, runtime.ErrSnapshotUnusable),
	}
}

// Err puts it together again.
func (e Error) Err() error {
	cause := errors.New(e.Cause)
	if e.SnapshotUnusable {
		return errors.Join(runtime.ErrSnapshotUnusable, cause)
	}
	err := sandbox.E(e.Kind, e.Code, e.Message)
	err.Details = e.Details
	return err.Because(cause)
}
