package supervisor

import (
	"context"
	"time"

	"silica.dev/silica/sandbox"
)

// Observer is told what operators want to count. It must not block.
type Observer interface {
	// Started says that a sandbox takes work, how it came to, and how long its
	// tenant waited.
	Started(path sandbox.BootPath, took time.Duration)
	// StartFailed says that one never will.
	StartFailed()
	// Refilled says how the making of one member of the warm pool went.
	Refilled(took time.Duration, err error)
	// RestoreFailed says that a snapshot could not be restored.
	RestoreFailed()
}

type nobody struct{}

func (nobody) Started(sandbox.BootPath, time.Duration) {}
func (nobody) StartFailed()                            {}
func (nobody) Refilled(time.Duration, error)           {}
func (nobody) RestoreFailed()                          {}

// because returns life with what cause knows of the request behind it: the work
// outlives the request, and is still its.
func because(life, cause context.Context) context.Context { return caused{life, cause} }

type caused struct {
	context.Context
	cause context.Context
}

func (c caused) Value(key any) any {
	if v := c.Context.Value(key); v != nil {
		return v
	}
	return c.cause.Value(key)
}
