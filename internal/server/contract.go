package server

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"net/http"
	"sync"

	"go.yaml.in/yaml/v3"

	"silica.dev/silica/api"
	"silica.dev/silica/sandbox"
)

// openAPIJSON joins the embedded parts of the contract and turns them into
// JSON, once.
var openAPIJSON = sync.OnceValues(func() ([]byte, error) {
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
	return json.Marshal(doc)
})

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
	raw, err := openAPIJSON()
	if err != nil {
		return err
	}
	writeRaw(w, http.StatusOK, raw)
	return nil
}
