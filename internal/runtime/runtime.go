// Package runtime is the contract between the supervisor and whatever isolates
// sandboxes from the host and from each other, so that the rules need not know
// the technology.
//
// # Terms
//
// An image is a read-only root file system; a snapshot is the memory and the
// writable layer of a sandbox at rest. Both are named by content ([sandbox.Ref])
// and fetched by the driver itself; no host path crosses this contract, because
// the driver may run on another machine.
//
// # What a driver promises
//
//   - Everything it makes on a host is named after the sandbox ID, or can be
//     found from it after a crash: every method works with nothing but the ID.
//   - Sandboxes outlive the daemon and the driver. What runs goes on running
//     when either is killed, and List names it afterwards.
//   - Calls for one ID never overlap, but for Dial, Wait and Usage, which may
//     overlap with each other and with Destroy; calls for different IDs do.
//   - Destroy is the only way to free anything, and always safe to repeat.
//   - Errors are classified ([sandbox.Error]); Start says by
//     [ErrSnapshotUnusable] that only the snapshot is to blame.
package runtime

import (
	"context"
	"errors"
	"net"
	"time"

	"silica.dev/silica/sandbox"
)

// ErrSnapshotUnusable says that a start failed because the snapshot could not
// be restored (missing, damaged, of another engine). Nothing is left behind and
// the same sandbox may be started without a snapshot.
var ErrSnapshotUnusable = errors.New("snapshot can't be restored")

// StartRequest says what to start.
type StartRequest struct {
	ID        sandbox.ID
	Resources sandbox.Resources
	Image     sandbox.Ref // always set: a snapshot refers to its image's files
	Snapshot  sandbox.Ref // empty: boot from the image
	// Files is the writable layer to boot with, kept by [FileKeeper] or
	// [Suspender] of a sandbox with this Image and disk. Not together with
	// Snapshot.
	Files sandbox.Ref
}

// Exit says how a sandbox ended without being asked to.
type Exit struct {
	// Reason is a sentence for the user: "out of memory: …".
	Reason string
	// OutOfMemory is set when the host killed it for exceeding its limit.
	OutOfMemory bool
}

// Driver runs sandboxes on one isolation technology.
type Driver interface {
	// Start returns once the guest agent accepts connections. On an error
	// nothing is left behind.
	Start(ctx context.Context, req StartRequest) error
	// Destroy ends the sandbox and frees everything it held on the host. An
	// unknown or half-started ID is a success.
	Destroy(ctx context.Context, id sandbox.ID) error
	// Dial connects to a TCP port inside. The connection breaks when the
	// sandbox dies; it never hangs on a dead one. [sandbox.NotFound] for an
	// unknown ID.
	Dial(ctx context.Context, id sandbox.ID, port uint16) (net.Conn, error)
	// Wait blocks until the sandbox is gone, whoever ended it, and says why.
	// [sandbox.NotFound] for an unknown ID. Several may wait.
	Wait(ctx context.Context, id sandbox.ID) (Exit, error)
	// List names every sandbox that holds anything on the host, started,
	// half-started or half-destroyed, sorted.
	List(ctx context.Context) ([]sandbox.ID, error)
}

// Snapshotter is a Driver that can keep a running sandbox's memory and files.
type Snapshotter interface {
	// Snapshot stores memory and writable layer of a running sandbox and
	// returns once the blob is durable. The sandbox goes on running.
	Snapshot(ctx context.Context, id sandbox.ID) (sandbox.Ref, error)
	// SnapshotKey names what a snapshot of a sandbox of this size fixes: the
	// driver's version, and what of the size can't be changed by a restore.
	// A snapshot serves exactly the requests with the same key.
	SnapshotKey(res sandbox.Resources) string
}

// FileKeeper is a Driver that can keep the files of a sandbox without its
// memory, for a later start of the same sandbox or of others.
type FileKeeper interface {
	// KeepFiles stores the writable layer of a running sandbox as it is at one
	// moment, and returns once the blob, which no other sandbox shares, is
	// durable. From that moment on nothing in the sandbox runs: Destroy or Thaw
	// follow. After an error it runs on as if nothing had been asked; of a
	// full disk that is [sandbox.CodeHostFull]. It may be repeated.
	KeepFiles(ctx context.Context, id sandbox.ID) (sandbox.Ref, error)
	// Thaw lets a sandbox run on that KeepFiles left standing. A success for
	// one that runs, [sandbox.NotFound] for an unknown ID.
	Thaw(ctx context.Context, id sandbox.ID) error
}

// State is memory and files of a sandbox at one moment. They are two blobs, so
// that the files come back also where the memory can't be restored any more.
type State struct {
	Memory sandbox.Ref // for [StartRequest.Snapshot]
	Files  sandbox.Ref // for [StartRequest.Files]
	Key    string      // what a restore of Memory needs, as SnapshotKey has it
	Size   int64       // bytes both take
}

// Suspender is a Driver that can keep memory and files of one moment. Both may be
// started from any number of times, under the same ID or others, with the same
// Image and disk; nothing of what one such sandbox does is seen by another.
type Suspender interface {
	FileKeeper
	// Suspend is KeepFiles with the memory: the sandbox stands still from the
	// moment that is saved, and Destroy or Thaw follow. No other sandbox shares
	// the blobs. After an error it runs on.
	Suspend(ctx context.Context, id sandbox.ID) (State, error)
	// Capture is Suspend that leaves the sandbox running: it stands still only
	// while it is copied, not while the copy becomes durable.
	Capture(ctx context.Context, id sandbox.ID) (State, error)
}

// Usage is what a sandbox has used since it started.
type Usage struct {
	CPU        time.Duration
	Memory     int64 // bytes now
	NetworkIn  int64 // bytes received by the sandbox
	NetworkOut int64
}

// Meter is a Driver that measures.
type Meter interface {
	Usage(ctx context.Context, id sandbox.ID) (Usage, error)
}

// Limiter is a Driver that can tell what it holds a sandbox to.
type Limiter interface {
	// Limits returns the CPU and memory that the host lets a running sandbox
	// have, as they are in force and not as they were asked for. What isn't
	// limited is 0, and so is the disk, which the agent sees for itself.
	Limits(ctx context.Context, id sandbox.ID) (sandbox.Resources, error)
}

// Pooler is a Driver that can make what every start needs ahead of time.
type Pooler interface {
	// Prepare keeps n empty slots ready for sandboxes of this image and size,
	// replacing what an earlier call asked for. It returns at once.
	Prepare(ctx context.Context, image sandbox.Ref, res sandbox.Resources, n int) error
}
