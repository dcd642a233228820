package server

import (
	"encoding/json"
	"strings"
	"testing"

	"silica.dev/silica/internal/guest/guestpb"
	"silica.dev/silica/sandbox"
)

// Contracts §4.4: "POST /sandboxes/{id}/commands {command, cwd, env, user, sudo,
// tty, interactive, timeout}; GET …/commands/{cid}; GET …/commands/{cid}/logs?tail=;
// POST …/commands/{cid}/kill".
func TestCommand(t *testing.T) {
	d := published(t)
	w, _, base := serveWorld(t, Config{})
	id := create(t, base, `{}`)
	const route = "/api/v1/sandboxes/{id}/commands"
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
	request(t, "POST", base+"/api/v1/sandboxes/"+id+"/processes", `{"command":"other"}`) // is 1, and no command
	a := request(t, "POST", all, `{"command":"make; make test","cwd":"/w","env":{"A":"b"},"user":"root","sudo":true,"timeout":90}`)
	conforms("POST", route, a, 201)
	if a.body["id"] != "cmd_2" || a.body["kind"] != "command" || a.body["status"] != "running" || a.body["tty"] != false || a.body["pid"] != "102" {
		t.Errorf("started: %s", a.raw)
	}
	if start := w.agent.spawned[1].req.Start; start.Cwd != "/w" || start.Env["A"] != "b" || start.Stdin || start.Pty != nil || start.TimeoutMs != 90_000 {
		t.Errorf("spawned as %v", start)
	}
	a = request(t, "POST", all, `{"command":"vi","tty":true,"interactive":true}`)
	if start := w.agent.spawned[2].req.Start; !start.Stdin || start.Pty.GetCols() != 80 || start.TimeoutMs != 0 || a.body["tty"] != true {
		t.Errorf("spawned as %v", start)
	}

	a = request(t, "GET", all, "")
	conforms("GET", route, a, 200)
	if data := a.body["data"].([]any); len(data) != 2 || data[1].(map[string]any)["id"] != "cmd_3" {
		t.Errorf("listed: %s", a.raw)
	}
	w.agent.prints(2, "a\nb\nc\n")
	a = request(t, "GET", all+"/cmd_2/logs?tail=2", "")
	conforms("GET", route+"/{cid}/logs", a, 200)
	if lines, _ := json.Marshal(a.body["lines"]); string(lines) != `["b","c"]` {
		t.Errorf("logs: %s", a.raw)
	}
	written := make(chan *guestpb.SendInputRequest, 1)
	go func() { m, _ := (<-w.agent.told).(*guestpb.SendInputRequest); written <- m }()
	conforms("POST", route+"/{cid}/stdin", request(t, "POST", all+"/cmd_3/stdin", `{"data":":q\n"}`), 200)
	if m := <-written; m.Id != 3 || string(m.Data) != ":q\n" {
		t.Errorf("input: %v", m)
	}

	a = request(t, "POST", all+"/cmd_3/kill", "")
	conforms("POST", route+"/{cid}/kill", a, 200)
	if a.body["status"] != "failed" || a.body["exit_code"] != 137.0 {
		t.Errorf("killed: %s", a.raw)
	}
	w.agent.ends(2, 0)
	a = request(t, "GET", strings.Replace(all, "sandboxes", "computers", 1)+"/cmd_2?wait=10", "")
	conforms("GET", route+"/{cid}", a, 200)
	if a.body["status"] != "exited" || a.body["exit_code"] != 0.0 || a.body["timed_out"] != false {
		t.Errorf("ended: %s", a.raw)
	}

	for _, tt := range []struct {
		method, url, body, code string
		status                  int
	}{
		{"POST", all, `{}`, sandbox.CodeValidation, 422},
		{"POST", all, `{"command":"x","user":"nobody"}`, sandbox.CodeValidation, 422},
		{"POST", all, `{"command":"x","sudo":"yes"}`, sandbox.CodeValidation, 422},
		{"POST", all, `{"command":"x","timeout":-1}`, sandbox.CodeValidation, 422},
		{"POST", all + "/cmd_3/kill", `{"signal":"SIGNONE"}`, sandbox.CodeValidation, 422},
		{"GET", all + "/cmd_1", "", sandbox.CodeNotFound, 404}, // a process
		{"GET", all + "/cmd_99", "", sandbox.CodeNotFound, 404},
		{"GET", all + "/cmd_0", "", sandbox.CodeNotFound, 404},
		{"GET", all + "/2", "", sandbox.CodeNotFound, 404},
		{"POST", all + "/cmd_1/kill", "", sandbox.CodeNotFound, 404},
		{"GET", base + "/api/v1/sandboxes/" + id + "/processes/102", "", sandbox.CodeNotFound, 404}, // a command
	} {
		request(t, tt.method, tt.url, tt.body).want(t, tt.status, tt.code)
	}
	request(t, "GET", all+"/cmd_2", "", "Authorization", "Bearer "+keyB).want(t, 404, sandbox.CodeNotFound)
}
