package server

import (
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"math"
	"net/http"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

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
	documented := map[string]bool{}
	for path, item := range d.at(d.root, "paths") {
		for method, op := range d.at(item) {
			documented[strings.ToUpper(method)+" "+path] = true
			name := method + " " + path
			if d.at(op)["operationId"] == nil || d.at(op)["summary"] == nil {
				t.Errorf("%s has no operationId or summary", name)
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
		served[rt.method+" "+strings.ReplaceAll(rt.pattern, "*", "{path}")] = true
	}
	for _, name := range slices.Sorted(maps.Keys(served)) {
		if !documented[name] {
			t.Errorf("%s is served but not documented", name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(documented)) {
		if !served[name] {
			t.Errorf("%s is documented but not served", name)
		}
	}
}

// check holds a value against a schema: type, required, enum, properties, items.
// A property the schema does not name is a failure too.
func (d document) check(where string, schema, v any) {
	s := d.at(schema)
	if types, ok := s["type"]; ok {
		list, many := types.([]any)
		if !many {
			list = []any{types}
		}
		if !slices.ContainsFunc(list, func(t any) bool { return hasType(v, t.(string)) }) {
			d.t.Errorf("%s: %v is not %v", where, v, types)
			return
		}
	}
	if enum, ok := s["enum"].([]any); ok && !slices.Contains(enum, v) {
		d.t.Errorf("%s: %v is not one of %v", where, v, enum)
	}
	if s["format"] == "date-time" && v != nil {
		if _, err := time.Parse(time.RFC3339, v.(string)); err != nil {
			d.t.Errorf("%s: %v", where, err)
		}
	}
	switch v := v.(type) {
	case map[string]any:
		required, _ := s["required"].([]any)
		for _, name := range required {
			if _, ok := v[name.(string)]; !ok {
				d.t.Errorf("%s: %s is missing", where, name)
			}
		}
		props, named := s["properties"].(map[string]any)
		for name, member := range v {
			if p, ok := props[name]; ok {
				d.check(where+"."+name, p, member)
			} else if named {
				d.t.Errorf("%s: %s is not in the contract", where, name)
			}
		}
	case []any:
		for i, e := range v {
			d.check(where+"["+strconv.Itoa(i)+"]", s["items"], e)
		}
	}
}

func hasType(v any, name string) bool {
	switch v := v.(type) {
	case nil:
		return name == "null"
	case bool:
		return name == "boolean"
	case string:
		return name == "string"
	case float64:
		return name == "number" || name == "integer" && v == math.Trunc(v)
	case []any:
		return name == "array"
	}
	return name == "object"
}

// What the server answers is what the contract says, field by field.
func TestAnswersMatchContract(t *testing.T) {
	d := contract(t)
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
		{"POST", "/api/v1/tenants", "", `{"name":"x"}`, asAdmin, 201},
		{"GET", "/api/v1/tenants", "", "", asAdmin, 200},
		{"DELETE", "/api/v1/tenants/{id}", "tenant", "", asAdmin, 200},
		{"POST", "/api/v1/api-keys", "", `{"name":"x"}`, nil, 201},
		{"GET", "/api/v1/api-keys", "", "", nil, 200},
		{"DELETE", "/api/v1/api-keys/{id}", "key", "", nil, 200},
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
		status := strconv.Itoa(a.status)
		if a.status >= 400 {
			status = "default"
		}
		schema := d.at(d.root, "paths", tt.path, strings.ToLower(tt.method), "responses", status, "content", "application/json")["schema"]
		if len(d.at(schema)) == 0 {
			t.Errorf("%s: no schema for %s", where, status)
		}
		d.check(where, schema, any(a.body))
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
			if tt.schema != "" {
				delete(ev.data, "ready")
				d.check(tt.schema, d.at(d.root, "components", "schemas", tt.schema), any(ev.data))
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
		"CreateTenant": api.CreateTenant{}, "CreateKey": api.CreateKey{},
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
