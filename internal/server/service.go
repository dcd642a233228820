// Package server speaks HTTP so that the rules need not: it reads requests,
// checks keys and limits, asks the supervisor, and writes answers and errors in
// the one shape each route promises.
package server

import (
	"context"
	"iter"
	"net"
	"time"

	"silica.dev/silica/internal/event"
	"silica.dev/silica/internal/guest"
	"silica.dev/silica/sandbox"
)

// Sandboxes is what the routes ask of the supervisor. An id is what stands in
// the path: unchecked. One of another tenant and one that never was give the
// same sandbox.NotFound after the same work.
type Sandboxes interface {
	// Create answers once the sandbox runs, or when the configured wait is
	// over, whichever is first.
	Create(ctx context.Context, c sandbox.Caller, req sandbox.CreateRequest) (sandbox.Sandbox, error)
	Get(ctx context.Context, c sandbox.Caller, id string) (sandbox.Sandbox, error)
	List(ctx context.Context, c sandbox.Caller, f sandbox.Filter) (sandbox.Listing, error)
	Destroy(ctx context.Context, c sandbox.Caller, id string) (sandbox.Sandbox, error)
	// Update changes what ch sets; a Conflict when the name or slug is taken.
	Update(ctx context.Context, c sandbox.Caller, id string, ch sandbox.Change) (sandbox.Sandbox, error)
	// Extend has the hard limit count anew; timeout 0 leaves it as long as it is.
	Extend(ctx context.Context, c sandbox.Caller, id string, timeout time.Duration) (sandbox.Sandbox, error)
	// Stop destroys a sandbox, or pauses a persistent one with its files kept.
	// Start brings a paused one back and answers as Create does: with its files, and
	// from memory where that was kept. Restart is both, whether or not the sandbox
	// is persistent. What is so already is a success.
	Stop(ctx context.Context, c sandbox.Caller, id string) (sandbox.Sandbox, error)
	Start(ctx context.Context, c sandbox.Caller, id string) (sandbox.Sandbox, error)
	Restart(ctx context.Context, c sandbox.Caller, id string) (sandbox.Sandbox, error)
	// Usage tells what a sandbox has used until now, Metrics how it is doing.
	Usage(ctx context.Context, c sandbox.Caller, id string) (sandbox.Sandbox, sandbox.Usage, error)
	Metrics(ctx context.Context, c sandbox.Caller, id string, window time.Duration) (sandbox.Sandbox, sandbox.Metrics, error)
	// SetEnv changes the variables of processes that are started later;
	// NotFound for one to be unset that is not there.
	SetEnv(ctx context.Context, c sandbox.Caller, id string, ch sandbox.EnvChange) (sandbox.Sandbox, error)
	// Guest admits work on a running sandbox; CodeNotRunning otherwise. The
	// connection is the supervisor's: don't close it. ctx is cancelled with a
	// classified cause when the sandbox ends.
	Guest(ctx context.Context, c sandbox.Caller, id string) (context.Context, *guest.Client, sandbox.Sandbox, error)
	// Dial admits a connection to a TCP port of a running sandbox; CodePortClosed
	// when nothing listens there. The context is as Guest's.
	Dial(ctx context.Context, c sandbox.Caller, id string, port uint16) (context.Context, net.Conn, error)
	// Ready blocks until the sandbox is ready or can't be any more, or ctx ends.
	Ready(ctx context.Context, c sandbox.Caller, id string) (sandbox.Sandbox, error)
	// Drain takes no new sandboxes from now on and destroys all there are, or
	// pauses those whose files are to be kept,
	// until ctx ends; left counts what the host still holds then.
	Drain(ctx context.Context, grace time.Duration) (destroyed, left int, err error)
}

// Snapshots keeps memory and files of sandboxes, and makes sandboxes of them. An
// id of another tenant and one that never was give the same sandbox.NotFound.
type Snapshots interface {
	// Pause stores memory and files of a sandbox and frees the host's memory; one
	// paused already is a success. [Sandboxes.Start] resumes it.
	Pause(ctx context.Context, c sandbox.Caller, id string) (sandbox.Sandbox, error)
	TakeSnapshot(ctx context.Context, c sandbox.Caller, id string, req sandbox.SnapshotRequest) (sandbox.Snapshot, error)
	// Snapshots lists those of a sandbox, be it destroyed, or with an empty id all
	// of the tenant; newest first.
	Snapshots(ctx context.Context, c sandbox.Caller, id string) ([]sandbox.Snapshot, error)
	Snapshot(ctx context.Context, c sandbox.Caller, snapshotID string) (sandbox.Snapshot, error)
	DeleteSnapshot(ctx context.Context, c sandbox.Caller, snapshotID string) (sandbox.Snapshot, error)
	// Restore has a sandbox go on from a snapshot; it keeps id, slug and name.
	Restore(ctx context.Context, c sandbox.Caller, id, snapshotID string) (sandbox.Sandbox, error)
	// Fork makes copies of a sandbox, or of req.Snapshot: id may be empty then.
	Fork(ctx context.Context, c sandbox.Caller, id string, req sandbox.ForkRequest) ([]sandbox.Sandbox, error)
}

// Events is the log of what happened.
type Events interface {
	// Follow yields the stored events of one sandbox that came after seq
	// (below 0: none of them), then those that come, until ctx ends. It
	// listens from the moment of the call. A reader too slow for live output
	// misses some of it, never a stored event.
	Follow(ctx context.Context, id sandbox.ID, after int64) iter.Seq2[event.Event, error]
	// Tail returns the last n stored events of a sandbox, in order.
	Tail(ctx context.Context, id sandbox.ID, n int) ([]event.Event, error)
	// Publish shows a live event to whoever follows just now. It never blocks.
	Publish(event.Event)
	// Record stores an event and shows it.
	Record(ctx context.Context, e event.Event) error
}

// Accounts is who may call. Secrets are looked up by hash and never kept.
type Accounts interface {
	Authenticate(ctx context.Context, secret string) (sandbox.Caller, error)
	// Caller tells what a key may do by now.
	Caller(ctx context.Context, keyID string) (sandbox.Caller, error)
	// OnAccounts has fn called after every change of what keys may do.
	OnAccounts(fn func())
	// NewTicket makes what stands for a key once; Redeem takes it.
	NewTicket(ctx context.Context, keyID string) (ticket string, err error)
	Redeem(ctx context.Context, ticket string) (sandbox.Caller, error)
	CreateTenant(ctx context.Context, t sandbox.Tenant) (sandbox.Tenant, error)
	Tenants(ctx context.Context) ([]sandbox.Tenant, error)
	Tenant(ctx context.Context, id sandbox.TenantID) (sandbox.Tenant, error)
	ChangeTenant(ctx context.Context, id sandbox.TenantID, change func(*sandbox.Tenant)) (sandbox.Tenant, error)
	// DeleteTenant refuses with a Conflict while it has live sandboxes.
	DeleteTenant(ctx context.Context, id sandbox.TenantID) error
	// CreateKey makes a key and returns its secret, this once.
	CreateKey(ctx context.Context, k sandbox.Key) (key sandbox.Key, secret string, err error)
	Keys(ctx context.Context, tenant sandbox.TenantID) ([]sandbox.Key, error)
	// Key finds one key of a tenant (empty: of any).
	Key(ctx context.Context, tenant sandbox.TenantID, id string) (sandbox.Key, error)
	// RoleOf is the user's in the workspace, or, when that is empty, the tenant.
	RoleOf(ctx context.Context, tenant sandbox.TenantID, user, workspace string) (sandbox.Role, error)
	DeleteKey(ctx context.Context, tenant sandbox.TenantID, id string) error
}

// Directory is who and what a tenant consists of. Things of another tenant are
// NotFound; changes that would leave nobody who owns a tenant or workspace are
// refused with a Conflict. The functions it is given may run twice.
type Directory interface {
	Users(ctx context.Context, tenant sandbox.TenantID, workspace string) ([]sandbox.User, error)
	User(ctx context.Context, tenant sandbox.TenantID, id string) (sandbox.User, error)
	CreateUser(ctx context.Context, u sandbox.User) (sandbox.User, error)
	ChangeUser(ctx context.Context, tenant sandbox.TenantID, id string, change func(*sandbox.User) error) (sandbox.User, error)
	DeleteUser(ctx context.Context, tenant sandbox.TenantID, id string, allow func(sandbox.User) error) error

	Workspaces(ctx context.Context, tenant sandbox.TenantID, only string) ([]sandbox.Workspace, error)
	Workspace(ctx context.Context, tenant sandbox.TenantID, idOrSlug string) (sandbox.Workspace, error)
	CreateWorkspace(ctx context.Context, w sandbox.Workspace, owner string) (sandbox.Workspace, error)
	ChangeWorkspace(ctx context.Context, tenant sandbox.TenantID, id string, change func(*sandbox.Workspace)) (sandbox.Workspace, error)
	DeleteWorkspace(ctx context.Context, tenant sandbox.TenantID, id string) error

	Members(ctx context.Context, tenant sandbox.TenantID, workspace string) ([]sandbox.Member, error)
	// SetMember and RemoveMember ask allow with the role there was, "" for none.
	SetMember(ctx context.Context, tenant sandbox.TenantID, workspace, user string, role sandbox.Role, allow func(before sandbox.Role) error) (sandbox.Member, error)
	RemoveMember(ctx context.Context, tenant sandbox.TenantID, workspace, user string, allow func(before sandbox.Role) error) error

	Projects(ctx context.Context, tenant sandbox.TenantID, workspace string) ([]sandbox.Project, error)
	Project(ctx context.Context, tenant sandbox.TenantID, id string) (sandbox.Project, error)
	// CreateProject finds or makes one, as a create of a sandbox does.
	CreateProject(ctx context.Context, tenant sandbox.TenantID, w, p sandbox.Place) (got sandbox.Project, fresh bool, err error)
	DeleteProject(ctx context.Context, tenant sandbox.TenantID, id string) error
}

// Books is what tenants have, use and pay.
type Books interface {
	Use(ctx context.Context, tenant sandbox.TenantID) (sandbox.TenantUse, error)
	Quota(ctx context.Context, tenant sandbox.TenantID, user string) (sandbox.ExternalQuota, error)
	SetQuota(ctx context.Context, tenant sandbox.TenantID, q sandbox.ExternalQuota) error
	DeleteQuota(ctx context.Context, tenant sandbox.TenantID, user string) error

	SumUsage(ctx context.Context, f sandbox.UsageFilter, by sandbox.GroupBy) ([]sandbox.UsageSum, error)
	Runs(ctx context.Context, f sandbox.UsageFilter, limit, offset int) (list []sandbox.Run, total int, err error)

	// Balance also sums what was granted and used within a window.
	Balance(ctx context.Context, tenant sandbox.TenantID, w sandbox.Window) (balance, granted, used sandbox.Credits, err error)
	Entries(ctx context.Context, tenant sandbox.TenantID, limit, offset int) (list []sandbox.Entry, total int, err error)
	// Grant with the same key, if there is one, happens once.
	Grant(ctx context.Context, tenant sandbox.TenantID, amount sandbox.Credits, note, key string) (sandbox.Entry, error)
}

// AuditLog keeps who changed what. It is append-only.
type AuditLog interface {
	// AddAudit returns when the entry is durable.
	AddAudit(ctx context.Context, a sandbox.Audit) error
	Audits(ctx context.Context, f sandbox.AuditFilter) ([]sandbox.Audit, error)
}

// Templates is the catalogue that a caller may create from, and what is built for
// it. Names are what stands in the path: unchecked. Things of another tenant and
// those that never were give the same sandbox.NotFound.
type Templates interface {
	Templates(ctx context.Context, c sandbox.Caller) ([]sandbox.Template, error)
	// Aliases are other names of official templates, with their slugs.
	Aliases() map[string]string
	// FindTemplate finds by id, slug or alias.
	FindTemplate(ctx context.Context, tenant sandbox.TenantID, name string) (sandbox.Template, error)
	Create(ctx context.Context, c sandbox.Caller, req sandbox.TemplateRequest) (sandbox.Template, error)
	// CreateFrom makes a template of a running sandbox's files and queues its build.
	CreateFrom(ctx context.Context, c sandbox.Caller, sb sandbox.Sandbox, agent *guest.Client, req sandbox.TemplateRequest) (sandbox.Template, error)
	// Change has another spec built; until it is, the old one serves.
	Change(ctx context.Context, c sandbox.Caller, name string, ch sandbox.TemplateChange) (sandbox.Template, error)
	Delete(ctx context.Context, c sandbox.Caller, name string) error

	// Queue asks for a build of the template's spec, or of another from now on.
	Queue(ctx context.Context, c sandbox.Caller, name string, spec *sandbox.BuildSpec) (sandbox.Build, error)
	Builds(ctx context.Context, c sandbox.Caller, name string) ([]sandbox.Build, error)
	GetBuild(ctx context.Context, c sandbox.Caller, id string) (sandbox.Build, error)
	Cancel(ctx context.Context, c sandbox.Caller, id string) (sandbox.Build, error)
	Retry(ctx context.Context, c sandbox.Caller, id string) (sandbox.Build, error)
	BuildLog(ctx context.Context, c sandbox.Caller, id string) (sandbox.Build, []sandbox.BuildEvent, error)
	// FollowBuild yields what a build told after an event, and what it tells
	// until its end.
	FollowBuild(ctx context.Context, c sandbox.Caller, id string, after int64) iter.Seq2[sandbox.BuildEvent, error]
}
