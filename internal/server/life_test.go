package server

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"silica.dev/silica/sandbox"
)

// Seed 004: "Accepted keys: :name, :slug, :tags, :metadata, :always_on,
// :timeout_sec, :idle_timeout_sec."
func TestPatchTakesItsSevenKeys(t *testing.T) {
	_, _, base := serveWorld(t, Config{})
	id := create(t, base, `{"name":"before"}`)
	a := request(t, "PATCH", base+"/api/v1/sandboxes/"+id, `{"name":"after","slug":"my-slug","tags":["a","b"],
		"metadata":{"k":1,"miosa_persistent":true},"always_on":true,"timeout_sec":60,"idle_timeout_sec":7}`)
	if a.status != 200 {
		t.Fatalf("PATCH: %d %s", a.status, a.raw)
	}
	for _, m := range []map[string]any{a.body, a.body["data"].(map[string]any)} {
		raw, _ := json.Marshal([]any{m["name"], m["slug"], m["tags"], m["metadata"], m["always_on"], m["timeout_sec"], m["idle_timeout_sec"], m["persistent"]})
		if want := `["after","my-slug",["a","b"],{"k":1,"miosa_persistent":true},true,60,7,true]`; string(raw) != want {
			t.Errorf("got %s, want %s", raw, want)
		}
	}
	// What is left out, or null, stays.
	if a = request(t, "PATCH", base+"/api/v1/sandboxes/my-slug", `{"tags":[],"name":null}`); a.status != 200 || a.body["name"] != "after" || a.body["tags"] != nil {
		t.Errorf("second PATCH: %d %s", a.status, a.raw)
	}
	if a = request(t, "PATCH", base+"/api/v1/sandboxes/"+id, `{}`); a.status != 200 {
		t.Errorf("empty PATCH: %d %s", a.status, a.raw)
	}
}

func TestPatchRefusesWhatItDoesNotKnow(t *testing.T) {
	_, _, base := serveWorld(t, Config{})
	id := create(t, base, `{}`)
	for body, field := range map[string]string{
		`{"nmae":"x"}`:              "nmae",
		`{"state":"destroyed"}`:     "state",
		`{"name":"a/b"}`:            "name",
		`{"name":7}`:                "name",
		`{"slug":{}}`:               "slug",
		`{"tags":"x"}`:              "tags",
		`{"tags":[""]}`:             "tags[0]",
		`{"metadata":[]}`:           "metadata",
		`{"always_on":"yes"}`:       "always_on",
		`{"timeout_sec":-1}`:        "timeout_sec",
		`{"timeout_sec":1.5}`:       "timeout_sec",
		`{"idle_timeout_sec":"10"}`: "idle_timeout_sec",
		`[]`:                        "body",
	} {
		a := request(t, "PATCH", base+"/api/v1/sandboxes/"+id, body)
		e, _ := a.body["error"].(map[string]any)
		details, _ := e["details"].(map[string]any)
		if a.status != 422 || details["field"] != field {
			t.Errorf("%s: %d %s, want 422 of %s", body, a.status, a.raw, field)
		}
	}
	if a := request(t, "PATCH", base+"/api/v1/sandboxes/"+id, `{"nmae":"x"}`); !strings.Contains(string(a.raw), "idle_timeout_sec") {
		t.Errorf("the refusal does not say what can be changed: %s", a.raw)
	}
	if a := request(t, "PATCH", base+"/api/v1/sandboxes/sbx_nope", `{}`); a.status != 404 {
		t.Errorf("PATCH of nothing: %d", a.status)
	}
}

// Contract §12.31: "`extend` with `{}` must reset the deadline using the
// existing timeout."
func TestExtendResetsTheDeadline(t *testing.T) {
	w, _, base := serveWorld(t, Config{})
	id := create(t, base, `{"timeout_sec":100}`)
	w.mu.Lock()
	w.boxes[sandbox.ID(id)].StartedAt = time.Now().Add(-90 * time.Second)
	w.mu.Unlock()
	for _, c := range []struct {
		body string
		want float64
	}{{``, 100}, {`{}`, 100}, {`{"timeout_sec":50}`, 50}, {`{"timeout_sec":null}`, 50}} {
		a := request(t, "POST", base+"/api/v1/sandboxes/"+id+"/extend", c.body)
		left, _ := a.body["timeout_remaining_ms"].(float64)
		if a.status != 200 || a.body["timeout_sec"] != c.want || left < 1000*c.want-15000 || left > 1000*c.want {
			t.Errorf("extend %s: %d, timeout_sec %v, %v ms left", c.body, a.status, a.body["timeout_sec"], left)
		}
	}
}

func TestStopAndStartOnTheWire(t *testing.T) {
	_, _, base := serveWorld(t, Config{})
	do := func(id, verb string) answer { return request(t, "POST", base+"/api/v1/sandboxes/"+id+"/"+verb, "") }
	id := create(t, base, `{"metadata":{"miosa_persistent":true}}`)
	for range 2 {
		if a := do(id, "stop"); a.status != 200 || a.body["state"] != "paused" || a.body["memory"] != false {
			t.Fatalf("stop: %d %s", a.status, a.raw)
		}
	}
	if a := request(t, "POST", base+"/api/v1/sandboxes/"+id+"/exec", `{"command":"true"}`); a.status != 409 || a.code() != "SANDBOX_NOT_RUNNING" {
		t.Errorf("exec on a paused one: %d %s", a.status, a.raw)
	}
	for range 2 {
		if a := do(id, "start"); a.status != 200 || a.body["state"] != "running" || a.body["memory"] != nil {
			t.Fatalf("start: %d %s", a.status, a.raw)
		}
	}
	if a := do(id, "restart"); a.status != 200 || a.body["state"] != "running" {
		t.Errorf("restart: %d %s", a.status, a.raw)
	}
	short := create(t, base, `{}`)
	for range 2 {
		if a := do(short, "stop"); a.status != 200 || a.body["state"] != "destroyed" {
			t.Errorf("stop: %d %s", a.status, a.raw)
		}
	}
	if a := do(short, "start"); a.status != 409 {
		t.Errorf("start of a destroyed one: %d %s", a.status, a.raw)
	}
}
