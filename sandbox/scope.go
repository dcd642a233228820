package sandbox

import (
	"slices"
	"strings"
)

// Scope is one thing that a key may do: a kind of resource, and whether it may
// be read or changed.
type Scope string

// The scopes there are. Those of parts that are not served yet are here so that
// keys can be made for them.
const (
	ScopeSandboxesRead    Scope = "sandboxes:read"
	ScopeSandboxesWrite   Scope = "sandboxes:write" // make, destroy, and run things in them
	ScopeTemplatesRead    Scope = "templates:read"
	ScopeTemplatesWrite   Scope = "templates:write"
	ScopePreviewsRead     Scope = "previews:read"
	ScopePreviewsWrite    Scope = "previews:write"
	ScopeDeploymentsRead  Scope = "deployments:read"
	ScopeDeploymentsWrite Scope = "deployments:write"
	ScopeUsageRead        Scope = "usage:read"
	ScopeAuditRead        Scope = "audit:read"
	ScopeAccountsRead     Scope = "accounts:read"
	ScopeAccountsWrite    Scope = "accounts:write"  // members, keys, workspaces, quotas
	ScopeAccountsDelete   Scope = "accounts:delete" // workspaces and users for good
	ScopeAdmin            Scope = "admin"           // the installation; of use to admin keys only
)

// scopes gives each scope its bit. Add new ones at the end only by habit: rows
// keep names.
var scopes = []Scope{
	ScopeSandboxesRead, ScopeSandboxesWrite, ScopeTemplatesRead, ScopeTemplatesWrite, ScopePreviewsRead, ScopePreviewsWrite,
	ScopeDeploymentsRead, ScopeDeploymentsWrite, ScopeUsageRead, ScopeAuditRead, ScopeAccountsRead, ScopeAccountsWrite,
	ScopeAccountsDelete, ScopeAdmin,
}

// Scopes is a set of scopes.
type Scopes uint64

// AllScopes is every scope, those of later versions included.
const AllScopes = ^Scopes(0)

// ScopesOf makes a set.
func ScopesOf(list ...Scope) Scopes {
	var set Scopes
	for _, s := range list {
		if i := slices.Index(scopes, s); i >= 0 {
			set |= 1 << i
		}
	}
	return set
}

// Has tells whether s is in the set.
func (set Scopes) Has(s Scope) bool {
	one := ScopesOf(s)
	return one != 0 && set&one == one
}

// Covers tells whether the set holds all of other's.
func (set Scopes) Covers(other Scopes) bool { return other&^set == 0 }

// Names lists the set, "*" for everything.
func (set Scopes) Names() []string {
	if set == AllScopes {
		return []string{"*"}
	}
	names := []string{}
	for i, s := range scopes {
		if set&(1<<i) != 0 {
			names = append(names, string(s))
		}
	}
	return names
}

// ParseScopes reads names: of scopes, "sandboxes:*" for all of a resource, "*"
// for everything. It returns the first that is unknown.
func ParseScopes(names []string) (set Scopes, unknown string) {
	for _, name := range names {
		if name == "*" {
			return AllScopes, ""
		}
		found := false
		for i, s := range scopes {
			if resource, any := strings.CutSuffix(name, "*"); string(s) == name || any && strings.HasSuffix(resource, ":") && strings.HasPrefix(string(s), resource) {
				set |= 1 << i
				found = true
			}
		}
		if !found {
			return set, name
		}
	}
	return set, ""
}

// Role is what a user is in a tenant, or in one workspace of it.
type Role string

// The roles, each of which may what those after it may.
const (
	Owner     Role = "owner"
	Admin     Role = "admin"
	Developer Role = "developer"
	Viewer    Role = "viewer"
)

// Roles lists them, the mightiest first.
var Roles = []Role{Owner, Admin, Developer, Viewer}

// mayDo is what each role may do, and the only place that says so.
var mayDo = map[Role]Scopes{
	Viewer: ScopesOf(ScopeSandboxesRead, ScopeTemplatesRead, ScopePreviewsRead, ScopeDeploymentsRead, ScopeUsageRead, ScopeAccountsRead),
	Developer: ScopesOf(ScopeSandboxesRead, ScopeTemplatesRead, ScopePreviewsRead, ScopeDeploymentsRead, ScopeUsageRead, ScopeAccountsRead,
		ScopeSandboxesWrite, ScopeTemplatesWrite, ScopePreviewsWrite, ScopeDeploymentsWrite),
	Admin: AllScopes &^ ScopesOf(ScopeAccountsDelete, ScopeAdmin),
	Owner: AllScopes &^ ScopesOf(ScopeAdmin),
}

// May returns what the role may do; an unknown one may nothing.
func (r Role) May() Scopes { return mayDo[r] }

// Valid tells whether there is such a role.
func (r Role) Valid() bool { return slices.Contains(Roles, r) }

// Above tells whether r may more than other. No role is below all.
func (r Role) Above(other Role) bool { return r.rank() < other.rank() }

// Higher returns the mightier of two.
func (r Role) Higher(other Role) Role {
	if other.Above(r) {
		return other
	}
	return r
}

func (r Role) rank() int {
	if i := slices.Index(Roles, r); i >= 0 {
		return i
	}
	return len(Roles)
}
