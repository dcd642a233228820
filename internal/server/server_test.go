package server

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"silica.dev/silica/sandbox"
)

// answer is a response, read.
type answer struct {
	status int
	header http.Header
	raw    []byte
	body   map[string]any
}

// request makes one request with key A unless a header says otherwise.
func request(t *testing.T, method, url, body string, header ...string) answer {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+keyA)
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatalf("%s %s: %v", method, url, err)
	}
	defer res.Body.Close()
	a := answer{status: res.StatusCode, header: res.Header}
	if a.raw, err = io.ReadAll(res.Body); err != nil {
		t.Fatalf("%s %s: read: %v", method, url, err)
	}
	_ = json.Unmarshal(a.raw, &a.body)
	return a
}

func (a answer) code() string {
	e, _ := a.body["error"].(map[string]any)
	c, _ := e["code"].(string)
	return c
}

func create(t *testing.T, base, body string) string {
	t.Helper()
	a := request(t, "POST", base+"/api/v1/sandboxes", body)
	if a.status != 201 {
		t.Fatalf("create: %d %s", a.status, a.raw)
	}
	return a.body["id"].(string)
}

func (a answer) want(t *testing.T, status int, code string) {
	t.Helper()
	if a.status != status || a.code() != code {
		t.Errorf("got %d %s, want %d %s: %.300s", a.status, a.code(), status, code, a.raw)
	}
}

// "Response — 201 Created", flat, and every field below data once more.
func TestCreateAnswersHybrid(t *testing.T) {
	w, _, base := serveWorld(t, Config{})
	a := request(t, "POST", base+"/api/v1/sandboxes", `{
		"image": "miosa-sandbox", "vcpus": 2, "memory_mb": 2048, "disk_size_mb": 4096, "timeout_sec": 60, "idle_timeout_sec": 5,
		"env": {"A": "1"}, "metadata": {"k": {"deep": 12345678901234567890}}, "auto_start": true, "name": "n", "persistent": true,
		"always_on": false, "tags": ["x"], "workspace_slug": "w", "workspace_name": "W", "project_slug": "p",
		"external_workspace_id": "c1", "external_user_id": "u1", "external_project_id": "p1", "unknown": [1, 2]}`)
	if a.status != 201 {
		t.Fatalf("%d %s", a.status, a.raw)
	}
	data, _ := a.body["data"].(map[string]any)
	delete(a.body, "data")
	flat, _ := json.Marshal(a.body)
	inner, _ := json.Marshal(data)
	if !bytes.Equal(flat, inner) {
		t.Errorf("top level and data differ:\n%s\n%s", flat, inner)
	}
	for field, want := range map[string]any{
		"state": "running", "status": "running", "ready": true, "cpu_count": 2.0, "memory_mb": 2048.0, "disk_size_mb": 4096.0,
		"boot_path": "snapshot", "boot_ms": 31.0, "preview_url": nil, "timeout_sec": 60.0, "total_runtime_sec": nil,
		"external_user_id": "u1", "tenant_id": "tnt_a", "owner_id": "usr_a", "destroyed_at": nil, "size": nil, "resource_contract": nil,
	} {
		if got, ok := a.body[field]; !ok || got != want {
			t.Errorf("%s: got %v (present %v), want %v", field, got, ok, want)
		}
	}
	for _, name := range strings.Fields("ports volumes services snapshots events domains env logs metrics secrets files exec terminal network audit inbox") {
		if _, ok := a.body[name]; ok {
			t.Errorf("%s is a name that a public client decodes into something else", name)
		}
	}
	got := w.created[0]
	if got.Template != "miosa-sandbox" || got.Resources.MilliCPU != 2000 || got.Idle != 5*time.Second || got.Env["A"] != "1" ||
		!got.AutoStart || !got.Persist || got.Workspace.Slug != "w" || got.Project.Slug != "p" || got.External.Project != "p1" || got.Tags[0] != "x" {
		t.Errorf("request arrived as %+v", got)
	}
	if raw, _ := json.Marshal(got.Metadata); !strings.Contains(string(raw), "12345678901234567890") {
		t.Errorf("metadata lost digits: %s", raw)
	}
}

func TestCreateNamedSizes(t *testing.T) {
	w, _, base := serveWorld(t, Config{})
	for body, size := range map[string]string{
		`{"size":"xs"}`: "xs", `{"size":"medium"}`: "medium", `{"size":"xl"}`: "xl",
		// SDKs send the numbers of a named size next to, or instead of, its name.
		`{"size":"small","cpu_count":2,"memory_mb":4096,"disk_size_mb":10240}`: "small",
		`{"cpu_count":4,"memory_mb":8192,"disk_size_mb":20480}`:                "medium",
	} {
		a := request(t, "POST", base+"/api/v1/sandboxes", body)
		contract, _ := a.body["resource_contract"].(map[string]any)
		if a.body["size"] != size || contract["id"] != "sandbox/"+size+"@v1" {
			t.Errorf("%s: size %v, contract %v, want %s (%d)", body, a.body["size"], contract, size, a.status)
		}
	}
	if request(t, "POST", base+"/api/v1/sandboxes", ""); w.created[len(w.created)-1].Resources != (sandbox.Resources{}) {
		t.Error("an empty body must leave the size to the default")
	}
}

// "broken JSON or a huge body / wrong type, unknown enum, out of range: 400
// BAD_REQUEST or 413 / 422 VALIDATION_ERROR, the field named in details;
// nothing created".
func TestCreateBadInput(t *testing.T) {
	w, _, base := serveWorld(t, Config{})
	deep := strings.Repeat(`{"a":`, 20000) + "1" + strings.Repeat("}", 20000)
	for _, tt := range []struct {
		body   string
		status int
		field  string
	}{
		{`{`, 400, ""},
		{`{"a":1}x`, 400, ""},
		{`not json`, 400, ""},
		{`{"metadata":` + deep + `}`, 400, ""},
		{`{"name":"` + strings.Repeat("x", 2<<20) + `"}`, 413, ""},
		{`[]`, 422, "body"},
		{`"x"`, 422, "body"},
		{`{"template_id":7}`, 422, "template_id"},
		{`{"template_id":"a","image":"b"}`, 422, "image"},
		{`{"cpu_count":1,"vcpus":2}`, 422, "vcpus"},
		{`{"disk_mb":4000,"disk_size_mb":4001}`, 422, "disk_size_mb"},
		{`{"cpu_count":"2"}`, 422, "cpu_count"},
		{`{"cpu_count":1.5}`, 422, "cpu_count"},
		{`{"cpu_count":0}`, 422, "cpu_count"},
		{`{"cpu_count":-1}`, 422, "cpu_count"},
		{`{"cpu_count":5}`, 422, "cpu_count"},
		{`{"memory_mb":8193}`, 422, "memory_mb"},
		{`{"memory_mb":1e300}`, 422, "memory_mb"},
		{`{"memory_mb":9223372036854775807}`, 422, "memory_mb"},
		{`{"disk_mb":10241}`, 422, "disk_mb"},
		{`{"size":"huge"}`, 422, "size"},
		{`{"size":"xs","cpu_count":2}`, 422, "cpu_count"},
		{`{"timeout_sec":-1}`, 422, "timeout_sec"},
		{`{"timeout_sec":"300"}`, 422, "timeout_sec"},
		{`{"env":{"A":1}}`, 422, "env.A"},
		{`{"env":{"A":null}}`, 422, "env.A"},
		{`{"env":{"A=B":"1"}}`, 422, "env"},
		{`{"env":{"":"1"}}`, 422, "env"},
		{`{"env":{"A":"x\u0000"}}`, 422, "env.A"},
		{`{"env":[]}`, 422, "env"},
		{`{"metadata":"x"}`, 422, "metadata"},
		{`{"metadata":{"a":"` + strings.Repeat("x", 16<<10) + `"}}`, 422, "metadata"},
		{`{"tags":"x"}`, 422, "tags"},
		{`{"tags":[""]}`, 422, "tags[0]"},
		{`{"name":"a/b"}`, 422, "name"},
		{`{"name":"a\nb"}`, 422, "name"},
		{`{"name":"` + strings.Repeat("x", 256) + `"}`, 422, "name"},
		{`{"workspace_id":"nope"}`, 422, "workspace_id"},
		{`{"project_slug":"a b"}`, 422, "project_slug"},
		{`{"auto_start":"yes"}`, 422, "auto_start"},
	} {
		name := tt.body
		if len(name) > 60 {
			name = name[:60]
		}
		t.Run(name, func(t *testing.T) {
			a := request(t, "POST", base+"/api/v1/sandboxes", tt.body)
			want := map[int]string{400: "BAD_REQUEST", 413: "BODY_TOO_LARGE", 422: "VALIDATION_ERROR"}[tt.status]
			a.want(t, tt.status, want)
			if tt.field != "" {
				details, _ := a.body["error"].(map[string]any)["details"].(map[string]any)
				if details["field"] != tt.field {
					t.Errorf("details.field: got %v, want %s", details["field"], tt.field)
				}
			}
		})
	}
	if len(w.created) != 0 {
		t.Errorf("%d sandboxes came of bad input", len(w.created))
	}
}

// "null is absent", and what means the same may be said twice.
func TestCreateTolerates(t *testing.T) {
	_, _, base := serveWorld(t, Config{})
	for _, body := range []string{
		`null`, `{}`, ` `, `{"template_id":null,"cpu_count":null,"env":null}`, `{"template_id":"a","image":"a"}`,
		`{"cpu_count":2.0}`, `{"cpu_count":9,"cpu_count":1}`, `{"vcpus":1,"cpu_count":1}`,
	} {
		if a := request(t, "POST", base+"/api/v1/sandboxes", body); a.status != 201 {
			t.Errorf("%s: %d %s", body, a.status, a.raw)
		}
	}
}

// "Idempotency-Key: same key within 24 h returns the existing sandbox".
func TestIdempotencyDigestIsOfTheMeaning(t *testing.T) {
	w, _, base := serveWorld(t, Config{})
	ask := func(body string) {
		request(t, "POST", base+"/api/v1/sandboxes", body, "Idempotency-Key", sandbox.NewName("k"))
	}
	ask(`{"template_id":"a","cpu_count":2,"env":{"A":"1","B":"2"}}`)
	ask(` { "env": {"B":"2", "A":"1"}, "vcpus": 2.0, "image": "a", "unknown": true }`)
	ask(`{"template_id":"a","cpu_count":3,"env":{"A":"1","B":"2"}}`)
	d := func(i int) [32]byte { return w.created[i].Idempotency.Digest }
	if d(0) != d(1) || d(0) == d(2) || d(0) == ([32]byte{}) {
		t.Errorf("digests: same meaning equal %v, other meaning equal %v", d(0) == d(1), d(0) == d(2))
	}
}

// "another tenant's id or a guessed one: 404 NOT_FOUND, the same bytes".
func TestTenantsDoNotSeeEachOther(t *testing.T) {
	_, _, base := serveWorld(t, Config{})
	id := create(t, base, `{"name":"mine"}`)
	for _, tt := range [][3]string{
		{"GET", "", ""}, {"DELETE", "", ""}, {"GET", "/readiness", ""}, {"GET", "/readiness/stream", ""}, {"GET", "/events", ""},
		{"POST", "/exec", `{"command":"x"}`}, {"POST", "/exec/stream", `{"command":"x"}`}, {"GET", "/files?path=/", ""},
		{"POST", "/files", `{"path":"/a","content":""}`}, {"GET", "/files/a", ""}, {"POST", "/files/stat", `{"path":"/a"}`},
		{"GET", "/files/download?path=/a", ""},
	} {
		ask := func(id string) answer {
			return request(t, tt[0], base+"/api/v1/sandboxes/"+id+tt[1], tt[2], "Authorization", "Bearer "+keyB, "X-Request-Id", "same")
		}
		theirs, never := ask(id), ask("sbx_00000000000000000000000000")
		theirs.want(t, 404, "NOT_FOUND")
		if !bytes.Equal(theirs.raw, never.raw) {
			t.Errorf("%s %s: another's %s, unknown %s", tt[0], tt[1], theirs.raw, never.raw)
		}
	}
	if a := request(t, "GET", base+"/api/v1/sandboxes", "", "Authorization", "Bearer "+keyB); len(a.body["data"].([]any)) != 0 {
		t.Errorf("list shows another tenant's: %s", a.raw)
	}
	if a := request(t, "GET", base+"/api/v1/sandboxes/mine", ""); a.status != 200 {
		t.Errorf("by name: %d", a.status)
	}
}

// The list is an object with data, meta and page, and six filters.
func TestListFiltersAndPages(t *testing.T) {
	_, _, base := serveWorld(t, Config{})
	for i := range 5 {
		create(t, base, fmt.Sprintf(`{"external_user_id":"u%d","external_workspace_id":"w","external_project_id":"p"}`, i%2))
	}
	gone := create(t, base, `{}`)
	for range 2 { // "DELETE again 200 with the same body"
		a := request(t, "DELETE", base+"/api/v1/sandboxes/"+gone, "")
		if a.status != 200 || a.body["state"] != "destroyed" || a.body["id"] != gone || a.body["total_runtime_sec"] != 1.0 {
			t.Errorf("delete: %d %s", a.status, a.raw)
		}
	}
	for query, want := range map[string]int{
		"": 5, "?state=running": 5, "?state=destroyed": 1, "?state=paused": 0, "?external_user_id=u0": 3, "?external_user_id=u1&state=running": 2,
		"?external_workspace_id=w&external_project_id=p": 5, "?external_project_id=q": 0, "?workspace_id=550e8400-e29b-41d4-a716-446655440000": 5,
		"?project_id=nope": 0, "?page=1&page_size=2": 2, "?page=3&per_page=2": 1, "?page=9": 0, "?limit=3": 3,
	} {
		a := request(t, "GET", base+"/api/v1/sandboxes"+query, "")
		data, ok := a.body["data"].([]any)
		if !ok || len(data) != want {
			t.Errorf("%q: got %d of want %d: %.200s", query, len(data), want, a.raw)
		}
		if _, ok := a.body["meta"].(map[string]any)["total"].(float64); !ok {
			t.Errorf("%q: no meta.total", query)
		}
	}
	request(t, "GET", base+"/api/v1/sandboxes?state=warm", "").want(t, 422, "VALIDATION_ERROR")
	request(t, "GET", base+"/api/v1/sandboxes?page=x", "").want(t, 422, "VALIDATION_ERROR")
	if a := request(t, "GET", base+"/api/v1/sandboxes/"+gone, ""); a.body["state"] != "destroyed" || a.body["total_runtime_sec"] == nil {
		t.Errorf("a destroyed one is still there with its final fields: %s", a.raw)
	}
}

// Traps 4, 8 and 9: the public CLI breaks on arrays in tags and on metadata
// that is not text; everybody else gets them as they are.
func TestPublicCLIGetsObjects(t *testing.T) {
	_, _, base := serveWorld(t, Config{})
	id := create(t, base, `{"tags":["a"],"metadata":{"miosa_persistent":true,"n":1,"s":"x"}}`)
	cli := request(t, "GET", base+"/api/v1/sandboxes/"+id, "", "User-Agent", "miosa-cli/1.2")
	if tags, ok := cli.body["tags"].(map[string]any); !ok || len(tags) != 1 {
		t.Errorf("tags for the CLI: %v", cli.body["tags"])
	}
	for k, v := range cli.body["metadata"].(map[string]any) {
		if _, ok := v.(string); !ok {
			t.Errorf("metadata.%s for the CLI: %v", k, v)
		}
	}
	other := request(t, "GET", base+"/api/v1/sandboxes/"+id, "")
	if tags, ok := other.body["tags"].([]any); !ok || len(tags) != 1 || other.body["metadata"].(map[string]any)["n"] != 1.0 {
		t.Errorf("others get %v %v", other.body["tags"], other.body["metadata"])
	}
	plain := create(t, base, `{}`)
	if a := request(t, "GET", base+"/api/v1/sandboxes/"+plain, ""); strings.Contains(string(a.raw), `"tags"`) {
		t.Error("empty tags must be left out")
	}
}

func TestKeysAndScopes(t *testing.T) {
	_, _, base := serveWorld(t, Config{})
	for _, auth := range []string{"", "Bearer", "Bearer ", "Bearer nope", "Basic " + keyA, "Bearer " + strings.Repeat("x", 10000)} {
		a := request(t, "GET", base+"/api/v1/sandboxes", "", "Authorization", auth)
		a.want(t, 401, "UNAUTHORIZED")
	}
	request(t, "GET", base+"/api/v1/sandboxes", "", "Authorization", "bearer "+keyA).want(t, 200, "")
	request(t, "POST", base+"/api/v1/tenants", `{"name":"x"}`).want(t, 403, "FORBIDDEN")
	request(t, "GET", base+"/metrics", "").want(t, 403, "FORBIDDEN")
	if a := request(t, "GET", base+"/metrics", "", "Authorization", "Bearer "+keyAdmin); !strings.Contains(string(a.raw), "silica_http_requests_total") {
		t.Errorf("metrics: %.200s", a.raw)
	}

	asAdmin := []string{"Authorization", "Bearer " + keyAdmin}
	ten := request(t, "POST", base+"/api/v1/tenants", `{"name":"Acme","slug":"acme","max_sandboxes":3}`, asAdmin...)
	ten.want(t, 201, "")
	id := ten.body["id"].(string)
	key := request(t, "POST", base+"/api/v1/api-keys", `{"name":"k","tenant_id":"`+id+`"}`, asAdmin...)
	if key.status != 201 || key.body["token"] == nil || key.body["token"] != key.body["key"] || key.body["tenant_id"] != id {
		t.Errorf("key: %s", key.raw)
	}
	if a := request(t, "GET", base+"/api/v1/api-keys?tenant="+id, "", asAdmin...); len(a.body["data"].([]any)) != 1 || strings.Contains(string(a.raw), `"token"`) {
		t.Errorf("the secret is shown once, in the answer that made it: %s", a.raw)
	}
	request(t, "POST", base+"/api/v1/api-keys", `{"tenant_id":"`+id+`"}`).want(t, 403, "FORBIDDEN")
	request(t, "POST", base+"/api/v1/api-keys", `{"admin":true}`).want(t, 403, "FORBIDDEN")
	theirs := request(t, "POST", base+"/api/v1/api-keys", `{"admin":true,"tenant_id":"tnt_a"}`, asAdmin...).body["id"].(string)
	request(t, "DELETE", base+"/api/v1/api-keys/"+theirs, "").want(t, 403, "FORBIDDEN")
	request(t, "DELETE", base+"/api/v1/api-keys/"+theirs+"?tenant_id=tnt_a", "", asAdmin...).want(t, 200, "")
	own := request(t, "POST", base+"/api/v1/api-keys", `{"name":"own"}`)
	own.want(t, 201, "")
	request(t, "DELETE", base+"/api/v1/api-keys/"+key.body["id"].(string), "").want(t, 404, "NOT_FOUND")
	request(t, "DELETE", base+"/api/v1/api-keys/"+own.body["id"].(string), "").want(t, 200, "")
	request(t, "DELETE", base+"/api/v1/tenants/"+id, "", asAdmin...).want(t, 200, "")
	request(t, "DELETE", base+"/api/v1/tenants/"+id, "", asAdmin...).want(t, 404, "NOT_FOUND")
}

// "x-request-id on everything", and the envelope that every public client can read.
func TestEnvelope(t *testing.T) {
	_, _, base := serveWorld(t, Config{})
	a := request(t, "GET", base+"/api/v1/nope", "", "X-Request-Id", "my-id_1.2")
	a.want(t, 404, "NOT_FOUND")
	inner := a.body["error"].(map[string]any)
	if a.header.Get("X-Request-Id") != "my-id_1.2" || inner["request_id"] != "my-id_1.2" || a.body["request_id"] != "my-id_1.2" ||
		a.body["code"] != "NOT_FOUND" || a.body["message"] == "" || a.body["message"] != inner["message"] {
		t.Errorf("%v %s", a.header, a.raw)
	}
	if d, ok := inner["details"]; !ok || d != nil {
		t.Errorf("details without any must be null: %s", a.raw)
	}
	bad := request(t, "GET", base+"/healthz", "", "X-Request-Id", "in jection")
	if id := bad.header.Get("X-Request-Id"); !strings.HasPrefix(id, "req_") {
		t.Errorf("a request id that is not sane is replaced: %q", id)
	}
	m := request(t, "PUT", base+"/api/v1/sandboxes", "")
	m.want(t, 405, "METHOD_NOT_ALLOWED")
	if got := m.header.Values("Allow"); len(got) != 2 {
		t.Errorf("Allow: %v", got)
	}
}

// "never let the router answer 301 for path cleaning"; a base URL with a
// trailing slash gives "//sandboxes".
func TestSlashesAreTolerated(t *testing.T) {
	_, _, base := serveWorld(t, Config{})
	id := create(t, base, `{}`)
	for _, path := range []string{"/api/v1//sandboxes", "//api/v1/sandboxes", "/api/v1/sandboxes/", "/api/v1//sandboxes//" + id + "/"} {
		if a := request(t, "GET", base+path, ""); a.status != 200 {
			t.Errorf("%s: %d", path, a.status)
		}
	}
	if a := request(t, "POST", base+"/api/v1//sandboxes", `{}`); a.status != 201 {
		t.Errorf("POST with a doubled slash: %d", a.status)
	}
}

// One function maps every kind to its status; some codes have their own.
func TestStatusOfErrors(t *testing.T) {
	w, _, base := serveWorld(t, Config{})
	for _, tt := range []struct {
		err    error
		status int
		code   string
	}{
		{sandbox.E(sandbox.Invalid, sandbox.CodeInvalidTemplate, "x"), 400, "INVALID_TEMPLATE"},
		{sandbox.E(sandbox.Exhausted, sandbox.CodeSandboxLimit, "x"), 409, "SANDBOX_LIMIT_EXCEEDED"},
		{sandbox.E(sandbox.Conflict, sandbox.CodeIdempotency, "x"), 409, "IDEMPOTENCY_PAYLOAD_MISMATCH"},
		{sandbox.E(sandbox.Exhausted, sandbox.CodeHostFull, "x"), 503, "HOST_CAPACITY_EXHAUSTED"},
		{sandbox.E(sandbox.Unavailable, sandbox.CodeUnavailable, "x"), 503, "UNAVAILABLE"},
		{sandbox.E(sandbox.Timeout, sandbox.CodeTimeout, "x"), 504, "TIMEOUT"},
		{fmt.Errorf("secret path /etc/x: %w", io.ErrNoProgress), 500, "INTERNAL_ERROR"},
		{fmt.Errorf("wrapped: %w", sandbox.E(sandbox.Conflict, sandbox.CodeTemplateNotReady, "x")), 409, "TEMPLATE_NOT_READY"},
	} {
		w.createErr = tt.err
		a := request(t, "POST", base+"/api/v1/sandboxes", `{}`)
		a.want(t, tt.status, tt.code)
		if strings.Contains(string(a.raw), "secret") {
			t.Errorf("the cause left the daemon: %s", a.raw)
		}
		if tt.status == 503 && a.header.Get("Retry-After") == "" {
			t.Error("503 without Retry-After")
		}
	}
}

type panicking struct{ Sandboxes }

func (panicking) Get(context.Context, sandbox.Caller, string) (sandbox.Sandbox, error) { panic("boom") }

func TestPanicBecomes500(t *testing.T) {
	var log bytes.Buffer
	w, s, base := serveWorld(t, Config{})
	s.log = slog.New(slog.NewJSONHandler(&log, nil))
	s.deps.Sandboxes = panicking{w}
	a := request(t, "GET", base+"/api/v1/sandboxes/x", "")
	a.want(t, 500, "INTERNAL_ERROR")
	if !strings.Contains(log.String(), "boom") || strings.Contains(string(a.raw), "boom") {
		t.Errorf("log %q, answer %s", log.String(), a.raw)
	}
	if a := request(t, "GET", base+"/healthz", ""); a.status != 200 {
		t.Error("the server lives on")
	}
}

// "300 requests a minute per workspace with Retry-After (readiness exempt)".
func TestRateLimit(t *testing.T) {
	_, _, base := serveWorld(t, Config{RateLimit: 60})
	id := create(t, base, `{}`)
	for i := range 59 {
		if a := request(t, "GET", base+"/api/v1/sandboxes/"+id, ""); a.status != 200 {
			t.Fatalf("request %d: %d", i, a.status)
		}
	}
	a := request(t, "GET", base+"/api/v1/sandboxes/"+id, "")
	a.want(t, 429, "RATE_LIMITED")
	if a.header.Get("Retry-After") != "1" || a.body["retry_after"] != 1.0 {
		t.Errorf("Retry-After %q, retry_after %v", a.header.Get("Retry-After"), a.body["retry_after"])
	}
	for range 20 {
		if a := request(t, "GET", base+"/api/v1/sandboxes/"+id+"/readiness", ""); a.status != 200 {
			t.Fatalf("readiness: %d", a.status)
		}
		if res := stream(t, "GET", base+"/api/v1/sandboxes/"+id+"/readiness/stream", ""); res.StatusCode != 200 {
			t.Fatalf("readiness stream: %d", res.StatusCode)
		}
	}
	request(t, "GET", base+"/api/v1/sandboxes", "", "Authorization", "Bearer "+keyB).want(t, 200, "")
}

func TestLimiterForgetsIdleBuckets(t *testing.T) {
	l, now := newLimiter(60, time.Minute), time.Now()
	for i := range 1000 {
		l.take(fmt.Sprint(i), now)
	}
	if l.take("x", now.Add(2*time.Minute)); len(l.buckets) != 1 {
		t.Errorf("%d buckets stay", len(l.buckets))
	}
	if w := newLimiter(0, time.Minute).take("x", now); w != 0 {
		t.Errorf("0 means no limit, got %v", w)
	}
}

func TestPublicEndpoints(t *testing.T) {
	_, s, base := serveWorld(t, Config{Version: "v1"})
	for _, path := range []string{"/healthz", "/readyz", "/openapi.json"} {
		if a := request(t, "GET", base+path, "", "Authorization", ""); a.status != 200 || len(a.body) == 0 {
			t.Errorf("%s: %d %.100s", path, a.status, a.raw)
		}
	}
	s.deps.Ready = func(context.Context) error {
		return sandbox.E(sandbox.Unavailable, sandbox.CodeUnavailable, "the default template is being built")
	}
	request(t, "GET", base+"/readyz", "").want(t, 503, "UNAVAILABLE")
	s.deps.Ready = func(context.Context) error {
		return sandbox.E(sandbox.Unavailable, sandbox.CodeTemplateNotReady, "building template miosa-sandbox")
	}
	if a := request(t, "GET", base+"/readyz", ""); a.status != 503 || a.body["message"] != "building template miosa-sandbox" {
		t.Errorf("while the default template is built: %d %s", a.status, a.raw)
	}
}

func TestTemplates(t *testing.T) {
	_, _, base := serveWorld(t, Config{})
	a := request(t, "GET", base+"/api/v1/sandbox-templates", "")
	if a.body["default_template_id"] != "miosa-sandbox" || len(a.body["data"].([]any)) != 1 {
		t.Errorf("%s", a.raw)
	}
	one := request(t, "GET", base+"/api/v1/sandbox-templates/miosa-sandbox", "")
	if one.body["slug"] != "miosa-sandbox" || one.body["data"].(map[string]any)["cpu_count"] != 1.0 {
		t.Errorf("%s", one.raw)
	}
	// "404 | not_found | Template ID does not exist", in lower case.
	request(t, "GET", base+"/api/v1/sandbox-templates/nope", "").want(t, 404, "not_found")
}
