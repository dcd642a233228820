package contracttest

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
)

const small = `{
  "openapi": "3.1.0", "info": {"title": "x", "version": "1"},
  "paths": {"/things/{id}": {"post": {
    "operationId": "make",
    "parameters": [{"name": "id", "in": "path", "required": true, "schema": {"type": "string"}}],
    "requestBody": {"content": {"application/json": {"schema": {"type": "object", "properties": {"n": {"type": "integer"}}}}}},
    "responses": {
      "200": {"description": "made", "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Thing"}}}},
      "default": {"description": "refused", "content": {"application/json": {"schema": {"type": "object", "required": ["code", "message"], "properties": {"code": {"type": "string"}, "message": {"type": "string"}}}}}}
    }
  }}},
  "components": {"schemas": {"Thing": {"type": "object", "required": ["id", "data"], "properties": {"id": {"type": "string"}, "at": {"type": "string", "format": "date-time"}, "data": {"type": "object"}}}}}
}`

func parse(t *testing.T) *Document {
	t.Helper()
	d, err := Parse([]byte(small))
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Validate(); err != nil {
		t.Fatal(err)
	}
	return d
}

// findings collects what would fail a test.
type findings struct {
	testing.TB
	mu   sync.Mutex
	text strings.Builder
}

func (f *findings) Errorf(format string, args ...any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	fmt.Fprintf(&f.text, format+"\n", args...)
}

func (f *findings) Logf(string, ...any) {}

// A server that breaks its contract in one way is found out; one that keeps it
// is left in peace.
func TestFuzzFindsBrokenServers(t *testing.T) {
	refuse := func(w http.ResponseWriter, status int, message string) {
		w.Header().Set("X-Request-Id", "r")
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_, _ = fmt.Fprintf(w, `{"code":"X","message":%q}`, message)
	}
	answer := func(w http.ResponseWriter, body string) {
		w.Header().Set("X-Request-Id", "r")
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, body)
	}
	const good = `{"id":"a","at":"2026-01-01T00:00:00Z","data":{"id":"a","at":"2026-01-01T00:00:00Z"}}`
	for name, tt := range map[string]struct {
		serve func(w http.ResponseWriter, r *http.Request)
		want  string // empty: no finding
	}{
		"keeps it":       {func(w http.ResponseWriter, _ *http.Request) { answer(w, good) }, ""},
		"lacks a member": {func(w http.ResponseWriter, _ *http.Request) { answer(w, `{"data":{}}`) }, "missing property 'id'"},
		"unknown member": {func(w http.ResponseWriter, _ *http.Request) { answer(w, `{"id":"a","x":1,"data":{"id":"a","x":1}}`) }, "'x' not allowed"},
		"another type":   {func(w http.ResponseWriter, _ *http.Request) { answer(w, `{"id":1,"data":{"id":1}}`) }, "got number, want string"},
		"no date": {func(w http.ResponseWriter, _ *http.Request) {
			answer(w, `{"id":"a","at":"now","data":{"id":"a","at":"now"}}`)
		}, "date-time"},
		"not twice":      {func(w http.ResponseWriter, _ *http.Request) { answer(w, `{"id":"a","data":{"id":"b"}}`) }, "differs from the top level"},
		"another status": {func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("X-Request-Id", "r"); w.WriteHeader(204) }, "status 204 is not in the document"},
		"a 5xx":          {func(w http.ResponseWriter, _ *http.Request) { refuse(w, 500, "sorry") }, "a server error"},
		"internals": {func(w http.ResponseWriter, _ *http.Request) {
			refuse(w, 400, "open /x: store.go:12: UNIQUE constraint failed")
		}, "internals"},
		"no request id": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			_, _ = io.WriteString(w, good)
		}, "no x-request-id"},
		"hangs up":          {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, "no answer"},
		"lets everybody in": {func(w http.ResponseWriter, _ *http.Request) { answer(w, good) }, "must be refused with 401"},
		"tells ids apart": {func(w http.ResponseWriter, r *http.Request) {
			status := 404
			if strings.Contains(r.URL.Path, "mine") {
				status = 403
			}
			refuse(w, status, "no")
		}, "tells another tenant's id from none"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if key := r.Header.Get("Authorization"); name != "lets everybody in" && key != "Bearer k" && key != "Bearer o" {
					refuse(w, 401, "who")
				} else if key == "Bearer o" && name != "tells ids apart" {
					refuse(w, 404, "no")
				} else {
					tt.serve(w, r)
				}
			}))
			defer srv.Close()
			srv.Config.ErrorLog = nil
			f := &findings{TB: t}
			Fuzz(f, parse(t), Target{Base: srv.URL, Key: "k", Other: "o", Subject: func(*Operation) map[string]string { return map[string]string{"id": "mine"} }})
			got := f.text.String()
			if tt.want == "" && got != "" || !strings.Contains(got, tt.want) {
				t.Errorf("found %.2000s\nwant %q", got, tt.want)
			}
		})
	}
}
