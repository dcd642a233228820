package e2e

import (
	"strings"
	"testing"
	"time"

	"silica.dev/silica/internal/contracttest"
)

// Whatever is sent to any route of a real server with a real sandbox, the answer
// is one that its own document names, and the server stands.
func TestEveryRouteBearsEverything(t *testing.T) {
	s := ownServer(t, options{flags: []string{"--rate-limit=0", "--max-sandboxes=6"}})
	c, other := s.tenant(t), s.tenant(t)
	doc, err := contracttest.Parse(s.as("").do(t, "GET", "/openapi.json", nil).want(t, 200, "").Body)
	if err != nil {
		t.Fatal(err)
	}
	id := ""
	over := func() bool { return id == "" || c.do(t, "GET", "sandboxes/"+id, nil).str("state") != "running" }
	contracttest.Fuzz(t, doc, contracttest.Target{
		Base: s.url, Key: c.key, Other: other.key, Admin: bootstrapKey, Rounds: 5, Most: 30, Patience: time.Minute, Over: over,
		Subject: func(op *contracttest.Operation) map[string]string {
			if !strings.Contains(op.Path, "/sandboxes/{id}") && !strings.Contains(op.Path, "/computers/{id}") {
				return nil
			}
			if over() {
				for _, sb := range c.do(t, "GET", "sandboxes", nil).list() {
					c.do(t, "DELETE", "sandboxes/"+sb["id"].(string), nil).want(t, 200, "")
				}
				id = c.do(t, "POST", "sandboxes", obj{"timeout_sec": 3600}).want(t, 201, "").str("id")
			}
			return map[string]string{"id": id}
		},
		// It would take no sandboxes any more.
		Skip: func(op *contracttest.Operation) bool { return op.ID == "drain" },
	})
	s.as("").do(t, "GET", "/healthz", nil).want(t, 200, "")
	for line := range strings.Lines(s.log.since(0)) {
		if strings.Contains(line, "msg=panic") {
			t.Errorf("the server's log: %s", line)
		}
	}
}
