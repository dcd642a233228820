package server

import (
	"strings"
	"testing"
	"unicode/utf8"

	"silica.dev/silica/sandbox"
)

// "a viewer's key can only read, a developer can run, an admin manages members
// and keys, the owner may delete": for every route of the table.
func TestRoles(t *testing.T) {
	w, s, base := serveWorld(t, Config{})
	id := create(t, base, `{}`)
	for _, role := range sandbox.Roles {
		w.changeCaller(keyA, func(c *sandbox.Caller) { c.Role, c.Scopes = role, role.May() })
		for _, rt := range s.routes() {
			if rt.scope == public || rt.scope == anyKey || rt.method == "DELETE" && strings.HasPrefix(rt.pattern, sbx) || rt.limit&streamed != 0 {
				continue
			}
			reads := strings.HasSuffix(string(rt.scope), ":read")
			may := map[sandbox.Role]bool{
				sandbox.Viewer:    reads && rt.scope != auditRead,
				sandbox.Developer: reads && rt.scope != auditRead || rt.scope == sandboxesWrite || rt.scope == sandbox.ScopeTemplatesWrite,
				sandbox.Admin:     rt.scope != accountsDelete && rt.scope != admin,
				sandbox.Owner:     rt.scope != admin,
			}[role]
			if may { // those who may are let through to the handler, which other tests are about
				if err := allow(w.callers[keyA], rt.scope); err != nil {
					t.Errorf("%s: %s %s: %v", role, rt.method, rt.pattern, err)
				}
				continue
			}
			if a := request(t, rt.method, base+fill(rt.pattern, id), `{}`); a.status != 403 {
				t.Errorf("%s: %s %s: %d, want 403", role, rt.method, rt.pattern, a.status)
			}
		}
	}
}

// "Keys belong to a user and optionally to one workspace (then everything outside
// it is NOT_FOUND)."
func TestKeyOfOneWorkspace(t *testing.T) {
	w, s, base := serveWorld(t, Config{RateLimit: 100_000})
	id := create(t, base, `{}`)
	other := request(t, "POST", base+"/api/v1/workspaces", `{"name":"other"}`)
	elsewhere := other.body["id"].(string)
	member := request(t, "POST", base+"/api/v1/users", `{"name":"m","role":"none"}`).body["id"].(string)
	w.changeCaller(keyA, func(c *sandbox.Caller) { c.Workspace = elsewhere })
	for _, rt := range s.routes() {
		if !strings.HasPrefix(rt.pattern, sbx) && !strings.HasPrefix(rt.pattern, computer) || rt.scope == public {
			continue
		}
		a := request(t, rt.method, base+fill(rt.pattern, id), `{}`)
		if a.status != 404 || a.code() != sandbox.CodeNotFound && rt.method != "HEAD" {
			t.Errorf("%s %s: %d %s", rt.method, rt.pattern, a.status, a.code())
		}
	}
	for path, want := range map[string]int{
		"GET /workspaces/" + theWorkspace: 404, "DELETE /workspaces/" + theWorkspace: 404, "GET /workspaces/" + elsewhere: 200,
		"GET /workspaces/" + theWorkspace + "/members": 404, "GET /workspaces/" + theWorkspace + "/computers": 404, "POST /workspaces": 404,
		"GET /users/" + member: 404, "GET /tenant/plan": 404, "GET /credits/balance": 404, "GET /tenants/tnt_a": 404,
		"PUT /quotas/external/u": 404, "GET /usage?workspace_id=" + theWorkspace: 404, "GET /projects?workspace_id=" + theWorkspace: 404, "GET /usage": 200,
	} {
		method, path, _ := strings.Cut(path, " ")
		if a := request(t, method, base+"/api/v1"+path, `{"name":"x"}`); a.status != want {
			t.Errorf("%s %s: %d, want %d: %s", method, path, a.status, want, a.raw)
		}
	}
	if l := request(t, "GET", base+"/api/v1/workspaces", "").body["data"].([]any); len(l) != 1 {
		t.Errorf("it sees %d workspaces", len(l))
	}
	w.changeCaller(keyA, func(c *sandbox.Caller) { c.Workspace = theWorkspace })
	if a := request(t, "GET", base+"/api/v1/sandboxes/"+id, ""); a.status != 200 {
		t.Errorf("its own sandbox: %d", a.status)
	}
}

// "300 requests a minute and WORKSPACE".
func TestWorkspacesHaveTheirOwnRate(t *testing.T) {
	w, _, base := serveWorld(t, Config{RateLimit: 20})
	id := create(t, base, `{}`)
	other := create(t, base, `{}`)
	w.mu.Lock()
	w.boxes[sandbox.ID(other)].Workspace = "another"
	w.mu.Unlock()
	get := func(id string) int { return request(t, "GET", base+"/api/v1/sandboxes/"+id, "").status }
	for i := 0; get(id) == 200; i++ {
		if i > 60 {
			t.Fatal("there is no limit")
		}
	}
	if got := get(other); got != 200 {
		t.Errorf("a sandbox of another workspace: %d", got)
	}
	if got := request(t, "GET", base+"/api/v1/sandboxes", "").status; got != 429 {
		t.Errorf("what is about no workspace shares with the default one: %d", got)
	}
}

// Every change is in the log before its answer, and nothing of its content.
func TestAuditOfEveryMutation(t *testing.T) {
	w, s, base := serveWorld(t, Config{})
	id := create(t, base, `{"env":{"TOKEN":"hush"}}`)
	w.agent.on("c", ok)
	last := func() map[string]any {
		t.Helper()
		a := request(t, "GET", base+"/api/v1/audit?limit=1", "")
		if strings.Contains(string(a.raw), "hush") || strings.Contains(string(a.raw), keyA) {
			t.Errorf("the log holds a secret: %s", a.raw)
		}
		l, _ := a.body["data"].([]any)
		if len(l) == 0 {
			t.Fatalf("the log is empty: %s", a.raw)
		}
		return l[0].(map[string]any)
	}
	if e := last(); e["action"] != "POST /api/v1/sandboxes" || e["resource_id"] != id || e["status"] != 201.0 || e["key_id"] != "key_a" ||
		e["user_id"] != "usr_a" || e["ip_address"] != "127.0.0.1" || e["request_id"] == "" {
		t.Errorf("create: %v", e)
	}
	request(t, "POST", base+"/api/v1/sandboxes/"+id+"/exec", `{"command":"c hush"}`)
	if e := last(); e["action"] != "POST /api/v1/sandboxes/{id}/exec" || e["resource_id"] != id {
		t.Errorf("exec: %v", e)
	}
	a := request(t, "DELETE", base+"/api/v1/sandboxes/none", "", "X-Request-Id", "mine")
	if e := last(); e["status"] != 404.0 || e["code"] != "NOT_FOUND" || e["request_id"] != "mine" || a.status != 404 {
		t.Errorf("refused: %v", e)
	}
	before := last()["id"]
	request(t, "POST", base+"/api/v1/sandboxes/"+id+"/files/stat", `{"path":"/a"}`)
	request(t, "GET", base+"/api/v1/sandboxes", "")
	if e := last(); e["id"] != before {
		t.Errorf("reading is logged: %v", e)
	}
	for _, rt := range s.routes() { // whatever the handlers make of it
		if rt.method == "GET" && rt.limit&socketed == 0 || rt.method == "HEAD" || rt.scope == public || rt.scope == admin || strings.HasSuffix(string(rt.scope), ":read") {
			continue
		}
		if strings.HasSuffix(rt.pattern, "/stream") && rt.method != "GET" {
			continue
		}
		before := last()["id"]
		request(t, rt.method, base+fill(rt.pattern, "nothing"), `{"command":"c"}`)
		if e := last(); e["id"] == before || e["route"] != documented(rt.pattern) {
			t.Errorf("%s %s: %v", rt.method, rt.pattern, e)
		}
	}
	if a := request(t, "GET", base+"/api/v1/audit", "", "Authorization", "Bearer "+keyB); strings.Contains(string(a.raw), id) {
		t.Errorf("another tenant reads the log: %s", a.raw)
	}
}

// PostgreSQL refuses text with NUL or bytes that are no UTF-8, and with it the
// line: a client could act unseen.
func TestAuditTakesAnyText(t *testing.T) {
	for _, text := range []string{"a\x00b", "\xff", strings.Repeat("a", 254) + "é", strings.Repeat("\x00\xfe", 200)} {
		if got := storable(text); !utf8.ValidString(got) || strings.ContainsRune(got, 0) {
			t.Errorf("%q", got)
		}
	}
	w, _, base := serveWorld(t, Config{})
	request(t, "DELETE", base+"/api/v1/sandboxes/a%00%FF", "", "User-Agent", "\xff")
	all, err := w.rows.Audits(t.Context(), sandbox.AuditFilter{Tenant: w.callers[keyA].Tenant, Method: "DELETE"})
	if err != nil || len(all) != 1 {
		t.Fatal(all, err)
	}
	a := all[0]
	if !utf8.ValidString(a.Resource+a.UserAgent) || strings.ContainsRune(a.Resource, 0) || !strings.HasPrefix(a.Resource, "a") {
		t.Errorf("%+v", a)
	}
}

// "hybrid: GO flat, CLI data; metadata string→string", "members … roles", as a
// public client goes through them.
func TestDirectoryOverHTTP(t *testing.T) {
	_, _, base := serveWorld(t, Config{})
	do := func(method, path, body string, want int) answer {
		t.Helper()
		a := request(t, method, base+"/api/v1"+path, body)
		if a.status != want {
			t.Fatalf("%s %s: %d, want %d: %s", method, path, a.status, want, a.raw)
		}
		return a
	}
	ws := do("POST", "/workspaces", `{"name":"Clinic","description":"d","metadata":{"a":"b"}}`, 201)
	id := ws.body["id"].(string)
	if data := ws.body["data"].(map[string]any); data["id"] != id || ws.body["slug"] != "clinic" || ws.body["metadata"].(map[string]any)["a"] != "b" {
		t.Errorf("workspace: %s", ws.raw)
	}
	do("POST", "/workspaces", `{"name":"x","metadata":{"a":1}}`, 422)
	if a := do("PATCH", "/workspaces/"+id, `{"description":""}`, 200); a.body["description"] != "" || a.body["name"] != "Clinic" {
		t.Errorf("patch: %s", a.raw)
	}
	do("GET", "/workspaces/clinic", "", 200)
	user := do("POST", "/users", `{"name":"u","email":"u@example.org","role":"none"}`, 201).body["id"].(string)
	do("POST", "/users", `{"name":"u","role":"king"}`, 422)
	do("POST", "/workspaces/"+id+"/members", `{"user_id":"`+user+`","role":"viewer"}`, 201)
	do("POST", "/workspaces/"+id+"/members", `{"user_id":"`+user+`","role":"viewer"}`, 409)
	do("POST", "/workspaces/"+id+"/members", `{"user_id":"usr_b","role":"viewer"}`, 422)
	if a := do("PATCH", "/workspaces/"+id+"/members/"+user, `{"role":"developer"}`, 200); a.body["role"] != "developer" {
		t.Errorf("member: %s", a.raw)
	}
	if l := do("GET", "/workspaces/"+id+"/members", "", 200).body["data"].([]any); len(l) != 2 {
		t.Errorf("members: %v", l)
	}
	do("DELETE", "/workspaces/"+id+"/members/usr_a", "", 409)
	do("DELETE", "/workspaces/"+id+"/members/"+user, "", 200)
	do("DELETE", "/workspaces/"+id+"/members/"+user, "", 404)
	p := do("POST", "/projects", `{"workspace_slug":"fresh","slug":"site","name":"Site"}`, 201)
	do("POST", "/projects", `{"workspace_slug":"fresh","slug":"site"}`, 200)
	do("DELETE", "/projects/"+p.body["id"].(string), "", 200)
	do("PUT", "/quotas/external/u%201", `{"max_sandboxes":3}`, 200)
	if a := do("GET", "/quotas/external/u%201", "", 200); a.body["max_sandboxes"] != 3.0 || a.body["external_user_id"] != "u 1" || a.body["current_sandboxes"] != 0.0 {
		t.Errorf("quota: %s", a.raw)
	}
	do("PUT", "/quotas/external/u", `{"max_sandboxes":-1}`, 422)
	do("DELETE", "/quotas/external/u%201", "", 200)
	// "`limits`/`usage` in tenant/plan must be integer-valued objects".
	plan := do("GET", "/tenant/plan", "", 200)
	for _, part := range []string{"limits", "usage"} {
		for name, v := range plan.body[part].(map[string]any) {
			if n, ok := v.(float64); !ok || n != float64(int64(n)) {
				t.Errorf("%s.%s is %v", part, name, v)
			}
		}
	}
	for _, path := range []string{"/usage?group_by=external_user_id&period=week", "/usage?group_by=day", "/usage/summary", "/usage/sessions?page=1&per_page=5",
		"/credits/balance", "/credits/transactions", "/credits/usage", "/audit?action=POST%20/api/v1/users", "/users", "/projects"} {
		do("GET", path, "", 200)
	}
	for _, path := range []string{"/usage?group_by=colour", "/usage?period=eon", "/usage?from=then", "/usage?from=2026-02-01&to=2026-01-01", "/audit?limit=0"} {
		do("GET", path, "", 422)
	}
	// Nobody gives what they do not have.
	do("DELETE", "/workspaces/"+id, "", 200)
	do("GET", "/workspaces/"+id, "", 404)
}

func TestNobodyGivesARoleAboveTheirOwn(t *testing.T) {
	w, _, base := serveWorld(t, Config{})
	user := request(t, "POST", base+"/api/v1/users", `{"name":"u","role":"owner"}`).body["id"].(string)
	w.changeCaller(keyA, func(c *sandbox.Caller) { c.Role, c.Scopes = sandbox.Admin, sandbox.Admin.May() })
	for _, body := range []string{`{"role":"viewer"}`, `{"role":"none"}`} { // take from an owner
		if a := request(t, "PATCH", base+"/api/v1/users/"+user, body); a.status != 403 {
			t.Errorf("%s: %d", body, a.status)
		}
	}
	if a := request(t, "POST", base+"/api/v1/users", `{"name":"v","role":"owner"}`); a.status != 403 {
		t.Errorf("make an owner: %d", a.status)
	}
	if a := request(t, "POST", base+"/api/v1/workspaces/default/members", `{"user_id":"`+user+`","role":"owner"}`); a.status != 403 {
		t.Errorf("make an owner of a workspace: %d", a.status)
	}
	// Whoever had a key of an owner's would give roles as an owner.
	if a := request(t, "POST", base+"/api/v1/api-keys", `{"user_id":"`+user+`"}`); a.status != 403 || len(w.keys) > 0 {
		t.Errorf("a key of an owner's: %d", a.status)
	}
}
