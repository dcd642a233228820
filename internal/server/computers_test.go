package server

import (
	"fmt"
	"reflect"
	"strings"
	"testing"

	"silica.dev/silica/api"
	"silica.dev/silica/sandbox"
)

// Contracts §4.3: "sandbox ids must resolve under /computers/{id}"; §5: "same
// handlers".
func TestSandboxRoutesServeComputersToo(t *testing.T) {
	w, _, base := serveWorld(t, Config{})
	id := create(t, base, `{"name":"n"}`)
	w.agent.on("c", ok)
	a := request(t, "POST", base+"/api/v1/computers/"+id+"/exec", `{"command":"c"}`)
	if a.status != 200 || a.body["exit_code"] != 0.0 || a.body["success"] != true {
		t.Errorf("exec of a computer: %d %s", a.status, a.raw)
	}
	w.agent.files["/w/a"] = []byte("a")
	a = request(t, "POST", base+"/api/v1/computers/"+id+"/files/stat", `{"path":"/w/a"}`)
	if data, _ := a.body["data"].(map[string]any); a.status != 200 || data["mode"] == nil {
		t.Errorf("stat of a computer's file: %d %s", a.status, a.raw)
	}
	if a = request(t, "POST", base+"/api/v1/computers/"+id+"/exec", `{"command":"c"}`, "Authorization", "Bearer "+keyB); a.status != 404 {
		t.Errorf("another tenant's computer: %d %s", a.status, a.raw)
	}
}

// Contracts §9.8: "POST … flat for GO/TS"; "map provisioning→starting,
// paused→stopped, destroyed→stopped under /computers, and provide state with the
// sandbox word"; §12.2, §12.8: metadata is "string→string".
func TestComputers(t *testing.T) {
	w, _, base := serveWorld(t, Config{})
	url := base + "/api/v1/computers"
	a := request(t, "POST", url, `{"name":"box","template_type":"miosa-sandbox","size":"small","allow_provision":true,"metadata":{"n":7,"s":"x","o":{"a":[1]}}}`)
	id, _ := a.body["id"].(string)
	if a.status != 201 || id == "" || a.body["status"] != "running" || a.body["state"] != "running" || a.body["size"] != "small" ||
		a.body["template_type"] != "miosa-sandbox" || a.body["visibility"] != "private" {
		t.Fatalf("create: %d %s", a.status, a.raw)
	}
	if want := map[string]any{"n": "7", "s": "x", "o": `{"a":[1]}`}; !reflect.DeepEqual(a.body["metadata"], want) {
		t.Errorf("metadata = %v, want %v", a.body["metadata"], want)
	}
	if data, _ := a.body["data"].(map[string]any); data["id"] != id {
		t.Errorf("no data: %s", a.raw)
	}
	if got := w.created[len(w.created)-1]; got.Template != "miosa-sandbox" {
		t.Errorf("asked for template %q", got.Template)
	}
	for state, want := range map[sandbox.State]string{
		sandbox.Provisioning: "starting", sandbox.Running: "running", sandbox.Paused: "stopped", sandbox.Destroyed: "stopped", sandbox.Failed: "error",
	} {
		if got := wireComputer(sandbox.Sandbox{State: state}); got.Status != want || got.State != string(state) {
			t.Errorf("%s: status %s, state %s; want %s", state, got.Status, got.State, want)
		}
	}
	// §12.4: names that a public client decodes into something else.
	typ := reflect.TypeFor[api.Computer]()
	for i := range typ.NumField() {
		tag, _, _ := strings.Cut(typ.Field(i).Tag.Get("json"), ",")
		switch tag {
		case "ports", "volumes", "services", "snapshots", "events", "domains", "env", "logs", "metrics", "secrets", "files", "exec", "terminal", "network", "audit", "inbox":
			t.Errorf("a computer has a member %q", tag)
		}
	}
	for query, n := range map[string]int{"": 1, "?status=running": 1, "?status=active": 1, "?status=stopped": 0, "?page=1&per_page=5": 1, "?template_type=nope": 0} {
		a := request(t, "GET", url+query, "")
		rows, _ := a.body["data"].([]any)
		meta, _ := a.body["meta"].(map[string]any)
		if a.status != 200 || len(rows) != n || meta["total"] != float64(n) {
			t.Errorf("list%s: %d %s", query, a.status, a.raw)
		}
	}
	if a := request(t, "GET", url+"?status=nope", ""); a.status != 422 {
		t.Errorf("unknown status: %d", a.status)
	}
	one := url + "/" + id
	if a := request(t, "GET", base+"/api/v1//computers/"+id+"/", ""); a.status != 200 || a.body["id"] != id { // §12.30
		t.Errorf("get: %d %s", a.status, a.raw)
	}
	if a := request(t, "PATCH", one, `{"name":"other","metadata":{"k":true}}`); a.status != 200 || a.body["name"] != "other" || fmt.Sprint(a.body["metadata"]) != "map[k:true]" {
		t.Errorf("patch: %d %s", a.status, a.raw)
	}
	// §9.8: "start of a running one must succeed"; §12.36: an answer with a body.
	if a := request(t, "POST", one+"/start", `{}`); a.status != 200 || a.body["status"] != "running" {
		t.Errorf("start: %d %s", a.status, a.raw)
	}
	if a := request(t, "DELETE", one, ""); a.status != 200 || a.body["status"] != "stopped" || a.body["state"] != "destroyed" {
		t.Errorf("delete: %d %s", a.status, a.raw)
	}
	if a := request(t, "DELETE", one, ""); a.status != 200 { // §12.28
		t.Errorf("delete again: %d %s", a.status, a.raw)
	}
	if a := request(t, "GET", url, ""); len(a.body["data"].([]any)) != 0 { // §12.27
		t.Errorf("list after destroy: %s", a.raw)
	}
}

func TestListeningPorts(t *testing.T) {
	table := `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1
   1: 00000000:0050 00000000:0000 01 00000000:00000000 00:00000000 00000000     0        0 2 1
   2: 00000000000000000000000000000000:0BB8 00000000000000000000000000000000:0000 0A 0:0 0:0 0 0 0 3
   x: nonsense 0A 0A
   3: 0100007F:XXXX 00000000:0000 0A
`
	if got := fmt.Sprint(listening(strings.NewReader(table))); got != "[{8080 tcp 127.0.0.1 false} {3000 tcp :: false}]" {
		t.Errorf("listening: %s", got)
	}
	w, _, base := serveWorld(t, Config{})
	id := create(t, base, `{}`)
	w.agent.files["/proc/net/tcp"] = []byte(table)
	a := request(t, "GET", base+"/api/v1/computers/"+id+"/ports", "")
	if rows, _ := a.body["data"].([]any); a.status != 200 || len(rows) != 2 || rows[0].(map[string]any)["port"] != 3000.0 {
		t.Errorf("ports: %d %s", a.status, a.raw)
	}
}
