package server

import (
	"context"

	"silica.dev/silica/sandbox"
)

// noSnapshots stands in where nothing can take snapshots: there are none.
type noSnapshots struct{}

var errNoSnapshots = sandbox.E(sandbox.NotFound, sandbox.CodeNotFound, "this server takes no snapshots")

func (noSnapshots) Pause(context.Context, sandbox.Caller, string) (sb sandbox.Sandbox, err error) {
	return sb, errNoSnapshots
}

func (noSnapshots) TakeSnapshot(context.Context, sandbox.Caller, string, sandbox.SnapshotRequest) (snap sandbox.Snapshot, err error) {
	return snap, errNoSnapshots
}

func (noSnapshots) Snapshots(context.Context, sandbox.Caller, string) ([]sandbox.Snapshot, error) {
	return nil, errNoSnapshots
}

func (noSnapshots) Snapshot(context.Context, sandbox.Caller, string) (snap sandbox.Snapshot, err error) {
	return snap, errNoSnapshots
}

func (noSnapshots) DeleteSnapshot(context.Context, sandbox.Caller, string) (snap sandbox.Snapshot, err error) {
	return snap, errNoSnapshots
}

func (noSnapshots) Restore(context.Context, sandbox.Caller, string, string) (sb sandbox.Sandbox, err error) {
	return sb, errNoSnapshots
}

func (noSnapshots) Fork(context.Context, sandbox.Caller, string, sandbox.ForkRequest) ([]sandbox.Sandbox, error) {
	return nil, errNoSnapshots
}
