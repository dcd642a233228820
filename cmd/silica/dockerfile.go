package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"silica.dev/silica/api"
	"silica.dev/silica/internal/dockerfile"
)

// isDockerfile tells by its name, or by what it begins with, whether a template's
// file is a Dockerfile.
func isDockerfile(path string, text []byte) bool {
	if name := filepath.Base(path); name == "Dockerfile" || strings.HasSuffix(name, ".Dockerfile") {
		return true
	}
	for line := range bytes.Lines(text) {
		line = bytes.TrimSpace(line)
		if len(line) == 0 || line[0] == '#' {
			continue
		}
		first, _, more := bytes.Cut(line, []byte(" "))
		return more && bytes.EqualFold(first, []byte("FROM"))
	}
	return false
}

// readDockerfile reads a template's file that is a Dockerfile. What it copies lies
// beside it.
func readDockerfile(path string, text []byte) (recipe, error) {
	spec, err := dockerfile.Read(bytes.NewReader(text), os.DirFS(filepath.Dir(path)))
	if err != nil {
		return recipe{}, fmt.Errorf("%s: %w", path, err)
	}
	raw, err := json.Marshal(spec)
	if err != nil {
		return recipe{}, err
	}
	r := recipe{spec: map[string]any{}}
	if err := json.Unmarshal(raw, &r.spec); err != nil {
		return recipe{}, err
	}
	for name, value := range r.spec {
		if value == "" { // left to the server's default
			delete(r.spec, name)
		}
	}
	r.request = api.TemplateRequest{Slug: slugOf(path, "Dockerfile"), BuildSpec: r.spec}
	return r, nil
}
