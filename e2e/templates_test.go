package e2e

import (
	"strings"
	"testing"
	"time"
)

// "A platform builder writes down what an environment needs, Silica builds it
// once, certifies that it starts, and from then on every sandbox of it is a
// restored memory snapshot".
func TestTenantBuildsATemplateAndCreatesFromIt(t *testing.T) {
	t.Parallel()
	s := ownServer(t, options{flags: []string{"--warm-pool=0"}})
	c := s.tenant(t)
	made := c.do(t, "POST", "sandbox-templates", obj{"name": "Small", "build_spec": obj{
		"from": "template:miosa-sandbox", "memoryMib": 512, "env": obj{"KIND": "small"}, "workdir": "/workspace",
		"steps": []obj{{"run": "echo 'jq -n \"$1\"' > /usr/local/bin/calc && chmod +x /usr/local/bin/calc"}},
	}}).want(t, 201, "")
	// "If a custom template exists but is not ready, sandbox creation returns 409
	// TEMPLATE_NOT_READY."
	c.do(t, "POST", "sandboxes", obj{"template_id": "small"}).want(t, 409, "TEMPLATE_NOT_READY")
	build := c.do(t, "POST", "sandbox-templates/"+made.str("id")+"/builds", obj{}).want(t, 201, "").str("id")

	sdk, ctx := c.goClient(t)
	states, last := []string{}, time.Time{}
	for e, err := range sdk.FollowBuild(ctx, build, 0) {
		if err != nil {
			t.Fatalf("the build's log: %v", err)
		}
		if e.Event == e.State {
			states = append(states, e.Event)
		}
		if e.At.Before(last) {
			t.Errorf("%s is older than what came before it", e.Event)
		}
		last = e.At
	}
	if got, want := strings.Join(states, " "), "queued building snapshotting certifying distributing ready"; got != want {
		t.Fatalf("the build went %s, want %s: %s", got, want, c.do(t, "GET", "sandbox-template-builds/"+build, nil).Body)
	}
	sb := c.created(t, obj{"template_id": "small"})
	if sb.str("template_id") != "small" || sb.num("memory_mb") != 512 || sb.str("boot_path") != "snapshot" {
		t.Errorf("created %s", sb.Body)
	}
	if got := strings.TrimSpace(c.sh(t, sb.str("id"), `calc 1+1; echo $KIND; pwd`)); got != "2\nsmall\n/workspace" {
		t.Errorf("inside: %q", got)
	}
	// Another tenant neither sees it nor creates from it.
	other := s.tenant(t)
	other.do(t, "GET", "sandbox-templates/"+made.str("id"), nil).want(t, 404, "not_found")
	other.do(t, "POST", "sandboxes", obj{"template_id": made.str("id")}).want(t, 400, "INVALID_TEMPLATE")

	// "Deleting a template does not terminate running Sandboxes created from it,
	// but no new Sandboxes can be created from the deleted template."
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	s.restart(t)
	c.do(t, "DELETE", "sandbox-templates/small", nil).want(t, 204, "")
	c.do(t, "POST", "sandboxes", obj{"template_id": "small"}).want(t, 400, "INVALID_TEMPLATE")
	if got := strings.TrimSpace(c.sh(t, sb.str("id"), "echo $KIND")); got != "small" {
		t.Errorf("after the template is gone: %q", got)
	}
}

// "Template from a running sandbox … usable within 10 s".
func TestTemplateFromASandbox(t *testing.T) {
	t.Parallel()
	c := shared.tenant(t)
	id := c.create(t, obj{"env": obj{"SECRET": "of the first"}})
	c.sh(t, id, "mkdir -p /workspace && echo kept > /workspace/kept && echo gone > /tmp/gone && rm /etc/debian_version && (sleep 1000 & )")
	began := time.Now()
	made := c.do(t, "POST", "sandboxes/"+id+"/template", obj{"name": "As it was"}).want(t, 201, "")
	c.do(t, "DELETE", "sandboxes/"+id, nil).want(t, 200, "") // it is not needed any more
	eventually(t, 2*time.Minute, "the template is ready", func() bool {
		return c.do(t, "GET", "sandbox-templates/as-it-was", nil).str("status") == "ready"
	})
	t.Logf("usable after %s", time.Since(began).Round(time.Millisecond))
	sb := c.created(t, obj{"template_id": made.str("id")})
	if got := strings.TrimSpace(c.sh(t, sb.str("id"), "cat /workspace/kept; ls /tmp/gone /etc/debian_version 2>/dev/null; pgrep sleep; echo $SECRET")); got != "kept" || sb.str("boot_path") == "cold" {
		t.Errorf("a sandbox of it has %q, boot path %s", got, sb.str("boot_path"))
	}
	c.do(t, "DELETE", "sandbox-templates/as-it-was", nil).want(t, 204, "")
}

// "Create … from an official one not built yet → 201 provisioning: the build
// starts", and of what is warm the page is there at once. This recipe needs no
// network.
func TestOfficialTemplateIsBuiltByItsFirstUse(t *testing.T) {
	t.Parallel()
	s := ownServer(t, options{flags: []string{"--rate-limit=0", "--warm-pool=0", "--create-wait=1ms"}})
	c := s.tenant(t)
	if got := c.do(t, "GET", "sandbox-templates/static-html", nil).want(t, 200, "").str("status"); got != "draft" {
		t.Errorf("before its first use it is %s, want draft", got)
	}
	first := c.do(t, "POST", "sandboxes", obj{"template_id": "static-html"}).want(t, 201, "")
	if got := first.str("state"); got != "provisioning" {
		t.Errorf("the first sandbox is %s, want provisioning", got)
	}
	eventually(t, 2*time.Minute, "the first sandbox runs", func() bool {
		return c.do(t, "GET", "sandboxes/"+first.str("id"), nil).str("state") == "running"
	})
	// The name it has elsewhere, and the page with nothing started by hand.
	second := c.created(t, obj{"template_id": "static"})
	for _, id := range []string{first.str("id"), second.str("id")} {
		if got := c.sh(t, id, "curl -fsS http://127.0.0.1:8000/"); !strings.Contains(got, "<h1>It works</h1>") {
			t.Errorf("its page: %q", got)
		}
	}
}
