package e2e

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
)

// "they outlive the client and the daemon; output kept in bounded ring files
// inside the sandbox"; "SSE stream that replays and follows"; "PY converts pid to
// int: use a numeric string".
func TestProcessOutlivesTheDaemon(t *testing.T) {
	t.Parallel()
	s := ownServer(t, options{})
	c := s.tenant(t)
	id := c.create(t, obj{"timeout_sec": 900})
	const last = 400
	a := c.do(t, "POST", "sandboxes/"+id+"/processes", obj{
		"name": "counter", "command": fmt.Sprintf(`for i in $(seq %d); do echo line $i; [ $i = 200 ] && echo half >&2; sleep 0.02; done; exit 7`, last),
	}).want(t, 201, "")
	pid := a.str("pid")
	if n, err := strconv.Atoi(pid); err != nil || n < 2 || a.str("status") != "running" || a.str("name") != "counter" {
		t.Fatalf("started %s", a)
	}
	one := "sandboxes/" + id + "/processes/" + pid
	var got []string
	lastID := ""
	read := func(st *stream, until func(frame) bool) {
		st.until(t, 60*time.Second, "more of the process", func(f frame) bool {
			if f.Event == "stdout" {
				got = append(got, f.JSON()["data"].(string))
			}
			lastID = f.ID
			return until(f)
		})
	}
	st := c.open(t, "GET", one+"/stream", nil)
	read(st, func(frame) bool { return len(got) >= 50 })
	if err := s.kill(); err != nil {
		t.Fatal(err)
	}
	st.cancel()
	s.restart(t)
	st = c.open(t, "GET", one+"/stream", nil, header{"Last-Event-ID", lastID})
	read(st, func(f frame) bool { return f.Event == "exit" && f.JSON()["exit_code"] == 7.0 })
	st.ends(t, 10*time.Second)
	var want strings.Builder
	for i := range last {
		fmt.Fprintf(&want, "line %d\n", i+1)
	}
	if all := strings.Join(got, ""); all != want.String() {
		t.Errorf("over the kill -9, %d bytes came, want %d: something is lost or double", len(all), want.Len())
	}
	if a := c.do(t, "GET", one, nil).want(t, 200, ""); a.str("status") != "failed" || a.num("exit_code") != 7 {
		t.Errorf("ended as %s", a)
	}
	a = c.do(t, "GET", one+"/logs?tail=10000", nil).want(t, 200, "")
	if text := a.str("data"); strings.Count(text, "line ") != last || strings.Count(text, "half\n") != 1 {
		t.Errorf("the logs have %d lines", strings.Count(text, "\n"))
	}

	// Input, signals, and the end of a tree.
	a = c.do(t, "POST", "sandboxes/"+id+"/processes", obj{"command": "cat"}).want(t, 201, "")
	cat := "sandboxes/" + id + "/processes/" + a.str("pid")
	c.do(t, "POST", cat+"/stdin", obj{"data": "hällo\n", "close": true}).want(t, 200, "")
	if a := c.do(t, "GET", cat+"?wait=20", nil).want(t, 200, ""); a.str("status") != "exited" {
		t.Errorf("cat: %s", a)
	}
	if a := c.do(t, "GET", cat+"/logs?tail=1", nil).want(t, 200, ""); a.str("data") != "hällo\n" {
		t.Errorf("cat: %s", a)
	}
	a = c.do(t, "POST", "sandboxes/"+id+"/processes", obj{"command": "sleep 4715 & sleep 4715"}).want(t, 201, "")
	if a := c.do(t, "DELETE", "sandboxes/"+id+"/processes/"+a.str("pid"), nil).want(t, 200, ""); a.str("status") != "failed" || a.str("signal") != "SIGTERM" {
		t.Errorf("deleted: %s", a)
	}
	if n := c.sh(t, id, "ls /proc/[0-9]*/comm | xargs grep -l '^sleep$' 2>/dev/null | wc -l"); strings.TrimSpace(n) != "0" {
		t.Errorf("%s live after the tree was ended", n)
	}
}

// "a process that prints 1 GB"
func TestProcessThatPrintsAGigabyte(t *testing.T) {
	t.Parallel()
	s := ownServer(t, options{})
	c := s.tenant(t)
	id := c.create(t, obj{"timeout_sec": 900})
	before := rss(t, s.pid())
	a := c.do(t, "POST", "sandboxes/"+id+"/processes", obj{"command": "head -c 1000000000 /dev/zero | tr '\\0' 'x'; echo; seq 1000"}).want(t, 201, "")
	one := "sandboxes/" + id + "/processes/" + a.str("pid")
	lazy := c.open(t, "GET", one+"/stream", nil) // never read
	defer lazy.cancel()
	began := time.Now()
	a = c.do(t, "GET", one+"?wait=180", nil).want(t, 200, "")
	t.Logf("1 GB in %s, the daemon %d MB larger", time.Since(began).Round(time.Millisecond), (rss(t, s.pid())-before)>>20)
	if a.str("status") != "exited" || a.num("next_offset") != 1e9+1+3893 || a.num("next_offset")-a.num("first_offset") > 4<<20 {
		t.Fatalf("ended as %s", a)
	}
	if a := c.do(t, "GET", one+"/logs?tail=3", nil).want(t, 200, ""); a.str("data") != "998\n999\n1000\n" {
		t.Errorf("tail: %s", a)
	}
	if grown := rss(t, s.pid()) - before; grown > 64<<20 {
		t.Errorf("the daemon grew by %d MB", grown>>20)
	}
	agent := c.sh(t, id, "grep VmRSS /proc/1/status | tr -dc 0-9; echo; du -sk /var/lib/silica | cut -f1")
	var kb, disk int
	if _, err := fmt.Sscan(agent, &kb, &disk); err != nil || kb > 64<<10 || disk > 5<<10 {
		t.Errorf("the agent holds %d kB, its files %d kB (%v)", kb, disk, err)
	}
	t.Logf("the agent holds %d kB, its files %d kB", kb, disk)
}

// rss is what a process of the host holds.
func rss(t *testing.T, pid int) int64 {
	t.Helper()
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		t.Fatal(err)
	}
	var size, resident int64
	if _, err := fmt.Sscan(string(raw), &size, &resident); err != nil {
		t.Fatal(err)
	}
	return resident * int64(os.Getpagesize())
}

// "Supervised services (§9.5) with restart policy"; definitions and logs come
// back with the sandbox's files.
func TestServiceComesBack(t *testing.T) {
	t.Parallel()
	s := ownServer(t, options{})
	c := s.tenant(t)
	id := c.create(t, obj{"persistent": true, "timeout_sec": 900})
	all := "computers/" + id + "/services"
	a := c.do(t, "POST", all, obj{"name": "web", "command": "echo up as $A; exec python3 -m http.server 8123", "port": 8123, "env": obj{"A": "b"}}).want(t, 201, "")
	if a.str("data.computer_id") != id || a.str("data.restart_policy") != "always" {
		t.Fatalf("made %s", a)
	}
	serves := func() bool {
		return strings.Contains(c.exec(t, id, "curl -s -o /dev/null -w '%{http_code}' http://127.0.0.1:8123/").str("stdout"), "200")
	}
	eventually(t, 30*time.Second, "the service serves", serves)
	pid := c.do(t, "GET", all+"/web", nil).want(t, 200, "").str("pid")
	c.sh(t, id, "kill -9 "+pid)
	eventually(t, 30*time.Second, "it runs again after a kill -9", func() bool {
		a := c.do(t, "GET", all+"/web", nil).want(t, 200, "")
		return a.str("status") == "running" && a.str("pid") != pid && a.num("restart_count") == 1
	})
	if err := s.kill(); err != nil {
		t.Fatal(err)
	}
	s.restart(t)
	eventually(t, 30*time.Second, "it serves after a kill -9 of the daemon", serves)

	done := c.do(t, "POST", "sandboxes/"+id+"/processes", obj{"command": "echo kept"}).want(t, 201, "").str("pid")
	c.do(t, "GET", "sandboxes/"+id+"/processes/"+done+"?wait=20", nil).want(t, 200, "")
	c.do(t, "POST", "sandboxes/"+id+"/stop", obj{}).want(t, 200, "")
	c.do(t, "GET", all, nil).want(t, 409, "SANDBOX_NOT_RUNNING")
	if a := c.do(t, "POST", "sandboxes/"+id+"/start", obj{}).want(t, 200, ""); a.str("boot_path") != "cold" {
		t.Fatalf("started %s", a)
	}
	eventually(t, 30*time.Second, "it serves after stop and start", serves)
	a = c.do(t, "GET", "sandboxes/"+id+"/services/web/logs?tail=1000", nil).want(t, 200, "")
	if n := strings.Count(a.str("data"), "up as b\n"); n != 3 {
		t.Errorf("its log tells of %d starts, want 3: %s", n, a)
	}
	if a := c.do(t, "GET", "sandboxes/"+id+"/processes/"+done+"/logs", nil).want(t, 200, ""); a.str("data") != "kept\n" {
		t.Errorf("what a process wrote before the stop: %s", a)
	}
	if a := c.do(t, "POST", all+"/web/stop", nil).want(t, 200, ""); a.str("status") != "stopped" {
		t.Errorf("stopped: %s", a)
	}
	c.do(t, "DELETE", all+"/web", nil).want(t, 200, "")
	c.do(t, "GET", all+"/web", nil).want(t, 404, "NOT_FOUND")
}

// Contracts §4.4: "POST /sandboxes/{id}/commands {command, cwd, env, user, sudo,
// tty, interactive, timeout}; GET …/commands/{cid}; …/logs?tail=; POST …/kill".
func TestCommands(t *testing.T) {
	t.Parallel()
	c := shared.tenant(t)
	id := c.create(t, obj{"timeout_sec": 900})
	all := "sandboxes/" + id + "/commands"
	start := func(body obj) string { return all + "/" + c.do(t, "POST", all, body).want(t, 201, "").str("id") }

	one := start(obj{"command": "pwd; echo $A; id -un; exit 3", "cwd": "/tmp", "env": obj{"A": "b c"}, "user": "root", "sudo": true})
	if a := c.do(t, "GET", one+"?wait=20", nil).want(t, 200, ""); a.str("status") != "failed" || a.num("exit_code") != 3 {
		t.Errorf("ended as %s", a)
	}
	if a := c.do(t, "GET", one+"/logs?tail=9", nil).want(t, 200, ""); a.str("data") != "/tmp\nb c\nroot\n" {
		t.Errorf("logs: %s", a)
	}
	if a := c.do(t, "GET", start(obj{"command": "test -t 0 && test -t 1", "tty": true})+"?wait=20", nil); a.str("status") != "exited" || a.at("tty") != true {
		t.Errorf("with a terminal: %s", a)
	}
	if a := c.do(t, "GET", start(obj{"command": "sleep 4718; true", "timeout": 1})+"?wait=20", nil); a.at("timed_out") != true || a.str("status") != "failed" {
		t.Errorf("out of time: %s", a)
	}
	cat := start(obj{"command": "cat", "interactive": true})
	c.do(t, "POST", cat+"/stdin", obj{"data": "x\n", "close": true}).want(t, 200, "")
	if a := c.do(t, "GET", cat+"?wait=20", nil).want(t, 200, ""); a.str("status") != "exited" {
		t.Errorf("interactive: %s", a)
	}
	long := start(obj{"command": "sleep 4718 & sleep 4718"})
	if a := c.do(t, "POST", long+"/kill", obj{}).want(t, 200, ""); a.str("signal") != "SIGKILL" || a.num("exit_code") != 137 {
		t.Errorf("killed: %s", a)
	}
	if a := c.do(t, "POST", long+"/kill", nil).want(t, 200, ""); a.num("exit_code") != 137 {
		t.Errorf("killed again: %s", a)
	}
	if n := c.sh(t, id, "ls /proc/[0-9]*/comm | xargs grep -l '^sleep$' 2>/dev/null | wc -l"); strings.TrimSpace(n) != "0" {
		t.Errorf("%s live on", n)
	}
}
