package server

import (
	"context"
	"net/http"
	"strings"
	"sync"

	"silica.dev/silica/sandbox"
)

// places remembers in which workspace sandboxes are, which never changes, by
// their IDs.
type places struct {
	mu    sync.RWMutex
	known map[placed]string
}

type placed struct {
	tenant sandbox.TenantID
	id     string
}

// maxPlaces bounds the memory for it; forgetting is harmless.
const maxPlaces = 1 << 14

func newPlaces() *places { return &places{known: map[placed]string{}} }

func (p *places) get(k placed) (workspace string, ok bool) {
	p.mu.RLock()
	defer p.mu.RUnlock()
	workspace, ok = p.known[k]
	return workspace, ok
}

func (p *places) put(k placed, workspace string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.known) >= maxPlaces {
		clear(p.known)
	}
	p.known[k] = workspace
}

// sandboxIn returns what stands in a path for a sandbox.
func sandboxIn(r *http.Request, rt route) string {
	below := func(path string) bool { return strings.HasPrefix(rt.pattern, path) }
	if !below(sbx) && !below(computer) && !below(v1+"/sandboxes/by-name/{name}") {
		return ""
	}
	if id := param(r, "id"); id != "" {
		return id
	}
	return param(r, "name")
}

// locate finds the workspace a request is about, "" when it is about none: the
// key's own, or else the sandbox's unless that is the default one. A key for one workspace finds nothing of
// another; all routes below a sandbox rely on that.
func (s *Server) locate(r *http.Request, rt route, c sandbox.Caller) (workspace string, err error) {
	id := sandboxIn(r, rt)
	if rt.scope == public {
		return "", nil
	}
	if id == "" || c.Workspace == "" && (s.cfg.RateLimit == 0 || rt.limit&counted == 0) {
		return c.Workspace, nil
	}
	return s.locateSandbox(r.Context(), c, id)
}

// locateSandbox is locate for one sandbox.
func (s *Server) locateSandbox(ctx context.Context, c sandbox.Caller, id string) (workspace string, err error) {
	key := placed{c.Tenant, id}
	workspace, known := s.places.get(key)
	if !known {
		sb, err := s.deps.Sandboxes.Get(ctx, c, id)
		if err != nil && c.Workspace == "" {
			return "", nil // the handler finds out, too
		}
		if err != nil {
			return "", err
		}
		if workspace = sb.Workspace; sandbox.ValidID(id) {
			s.places.put(key, workspace)
		}
	}
	if !c.Sees(workspace) {
		return "", sandbox.E(sandbox.NotFound, sandbox.CodeNotFound, "sandbox not found")
	}
	if workspace == s.defaultWorkspace(ctx, c.Tenant) {
		return "", nil // with what is about no workspace: most tenants have but one
	}
	return workspace, nil
}

// defaultSlug is the workspace of sandboxes that name none.
const defaultSlug = "default"

// defaultWorkspace returns a tenant's, "" while it has none.
func (s *Server) defaultWorkspace(ctx context.Context, tenant sandbox.TenantID) string {
	key := placed{tenant, defaultSlug} // no sandbox's id
	id, known := s.places.get(key)
	if known {
		return id
	}
	ws, err := s.deps.Directory.Workspace(ctx, tenant, defaultSlug)
	if err != nil {
		return ""
	}
	s.places.put(key, ws.ID)
	return ws.ID
}
