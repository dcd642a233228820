package api

import (
	"net/url"
	"strings"
)

// Base is the prefix of every path of the native API.
const Base = "/api/v1"

// Paths below Base, and those beside it.
const (
	PathSandboxes      = "/sandboxes"
	PathTemplates      = "/sandbox-templates"
	PathTemplateBuilds = "/sandbox-template-builds"
	PathTenants        = "/tenants"
	PathKeys           = "/api-keys"

	PathScopedTokens = "/tokens/scoped"
	PathTickets      = "/auth/sse-ticket"
	PathUsers        = "/users"
	PathWorkspaces   = "/workspaces"
	PathProjects     = "/projects"
	PathQuotas       = "/quotas/external"
	PathPlan         = "/tenant/plan"
	PathUsage        = "/usage"
	PathCredits      = "/credits"
	PathAudit        = "/audit"
	PathCompute      = "/compute"
	PathSnapshots    = "/snapshots"
	PathStorage      = "/storage"

	PathHealth  = "/healthz"
	PathReady   = "/readyz"
	PathOpenAPI = "/openapi.json"
	PathMetrics = "/metrics"
)

// Headers of the protocol.
const (
	HeaderRequestID      = "X-Request-Id"
	HeaderIdempotencyKey = "Idempotency-Key"
	HeaderLastEventID    = "Last-Event-ID"
)

// SandboxPath returns the path, below Base, of a sandbox or of something of it.
func SandboxPath(id string, rest ...string) string {
	p := PathSandboxes + "/" + url.PathEscape(id)
	for _, r := range rest {
		p += "/" + r
	}
	return p
}

// FilePath returns the path, below Base, from which file is downloaded.
func FilePath(id, file string) string {
	return SandboxPath(id, "files", url.PathEscape(strings.TrimPrefix(file, "/")))
}

// PathSnapshotImport makes a snapshot of a file that is not there yet.
const PathSnapshotImport = PathSnapshots + "/import"

// SnapshotPath returns the path, below Base, of a snapshot or of something of it.
func SnapshotPath(id string, rest ...string) string {
	p := PathSnapshots + "/" + url.PathEscape(id)
	for _, r := range rest {
		p += "/" + r
	}
	return p
}
