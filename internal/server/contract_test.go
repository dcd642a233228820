package server

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"silica.dev/silica/docs"
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
		Base: base, Key: keyA, Other: keyB, Admin: keyAdmin, Rounds: 10, Most: 80,
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

// The page shows every operation with its scope and limit, every error code, and
// nothing that a browser would have to fetch or run.
func TestReferencePage(t *testing.T) {
	_, _, base := serveWorld(t, Config{})
	a := request(t, "GET", base+"/docs", "", "Authorization", "")
	page := string(a.raw)
	if a.status != 200 || !strings.HasPrefix(a.header.Get("Content-Type"), "text/html") {
		t.Fatalf("%d %s", a.status, a.header)
	}
	for _, op := range published(t).Operations() {
		_, article, ok := strings.Cut(page, `<article id="`+op.ID+`">`)
		article, _, _ = strings.Cut(article, "</article>")
		if !ok || !strings.Contains(article, op.Path) || !strings.Contains(article, "scope ") || strings.Count(article, `class="chip"`) < 2 {
			t.Errorf("%s is not shown, or without scope and limit: %.300s", op.Key(), article)
		}
	}
	for _, code := range regexp.MustCompile("(?m)^\\| `([A-Za-z_]+)` ").FindAllStringSubmatch(docs.Errors, -1) {
		if !strings.Contains(page, "<code>"+code[1]+"</code>") {
			t.Errorf("%s is not shown", code[1])
		}
	}
	for _, word := range []string{"<script", "http://", "https://", "src=", "@import", "url(", "ZgotmplZ"} {
		if i := strings.Index(page, word); i >= 0 {
			t.Errorf("the page holds %q: %.200s", word, page[i:])
		}
	}
}
