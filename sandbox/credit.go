package sandbox

import (
	"math"
	"time"
)

// Credits is an amount of money in millionths of a credit. A credit is worth a
// cent of whatever the operator counts in.
type Credits int64

// Credit is one.
const Credit Credits = 1_000_000

// Whole returns full credits, rounded down: nobody has what is not there.
func (c Credits) Whole() int64 { return int64(math.Floor(float64(c) / float64(Credit))) }

// Prices is what running costs. The zero Prices bill nothing.
type Prices struct {
	CoreHour Credits // of one core
	GiBHour  Credits // of one GiB of memory
}

// On tells whether anything is billed at all.
func (p Prices) On() bool { return p != Prices{} }

// Cost is the price of running for so many core- and MiB-milliseconds; cores in
// thousandths.
func (p Prices) Cost(milliCPU, memoryMiB int64) Credits {
	const hour = float64(time.Hour / time.Millisecond)
	return Credits(math.Round(float64(milliCPU)/float64(Core)/hour*float64(p.CoreHour) + float64(memoryMiB)/1024/hour*float64(p.GiBHour)))
}

// Entry is one line of a tenant's ledger.
type Entry struct {
	ID        string // "txn_…", sortable by time
	Kind      string // EntryGrant or EntryUsage
	Amount    Credits
	Balance   Credits // after it
	Sandbox   ID      // of usage
	Workspace string
	User      string // External.User
	Note      string
	At        time.Time
}

// Kinds of entries.
const (
	EntryGrant = "grant"
	EntryUsage = "usage"
)

// ExternalQuota bounds what a tenant gives one of its own users. 0: no bound.
type ExternalQuota struct {
	User           string // External.User
	MaxSandboxes   int64  // not destroyed
	MaxConcurrent  int64  // live
	MaxStorageGB   int64  // of those not destroyed
	MaxCreditCents int64  // used altogether
	Sandboxes      int64  // there are just now, not destroyed
	UpdatedAt      time.Time
}

// TenantUse is what a tenant has just now.
type TenantUse struct {
	Sandboxes int64 // live
	Kept      int64 // not destroyed
	Keys      int64
	Saved     int64 // bytes of snapshots and of what is paused
	Resources       // of the live ones; Disk of all that are kept
}

// Audit says who changed what, from where, with which result.
type Audit struct {
	ID        string // "aud_…", sortable by time
	Tenant    TenantID
	Workspace string // of the key
	Key       string
	User      string
	Method    string
	Route     string // as in the API's document
	Resource  string // what stands for {id}, or was made
	Status    int
	Code      string // of the error
	Address   string
	UserAgent string
	Request   string // id
	At        time.Time
}

// AuditFilter selects entries of one tenant, newest first. Empty fields do not
// restrict.
type AuditFilter struct {
	Tenant    TenantID
	Workspace string
	Key, User string
	Method    string
	Route     string
	Resource  string
	Request   string
	Window    Window
	Before    string // cursor: entries older than this ID
	Limit     int
}
