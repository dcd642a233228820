package e2e

import (
	"math"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// "GET …/usage: burning 2 s of CPU moves active_cpu_ms by 1,800 to 2,500; paused
// time is not runtime". How much CPU some work takes is measured on the host, for a
// sandbox on a busy machine believes to have had more than it got. There the same work takes very
// different amounts of it, so this finds only what is grossly wrong: children that
// are not counted, or counted twice.
func TestUsageIsMeasured(t *testing.T) {
	t.Parallel()
	s := ownServer(t, options{})
	c := s.tenant(t)
	id := c.created(t, obj{"persistent": true, "timeout_sec": 900, "cpu_count": 2}).str("id")
	usage := func() answer { return c.do(t, "GET", "sandboxes/"+id+"/usage", nil).want(t, 200, "") }
	const burn = "i=0; while [ $i -lt 1500000 ]; do i=$((i+1)); done"
	host := exec.Command("dash", "-c", burn)
	if err := host.Run(); err != nil {
		t.Fatal(err)
	}
	want := 2 * float64((host.ProcessState.UserTime() + host.ProcessState.SystemTime()).Milliseconds())
	before := usage()
	// In children of children: all of them count.
	c.sh(t, id, "(dash -c '"+burn+"' & wait) & (sh -c \"dash -c '"+burn+"'\") & wait")
	after := usage()
	burnt := after.num("data.active_cpu_ms") - before.num("data.active_cpu_ms")
	t.Logf("burning %.0f ms of CPU moved active_cpu_ms by %.0f", want, burnt)
	if burnt < want*0.35 || burnt > want*2.2 {
		t.Errorf("burning %.0f ms of CPU moved active_cpu_ms by %.0f", want, burnt)
	}
	c.upload(t, id, "/root/in", make([]byte, 3<<20))
	c.download(t, id, "/root/in")
	moved := usage()
	in := moved.num("network_ingress_bytes") - after.num("network_ingress_bytes")
	out := moved.num("network_egress_bytes") - after.num("network_egress_bytes")
	if in < 3<<20 || out < 3<<20 || in > 8<<20 || out > 8<<20 {
		t.Errorf("3 MiB each way moved ingress by %.0f and egress by %.0f", in, out)
	}
	if m := c.do(t, "GET", "sandboxes/"+id+"/metrics", nil).want(t, 200, ""); m.num("memory.used_bytes") <= 0 || m.num("disk.total_bytes") <= 0 || m.num("cpu.total_ms") <= 0 {
		t.Errorf("metrics: %s", m.Body)
	}

	// A restart of the daemon loses nothing and counts nothing twice.
	last := usage()
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	s.restart(t)
	again := usage()
	if again.num("active_cpu_ms") < last.num("active_cpu_ms") || again.num("active_cpu_ms") > last.num("active_cpu_ms")+1500 || again.num("network_ingress_bytes") > last.num("network_ingress_bytes")+1<<20 {
		t.Errorf("a restart moved usage from %s to %s", last.Body, again.Body)
	}

	c.do(t, "POST", "sandboxes/"+id+"/stop", obj{}).want(t, 200, "")
	stopped := usage()
	if stopped.num("active_cpu_ms") < again.num("active_cpu_ms") {
		t.Errorf("stopping lost usage: %s, then %s", again.Body, stopped.Body)
	}
	time.Sleep(50 * time.Millisecond) // any time will do
	if now := usage(); now.num("runtime_ms") != stopped.num("runtime_ms") || math.Abs(now.num("provisioned_vcpu_ms")-2*now.num("runtime_ms")) > 2 {
		t.Errorf("paused time is runtime: %s, then %s", stopped.Body, now.Body)
	}
}

// Variables hold for what is started later, and survive the daemon and a stop.
// The log tells what befell the sandbox meanwhile.
func TestVariablesAndLogSurvive(t *testing.T) {
	t.Parallel()
	s := ownServer(t, options{})
	c := s.tenant(t)
	id := c.created(t, obj{"persistent": true, "timeout_sec": 900, "env": obj{"OLD": "o"}}).str("id")
	box := "sandboxes/" + id
	logs := c.open(t, "GET", box+"/logs/stream", nil)
	logs.until(t, 10*time.Second, "the boot path", func(f frame) bool {
		return f.Event == "log" && strings.Contains(f.JSON()["line"].(string), "running (boot path ")
	})
	put := c.do(t, "PUT", box+"/env", obj{"vars": []obj{{"key": "NEW", "value": "new value", "encrypted": true}}}).want(t, 200, "")
	if strings.Contains(string(put.Body), "new value") || len(put.list()) != 2 {
		t.Errorf("put: %s", put.Body)
	}
	look := func(want string) {
		t.Helper()
		if got := strings.TrimSpace(c.sh(t, id, `echo "$OLD,$NEW"`)); got != want {
			t.Errorf("the environment is %q, want %q", got, want)
		}
	}
	look("o,new value")
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	s.restart(t)
	look("o,new value")
	c.do(t, "DELETE", box+"/env/OLD", nil).want(t, 200, "")
	look(",new value")
	c.do(t, "POST", box+"/stop", obj{}).want(t, 200, "")
	c.do(t, "PUT", box+"/env?replace=true", obj{"vars": obj{"NEW": "newer"}}).want(t, 200, "")
	c.do(t, "POST", "computers/"+id+"/start", obj{}).want(t, 200, "")
	look(",newer")
	lines := c.do(t, "GET", box+"/logs?tail=4", nil).want(t, 200, "").str("content")
	for _, want := range []string{"running -> paused", "-> running (boot path cold)"} {
		if !strings.Contains(lines, want) {
			t.Errorf("the log has no %q:\n%s", want, lines)
		}
	}
	if strings.Contains(lines, "newer") {
		t.Errorf("the log shows a value:\n%s", lines)
	}
}

// §9.8: "Computers alias (sandbox = computer …)", as the Go client goes about it.
func TestComputerRoundTrip(t *testing.T) {
	t.Parallel()
	c := shared.tenant(t)
	a := c.do(t, "POST", "computers", obj{"name": "box", "template_type": "miosa-sandbox", "size": "xs", "metadata": obj{"n": 1}, "allow_provision": true}).want(t, 201, "")
	id := a.str("id")
	if a.at("metadata.n") != "1" || a.str("size") != "xs" {
		t.Errorf("create: %s", a.Body)
	}
	one := "computers/" + id
	eventually(t, 30*time.Second, "it runs", func() bool { return c.do(t, "GET", one, nil).want(t, 200, "").str("status") == "running" })
	c.do(t, "POST", one+"/start", obj{}).want(t, 200, "") // "start of a running one must succeed"
	if e := c.do(t, "POST", one+"/exec", obj{"command": "echo out; exit 3"}).want(t, 200, ""); e.str("output") != "out\n" || e.num("exit_code") != 3 || e.at("success") != false {
		t.Errorf("exec: %s", e.Body)
	}
	c.do(t, "POST", one+"/files", obj{"path": "/root/f", "content": "aGk="}).want(t, 200, "")
	if f := c.do(t, "GET", one+"/files/download?path=/root/f", nil).want(t, 200, ""); string(f.Body) != "hi" {
		t.Errorf("file: %q", f.Body)
	}
	c.do(t, "POST", one+"/env", obj{"name": "V", "value": "x"}).want(t, 201, "")
	c.do(t, "POST", one+"/exec", obj{"command": "nohup python3 -m http.server 3210 --bind 127.0.0.1 >/dev/null 2>&1 &"}).want(t, 200, "")
	eventually(t, 20*time.Second, "the port is listed", func() bool {
		for _, p := range c.do(t, "GET", one+"/ports", nil).want(t, 200, "").list() {
			if p["port"] == 3210.0 && p["address"] == "127.0.0.1" {
				return true
			}
		}
		return false
	})
	for _, part := range []string{"/metrics", "/logs", "/usage", "/env"} {
		c.do(t, "GET", one+part, nil).want(t, 200, "")
	}
	if l := c.do(t, "GET", "computers?status=running&page=1&per_page=10", nil).want(t, 200, ""); l.num("meta.total") != 1 || len(l.list()) != 1 {
		t.Errorf("list: %s", l.Body)
	}
	if a := c.do(t, "POST", one+"/stop", obj{}).want(t, 200, ""); a.str("status") != "stopped" { // not persistent: destroyed
		t.Errorf("stop: %s", a.Body)
	}
	if a := c.do(t, "GET", one, nil).want(t, 200, ""); a.str("status") != "stopped" || a.str("state") != "destroyed" {
		t.Errorf("after its end: %s", a.Body)
	}
}
