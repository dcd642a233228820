package server

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"silica.dev/silica/internal/guest/guestpb"
	"silica.dev/silica/sandbox"
)

// Contracts §9.4: "POST /sandboxes/{id}/processes {command, env?, name?, cwd?}:
// flat {pid (STRING), name, command, status, started_at, exit_code?}"; "use a
// numeric string".
func TestProcess(t *testing.T) {
	d := published(t)
	w, _, base := serveWorld(t, Config{})
	id := create(t, base, `{}`)
	const route = "/api/v1/sandboxes/{id}/processes"
	all := strings.Replace(base+route, "{id}", id, 1)
	conforms := func(method, path string, a answer, status int) {
		t.Helper()
		if a.status != status {
			t.Fatalf("%s %s: %d %s", method, path, a.status, a.raw)
		}
		if err := d.Check(method, path, a.status, a.header, a.raw); err != nil {
			t.Errorf("%s %s: %v", method, path, err)
		}
	}
	a := request(t, "POST", all, `{"command":"sleep 5; echo done","name":"job","cwd":"/w","env":{"A":"b"}}`)
	conforms("POST", route, a, 201)
	if a.body["pid"] != "101" || a.body["name"] != "job" || a.body["command"] != "sleep 5; echo done" || a.body["status"] != "running" ||
		a.body["started_at"] == nil || a.body["exit_code"] != nil || a.body["data"] == nil {
		t.Errorf("started: %s", a.raw)
	}
	start := w.agent.spawned[0].req.Start
	if start.Args[0] != "/bin/bash" || start.Args[2] != "sleep 5; echo done" || start.Cwd != "/w" || start.Env["A"] != "b" || !start.Stdin {
		t.Errorf("spawned as %v", start)
	}
	request(t, "POST", all, `{"command":"sleep 5"}`)
	if start := w.agent.spawned[1].req.Start; len(start.Args) != 2 { // plain words need no shell, as in exec
		t.Errorf("spawned as %v", start)
	}

	a = request(t, "GET", all, "")
	conforms("GET", route, a, 200)
	if data := a.body["data"].([]any); len(data) != 2 || data[1].(map[string]any)["pid"] != "102" {
		t.Errorf("listed: %s", a.raw)
	}
	one := all + "/101"
	conforms("GET", route+"/{pid}", request(t, "GET", one, ""), 200)

	w.agent.prints(1, "a\nb\nc\n")
	a = request(t, "GET", one+"/logs?tail=2", "")
	conforms("GET", route+"/{pid}/logs", a, 200)
	if lines, _ := json.Marshal(a.body["lines"]); string(lines) != `["b","c"]` {
		t.Errorf("logs: %s", a.raw)
	}

	written := make(chan *guestpb.SendInputRequest, 1)
	go func() { m, _ := (<-w.agent.told).(*guestpb.SendInputRequest); written <- m }()
	conforms("POST", route+"/{pid}/stdin", request(t, "POST", one+"/stdin", `{"data":"x\n","close":true}`), 200)
	if m := <-written; m.Id != 1 || string(m.Data) != "x\n" || !m.Close {
		t.Errorf("input: %v", m)
	}

	for _, signal := range []string{`"SIGTERM"`, `15`, `"term"`} {
		a = request(t, "POST", one+"/signal", `{"signal":`+signal+`}`)
		conforms("POST", route+"/{pid}/signal", a, 200)
	}
	a = request(t, "GET", one+"?wait=10", "")
	conforms("GET", route+"/{pid}", a, 200)
	if a.body["status"] != "failed" || a.body["exit_code"] != 143.0 || a.body["ended_at"] == nil {
		t.Errorf("ended: %s", a.raw)
	}
	w.agent.ends(2, 0)
	a = request(t, "DELETE", all+"/102", "")
	conforms("DELETE", route+"/{pid}", a, 200)

	for _, tt := range []struct {
		method, url, body, code string
		status                  int
	}{
		{"POST", all, `{}`, sandbox.CodeValidation, 422},
		{"POST", all, `{"command":7}`, sandbox.CodeValidation, 422},
		{"POST", all, `{"command":"x","name":"a\u001b[2J"}`, sandbox.CodeValidation, 422},
		{"GET", all + "?kind=x", "", sandbox.CodeValidation, 422},
		{"GET", all + "/999", "", sandbox.CodeNotFound, 404},
		{"GET", all + "/-1", "", sandbox.CodeNotFound, 404},
		{"GET", all + "/x/logs", "", sandbox.CodeNotFound, 404},
		{"GET", one + "/logs?tail=no", "", sandbox.CodeValidation, 422},
		{"GET", one + "/stream?offset=no", "", sandbox.CodeValidation, 422},
		{"POST", one + "/signal", `{"signal":"SIGNONE"}`, sandbox.CodeValidation, 422},
		{"POST", one + "/stdin", `{"data":"a","data_base64":"YQ=="}`, sandbox.CodeValidation, 422},
	} {
		request(t, tt.method, tt.url, tt.body).want(t, tt.status, tt.code)
	}
	request(t, "GET", all, "", "Authorization", "Bearer "+keyB).want(t, 404, sandbox.CodeNotFound)
	if a := request(t, "GET", strings.Replace(one, "sandboxes", "computers", 1), ""); a.status != 200 {
		t.Errorf("of a computer: %d", a.status)
	}
}

// Contracts §8.3: "expect stdout/stderr/exit style"; §8: an id line and
// Last-Event-ID replay.
func TestProcessStreamResumes(t *testing.T) {
	d := published(t)
	w, _, base := serveWorld(t, Config{})
	id := create(t, base, `{}`)
	all := base + "/api/v1/sandboxes/" + id + "/processes"
	request(t, "POST", all, `{"command":"job"}`)
	long := strings.Repeat("ä", 40_000) + "\n" // more than a client can take in one line
	w.agent.prints(1, "one\n\xff\xfe\npart")
	first := readSSE(t, stream(t, "GET", all+"/101/stream", "").Body, func(ev sseEvent) bool { return ev.data["partial"] == true })
	if len(first) != 3 || first[0].data["line"] != "one" || first[0].data["data"] != "one\n" || first[0].name != "stdout" || first[1].data["data_base64"] != "//4K" {
		t.Fatalf("got %v", first)
	}
	w.agent.prints(1, "ial\n"+long)
	w.agent.ends(1, 3)
	whole := readSSE(t, stream(t, "GET", all+"/101/stream", "").Body, nil)
	for i, ev := range whole {
		rest := readSSE(t, stream(t, "GET", all+"/101/stream", "", "Last-Event-ID", ev.id).Body, nil)
		if ev.name != "exit" && (len(rest) == 0 || rest[len(rest)-1].data["exit_code"] != 3.0) {
			t.Errorf("after %s: %d events", ev.id, len(rest))
		}
		before, _ := joined(whole[:i+1], "stdout")
		after, _ := joined(rest, "stdout")
		if i > 1 && before+after != "one\n\xff\xfe\npartial\n"+long {
			t.Errorf("after %s: %d and %d bytes", ev.id, len(before), len(after))
		}
		raw, _ := json.Marshal(ev.data)
		if err := d.CheckSchema("ProcessEvent", raw); err != nil {
			t.Errorf("%s: %v", ev.name, err)
		}
	}
	w.agent.spawnedStep(1, func(p *spawned) { p.lost = 4 })
	gap := readSSE(t, stream(t, "GET", all+"/101/stream?offset=2", "").Body, nil)
	if gap[0].name != "gap" || gap[0].data["lost_bytes"] != 2.0 || gap[0].id != "1-4" {
		t.Errorf("got %v", gap[0])
	}
	request(t, "GET", all+"/101/stream", "", "Last-Event-ID", "77-4").want(t, 404, sandbox.CodeNotFound)
}

// Contracts §9.5: "POST {name,command,port?,env?,restart?} → data
// {id,computer_id,name,command,status,port,env,restart_policy,created_at,updated_at}".
func TestServices(t *testing.T) {
	d := published(t)
	w, _, base := serveWorld(t, Config{})
	id := create(t, base, `{}`)
	for _, prefix := range []string{"computers", "sandboxes"} {
		route := "/api/v1/" + prefix + "/{id}/services"
		all := strings.Replace(base+route, "{id}", id, 1)
		conforms := func(method, path string, a answer, status int) answer {
			t.Helper()
			if a.status != status {
				t.Fatalf("%s %s: %d %s", method, path, a.status, a.raw)
			}
			if err := d.Check(method, path, a.status, a.header, a.raw); err != nil {
				t.Errorf("%s %s: %v", method, path, err)
			}
			return a
		}
		a := conforms("POST", route, request(t, "POST", all, `{"name":"web","command":"serve","port":80,"env":{"A":"b"},"restart":"on_failure"}`), 201)
		data := a.body["data"].(map[string]any)
		if data["id"] != "svc_web" || data["computer_id"] != id || data["restart_policy"] != "on-failure" || data["restart"] != "on-failure" ||
			data["port"] != 80.0 || data["status"] != "running" || data["pid"] != "7" {
			t.Errorf("made: %s", a.raw)
		}
		conforms("GET", route, request(t, "GET", all, ""), 200)
		conforms("GET", route+"/{service}", request(t, "GET", all+"/web", ""), 200)
		conforms("GET", route+"/{service}", request(t, "GET", all+"/svc_web", ""), 200)
		for _, verb := range []string{"stop", "start", "restart"} {
			a := conforms("POST", route+"/{service}/"+verb, request(t, "POST", all+"/web/"+verb, ""), 200)
			if want := map[bool]string{true: "stopped", false: "running"}[verb == "stop"]; a.body["status"] != want {
				t.Errorf("%s: %s", verb, a.raw)
			}
		}
		log := uint64(len(w.agent.spawned))
		w.agent.prints(log, "one\ntwo\n")
		// TCLI: "/{name}/logs?tail= → {lines}".
		a = conforms("GET", route+"/{service}/logs", request(t, "GET", all+"/web/logs?tail=5", ""), 200)
		if fmt.Sprint(a.body["lines"]) != "[one two]" {
			t.Errorf("logs: %s", a.raw)
		}
		// "data {timestamp, stream, message}"; "plain GET must end by itself".
		events := readSSE(t, stream(t, "GET", all+"/web/logs", "").Body, nil)
		if len(events) != 2 || events[1].data["message"] != "two" || events[1].data["stream"] != "stdout" {
			t.Errorf("plain: %v", events)
		}
		for _, ev := range events {
			raw, _ := json.Marshal(ev.data)
			if err := d.CheckSchema("ServiceLog", raw); err != nil {
				t.Error(err)
			}
		}
		following := stream(t, "GET", all+"/web/logs?follow=true", "", "Last-Event-ID", events[0].id)
		w.agent.prints(log, "three\n")
		got := readSSE(t, following.Body, func(ev sseEvent) bool { return ev.data["message"] == "three" })
		if len(got) != 2 || got[0].data["message"] != "two" {
			t.Errorf("followed: %v", got)
		}
		conforms("DELETE", route+"/{service}", request(t, "DELETE", all+"/web", ""), 200)
		for _, path := range []string{"/web", "/web/logs"} {
			request(t, "GET", all+path, "").want(t, 404, sandbox.CodeNotFound)
		}
		request(t, "POST", all+"/web/start", "").want(t, 404, sandbox.CodeNotFound)
		request(t, "POST", all, `{"name":"x"}`).want(t, 422, sandbox.CodeValidation)
		request(t, "GET", all, "", "Authorization", "Bearer "+keyB).want(t, 404, sandbox.CodeNotFound)
	}
}
