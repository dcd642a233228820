package e2e

import (
	"testing"
	"time"
)

// "hard timeout (`timeout_sec`, default 300 from `started_at`, with a configurable
// maximum)": when it is over, the sandbox is destroyed, and its events say so.
func TestTimeoutDestroys(t *testing.T) {
	t.Parallel()
	c := shared.tenant(t)
	a := c.created(t, obj{"timeout_sec": 2})
	id := a.str("id")
	if ms := a.num("timeout_remaining_ms"); ms <= 0 || ms > 2000 {
		t.Errorf("timeout_remaining_ms: got %v", ms)
	}
	stays := c.create(t, obj{"timeout_sec": 300})
	s := c.open(t, "GET", "sandboxes/"+id+"/events", nil)
	s.until(t, 10*time.Second, "destroyed", state("destroyed"))
	s.ends(t, 5*time.Second)
	got := c.do(t, "GET", "sandboxes/"+id, nil).want(t, 200, "")
	if got.str("state") != "destroyed" || got.num("total_runtime_sec") < 1 || got.num("total_runtime_sec") > 4 {
		t.Errorf("after its time: got %s", got)
	}
	if reason, _ := got.at("state_reason").(string); reason == "" {
		t.Errorf("state_reason does not say why: %s", got)
	}
	if got := c.sh(t, stays, "echo here"); got != "here" {
		t.Errorf("another one: got %q", got)
	}
}

// The same while a command runs: its client hears of it.
func TestTimeoutEndsRunningCommands(t *testing.T) {
	t.Parallel()
	c := shared.tenant(t)
	id := c.create(t, obj{"timeout_sec": 2})
	start := time.Now()
	a := c.exec(t, id, "sleep 60", obj{"timeout": 60})
	if a.Status != 409 {
		t.Errorf("a command whose sandbox ended: got %s, want 409", a)
	}
	if d := time.Since(start); d > 10*time.Second {
		t.Errorf("answered after %s", d)
	}
}

// "with a configurable maximum".
func TestTimeoutMaximum(t *testing.T) {
	t.Parallel()
	s := ownServer(t, options{flags: []string{"--max-timeout=10m", "--warm-pool=0", "--empty-slots=0"}})
	c := s.tenant(t)
	if a := c.do(t, "POST", "sandboxes", obj{"timeout_sec": 601}).want(t, 422, "VALIDATION_ERROR"); a.str("error.details.field") != "timeout_sec" {
		t.Errorf("got %s", a)
	}
	c.do(t, "POST", "sandboxes", obj{"timeout_sec": 600}).want(t, 201, "")
}
