package server

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"silica.dev/silica/internal/guest/guestpb"
	"silica.dev/silica/sandbox"
)

// openTerminal makes a terminal and returns the answer.
func openTerminal(t *testing.T, base, id, body string) answer {
	t.Helper()
	a := request(t, "POST", base+"/api/v1/sandboxes/"+id+"/terminal", body)
	if a.status != 201 {
		t.Fatalf("terminal: %d %s", a.status, a.raw)
	}
	return a
}

// watch opens the stream as seed 001 has it, with nothing but the token.
func watch(t *testing.T, a answer, more string) (*peer, error) {
	t.Helper()
	return dial(t, fmt.Sprintf("%s?session_id=%s&token=%s%s", a.body["ws_url"], a.body["session_id"], a.body["stream_auth"], more), nil, "Authorization", "")
}

func mustWatch(t *testing.T, a answer, more string) *peer {
	t.Helper()
	p, err := watch(t, a, more)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// "201 flat: session_id, ws_url, stream_auth, stream_auth_expires_at"; "shell:
// defaults to login bash when available"; "cols 80, rows 24".
func TestTerminalCreate(t *testing.T) {
	w, _, base := serveWorld(t, Config{})
	id := create(t, base, `{}`)
	a := openTerminal(t, base, id, `{}`)
	if got, want := a.body["ws_url"], strings.Replace(base, "http", "ws", 1)+"/api/v1/sandboxes/"+id+"/terminal/stream"; got != want {
		t.Errorf("ws_url %q, want %q", got, want)
	}
	expires, err := time.Parse(time.RFC3339, a.body["stream_auth_expires_at"].(string))
	if left := time.Until(expires); err != nil || left > time.Minute || left < 30*time.Second {
		t.Errorf("expires in %v (%v)", left, err)
	}
	for _, tt := range []struct {
		body string
		args []string
		pty  string
	}{
		{`{}`, []string{"/bin/bash", "-l"}, "80x24"},
		{`{"cols":120,"rows":32,"shell":"/bin/zsh"}`, []string{"/bin/zsh", "-l"}, "120x32"},
		{`{"cols":0,"rows":0,"shell":"python3"}`, []string{"python3"}, "80x24"},
		{`{"shell":"python3 -i"}`, []string{"python3", "-i"}, "80x24"},
		{`{"shell":"cd /x && exec bash"}`, []string{"/bin/sh", "-c", "cd /x && exec bash"}, "80x24"},
	} {
		n := len(w.agent.spawned)
		openTerminal(t, base, id, tt.body)
		req := w.agent.spawned[n].req
		if got := fmt.Sprintf("%dx%d", req.Start.Pty.Cols, req.Start.Pty.Rows); !slices.Equal(req.Start.Args, tt.args) || got != tt.pty || req.Kind != "terminal" {
			t.Errorf("%s: spawned %v", tt.body, req)
		}
	}
	w.agent.noBash = true
	openTerminal(t, base, id, `{"cwd":"/w","env":{"A":"1"}}`)
	req := w.agent.spawned[len(w.agent.spawned)-1].req.Start
	if req.Args[0] != "/bin/sh" || req.Cwd != "/w" || req.Env["A"] != "1" {
		t.Errorf("without bash: %v", req)
	}
	for _, body := range []string{`{"cols":10000}`, `{"rows":-1}`, `{"cols":"x"}`, `{"env":[]}`} {
		request(t, "POST", base+"/api/v1/sandboxes/"+id+"/terminal", body).want(t, 422, "VALIDATION_ERROR")
	}
	for _, session := range []string{"0000000000000099", "x", "1", "FF"} {
		request(t, "POST", base+"/api/v1/sandboxes/"+id+"/terminal", `{"session_id":"`+session+`"}`).want(t, 404, "NOT_FOUND")
	}
}

// ws_url is "absolute, reachable": the public URL where there is one.
func TestTerminalPublicURL(t *testing.T) {
	_, _, base := serveWorld(t, Config{PublicURL: "https://box.example/x/"})
	id := create(t, base, `{}`)
	a := request(t, "POST", base+"/api/v1/computers/"+id+"/terminal", "")
	if got, want := a.body["ws_url"], "wss://box.example/x/api/v1/computers/"+id+"/terminal/stream"; got != want {
		t.Errorf("ws_url %q, want %q", got, want)
	}
}

// "binary frames = raw keyboard bytes; text frames = JSON resize"; "binary frames
// with raw PTY output; on exit close 1000 with a short reason".
func TestTerminalStream(t *testing.T) {
	w, _, base := serveWorld(t, Config{})
	id := create(t, base, `{}`)
	a := openTerminal(t, base, id, `{}`)
	w.agent.prints(1, "$ ")
	p := mustWatch(t, a, "")
	if got := p.next(); got != raw("$ ") {
		t.Errorf("prompt: %+v", got)
	}
	p.send(false, "l\xc3") // a character split over frames is the terminal's to join
	p.send(false, "\xa9\n")
	var typed string
	for typed != "lé\n" {
		typed += string(w.agent.awaitTold(t).(*guestpb.SendInputRequest).Data)
	}
	p.send(true, `{"type":"resize","cols":120,"rows":32}`)
	if got := w.agent.awaitTold(t).(*guestpb.ResizeRequest); got.Id != 1 || got.Pty.Cols != 120 || got.Pty.Rows != 32 {
		t.Errorf("resized %v", got)
	}
	// "refused with a text frame error and no harm"
	for _, size := range []string{`"cols":0,"rows":24`, `"cols":80,"rows":10000`} {
		p.send(true, `{"type":"resize",`+size+`}`)
		if got := p.next(); !got.text || !strings.Contains(got.data, `"type":"error"`) || !strings.Contains(got.data, "VALIDATION_ERROR") {
			t.Errorf("%s: %+v", size, got)
		}
	}
	w.agent.prints(1, "bye\xff\r\n")
	w.agent.ends(1, 7)
	if got, want := p.all(), []message{raw("bye\xff\r\n"), {status: 1000, reason: "exit 7"}}; !slices.Equal(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

// Several watch one terminal; who comes back goes on where it was.
func TestTerminalReattach(t *testing.T) {
	w, _, base := serveWorld(t, Config{})
	id := create(t, base, `{}`)
	a := openTerminal(t, base, id, `{}`)
	again := func() answer {
		return openTerminal(t, base, id, fmt.Sprintf(`{"session_id":%q}`, a.body["session_id"]))
	}
	first, second := mustWatch(t, a, ""), mustWatch(t, again(), "")
	w.agent.prints(1, "one ")
	for _, p := range []*peer{first, second} {
		if got := p.next(); got != raw("one ") {
			t.Errorf("got %+v", got)
		}
	}
	_ = first.CloseNow()
	w.agent.prints(1, "two ")
	back := mustWatch(t, again(), "&offset=4")
	want := []message{text(`{"offset":4,"session_id":"0000000000000001","type":"attached"}`), raw("two ")}
	if got := []message{back.next(), back.next()}; !slices.Equal(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	w.agent.spawnedStep(1, func(p *spawned) { p.lost = 6 })
	late := mustWatch(t, again(), "&offset=0")
	if got, want := []message{late.next(), late.next(), late.next()}, []message{
		text(`{"offset":0,"session_id":"0000000000000001","type":"attached"}`), text(`{"from":0,"to":6,"type":"gap"}`), raw("o "),
	}; !slices.Equal(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if got := second.next(); got != raw("two ") {
		t.Errorf("the second watcher got %+v", got)
	}
	if _, err := watch(t, again(), "&offset=x"); err == nil {
		t.Error("offset=x was taken")
	}
	// One that has ended shows what it printed, and how it ended.
	w.agent.ends(1, 0)
	if got := mustWatch(t, again(), "").all(); got[len(got)-1] != (message{status: 1000, reason: "exit 0"}) {
		t.Errorf("got %+v", got)
	}
}

// "expired, reused, of another sandbox → clear 401/403 codes".
func TestTerminalTokens(t *testing.T) {
	w, s, base := serveWorld(t, Config{})
	id, other := create(t, base, `{}`), create(t, base, `{}`)
	a, b := openTerminal(t, base, id, `{}`), openTerminal(t, base, id, `{}`)
	elsewhere := openTerminal(t, base, other, `{}`)
	at := base + "/api/v1/sandboxes/" + id + "/terminal/stream?session_id=0000000000000001&token="
	refused := func(url string, status int, code string) {
		t.Helper()
		request(t, "GET", url, "", "Authorization", "", "Connection", "Upgrade", "Upgrade", "websocket",
			"Sec-WebSocket-Version", "13", "Sec-WebSocket-Key", "AAAAAAAAAAAAAAAAAAAAAA==").want(t, status, code)
	}
	refused(at, 401, "UNAUTHORIZED")
	refused(at+"stt_never", 401, "UNAUTHORIZED")
	refused(at+b.body["stream_auth"].(string), 403, "STREAM_TOKEN_MISMATCH")
	refused(at+elsewhere.body["stream_auth"].(string), 403, "STREAM_TOKEN_MISMATCH")
	mustWatch(t, b, "") // a mismatch does not use it up
	mustWatch(t, a, "")
	refused(at+a.body["stream_auth"].(string), 401, "STREAM_TOKEN_USED")
	late := openTerminal(t, base, id, `{"session_id":"0000000000000001"}`).body["stream_auth"].(string)
	s.tokens.mu.Lock()
	s.tokens.all[late].expires = time.Now().Add(-time.Second)
	s.tokens.mu.Unlock()
	refused(at+late, 401, "STREAM_TOKEN_EXPIRED")
	// It opens a terminal and nothing else.
	fresh := openTerminal(t, base, id, `{"session_id":"0000000000000001"}`).body["stream_auth"].(string)
	refused(base+"/api/v1/sandboxes/"+id+"/exec/spawn?command=c&token="+fresh, 401, "UNAUTHORIZED")
	refused(base+"/api/v1/sandboxes/"+id+"?token="+fresh, 401, "UNAUTHORIZED")
	// A key does as well.
	p, err := dial(t, at+keyA, nil, "Authorization", "")
	if err != nil {
		t.Fatal(err)
	}
	w.agent.ends(1, 0)
	p.all()
}

func TestTerminalListAndDelete(t *testing.T) {
	w, _, base := serveWorld(t, Config{})
	id := create(t, base, `{}`)
	at := base + "/api/v1/sandboxes/" + id
	openTerminal(t, base, id, `{"cwd":"/w"}`)
	openTerminal(t, base, id, `{}`)
	w.agent.ends(2, 0)
	list, _ := request(t, "GET", at+"/terminals", "").body["data"].([]any)
	if len(list) != 1 {
		t.Fatalf("got %v", list)
	}
	got := list[0].(map[string]any)
	for k, want := range map[string]any{"session_id": "0000000000000001", "sandbox_id": id, "shell": "/bin/bash -l", "cwd": "/w", "pid": "101"} {
		if got[k] != want {
			t.Errorf("%s: %v, want %v", k, got[k], want)
		}
	}
	done := make(chan answer, 1)
	go func() { done <- request(t, "DELETE", at+"/terminal/0000000000000001", "") }()
	if sig, ok := w.agent.awaitTold(t).(*guestpb.SignalRequest); !ok || sig.Id != 1 || sig.Signal != 9 || !sig.Tree {
		t.Errorf("told %v", sig)
	}
	if a := <-done; a.status != 200 || a.body["deleted"] != true {
		t.Errorf("%d %s", a.status, a.raw)
	}
	request(t, "DELETE", at+"/terminal/0000000000000009", "").want(t, 404, "NOT_FOUND")
	// "POST /computers/{id}/pty/{session}/resize {cols,rows}", "POST …/exec/resize {session_id, rows, cols}"
	for _, tt := range []struct{ path, body string }{
		{"/pty/0000000000000001/resize", `{"cols":100,"rows":30}`},
		{"/exec/resize", `{"session_id":"0000000000000001","cols":100,"rows":30}`},
	} {
		go func() { done <- request(t, "POST", base+"/api/v1/computers/"+id+tt.path, tt.body) }()
		if size, ok := w.agent.awaitTold(t).(*guestpb.ResizeRequest); !ok || size.Id != 1 || size.Pty.Cols != 100 {
			t.Errorf("told %v", size)
		}
		if a := <-done; a.status != 200 || a.body["cols"] != 100.0 {
			t.Errorf("%d %s", a.status, a.raw)
		}
		request(t, "POST", at+tt.path, `{"session_id":"0000000000000001","cols":10000,"rows":30}`).want(t, 422, "VALIDATION_ERROR")
		request(t, "POST", at+tt.path, `{"session_id":"0000000000000001"}`).want(t, 422, "VALIDATION_ERROR")
	}
}

// Terminals end their streams with a reason, and go on themselves.
func TestTerminalCloseReasons(t *testing.T) {
	t.Run("shutdown", func(t *testing.T) {
		_, s, base := serveWorld(t, Config{})
		id := create(t, base, `{}`)
		p := mustWatch(t, openTerminal(t, base, id, `{}`), "")
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		down := make(chan error, 1)
		go func() { down <- s.Shutdown(ctx) }()
		got := p.all()
		if last := got[len(got)-1]; last.status != websocket.StatusGoingAway || last.reason != "server is shutting down" {
			t.Errorf("got %+v", got)
		}
		if err := <-down; err != nil {
			t.Error(err)
		}
	})
	t.Run("revoked key", func(t *testing.T) {
		w, _, base := serveWorld(t, Config{})
		id := create(t, base, `{}`)
		p := mustWatch(t, openTerminal(t, base, id, `{}`), "")
		w.agent.prints(1, "x")
		p.next()
		w.changeCaller(keyA, nil)
		got := p.all()
		if last := got[len(got)-1]; last.status != websocket.StatusPolicyViolation {
			t.Errorf("got %+v", got)
		}
	})
	t.Run("sandbox ended", func(t *testing.T) {
		w, _, base := serveWorld(t, Config{})
		id := create(t, base, `{}`)
		a := openTerminal(t, base, id, `{}`)
		w.move(id, sandbox.Destroyed)
		if p, err := watch(t, a, ""); err == nil || p.res.StatusCode != http.StatusConflict {
			t.Errorf("got %v", p.res)
		}
	})
}
