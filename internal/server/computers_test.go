package server

import (
	"testing"
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
