package server

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"silica.dev/silica/internal/event"
	"silica.dev/silica/sandbox"
)

// "on connect the current state as state_changed, then state_changed …; closes
// after destroyed or error".
func TestEventsFollowALife(t *testing.T) {
	w, _, base := serveWorld(t, Config{})
	id := create(t, base, `{}`)
	res := stream(t, "GET", base+"/api/v1/sandboxes/"+id+"/events", "")
	w.awaitFollower()
	w.move(id, sandbox.Paused)
	w.move(id, sandbox.Running)
	w.Publish(event.Event{Sandbox: sandbox.ID(id), Type: event.ExecOutput, At: time.Now(),
		Data: map[string]any{"exec_id": "exec_1", "stream": "stdout", "data": strings.Repeat("\x01", 40<<10)}})
	var states, output string
	events := readSSE(t, res.Body, func(ev sseEvent) bool {
		switch ev.name {
		case "state_changed":
			states += fmt.Sprint(ev.data["previous_state"], ">", ev.data["state"], " ")
		case "exec_output":
			if output += ev.data["data"].(string); len(output) == 40<<10 {
				w.move(id, sandbox.Destroyed)
			}
		}
		return false
	})
	if want := "<nil>>running running>paused provisioning>running running>destroyed "; states != want {
		t.Errorf("states %q, want %q", states, want)
	}
	if output != strings.Repeat("\x01", 40<<10) {
		t.Errorf("%d bytes of output", len(output))
	}
	if events[0].id != "" || events[1].id == "" {
		t.Errorf("ids: %q %q", events[0].id, events[1].id)
	}
	// With Last-Event-ID it goes on from there, and ends by itself.
	again := readSSE(t, stream(t, "GET", base+"/api/v1/sandboxes/"+id+"/events", "", "Last-Event-ID", events[1].id).Body, nil)
	if len(again) != 2 || again[0].data["state"] != "running" || again[1].data["state"] != "destroyed" {
		t.Errorf("resumed: %v", again)
	}
	last := again[1].id
	if rest := readSSE(t, stream(t, "GET", base+"/api/v1/sandboxes/"+id+"/events", "", "Last-Event-ID", last).Body, nil); len(rest) != 0 {
		t.Errorf("after the end: %v", rest)
	}
	if only := readSSE(t, stream(t, "GET", base+"/api/v1/sandboxes/"+id+"/events", "").Body, nil); len(only) != 1 || only[0].data["state"] != "destroyed" {
		t.Errorf("a destroyed one: %v", only)
	}
	request(t, "GET", base+"/api/v1/sandboxes/"+id+"/events", "", "Last-Event-ID", "x").want(t, 422, "VALIDATION_ERROR")
}

// The stream of a sandbox that fails says why, then ends.
func TestEventsOfAFailure(t *testing.T) {
	w, _, base := serveWorld(t, Config{})
	id := create(t, base, `{}`)
	res := stream(t, "GET", base+"/api/v1/sandboxes/"+id+"/events", "")
	w.awaitFollower()
	w.move(id, sandbox.Failed)
	_ = w.Record(t.Context(), event.Event{Sandbox: sandbox.ID(id), Type: event.Error, At: time.Now(), Data: map[string]any{"message": "out of memory"}})
	events := readSSE(t, res.Body, nil)
	if n := len(events); n != 3 || events[1].data["state"] != "error" || events[2].name != "error" || events[2].data["message"] != "out of memory" {
		t.Errorf("%v", events)
	}
	late := readSSE(t, stream(t, "GET", base+"/api/v1/sandboxes/"+id+"/events", "").Body, nil)
	if len(late) != 2 || late[0].data["state"] != "error" || late[1].name != "error" || late[1].data["message"] != "out of memory" {
		t.Errorf("late: %v", late)
	}
}

// "heartbeat comments", and a GET with the body null is no offence.
func TestStreamHeartbeat(t *testing.T) {
	_, _, base := serveWorld(t, Config{Heartbeat: 20 * time.Millisecond})
	id := create(t, base, `{}`)
	res := stream(t, "GET", base+"/api/v1/sandboxes/"+id+"/events", "null", "Content-Type", "application/json")
	buf, got := make([]byte, 4096), ""
	for !strings.Contains(got, "\n: heartbeat\n\n") {
		n, err := res.Body.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		got += string(buf[:n])
	}
	h := res.Header
	if h.Get("Content-Type") != "text/event-stream" || h.Get("Cache-Control") != "no-cache" || h.Get("X-Accel-Buffering") != "no" {
		t.Errorf("%v", h)
	}
}

// ready as soon as, or at once if, it is; timeout after ?timeout=; held while
// not ready, so that clients that poll every 10 ms are calmed.
func TestReadiness(t *testing.T) {
	w, _, base := serveWorld(t, Config{})
	at := func(id string) string { return base + "/api/v1/sandboxes/" + id + "/readiness" }
	id := create(t, base, `{}`)
	if a := request(t, "GET", at(id), ""); a.body["ready"] != true || a.body["status"] != "ready" || a.body["data"].(map[string]any)["ready"] != true {
		t.Errorf("%s", a.raw)
	}
	if ev := readSSE(t, stream(t, "GET", at(id)+"/stream", "").Body, nil); len(ev) != 1 || ev[0].name != "ready" || ev[0].data["ready"] != true {
		t.Errorf("%v", ev)
	}

	w.notReady = true
	late := create(t, base, `{}`)
	start := time.Now()
	a := request(t, "GET", at(late), "")
	if held := time.Since(start); a.body["ready"] != false || a.body["status"] != "provisioning" || held < 20*time.Millisecond || held > 2*time.Second {
		t.Errorf("held %v: %s", held, a.raw)
	}
	if ev := readSSE(t, stream(t, "GET", at(late)+"/stream?timeout=0.05", "").Body, nil); len(ev) != 1 || ev[0].name != "timeout" || ev[0].data["ready"] != false {
		t.Errorf("%v", ev)
	}
	request(t, "GET", at(late)+"/stream?timeout=x", "").want(t, 422, "VALIDATION_ERROR")
	waiting := stream(t, "GET", at(late)+"/stream", "")
	w.move(late, sandbox.Running)
	if ev := readSSE(t, waiting.Body, nil); len(ev) != 1 || ev[0].name != "ready" {
		t.Errorf("%v", ev)
	}

	never := create(t, base, `{}`)
	waiting = stream(t, "GET", at(never)+"/stream", "")
	w.move(never, sandbox.Failed)
	if ev := readSSE(t, waiting.Body, nil); len(ev) != 1 || ev[0].name != "timeout" || ev[0].data["state"] != "error" || ev[0].data["reason"] != "out of memory" {
		t.Errorf("%v", ev)
	}
	if res := stream(t, "GET", at("sbx_none")+"/stream", ""); res.StatusCode != http.StatusNotFound {
		t.Errorf("unknown: %d", res.StatusCode)
	}
}
