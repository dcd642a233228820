package server

import (
	"context"
	"net/http"
	"strconv"
	"strings"
	"time"

	"silica.dev/silica/api"
	"silica.dev/silica/sandbox"
)

// auditWait is how long an answer waits for its line in the audit log.
const auditWait = 5 * time.Second

// auditing sees to it that a request that may change something is in the audit
// log before its answer goes out: what was acknowledged can't be missing. done
// is for answers nobody waited for any more. Reading is not logged, whatever its
// method; a socket is, for what is done over it is not reading.
func (s *Server) auditing(w http.ResponseWriter, r *http.Request, rt route, c sandbox.Caller) (done func()) {
	rec, ok := w.(*response)
	get := (rt.method == http.MethodGet || rt.method == http.MethodHead) && rt.limit&socketed == 0
	if !ok || get || rt.scope == public || strings.HasSuffix(string(rt.scope), ":read") || s.deps.Audit == nil ||
		hopped(r) { // the server it came through does it
		return func() {}
	}
	rec.first = func(status int) {
		a := sandbox.Audit{
			ID: sandbox.NewLine("aud_"), Tenant: c.Tenant, Workspace: c.Workspace, Key: c.KeyID, User: c.User,
			Method: rt.method, Route: documented(rt.pattern), Resource: storable(subject(r, rec)), Status: status,
			Address: address(r.RemoteAddr), UserAgent: storable(r.UserAgent()), Request: requestID(r), At: time.Now(),
		}
		if rec.err != nil {
			a.Code = sandbox.AsError(rec.err).Code
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), auditWait)
		defer cancel()
		if err := s.deps.Audit.AddAudit(ctx, a); err != nil {
			// It has happened, and the caller must know how it ended. The log of
			// the server is where to look instead.
			s.log.ErrorContext(ctx, "not in the audit log", "err", err, "request_id", a.Request, "key", a.Key, "user", a.User,
				"method", a.Method, "route", a.Route, "resource", a.Resource, "status", a.Status, "address", a.Address)
		}
	}
	return func() {
		if first := rec.first; first != nil { // no answer went out
			rec.first = nil
			status := rec.status
			if status == 0 {
				status = http.StatusInternalServerError // the handler has panicked
			}
			first(status)
		}
	}
}

// subject is what a request is about: what it made, or what its path names.
func subject(r *http.Request, rec *response) string {
	if rec.made != "" {
		return rec.made
	}
	var names []string
	for _, name := range []string{"id", "sid", "user_id", "external_user_id", "name"} {
		if v := param(r, name); v != "" {
			names = append(names, v)
		}
	}
	return strings.Join(names, "/")
}

// storable makes what a client sent into text that every database takes: nobody
// keeps a line out of the log by what it would say.
func storable(text string) string {
	return strings.ToValidUTF8(strings.ReplaceAll(cutText(text, 255), "\x00", replacement), replacement)
}

func address(remote string) string {
	if i := strings.LastIndexByte(remote, ':'); i > 0 {
		return strings.Trim(remote[:i], "[]")
	}
	return remote
}

func wireAudit(a sandbox.Audit) api.AuditEntry {
	return api.AuditEntry{
		ID: a.ID, WorkspaceID: a.Workspace, KeyID: a.Key, UserID: a.User, Action: a.Method + " " + a.Route, Method: a.Method, Route: a.Route,
		ResourceID: a.Resource, Status: a.Status, Code: a.Code, IPAddress: a.Address, UserAgent: a.UserAgent, RequestID: a.Request, CreatedAt: a.At.UTC(),
	}
}

const auditPage = 100

func (s *Server) listAudit(w http.ResponseWriter, r *http.Request, c sandbox.Caller) error {
	tenant, err := tenantInQuery(r, c)
	if err != nil {
		return err
	}
	q := r.URL.Query()
	f := sandbox.AuditFilter{
		Tenant: tenant, Workspace: c.Workspace, Key: q.Get("key_id"), User: q.Get("user_id"), Method: strings.ToUpper(q.Get("method")),
		Route: q.Get("route"), Resource: q.Get("resource_id"), Request: q.Get("request_id"), Before: q.Get("cursor"),
	}
	if method, route, ok := strings.Cut(q.Get("action"), " "); ok {
		f.Method, f.Route = method, route
	}
	if f.Window.From, err = moment(q.Get("from"), "from"); err != nil {
		return err
	}
	if f.Window.To, err = moment(q.Get("to"), "to"); err != nil {
		return err
	}
	limit := auditPage
	if v := q.Get("limit"); v != "" {
		if limit, err = strconv.Atoi(v); err != nil || limit < 1 {
			return sandbox.Field("limit", "must be a positive number")
		}
		limit = min(limit, maxPage-1)
	}
	f.Limit = limit + 1 // to know whether there is more
	found, err := s.deps.Audit.Audits(r.Context(), f)
	if err != nil {
		return err
	}
	page := api.AuditPage{Data: []api.AuditEntry{}}
	if len(found) > limit {
		found = found[:limit]
		page.NextCursor = &found[limit-1].ID
	}
	for _, a := range found {
		page.Data = append(page.Data, wireAudit(a))
	}
	writeJSON(w, http.StatusOK, page)
	return nil
}

// moment reads a time, or a day of UTC; the zero time when there is none.
func moment(text, name string) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	for _, layout := range []string{time.RFC3339, time.DateOnly} {
		if at, err := time.Parse(layout, text); err == nil && at.Year() >= 1970 && at.Year() < 10_000 {
			return at.UTC(), nil
		}
	}
	return time.Time{}, sandbox.Field(name, "must be a time like 2030-01-31T12:00:00Z, or a day")
}
