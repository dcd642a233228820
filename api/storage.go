package api

import "time"

// StoredArtifact is content on the server's disk, and who holds it.
type StoredArtifact struct {
	ID        string    `json:"id"`         // digest of its content
	SizeBytes int64     `json:"size_bytes"` // on disk
	PutAt     time.Time `json:"put_at"`
	Holders   []Holder  `json:"holders"` // empty: garbage once an hour has passed
}

// Holder is what keeps an artifact.
type Holder struct {
	Kind     string  `json:"kind"` // image, seed, base, files, memory or snapshot
	ID       string  `json:"id"`   // of a template, sandbox or snapshot
	TenantID *string `json:"tenant_id"`
}

// Collected is the answer of POST /storage/gc.
type Collected struct {
	Removed    int   `json:"removed"` // artifacts
	FreedBytes int64 `json:"freed_bytes"`
}
