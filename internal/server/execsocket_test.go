package server

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"silica.dev/silica/internal/guest/guestpb"
	"silica.dev/silica/sandbox"
)

// peer is a client's end of a WebSocket.
type peer struct {
	t *testing.T
	*websocket.Conn
	res *http.Response
}

// message is one that the server sent, or how it closed.
type message struct {
	text   bool
	data   string
	status websocket.StatusCode // 0: not closed
	reason string
}

// dial opens a socket with key A unless a header says otherwise.
func dial(t *testing.T, url string, protocols []string, header ...string) (*peer, error) {
	t.Helper()
	h := http.Header{"Authorization": {"Bearer " + keyA}}
	for i := 0; i < len(header); i += 2 {
		if header[i+1] == "" {
			h.Del(header[i])
		} else {
			h.Set(header[i], header[i+1])
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	c, res, err := websocket.Dial(ctx, strings.Replace(url, "http", "ws", 1), &websocket.DialOptions{HTTPHeader: h, Subprotocols: protocols})
	if err != nil {
		return &peer{t: t, res: res}, err
	}
	c.SetReadLimit(1 << 20)
	t.Cleanup(func() { _ = c.CloseNow() })
	return &peer{t, c, res}, nil
}

func mustDial(t *testing.T, url string, protocols []string, header ...string) *peer {
	t.Helper()
	p, err := dial(t, url, protocols, header...)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func (p *peer) next() message {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), 20*time.Second)
	defer cancel()
	kind, data, err := p.Read(ctx)
	if ce := (websocket.CloseError{}); errors.As(err, &ce) {
		return message{status: ce.Code, reason: ce.Reason}
	}
	if err != nil {
		p.t.Fatalf("read: %v", err)
	}
	return message{text: kind == websocket.MessageText, data: string(data)}
}

// all reads to the closing frame.
func (p *peer) all() (all []message) {
	p.t.Helper()
	for {
		all = append(all, p.next())
		if all[len(all)-1].status != 0 {
			return all
		}
	}
}

func (p *peer) send(text bool, data string) {
	p.t.Helper()
	kind := websocket.MessageBinary
	if text {
		kind = websocket.MessageText
	}
	if err := p.Write(p.t.Context(), kind, []byte(data)); err != nil {
		p.t.Fatalf("write: %v", err)
	}
}

// awaitTold returns the next thing a process was sent.
func (a *fakeAgent) awaitTold(t *testing.T) any {
	t.Helper()
	select {
	case m := <-a.told:
		return m
	case <-time.After(20 * time.Second):
		t.Fatal("the process was sent nothing")
		return nil
	}
}

// speak is a command that writes to both streams and exits with 3.
func speak(p *process) {
	_ = p.stdout("a\xc3")
	_ = p.stderr("e")
	_ = p.stdout("\xa9\n")
	p.exit(&guestpb.ProcessEvent_Exited{ExitCode: 3})
}

func text(data string) message { return message{text: true, data: data} }
func raw(data string) message  { return message{data: data} }

// §7.2, server → client, each dialect: "all output must be sent before the exit
// frame", and the exit as each client reads it.
func TestExecSocketDialects(t *testing.T) {
	w, _, base := serveWorld(t, Config{})
	id := create(t, base, `{}`)
	w.agent.on("speak | cat", speak)
	bye := message{status: 1000, reason: "exit 3"}
	exit := text(`{"code":3,"exit":3,"type":"exit"}`)
	for _, tt := range []struct {
		name, path, agent string
		protocols         []string
		want              []message
	}{
		// "binary, first byte selector: 2 = stderr, anything else = stdout"; "text {"type":"exit","exit":N}"
		{"go", "spawn", "miosa-go/2.0.2", nil, []message{raw("\x01a\xc3"), raw("\x02e"), raw("\x01\xa9\n"), exit, bye}},
		// "on /exec/spawn send each chunk twice"; JSON has whole characters
		{"python", "spawn", "Python/3.12 websockets/13", nil, []message{
			raw("\x01a\xc3"), text(`{"data":"a","type":"stdout"}`), raw("\x02e"), text(`{"data":"e","type":"stderr"}`),
			raw("\x01\xa9\n"), text(`{"data":"é\n","type":"stdout"}`), exit, bye,
		}},
		// "0x01 stdout, 0x02 stderr"; "0x03 + u32 BE exit code"
		{"typescript", "stream", "", []string{"miosa-exec-v1"}, []message{raw("\x01a\xc3"), raw("\x02e"), raw("\x01\xa9\n"), raw("\x03\x00\x00\x00\x03"), bye}},
		// "text or binary = output (merged)"; "close code 1000 + exit code"
		{"elixir", "ws", "", nil, []message{raw("a\xc3"), raw("e"), raw("\xa9\n"), {status: 1003, reason: "exit 3"}}},
	} {
		for _, root := range []string{"sandboxes", "computers"} {
			t.Run(tt.name+"/"+root, func(t *testing.T) {
				p := mustDial(t, base+"/api/v1/"+root+"/"+id+"/exec/"+tt.path+"?command="+url.PathEscape("speak | cat"), tt.protocols, "User-Agent", tt.agent)
				if got := p.all(); !slices.Equal(got, tt.want) {
					t.Errorf("got  %+v\nwant %+v", got, tt.want)
				}
				// "subprotocol miosa-exec-v1 must be echoed"
				if got := p.Subprotocol(); got != strings.Join(tt.protocols, "") {
					t.Errorf("subprotocol %q", got)
				}
			})
		}
	}
}

// "close code 1000 + exit code (1000–1999)": also where the standard keeps the
// code for itself, so this client reads frames by hand.
func TestExecSocketClosesWithAnyExitCode(t *testing.T) {
	w, _, base := serveWorld(t, Config{})
	id := create(t, base, `{}`)
	for _, code := range []int32{0, 5, 6, 127, 137} {
		w.agent.on("c | c", func(p *process) { p.exit(&guestpb.ProcessEvent_Exited{ExitCode: code}) })
		c, err := net.Dial("tcp", strings.TrimPrefix(base, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		fmt.Fprintf(c, "GET /api/v1/computers/%s/exec/ws?command=c%%20|%%20c HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n"+
			"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n", id, keyA)
		var got bytes.Buffer
		_ = c.SetReadDeadline(time.Now().Add(20 * time.Second))
		_, _ = got.ReadFrom(c)
		want := append([]byte{0x88, byte(2 + len(fmt.Sprintf("exit %d", code))), byte((1000 + code) >> 8), byte(1000 + code)}, fmt.Sprintf("exit %d", code)...)
		if !bytes.HasSuffix(got.Bytes(), want) {
			t.Errorf("exit %d: %q, want the end %q", code, got.Bytes(), want)
		}
	}
}

// §7.2, client → server.
func TestExecSocketInput(t *testing.T) {
	w, _, base := serveWorld(t, Config{})
	id := create(t, base, `{}`)
	w.agent.on("wait", func(p *process) { <-p.ctx.Done() })
	at := base + "/api/v1/computers/" + id + "/exec/"
	input := func(s string) any { return &guestpb.SendInputRequest{Pid: 7, Data: []byte(s)} }
	size := &guestpb.ResizeRequest{Pid: 7, Pty: &guestpb.Pty{Cols: 120, Rows: 32}}
	term := &guestpb.SignalRequest{Pid: 7, Signal: 15, Tree: true}
	end := &guestpb.SendInputRequest{Pid: 7, Close: true}
	for _, tt := range []struct {
		name, url string
		send      []message
		want      []any
	}{
		{"go and python", at + "spawn?command=wait&rows=24&cols=80", []message{
			raw("ab\x00"), text(`{"type":"resize","cols":120,"rows":32}`), text(`{"type":"stdin","data":"é"}`),
			text(`{"type":"signal","signal":"SIGTERM"}`), text(`{"type":"signal","signal":15}`), text(`{"type":"stdin_close"}`),
		}, []any{input("ab\x00"), size, input("é"), term, term, end}},
		{"typescript", at + "stream?command=wait&tty=true", []message{raw("\x00ab"), raw("\x05\x00\x20\x00\x78")}, []any{input("ab"), size}},
		{"elixir", at + "ws?command=wait&pty=true", []message{
			text("ab"), text(`{"type":"resize","cols":120,"rows":32}`), text(`{"x":1}`),
		}, []any{input("ab"), size, input(`{"x":1}`)}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := mustDial(t, tt.url, nil)
			for i, m := range tt.send {
				p.send(m.text, m.data)
				if got := w.agent.awaitTold(t); fmt.Sprint(got) != fmt.Sprint(tt.want[i]) {
					t.Errorf("%q: got %v, want %v", m.data, got, tt.want[i])
				}
			}
		})
	}
}

// What makes no sense is answered and does no harm.
func TestExecSocketRefusesOddMessages(t *testing.T) {
	w, _, base := serveWorld(t, Config{})
	id := create(t, base, `{}`)
	w.agent.on("wait", func(p *process) { <-p.ctx.Done() })
	p := mustDial(t, base+"/api/v1/sandboxes/"+id+"/exec/spawn?command=wait&rows=24&cols=80", nil)
	for _, m := range []string{
		`{"type":"resize","cols":0,"rows":10}`, `{"type":"resize","cols":10000,"rows":10}`, `{"type":"resize"}`,
		`{"type":"signal","signal":"NO"}`, `{"type":"signal","signal":{}}`, `no json`,
	} {
		p.send(true, m)
		var got map[string]any
		if reply := p.next(); !reply.text || json.Unmarshal([]byte(reply.data), &got) != nil || got["type"] != "error" || got["code"] == "INTERNAL_ERROR" {
			t.Errorf("%s: got %+v", m, reply)
		}
	}
	p.send(true, `{"type":"ping from the future"}`)
	p.send(false, "x")
	if got, _ := w.agent.awaitTold(t).(*guestpb.SendInputRequest); string(got.GetData()) != "x" {
		t.Errorf("told %v", got)
	}
}

// How the query names what to run, in each dialect.
func TestExecSocketCommandLine(t *testing.T) {
	w, _, base := serveWorld(t, Config{})
	id := create(t, base, `{}`)
	for _, tt := range []struct {
		path, agent string
		args        []string
		env         map[string]string
		cwd, pty    string
	}{
		{path: "spawn?command=a%20b%20|%20c", args: []string{"/bin/bash", "-c", "a b | c"}},
		{path: "spawn?command=echo+1%2B1", args: []string{"/bin/bash", "-c", "echo 1+1"}},
		{path: "spawn?command=echo%201+1%20100%", agent: "miosa-go/2.0.2", args: []string{"/bin/bash", "-c", "echo 1+1 100%"}},
		{path: "spawn?command=a&args=b%20c,d&env=%7B%22A%22:%221%22%7D&cwd=/w&rows=10&cols=20", args: []string{"a", "b c", "d"},
			env: map[string]string{"A": "1"}, cwd: "/w", pty: "20x10"},
		{path: "stream?command=a&args=b,c&args=d&env=A=1&env=B=2=3&tty=false&rows=10&cols=20", args: []string{"a", "b,c", "d"}, env: map[string]string{"A": "1", "B": "2=3"}},
		{path: "stream?command=a&tty=true", args: []string{"a"}, pty: "80x24"},
		{path: "ws?command=a&pty=true", args: []string{"a"}, pty: "80x24"},
	} {
		w.agent.on(strings.Join(tt.args, " "), ok)
		w.agent.mu.Lock()
		w.agent.started = nil
		w.agent.mu.Unlock()
		mustDial(t, base+"/api/v1/computers/"+id+"/exec/"+tt.path, nil, "User-Agent", tt.agent).all()
		w.agent.mu.Lock()
		req := w.agent.started[0]
		w.agent.mu.Unlock()
		pty := ""
		if req.Pty != nil {
			pty = fmt.Sprintf("%dx%d", req.Pty.Cols, req.Pty.Rows)
		}
		if !slices.Equal(req.Args, tt.args) || fmt.Sprint(req.Env) != fmt.Sprint(tt.env) || req.Cwd != tt.cwd || pty != tt.pty || !req.Stdin {
			t.Errorf("%s: started %v", tt.path, req)
		}
	}
}

// "Auth: Authorization header, ?token=, subprotocol bearer.<key>"; "wrong → 401
// before upgrade".
func TestSocketAuthentication(t *testing.T) {
	w, _, base := serveWorld(t, Config{})
	id := create(t, base, `{}`)
	w.agent.on("c", ok)
	at := base + "/api/v1/sandboxes/" + id + "/exec/stream?command=c"
	for _, tt := range []struct {
		name, url, key string
		protocols      []string
		status         int
		echoed         string
	}{
		{"header", at, "Bearer " + keyA, nil, 101, ""},
		{"query", at + "&token=" + keyA, "", nil, 101, ""},
		{"subprotocol", at, "", []string{"bearer." + keyA, "miosa-exec-v1"}, 101, "miosa-exec-v1"},
		{"subprotocol alone", at, "", []string{"bearer." + keyA}, 101, "bearer." + keyA},
		{"none", at, "", nil, 401, ""},
		{"wrong header", at, "Bearer x", nil, 401, ""},
		{"wrong query", at + "&token=x", "", nil, 401, ""},
		{"wrong subprotocol", at, "", []string{"bearer.x"}, 401, ""},
		{"header counts", at + "&token=" + keyA, "Bearer x", nil, 401, ""},
		{"another tenant", at, "Bearer " + keyB, nil, 404, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p, err := dial(t, tt.url, tt.protocols, "Authorization", tt.key)
			if p.res == nil || p.res.StatusCode != tt.status {
				t.Fatalf("got %v %v, want %d", p.res, err, tt.status)
			}
			if err == nil && p.Subprotocol() != tt.echoed {
				t.Errorf("subprotocol %q", p.Subprotocol())
			}
		})
	}
	// A browser's page of another origin has the key, or is refused for want of it.
	mustDial(t, at, nil, "Origin", "https://elsewhere.example").all()
	// Not by ?token= on ordinary routes: addresses end up in logs.
	if a := request(t, "GET", base+"/api/v1/sandboxes?token="+keyA, "", "Authorization", ""); a.status != 401 {
		t.Errorf("a list by token: %d", a.status)
	}
}

func TestSocketRefusals(t *testing.T) {
	w, _, base := serveWorld(t, Config{})
	id := create(t, base, `{}`)
	at := base + "/api/v1/sandboxes/" + id + "/exec/spawn"
	upgrade := []string{"Connection", "Upgrade", "Upgrade", "websocket", "Sec-WebSocket-Version", "13", "Sec-WebSocket-Key", "AAAAAAAAAAAAAAAAAAAAAA=="}
	request(t, "GET", at+"?command=c", "").want(t, 426, "UPGRADE_REQUIRED")
	request(t, "GET", at, "", upgrade...).want(t, 422, "VALIDATION_ERROR")
	for _, q := range []string{"command=c&rows=10000", "command=c&cols=x", "command=c&env=A", "command=c&env={", "command=c&timeout=-1", "command=c%00&x=", "command=c&tty=perhaps"} {
		request(t, "GET", at+"?"+q, "", upgrade...).want(t, 422, "VALIDATION_ERROR")
	}
	request(t, "GET", at+"?command=c&cwd=/missing", "", upgrade...).want(t, 422, "WORKING_DIR_NOT_FOUND")
	w.agent.on("c", func(p *process) { <-p.ctx.Done() })
	request(t, "GET", at+"?command=c", "", append(slices.Clone(upgrade), "Sec-WebSocket-Version", "12")...).want(t, 400, "BAD_REQUEST")
	w.move(id, sandbox.Destroyed)
	request(t, "GET", at+"?command=c", "", upgrade...).want(t, 409, "SANDBOX_NOT_RUNNING")
}

// "GO ends a session with a normal close frame and expects the remote process to
// die."
func TestExecSocketEndsWithItsClient(t *testing.T) {
	w, _, base := serveWorld(t, Config{})
	id := create(t, base, `{}`)
	for name, leave := range map[string]func(*peer){
		"close":  func(p *peer) { _ = p.Close(websocket.StatusNormalClosure, "killed") },
		"vanish": func(p *peer) { _ = p.CloseNow() },
	} {
		died := make(chan struct{})
		w.agent.on("wait", func(p *process) { <-p.ctx.Done(); close(died) })
		p := mustDial(t, base+"/api/v1/computers/"+id+"/exec/spawn?command=wait", nil, "User-Agent", "miosa-go/2.0.2")
		leave(p)
		select {
		case <-died:
		case <-time.After(20 * time.Second):
			t.Fatalf("%s: the command lives on", name)
		}
	}
}

// Input for a program that does not read waits, within bounds; signals and the
// news that the client has left do not wait behind it.
func TestExecSocketInputHasFlowControl(t *testing.T) {
	w, _, base := serveWorld(t, Config{Heartbeat: 50 * time.Millisecond, WriteIdle: 200 * time.Millisecond})
	id := create(t, base, `{}`)
	died := make(chan struct{})
	w.agent.on("wait", func(p *process) { <-p.ctx.Done(); close(died) })
	p := mustDial(t, base+"/api/v1/sandboxes/"+id+"/exec/spawn?command=wait", nil)
	p.send(false, strings.Repeat("x", 100<<10)) // below the bound
	p.send(true, `{"type":"signal","signal":"INT"}`)
	signal := false
	for !signal {
		switch m := w.agent.awaitTold(t).(type) {
		case *guestpb.SendInputRequest: // the first piece was under way
		case *guestpb.SignalRequest:
			signal = m.Signal == 2
		}
	}
	// Far beyond the bound nothing more is taken.
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	sent := 0
	for range 1024 {
		if p.Write(ctx, websocket.MessageBinary, make([]byte, 1<<20)) != nil {
			break
		}
		sent++
	}
	if sent == 1024 {
		t.Errorf("a gigabyte was taken for a program that reads nothing")
	}
	_ = p.CloseNow()
	select {
	case <-died:
	case <-time.After(20 * time.Second):
		t.Fatal("the command lives on although its client is gone")
	}
}

// A client that never reads is dropped, and its command with it.
func TestExecSocketDropsWhoNeverReads(t *testing.T) {
	w, _, base := serveWorld(t, Config{WriteIdle: 200 * time.Millisecond})
	id := create(t, base, `{}`)
	died := make(chan struct{})
	w.agent.on("flood", func(p *process) {
		defer close(died)
		for p.stdout(strings.Repeat("x", 32<<10)) == nil {
		}
	})
	mustDial(t, base+"/api/v1/sandboxes/"+id+"/exec/spawn?command=flood", nil)
	select {
	case <-died:
	case <-time.After(20 * time.Second):
		t.Fatal("the command still writes to a client that does not read")
	}
}

// A message larger than 1 MiB closes the socket; it is not kept.
func TestExecSocketMessageSize(t *testing.T) {
	w, _, base := serveWorld(t, Config{})
	id := create(t, base, `{}`)
	w.agent.on("wait", func(p *process) { <-p.ctx.Done() })
	p := mustDial(t, base+"/api/v1/sandboxes/"+id+"/exec/spawn?command=wait", nil)
	_ = p.Write(t.Context(), websocket.MessageBinary, make([]byte, 2<<20))
	if got := p.next(); got.status != websocket.StatusMessageTooBig {
		t.Errorf("got %+v", got)
	}
}

// Heartbeats find clients that are gone without a word.
func TestExecSocketPings(t *testing.T) {
	w, _, base := serveWorld(t, Config{Heartbeat: 10 * time.Millisecond, WriteIdle: 200 * time.Millisecond})
	id := create(t, base, `{}`)
	died := make(chan struct{})
	w.agent.on("wait", func(p *process) { <-p.ctx.Done(); close(died) })
	mustDial(t, base+"/api/v1/sandboxes/"+id+"/exec/spawn?command=wait", nil) // never reads, so never answers
	select {
	case <-died:
	case <-time.After(20 * time.Second):
		t.Fatal("nobody noticed")
	}
}

// Every stream ends with a reason.
func TestExecSocketCloseReasons(t *testing.T) {
	t.Run("sandbox lost", func(t *testing.T) {
		w, _, base := serveWorld(t, Config{})
		id := create(t, base, `{}`)
		w.agent.on("wait", func(p *process) { _ = p.stdout("x"); <-p.ctx.Done() })
		p := mustDial(t, base+"/api/v1/sandboxes/"+id+"/exec/spawn?command=wait", nil, "User-Agent", "miosa-go/2.0.2")
		p.next()
		w.agent.breakOff()
		got := p.all()
		if len(got) != 2 || !strings.Contains(got[0].data, `"code":"SANDBOX_LOST"`) || got[1].status != 1011 {
			t.Errorf("got %+v", got)
		}
	})
	t.Run("shutdown", func(t *testing.T) {
		w, s, base := serveWorld(t, Config{})
		id := create(t, base, `{}`)
		w.agent.on("wait", func(p *process) { <-p.ctx.Done() })
		p := mustDial(t, base+"/api/v1/sandboxes/"+id+"/exec/spawn?command=wait", nil)
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		down := make(chan error, 1)
		go func() { down <- s.Shutdown(ctx) }()
		got := p.all()
		if last := got[len(got)-1]; last.status != 1001 || last.reason != "server is shutting down" {
			t.Errorf("got %+v", got)
		}
		if err := <-down; err != nil {
			t.Error(err)
		}
	})
}

// "POST /computers/{id}/exec/python {code, timeout?}": by a file, whatever is in it.
func TestExecPython(t *testing.T) {
	w, _, base := serveWorld(t, Config{})
	id := create(t, base, `{}`)
	const code = "print('\"$x`')\n"
	ran := ""
	at := base + "/api/v1/computers/" + id + "/exec/python"
	w.agent.any = func(p *process) bool {
		if p.req.Args[0] != "python3" {
			return false
		}
		w.agent.mu.Lock()
		ran = string(w.agent.files[p.req.Args[len(p.req.Args)-1]])
		w.agent.mu.Unlock()
		_ = p.stderr("Traceback\n")
		p.exit(&guestpb.ProcessEvent_Exited{ExitCode: 1})
		return true
	}
	body, _ := json.Marshal(map[string]any{"code": code, "cwd": "/w", "env": map[string]string{"A": "1"}, "timeout": 5})
	a := request(t, "POST", at, string(body))
	if a.status != 200 || a.body["exit_code"] != 1.0 || a.body["success"] != false || a.body["stderr"] != "Traceback\n" || ran != code {
		t.Errorf("%d %s; ran %q", a.status, a.raw, ran)
	}
	w.agent.mu.Lock()
	defer w.agent.mu.Unlock()
	req := w.agent.started[0]
	if req.Cwd != "/w" || req.Env["A"] != "1" || req.TimeoutMs != 5000 || len(w.agent.files) != 0 {
		t.Errorf("started %v, left %v", req, w.agent.files)
	}
	request(t, "POST", at, `{}`).want(t, 422, "VALIDATION_ERROR")
}
