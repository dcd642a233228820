package api

// PathDrain, below Base, empties the machine. Needs an admin key.
const PathDrain = "/admin/drain"

// Drained is the answer of POST /admin/drain: every sandbox of every tenant on
// this machine is destroyed, and until the next start creates are refused with
// 503 UNAVAILABLE.
type Drained struct {
	Destroyed int `json:"destroyed"` // sandboxes of tenants; warm ones are not counted
	Failed    int `json:"failed"`    // could not be freed yet; asking again tries again
}
