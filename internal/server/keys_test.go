package server

import (
	"bufio"
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"silica.dev/silica/sandbox"
)

// fill makes a path of a pattern.
func fill(pattern, id string) string {
	var parts []string
	for _, p := range strings.Split(pattern, "/") {
		switch {
		case p == "{id}":
			p = id
		case strings.HasPrefix(p, "{") || p == "*":
			p = "x"
		}
		parts = append(parts, p)
	}
	return strings.Join(parts, "/")
}

// "missing → 403 `insufficient_scope`": every route of the table asks for the
// scope it names, and without a key for one.
func TestEveryRouteNeedsItsScope(t *testing.T) {
	w, s, base := serveWorld(t, Config{})
	id := create(t, base, `{}`)
	for _, rt := range s.routes() {
		name := rt.method + " " + rt.pattern
		if rt.scope == public {
			continue
		}
		if a := request(t, rt.method, base+fill(rt.pattern, id), `{}`, "Authorization", ""); a.status != 401 || rt.method != "HEAD" && a.code() != sandbox.CodeUnauthorized {
			t.Errorf("%s without a key: %d %s", name, a.status, a.code())
		}
		if rt.scope == anyKey {
			continue
		}
		if names := sandbox.ScopesOf(rt.scope).Names(); len(names) != 1 {
			t.Errorf("%s: no key can have the scope %q", name, rt.scope)
		}
		// An admin key that has everything but this.
		w.changeCaller(keyA, func(c *sandbox.Caller) { c.Admin, c.Scopes = true, sandbox.AllScopes&^sandbox.ScopesOf(rt.scope) })
		a := request(t, rt.method, base+fill(rt.pattern, id), `{}`)
		if a.status != 403 || rt.method != "HEAD" && a.code() != "insufficient_scope" {
			t.Errorf("%s without %s: %d %s", name, rt.scope, a.status, a.code())
		}
	}
}

// A thing of another tenant is no different from one that never was.
func TestAnotherTenantsIDIsNotFound(t *testing.T) {
	_, s, base := serveWorld(t, Config{})
	id := create(t, base, `{}`)
	for _, rt := range s.routes() {
		if rt.scope == public || !strings.HasPrefix(rt.pattern, sbx) && !strings.HasPrefix(rt.pattern, v1+"/computers/{id}") {
			continue
		}
		body := bodies[rt.method+" "+rt.pattern]
		if body == "" {
			body = `{"command":"c","code":"c","path":"/a","content":"","from":"/a","to":"/b","mode":"0755","uid":1,"pattern":"x","replacement":"y","signal":"TERM"}`
		}
		foreign := request(t, rt.method, base+fill(rt.pattern, id)+"?path=/a&pattern=x", body, "Authorization", "Bearer "+keyB)
		never := request(t, rt.method, base+fill(rt.pattern, string(sandbox.NewID()))+"?path=/a&pattern=x", body, "Authorization", "Bearer "+keyB)
		if rt.method == "HEAD" { // has no body to say why
			if foreign.status != 404 || never.status != 404 {
				t.Errorf("HEAD %s: %d for another's, %d for none", rt.pattern, foreign.status, never.status)
			}
			continue
		}
		if foreign.status != 404 || foreign.code() != sandbox.CodeNotFound || never.status != 404 || never.code() != sandbox.CodeNotFound {
			t.Errorf("%s %s: %d %s for another's, %d %s for none", rt.method, rt.pattern, foreign.status, foreign.code(), never.status, never.code())
		}
	}
}

// bodies are for routes that check more of their body before they look for the
// sandbox.
var bodies = map[string]string{}

// "`POST /auth/sse-ticket`, then `?ticket=` on the stream URL (S1). Ticket looks
// like `sset_…`, lives 60 s, single use".
func TestTicketOpensOneStream(t *testing.T) {
	w, _, base := serveWorld(t, Config{})
	id := create(t, base, `{}`)
	a := request(t, "POST", base+"/api/v1/auth/sse-ticket", "")
	ticket, _ := a.body["ticket"].(string)
	if a.status != 201 || !strings.HasPrefix(ticket, "sset_") || a.body["expires_in"] != 60.0 {
		t.Fatalf("%d %s", a.status, a.raw)
	}
	url := base + "/api/v1/sandboxes/" + id
	if a := request(t, "GET", url+"?ticket="+ticket, "", "Authorization", ""); a.status != 401 {
		t.Errorf("a ticket opens what is no stream: %d", a.status)
	}
	w.move(id, sandbox.Destroyed) // so that the stream ends
	open := func(id, ticket string) int {
		return request(t, "GET", base+"/api/v1/sandboxes/"+id+"/events?ticket="+ticket, "", "Authorization", "").status
	}
	if got := open(id, ticket); got != 200 {
		t.Errorf("first use: %d", got)
	}
	if got := open(id, ticket); got != 401 {
		t.Errorf("second use: %d", got)
	}
	// It carries the caller's tenant, and what the key may when it is used.
	b := request(t, "POST", base+"/api/v1/auth/sse-ticket", "", "Authorization", "Bearer "+keyB)
	if got := open(id, b.body["ticket"].(string)); got != 404 {
		t.Errorf("another tenant's ticket: %d", got)
	}
	c := request(t, "POST", base+"/api/v1/auth/sse-ticket", "")
	w.changeCaller(keyA, func(c *sandbox.Caller) { c.Scopes = sandbox.ScopesOf(sandbox.ScopeUsageRead) })
	if got := open(id, c.body["ticket"].(string)); got != 403 {
		t.Errorf("ticket of a key that has lost the scope: %d", got)
	}
}

// "a key revoked while its stream is open (the stream ends)", with a reason; so
// does the stream of one that expires or loses the scope.
func TestStreamEndsWithItsKey(t *testing.T) {
	for name, end := range map[string]func(w *world){
		"revoked": func(w *world) { w.changeCaller(keyA, nil) },
		"scope": func(w *world) {
			w.changeCaller(keyA, func(c *sandbox.Caller) { c.Scopes = sandbox.ScopesOf(sandbox.ScopeUsageRead) })
		},
	} {
		t.Run(name, func(t *testing.T) {
			w, _, base := serveWorld(t, Config{})
			id := create(t, base, `{}`)
			res := stream(t, "GET", base+"/api/v1/sandboxes/"+id+"/events", "")
			w.awaitFollower()
			end(w)
			if last := lastEvent(t, res); !strings.Contains(last, `"type":"closing"`) || !strings.Contains(last, `"reconnect":false`) {
				t.Errorf("last event: %s", last)
			}
		})
	}
	t.Run("expired", func(t *testing.T) {
		w, _, base := serveWorld(t, Config{})
		id := create(t, base, `{}`)
		w.changeCaller(keyA, func(c *sandbox.Caller) { c.ExpiresAt = time.Now().Add(time.Second) })
		res := stream(t, "GET", base+"/api/v1/sandboxes/"+id+"/events", "")
		if last := lastEvent(t, res); !strings.Contains(last, `"type":"closing"`) {
			t.Errorf("last event: %s", last)
		}
	})
	t.Run("another key's goes on", func(t *testing.T) {
		w, _, base := serveWorld(t, Config{})
		id := create(t, base, `{}`)
		res := stream(t, "GET", base+"/api/v1/sandboxes/"+id+"/events", "")
		w.awaitFollower()
		w.changeCaller(keyB, nil)
		w.move(id, sandbox.Destroyed)
		if last := lastEvent(t, res); !strings.Contains(last, `"state":"destroyed"`) {
			t.Errorf("last event: %s", last)
		}
	})
}

// A stream hears of its key's end by the log that it reads as often as by its own
// context, which may not have ended yet.
func TestStreamKnowsWhyBeforeItsContextEnds(t *testing.T) {
	s := &Server{cfg: Config{Heartbeat: time.Hour}}
	for range 20 {
		key, end := context.WithCancelCause(t.Context())
		for range 1000 { // so that the end takes its time from one to the other
			context.AfterFunc(key, func() {})
		}
		sent := httptest.NewRecorder()
		out := s.openStreamUntil(sent, key, t.Context())
		log, stop := context.WithCancel(key)
		go end(errRevoked)
		<-log.Done()
		out.close()
		stop()
		if !strings.Contains(sent.Body.String(), `"reconnect":false`) {
			t.Fatalf("sent: %q", sent.Body)
		}
	}
}

// lastEvent reads a stream to its end.
func lastEvent(t *testing.T, res *http.Response) (last string) {
	t.Helper()
	sc := bufio.NewScanner(res.Body)
	for sc.Scan() {
		if data, ok := strings.CutPrefix(sc.Text(), "data: "); ok {
			last = data
		}
	}
	if err := sc.Err(); err != nil {
		t.Error(err)
	}
	return last
}

// A key makes no key that may more than itself.
func TestKeysAreNotWidened(t *testing.T) {
	w, _, base := serveWorld(t, Config{})
	read, write := sandbox.ScopesOf(sandbox.ScopeSandboxesRead, sandbox.ScopeAccountsWrite), "sandboxes:write"
	soon := time.Now().Add(time.Hour)
	w.changeCaller(keyA, func(c *sandbox.Caller) { c.Scopes, c.Workspace, c.ExpiresAt = read, "ws_1", soon })
	for _, path := range []string{"/api/v1/api-keys", "/api/v1/tokens/scoped"} {
		if a := request(t, "POST", base+path, `{"scopes":["`+write+`"]}`); a.status != 403 || a.code() != "insufficient_scope" {
			t.Errorf("%s: wider scope: %d %s", path, a.status, a.raw)
		}
		if a := request(t, "POST", base+path, `{"scopes":["no:such"]}`); a.status != 422 {
			t.Errorf("%s: unknown scope: %d", path, a.status)
		}
		if a := request(t, "POST", base+path, `{"workspace_id":"ws_2"}`); a.status != 404 {
			t.Errorf("%s: another workspace: %d", path, a.status)
		}
		a := request(t, "POST", base+path, `{}`)
		k := w.keys[len(w.keys)-1]
		if a.status != 201 || k.Scopes != read || k.Workspace != "ws_1" || k.ExpiresAt.After(soon) || k.User != "usr_a" {
			t.Errorf("%s: %d %+v", path, a.status, k)
		}
	}
	made := len(w.keys)
	// Without the one scope a token never has it would have none: in a row, all.
	if a := request(t, "POST", base+"/api/v1/tokens/scoped", `{"scopes":["admin"]}`); a.status != 403 || a.code() != "insufficient_scope" || len(w.keys) > made {
		t.Errorf("a token for the installation: %d %s %+v", a.status, a.raw, w.keys[made:])
	}
	// Every user of this world is an owner.
	w.changeCaller(keyA, func(c *sandbox.Caller) { c.Role, c.Scopes = sandbox.Admin, sandbox.Admin.May() })
	for _, path := range []string{"/api/v1/api-keys", "/api/v1/tokens/scoped"} {
		if a := request(t, "POST", base+path, `{"user_id":"usr_owner"}`); a.status != 403 || len(w.keys) > made {
			t.Errorf("%s: an admin's key in the name of an owner: %d %s", path, a.status, a.raw)
		}
	}
	w.changeCaller(keyA, func(c *sandbox.Caller) { c.Derived = true })
	if a := request(t, "POST", base+"/api/v1/tokens/scoped", `{}`); a.status != 403 {
		t.Errorf("a derived token makes another: %d", a.status)
	}
	for body, want := range map[string]int{
		`{"expires_at":"2001-01-01T00:00:00Z"}`: 422, `{"expires_at":"tomorrow"}`: 422, `{"key_type":"king"}`: 422, `{"key_type":"admin"}`: 403,
	} {
		if a := request(t, "POST", base+"/api/v1/api-keys", body); a.status != want {
			t.Errorf("%s: %d, want %d", body, a.status, want)
		}
	}
}
