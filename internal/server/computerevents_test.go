package server

import (
	"encoding/json"
	"strings"
	"testing"

	"silica.dev/silica/sandbox"
)

// Contracts §7.4: "GET /computers/{id}/events?subscribe=…&paths=/a,/b: each
// message JSON {type, timestamp, payload}: file.created … {path}; …
// producer.unavailable {producer,reason}".
func TestComputerEvents(t *testing.T) {
	d := published(t)
	_, _, base := serveWorld(t, Config{})
	id := create(t, base, `{}`)
	at := base + "/api/v1/computers/" + id + "/events"
	p := mustDial(t, at+"?subscribe=window,file&paths=/w", nil)
	var got []string
	for len(got) < 5 { // the fake's folder is gone after two changes
		m := p.next()
		if !m.text {
			t.Fatalf("got %+v after %v", m, got)
		}
		if err := d.CheckSchema("ComputerEvent", []byte(m.data)); err != nil {
			t.Errorf("%s: %v", m.data, err)
		}
		var ev struct {
			Type    string
			Payload struct{ Path, Producer, Reason string }
		}
		if err := json.Unmarshal([]byte(m.data), &ev); err != nil {
			t.Fatal(err)
		}
		got = append(got, ev.Type+" "+ev.Payload.Path+ev.Payload.Producer)
	}
	want := "producer.unavailable window,file.deleted /w/y,file.created /w/x,file.overflow /w/x,producer.unavailable file"
	if all := strings.Join(got, ","); all != want {
		t.Errorf("got %s, want %s", all, want)
	}

	for query, code := range map[string]string{"subscribe=screen": sandbox.CodeValidation, "paths=w": sandbox.CodeInvalidPath} {
		if p, err := dial(t, at+"?"+query, nil); err == nil || p.res.StatusCode != 422 {
			t.Errorf("%s: want %s", query, code)
		}
	}
	if p, err := dial(t, at, nil, "Authorization", "Bearer "+keyB); err == nil || p.res.StatusCode != 404 {
		t.Error("another tenant's events can be had")
	}
	// Without an upgrade it is what a sandbox answers there.
	for _, ev := range readSSE(t, stream(t, "GET", at, "").Body, func(sseEvent) bool { return true }) {
		if ev.name != "state_changed" {
			t.Errorf("the stream begins with %v", ev)
		}
	}
}

// A client that leaves, and a server that stops, end the watches.
func TestComputerEventsEnd(t *testing.T) {
	_, s, base := serveWorld(t, Config{})
	id := create(t, base, `{}`)
	p := mustDial(t, base+"/api/v1/computers/"+id+"/events?subscribe=idle", nil)
	if m := p.next(); !strings.Contains(m.data, "producer.unavailable") {
		t.Errorf("got %+v", m)
	}
	go func() { _ = s.Shutdown(t.Context()) }()
	if m := p.next(); strings.Contains(m.data, "error") {
		if m = p.next(); m.status != 1001 {
			t.Errorf("closed with %+v", m)
		}
	} else if m.status != 1001 {
		t.Errorf("closed with %+v", m)
	}
}
