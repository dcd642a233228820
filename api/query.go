package api

import (
	"net/url"
	"strconv"
)

// GlobFilter is the query of GET /sandboxes/{id}/files/glob.
type GlobFilter struct {
	Path       string // a folder; /workspace
	Pattern    string // relative to it, with ** for any number of folders
	Name       string // a pattern for the last part of the path alone
	Type       string // file, directory, symlink
	MaxResults int    // 1000, at most 10000
	All        bool   // into .git too
}

// Query returns f as a query string.
func (f GlobFilter) Query() url.Values {
	q := given("path", f.Path, "pattern", f.Pattern, "name", f.Name, "type", f.Type)
	if f.MaxResults > 0 {
		q.Set("max_results", strconv.Itoa(f.MaxResults))
	}
	if f.All {
		q.Set("all", "true")
	}
	return q
}

// UsageFilter narrows GET /usage, /usage/summary and /usage/sessions; of it
// GET /credits/usage knows the period.
type UsageFilter struct {
	GroupBy  string // workspace_id, project_id, an external id, or day
	Period   string // hour, day, week, month, or a month like 2030-01
	From, To string // a time or a day, instead

	WorkspaceID, ProjectID                                 string
	ExternalWorkspaceID, ExternalUserID, ExternalProjectID string
}

// Query returns f as a query string.
func (f UsageFilter) Query() url.Values {
	return given("group_by", f.GroupBy, "period", f.Period, "from", f.From, "to", f.To,
		"workspace_id", f.WorkspaceID, "project_id", f.ProjectID, "external_workspace_id", f.ExternalWorkspaceID,
		"external_user_id", f.ExternalUserID, "external_project_id", f.ExternalProjectID)
}

// AuditFilter narrows GET /audit.
type AuditFilter struct {
	TenantID          string // another than the own needs an admin key
	Action            string // method and route
	Method, Route     string
	ResourceID, KeyID string
	UserID, RequestID string
	From, To          string // a time or a day
}

// Query returns f as a query string.
func (f AuditFilter) Query() url.Values {
	return given("tenant_id", f.TenantID, "action", f.Action, "method", f.Method, "route", f.Route, "resource_id", f.ResourceID,
		"key_id", f.KeyID, "user_id", f.UserID, "request_id", f.RequestID, "from", f.From, "to", f.To)
}

// given makes a query of names and values, without those that are empty.
func given(pairs ...string) url.Values {
	q := url.Values{}
	for i := 0; i+1 < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			q.Set(pairs[i], pairs[i+1])
		}
	}
	return q
}
