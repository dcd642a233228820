package server

import (
	"bufio"
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"silica.dev/silica/api"
	"silica.dev/silica/sandbox"
)

// signposts send every sandbox of theirs to url.
type signposts struct {
	mu  sync.Mutex
	url map[string]string // by id
	err error
}

func (n *signposts) Elsewhere(_ context.Context, _ sandbox.TenantID, id string) (string, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.url[id], n.err
}

func (n *signposts) NodeURL(ctx context.Context, node string) (string, error) {
	return n.Elsewhere(ctx, "", node)
}

func (n *signposts) ElsewhereTemplate(ctx context.Context, tenant sandbox.TenantID, id string) (string, error) {
	return n.Elsewhere(ctx, tenant, id)
}

func (n *signposts) point(id, url string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.url[id] = url
}

// twoServers returns one that has a sandbox, and one that sends there.
func twoServers(t *testing.T) (owner *world, ownerURL, otherURL, id string, posts *signposts, other *Server) {
	t.Helper()
	owner, ours, ownerURL := serveWorld(t, Config{})
	posts = &signposts{url: map[string]string{}}
	_, other, otherURL = serveWorld(t, Config{})
	for s, n := range map[*Server]*signposts{ours: {url: map[string]string{}}, other: posts} {
		s.forward = newForwarder(n, []byte("secret"))
	}
	id = create(t, ownerURL, `{}`)
	posts.point(id, ownerURL)
	return owner, ownerURL, otherURL, id, posts, other
}

func TestRequestsGoToTheServerThatHasTheSandbox(t *testing.T) {
	_, _, other, id, _, _ := twoServers(t)
	got := request(t, "GET", other+"/api/v1/sandboxes/"+id, "", api.HeaderRequestID, "req-7")
	if got.status != 200 || got.body["id"] != id || got.header.Get(api.HeaderRequestID) != "req-7" || len(got.header.Values(api.HeaderRequestID)) != 1 {
		t.Fatalf("get = %d %v %v", got.status, got.body, got.header)
	}
	if got := request(t, "POST", other+"/api/v1/sandboxes/"+id+"/exec", `{"command":"echo hi"}`); got.status != 200 {
		t.Errorf("exec = %d %v", got.status, got.body)
	}
	if got := request(t, "GET", other+"/api/v1/sandboxes/nobody", ""); got.status != 404 {
		t.Errorf("an unknown one = %d", got.status)
	}
	if got := request(t, "DELETE", other+"/api/v1/sandboxes/"+id, ""); got.status != 200 || got.body["state"] != "destroyed" {
		t.Errorf("delete = %d %v", got.status, got.body)
	}
}

func TestRequestsGoToTheServerThatHasTheTemplate(t *testing.T) {
	owner, ours, other, _, posts, _ := twoServers(t)
	open := owner.workshop.shut()
	made := request(t, "POST", ours+"/api/v1/sandbox-templates", `{"name":"App","build_spec":{"from":"debian:bookworm"}}`)
	id, _ := made.body["id"].(string)
	posts.point(id, ours)
	build := request(t, "POST", other+"/api/v1/sandbox-templates/"+id+"/builds", `{}`)
	if build.status != 201 || build.body["template_id"] != id {
		t.Fatalf("build = %d %s", build.status, build.raw)
	}
	open()
	bid, _ := build.body["id"].(string)
	posts.point(bid, ours)
	events := readSSE(t, stream(t, "GET", other+"/api/v1/sandbox-template-builds/"+bid+"/logs/stream", "").Body, nil)
	if len(events) == 0 || events[len(events)-1].data["state"] != "ready" {
		t.Errorf("log over the other server: %v", events)
	}
}

func TestServerOfTheSandboxIsGone(t *testing.T) {
	_, _, other, id, posts, _ := twoServers(t)
	dead := httptest.NewServer(http.NotFoundHandler())
	dead.Close()
	posts.point(id, dead.URL)
	for _, c := range []struct{ method, path, body string }{{"GET", "", ""}, {"POST", "/exec", `{"command":"true"}`}, {"DELETE", "", ""}} {
		got := request(t, c.method, other+"/api/v1/sandboxes/"+id+c.path, c.body)
		if got.status != 503 || got.code() != sandbox.CodeNodeUnavailable {
			t.Errorf("%s%s = %d %v; want 503 NODE_UNAVAILABLE", c.method, c.path, got.status, got.body)
		}
	}
	// One that breaks off in the middle may have done what it was asked.
	breaks := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }))
	defer breaks.Close()
	posts.point(id, breaks.URL)
	if got := request(t, "POST", other+"/api/v1/sandboxes/"+id+"/exec", `{"command":"true"}`); got.status != 504 || got.code() != sandbox.CodeTimeout {
		t.Errorf("an exec that broke off = %d %v; want 504 TIMEOUT", got.status, got.body)
	}
}

func TestRequestsDoNotGoInCircles(t *testing.T) {
	_, _, other, id, posts, _ := twoServers(t)
	posts.point(id, other) // to itself
	got := request(t, "GET", other+"/api/v1/sandboxes/"+id, "")
	if got.status != 503 || got.code() != sandbox.CodeNodeUnavailable {
		t.Errorf("a circle = %d %v", got.status, got.body)
	}
}

// A client that writes the header is a client like any other.
func TestHopsAreProved(t *testing.T) {
	f := newForwarder(nil, []byte("secret"))
	made := func(secret, method, path string) *http.Request {
		out := httptest.NewRequest(method, path, nil)
		newForwarder(nil, []byte(secret)).sign(out, "203.0.113.7:99")
		return out
	}
	if got := f.arrive(made("secret", "GET", "/a?b=c")); !hopped(got) || got.RemoteAddr != "203.0.113.7:99" {
		t.Errorf("a neighbour's request: hop %v from %s", hopped(got), got.RemoteAddr)
	}
	moved := made("secret", "GET", "/a")
	moved.RequestURI = "/b"
	for name, r := range map[string]*http.Request{"another secret": made("guess", "GET", "/a"), "another path": moved} {
		if got := f.arrive(r); hopped(got) || got.RemoteAddr == "203.0.113.7:99" || got.Header.Get(headerHop) != "" {
			t.Errorf("%s is believed", name)
		}
	}
}

// follow opens a stream and returns its lines.
func follow(t *testing.T, url string, header ...string) (<-chan string, *http.Response) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	req, err := http.NewRequestWithContext(ctx, "GET", url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { res.Body.Close() })
	lines := make(chan string, 100)
	go func() {
		defer close(lines)
		for in := bufio.NewScanner(res.Body); in.Scan(); {
			lines <- in.Text()
		}
	}()
	return lines, res
}

// await reads lines until one holds text.
func await(t *testing.T, lines <-chan string, text string) {
	t.Helper()
	for l := range lines {
		if strings.Contains(l, text) {
			return
		}
	}
	t.Fatalf("the stream ended without %q", text)
}

func TestStreamsGoThrough(t *testing.T) {
	w, _, other, id, _, srv := twoServers(t)
	lines, _ := follow(t, other+"/api/v1/sandboxes/"+id+"/events", "Authorization", "Bearer "+keyA)
	await(t, lines, `"state":"running"`)
	w.move(id, sandbox.Paused) // what happens there is seen here at once
	await(t, lines, `"state":"paused"`)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	go func() { _ = srv.Shutdown(ctx) }()
	await(t, lines, "event: closing")
	await(t, lines, `"reconnect":true`)
}

func TestSocketsGoThrough(t *testing.T) {
	_, direct, other, id, _, _ := twoServers(t)
	run := "/api/v1/sandboxes/" + id + "/exec/spawn?command=speak"
	want, got := mustDial(t, direct+run, nil).all(), mustDial(t, other+run, nil).all()
	if len(got) == 0 || !cmp.Equal(got, want, cmp.AllowUnexported(message{})) {
		t.Errorf("through the other server: %v, want %v", got, want)
	}
	// The token is known to the server that made it, and works once there too.
	a := openTerminal(t, other, id, `{}`)
	if at := a.body["ws_url"].(string); !strings.HasPrefix(at, strings.Replace(other, "http", "ws", 1)) {
		t.Errorf("ws_url = %s, want what the client has called", at)
	}
	mustWatch(t, a, "")
	if p, err := watch(t, a, ""); err == nil || p.res == nil || p.res.StatusCode != http.StatusUnauthorized {
		t.Errorf("a used token: %v", err)
	}
}

// A ticket is good once, and the first server has used it.
func TestTicketsGoThrough(t *testing.T) {
	owner, _, other, id, _, srv := twoServers(t)
	srv.deps.Accounts = owner // one database
	ticket := request(t, "POST", other+"/api/v1/auth/sse-ticket", "").body["ticket"].(string)
	lines, res := follow(t, other+"/api/v1/sandboxes/"+id+"/events?ticket="+ticket)
	if res.StatusCode != 200 {
		t.Fatalf("a stream with a ticket = %d", res.StatusCode)
	}
	await(t, lines, `"state":"running"`)
	if _, res := follow(t, other+"/api/v1/sandboxes/"+id+"/events?ticket="+ticket); res.StatusCode != 401 {
		t.Errorf("the ticket once more = %d", res.StatusCode)
	}
}
