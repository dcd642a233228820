package e2e

import (
	"slices"
	"strings"
	"testing"
	"time"
)

// "events (SSE with `Last-Event-ID`: on connect the current state as
// `state_changed`, then `state_changed`, `exec_output {exec_id, stream, data}`
// live and bounded, `error`; closes after `destroyed` or `error`)".
func TestEvents(t *testing.T) {
	t.Parallel()
	c := shared.tenant(t)
	id := c.create(t, nil)
	s := c.open(t, "GET", "sandboxes/"+id+"/events", "null") // a public client sends a body with GET
	first := s.next(t, 5*time.Second)
	if !state("running")(first) || first.JSON()["timestamp"] == nil {
		t.Errorf("on connect: got %+v, want the current state", first)
	}
	exec := c.exec(t, id, "echo seen; echo also >&2")
	for _, want := range []struct{ stream, data string }{{"stdout", "seen\n"}, {"stderr", "also\n"}} {
		f := s.until(t, 10*time.Second, want.stream, func(f frame) bool { return f.Event == "exec_output" && f.JSON()["stream"] == want.stream })
		if o := f.JSON(); o["data"] != want.data || o["exec_id"] != exec.str("exec_id") || o["exec_id"] == "" {
			t.Errorf("exec_output: got %v, want %q of %s", o, want.data, exec.str("exec_id"))
		}
	}
	c.do(t, "DELETE", "sandboxes/"+id, nil).want(t, 200, "")
	last := s.until(t, 10*time.Second, "destroyed", state("destroyed"))
	if last.JSON()["previous_state"] != "running" {
		t.Errorf("destroyed: got %v", last.JSON())
	}
	s.ends(t, 5*time.Second)

	// A late reader of a destroyed one: its state, then the end.
	late := c.open(t, "GET", "sandboxes/"+id+"/events", nil)
	if f := late.next(t, 5*time.Second); !state("destroyed")(f) {
		t.Errorf("on connect: got %+v, want destroyed", f)
	}
	late.ends(t, 5*time.Second)
}

// "SSE with `Last-Event-ID`": a reader that comes back misses nothing.
func TestEventsAreReplayed(t *testing.T) {
	t.Parallel()
	c := shared.tenant(t)
	id := c.create(t, nil)
	s := c.open(t, "GET", "sandboxes/"+id+"/events", nil, header{"Last-Event-ID", "0"})
	f := s.until(t, 5*time.Second, "running", state("running"))
	if f.ID == "" {
		t.Fatalf("a stored event has no id: %+v", f)
	}
	s.cancel()
	// While nobody listens:
	c.do(t, "DELETE", "sandboxes/"+id, nil).want(t, 200, "")
	back := c.open(t, "GET", "sandboxes/"+id+"/events", nil, header{"Last-Event-ID", f.ID})
	got := back.until(t, 5*time.Second, "destroyed", state("destroyed"))
	if got.JSON()["previous_state"] != "running" || got.ID == "" || got.ID == f.ID {
		t.Errorf("replayed: got %+v", got)
	}
	back.ends(t, 5*time.Second)
	// From the very beginning.
	all := c.open(t, "GET", "sandboxes/"+id+"/events", nil, header{"Last-Event-ID", "0"})
	var states []string
	for {
		f, ok := all.within(5 * time.Second)
		if !ok {
			break
		}
		if f.Event == "state_changed" {
			v, _ := f.JSON()["state"].(string)
			states = append(states, v)
			if !slices.Contains([]string{"provisioning", "running", "paused", "destroyed", "error"}, v) {
				t.Errorf("a state that is none of the wire's: %q", v)
			}
		}
	}
	if got := strings.Join(states, " "); !strings.HasSuffix(got, "running destroyed") {
		t.Errorf("replayed from 0: got states %q", got)
	}
}

// "readiness (`GET`, and the SSE stream with `ready`, or `timeout` after 60 s or
// `?timeout=`)"; a sandbox that is ready says so at once.
func TestReadiness(t *testing.T) {
	t.Parallel()
	c := shared.tenant(t)
	id := c.create(t, nil)
	a := c.do(t, "GET", "sandboxes/"+id+"/readiness", nil).want(t, 200, "")
	if a.at("ready") != true || a.str("status") != "ready" || a.at("data.ready") != true {
		t.Errorf("readiness: got %s", a)
	}
	s := c.open(t, "GET", "sandboxes/"+id+"/readiness/stream", "null")
	f := s.next(t, 5*time.Second)
	if f.Event != "ready" || f.JSON()["ready"] != true {
		t.Errorf("stream: got %+v, want ready", f)
	}
	s.ends(t, 5*time.Second)

	c.do(t, "DELETE", "sandboxes/"+id, nil).want(t, 200, "")
	a = c.do(t, "GET", "sandboxes/"+id+"/readiness", nil).want(t, 200, "")
	if a.at("ready") != false || a.str("status") != "destroyed" {
		t.Errorf("readiness of a destroyed one: got %s", a)
	}
	gone := c.open(t, "GET", "sandboxes/"+id+"/readiness/stream?timeout=1", nil)
	for {
		f, ok := gone.within(5 * time.Second)
		if !ok {
			break
		}
		if f.Event == "ready" {
			t.Errorf("a destroyed sandbox is announced as ready: %+v", f)
		}
	}
	for _, bad := range []string{"-1", "x"} {
		c.do(t, "GET", "sandboxes/"+id+"/readiness/stream?timeout="+bad, nil).want(t, 422, "VALIDATION_ERROR")
	}
}

// "exec or files on a sandbox that isn't running → 409 `SANDBOX_NOT_RUNNING`";
// "`timeout` after 60 s or `?timeout=`". A server that restores one sandbox at
// a time, asked for many, has some that are still provisioning.
func TestProvisioningSandbox(t *testing.T) {
	t.Parallel()
	s := ownServer(t, options{flags: []string{"--warm-pool=0", "--empty-slots=0", "--create-wait=1ms", "--max-sandboxes=20"}})
	c := s.tenant(t)
	var ids []string
	waiting := ""
	for range 10 {
		a := c.do(t, "POST", "sandboxes", obj{}).want(t, 201, "")
		ids = append(ids, a.str("id"))
		if a.str("state") == "provisioning" {
			waiting = a.str("id")
			if a.at("ready") != false || a.at("boot_path") != nil || a.at("boot_ms") != nil || a.at("started_at") != nil {
				t.Errorf("provisioning: got %s", a)
			}
		}
	}
	if waiting == "" {
		t.Fatal("--create-wait=1ms: no create answered provisioning")
	}
	ex := c.exec(t, waiting, "true")
	stream := c.open(t, "GET", "sandboxes/"+waiting+"/readiness/stream?timeout=30", nil)
	if ex.Status != 200 && (ex.Status != 409 || ex.str("error.code") != "SANDBOX_NOT_RUNNING") {
		t.Errorf("exec while provisioning: got %s, want 409 SANDBOX_NOT_RUNNING (or 200 when it was ready by then)", ex)
	}
	if f := stream.next(t, 31*time.Second); f.Event != "ready" {
		t.Errorf("readiness: got %+v, want ready", f)
	}
	for _, id := range ids {
		eventually(t, 30*time.Second, id+" runs", func() bool { return c.do(t, "GET", "sandboxes/"+id, nil).str("state") == "running" })
	}
}
