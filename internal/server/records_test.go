package server

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"silica.dev/silica/internal/event"
	"silica.dev/silica/sandbox"
)

// Contracts §3.5: "sandbox_id, state, runtime_sec, …, timeout_remaining_ms. All
// integers. GO requires the data wrapper." §12.3 and §12.34.
func TestUsageIsIntegersInAHybrid(t *testing.T) {
	_, _, base := serveWorld(t, Config{})
	id := create(t, base, `{}`)
	a := request(t, "GET", base+"/api/v1/sandboxes/"+id+"/usage", "")
	data, _ := a.body["data"].(map[string]any)
	for name, want := range map[string]any{
		"sandbox_id": id, "state": "running", "runtime_sec": 2.0, "provisioned_vcpu_ms": 3000.0, "provisioned_memory_mb_ms": 1500.0 * 1024,
		"creation_count": 1.0, "active_cpu_ms": 1234.0, "network_ingress_bytes": 10.0, "network_egress_bytes": 20.0,
		"estimated_cost_cents": 0.0, "timeout_sec": 300.0,
	} {
		if a.body[name] != want || data[name] != want {
			t.Errorf("%s = %v, and %v below data; want %v", name, a.body[name], data[name], want)
		}
	}
	for name, v := range data {
		if n, ok := v.(float64); ok && n != math.Trunc(n) {
			t.Errorf("%s = %v is no integer", name, n)
		}
	}
	if fmt.Sprint(data["measurement_status"]) != "map[active_cpu:measured network:measured provisioned_resources:measured]" {
		t.Errorf("measurement_status = %v", data["measurement_status"])
	}
}

func TestMetrics(t *testing.T) {
	_, _, base := serveWorld(t, Config{})
	id := create(t, base, `{}`)
	a := request(t, "GET", base+"/api/v1/computers/"+id+"/metrics?window=15m", "")
	cpu, _ := a.body["cpu"].(map[string]any)
	memory, _ := a.body["memory"].(map[string]any)
	series, _ := a.body["series"].([]any)
	if a.status != 200 || cpu["usage_percent"] != 50.0 || memory["usage_percent"] != 50.0 || a.body["processes"] != 3.0 || a.body["window_sec"] != 900.0 || len(series) != 2 {
		t.Errorf("metrics: %d %s", a.status, a.raw)
	} else if last := series[1].(map[string]any); last["cpu_percent"] != 50.0 { // 5 s in 10
		t.Errorf("series: %v", series)
	}
	for _, window := range []string{"x", "0s", "-1h", "10"} {
		if a := request(t, "GET", base+"/api/v1/sandboxes/"+id+"/metrics?window="+window, ""); a.status != 422 {
			t.Errorf("window %q: %d", window, a.status)
		}
	}
}

// Contracts §9.3: "DOC {data:[{key,encrypted}]}, values never shown"; PUT
// "upsert (DOC) plus ?replace=true"; "GO decodes an object (so not a bare array)".
func TestEnv(t *testing.T) {
	w, _, base := serveWorld(t, Config{})
	id := create(t, base, `{"env":{"OLD":"secret-1"}}`)
	url := base + "/api/v1/sandboxes/" + id + "/env"
	keys := func(a answer) string {
		rows, _ := a.body["data"].([]any)
		list := []string{}
		for _, r := range rows {
			list = append(list, fmt.Sprint(r.(map[string]any)["key"]))
		}
		if strings.Contains(string(a.raw), "secret-") {
			t.Errorf("a value is shown: %s", a.raw)
		}
		return strings.Join(list, " ")
	}
	steps := []struct {
		method, path, body string
		status             int
		keys               string
	}{
		{"GET", "", "", 200, "OLD"},
		{"PUT", "", `{"vars":[{"key":"B","value":"secret-2","encrypted":true},{"key":"a_1","value":""}]}`, 200, "B OLD a_1"},
		{"PUT", "?replace=true", `{"vars":[{"key":"B","value":"secret-3"}]}`, 200, "B"},
		{"PUT", "", `{"vars":{"C":"x"}}`, 200, "B C"},
		{"POST", "", `{"name":"D","value":"secret-4"}`, 201, ""},
		{"PATCH", "/D", `{"value":"secret-5"}`, 200, ""},
		{"DELETE", "/C", "", 200, ""},
		{"DELETE", "/C", "", 404, ""},
		{"GET", "", "", 200, "B D"},
		{"PUT", "?replace=true", `{"vars":[]}`, 200, ""},
		{"PUT", "", `{}`, 422, ""},
		{"PUT", "?replace=maybe", `{"vars":[]}`, 422, ""},
		{"PUT", "", `{"vars":[{"key":"1A","value":"x"}]}`, 422, ""},
		{"PUT", "", `{"vars":[{"key":"A-B","value":"x"}]}`, 422, ""},
		{"PUT", "", `{"vars":[{"key":"A"}]}`, 422, ""},
		{"PUT", "", `{"vars":[{"key":"A","value":"x"},{"key":"A","value":"y"}]}`, 422, ""},
		{"PUT", "", `{"vars":{"A":null}}`, 422, ""},
		{"PUT", "", `{"vars":"A=b"}`, 422, ""},
		{"POST", "", `{"name":"A"}`, 422, ""},
	}
	for _, s := range steps {
		a := request(t, s.method, url+s.path, s.body)
		if a.status != s.status || s.keys != "" && keys(a) != s.keys {
			t.Errorf("%s %s %s: %d %q, want %d %q", s.method, s.path, s.body, a.status, keys(a), s.status, s.keys)
		}
	}
	if a := request(t, "POST", base+"/api/v1/computers/"+id+"/env", `{"name":"E","value":"1"}`); a.status != 201 || a.body["name"] != "E" {
		t.Errorf("computers' dialect: %d %s", a.status, a.raw)
	}
	if env := w.boxes[sandbox.ID(id)].Spec.Env; fmt.Sprint(env) != "map[E:1]" {
		t.Errorf("in the end: %v", env)
	}
	if a := request(t, "GET", url, "", "Authorization", "Bearer "+keyB); a.status != 404 {
		t.Errorf("another tenant: %d", a.status)
	}
}

// Contracts §6.5: "advice {data:{lines:[…],content}} + flat"; §8.3: "event: log,
// data {type:"log",line,stream,source,timestamp}"; §12.15.
func TestLogs(t *testing.T) {
	w, _, base := serveWorld(t, Config{})
	id := create(t, base, `{}`)
	sb := sandbox.Sandbox{ID: sandbox.ID(id), Tenant: "tnt_a"}
	_ = w.Record(t.Context(), event.Event{Sandbox: sb.ID, Type: event.Error, Data: map[string]any{"code": "OUT_OF_MEMORY", "message": "two\nlines"}})
	url := base + "/api/v1/sandboxes/" + id + "/logs"
	a := request(t, "GET", url, "")
	data, _ := a.body["data"].(map[string]any)
	lines, _ := data["lines"].([]any)
	want := []any{"state: provisioning", "state: provisioning -> running", "OUT_OF_MEMORY: two lines"}
	if a.status != 200 || !slices.Equal(lines, want) || a.body["content"] != "state: provisioning\nstate: provisioning -> running\nOUT_OF_MEMORY: two lines\n" {
		t.Errorf("logs: %d %s", a.status, a.raw)
	}
	for query, n := range map[string]int{"?lines=1": 1, "?tail=2": 2, "?lines=0": 0, "?lines=99999999": 3} {
		a := request(t, "GET", url+query, "")
		if got, _ := a.body["lines"].([]any); a.status != 200 || len(got) != n {
			t.Errorf("%s: %d %s", query, a.status, a.raw)
		}
	}
	if a := request(t, "GET", url+"?lines=x", ""); a.status != 422 {
		t.Errorf("lines=x: %d", a.status)
	}
	follow := stream(t, "GET", url+"/stream?tail=1", "")
	go func() {
		w.awaitFollower()
		w.move(id, sandbox.Destroyed)
	}()
	var got []string
	var lastID string
	for _, ev := range readSSE(t, follow.Body, nil) {
		if ev.name != "log" || ev.data["type"] != "log" || ev.data["source"] != "lifecycle" || ev.data["timestamp"] == nil {
			t.Errorf("event %s: %v", ev.name, ev.data)
		}
		got = append(got, fmt.Sprint(ev.data["line"]))
		if lastID == "" {
			lastID = fmt.Sprint(ev.data["id"])
		}
	}
	if fmt.Sprint(got) != "[OUT_OF_MEMORY: two lines state: running -> destroyed]" {
		t.Errorf("followed: %q", got)
	}
	got = nil
	for _, ev := range readSSE(t, stream(t, "GET", url+"/stream", "", "Last-Event-ID", lastID).Body, nil) {
		got = append(got, fmt.Sprint(ev.data["line"]))
	}
	if fmt.Sprint(got) != "[state: running -> destroyed]" {
		t.Errorf("after %s: %q", lastID, got)
	}
}

func TestByNameAndTags(t *testing.T) {
	_, _, base := serveWorld(t, Config{})
	id := create(t, base, `{"name":"a b"}`)
	if a := request(t, "GET", base+"/api/v1/sandboxes/by-name/a%20b", ""); a.status != 200 || a.body["id"] != id {
		t.Errorf("by name: %d %s", a.status, a.raw)
	}
	// §3.3: "404 makes PY's get-or-create create one". A slug or id is no name.
	for _, name := range []string{"nope", id} {
		if a := request(t, "GET", base+"/api/v1/sandboxes/by-name/"+name, ""); a.status != 404 || a.body["code"] != "NOT_FOUND" {
			t.Errorf("by name %s: %d %s", name, a.status, a.raw)
		}
	}
	url := base + "/api/v1/sandboxes/" + id
	if a := request(t, "PATCH", url+"/tags", `{"tags":["x","y"]}`); a.status != 200 || fmt.Sprint(a.body["tags"]) != "[x y]" {
		t.Errorf("tags: %d %s", a.status, a.raw)
	}
	// §12.9: for the CLI "tags must be object or null (an array breaks get)".
	if a := request(t, "GET", url, "", "User-Agent", "miosa-cli/1.0"); fmt.Sprint(a.body["tags"]) != "map[x: y:]" {
		t.Errorf("tags for the CLI: %s", a.raw)
	}
	for _, body := range []string{`{}`, `{"tags":null}`, `{"tags":"x"}`, `{"tags":[1]}`} {
		if a := request(t, "PATCH", url+"/tags", body); a.status != 422 {
			t.Errorf("tags %s: %d", body, a.status)
		}
	}
	a := request(t, "PATCH", url+"/tags", `{"tags":[]}`)
	if _, there := a.body["tags"]; a.status != 200 || there { // §12.9: "omit tags … when empty"
		t.Errorf("no tags: %d %s", a.status, a.raw)
	}
}

// Contracts §6.6.
func TestComputeCatalogue(t *testing.T) {
	_, _, base := serveWorld(t, Config{NamedCaps: sandbox.Resources{MilliCPU: 4000, Memory: 8192 << 20, Disk: 20480 << 20}})
	a := request(t, "GET", base+"/api/v1/compute/sizes", "")
	var got []string
	for _, row := range a.body["data"].([]any) {
		z := row.(map[string]any)
		got = append(got, fmt.Sprint(z["slug"], z["vcpus"], z["memory_mb"], z["disk_gb"], z["price_hour"], z["available"]))
	}
	want := []string{"xs1 2048 10 0 true", "small2 4096 10 0 true", "medium4 8192 20 0 true", "large8 16384 40 0 false", "xl16 32768 80 0 false"}
	if !slices.Equal(got, want) {
		t.Errorf("sizes: %q, want %q", got, want)
	}
	a = request(t, "GET", base+"/api/v1/compute/catalog", "")
	data, _ := a.body["data"].(map[string]any)
	if data["products"] == nil || len(data["sizes"].([]any)) != 5 || data["generated_at"] == nil {
		t.Errorf("catalog: %s", a.raw)
	}
	a = request(t, "GET", base+"/api/v1/templates", "")
	raw, _ := json.Marshal(a.body["shape_contracts"])
	if !strings.Contains(string(raw), `"contract_id":"sandbox/small@v1"`) || len(a.body["data"].([]any)) != len(a.body["templates"].([]any)) {
		t.Errorf("templates: %s", a.raw)
	}
	for _, path := range []string{"/compute/regions", "/compute/templates"} {
		if a := request(t, "GET", base+"/api/v1"+path, ""); a.status != 200 || len(a.body["data"].([]any)) != 1 {
			t.Errorf("%s: %d %s", path, a.status, a.raw)
		}
	}
	// §3.1: a size above the operator's cap, and one beside other numbers.
	for _, body := range []string{`{"size":"xl"}`, `{"size":"small","memory_mb":1024}`, `{"size":"huge"}`} {
		if a := request(t, "POST", base+"/api/v1/sandboxes", body); a.status != 422 || a.body["code"] != "VALIDATION_ERROR" {
			t.Errorf("%s: %d %s", body, a.status, a.raw)
		}
	}
}
