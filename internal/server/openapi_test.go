package server

import (
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"net/http"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	"silica.dev/silica/api"
	"silica.dev/silica/sandbox"
)

// document is the parsed contract.
type document struct {
	t    *testing.T
	root map[string]any
}

func contract(t *testing.T) document {
	t.Helper()
	raw, err := openAPIJSON((&Server{}).routes())
	if err != nil {
		t.Fatal(err)
	}
	d := document{t: t}
	if err := json.Unmarshal(raw, &d.root); err != nil {
		t.Fatal(err)
	}
	return d
}

// at follows keys, and references on the way.
func (d document) at(v any, keys ...string) map[string]any {
	m, _ := v.(map[string]any)
	if ref, ok := m["$ref"].(string); ok {
		m = d.at(d.root, strings.Split(strings.TrimPrefix(ref, "#/"), "/")...)
	}
	if len(keys) == 0 {
		return m
	}
	return d.at(m[keys[0]], keys[1:]...)
}

// The route table and the document list the same.
func TestContractListsEveryRoute(t *testing.T) {
	d := contract(t)
	listed := map[string]bool{}
	for path, item := range d.at(d.root, "paths") {
		for method, op := range d.at(item) {
			listed[strings.ToUpper(method)+" "+path] = true
			name := method + " " + path
			if d.at(op)["operationId"] == nil || d.at(op)["summary"] == nil {
				t.Errorf("%s has no operationId or summary", name)
			}
			if d.at(op)["x-silica-scope"] == nil || d.at(op)["x-silica-limit"] == nil {
				t.Errorf("%s shows no scope or limit", name)
			}
			if none, said := d.at(op)["security"].([]any); (said && len(none) == 0) != (d.at(op)["x-silica-scope"] == "public") {
				t.Errorf("%s: security %v, but the route table says scope %v", name, d.at(op)["security"], d.at(op)["x-silica-scope"])
			}
			if len(d.at(op, "responses", "default", "content")) == 0 {
				t.Errorf("%s does not say how it refuses", name)
			}
			params := ""
			ps, _ := d.at(op)["parameters"].([]any)
			for _, p := range ps {
				if d.at(p)["name"] == nil {
					t.Errorf("%s: parameter %v leads nowhere", name, p)
				}
				if d.at(p)["in"] == "path" {
					params += fmt.Sprintf("{%s}", d.at(p)["name"])
				}
			}
			want := ""
			for _, part := range strings.Split(path, "/") {
				if strings.HasPrefix(part, "{") {
					want += part
				}
			}
			if params != want {
				t.Errorf("%s: path parameters %q, want %q", name, params, want)
			}
			typed := false
			for status := range d.at(op, "responses") {
				typed = typed || status == "204"
				for _, c := range d.at(op, "responses", status, "content") {
					typed = typed || status != "default" && len(d.at(c, "schema")) > 0
				}
			}
			if !typed {
				t.Errorf("%s: its success has no schema", name)
			}
		}
	}
	served := map[string]bool{}
	for _, rt := range (&Server{}).routes() {
		served[rt.method+" "+documented(rt.pattern)] = true
	}
	for _, name := range slices.Sorted(maps.Keys(served)) {
		if !listed[name] {
			t.Errorf("%s is served but not documented", name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(listed)) {
		if !served[name] {
			t.Errorf("%s is documented but not served", name)
		}
	}
}

// What the server answers is what the contract says, field by field.
func TestAnswersMatchContract(t *testing.T) {
	d := published(t)
	w, _, base := serveWorld(t, Config{})
	id := create(t, base, `{"name":"n","size":"small","tags":["x"]}`)
	w.agent.on("c", ok)
	w.agent.files["/w/a"] = []byte("a")
	asAdmin := []string{"Authorization", "Bearer " + keyAdmin}
	const sb = "/api/v1/sandboxes/{id}"
	var keyID, tenantID string
	for _, tt := range []struct {
		method, path, query, body string
		header                    []string
		status                    int
	}{
		{"GET", "/healthz", "", "", nil, 200},
		{"GET", "/readyz", "", "", nil, 200},
		{"POST", "/api/v1/sandboxes", "", `{}`, nil, 201},
		{"GET", "/api/v1/sandboxes", "", "", nil, 200},
		{"GET", sb, "", "", nil, 200},
		{"GET", sb + "/readiness", "", "", nil, 200},
		{"POST", sb + "/exec", "", `{"command":"c"}`, nil, 200},
		{"POST", sb + "/files", "", `{"path":"/a","content":""}`, nil, 200},
		{"GET", sb + "/files", "?path=/w", "", nil, 200},
		{"POST", sb + "/files/stat", "", `{"path":"/w/a"}`, nil, 200},
		{"GET", "/api/v1/sandbox-templates", "", "", nil, 200},
		{"GET", "/api/v1/sandbox-templates/{id}", "miosa-sandbox", "", nil, 200},
		{"GET", "/api/v1/sandbox-templates/build-spec", "", "", nil, 200},
		{"POST", "/api/v1/sandbox-templates/validate", "", `{"build_spec":{"from":"debian:bookworm"}}`, nil, 200},
		{"POST", "/api/v1/sandbox-templates", "", `{"name":"App","build_spec":{"from":"debian:bookworm","steps":[{"run":"true"}],"previewPort":80}}`, nil, 201},
		{"GET", "/api/v1/sandbox-templates/{id}", "app", "", nil, 200},
		{"POST", "/api/v1/sandbox-templates/{id}/builds", "app", `{}`, nil, 201},
		{"GET", "/api/v1/sandbox-templates/{id}/builds", "app", "", nil, 200},
		{"POST", "/api/v1/tenants", "", `{"name":"x"}`, asAdmin, 201},
		{"GET", "/api/v1/tenants", "", "", asAdmin, 200},
		{"DELETE", "/api/v1/tenants/{id}", "tenant", "", asAdmin, 200},
		{"POST", "/api/v1/api-keys", "", `{"name":"x"}`, nil, 201},
		{"GET", "/api/v1/api-keys", "", "", nil, 200},
		{"DELETE", "/api/v1/api-keys/{id}", "key", "", nil, 200},
		{"POST", "/api/v1/tokens/scoped", "", `{"scopes":["sandboxes:read"]}`, nil, 201},
		{"POST", "/api/v1/auth/sse-ticket", "", "", nil, 201},
		{"DELETE", sb, "", "", nil, 200},
		{"GET", sb, "", "", nil, 200},
		{"POST", sb + "/exec", "", `{"command":"c"}`, nil, 409},
		{"GET", sb + "/files/{path}", "", "", nil, 409},
	} {
		name, query := id, tt.query
		switch {
		case query == "tenant":
			name, query = tenantID, ""
		case query == "key":
			name, query = keyID, ""
		case !strings.HasPrefix(query, "?") && query != "":
			name, query = query, ""
		}
		url := base + strings.NewReplacer("{id}", name, "{path}", "x").Replace(tt.path) + query
		a := request(t, tt.method, url, tt.body, tt.header...)
		where := tt.method + " " + tt.path
		if a.status != tt.status {
			t.Errorf("%s: %d, want %d: %s", where, a.status, tt.status, a.raw)
			continue
		}
		if err := d.Check(tt.method, tt.path, a.status, a.header, a.raw); err != nil {
			t.Errorf("%s: %v", where, err)
		}
		// The check itself: an answer altered in any one place fails.
		missed, tried, err := d.Unnoticed(tt.method, tt.path, a.status, a.header, a.raw)
		if err != nil || tried == 0 {
			t.Errorf("%s: %d alterations: %v", where, tried, err)
		}
		for _, what := range missed {
			t.Errorf("%s: nobody notices %s", where, what)
		}
		if got, _ := a.body["id"].(string); tt.method == "POST" {
			switch tt.path {
			case "/api/v1/tenants":
				tenantID = got
			case "/api/v1/api-keys":
				keyID = got
			}
		}
	}
	for _, tt := range []struct{ url, schema string }{
		{base + "/api/v1/sandboxes/" + id + "/events", "Event"},
		{base + "/api/v1/sandboxes/" + id + "/readiness/stream", ""},
	} {
		for _, ev := range readSSE(t, stream(t, "GET", tt.url, "").Body, nil) {
			if tt.schema == "" {
				continue
			}
			delete(ev.data, "ready")
			raw, _ := json.Marshal(ev.data)
			if err := d.CheckSchema(tt.schema, raw); err != nil {
				t.Errorf("%s: %v", tt.url, err)
			}
		}
	}
}

// Every field of the Go types that a client sends is in the contract, and is
// read by the server.
func TestRequestsMatchContract(t *testing.T) {
	d := contract(t)
	for name, v := range map[string]any{
		"CreateSandbox": api.CreateSandbox{}, "ExecRequest": api.ExecRequest{}, "FilePath": api.FilePathRequest{},
		"CreateTenant": api.CreateTenant{}, "CreateKey": api.CreateKey{}, "CreateScopedToken": api.CreateScopedToken{},
	} {
		for i := range reflect.TypeOf(v).NumField() {
			tag, _, _ := strings.Cut(reflect.TypeOf(v).Field(i).Tag.Get("json"), ",")
			if _, ok := d.at(d.root, "components", "schemas", name, "properties")[tag]; tag != "-" && !ok {
				t.Errorf("%s.%s is not in the contract", name, tag)
			}
		}
	}
	// A member of the wrong type is refused by name: so it is read.
	_, _, base := serveWorld(t, Config{})
	for name := range d.at(d.root, "components", "schemas", "CreateSandbox", "properties") {
		a := request(t, "POST", base+"/api/v1/sandboxes", `{"`+name+`":[{}]}`)
		if a.status != http.StatusUnprocessableEntity {
			t.Errorf("create does not read %s: %d", name, a.status)
		}
	}
}

// docs/errors.md lists every code of package sandbox, with the status that the
// server gives it where that is fixed.
func TestErrorsAreDocumented(t *testing.T) {
	raw, err := os.ReadFile("../../docs/errors.md")
	if err != nil {
		t.Fatal(err)
	}
	page := string(raw)
	file, err := parser.ParseFile(token.NewFileSet(), "../../sandbox/errors.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok || !strings.HasPrefix(spec.Names[0].Name, "Code") || len(spec.Values) == 0 {
			return true
		}
		found++
		code, _ := strconv.Unquote(spec.Values[0].(*ast.BasicLit).Value)
		row := "| `" + code + "` |"
		if !strings.Contains(page, row) {
			t.Errorf("docs/errors.md has no row for %s", code)
		}
		if status, ok := statusOfCode[code]; ok && !strings.Contains(page, row+" "+strconv.Itoa(status)+" |") {
			t.Errorf("docs/errors.md gives %s another status than %d", code, status)
		}
		return true
	})
	if found < 20 {
		t.Errorf("only %d codes were found", found)
	}
	for kind := range sandbox.Timeout + 1 {
		if statusOfKind[kind] == 0 {
			t.Errorf("kind %d has no status", kind)
		}
	}
}
