package e2e

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"
)

// Seed 001, "Execute a Command"; issue: "`working_dir` and its aliases, env",
// "the default folder is `/root`".
func TestExec(t *testing.T) {
	t.Parallel()
	c := shared.tenant(t)
	id := c.create(t, obj{"env": obj{"FROM": "create", "KEPT": "yes"}})
	cases := []struct {
		body           obj
		stdout, stderr string
		exit           float64
	}{
		{obj{"command": `python3 -c "print(1+1)"`, "timeout": 30}, "2\n", "", 0},
		{obj{"command": "echo out; echo err >&2; exit 3"}, "out\n", "err\n", 3},
		{obj{"command": "pwd"}, "/root\n", "", 0},
		{obj{"command": "pwd", "working_dir": "/tmp"}, "/tmp\n", "", 0},
		{obj{"command": "pwd", "cwd": "/usr"}, "/usr\n", "", 0},
		{obj{"command": "pwd", "dir": "/etc"}, "/etc\n", "", 0},
		{obj{"command": `echo "$FROM $KEPT $ODD"`, "env": obj{"FROM": "exec", "ODD": "a'b\"c"}}, "exec yes a'b\"c\n", "", 0},
		{obj{"command": `echo "$FROM"`}, "create\n", "", 0},
		{obj{"command": "cat"}, "", "", 0}, // nothing to read
		{obj{"command": "printf 'a b' | tr ' ' '\n' | sort -r; true && false"}, "b\na\n", "", 1},
		{obj{"command": "kill -9 $$"}, "", "", 137},
		{obj{"command": "no-such-command 2>/dev/null"}, "", "", 127},
		{obj{"command": "printf 'ünïcode ✓'"}, "ünïcode ✓", "", 0},
		{obj{"command": "true", "unknown": 1}, "", "", 0},
	}
	for _, tc := range cases {
		a := c.do(t, "POST", "sandboxes/"+id+"/exec", tc.body).want(t, 200, "")
		if a.str("stdout") != tc.stdout || a.str("stderr") != tc.stderr || a.num("exit_code") != tc.exit {
			t.Errorf("%v: got %s", tc.body, a)
		}
		// The hybrid envelope: seed 001 has it below data, others read flat.
		if a.str("data.stdout") != tc.stdout || a.num("data.exit_code") != tc.exit || a.str("data.sandbox_id") != id || a.str("sandbox_id") != id {
			t.Errorf("%v: below data: got %v", tc.body, a.at("data"))
		}
		if a.at("success") != (tc.exit == 0) || a.at("truncated") != false {
			t.Errorf("%v: success %v, truncated %v", tc.body, a.at("success"), a.at("truncated"))
		}
	}
	if a := c.exec(t, id, "true", obj{"working_dir": "/no/such/folder"}); a.Status < 400 || a.Status >= 500 {
		t.Errorf("a folder that is not there: got %s, want a client error", a)
	}
	c.exec(t, id, "true", obj{"working_dir": "/tmp", "cwd": "/usr"}).want(t, 422, "VALIDATION_ERROR")
}

// "a shell that leaves children behind returns at once"; the children live on.
func TestExecLeavesChildrenBehind(t *testing.T) {
	t.Parallel()
	c := shared.tenant(t)
	id := c.create(t, nil)
	start := time.Now()
	for _, command := range []string{
		"nohup sh -c 'while true; do date +%s%N > /tmp/beat1; sleep 0.1; done' & echo started",
		"(setsid sh -c 'while true; do date +%s%N > /tmp/beat2; sleep 0.1; done' &) ; echo started",
		"python3 -m http.server 8000 --bind 0.0.0.0 >/tmp/server.log 2>&1 & echo started",
	} {
		if got := c.sh(t, id, command); !strings.HasSuffix(got, "started") {
			t.Errorf("%s: got %q", command, got)
		}
	}
	if d := time.Since(start); d > 8*time.Second {
		t.Errorf("three commands with children in the background took %s", d)
	}
	for _, file := range []string{"/tmp/beat1", "/tmp/beat2"} {
		before := c.sh(t, id, "cat "+file+" 2>/dev/null || true")
		eventually(t, 10*time.Second, "the child behind "+file+" lives on", func() bool {
			now := c.sh(t, id, "cat "+file+" 2>/dev/null || true")
			return now != "" && now != before
		})
	}
	eventually(t, 10*time.Second, "the server in the background answers", func() bool {
		return c.exec(t, id, "curl -sf http://127.0.0.1:8000/").num("exit_code") == 0
	})
}

// "504 on timeout kills the whole process tree"; "ignores SIGTERM".
func TestExecTimeoutKillsTheTree(t *testing.T) {
	t.Parallel()
	c := shared.tenant(t)
	id := c.create(t, nil)
	start := time.Now()
	a := c.exec(t, id, `trap '' TERM HUP INT
sh -c 'trap "" TERM; sleep 1000' &
setsid sh -c 'trap "" TERM; sleep 1001' &
(setsid setsid sleep 1002 &)
echo before; sleep 1003`, obj{"timeout": 1})
	a.want(t, 504, "EXEC_TIMEOUT")
	checkEnvelope(t, a)
	if d := time.Since(start); d > 10*time.Second {
		t.Errorf("a time limit of 1 s was answered after %s", d)
	}
	eventually(t, 5*time.Second, "nothing of the tree is left", func() bool {
		return c.sh(t, id, "pgrep -fc 'sleep 100[0-3]' || true") == "0"
	})
	if got := c.sh(t, id, "echo usable"); got != "usable" {
		t.Errorf("after the time limit: got %q", got)
	}
}

// "`timeout` is clamped to 300": larger is no error.
func TestExecTimeoutIsClamped(t *testing.T) {
	t.Parallel()
	c := shared.tenant(t)
	id := c.create(t, nil)
	for _, timeout := range []int64{300, 301, 100000, 30000, 1 << 40} {
		a := c.exec(t, id, "echo ok", obj{"timeout": timeout}).want(t, 200, "")
		if a.str("stdout") != "ok\n" {
			t.Errorf("timeout %d: got %s", timeout, a)
		}
	}
}

// "bytes that are not UTF-8 become U+FFFD, with the exact ones in
// `stdout_base64`".
func TestExecOutputThatIsNotText(t *testing.T) {
	t.Parallel()
	c := shared.tenant(t)
	id := c.create(t, nil)
	a := c.exec(t, id, `printf 'a\377\376b'; printf '\300' >&2`).want(t, 200, "")
	if got := a.str("stdout"); !strings.HasPrefix(got, "a\uFFFD") || !strings.HasSuffix(got, "b") {
		t.Errorf("stdout: got %q", got)
	}
	for field, want := range map[string]string{"stdout_base64": "a\xff\xfeb", "stderr_base64": "\xc0"} {
		if got, err := base64.StdEncoding.DecodeString(a.str(field)); err != nil || string(got) != want {
			t.Errorf("%s: got %q (%v), want %q", field, got, err, want)
		}
	}
	if _, there := c.exec(t, id, "echo text").JSON["stdout_base64"]; there {
		t.Error("stdout_base64 stands beside plain text")
	}
	// A character cut in two by a flush is still that character.
	if got := c.exec(t, id, `printf '\342'; sleep 0.3; printf '\234\223'`).str("stdout"); got != "✓" {
		t.Errorf("a character in two writes: got %q", got)
	}
}

// "the blocking form up to 32 MiB, then `truncated: true`".
func TestExecOutputIsBounded(t *testing.T) {
	t.Parallel()
	c := shared.tenant(t)
	id := c.create(t, nil)
	a := c.exec(t, id, "echo begin >&2; yes 0123456789abcde | head -c 41943040", obj{"timeout": 120}).want(t, 200, "")
	out := a.str("stdout")
	if a.at("truncated") != true || a.num("exit_code") != 0 {
		t.Errorf("truncated %v, exit code %v", a.at("truncated"), a.at("exit_code"))
	}
	if n := len(out); n > 32<<20 || n < 31<<20 {
		t.Errorf("got %d bytes, want 32 MiB", n)
	}
	if !strings.HasPrefix(out, "0123456789abcde\n0123") {
		t.Errorf("it does not begin with the beginning: %.40q", out)
	}
	if a.str("stderr") != "begin\n" {
		t.Errorf("stderr beside a flood of stdout: got %q", a.str("stderr"))
	}
}

// "the stream carries output of any size, whole and in order".
func TestExecStreamIsWhole(t *testing.T) {
	t.Parallel()
	c := shared.tenant(t)
	id := c.create(t, nil)
	const lines, width = 200_000, 1000
	program := fmt.Sprintf(`import sys
pad = 'x' * %d
for i in range(%d):
    sys.stdout.write('%%09d %%s\n' %% (i, pad))
sys.stderr.write('done\n')
sys.exit(7)`, width-11, lines)
	want := sha256.New()
	pad := strings.Repeat("x", width-11)
	for i := range lines {
		fmt.Fprintf(want, "%09d %s\n", i, pad)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	req, err := c.request(ctx, "POST", "sandboxes/"+id+"/exec/stream", obj{"command": "python3 -c \"$CODE\"", "env": obj{"CODE": program}, "timeout": 280})
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	res, err := c.http.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	events := newFrames(res.Body)
	got, total, kinds := sha256.New(), 0, map[string]int{}
	var exit obj
	for {
		f, err := events.next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("after %d bytes: %v", total, err)
		}
		kinds[f.Event]++
		var data struct {
			Type, Data string
			DataBase64 []byte `json:"data_base64"`
		}
		if err := json.Unmarshal([]byte(f.Data), &data); err != nil {
			t.Fatalf("event %s: %v", f.Event, err)
		}
		if data.Type != f.Event {
			t.Fatalf("event %q carries type %q", f.Event, data.Type)
		}
		switch f.Event {
		case "stdout":
			n, _ := io.WriteString(got, data.Data)
			total += n
		case "exit":
			exit = f.JSON()
		}
	}
	t.Logf("%d MB in %s, events %v, longest line %d bytes", total>>20, time.Since(start), kinds, events.longest)
	if total != lines*width || !bytes.Equal(got.Sum(nil), want.Sum(nil)) {
		t.Errorf("got %d bytes with another digest than written, want %d", total, lines*width)
	}
	if exit["exit_code"] != 7.0 || kinds["exit"] != 1 || kinds["stderr"] == 0 {
		t.Errorf("exit %v, events %v", exit, kinds)
	}
	// "SSE lines > 64 KiB kill" a public client.
	if events.longest > 64<<10 {
		t.Errorf("a line of %d bytes, want at most 64 KiB", events.longest)
	}
}

// Seed 001, "Stream Command Output": the events' names and fields.
func TestExecStreamEvents(t *testing.T) {
	t.Parallel()
	c := shared.tenant(t)
	id := c.create(t, nil)
	s := c.open(t, "POST", "sandboxes/"+id+"/exec/stream", obj{"command": "echo one; echo two >&2; sleep 2; printf three; exit 4"})
	if s.Header.Get("X-Request-Id") == "" {
		t.Error("no x-request-id on a stream")
	}
	start := time.Now()
	one := s.until(t, 10*time.Second, "stdout", func(f frame) bool { return f.Event == "stdout" })
	if one.JSON()["line"] != "one" {
		t.Errorf("got %v, want line one", one)
	}
	if time.Since(start) > 1800*time.Millisecond {
		t.Error("output did not come while the command was running")
	}
	exit := s.until(t, 10*time.Second, "exit", func(f frame) bool { return f.Event == "exit" })
	if exit.JSON()["exit_code"] != 4.0 {
		t.Errorf("exit: got %v", exit)
	}
	s.ends(t, 5*time.Second)

	late := c.open(t, "POST", "sandboxes/"+id+"/exec/stream", obj{"command": "echo x; sleep 100", "timeout": 1})
	late.until(t, 10*time.Second, "an end because of time", func(f frame) bool {
		return f.Event == "exit" && f.JSON()["timed_out"] == true || f.Event == "error" && f.JSON()["code"] == "EXEC_TIMEOUT"
	})
	late.ends(t, 5*time.Second)
}

// "client disconnects mid-stream, reads slowly …: resources freed within
// seconds, other clients unaffected".
func TestExecClientThatLeavesOrDawdles(t *testing.T) {
	t.Parallel()
	c := shared.tenant(t)
	id := c.create(t, nil)
	running := func(mark string) string { return c.sh(t, id, "pgrep -fc '[s]leep "+mark+"' || true") }

	s := c.open(t, "POST", "sandboxes/"+id+"/exec/stream", obj{"command": "echo go; sleep 4711 & sleep 4711", "timeout": 300})
	s.until(t, 10*time.Second, "it runs", func(f frame) bool { return f.Event == "stdout" })
	s.cancel()
	eventually(t, 10*time.Second, "the command of a stream whose client left is gone", func() bool { return running("4711") == "0" })

	ctx, cancel := context.WithCancel(t.Context())
	left := make(chan struct{})
	go func() {
		defer close(left)
		_, _ = c.try(ctx, "POST", "sandboxes/"+id+"/exec", obj{"command": "sleep 4712", "timeout": 300})
	}()
	eventually(t, 10*time.Second, "it runs", func() bool { return running("4712") != "0" })
	cancel()
	<-left
	eventually(t, 10*time.Second, "the command of a client that left is gone", func() bool { return running("4712") == "0" })

	// A reader that takes nothing holds up neither others nor the daemon.
	req, err := c.request(t.Context(), "POST", "sandboxes/"+id+"/exec/stream", obj{"command": "yes", "timeout": 60})
	if err != nil {
		t.Fatal(err)
	}
	res, err := c.http.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 20 {
		start := time.Now()
		if got := c.sh(t, id, "echo fine"); got != "fine" || time.Since(start) > 5*time.Second {
			t.Errorf("exec %d beside a slow reader: got %q after %s", i, got, time.Since(start))
		}
	}
	res.Body.Close()
	eventually(t, 10*time.Second, "the flood of the slow reader is gone", func() bool { return c.sh(t, id, "pgrep -xc yes || true") == "0" })
}
