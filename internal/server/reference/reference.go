// Package reference turns the contract into a page for people, so that nobody has
// to read YAML.
package reference

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"fmt"
	"html/template"
	"maps"
	"slices"
	"strconv"
	"strings"

	"silica.dev/silica/docs"
)

// page turns a reference into HTML. It needs no script and asks for
// nothing outside.
//
//go:embed page.html
var page string

// reference is the contract as people read it.
type reference struct {
	Title, Version string
	About          []string // paragraphs
	Groups         []group
	Errors         []refusal
}

type group struct {
	Name, About string
	Operations  []operation
}

type operation struct {
	ID, Method, Path, Summary, About string
	Scope                            string
	Limits                           []string
	Parameters                       []field
	Bodies                           []body
	Answers                          []answer
}

type body struct {
	Kind     string
	Optional bool
	Type     string // when there are no fields
	Fields   []field
	Example  string
}

type answer struct {
	Status, About string
	Bodies        []body
}

// field is a parameter, or a member of a body. Depth is how far it is in.
type field struct {
	Name, In, Type, About string
	Required              bool
	Depth                 int
}

type refusal struct{ Code, Status, Cause, Cure string }

// Render makes the page from the contract as JSON.
func Render(contract []byte) ([]byte, error) {
	var doc map[string]any
	if err := json.Unmarshal(contract, &doc); err != nil {
		return nil, fmt.Errorf("read the contract: %w", err)
	}
	t, err := template.New("reference").Funcs(template.FuncMap{
		"indent": func(n int) string { return strings.Repeat("\u2003", n) },
		"lower":  strings.ToLower,
	}).Parse(page)
	if err != nil {
		return nil, fmt.Errorf("read the page: %w", err)
	}
	var out bytes.Buffer
	if err := t.Execute(&out, refer(doc)); err != nil {
		return nil, fmt.Errorf("write the page: %w", err)
	}
	return out.Bytes(), nil
}

func refer(doc map[string]any) reference {
	r := referrer{doc}
	info := r.at(doc["info"])
	ref := reference{Title: text(info, "title"), Version: text(info, "version"), Errors: errorRows(docs.Errors)}
	ref.About = strings.Split(strings.TrimSpace(text(info, "description")), "\n\n")
	byTag := map[string][]operation{}
	paths := r.at(doc["paths"])
	for _, path := range slices.Sorted(maps.Keys(paths)) {
		item := r.at(paths[path])
		for _, method := range []string{"get", "head", "post", "put", "patch", "delete"} {
			if op := r.at(item[method]); op != nil {
				tags, _ := op["tags"].([]any)
				tag := "other"
				if len(tags) > 0 {
					tag, _ = tags[0].(string)
				}
				byTag[tag] = append(byTag[tag], r.operation(method, path, op))
			}
		}
	}
	tags, _ := doc["tags"].([]any)
	for _, t := range tags {
		name := text(r.at(t), "name")
		if len(byTag[name]) > 0 {
			ref.Groups = append(ref.Groups, group{name, text(r.at(t), "description"), byTag[name]})
			delete(byTag, name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(byTag)) {
		ref.Groups = append(ref.Groups, group{Name: name, Operations: byTag[name]})
	}
	return ref
}

// referrer reads parts of a document, and follows references.
type referrer struct{ doc map[string]any }

func (r referrer) at(v any) map[string]any {
	m, _ := v.(map[string]any)
	ref, ok := m["$ref"].(string)
	if !ok {
		return m
	}
	var next any = r.doc
	for part := range strings.SplitSeq(strings.TrimPrefix(ref, "#/"), "/") {
		below, _ := next.(map[string]any)
		next = below[part]
	}
	m, _ = next.(map[string]any)
	return m
}

func text(m map[string]any, name string) string {
	s, _ := m[name].(string)
	return s
}

func (r referrer) operation(method, path string, op map[string]any) operation {
	o := operation{
		ID: text(op, "operationId"), Method: strings.ToUpper(method), Path: path, Summary: text(op, "summary"),
		About: text(op, "description"), Scope: text(op, "x-silica-scope"),
	}
	limits, _ := op["x-silica-limit"].([]any)
	for _, l := range limits {
		o.Limits = append(o.Limits, fmt.Sprint(l))
	}
	params, _ := op["parameters"].([]any)
	for _, p := range params {
		p := r.at(p)
		f := r.field(text(p, "name"), p["schema"], p["required"] == true, 0)
		f.In = text(p, "in")
		if about := text(p, "description"); about != "" {
			f.About = about
		}
		o.Parameters = append(o.Parameters, f)
	}
	if body := r.at(op["requestBody"]); body != nil {
		o.Bodies = r.bodies(body, body["required"] != true)
	}
	answers := r.at(op["responses"])
	for _, status := range slices.Sorted(maps.Keys(answers)) {
		if status == "default" {
			continue // the same everywhere: it has its own section
		}
		a := r.at(answers[status])
		o.Answers = append(o.Answers, answer{status, text(a, "description"), r.bodies(a, false)})
	}
	return o
}

func (r referrer) bodies(m map[string]any, optional bool) []body {
	content := r.at(m["content"])
	var list []body
	for _, kind := range slices.Sorted(maps.Keys(content)) {
		media := r.at(content[kind])
		b := body{Kind: kind, Optional: optional, Type: r.typeOf(media["schema"])}
		r.fields(media["schema"], 0, &b.Fields)
		if kind == "application/json" {
			sample := media["example"]
			if sample == nil {
				sample = r.sample(media["schema"], "", 0)
			}
			var out bytes.Buffer
			enc := json.NewEncoder(&out)
			enc.SetEscapeHTML(false)
			enc.SetIndent("", "  ")
			if enc.Encode(sample) == nil {
				b.Example = strings.TrimSpace(out.String())
			}
		}
		list = append(list, b)
	}
	return list
}

// deepest bounds how far in members are listed: schemas may hold themselves.
const deepest = 3

// fields lists the members of an object, those of what is in it behind it.
func (r referrer) fields(schema any, depth int, to *[]field) {
	s := r.at(schema)
	if items := r.at(s["items"]); s["properties"] == nil && items != nil {
		s = items
	}
	props := r.at(s["properties"])
	required, _ := s["required"].([]any)
	// What is required comes first, in the order the contract gives it.
	var names []string
	for _, name := range required {
		names = append(names, fmt.Sprint(name))
	}
	for _, name := range slices.Sorted(maps.Keys(props)) {
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	for _, name := range names {
		p := props[name]
		if p == nil || name == "data" && r.at(p)["properties"] == nil && r.at(p)["items"] == nil {
			continue // the same once more
		}
		*to = append(*to, r.field(name, p, slices.Contains(required, any(name)), depth))
		if depth < deepest {
			r.fields(p, depth+1, to)
		}
	}
}

func (r referrer) field(name string, schema any, required bool, depth int) field {
	s := r.at(schema)
	f := field{Name: name, Type: r.typeOf(schema), About: text(s, "description"), Required: required, Depth: depth}
	note := func(format string, v any) {
		if f.About != "" {
			f.About += ". "
		}
		f.About += fmt.Sprintf(format, v)
	}
	if enum, ok := s["enum"].([]any); ok {
		var words []string
		for _, e := range enum {
			words = append(words, fmt.Sprint(e))
		}
		note("One of %s", strings.Join(words, ", "))
	}
	for _, bound := range []struct{ key, format string }{{"minimum", "At least %v"}, {"maximum", "At most %v"}, {"maxLength", "At most %v characters"}, {"default", "Default %v"}} {
		if v, ok := s[bound.key]; ok {
			if n, ok := v.(float64); ok {
				v = strconv.FormatFloat(n, 'f', -1, 64)
			}
			note(bound.format, v)
		}
	}
	return f
}

func (r referrer) typeOf(schema any) string {
	s := r.at(schema)
	types, many := s["type"].([]any)
	if !many && s["type"] != nil {
		types = []any{s["type"]}
	}
	var names []string
	for _, t := range types {
		name := fmt.Sprint(t)
		if format := text(s, "format"); format != "" && name == "string" {
			name = format
		}
		if text(s, "contentEncoding") != "" && name == "string" {
			name = text(s, "contentEncoding")
		}
		if items := s["items"]; name == "array" && items != nil {
			name = "array of " + r.typeOf(items)
		}
		names = append(names, name)
	}
	for _, name := range []string{"oneOf", "anyOf"} {
		list, _ := s[name].([]any)
		for _, e := range list {
			names = append(names, r.typeOf(e))
		}
	}
	return strings.Join(names, " or ")
}

// samples are values that tell more than their type.
var samples = map[string]any{
	"id": "sbx_01j9xr2t4fk8me3n5q", "sandbox_id": "sbx_01j9xr2t4fk8me3n5q", "command": "python3 -c 'print(1+1)'", "stdout": "2\n", "output": "2\n",
	"stderr": "", "path": "/root/script.py", "exec_id": "exec_01j9xr2t4f", "slug": "brave-otter-1x7", "template_id": "miosa-sandbox", "image_id": "miosa-sandbox",
	"tenant_id": "tnt_abc123", "owner_id": "usr_def456", "state": "running", "status": "running", "exit_code": 0, "total": 1, "ready": true, "success": true,
}

// sample makes an example of what a schema allows: of requests what is required
// and little else, so that one sees what one must send.
func (r referrer) sample(schema any, name string, depth int) any {
	s := r.at(schema)
	for _, key := range []string{"example", "default", "const"} {
		if v, ok := s[key]; ok {
			return v
		}
	}
	if list, ok := s["examples"].([]any); ok && len(list) > 0 {
		return list[0]
	}
	kind := strings.Fields(r.typeOf(schema) + " string")[0]
	if v, ok := samples[name]; ok && s["properties"] == nil && (kind == "string" || kind == "integer" || kind == "boolean") {
		return v
	}
	if enum, ok := s["enum"].([]any); ok && len(enum) > 0 {
		return enum[0]
	}
	switch kind {
	case "object":
		o := map[string]any{}
		required, _ := s["required"].([]any)
		props := r.at(s["properties"])
		for _, n := range required {
			n := fmt.Sprint(n)
			if depth < deepest && !(n == "data" && r.at(props[n])["properties"] == nil && r.at(props[n])["items"] == nil) {
				o[n] = r.sample(props[n], n, depth+1)
			}
		}
		return o
	case "array":
		if depth < deepest {
			return []any{r.sample(s["items"], "", depth+1)}
		}
		return []any{}
	case "integer", "number":
		return 1
	case "boolean":
		return false
	case "date-time":
		return "2026-04-25T10:00:00Z"
	case "uuid":
		return "550e8400-e29b-41d4-a716-446655440000"
	case "base64":
		return "cHJpbnQoMSk="
	case "null":
		return nil
	}
	return "…"
}

// errorRows reads the tables of docs/errors.md: code, status, cause, cure.
func errorRows(text string) []refusal {
	var rows []refusal
	for line := range strings.Lines(text) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), " | ")
		if len(cells) != 4 || !strings.HasPrefix(strings.TrimSpace(cells[0]), "`") {
			continue
		}
		for i := range cells {
			cells[i] = strings.ReplaceAll(strings.TrimSpace(cells[i]), "`", "")
		}
		rows = append(rows, refusal{cells[0], cells[1], cells[2], cells[3]})
	}
	return rows
}
