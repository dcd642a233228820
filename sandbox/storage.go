package sandbox

import "time"

// HolderKind says what an artifact is to the row that names it.
type HolderKind string

const (
	HeldImage    HolderKind = "image"    // root file system of a template
	HeldSeed     HolderKind = "seed"     // what copies of a template start from
	HeldBase     HolderKind = "base"     // root file system under a sandbox or snapshot
	HeldFiles    HolderKind = "files"    // of a sandbox that stopped or paused
	HeldMemory   HolderKind = "memory"   // of a paused sandbox
	HeldSnapshot HolderKind = "snapshot" // memory and files of one
)

// Holder is a row that names an artifact. As long as there is one it is kept.
type Holder struct {
	Kind   HolderKind
	ID     string   // of a template, sandbox or snapshot
	Tenant TenantID // empty: everybody's
	Ref    Ref
}

// Artifact is immutable content on disk, and who holds it.
type Artifact struct {
	Ref     Ref
	Size    int64     // bytes it takes on disk
	PutAt   time.Time // when it was last put there
	Holders []Holder  // none: garbage, unless it was put a moment ago
}
