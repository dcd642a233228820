package server

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/http"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"silica.dev/silica/api"
	"silica.dev/silica/sandbox"
)

// openAPIJSON joins the embedded parts of the contract, adds what follows from
// the routes, and turns it into JSON.
func openAPIJSON(routes []route) ([]byte, error) {
	doc := map[string]any{}
	parts, err := fs.Glob(api.OpenAPI, "openapi/*.yaml")
	if err != nil {
		return nil, fmt.Errorf("list the contract's parts: %w", err)
	}
	for _, name := range parts {
		raw, err := fs.ReadFile(api.OpenAPI, name)
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", name, err)
		}
		var part map[string]any
		if err := yaml.Unmarshal(raw, &part); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		if err := join(doc, part); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	if err := alsoComputers(doc, routes); err != nil {
		return nil, err
	}
	declare(doc, routes)
	return json.Marshal(doc)
}

// alsoComputers describes every route below /computers/{id} that the contract's
// parts do not, as its twin below /sandboxes/{id}, whose handler it has.
func alsoComputers(doc map[string]any, routes []route) error {
	paths, ok := doc["paths"].(map[string]any)
	if !ok {
		return errors.New("the contract has no paths")
	}
	for _, rt := range routes {
		rest, ok := strings.CutPrefix(documented(rt.pattern), computer+"/")
		if !ok {
			continue
		}
		method := strings.ToLower(rt.method)
		item, _ := paths[computer+"/"+rest].(map[string]any)
		if item[method] != nil {
			continue
		}
		twins, _ := paths[sbx+"/"+rest].(map[string]any)
		twin, _ := twins[method].(map[string]any)
		if twin == nil {
			continue // the test that compares routes and contract says so
		}
		if item == nil {
			item = map[string]any{}
			paths[computer+"/"+rest] = item
		}
		op := maps.Clone(twin)
		op["operationId"] = fmt.Sprintf("%v_computer", twin["operationId"])
		op["tags"] = []any{"computers"}
		item[method] = op
	}
	return nil
}

// declare says at every operation what the route table asks of a key and what a
// request counts as.
func declare(doc map[string]any, table []route) {
	paths, _ := doc["paths"].(map[string]any)
	for _, rt := range table {
		item, _ := paths[documented(rt.pattern)].(map[string]any)
		op, ok := item[strings.ToLower(rt.method)].(map[string]any)
		if !ok {
			continue // a test tells
		}
		op["x-silica-scope"] = cmp.Or(string(rt.scope), "public")
		op["x-silica-limit"] = rt.limit.names()
	}
}

// documented is how a route's pattern is written in the document.
func documented(pattern string) string { return strings.ReplaceAll(pattern, "*", "{path}") }

// join adds the members of part to doc, object by object. Anything else may be
// said in one part only.
func join(doc, part map[string]any) error {
	for name, v := range part {
		have, twice := doc[name]
		if !twice {
			doc[name] = v
			continue
		}
		a, ok := have.(map[string]any)
		b, both := v.(map[string]any)
		if !ok || !both {
			return fmt.Errorf("%s is said twice", name)
		}
		if err := join(a, b); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

func (s *Server) openAPI(w http.ResponseWriter, _ *http.Request, _ sandbox.Caller) error {
	raw, err := s.contract()
	if err != nil {
		return err
	}
	writeRaw(w, http.StatusOK, raw)
	return nil
}

// docs answers with the page. It is made once.
func (s *Server) docs(w http.ResponseWriter, _ *http.Request, _ sandbox.Caller) error {
	page, err := s.page()
	if err != nil {
		return err
	}
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'")
	h.Set("Cache-Control", "max-age=300")
	h.Set("Content-Length", strconv.Itoa(len(page)))
	bound(w, int64(len(page)))
	_, _ = w.Write(page) // a client that has left is no error of ours
	return nil
}
