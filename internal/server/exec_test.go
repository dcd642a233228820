package server

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"silica.dev/silica/internal/guest/guestpb"
	"silica.dev/silica/sandbox"
)

func (a *fakeAgent) on(command string, run func(*process)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.commands[command] = run
}

func ok(p *process) { p.exit(&guestpb.ProcessEvent_Exited{}) }

// {"data":{sandbox_id, stdout, stderr, exit_code}}, and flat, and output,
// success and duration_ms, which public clients read.
func TestExecAnswer(t *testing.T) {
	w, _, base := serveWorld(t, Config{})
	id := create(t, base, `{}`)
	w.agent.on("c; exit 3", func(p *process) {
		_ = p.stdout("2\n")
		_ = p.stderr("warn\x00<>\n")
		_ = p.stdout("é")
		p.exit(&guestpb.ProcessEvent_Exited{ExitCode: 3})
	})
	a := request(t, "POST", base+"/api/v1/sandboxes/"+id+"/exec", `{"command":"c; exit 3","working_dir":"/tmp","env":{"A":"1"},"timeout":5}`)
	for _, o := range []map[string]any{a.body, a.body["data"].(map[string]any)} {
		for k, want := range map[string]any{
			"sandbox_id": id, "stdout": "2\né", "stderr": "warn\x00<>\n", "output": "2\nwarn\x00<>\né", "exit_code": 3.0, "success": false, "truncated": false,
		} {
			if o[k] != want {
				t.Errorf("%s: got %q, want %q", k, o[k], want)
			}
		}
		if _, ok := o["duration_ms"].(float64); !ok || o["stdout_base64"] != nil {
			t.Errorf("%v", o)
		}
	}
	req := w.agent.started[0]
	if req.Args[0] != "/bin/bash" || req.Args[1] != "-c" || req.Cwd != "/tmp" || req.Env["A"] != "1" || req.TimeoutMs != 5000 {
		t.Errorf("started %v", req)
	}
}

func TestExecFallsBackToSh(t *testing.T) {
	w, _, base := serveWorld(t, Config{})
	id := create(t, base, `{}`)
	w.agent.noBash = true
	w.agent.on("c | c", ok)
	a := request(t, "POST", base+"/api/v1/sandboxes/"+id+"/exec", `{"command":"c | c"}`)
	if a.status != 200 || a.body["output"] != "" || a.body["exit_code"] != 0.0 || w.agent.started[0].Args[0] != "/bin/sh" {
		t.Errorf("%s %v", a.raw, w.agent.started)
	}
}

// A program and plain words need no shell; what can't be run so gets one.
func TestExecOfPlainWordsNeedsNoShell(t *testing.T) {
	w, _, base := serveWorld(t, Config{})
	id := create(t, base, `{}`)
	w.agent.on("c -x", ok)
	request(t, "POST", base+"/api/v1/sandboxes/"+id+"/exec", `{"command":"c -x"}`)
	request(t, "POST", base+"/api/v1/sandboxes/"+id+"/exec", `{"command":"c -x","env":{"BASH_ENV":"/x"}}`)
	if got := w.agent.started[0].Args; !slices.Equal(got, []string{"c", "-x"}) {
		t.Errorf("plain words were started as %q", got)
	}
	if got := w.agent.started[1].Args; got[0] != "/bin/bash" {
		t.Errorf("with BASH_ENV set, plain words were started as %q", got)
	}
}

// "timeout: default 30, max 300"; one public client sends milliseconds.
func TestExecTimeoutUnits(t *testing.T) {
	w, _, base := serveWorld(t, Config{})
	id := create(t, base, `{}`)
	w.agent.on("c", ok)
	for _, tt := range []struct {
		timeout, agent string
		want           int64
	}{
		{"null", "", 30000}, {"0", "", 30000}, {"1", "", 1000}, {"300", "", 300000}, {"301", "", 300000}, {"5000", "", 300000},
		{"5000", "miosa-elixir/2.0.0", 5000}, {"5", "miosa-elixir/2.0.0", 5000}, {"900000", "miosa-elixir/2.0.0", 300000},
	} {
		request(t, "POST", base+"/api/v1/sandboxes/"+id+"/exec", `{"command":"c","timeout":`+tt.timeout+`}`, "User-Agent", tt.agent)
		if got := w.agent.started[len(w.agent.started)-1].TimeoutMs; got != tt.want {
			t.Errorf("timeout %s from %q: %d ms, want %d", tt.timeout, tt.agent, got, tt.want)
		}
	}
}

func TestExecBadInput(t *testing.T) {
	w, _, base := serveWorld(t, Config{})
	id := create(t, base, `{}`)
	for body, want := range map[string]string{
		`{}`: "command", `{"command":""}`: "command", `{"command":7}`: "command", `{"command":["ls"]}`: "command",
		`{"command":"a\u0000b"}`: "command", `{"command":"` + strings.Repeat("x", 200<<10) + `"}`: "command",
		`{"command":"c","timeout":"5"}`: "timeout", `{"command":"c","timeout":-1}`: "timeout", `{"command":"c","timeout":1.5}`: "timeout",
		`{"command":"c","env":{"A":1}}`: "env.A", `{"command":"c","cwd":"/a","working_dir":"/b"}`: "cwd",
	} {
		for _, route := range []string{"/exec", "/exec/stream"} {
			a := request(t, "POST", base+"/api/v1/sandboxes/"+id+route, body)
			a.want(t, 422, "VALIDATION_ERROR")
			if d, _ := a.body["error"].(map[string]any)["details"].(map[string]any); d["field"] != want {
				t.Errorf("%.50s: field %v, want %s", body, d["field"], want)
			}
		}
	}
	if len(w.agent.started) != 0 {
		t.Error("something ran")
	}
	for _, route := range []string{"/exec", "/exec/stream"} {
		request(t, "POST", base+"/api/v1/sandboxes/"+id+route, `{"command":"c","cwd":"/missing"}`).want(t, 422, "WORKING_DIR_NOT_FOUND")
	}
	w.move(id, sandbox.Paused)
	for _, route := range []string{"/exec", "/exec/stream"} {
		// "exec or files on a sandbox that isn't running: 409 SANDBOX_NOT_RUNNING"
		request(t, "POST", base+"/api/v1/sandboxes/"+id+route, `{"command":"c"}`).want(t, 409, "SANDBOX_NOT_RUNNING")
	}
}

// "504 EXEC_TIMEOUT with partial output in details".
func TestExecTimeoutAnswer(t *testing.T) {
	w, _, base := serveWorld(t, Config{})
	id := create(t, base, `{}`)
	w.agent.on("c", func(p *process) {
		_ = p.stdout("half")
		p.exit(&guestpb.ProcessEvent_Exited{ExitCode: 137, Signal: "SIGKILL", TimedOut: true})
	})
	a := request(t, "POST", base+"/api/v1/sandboxes/"+id+"/exec", `{"command":"c","timeout":1}`)
	a.want(t, 504, "EXEC_TIMEOUT")
	if d := a.body["error"].(map[string]any)["details"].(map[string]any); d["stdout"] != "half" || d["timeout"] != 1.0 {
		t.Errorf("details %v", d)
	}
}

// "bytes that are not UTF-8 become U+FFFD, with the exact ones in stdout_base64".
func TestExecBinaryOutput(t *testing.T) {
	w, _, base := serveWorld(t, Config{})
	id := create(t, base, `{}`)
	w.agent.on("c", func(p *process) {
		_ = p.stdout("a\xffb\xe2\x82")
		_ = p.stdout("\xac\xf0\x9f") // finishes a euro sign, begins what never comes
		_ = p.stderr("fine")
		ok(p)
	})
	a := request(t, "POST", base+"/api/v1/sandboxes/"+id+"/exec", `{"command":"c"}`)
	raw, _ := base64.StdEncoding.DecodeString(a.body["stdout_base64"].(string))
	if a.body["stdout"] != "a\uFFFDb€\uFFFD\uFFFD" || string(raw) != "a\xffb\xe2\x82\xac\xf0\x9f" || a.body["stderr_base64"] != nil {
		t.Errorf("stdout %q base64 %q stderr_base64 %v", a.body["stdout"], raw, a.body["stderr_base64"])
	}
}

// "up to 32 MiB, then truncated: true"; the command runs on to its end.
func TestExecTruncates(t *testing.T) {
	if _, s, _ := serveWorld(t, Config{}); s.cfg.MaxOutput != 32<<20 {
		t.Errorf("by default %d", s.cfg.MaxOutput)
	}
	const most = 3<<20 + 5
	w, s, base := serveWorld(t, Config{MaxOutput: most})
	id := create(t, base, `{}`)
	block := strings.Repeat("0123456789abcdef", 64<<10/16)
	w.agent.on("flood", func(p *process) {
		for range 4 << 20 / len(block) {
			if p.stdout(block) != nil {
				return
			}
		}
		p.exit(&guestpb.ProcessEvent_Exited{ExitCode: 9})
	})
	a := request(t, "POST", base+"/api/v1/sandboxes/"+id+"/exec", `{"command":"flood"}`)
	if n := len(a.body["stdout"].(string)); n != most || a.body["truncated"] != true || a.body["exit_code"] != 9.0 {
		t.Errorf("%d bytes, truncated %v, exit %v", n, a.body["truncated"], a.body["exit_code"])
	}
	if got := s.execMemory.used; got != 0 {
		t.Errorf("%d bytes are still taken", got)
	}
}

func TestOutputBoundsItself(t *testing.T) {
	budget := newBudget(400 << 10)
	o := newOutput(1000, budget, "a")
	for range 1000 { // changes between the streams cost too
		o.add(guestpb.ProcessEvent_STDOUT, []byte("a"))
		o.add(guestpb.ProcessEvent_STDERR, []byte("b"))
	}
	if !o.truncated || len(o.runs) > 1000/runCost+1 {
		t.Errorf("%d runs, truncated %v", len(o.runs), o.truncated)
	}
	small := newOutput(1<<20, budget, "a")
	small.add(guestpb.ProcessEvent_STDOUT, make([]byte, 200<<10))
	if !small.truncated {
		t.Error("the shared budget must hold")
	}
	if n := small.size(); n > 100<<10 {
		t.Errorf("one tenant holds %d bytes, more than a quarter", n)
	}
	theirs := newOutput(1<<20, budget, "b")
	theirs.add(guestpb.ProcessEvent_STDOUT, make([]byte, 90<<10))
	if theirs.truncated {
		t.Error("one tenant's outputs cost another's")
	}
	other := newOutput(1<<20, budget, "a") // nothing is left for it
	other.add(guestpb.ProcessEvent_STDOUT, make([]byte, outputFloor))
	if other.truncated || other.text(guestpb.ProcessEvent_STDOUT, 1<<20) != string(make([]byte, outputFloor)) {
		t.Error("a small output is lost when others hold the budget")
	}
	o.release()
	small.release()
	other.release()
	theirs.release()
	if budget.used != 0 || len(budget.tenants) != 0 {
		t.Errorf("%d taken at the end, by %v", budget.used, budget.tenants)
	}
}

// sseEvent is one event as it stood on the wire.
type sseEvent struct {
	id, name string
	line     string
	data     map[string]any
}

// readSSE reads events until the stream's end, or until stop says so.
func readSSE(t *testing.T, r io.Reader, stop func(sseEvent) bool) []sseEvent {
	t.Helper()
	var all []sseEvent
	var ev sseEvent
	sc := bufio.NewScanner(r)
	sc.Buffer(nil, 64<<10) // what public clients can take
	for sc.Scan() {
		switch line := sc.Text(); {
		case line == "":
			if ev.name != "" {
				if ev.data["type"] != ev.name && ev.name != "change" || ev.data["timestamp"] == nil { // of a change, type is the verb
					t.Errorf("event %s without its type or timestamp: %.200s", ev.name, ev.line)
				}
				all = append(all, ev)
				if stop != nil && stop(ev) {
					return all
				}
			}
			ev = sseEvent{}
		case strings.HasPrefix(line, "id: "):
			ev.id = line[4:]
		case strings.HasPrefix(line, "event: "):
			ev.name = line[7:]
		case strings.HasPrefix(line, "data: "):
			if ev.line != "" {
				t.Errorf("two data lines in one event: %.200s", line)
			}
			ev.line = line[6:]
			if err := json.Unmarshal([]byte(ev.line), &ev.data); err != nil {
				t.Fatalf("data is no object: %v: %.200s", err, ev.line)
			}
		}
	}
	if err := sc.Err(); err != nil && t.Context().Err() == nil {
		t.Errorf("stream: %v", err)
	}
	return all
}

// stream opens a stream with key A. The body ends with the test.
func stream(t *testing.T, method, url, body string, header ...string) *http.Response {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	req, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+keyA)
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cancel(); res.Body.Close() })
	return res
}

func joined(events []sseEvent, name string) (string, []string) {
	var b strings.Builder
	var lines []string
	for _, ev := range events {
		if ev.name != name {
			continue
		}
		if raw, ok := ev.data["data_base64"].(string); ok {
			p, _ := base64.StdEncoding.DecodeString(raw)
			b.Write(p)
		} else {
			b.WriteString(ev.data["data"].(string))
		}
		lines = append(lines, ev.data["line"].(string))
	}
	return b.String(), lines
}

// event: stdout / data: {"line": …}; event: exit / data: {"exit_code": 0}.
func TestExecStreamFormat(t *testing.T) {
	w, _, base := serveWorld(t, Config{})
	id := create(t, base, `{}`)
	long := strings.Repeat("\x01\"€", 40<<10)
	w.agent.on("c", func(p *process) {
		for _, s := range []string{"one\ntw", "o\r\n\n", "bad \xff\xfe\n", "caf\xc3", "\xa9\n", long + "\n", "end"} {
			_ = p.stdout(s)
		}
		_ = p.stderr("err\n")
		p.exit(&guestpb.ProcessEvent_Exited{ExitCode: 4, Signal: ""})
	})
	res := stream(t, "POST", base+"/api/v1/sandboxes/"+id+"/exec/stream", `{"command":"c"}`)
	if res.StatusCode != 200 || res.Header.Get("Content-Type") != "text/event-stream" || res.Header.Get("Cache-Control") != "no-cache" ||
		res.Header.Get("X-Request-Id") == "" {
		t.Errorf("%d %v", res.StatusCode, res.Header)
	}
	events := readSSE(t, res.Body, nil)
	out, lines := joined(events, "stdout")
	want := "one\ntwo\r\n\nbad \xff\xfe\ncafé\n" + long + "\nend"
	if out != want {
		t.Errorf("stdout differs: %d bytes, want %d", len(out), len(want))
	}
	if lines[0] != "one" || lines[1] != "two" || lines[2] != "" || lines[3] != "bad \uFFFD\uFFFD" || lines[4] != "café" || lines[len(lines)-1] != "end" {
		t.Errorf("lines %.80q … %q", lines[:5], lines[len(lines)-1])
	}
	if errs, _ := joined(events, "stderr"); errs != "err\n" {
		t.Errorf("stderr %q", errs)
	}
	for _, ev := range events {
		if len(ev.line) > 63<<10 {
			t.Errorf("a line of %d bytes", len(ev.line))
		}
	}
	last := events[len(events)-1]
	if last.name != "exit" || last.data["exit_code"] != 4.0 || last.data["success"] != false {
		t.Errorf("last event %v", last)
	}
}

// "the stream carries output of any size, whole and in order", while the
// reader decides the speed.
func TestExecStreamWholeAndInOrder(t *testing.T) {
	w, _, base := serveWorld(t, Config{})
	id := create(t, base, `{}`)
	const rows = 50_000
	w.agent.on("count", func(p *process) {
		var b bytes.Buffer
		for i := range rows {
			fmt.Fprintf(&b, "row %d\n", i)
			if b.Len() > 30<<10 {
				if p.stdout(b.String()) != nil {
					return
				}
				b.Reset()
			}
		}
		_ = p.stdout(b.String())
		ok(p)
	})
	res := stream(t, "POST", base+"/api/v1/sandboxes/"+id+"/exec/stream", `{"command":"count"}`)
	next := 0
	readSSE(t, res.Body, func(ev sseEvent) bool {
		if ev.name == "stdout" {
			if want := fmt.Sprintf("row %d", next); ev.data["line"] != want {
				t.Fatalf("got %v, want %s", ev.data["line"], want)
			}
			next++
		}
		return false
	})
	if next != rows {
		t.Errorf("%d rows of %d", next, rows)
	}
}

// A prompt has no end of line, and is shown all the same.
func TestExecStreamShowsUnfinishedLines(t *testing.T) {
	w, _, base := serveWorld(t, Config{})
	id := create(t, base, `{}`)
	release := make(chan struct{})
	w.agent.on("ask", func(p *process) {
		_ = p.stdout("password: ")
		<-release
		ok(p)
	})
	res := stream(t, "POST", base+"/api/v1/sandboxes/"+id+"/exec/stream", `{"command":"ask"}`)
	events := readSSE(t, res.Body, func(ev sseEvent) bool { return ev.name == "stdout" })
	close(release)
	if last := events[len(events)-1]; last.data["line"] != "password: " || last.data["partial"] != true {
		t.Errorf("%v", last)
	}
}

// What prevents the start is an ordinary answer; what ends it later an event.
func TestExecStreamErrors(t *testing.T) {
	w, _, base := serveWorld(t, Config{})
	id := create(t, base, `{}`)
	w.agent.on("late", func(p *process) {
		_ = p.stdout("x\n")
		p.exit(&guestpb.ProcessEvent_Exited{ExitCode: 137, TimedOut: true})
	})
	w.agent.on("dies", func(p *process) { _ = p.stdout("half") })
	late := readSSE(t, stream(t, "POST", base+"/api/v1/sandboxes/"+id+"/exec/stream", `{"command":"late"}`).Body, nil)
	if last := late[len(late)-1]; last.name != "exit" || last.data["timed_out"] != true || last.data["code"] != "EXEC_TIMEOUT" {
		t.Errorf("timeout: %v", last)
	}
	dies := readSSE(t, stream(t, "POST", base+"/api/v1/sandboxes/"+id+"/exec/stream", `{"command":"dies"}`).Body, nil)
	if out, _ := joined(dies, "stdout"); out != "half" || dies[len(dies)-1].name != "error" || dies[len(dies)-1].data["code"] != "SANDBOX_LOST" {
		t.Errorf("lost: %v", dies)
	}
	request(t, "POST", base+"/api/v1/sandboxes/"+id+"/exec", `{"command":"dies"}`).want(t, 409, "SANDBOX_LOST")
}

// "client disconnects mid-stream: resources freed within seconds".
func TestClientLeavesCommandDies(t *testing.T) {
	w, _, base := serveWorld(t, Config{})
	id := create(t, base, `{}`)
	for _, route := range []string{"/exec", "/exec/stream"} {
		began, ended := make(chan struct{}), make(chan struct{})
		w.agent.on("sleep", func(p *process) { close(began); <-p.ctx.Done(); close(ended) })
		ctx, cancel := context.WithCancel(t.Context())
		req, _ := http.NewRequestWithContext(ctx, "POST", base+"/api/v1/sandboxes/"+id+route, strings.NewReader(`{"command":"sleep"}`))
		req.Header.Set("Authorization", "Bearer "+keyA)
		done := make(chan struct{})
		go func() {
			defer close(done)
			if res, err := http.DefaultClient.Do(req); err == nil {
				_, _ = io.Copy(io.Discard, res.Body)
				res.Body.Close()
			}
		}()
		<-began
		cancel()
		select {
		case <-ended:
		case <-time.After(5 * time.Second):
			t.Errorf("%s: the command runs on", route)
		}
		<-done
	}
}

// "client reads slowly: resources freed within seconds, others unaffected":
// one that does not read at all is dropped, and its command with it.
func TestClientThatDoesNotReadIsDropped(t *testing.T) {
	w, _, base := serveWorld(t, Config{WriteIdle: 300 * time.Millisecond})
	id := create(t, base, `{}`)
	ended := make(chan struct{})
	w.agent.on("flood", func(p *process) {
		defer close(ended)
		for p.stdout(strings.Repeat("x", 1000)+"\n") == nil {
		}
	})
	conn, err := net.Dial("tcp", strings.TrimPrefix(base, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	body := `{"command":"flood","timeout":300}`
	fmt.Fprintf(conn, "POST /api/v1/sandboxes/%s/exec/stream HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Length: %d\r\n\r\n%s", id, keyA, len(body), body)
	select {
	case <-ended:
	case <-time.After(20 * time.Second):
		t.Error("the command runs on")
	}
}

// "sends half a body: resources freed within seconds".
func TestHalfABody(t *testing.T) {
	_, _, base := serveWorld(t, Config{ReadIdle: 200 * time.Millisecond})
	id := create(t, base, `{}`)
	for _, path := range []string{"", "/" + id + "/exec", "/" + id + "/files"} {
		conn, err := net.Dial("tcp", strings.TrimPrefix(base, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(conn, "POST /api/v1/sandboxes%s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Length: 1000\r\n\r\n{\"comm", path, keyA)
		_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
		raw, err := io.ReadAll(conn) // the server answers and hangs up
		if err != nil || !bytes.Contains(raw, []byte("400 Bad Request")) {
			t.Errorf("%s: %v %.200s", path, err, raw)
		}
		conn.Close()
	}
}

// A kept connection must not inherit deadlines of earlier requests.
func TestDeadlinesEndWithTheirRequest(t *testing.T) {
	w, _, base := serveWorld(t, Config{WriteIdle: 100 * time.Millisecond, ReadIdle: 100 * time.Millisecond})
	id := create(t, base, `{}`)
	w.agent.on("slow", func(p *process) {
		select {
		case <-time.After(400 * time.Millisecond):
		case <-p.ctx.Done():
		}
		ok(p)
	})
	for range 2 {
		if a := request(t, "POST", base+"/api/v1/sandboxes/"+id+"/exec", `{"command":"slow"}`); a.status != 200 {
			t.Errorf("%d %s", a.status, a.raw)
		}
	}
}

// Output shows up in the sandbox's events while it comes.
func TestExecOutputIsPublished(t *testing.T) {
	w, _, base := serveWorld(t, Config{})
	id := create(t, base, `{}`)
	w.agent.on("c", func(p *process) {
		for range 100 {
			_ = p.stdout("é")
		}
		_ = p.stderr("e")
		ok(p)
	})
	res := stream(t, "GET", base+"/api/v1/sandboxes/"+id+"/events", "")
	w.awaitFollower()
	request(t, "POST", base+"/api/v1/sandboxes/"+id+"/exec", `{"command":"c"}`)
	var out, errs string
	readSSE(t, res.Body, func(ev sseEvent) bool {
		if ev.name == "exec_output" {
			if ev.id != "" || !strings.HasPrefix(ev.data["exec_id"].(string), "exec_") {
				t.Errorf("%v", ev)
			}
			if ev.data["stream"] == "stdout" {
				out += ev.data["data"].(string)
			} else {
				errs += ev.data["data"].(string)
			}
		}
		return errs != ""
	})
	if out != strings.Repeat("é", 100) || errs != "e" {
		t.Errorf("out %q err %q", out, errs)
	}
}

// "streams end with a reason when the server shuts down"; commands are told.
func TestShutdown(t *testing.T) {
	w, s, base := serveWorld(t, Config{})
	id := create(t, base, `{}`)
	w.notReady = true
	late := create(t, base, `{}`)
	began := make(chan struct{}, 2)
	w.agent.on("sleep", func(p *process) { began <- struct{}{}; <-p.ctx.Done() })
	events := stream(t, "GET", base+"/api/v1/sandboxes/"+id+"/events", "")
	ready := stream(t, "GET", base+"/api/v1/sandboxes/"+late+"/readiness/stream", "")
	run := stream(t, "POST", base+"/api/v1/sandboxes/"+id+"/exec/stream", `{"command":"sleep"}`)
	<-began
	blocked := make(chan answer, 1)
	go func() { blocked <- request(t, "POST", base+"/api/v1/sandboxes/"+id+"/exec", `{"command":"sleep"}`) }()
	<-began
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if err := s.Shutdown(ctx); err != nil {
		t.Error(err)
	}
	for name, r := range map[string]io.Reader{"events": events.Body, "readiness": ready.Body} {
		got := readSSE(t, r, nil)
		if len(got) == 0 || got[len(got)-1].name != "closing" {
			t.Errorf("%s ended with %v", name, got)
		}
	}
	got := readSSE(t, run.Body, nil)
	if len(got) != 1 || got[0].name != "error" || got[0].data["code"] != "CONFLICT" {
		t.Errorf("exec stream ended with %v", got)
	}
	// No 5xx: most public clients would run the command again.
	(<-blocked).want(t, 409, "CONFLICT")
}

func TestTextHelpers(t *testing.T) {
	for _, in := range []string{"", "a", "é€😀", "\xff", "\xe2\x82", "a\xc3", "\x01\"\\\n\r\t", "\u2028"} {
		got, bad := escape(nil, []byte(in))
		var back string
		if err := json.Unmarshal([]byte(`"`+string(got)+`"`), &back); err != nil {
			t.Errorf("%q: %v", in, err)
		}
		want, _ := json.Marshal(in)
		var std string
		_ = json.Unmarshal(want, &std)
		if back != std || bad != (back != in) {
			t.Errorf("%q: got %q (bad %v), want %q", in, back, bad, std)
		}
		for budget := range 20 {
			if n := fits([]byte(in), budget); len(in) > 0 && (n < 1 || n > len(in)) {
				t.Errorf("fits(%q, %d) = %d", in, budget, n)
			}
		}
	}
	for in, want := range map[string]int{"a": 0, "\xe2": 1, "a\xe2\x82": 2, "€": 0, "\xf0\x9f\x98": 3, "\x80\x80\x80\x80": 0, "\xff": 0} {
		if got := unfinished([]byte(in)); got != want {
			t.Errorf("unfinished(%q) = %d, want %d", in, got, want)
		}
	}
}
