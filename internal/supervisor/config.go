package supervisor

import (
	"context"
	"log/slog"
	"runtime"
	"time"

	"silica.dev/silica/internal/event"
	driver "silica.dev/silica/internal/runtime"
	"silica.dev/silica/sandbox"
)

// Config holds the operator's choices. Zero values take the defaults named
// here, unless 0 is said to mean something.
type Config struct {
	Template string            // what a create without one gets: "miosa-sandbox"
	Default  sandbox.Resources // 1 core, 1024 MiB, 3072 MiB
	Max      sandbox.Resources // 4 cores, 8192 MiB, 10240 MiB
	Timeout  time.Duration     // hard limit of running time: 300 s
	// MaxTimeout bounds what a create may ask for: 24 h.
	MaxTimeout time.Duration
	// ForbidAlwaysOn refuses sandboxes without a hard limit.
	ForbidAlwaysOn bool
	// MaxSandboxes bounds the live ones of a tenant that has no limit of its
	// own. 0: no bound.
	MaxSandboxes int

	WarmPool   int           // restored members of the default template, unless that says otherwise; 0: none
	EmptySlots int           // what Pooler drivers keep ready; 0: none
	Starts     int           // starts at once: the number of CPUs, at least 2
	CreateWait time.Duration // how long Create waits for the sandbox to run: 2 s

	StartTimeout     time.Duration // of one start by the driver: 60 s
	InitTimeout      time.Duration // for the agent to take its identity: 10 s
	ProvisionTimeout time.Duration // from the request to running, a template's build included: 30 min
	DestroyWait      time.Duration // how long Destroy waits for the host: 5 s
	AdoptWait        time.Duration // how long Recover waits for slow agents: 1 s
	MeterEvery       time.Duration // between two readings of what is used: 15 s
	ExpireEvery      time.Duration // between two looks for snapshots that are too old: 1 min

	Nameservers  []string
	MaxProcesses uint32 // a sandbox; 0: the agent's default
}

func (c Config) withDefaults() Config {
	or := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	if c.Template == "" {
		c.Template = "miosa-sandbox"
	}
	c.Default = resourcesOr(c.Default, sandbox.Resources{MilliCPU: sandbox.Core, Memory: 1024 * sandbox.MiB, Disk: 3072 * sandbox.MiB})
	c.Max = resourcesOr(c.Max, sandbox.Resources{MilliCPU: 4 * sandbox.Core, Memory: 8192 * sandbox.MiB, Disk: 10240 * sandbox.MiB})
	or(&c.Timeout, 300*time.Second)
	or(&c.MaxTimeout, 24*time.Hour)
	if c.Starts == 0 {
		c.Starts = max(2, runtime.NumCPU())
	}
	or(&c.CreateWait, 2*time.Second)
	or(&c.StartTimeout, time.Minute)
	or(&c.InitTimeout, 10*time.Second)
	or(&c.ProvisionTimeout, 30*time.Minute)
	or(&c.DestroyWait, 5*time.Second)
	or(&c.AdoptWait, time.Second)
	or(&c.MeterEvery, meterEvery)
	or(&c.ExpireEvery, time.Minute)
	return c
}

// resourcesOr fills the zero fields of r from d.
func resourcesOr(r, d sandbox.Resources) sandbox.Resources {
	if r.MilliCPU == 0 {
		r.MilliCPU = d.MilliCPU
	}
	if r.Memory == 0 {
		r.Memory = d.Memory
	}
	if r.Disk == 0 {
		r.Disk = d.Disk
	}
	return r
}

// Deps are what the supervisor works with.
type Deps struct {
	Store     Store
	Templates Templates
	Driver    driver.Driver
	Events    Events
	Builds    Builds   // nil: nothing is ever being built, and snapshots stay lost
	Capacity  Capacity // nil: the host always has room
	Kept      Kept     // nil: nothing that is kept is ever deleted
	Observer  Observer // nil: nobody counts
	Log       *slog.Logger
}

// Capacity knows what the host has left. It must answer fast.
type Capacity interface {
	// Room returns nil when one more sandbox of this size may start, or else
	// an Unavailable that says what is short.
	Room(ctx context.Context, need sandbox.Resources) error
}

// Kept holds what the driver kept of sandboxes, and their root file systems.
type Kept interface {
	// Open fails for an artifact that is missing or cut off; release comes
	// after it.
	Open(ctx context.Context, ref sandbox.Ref) (dir string, release func(), err error)
	// Verify reads everything back.
	Verify(ctx context.Context, ref sandbox.Ref) error
	// Delete removes an artifact; an absent one is a success.
	Delete(ctx context.Context, ref sandbox.Ref) error
}

// Store holds the rows. Every change is one durable transaction with its
// events; errors are classified, and a Conflict from Move, Update or Create
// means that nothing has changed.
type Store interface {
	// Create admits sb for its tenant: it recognises a repeated request (fresh
	// is false), checks the limit (0: none), finds or makes workspace and
	// project, and claims a warm member, which comes back Running and not
	// Ready, or else inserts sb.
	Create(ctx context.Context, sb sandbox.Sandbox, req sandbox.CreateRequest, limit int) (got sandbox.Sandbox, fresh bool, err error)
	// AddMember inserts a sandbox without a tenant.
	AddMember(ctx context.Context, sb sandbox.Sandbox) error
	Move(ctx context.Context, id sandbox.ID, from, to sandbox.State, change func(*sandbox.Sandbox), events ...event.Event) (sandbox.Sandbox, error)
	Update(ctx context.Context, id sandbox.ID, state sandbox.State, change func(*sandbox.Sandbox)) (sandbox.Sandbox, error)
	MarkFreed(ctx context.Context, id sandbox.ID, last ...sandbox.Reading) error
	// Measure adds readings to the runs they were taken in. Repeating one
	// changes nothing.
	Measure(ctx context.Context, readings []sandbox.Reading) error
	// EndRun closes the run of a lost sandbox when it was last measured.
	EndRun(ctx context.Context, id sandbox.ID) error
	// Usage adds up the runs of a sandbox and, unless it is nil, what live
	// shows beyond what was written.
	Usage(ctx context.Context, id sandbox.ID, now time.Time, live *sandbox.Reading) (sandbox.Usage, error)
	Sandbox(ctx context.Context, tenant sandbox.TenantID, id string) (sandbox.Sandbox, error)
	List(ctx context.Context, f sandbox.Filter) (sandbox.Listing, error)
	// Edit changes fields of a sandbox that has not ended, in one transaction.
	Edit(ctx context.Context, tenant sandbox.TenantID, id sandbox.ID, change func(*sandbox.Sandbox) error, events ...event.Event) (sandbox.Sandbox, error)
	// Readmit moves a paused sandbox to Provisioning, within its tenant's limit.
	Readmit(ctx context.Context, id sandbox.ID, limit int, change func(*sandbox.Sandbox)) (sandbox.Sandbox, error)
	// RoomToSave is QUOTA_EXCEEDED when a tenant may save nothing more.
	RoomToSave(ctx context.Context, tenant sandbox.TenantID) error
	// Referenced tells whether any row names what was kept of a sandbox.
	Referenced(ctx context.Context, ref sandbox.Ref) (bool, error)
	SnapshotStore
	// Row returns a sandbox whosever it is.
	Row(ctx context.Context, id sandbox.ID) (sandbox.Sandbox, error)
	// Unfreed lists every sandbox that may hold something on the host.
	Unfreed(ctx context.Context) ([]sandbox.Sandbox, error)
	// Warm lists the members of the pool, oldest first.
	Warm(ctx context.Context) ([]sandbox.Sandbox, error)
}

// SnapshotStore holds the rows of snapshots, and makes sandboxes of them.
type SnapshotStore interface {
	// AddSnapshot begins a snapshot, or makes one of a paused sandbox at once; not
	// fresh, it is that of an earlier request with the same key.
	AddSnapshot(ctx context.Context, n sandbox.Snapshot, k sandbox.Idempotency) (got sandbox.Snapshot, fresh bool, err error)
	// Snapped and Made are what an earlier request with the same key made, if any.
	Snapped(ctx context.Context, tenant sandbox.TenantID, k sandbox.Idempotency) (sandbox.Snapshot, error)
	Made(ctx context.Context, tenant sandbox.TenantID, k sandbox.Idempotency) ([]sandbox.Sandbox, error)
	// EndSnapshot makes it ready, or failed when it has a Reason.
	EndSnapshot(ctx context.Context, n sandbox.Snapshot) (sandbox.Snapshot, error)
	Snapshot(ctx context.Context, tenant sandbox.TenantID, id string) (sandbox.Snapshot, error)
	Snapshots(ctx context.Context, tenant sandbox.TenantID, id sandbox.ID) ([]sandbox.Snapshot, error)
	DeleteSnapshot(ctx context.Context, tenant sandbox.TenantID, id string) (sandbox.Snapshot, error)
	ExpiredSnapshots(ctx context.Context, now time.Time) ([]sandbox.Snapshot, error)
	// CutSnapshots ends those that a daemon before this one did not, and returns
	// those that are gone with it.
	CutSnapshots(ctx context.Context, reason string) (gone []sandbox.Snapshot, err error)
	// RoomToFork tells whether n more like sb may live.
	RoomToFork(ctx context.Context, sb sandbox.Sandbox, n, limit int) error
	// Fork admits copies of a snapshot, all or none; not fresh, they are those of an
	// earlier request with the same key.
	Fork(ctx context.Context, tenant sandbox.TenantID, req sandbox.ForkRequest, copies []sandbox.Sandbox, limit int) (got []sandbox.Sandbox, fresh bool, err error)
	// Revert pauses a sandbox as it was in a snapshot; old is what it was.
	Revert(ctx context.Context, id sandbox.ID, from sandbox.State, snapshot string, change func(*sandbox.Sandbox)) (got, old sandbox.Sandbox, err error)
}

// Templates says what sandboxes start from. NotFound for what there is not.
type Templates interface {
	// Template finds by ID, deleted ones, too.
	Template(ctx context.Context, id string) (sandbox.Template, error)
	// FindTemplate finds what a tenant may create from, by any of its names.
	FindTemplate(ctx context.Context, tenant sandbox.TenantID, name string) (sandbox.Template, error)
	// AllTemplates lists everybody's, for their pools.
	AllTemplates(ctx context.Context) ([]sandbox.Template, error)
	Seed(ctx context.Context, slug, revision, key string) (sandbox.Seed, error)
}

// Events stores what is not a change of state.
type Events interface {
	Record(ctx context.Context, e event.Event) error
}

// Builds makes templates and snapshots in the background.
type Builds interface {
	// Building tells whether a template that can't be used yet will come.
	Building(slug string) bool
	// Await has an official template built if need be, tells what happens
	// meanwhile, and returns when it can be used, or can't be built.
	Await(ctx context.Context, id string, tell func(sandbox.BuildEvent)) (sandbox.Template, error)
	// Remake has the snapshot of t for this size made, or made again when broken
	// names one that could not be restored. It returns at once; asking again
	// while it is being made changes nothing.
	Remake(t sandbox.Template, res sandbox.Resources, broken sandbox.Ref)
}

// noBuilds stands in when nothing builds.
type noBuilds struct{}

func (noBuilds) Building(string) bool { return false }
func (noBuilds) Await(context.Context, string, func(sandbox.BuildEvent)) (sandbox.Template, error) {
	return sandbox.Template{}, errNoTemplate
}
func (noBuilds) Remake(sandbox.Template, sandbox.Resources, sandbox.Ref) {}
