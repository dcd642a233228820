// Package contracttest holds a server to its OpenAPI document, so that no test
// of a route need repeat what the document says about answers.
package contracttest

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"mime"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// object is a JSON object.
type object = map[string]any

// metaSchema is https://spec.openapis.org/oas/3.1/schema/2026-08-03 (Apache-2.0).
//
//go:embed openapi-3.1.json
var metaSchema []byte

// where the documents stand for the compiler of schemas.
const (
	metaURL = "file:///openapi-3.1.json"
	docURL  = "file:///document.json"
)

// Document is a parsed OpenAPI 3.1 document.
type Document struct {
	root object
	ops  []*Operation

	mu       sync.Mutex           // guards what follows
	compiler *jsonschema.Compiler // of root with closed objects
	relaxed  *jsonschema.Compiler // of root with closed objects that require nothing; nil: not made yet
	schemas  map[string]*jsonschema.Schema
}

// Operation is one method of one path.
type Operation struct {
	ID     string
	Method string // upper case
	Path   string // with {names}
	Public bool   // takes no key

	node object
	at   string // JSON pointer of node
}

// Key names an operation in messages.
func (o *Operation) Key() string { return o.Method + " " + o.Path }

// Parse reads a document, in JSON.
func Parse(raw []byte) (*Document, error) {
	d := &Document{schemas: map[string]*jsonschema.Schema{}}
	if err := json.Unmarshal(raw, &d.root); err != nil {
		return nil, fmt.Errorf("the document: %w", err)
	}
	var closed object
	if err := json.Unmarshal(raw, &closed); err != nil {
		return nil, err
	}
	walkSchemas("", closed, closeObject)
	d.compiler = jsonschema.NewCompiler()
	d.compiler.AssertFormat()
	if err := d.compiler.AddResource(docURL, closed); err != nil {
		return nil, fmt.Errorf("the document: %w", err)
	}
	paths, _ := d.root["paths"].(object)
	for _, path := range slices.Sorted(maps.Keys(paths)) {
		item, _ := paths[path].(object)
		for _, method := range slices.Sorted(maps.Keys(item)) {
			node, ok := item[method].(object)
			if !ok || method == "parameters" {
				continue
			}
			op := &Operation{Method: strings.ToUpper(method), Path: path, node: node, at: "/paths/" + escape(path) + "/" + method}
			op.ID, _ = node["operationId"].(string)
			none, said := node["security"].([]any)
			op.Public = said && len(none) == 0
			d.ops = append(d.ops, op)
		}
	}
	return d, nil
}

// Operations returns all of them, by path.
func (d *Document) Operations() []*Operation { return d.ops }

func (d *Document) operation(method, path string) *Operation {
	for _, op := range d.ops {
		if op.Method == method && op.Path == path {
			return op
		}
	}
	return nil
}

// resolve follows references; at is where the node stands in the end.
func (d *Document) resolve(v any, at string) (node object, where string) {
	node, _ = v.(object)
	for range 16 {
		ref, ok := node["$ref"].(string)
		if !ok {
			return node, at
		}
		at = strings.TrimPrefix(ref, "#")
		var next any = d.root
		for part := range strings.SplitSeq(strings.TrimPrefix(at, "/"), "/") {
			m, _ := next.(object)
			next = m[unescape(part)]
		}
		node, _ = next.(object)
	}
	return node, at
}

func escape(s string) string   { return strings.NewReplacer("~", "~0", "/", "~1").Replace(s) }
func unescape(s string) string { return strings.NewReplacer("~1", "/", "~0", "~").Replace(s) }

// Validate holds the document against OpenAPI's own schema, and every schema in
// it against JSON Schema's.
func (d *Document) Validate() error {
	var meta any
	if err := json.Unmarshal(metaSchema, &meta); err != nil {
		return err
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource(metaURL, meta); err != nil {
		return err
	}
	s, err := c.Compile(metaURL)
	if err != nil {
		return err
	}
	if err := s.Validate(any(d.root)); err != nil {
		return err
	}
	var faults []error
	walkSchemas("", d.root, func(at string, s object) {
		if _, err := d.schema(at); err != nil {
			faults = append(faults, err)
		}
		for word := range s {
			if !keywords[word] {
				faults = append(faults, fmt.Errorf("schema %s: %q is no keyword: was there a comma in a text without quotes?", at, word))
			}
		}
	})
	return errors.Join(faults...)
}

// keywords are those of JSON Schema that the document may use. Others are
// mistakes: a schema bears any member.
var keywords = func() map[string]bool {
	set := map[string]bool{}
	for _, word := range strings.Fields(`$ref type properties required description items enum const default examples format title
		minimum maximum exclusiveMinimum exclusiveMaximum multipleOf minLength maxLength pattern minItems maxItems uniqueItems prefixItems
		additionalProperties minProperties maxProperties propertyNames patternProperties oneOf anyOf allOf not
		contentEncoding contentMediaType deprecated readOnly writeOnly`) {
		set[word] = true
	}
	return set
}()

// schema compiles the schema at a JSON pointer.
func (d *Document) schema(at string) (*jsonschema.Schema, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if s := d.schemas[at]; s != nil {
		return s, nil
	}
	s, err := d.compiler.Compile(docURL + "#" + at)
	if err != nil {
		return nil, fmt.Errorf("schema %s: %w", at, err)
	}
	d.schemas[at] = s
	return s, nil
}

// walkSchemas visits every schema below v, a part of a document, itself and its
// members; at is v's JSON pointer.
func walkSchemas(at string, v any, visit func(at string, schema object)) {
	node, ok := v.(object)
	if !ok {
		if list, ok := v.([]any); ok {
			for i, e := range list {
				walkSchemas(at+"/"+strconv.Itoa(i), e, visit)
			}
		}
		return
	}
	for name, member := range node {
		below := at + "/" + escape(name)
		m, isObject := member.(object)
		switch {
		case name == "example" || name == "examples" || name == "default":
		case isObject && name == "schema":
			walkSchema(below, m, visit)
		case isObject && name == "schemas" && at == "/components":
			for title, s := range m {
				if s, ok := s.(object); ok {
					walkSchema(below+"/"+escape(title), s, visit)
				}
			}
		default:
			walkSchemas(below, member, visit)
		}
	}
}

func walkSchema(at string, s object, visit func(at string, schema object)) {
	visit(at, s)
	each := func(name string, v any) {
		if sub, ok := v.(object); ok {
			walkSchema(at+"/"+name, sub, visit)
		}
	}
	if props, ok := s["properties"].(object); ok {
		for name, p := range props {
			each("properties/"+escape(name), p)
		}
	}
	for _, name := range []string{"items", "additionalProperties", "not"} {
		each(name, s[name])
	}
	for _, name := range []string{"allOf", "anyOf", "oneOf"} {
		list, _ := s[name].([]any)
		for i, e := range list {
			each(name+"/"+strconv.Itoa(i), e)
		}
	}
}

// closeObject makes a property nobody named a fault. The document itself stays
// open, so that clients bear properties of later versions.
func closeObject(_ string, s object) {
	if _, named := s["properties"]; !named {
		return
	}
	if _, said := s["additionalProperties"]; !said {
		s["additionalProperties"] = false
	}
}

// answerOf finds what op says about a status; at is its JSON pointer.
func (d *Document) answerOf(op *Operation, status int) (node object, at string, err error) {
	responses, _ := op.node["responses"].(object)
	for _, name := range []string{strconv.Itoa(status), fmt.Sprintf("%dXX", status/100), "default"} {
		v, ok := responses[name]
		if !ok {
			continue
		}
		if name == "default" && status < 400 {
			break // it says how the operation refuses
		}
		node, at := d.resolve(v, op.at+"/responses/"+name)
		return node, at, nil
	}
	return nil, "", fmt.Errorf("status %d is not in the document", status)
}

// Check holds one answer against the document: its status, its kind of content,
// and every member of a JSON body.
func (d *Document) Check(method, path string, status int, header http.Header, body []byte) error {
	op := d.operation(method, path)
	if op == nil {
		return fmt.Errorf("%s %s is not in the document", method, path)
	}
	node, at, err := d.answerOf(op, status)
	if err != nil {
		return err
	}
	content, _ := node["content"].(object)
	if len(content) == 0 {
		if len(body) > 0 {
			return fmt.Errorf("status %d has a body, and the document names none", status)
		}
		return nil
	}
	kind, _, err := mime.ParseMediaType(header.Get("Content-Type"))
	if err != nil {
		return fmt.Errorf("Content-Type %q: %w", header.Get("Content-Type"), err)
	}
	if _, ok := content[kind]; !ok {
		return fmt.Errorf("status %d comes as %s, and the document names %v", status, kind, slices.Sorted(maps.Keys(content)))
	}
	if kind != "application/json" || op.Method == "HEAD" { // the answer to HEAD is headers alone
		return nil
	}
	media, _ := content[kind].(object)
	schema, where := d.resolve(media["schema"], at+"/content/"+escape(kind)+"/schema")
	return d.checkJSON(schema, where, body)
}

// CheckSchema holds a JSON value against a named schema.
func (d *Document) CheckSchema(name string, body []byte) error {
	schema, at := d.resolve(object{"$ref": "#/components/schemas/" + name}, "")
	return d.checkJSON(schema, at, body)
}

func (d *Document) checkJSON(schema object, at string, body []byte) error {
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("body is not JSON: %w", err)
	}
	s, err := d.schema(at)
	if err != nil {
		return err
	}
	if err := s.Validate(v); err != nil {
		return err
	}
	props, _ := schema["properties"].(object)
	return hybrid(props, v)
}

// hybrid checks an answer about one thing: below data stands all once more.
func hybrid(props object, v any) error {
	if !repeated(props["data"]) {
		return nil
	}
	flat, _ := v.(object)
	data, ok := flat["data"].(object)
	if !ok {
		return nil
	}
	rest := maps.Clone(flat)
	delete(rest, "data")
	if !reflect.DeepEqual(rest, data) {
		return fmt.Errorf("what stands below data differs from the top level")
	}
	return nil
}

// repeated tells whether a schema of "data" means "the same once more".
func repeated(schema any) bool {
	s, ok := schema.(object)
	_, named := s["properties"]
	_, open := s["additionalProperties"]
	return ok && s["type"] == "object" && !named && !open
}

// Loose lists what answers may hold that the document does not pin down: schemas
// without a type, objects that name neither properties nor what others may be,
// properties that are neither required nor told to be optional by a description,
// and arrays of anything.
func (d *Document) Loose() []string {
	var found []string
	seen := map[string]bool{}
	var look func(at string, v any, hybridData bool)
	look = func(at string, v any, hybridData bool) {
		s, at := d.resolve(v, at)
		if seen[at] {
			return
		}
		seen[at] = true
		say := func(what string) { found = append(found, at+": "+what) }
		for _, name := range []string{"allOf", "anyOf", "oneOf"} {
			if list, ok := s[name].([]any); ok {
				for i, e := range list {
					look(at+"/"+name+"/"+strconv.Itoa(i), e, hybridData)
				}
				return
			}
		}
		types := typesOf(s)
		if len(types) == 0 {
			say("no type")
			return
		}
		if slices.Contains(types, "array") {
			if s["items"] == nil {
				say("an array of anything")
			} else {
				look(at+"/items", s["items"], false)
			}
		}
		if !slices.Contains(types, "object") || hybridData && repeated(s) {
			return
		}
		props, named := s["properties"].(object)
		more, said := s["additionalProperties"]
		switch {
		case !named && !said && !slices.Contains(types, "array"):
			say("an object of anything: name its properties, or say additionalProperties")
		case named && s["required"] == nil:
			say("no required")
		}
		for name, p := range props {
			look(at+"/properties/"+escape(name), p, name == "data")
		}
		if m, ok := more.(object); ok && len(m) > 0 {
			look(at+"/additionalProperties", m, false)
		}
	}
	for _, op := range d.ops {
		responses, _ := op.node["responses"].(object)
		for status := range responses {
			node, at := d.resolve(responses[status], op.at+"/responses/"+status)
			content, _ := node["content"].(object)
			for kind, media := range content {
				m, _ := media.(object)
				look(at+"/content/"+escape(kind)+"/schema", m["schema"], false)
			}
		}
	}
	slices.Sort(found)
	return found
}

// typesOf lists the types a schema allows.
func typesOf(s object) []string {
	switch t := s["type"].(type) {
	case string:
		return []string{t}
	case []any:
		var types []string
		for _, e := range t {
			if name, ok := e.(string); ok {
				types = append(types, name)
			}
		}
		return types
	}
	return nil
}

// Streams tells whether the operation answers with server-sent events.
func (d *Document) Streams(op *Operation) bool {
	node, _, err := d.answerOf(op, 200)
	content, _ := node["content"].(object)
	return err == nil && content["text/event-stream"] != nil
}
