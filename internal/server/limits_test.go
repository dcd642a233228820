package server

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"silica.dev/silica/api"
	"silica.dev/silica/internal/guest/guestpb"
	"silica.dev/silica/sandbox"
)

// recorder notes deadlines, and the largest single write.
type recorder struct {
	*httptest.ResponseRecorder
	deadline time.Time
	largest  int
}

func (r *recorder) SetWriteDeadline(t time.Time) error { r.deadline = t; return nil }

func (r *recorder) Write(p []byte) (int, error) {
	r.largest = max(r.largest, len(p))
	return r.ResponseRecorder.Write(p)
}

func record(idle time.Duration) (*recorder, *response) {
	r := &recorder{ResponseRecorder: httptest.NewRecorder()}
	return r, &response{ResponseWriter: r, rc: http.NewResponseController(r), idle: idle}
}

// Every write gets time, but the whole answer of a command must be read at a
// pace that gives its memory back.
func TestSlowReaderHoldsNoOutput(t *testing.T) {
	out := newOutput(1<<20, newBudget(8<<20), "a")
	out.add(guestpb.ProcessEvent_STDOUT, make([]byte, 10*slowestReader))
	rec, w := record(time.Hour)
	start := time.Now()
	writeExec(w, &execution{start: start}, &guestpb.ProcessEvent_Exited{}, out)
	w.finish()
	if got := rec.deadline.Sub(start); got < readGrace+9*time.Second || got > readGrace+20*time.Second {
		t.Errorf("the answer may take %v", got)
	}
	rec, w = record(time.Second) // no deadline of the whole moves a write's back
	writeExec(w, &execution{start: start}, &guestpb.ProcessEvent_Exited{}, out)
	if got := time.Until(rec.deadline); got > time.Second {
		t.Errorf("a write may take %v", got)
	}
}

// A command that floods beyond what is kept is read slowly.
func TestDroppedOutputIsPaced(t *testing.T) {
	w, _, base := serveWorld(t, Config{MaxOutput: 1000})
	id := create(t, base, `{}`)
	w.agent.on("flood", func(p *process) {
		for range dropRate / 4 / (64 << 10) {
			_ = p.stdout(strings.Repeat("y\n", 32<<10))
		}
		p.exit(&guestpb.ProcessEvent_Exited{ExitCode: 137, Signal: strings.Repeat("S", 1000)})
	})
	start := time.Now()
	a := request(t, "POST", base+"/api/v1/sandboxes/"+id+"/exec", `{"command":"flood"}`)
	if took := time.Since(start); took < 200*time.Millisecond || a.body["truncated"] != true {
		t.Errorf("took %v, truncated %v", took, a.body["truncated"])
	}
	if got := a.body["signal"].(string); len(got) > 40 {
		t.Errorf("%d bytes of signal come from the sandbox", len(got))
	}
}

// What one tenant has under way at once is bounded, and of no matter to others.
func TestRequestsAtOnce(t *testing.T) {
	w, s, base := serveWorld(t, Config{MaxInFlight: 3, MaxStreams: 2})
	id := create(t, base, `{}`)
	box := base + "/api/v1/sandboxes/" + id
	release := make(chan struct{})
	began := make(chan struct{})
	w.agent.on("hang", func(p *process) {
		close(began)
		select {
		case <-release:
		case <-p.ctx.Done():
		}
		ok(p)
	})
	streams := []*http.Response{stream(t, "GET", box+"/events", ""), stream(t, "GET", box+"/events", "")}
	for _, path := range []string{"/events", "/readiness/stream"} {
		a := request(t, "GET", box+path, "")
		a.want(t, 429, "RATE_LIMITED")
		if a.header.Get("Retry-After") != "1" {
			t.Errorf("Retry-After %q", a.header.Get("Retry-After"))
		}
	}
	request(t, "POST", box+"/exec/stream", `{"command":"hang"}`).want(t, 429, "RATE_LIMITED")
	request(t, "GET", box, "").want(t, 200, "") // a third that is no stream

	hung := make(chan answer, 1)
	go func() { hung <- request(t, "POST", box+"/exec", `{"command":"hang"}`) }()
	<-began
	request(t, "GET", box, "").want(t, 429, "RATE_LIMITED")
	request(t, "GET", box+"/readiness", "").want(t, 429, "RATE_LIMITED")
	request(t, "GET", base+"/api/v1/sandboxes", "", "Authorization", "Bearer "+keyB).want(t, 200, "")
	request(t, "GET", base+"/healthz", "").want(t, 200, "")
	close(release)
	(<-hung).want(t, 200, "")
	for _, res := range streams {
		res.Body.Close()
	}
	for deadline := time.Now().Add(10 * time.Second); ; {
		s.inFlight.mu.Lock()
		n := len(s.inFlight.tenants)
		s.inFlight.mu.Unlock()
		if n == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d tenants still have something under way", n)
		}
		<-time.After(time.Millisecond)
	}
}

// An operator gets through whatever else their own tenant has under way.
func TestOperatorGetsThrough(t *testing.T) {
	_, s, base := serveWorld(t, Config{MaxInFlight: 1})
	leave, err := s.inFlight.enter("tnt_admin", false)
	if err != nil {
		t.Fatal(err)
	}
	defer leave()
	asAdmin := []string{"Authorization", "Bearer " + keyAdmin}
	request(t, "GET", base+"/api/v1/sandboxes", "", asAdmin...).want(t, 429, "RATE_LIMITED")
	request(t, "POST", base+"/api/v1"+api.PathDrain, "", asAdmin...).want(t, 200, "")
	if a := request(t, "GET", base+"/metrics", "", asAdmin...); a.status != 200 {
		t.Errorf("metrics: %d", a.status)
	}
}

// Readiness has a bucket of its own, with room for polls every 10 ms.
func TestReadinessRate(t *testing.T) {
	l, now := newLimiter(maxPolls, time.Second), time.Now()
	for i := range 1000 {
		if wait := l.take("x", now.Add(time.Duration(i)*10*time.Millisecond)); wait > 0 {
			t.Fatalf("poll %d must wait %v", i, wait)
		}
	}
	_, s, base := serveWorld(t, Config{RateLimit: 60})
	id := create(t, base, `{}`)
	exhaust(s.polling, "tnt_a")
	for _, path := range []string{"/readiness", "/readiness/stream"} {
		request(t, "GET", base+"/api/v1/sandboxes/"+id+path, "").want(t, 429, "RATE_LIMITED")
	}
	request(t, "GET", base+"/api/v1/sandboxes/"+id, "").want(t, 200, "")
}

// exhaust leaves nothing in a bucket for a minute.
func exhaust(l *limiter, key string) {
	for l.take(key, time.Now().Add(time.Minute)) == 0 {
	}
}

// An agent that says nothing holds no request.
func TestMuteAgent(t *testing.T) {
	_, _, base := serveWorld(t, Config{GuestWait: 100 * time.Millisecond})
	files := base + "/api/v1/sandboxes/" + create(t, base, `{}`) + "/files"
	late, lateType := form("file", "x", "path", "/mute")
	for _, tt := range []struct{ method, path, body, media string }{
		{"GET", "?path=/mute", "", ""},
		{"GET", "/mute", "", ""},
		{"POST", "/stat", `{"path":"/mute"}`, "application/json"},
		{"POST", "", `{"path":"/mute","content":"` + strings.Repeat("AAAA", 4<<20/4) + `"}`, "application/json"},
		{"POST", "", `{"content":"AAAA","path":"/mute"}`, "application/json"},
		{"POST", "/upload", late, lateType},
	} {
		t.Run(tt.method+tt.path, func(t *testing.T) {
			request(t, tt.method, files+tt.path, tt.body, "Content-Type", tt.media).want(t, 504, "TIMEOUT")
		})
	}
	req, _ := http.NewRequestWithContext(t.Context(), "GET", files+"/mute/later", nil)
	req.Header.Set("Authorization", "Bearer "+keyA)
	if res, err := http.DefaultClient.Do(req); err == nil {
		defer res.Body.Close()
		if raw, err := io.ReadAll(res.Body); err == nil {
			t.Errorf("a file that stopped coming looks whole: %q", raw)
		}
	}
}

// haltingReader stands still before every read.
type haltingReader struct {
	io.Reader
	d time.Duration
}

func (r haltingReader) Read(p []byte) (int, error) {
	<-time.After(r.d)
	return r.Reader.Read(p[:min(len(p), 16)])
}

// A client that sends slowly is not what an agent is blamed for.
func TestSlowUploadIsNoMuteAgent(t *testing.T) {
	const wait = 200 * time.Millisecond
	_, _, base := serveWorld(t, Config{GuestWait: wait})
	files := base + "/api/v1/sandboxes/" + create(t, base, `{}`) + "/files"
	for _, body := range []string{`{"path":"/slow","content":"QUJDREVGR0g="}`, `{"content":"QUJDREVGR0g=","path":"/slow"}`} {
		req, _ := http.NewRequestWithContext(t.Context(), "POST", files, haltingReader{strings.NewReader(body), wait + wait/4})
		req.Header.Set("Authorization", "Bearer "+keyA)
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		raw, _ := io.ReadAll(res.Body)
		res.Body.Close()
		if res.StatusCode != 200 {
			t.Errorf("%s: %d %s", body, res.StatusCode, raw)
		}
	}
}

// Lists are sent row by row, and never more than a thousand rows.
func TestLongListsAreStreamed(t *testing.T) {
	w, _, base := serveWorld(t, Config{})
	for i := range maxPage + 1 {
		sb := &sandbox.Sandbox{ID: sandbox.ID(fmt.Sprint("sbx_", i)), Tenant: "tnt_a", State: sandbox.Running}
		w.boxes[sb.ID] = sb
	}
	a := request(t, "GET", base+"/api/v1/sandboxes", "")
	meta := a.body["meta"].(map[string]any)
	if n := len(a.body["data"].([]any)); n != maxPage || meta["total"] != float64(maxPage+1) || meta["per_page"] != float64(maxPage) {
		t.Errorf("%d rows, meta %v", n, meta)
	}

	rec, out := record(time.Minute)
	rows := make([]string, maxPage)
	if err := writeList(out, httptest.NewRequest("GET", "/", nil), rows, func(string) string { return strings.Repeat("x", 1000) }); err != nil {
		t.Fatal(err)
	}
	if rec.largest > 64<<10 || !json.Valid(rec.Body.Bytes()) {
		t.Errorf("%d bytes were written at once", rec.largest)
	}

	rec, out = record(time.Minute)
	entries := make([]*guestpb.Entry, 5000)
	for i := range entries {
		entries[i] = &guestpb.Entry{Name: fmt.Sprint(i), Path: "/w/" + strings.Repeat("n", 200)}
	}
	writeFiles(out, "sbx_x", "/w", entries)
	var got struct {
		Entries []any
		Data    struct{ Entries []any }
	}
	if err := json.Unmarshal(rec.Body.Bytes(), &got); err != nil || len(got.Entries) != 5000 || len(got.Data.Entries) != 5000 {
		t.Errorf("%d and %d entries, %v", len(got.Entries), len(got.Data.Entries), err)
	}
	if rec.largest > 64<<10 {
		t.Errorf("%d bytes were written at once", rec.largest)
	}
}

// lookups counts what reaches the accounts.
type lookups struct {
	Accounts
	n atomic.Int64
}

func (l *lookups) Authenticate(ctx context.Context, secret string) (sandbox.Caller, error) {
	l.n.Add(1)
	return l.Accounts.Authenticate(ctx, secret)
}

// Guessing keys is slow and costs the database nothing; who shares the address
// of a guesser goes on working.
func TestWrongKeysAreThrottled(t *testing.T) {
	w, s, base := serveWorld(t, Config{})
	asked := &lookups{Accounts: w}
	s.deps.Accounts = asked
	list := base + "/api/v1/sandboxes"
	request(t, "GET", list, "").want(t, 200, "")
	var a answer
	for i := 0; i < 50*maxGuesses && a.status != 429; i++ {
		a = request(t, "GET", list, "", "Authorization", fmt.Sprint("Bearer msk_u_", i))
	}
	a.want(t, 429, "RATE_LIMITED")
	if a.header.Get("Retry-After") == "" {
		t.Error("no Retry-After")
	}
	exhaust(s.guesses, "127.0.0.1")
	before := asked.n.Load()
	if before <= maxGuesses {
		t.Errorf("refused after %d", before)
	}
	request(t, "GET", list, "", "Authorization", "Bearer msk_u_x").want(t, 429, "RATE_LIMITED")
	if asked.n.Load() != before {
		t.Error("a guess reached the accounts")
	}
	request(t, "GET", list, "").want(t, 200, "")
}

func TestOrigin(t *testing.T) {
	for remote, want := range map[string]string{
		"192.0.2.1:80": "192.0.2.1", "[::ffff:192.0.2.1]:80": "192.0.2.1", "[2001:db8:1:2:3::4]:80": "2001:db8:1:2::/64",
		"[fe80::1%eth0]:80": "fe80::/64", "@": "@", "": "",
	} {
		if got := origin(remote); got != want {
			t.Errorf("%q: got %q, want %q", remote, got, want)
		}
	}
}
