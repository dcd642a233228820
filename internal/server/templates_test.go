package server

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"silica.dev/silica/client"
)

const templates = "/api/v1/sandbox-templates"

// made asks for a template and returns its id.
func made(t *testing.T, base, body string) string {
	t.Helper()
	a := request(t, "POST", base+templates, body)
	id, _ := a.body["id"].(string)
	if a.status != http.StatusCreated || !strings.HasPrefix(id, "tpl_") {
		t.Fatalf("create template = %d %s", a.status, a.raw)
	}
	return id
}

// built waits for a build's end and returns its last answer.
func built(t *testing.T, base, id string) answer {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; {
		a := request(t, "GET", base+"/api/v1/sandbox-template-builds/"+id, "")
		switch a.body["state"] {
		case "ready", "failed", "cancelled":
			return a
		}
		if time.Now().After(deadline) {
			t.Fatalf("build %s does not end: %s", id, a.raw)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// S1, "Validate a BuildSpec": the example, and what it becomes.
func TestValidateBuildSpec(t *testing.T) {
	_, _, base := serveWorld(t, Config{})
	spec := `{"from": "node:22-bookworm", "vcpu": 2, "memoryMib": 2048, "diskMib": 8192,
		"steps": [{"run": "corepack enable"}, {"workdir": "/workspace"}], "env": {"NODE_ENV": "development"},
		"workdir": "/workspace", "user": "root", "startCmd": "pnpm dev --host 0.0.0.0 --port 3000",
		"readyCmd": "curl -f http://127.0.0.1:3000", "previewPort": 3000, "artifactPaths": ["/workspace"]}`
	a := request(t, "POST", base+templates+"/validate", `{"build_spec": `+spec+`}`)
	got, _ := json.Marshal(a.body["build_spec"])
	var v any
	_ = json.Unmarshal([]byte(spec), &v)
	if want, _ := json.Marshal(v); a.status != 200 || a.body["valid"] != true || string(got) != string(want) {
		t.Errorf("%d %s\nwant %s", a.status, got, want)
	}
	// "workdir … Defaults to /workspace", "user … Defaults to root".
	a = request(t, "POST", base+templates+"/validate", `{"build_spec": {"from": "debian:bookworm"}}`)
	b, _ := a.body["build_spec"].(map[string]any)
	if b["workdir"] != "/workspace" || b["user"] != "root" || b["vcpu"] != 1.0 || b["memoryMib"] != 1024.0 || b["diskMib"] != 3072.0 {
		t.Errorf("defaults: %s", a.raw)
	}

	for _, c := range []struct{ spec, code, field string }{
		{`{}`, "REQUIRED", "from"},
		{`null`, "REQUIRED", "build_spec"},
		{`[]`, "REQUIRED", "build_spec"},
		{`{"from":""}`, "REQUIRED", "from"},
		{`{"from":"node:22-alpine3.20"}`, "UNSUPPORTED_BASE_IMAGE", "from"},
		{`{"from":"alpine"}`, "UNSUPPORTED_BASE_IMAGE", "from"},
		{`{"from":"gcr.io/distroless/base-debian12"}`, "UNSUPPORTED_BASE_IMAGE", "from"},
		{`{"from":"oci-archive:/etc/image.tar"}`, "", ""}, // whose it is to use is the catalogue's to say
		{`{"from":"debian:12","vcpu":0}`, "OUT_OF_RANGE", "vcpu"},
		{`{"from":"debian:12","vcpu":5}`, "OUT_OF_RANGE", "vcpu"},
		{`{"from":"debian:12","memoryMib":1}`, "OUT_OF_RANGE", "memoryMib"},
		{`{"from":"debian:12","diskMib":99999999}`, "OUT_OF_RANGE", "diskMib"},
		{`{"from":"debian:12","vcpu":"2"}`, "INVALID_INTEGER", "vcpu"},
		{`{"from":"debian:12","memoryMib":1024.5}`, "INVALID_INTEGER", "memoryMib"},
		{`{"from":"debian:12","memoryMib":1024.0}`, "", ""},
		{`{"from":"debian:12","previewPort":0}`, "INVALID_PORT", "previewPort"},
		{`{"from":"debian:12","previewPort":65536}`, "INVALID_PORT", "previewPort"},
		{`{"from":"debian:12","previewPort":"3000"}`, "INVALID_INTEGER", "previewPort"},
		{`{"from":"debian:12","workdir":"work"}`, "INVALID_PATH", "workdir"},
		{`{"from":"debian:12","artifactPaths":["/a","b"]}`, "INVALID_PATH", "artifactPaths[1]"},
		{`{"from":"debian:12","steps":["apt update"]}`, "INVALID_STEP", "steps[0]"},
		{`{"from":"debian:12","steps":[{"run":"a"},{}]}`, "INVALID_STEP", "steps[1]"},
		{`{"from":"debian:12","steps":[{"copy":"a"}]}`, "INVALID_STEP", "steps[0].copy"},
		{`{"from":"debian:12","steps":[{"run":7}]}`, "INVALID_STEP", "steps[0].run"},
		{`{"from":"debian:12","steps":[{"workdir":"x"}]}`, "INVALID_PATH", "steps[0].workdir"},
		{`{"from":"debian:12","steps":{}}`, "INVALID_STEP", "steps"},
		{`{"from":"debian:12","startcmd":"x"}`, "VALIDATION_ERROR", "startcmd"},
		{`{"from":"debian:12","env":{"A":1,"B":true}}`, "", ""},
		{`{"from":"debian:12","env":{"A=":"x"}}`, "VALIDATION_ERROR", "env"},
		{`{"from":"debian:12","warm_start":true}`, "REQUIRED", "startCmd"},
	} {
		a := request(t, "POST", base+templates+"/validate", `{"build_spec": `+c.spec+`}`)
		if c.code == "" {
			if a.status != 200 {
				t.Errorf("%s: %d %s", c.spec, a.status, a.raw)
			}
			continue
		}
		a.want(t, 422, c.code)
		list, _ := a.body["errors"].([]any)
		if len(list) == 0 || a.body["valid"] != false {
			t.Errorf("%s: %s", c.spec, a.raw)
			continue
		}
		first, _ := list[0].(map[string]any)
		if first["code"] != c.code || first["field"] != c.field || first["message"] == "" {
			t.Errorf("%s: %v, want %s of %s", c.spec, first, c.code, c.field)
		}
	}
	a = request(t, "POST", base+templates+"/validate", `{"build_spec": {"vcpu":0,"workdir":"x","steps":[1]}}`)
	if list, _ := a.body["errors"].([]any); len(list) != 4 {
		t.Errorf("all that is wrong at once: %s", a.raw)
	}
}

// "slug rules, official and custom side by side; a slug can't be changed, and a
// built-in's slug can't be taken, 409".
func TestTemplatesOfTheTenant(t *testing.T) {
	_, _, base := serveWorld(t, Config{})
	const spec = `"build_spec":{"from":"debian:bookworm","vcpu":2,"previewPort":3000,"readyCmd":"true","startCmd":"serve"}`
	id := made(t, base, `{"name":"Agent Web App","description":"d","tags":["web"],"pool":{"minIdle":1,"maxIdle":2},`+spec+`}`)
	a := request(t, "GET", base+templates+"/agent-web-app", "")
	if a.body["id"] != id || a.body["status"] != "draft" || a.body["cpu_count"] != 2.0 || a.body["preview_port"] != 3000.0 || a.body["is_official"] != false ||
		a.body["start_command"] != "serve" || a.body["pending_revision"] != nil || a.body["readiness_probe"].(map[string]any)["url"] != "http://127.0.0.1:3000" {
		t.Errorf("%s", a.raw)
	}
	a = request(t, "GET", base+templates, "")
	if list := a.body["data"].([]any); len(list) != 2 || list[0].(map[string]any)["id"] != "miosa-sandbox" || list[1].(map[string]any)["slug"] != "agent-web-app" {
		t.Errorf("%s", a.raw)
	}
	if a = request(t, "GET", base+templates+"?tag=web", ""); len(a.body["data"].([]any)) != 1 {
		t.Errorf("by tag: %s", a.raw)
	}
	for body, code := range map[string]string{
		`{"slug":"miosa-sandbox",` + spec + `}`:                      "409 CONFLICT",
		`{"slug":"build-spec",` + spec + `}`:                         "409 CONFLICT",
		`{"slug":"validate",` + spec + `}`:                           "409 CONFLICT",
		`{"slug":"Bad_Slug",` + spec + `}`:                           "422 VALIDATION_ERROR",
		`{` + spec + `}`:                                             "422 VALIDATION_ERROR",
		`{"name":"x"}`:                                               "422 REQUIRED",
		`{"name":"x","build_spec":{"from":"oci-archive:/x.tar"}}`:    "422 UNSUPPORTED_BASE_IMAGE",
		`{"name":"x","pool":{"minIdle":3,"maxIdle":2},` + spec + `}`: "422 VALIDATION_ERROR",
		`{"name":"x","pool":{"min":3},` + spec + `}`:                 "422 VALIDATION_ERROR",
	} {
		a := request(t, "POST", base+templates, body)
		if got := strings.TrimSpace(http.StatusText(a.status)); got == "" || code[:3] != strings.Split(code, " ")[0] || a.body["code"] != code[4:] || a.status/100 != int(code[0]-'0') {
			t.Errorf("%s: %d %s, want %s", body, a.status, a.raw, code)
		}
	}
	// FX: "A duplicate name/slug gives 422 VALIDATION_FAILED with errors:{slug:[…]}".
	a = request(t, "POST", base+templates, `{"slug":"agent-web-app",`+spec+`}`)
	a.want(t, 422, "VALIDATION_FAILED")
	if errs, _ := a.body["errors"].(map[string]any); len(errs["slug"].([]any)) != 1 {
		t.Errorf("duplicate: %s", a.raw)
	}
	// "Once created, the ID cannot be changed".
	request(t, "PUT", base+templates+"/"+id, `{"slug":"other"}`).want(t, 422, "VALIDATION_ERROR")
	a = request(t, "PATCH", base+templates+"/"+id, `{"slug":"agent-web-app","name":"New","pool":{"minIdle":0,"maxIdle":3}}`)
	if a.status != 200 || a.body["name"] != "New" || a.body["description"] != "d" || a.body["pool"].(map[string]any)["maxIdle"] != 3.0 || a.body["pending_revision"] != nil {
		t.Errorf("%s", a.raw)
	}
	request(t, "PUT", base+templates+"/miosa-sandbox", `{"name":"mine"}`).want(t, 403, "FORBIDDEN")
	request(t, "DELETE", base+templates+"/miosa-sandbox", "").want(t, 403, "FORBIDDEN")
	// "204".
	if a = request(t, "DELETE", base+templates+"/"+id, ""); a.status != 204 {
		t.Errorf("delete: %d %s", a.status, a.raw)
	}
	request(t, "GET", base+templates+"/"+id, "").want(t, 404, "not_found")
}

// "Template from a running sandbox: POST /sandboxes/{id}/template {name, slug}".
func TestTemplateOfASandbox(t *testing.T) {
	_, _, base := serveWorld(t, Config{})
	at := base + "/api/v1/sandboxes/" + create(t, base, `{"cpu_count":2,"memory_mb":2048}`) + "/template"
	request(t, "POST", at, `{}`).want(t, 422, "VALIDATION_ERROR")
	request(t, "POST", at, `{"slug":"miosa-sandbox"}`).want(t, 409, "CONFLICT")
	request(t, "POST", base+"/api/v1/sandboxes/sbx_0000000000000000/template", `{"slug":"x"}`).want(t, 404, "NOT_FOUND")
	a := request(t, "POST", at, `{"slug":"mine","pool":{"minIdle":1}}`)
	from, _ := a.body["build_spec"].(map[string]any)["from"].(string)
	if a.status != 201 || a.body["pending_revision"] == nil || a.body["cpu_count"] != 2.0 || a.body["memory_mb"] != 2048.0 || !strings.HasPrefix(from, "sandbox:sbx_") {
		t.Fatalf("%d %s", a.status, a.raw)
	}
	request(t, "POST", at, `{"slug":"mine"}`).want(t, 422, "VALIDATION_FAILED")
	// What is in an artifact is the business of who made it.
	request(t, "POST", base+templates, `{"slug":"other","build_spec":{"from":"`+from+`"}}`).want(t, 422, "UNSUPPORTED_BASE_IMAGE")
	other := made(t, base, `{"slug":"other","build_spec":{"from":"debian:bookworm"}}`)
	request(t, "PUT", base+templates+"/"+other, `{"build_spec":{"from":"`+from+`"}}`).want(t, 422, "UNSUPPORTED_BASE_IMAGE")
	request(t, "POST", base+templates+"/"+other+"/builds", `{"build_spec":{"from":"`+from+`"}}`).want(t, 422, "UNSUPPORTED_BASE_IMAGE")
	if a := request(t, "PUT", base+templates+"/mine", `{"build_spec":{"from":"`+from+`","vcpu":1}}`); a.status != 200 {
		t.Errorf("its own base, with another size: %d %s", a.status, a.raw)
	}
}

// "Build records start in queued. The builder worker moves them through building,
// snapshotting, certifying, distributing, and then ready or failed."
func TestBuilds(t *testing.T) {
	w, _, base := serveWorld(t, Config{})
	id := made(t, base, `{"name":"App","build_spec":{"from":"debian:bookworm"}}`)
	open := w.workshop.shut()
	a := request(t, "POST", base+templates+"/"+id+"/builds", `{}`)
	bid, _ := a.body["id"].(string)
	if a.status != 201 || a.body["state"] != "queued" || a.body["data"].(map[string]any)["id"] != bid {
		t.Fatalf("%d %s", a.status, a.raw)
	}
	item := request(t, "GET", base+templates+"/app", "")
	if item.body["status"] != "building" || item.body["pending_revision"] != bid {
		t.Errorf("while it is built: %s", item.raw)
	}
	// "/logs/stream opens an SSE stream that first replays persisted events, then
	// emits live build_event messages"; "works with ?ticket= alone".
	ticket := request(t, "POST", base+"/api/v1/auth/sse-ticket", "")
	secret, _ := ticket.body["ticket"].(string)
	res, err := http.Get(base + "/api/v1/sandbox-template-builds/" + bid + "/logs/stream?ticket=" + secret)
	if err != nil || res.StatusCode != 200 {
		t.Fatalf("stream: %v %v", res, err)
	}
	defer res.Body.Close()
	open()
	want := []string{"queued", "building", "step_started", "progress", "step_finished", "snapshotting", "certifying", "distributing", "ready"}
	var got []string
	for _, e := range readSSE(t, res.Body, nil) {
		if e.name == "build_event" {
			got = append(got, e.data["event"].(string))
			if e.data["at"] == nil || e.data["state"] == nil {
				t.Errorf("%v", e.data)
			}
		}
	}
	if strings.Join(got, " ") != strings.Join(want, " ") {
		t.Errorf("stream: %v, want %v", got, want)
	}
	a = built(t, base, bid)
	if a.body["state"] != "ready" || a.body["error"] != nil || len(a.body["metadata"].(map[string]any)["events"].([]any)) != len(want) || a.body["certification"] != "passed" {
		t.Errorf("%s", a.raw)
	}
	if a = request(t, "GET", base+"/api/v1/sandbox-template-builds/"+bid+"/logs", ""); len(a.body["events"].([]any)) != len(want) {
		t.Errorf("logs: %s", a.raw)
	}
	item = request(t, "GET", base+templates+"/app", "")
	if item.body["status"] != "ready" || item.body["revision"] == nil || item.body["pending_revision"] != nil {
		t.Errorf("%s", item.raw)
	}
	// "Cancel is accepted for non-terminal builds"; "Retry is allowed for failed or
	// cancelled builds".
	for _, verb := range []string{"cancel", "retry"} {
		request(t, "POST", base+"/api/v1/sandbox-template-builds/"+bid+"/"+verb, "").want(t, 409, "INVALID_BUILD_STATE")
	}
	// "the new spec serves once its revision is ready, until then the old one does
	// and the item shows pending_revision".
	open = w.workshop.shut()
	put := request(t, "PUT", base+templates+"/app", `{"build_spec":{"from":"debian:bookworm","vcpu":2}}`)
	pending, _ := put.body["pending_revision"].(string)
	if put.body["revision"] != item.body["revision"] || put.body["status"] != "ready" || pending == "" || put.body["cpu_count"] != 1.0 {
		t.Errorf("put: %s", put.raw)
	}
	// "records BUILD_CANCELLED".
	a = request(t, "POST", base+"/api/v1/sandbox-template-builds/"+pending+"/cancel", "")
	if a.status != 200 || a.body["state"] != "cancelled" || a.body["error_code"] != "BUILD_CANCELLED" {
		t.Errorf("cancel: %s", a.raw)
	}
	open()
	a = request(t, "POST", base+"/api/v1/sandbox-template-builds/"+pending+"/retry", "")
	again, _ := a.body["id"].(string)
	if a.status != 201 || again == pending || a.body["state"] != "queued" {
		t.Errorf("retry: %s", a.raw)
	}
	if a = built(t, base, again); a.body["state"] != "ready" {
		t.Errorf("retried: %s", a.raw)
	}
	if now := request(t, "GET", base+templates+"/app", ""); now.body["cpu_count"] != 2.0 || now.body["revision"] == item.body["revision"] {
		t.Errorf("after the new revision: %s", now.raw)
	}
	if a = request(t, "GET", base+templates+"/app/builds", ""); len(a.body["data"].([]any)) != 3 {
		t.Errorf("builds: %s", a.raw)
	}
	for _, path := range []string{"/sandbox-template-builds/bld_nope", "/sandbox-template-builds/bld_nope/logs", "/sandbox-template-builds/bld_nope/logs/stream"} {
		request(t, "GET", base+"/api/v1"+path, "").want(t, 404, "NOT_FOUND")
	}
	request(t, "POST", base+templates+"/nope/builds", `{}`).want(t, 404, "not_found")
}

func TestClientFollowsABuild(t *testing.T) {
	_, _, base := serveWorld(t, Config{})
	made(t, base, `{"name":"App","build_spec":{"from":"debian:bookworm"}}`)
	c, err := client.New(base, keyA)
	if err != nil {
		t.Fatal(err)
	}
	b, err := c.BuildTemplate(t.Context(), "app", nil)
	if err != nil {
		t.Fatal(err)
	}
	last := ""
	for e, err := range c.FollowBuild(t.Context(), b.ID, 0) {
		if err != nil {
			t.Fatal(err)
		}
		last = e.Event
	}
	if last != "ready" {
		t.Errorf("the last event is %q", last)
	}
}
