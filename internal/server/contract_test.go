package server

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"silica.dev/silica/internal/contracttest"
)

// published is the contract as the server publishes it.
func published(t *testing.T) *contracttest.Document {
	t.Helper()
	raw, err := openAPIJSON((&Server{}).routes())
	if err != nil {
		t.Fatal(err)
	}
	d, err := contracttest.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// The document is an OpenAPI 3.1 document, and pins every answer down.
func TestContractIsSound(t *testing.T) {
	d := published(t)
	if err := d.Validate(); err != nil {
		t.Error(err)
	}
	for _, what := range d.Loose() {
		t.Error(what)
	}
}

// Whatever is sent to any route, the answer is one that the document names.
func TestEveryRouteBearsEverything(t *testing.T) {
	_, _, base := serveWorld(t, Config{MaxInFlight: 1000, MaxStreams: 1000})
	contracttest.Fuzz(t, published(t), contracttest.Target{
		Base: base, Key: keyA, Other: keyB, Admin: keyAdmin, Rounds: 30,
		Subject: func(op *contracttest.Operation) map[string]string {
			if !strings.HasPrefix(op.Path, "/api/v1/sandboxes/{id}") && !strings.HasPrefix(op.Path, "/api/v1/computers/{id}") {
				return nil
			}
			return map[string]string{"id": create(t, base, `{}`)}
		},
	})
}

// Clients were written after these. They find every member in our answers.
func TestContractHoldsExamples(t *testing.T) {
	d := published(t)
	files, err := filepath.Glob("testdata/contract/*.json")
	if err != nil || len(files) == 0 {
		t.Fatal("no examples", err)
	}
	for _, file := range files {
		raw, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var e contracttest.Example
		if err := json.Unmarshal(raw, &e); err != nil || e.Source == "" {
			t.Errorf("%s: source %q: %v", file, e.Source, err)
		} else if err := d.CheckExample(e); err != nil {
			t.Errorf("%s (%s): %v", file, e.Source, err)
		}
	}
}
