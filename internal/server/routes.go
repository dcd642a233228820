package server

import (
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/go-chi/chi/v5"

	"silica.dev/silica/api"
	"silica.dev/silica/internal/guest/guestpb"
	"silica.dev/silica/sandbox"
)

// scope is what a route asks of the caller's key.
type scope = sandbox.Scope

const (
	public scope = ""    // no key at all
	anyKey scope = "key" // a key, whatever it may

	sandboxesRead  = sandbox.ScopeSandboxesRead
	sandboxesWrite = sandbox.ScopeSandboxesWrite
	templatesRead  = sandbox.ScopeTemplatesRead
	templatesWrite = sandbox.ScopeTemplatesWrite
	accountsRead   = sandbox.ScopeAccountsRead
	accountsWrite  = sandbox.ScopeAccountsWrite
	accountsDelete = sandbox.ScopeAccountsDelete
	usageRead      = sandbox.ScopeUsageRead
	auditRead      = sandbox.ScopeAuditRead
	admin          = sandbox.ScopeAdmin // and an operator's key
)

// limit says what a request counts as; flags, and free is none of them.
type limit int

const (
	free     limit = 0
	counted  limit = 1 << iota // takes a token from the tenant's bucket
	polled                     // takes one from the larger bucket for readiness
	streamed                   // may stay long, and is one of the tenant's streams
	operator                   // must get through whatever else is under way
	socketed                   // a WebSocket: the key may come where a browser can put it
	tokened                    // a token of its own will do instead of a key
)

// names lists the classes of a limit for readers of the document.
func (l limit) names() []string {
	if l == free {
		return []string{"free"}
	}
	var names []string
	for _, class := range []struct {
		bit  limit
		name string
	}{{counted, "counted"}, {polled, "polled"}, {streamed, "streamed"}, {operator, "operator"}} {
		if l&class.bit != 0 {
			names = append(names, class.name)
		}
	}
	return names
}

// handler answers one request. An error it returns becomes the answer.
type handler func(w http.ResponseWriter, r *http.Request, c sandbox.Caller) error

// route is one line of the table below.
type route struct {
	method  string
	pattern string
	scope   scope
	limit   limit
	handle  handler
}

// routes is the whole surface, section by section. The files in api/openapi
// list the same; a test compares.
func (s *Server) routes() []route {
	return slices.Concat(
		s.operationRoutes(),
		s.sandboxRoutes(),
		s.lifeRoutes(),
		asComputer(s.snapshotRoutes()),
		asComputer(s.execRoutes()),
		asComputer(s.socketRoutes()),
		asComputer(s.fileRoutes()),
		asComputer(s.processRoutes()),
		asComputer(s.commandRoutes()),
		asComputer(s.serviceRoutes()),
		asComputer(s.envRoutes()),
		asComputer(s.recordRoutes()),
		asComputer(s.appRoutes()),
		s.computerRoutes(),
		s.computeRoutes(),
		s.catalogueRoutes(),
		s.storageRoutes(),
		s.parcelRoutes(),
		s.accountRoutes(),
		s.directoryRoutes(),
		s.bookRoutes(),
	)
}

const (
	v1       = api.Base
	sbx      = api.Base + "/sandboxes/{id}"
	computer = api.Base + "/computers/{id}"
	snapshot = api.Base + "/snapshots/{sid}"
)

// asComputer serves every route of a section that lies below a sandbox below
// /computers/{id} too, with the same handler: public clients run commands and
// handle files of a sandbox only there. A section that answers both alike needs
// nothing else: the contract is derived ([alsoComputers]), so its files in
// api/openapi describe the sandbox's routes only. A route that must answer
// otherwise there is a line of its own in [Server.computerRoutes], and wins.
func asComputer(section []route) []route {
	for _, rt := range section {
		if rest, ok := strings.CutPrefix(rt.pattern, sbx+"/"); ok {
			rt.pattern = computer + "/" + rest
			section = append(section, rt)
		}
	}
	return section
}

func (s *Server) operationRoutes() []route {
	return []route{
		{"GET", "/healthz", public, free, s.health},
		{"GET", "/readyz", public, free, s.ready},
		{"GET", "/openapi.json", public, free, s.openAPI},
		{"GET", "/docs", public, free, s.docs},
		{"GET", "/metrics", admin, operator, s.serveMetrics},
		{"POST", v1 + api.PathDrain, admin, operator, s.drain},
	}
}

func (s *Server) sandboxRoutes() []route {
	return []route{
		{"POST", v1 + "/sandboxes", sandboxesWrite, counted, s.createSandbox},
		{"GET", v1 + "/sandboxes", sandboxesRead, counted, s.listSandboxes},
		{"GET", v1 + "/sandboxes/by-name/{name}", sandboxesRead, counted, s.getByName},
		{"GET", sbx, sandboxesRead, counted, s.getSandbox},
		{"PATCH", sbx + "/tags", sandboxesWrite, counted, s.ofKnown(s.setTags)},
		{"DELETE", sbx, sandboxesWrite, counted, s.deleteSandbox},

		// Public clients poll the first every 10 ms when the second fails.
		{"GET", sbx + "/readiness", sandboxesRead, polled, s.readiness},
		{"GET", sbx + "/readiness/stream", sandboxesRead, polled | streamed, s.readinessStream},
		{"GET", sbx + "/events", sandboxesRead, counted | streamed, s.sandboxEvents},
	}
}

// recordRoutes tell what became of a sandbox and what goes on in it.
func (s *Server) recordRoutes() []route {
	return []route{
		{"GET", sbx + "/usage", sandboxesRead, counted, s.usage},
		{"GET", sbx + "/metrics", sandboxesRead, counted, s.sandboxMetrics},
		{"GET", sbx + "/logs", sandboxesRead, counted, s.logs},
		{"GET", sbx + "/logs/stream", sandboxesRead, counted | streamed, s.logStream},
		{"GET", sbx + "/ports", sandboxesRead, counted, s.ports},
	}
}

func (s *Server) execRoutes() []route {
	return []route{
		{"POST", sbx + "/exec", sandboxesWrite, counted, s.exec},
		{"POST", sbx + "/exec/python", sandboxesWrite, counted, s.execPython},
		{"POST", sbx + "/exec/stream", sandboxesWrite, counted | streamed, s.execStream},
	}
}

func (s *Server) socketRoutes() []route {
	return []route{
		{"GET", sbx + "/exec/spawn", sandboxesWrite, counted | streamed | socketed, s.execSpawn},
		{"GET", sbx + "/exec/stream", sandboxesWrite, counted | streamed | socketed, s.execBinary},
		{"GET", sbx + "/terminals", sandboxesRead, counted, s.listTerminals},
		{"POST", sbx + "/terminal", sandboxesWrite, counted, s.createTerminal},
		{"GET", sbx + "/terminal/stream", sandboxesWrite, counted | streamed | socketed | tokened, s.terminalStream},
		{"DELETE", sbx + "/terminal/{session}", sandboxesWrite, counted, s.deleteTerminal},
		{"POST", sbx + "/pty/{session}/resize", sandboxesWrite, counted, s.resizeTerminal},
		{"POST", sbx + "/exec/resize", sandboxesWrite, counted, s.resizeTerminal},

		{"GET", sbx + "/tunnel/{port}", sandboxesWrite, counted | streamed | socketed, s.tunnel},
		{"GET", sbx + "/ssh-tunnel", sandboxesWrite, counted | streamed | socketed, s.sshTunnel},

		{"GET", sbx + "/exec/ws", sandboxesWrite, counted | streamed | socketed, s.execCloseCode},
		{"GET", computer + "/events", sandboxesRead, counted | streamed | socketed, s.computerEvents},
	}
}

func (s *Server) processRoutes() []route {
	const one = sbx + "/processes/{pid}"
	return []route{
		{"POST", sbx + "/processes", sandboxesWrite, counted, s.createProcess},
		{"GET", sbx + "/processes", sandboxesRead, counted, s.listProcesses},
		{"GET", one, sandboxesRead, counted, s.getProcess},
		{"DELETE", one, sandboxesWrite, counted, s.deleteProcess},
		{"GET", one + "/logs", sandboxesRead, counted, s.processLogs},
		{"GET", one + "/stream", sandboxesRead, counted | streamed, s.processStream},
		{"POST", one + "/stdin", sandboxesWrite, counted, s.processInput},
		{"POST", one + "/signal", sandboxesWrite, counted, s.signalProcess},
	}
}

func (s *Server) commandRoutes() []route {
	const one = sbx + "/commands/{cid}"
	return []route{
		{"POST", sbx + "/commands", sandboxesWrite, counted, s.createCommand},
		{"GET", sbx + "/commands", sandboxesRead, counted, s.listCommands},
		{"GET", one, sandboxesRead, counted, s.getProcess},
		{"GET", one + "/logs", sandboxesRead, counted, s.processLogs},
		{"POST", one + "/stdin", sandboxesWrite, counted, s.processInput},
		{"POST", one + "/kill", sandboxesWrite, counted, s.killCommand},
	}
}

func (s *Server) serviceRoutes() []route {
	const one = sbx + "/services/{service}"
	return []route{
		{"POST", sbx + "/services", sandboxesWrite, counted, s.createService},
		{"GET", sbx + "/services", sandboxesRead, counted, s.listServices},
		{"GET", one, sandboxesRead, counted, s.getService},
		{"DELETE", one, sandboxesWrite, counted, s.deleteService},
		{"POST", one + "/start", sandboxesWrite, counted, s.controlService(guestpb.ControlServiceRequest_START)},
		{"POST", one + "/stop", sandboxesWrite, counted, s.controlService(guestpb.ControlServiceRequest_STOP)},
		{"POST", one + "/restart", sandboxesWrite, counted, s.controlService(guestpb.ControlServiceRequest_RESTART)},
		{"GET", one + "/logs", sandboxesRead, counted | streamed, s.serviceLogs},
	}
}

func (s *Server) fileRoutes() []route {
	files := sbx + "/files"
	return []route{
		{"POST", files, sandboxesWrite, counted, s.upload},
		{"POST", files + "/upload", sandboxesWrite, counted, s.upload},
		{"POST", files + "/write", sandboxesWrite, counted, s.upload},
		{"POST", files + "/write-many", sandboxesWrite, counted, s.writeMany},
		{"POST", files + "/batch", sandboxesWrite, counted, s.writeMany},
		{"DELETE", files, sandboxesWrite, counted, s.deleteFile},
		{"POST", files + "/mkdir", sandboxesWrite, counted, s.makeFolder},
		{"POST", files + "/rename", sandboxesWrite, counted, s.moveFile},
		{"POST", files + "/move", sandboxesWrite, counted, s.moveFile},
		{"POST", files + "/copy", sandboxesWrite, counted, s.copyFile},
		{"POST", files + "/chmod", sandboxesWrite, counted, s.changeMode},
		{"POST", files + "/chown", sandboxesWrite, counted, s.changeOwner},

		{"GET", files, sandboxesRead, counted, s.listFiles},
		{"GET", files + "/list", sandboxesRead, counted, s.listFiles},
		{"GET", files + "/readdir", sandboxesRead, counted, s.listFiles},
		{"GET", files + "/tree", sandboxesRead, counted, s.fileTree},
		{"POST", files + "/stat", sandboxesRead, counted, s.statFile},
		{"GET", files + "/glob", sandboxesRead, counted, s.globFiles},
		{"GET", files + "/find", sandboxesRead, counted, s.globFiles},
		{"POST", files + "/search", sandboxesRead, counted, s.searchFiles},
		{"POST", files + "/replace", sandboxesWrite, counted, s.replaceInFiles},
		{"GET", files + "/watch", sandboxesRead, counted | streamed, s.watchFiles},
		{"GET", files + "/download", sandboxesRead, counted, s.downloadQuery},
		{"HEAD", files + "/download", sandboxesRead, counted, s.downloadQuery},
		{"GET", files + "/read", sandboxesRead, counted, s.downloadQuery},

		{"GET", files + "/archive", sandboxesRead, counted, s.getArchive},
		{"PUT", files + "/archive", sandboxesWrite, counted, s.putArchive},
		{"POST", files + "/archive", sandboxesWrite, counted, s.putArchive},
		{"POST", files + "/export", sandboxesRead, counted, s.exportFile},
		{"POST", sbx + "/exports", sandboxesRead, counted, s.createExport},
		{"GET", sbx + "/exports/download", sandboxesRead, counted, s.downloadExport},
		{"GET", sbx + "/exports/files/{name}", public, free, s.exported}, // with a link, which is as good as a key

		{"GET", files + "/*", sandboxesRead, counted, s.downloadPath},
		{"HEAD", files + "/*", sandboxesRead, counted, s.downloadPath},
	}
}

func (s *Server) accountRoutes() []route {
	return []route{
		{"POST", v1 + "/tenants", admin, counted, s.createTenant},
		{"GET", v1 + "/tenants", admin, counted, s.listTenants},
		{"GET", v1 + "/tenants/{id}", accountsRead, counted, s.getTenant},
		{"PATCH", v1 + "/tenants/{id}", admin, counted, s.changeTenant},
		{"DELETE", v1 + "/tenants/{id}", admin, counted, s.deleteTenant},
		{"POST", v1 + "/tenants/{id}/credits", admin, counted, s.grantCredits},
		{"GET", v1 + "/tenant/plan", accountsRead, counted, s.getPlan},
		{"POST", v1 + "/api-keys", accountsWrite, counted, s.createKey},
		{"GET", v1 + "/api-keys", accountsRead, counted, s.listKeys},
		{"DELETE", v1 + "/api-keys/{id}", accountsWrite, counted, s.deleteKey},
		{"POST", v1 + "/tokens/scoped", anyKey, counted, s.createScopedToken},
		{"POST", v1 + "/auth/sse-ticket", anyKey, counted, s.createTicket},
	}
}

func (s *Server) directoryRoutes() []route {
	const ws = v1 + "/workspaces/{id}"
	return []route{
		{"GET", v1 + "/users", accountsRead, counted, s.listUsers},
		{"POST", v1 + "/users", accountsWrite, counted, s.createUser},
		{"GET", v1 + "/users/{id}", accountsRead, counted, s.getUser},
		{"PATCH", v1 + "/users/{id}", accountsWrite, counted, s.changeUser},
		{"DELETE", v1 + "/users/{id}", accountsDelete, counted, s.deleteUser},

		{"GET", v1 + "/workspaces", accountsRead, counted, s.listWorkspaces},
		{"POST", v1 + "/workspaces", accountsWrite, counted, s.createWorkspace},
		{"GET", ws, accountsRead, counted, s.getWorkspace},
		{"PATCH", ws, accountsWrite, counted, s.changeWorkspace},
		{"DELETE", ws, accountsDelete, counted, s.deleteWorkspace},
		{"GET", ws + "/computers", sandboxesRead, counted, s.workspaceSandboxes},
		{"GET", ws + "/members", accountsRead, counted, s.listMembers},
		{"POST", ws + "/members", accountsWrite, counted, s.addMember},
		{"PATCH", ws + "/members/{user_id}", accountsWrite, counted, s.changeMember},
		{"DELETE", ws + "/members/{user_id}", accountsWrite, counted, s.removeMember},

		{"GET", v1 + "/projects", accountsRead, counted, s.listProjects},
		{"POST", v1 + "/projects", accountsWrite, counted, s.createProject},
		{"GET", v1 + "/projects/{id}", accountsRead, counted, s.getProject},
		{"DELETE", v1 + "/projects/{id}", accountsDelete, counted, s.deleteProject},
	}
}

// bookRoutes are what tenants have, use, pay and have done.
func (s *Server) bookRoutes() []route {
	return []route{
		{"GET", v1 + "/quotas/external/{external_user_id}", accountsRead, counted, s.getQuota},
		{"PUT", v1 + "/quotas/external/{external_user_id}", accountsWrite, counted, s.setQuota},
		{"DELETE", v1 + "/quotas/external/{external_user_id}", accountsWrite, counted, s.deleteQuota},
		{"GET", v1 + "/usage", usageRead, counted, s.getUsage},
		{"GET", v1 + "/usage/summary", usageRead, counted, s.getUsageSummary},
		{"GET", v1 + "/usage/sessions", usageRead, counted, s.listSessions},
		{"GET", v1 + "/credits/balance", usageRead, counted, s.getBalance},
		{"GET", v1 + "/credits/transactions", usageRead, counted, s.listTransactions},
		{"GET", v1 + "/credits/usage", usageRead, counted, s.getCreditUsage},
		{"GET", v1 + "/audit", auditRead, counted, s.listAudit},
	}
}

// reserved are the words below …/files/ that are, or will be, endpoints. A file
// of that name in the root folder is read with /files/download?path=.
var reserved = map[string]bool{
	"upload": true, "download": true, "list": true, "read": true, "stat": true, "tree": true, "watch": true,
	"readdir": true, "mkdir": true, "rename": true, "move": true, "copy": true, "chmod": true, "write": true,
	"write-many": true, "batch": true, "export": true, "chown": true, "archive": true, "glob": true, "find": true,
	"search": true, "replace": true,
}

func (s *Server) mount() *chi.Mux {
	mux := chi.NewMux()
	mux.Use(s.frame, tolerateSlashes)
	for _, rt := range s.routes() {
		mux.Method(rt.method, rt.pattern, s.serve(rt))
	}
	mux.NotFound(func(w http.ResponseWriter, r *http.Request) {
		s.fail(w, r, sandbox.E(sandbox.NotFound, sandbox.CodeNotFound, "there is no such endpoint"))
	})
	mux.MethodNotAllowed(func(w http.ResponseWriter, r *http.Request) {
		path := chi.RouteContext(r.Context()).RoutePath
		for _, m := range []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"} {
			if mux.Match(chi.NewRouteContext(), m, path) {
				w.Header().Add("Allow", m)
			}
		}
		s.fail(w, r, sandbox.E(sandbox.Malformed, sandbox.CodeMethodNotAllowed, "this endpoint does not know the method "+r.Method))
	})
	return mux
}

// tolerateSlashes routes by the path as it was sent, escapes and all, but for
// doubled and trailing slashes: clients make them, and a redirect would turn
// their POST into a GET.
func tolerateSlashes(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p := r.URL.EscapedPath()
		for strings.Contains(p, "//") {
			p = strings.ReplaceAll(p, "//", "/")
		}
		if len(p) > 1 {
			p = strings.TrimSuffix(p, "/")
		}
		chi.RouteContext(r.Context()).RoutePath = p
		next.ServeHTTP(w, r)
	})
}

// param returns a decoded part of the path.
func param(r *http.Request, name string) string {
	raw := chi.URLParam(r, name)
	if v, err := url.PathUnescape(raw); err == nil {
		return v
	}
	return raw
}
