package contracttest

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// Example is an answer, or an event, as somebody else's documentation prints it.
type Example struct {
	Source string // where it stands
	Method string
	Path   string
	Status int
	Schema string // instead of the three above: the name of a schema
	Body   json.RawMessage
}

// CheckExample tells whether clients written after an example find all of it in
// our answers: every member has a place in the document, of its type. Examples
// leave members out, so nothing is required of them; and what they print below
// "data" alone may stand at the top level here.
func (d *Document) CheckExample(e Example) error {
	var schema object
	at := ""
	if e.Schema != "" {
		schema, at = d.resolve(object{"$ref": "#/components/schemas/" + e.Schema}, "")
	} else {
		op := d.operation(e.Method, e.Path)
		if op == nil {
			return fmt.Errorf("%s %s is not in the document", e.Method, e.Path)
		}
		node, where, err := d.answerOf(op, e.Status)
		if err != nil {
			return err
		}
		content, _ := node["content"].(object)
		media, _ := content["application/json"].(object)
		schema, at = d.resolve(media["schema"], where+"/content/application~1json/schema")
	}
	var body any
	if err := json.Unmarshal(e.Body, &body); err != nil {
		return err
	}
	props, _ := schema["properties"].(object)
	if o, ok := body.(object); ok && repeated(props["data"]) && o["data"] != nil {
		body = o["data"]
	}
	if d.relaxed == nil {
		raw, err := json.Marshal(d.root)
		if err != nil {
			return err
		}
		var doc object
		if err := json.Unmarshal(raw, &doc); err != nil {
			return err
		}
		walkSchemas("", doc, func(at string, s object) { closeObject(at, s); delete(s, "required") })
		d.relaxed = jsonschema.NewCompiler()
		d.relaxed.AssertFormat()
		if err := d.relaxed.AddResource(docURL, doc); err != nil {
			return err
		}
	}
	s, err := d.relaxed.Compile(docURL + "#" + at)
	if err != nil {
		return err
	}
	return s.Validate(body)
}

// Unnoticed alters a real JSON answer in one place at a time: a required member
// is left out, one gets another type, one that nobody named comes in. It returns
// the alterations that Check lets pass, and how many were tried.
func (d *Document) Unnoticed(method, path string, status int, header http.Header, body []byte) (missed []string, tried int, err error) {
	op := d.operation(method, path)
	node, at, err := d.answerOf(op, status)
	if err != nil {
		return nil, 0, err
	}
	content, _ := node["content"].(object)
	media, _ := content["application/json"].(object)
	schema, _ := d.resolve(media["schema"], at)
	var root object
	if err := json.Unmarshal(body, &root); err != nil {
		return nil, 0, err
	}
	check := func(what string) {
		tried++
		whole := maps.Clone(root)
		props, _ := schema["properties"].(object)
		if repeated(props["data"]) && whole["data"] != nil {
			delete(whole, "data")
			whole["data"] = maps.Clone(whole)
		}
		raw, _ := json.Marshal(whole) // it was read from JSON
		if d.Check(method, path, status, header, raw) == nil {
			missed = append(missed, what)
		}
	}
	d.alter("", schema, root, check)
	return missed, tried, nil
}

// alter makes each alteration below v, calls check, and takes it back.
func (d *Document) alter(where string, schema object, v object, check func(string)) {
	props, named := schema["properties"].(object)
	if !named {
		return
	}
	required, _ := schema["required"].([]any)
	v["nobody_named_me"] = 1
	check(where + ": a member nobody named")
	delete(v, "nobody_named_me")
	for _, name := range slices.Sorted(maps.Keys(v)) {
		if name == "data" && repeated(props[name]) {
			continue
		}
		was := v[name]
		if slices.Contains(required, any(name)) {
			delete(v, name)
			check(where + "." + name + " left out")
		}
		v[name] = []any{object{"of": "another type"}}
		if types := typesOf(d.shape(props[name])); !slices.Contains(types, "array") {
			check(where + "." + name + " of another type")
		}
		v[name] = was
		below := d.shape(props[name])
		switch m := was.(type) {
		case object:
			d.alter(where+"."+name, below, m, check)
		case []any:
			if len(m) > 0 {
				if first, ok := m[0].(object); ok {
					d.alter(where+"."+name+"["+strconv.Itoa(0)+"]", d.shape(below["items"]), first, check)
				}
			}
		}
	}
}

func (d *Document) shape(v any) object {
	s, _ := d.resolve(v, "")
	return s
}
