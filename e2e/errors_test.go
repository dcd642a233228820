package e2e

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"
)

const (
	unknownID = "sbx_01kaxm3c1n7e8q4w2r5t6y8z9a" // well formed, never made
	guessedID = "../../etc/passwd"
)

// sandboxRoutes are all routes below one sandbox, with a body that is fine.
var sandboxRoutes = []struct {
	method, path string
	body         any
}{
	{"GET", "", nil},
	{"DELETE", "", nil},
	{"GET", "/readiness", nil},
	{"GET", "/readiness/stream", nil},
	{"GET", "/events", nil},
	{"POST", "/exec", obj{"command": "true"}},
	{"POST", "/exec/stream", obj{"command": "true"}},
	{"POST", "/files", obj{"path": "/root/x", "content": ""}},
	{"GET", "/files/root%2Fx", nil},
	{"GET", "/files/root/x", nil},
	{"GET", "/files?path=/root", nil},
	{"POST", "/files/stat", obj{"path": "/root"}},
}

// "broken JSON or a huge body → 400 `BAD_REQUEST` or 413"; "wrong type, unknown
// enum, out of range → 422 `VALIDATION_ERROR`, the field named in `details`;
// nothing created; unknown fields are ignored".
func TestBadBodies(t *testing.T) {
	t.Parallel()
	c := shared.tenant(t)
	id := c.create(t, nil)
	huge := `{"metadata":{"x":"` + strings.Repeat("a", 8<<20) + `"}}`
	cases := []struct {
		path, body string
		status     int
		code       string
		field      string
	}{
		{"sandboxes", `{"name":`, 400, "BAD_REQUEST", ""},
		{"sandboxes", `{"name":"x"} trailing`, 400, "BAD_REQUEST", ""},
		{"sandboxes", "\x00\xff", 400, "BAD_REQUEST", ""},
		{"sandboxes", `[1,2]`, 0, "", ""}, // 400 or 422, checked below
		{"sandboxes", `"text"`, 0, "", ""},
		{"sandboxes", huge, 413, "", ""},
		{"sandboxes", `{"cpu_count":"two"}`, 422, "VALIDATION_ERROR", "cpu_count"},
		{"sandboxes", `{"cpu_count":1.5}`, 422, "VALIDATION_ERROR", "cpu_count"},
		{"sandboxes", `{"memory_mb":true}`, 422, "VALIDATION_ERROR", "memory_mb"},
		{"sandboxes", `{"env":{"A":1}}`, 422, "VALIDATION_ERROR", "env"},
		{"sandboxes", `{"env":["A=1"]}`, 422, "VALIDATION_ERROR", "env"},
		{"sandboxes", `{"env":{"A=B":"1"}}`, 422, "VALIDATION_ERROR", "env"},
		{"sandboxes", `{"env":{"A":"x\u0000y"}}`, 422, "VALIDATION_ERROR", "env"},
		{"sandboxes", `{"metadata":"x"}`, 422, "VALIDATION_ERROR", "metadata"},
		{"sandboxes", `{"tags":"x"}`, 422, "VALIDATION_ERROR", "tags"},
		{"sandboxes", `{"timeout_sec":"5m"}`, 422, "VALIDATION_ERROR", "timeout_sec"},
		{"sandboxes", `{"cpu_count":1e400}`, 422, "VALIDATION_ERROR", "cpu_count"},
		{"sandboxes", `{"memory_mb":99999999999999999999}`, 422, "VALIDATION_ERROR", "memory_mb"},
		{"sandboxes", `{"name":7}`, 422, "VALIDATION_ERROR", "name"},
		{"sandboxes", `{"workspace_slug":"Not A Slug!"}`, 422, "VALIDATION_ERROR", "workspace_slug"},
		{"sandboxes", `{"persistent":"yes"}`, 422, "VALIDATION_ERROR", "persistent"},
		{"sandboxes/" + id + "/exec", `{"command":`, 400, "BAD_REQUEST", ""},
		{"sandboxes/" + id + "/exec", `{}`, 422, "VALIDATION_ERROR", "command"},
		{"sandboxes/" + id + "/exec", `{"command":["a"]}`, 422, "VALIDATION_ERROR", "command"},
		{"sandboxes/" + id + "/exec", `{"command":"true","timeout":-1}`, 422, "VALIDATION_ERROR", "timeout"},
		{"sandboxes/" + id + "/exec", `{"command":"true","timeout":"x"}`, 422, "VALIDATION_ERROR", "timeout"},
		{"sandboxes/" + id + "/exec/stream", `{}`, 422, "VALIDATION_ERROR", "command"},
		{"sandboxes/" + id + "/files", `{"path":"/root/x"`, 400, "BAD_REQUEST", ""},
		{"sandboxes/" + id + "/files", `{"content":""}`, 422, "VALIDATION_ERROR", "path"},
		{"sandboxes/" + id + "/files", `{"path":"/root/x","content":"%%%"}`, 422, "VALIDATION_ERROR", "content"},
		{"sandboxes/" + id + "/files/stat", `{"path":3}`, 422, "VALIDATION_ERROR", "path"},
	}
	for _, tc := range cases {
		a := c.do(t, "POST", tc.path, tc.body)
		body := tc.body[:min(len(tc.body), 60)]
		switch {
		case tc.status == 0 && a.Status != 400 && a.Status != 422, tc.status != 0 && a.Status != tc.status, tc.code != "" && a.str("error.code") != tc.code:
			t.Errorf("POST %s %s: got %s, want %d %s", tc.path, body, a, tc.status, tc.code)
		case tc.field != "" && !strings.HasPrefix(a.str("error.details.field"), tc.field):
			t.Errorf("POST %s %s: got details %v, want field %s", tc.path, body, a.at("error.details"), tc.field)
		}
		checkEnvelope(t, a)
	}
	if n := len(c.do(t, "GET", "sandboxes", nil).list()); n != 1 {
		t.Errorf("refused requests made sandboxes: there are %d, want 1", n)
	}
}

// Seed 001: `{"error":{"code","message","details"}}`; "The x-request-id response
// header is set on every request"; the public clients also read `code` and
// `message` at the top.
func checkEnvelope(t *testing.T, a answer) {
	t.Helper()
	if a.Header.Get("X-Request-Id") == "" {
		t.Errorf("no x-request-id on %s", a)
	}
	if a.Status < 400 {
		return
	}
	details, there := a.JSON["error"].(obj)["details"]
	if !there {
		t.Errorf("no error.details, not even null: %s", a)
	}
	if _, isObject := details.(obj); details != nil && !isObject {
		t.Errorf("error.details is neither null nor an object: %s", a)
	}
	if a.str("error.code") == "" || a.str("error.message") == "" || a.str("code") != a.str("error.code") || a.str("message") != a.str("error.message") {
		t.Errorf("not the envelope of errors: %s", a)
	}
	if a.str("request_id") != a.Header.Get("X-Request-Id") {
		t.Errorf("request_id: got %q, header says %q", a.str("request_id"), a.Header.Get("X-Request-Id"))
	}
	if !strings.HasPrefix(a.Header.Get("Content-Type"), "application/json") {
		t.Errorf("Content-Type: got %q", a.Header.Get("Content-Type"))
	}
}

var requestID = regexp.MustCompile(`"request_id":"[^"]*"`)

// anonymous is an answer without what names the request.
func anonymous(a answer) string {
	h := a.Header.Clone()
	h.Del("X-Request-Id")
	h.Del("Date")
	return fmt.Sprintln(a.Status, h) + string(requestID.ReplaceAll(a.Body, []byte(`"request_id":""`)))
}

// "another tenant's id or a guessed one → 404 `NOT_FOUND`, the same bytes by the
// same query as an unknown one", on every route.
func TestForeignSandboxIsAnUnknownOne(t *testing.T) {
	t.Parallel()
	owner, other := shared.tenant(t), shared.tenant(t)
	id := owner.create(t, nil)
	owner.upload(t, id, "/root/secret", []byte("owner's")).want(t, 200, "")
	gone := owner.create(t, nil)
	owner.do(t, "DELETE", "sandboxes/"+gone, nil).want(t, 200, "")

	for _, r := range sandboxRoutes {
		unknown := other.do(t, r.method, "sandboxes/"+unknownID+r.path, r.body).want(t, 404, "NOT_FOUND")
		checkEnvelope(t, unknown)
		for _, foreign := range []string{id, gone, "sbx_x", strings.ToUpper(id)} {
			a := other.do(t, r.method, "sandboxes/"+foreign+r.path, r.body)
			got := strings.ReplaceAll(anonymous(a), foreign, unknownID)
			if want := anonymous(unknown); got != want {
				t.Errorf("%s %s of %s:\ngot  %s\nwant %s", r.method, r.path, foreign, got, want)
			}
		}
	}
	// Nothing of it happened.
	if a := owner.do(t, "GET", "sandboxes/"+id, nil); a.str("state") != "running" {
		t.Errorf("another tenant's DELETE reached the sandbox: %s", a)
	}
	for _, sb := range other.do(t, "GET", "sandboxes", nil).list() {
		t.Errorf("the other tenant lists %v", sb["id"])
	}
	for _, path := range []string{"sandboxes/..%2F..%2Fetc%2Fpasswd", "sandboxes/" + strings.Repeat("a", 5000), "sandboxes/%00", "sandboxes/sbx_%ff"} {
		if a := other.do(t, "GET", path, nil); a.Status != 404 && a.Status != 400 && a.Status != 414 {
			t.Errorf("GET %.40s: got %s, want 404", path, a)
		}
	}
	for _, path := range []string{"no/such/route", "/", "/favicon.ico", "sandboxes/" + id + "/nothing"} {
		a := other.do(t, "POST", path, obj{})
		if a.Status != 404 && a.Status != 405 {
			t.Errorf("POST %s: got %s, want 404 or 405", path, a)
		}
		checkEnvelope(t, a)
	}
}

// "a destroyed one: GET 200 with its final fields; exec and files 409; DELETE
// again 200 with the same body; lists leave it out unless `state=destroyed`".
func TestDestroyedSandbox(t *testing.T) {
	t.Parallel()
	c := shared.tenant(t)
	id := c.create(t, obj{"name": "short"})
	first := c.do(t, "DELETE", "sandboxes/"+id, nil).want(t, 200, "")
	if first.str("id") != id || first.str("state") != "destroyed" || first.num("total_runtime_sec") < 0 {
		t.Errorf("DELETE: got %s", first)
	}
	again := c.do(t, "DELETE", "sandboxes/"+id, nil).want(t, 200, "")
	if !bytes.Equal(first.Body, again.Body) {
		t.Errorf("DELETE again:\ngot  %s\nwant %s", again.Body, first.Body)
	}
	got := c.do(t, "GET", "sandboxes/"+id, nil).want(t, 200, "")
	if got.str("state") != "destroyed" || got.str("destroyed_at") == "" || got.num("total_runtime_sec") < 0 || got.at("ready") != false || got.str("name") != "short" {
		t.Errorf("GET: got %s", got)
	}
	for _, r := range sandboxRoutes {
		if strings.HasPrefix(r.path, "/exec") || strings.HasPrefix(r.path, "/files") {
			a := c.do(t, r.method, "sandboxes/"+id+r.path, r.body)
			if a.Status != 409 || a.str("error.code") != "SANDBOX_NOT_RUNNING" {
				t.Errorf("%s %s: got %s, want 409 SANDBOX_NOT_RUNNING", r.method, r.path, a)
			}
		}
	}
	if n := len(c.do(t, "GET", "sandboxes", nil).list()); n != 0 {
		t.Errorf("the list has %d sandboxes, want none", n)
	}
	if l := c.do(t, "GET", "sandboxes?state=destroyed", nil).list(); len(l) != 1 || l[0]["id"] != id {
		t.Errorf("state=destroyed: got %v", l)
	}
}

// "client … sends half a body: resources freed within seconds, other clients
// unaffected".
func TestHalfABody(t *testing.T) {
	t.Parallel()
	c := shared.tenant(t)
	id := c.create(t, nil)
	addr := strings.TrimPrefix(shared.url, "http://")
	for _, path := range []string{"sandboxes", "sandboxes/" + id + "/exec", "sandboxes/" + id + "/files"} {
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(conn, "POST /api/v1/%s HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{\"command\":", path, addr, c.key)
		conn.Close()
	}
	if got := c.sh(t, id, "echo fine"); got != "fine" {
		t.Errorf("got %q", got)
	}
	if n := len(c.do(t, "GET", "sandboxes", nil).list()); n != 1 {
		t.Errorf("half a body made a sandbox: there are %d, want 1", n)
	}
	// An upload that breaks off leaves no file.
	ctx, cancel := context.WithCancel(t.Context())
	pr, pw := io.Pipe()
	req, err := c.request(ctx, "POST", "sandboxes/"+id+"/files", pr)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "multipart/form-data; boundary=b")
	go func() {
		fmt.Fprint(pw, "--b\r\nContent-Disposition: form-data; name=\"path\"\r\n\r\n/root/half\r\n--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"f\"\r\n\r\n")
		_, _ = pw.Write(make([]byte, 1<<20))
		cancel()
		pw.CloseWithError(context.Canceled) // the client's sending half waits for its source
	}()
	if res, err := c.http.Do(req); err == nil {
		res.Body.Close()
		t.Errorf("half an upload was answered: %d", res.StatusCode)
	}
	eventually(t, 10*time.Second, "nothing is left of half an upload", func() bool {
		return c.download(t, id, "/root/half").Status == http.StatusNotFound &&
			c.sh(t, id, "find / -xdev -newer /etc/hostname -size +900k -not -path '/proc/*' 2>/dev/null | wc -l") == "0"
	})
}
