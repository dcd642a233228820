package api

// UpdateSandbox is the body of PATCH /sandboxes/{id}. What is nil stays as it is.
type UpdateSandbox struct {
	Name           *string        `json:"name,omitempty"` // empty: none
	Slug           *string        `json:"slug,omitempty"`
	Tags           *[]string      `json:"tags,omitempty"`
	Metadata       map[string]any `json:"metadata,omitzero"` // in place of the old; empty and not nil: none
	AlwaysOn       *bool          `json:"always_on,omitempty"`
	TimeoutSec     *int64         `json:"timeout_sec,omitempty"`      // 0: the default
	IdleTimeoutSec *int64         `json:"idle_timeout_sec,omitempty"` // 0: none
}

// ExtendSandbox is the body of POST /sandboxes/{id}/extend.
type ExtendSandbox struct {
	TimeoutSec int64 `json:"timeout_sec,omitempty"` // 0: as it is
}

// SetTags is the body of PATCH /sandboxes/{id}/tags.
type SetTags struct {
	Tags []string `json:"tags"`
}
