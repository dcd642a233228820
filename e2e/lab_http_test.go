package e2e

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"
)

// obj is a JSON object.
type obj = map[string]any

// Client speaks raw HTTP with one key. Its methods that take a *testing.T fail
// the test when there is no answer; the others return the error and may be used
// on any goroutine.
type Client struct {
	srv    *Server
	http   *http.Client
	key    string
	tenant string
}

// answer is a whole HTTP answer.
type answer struct {
	Status int
	Header http.Header
	Body   []byte
	JSON   obj // nil when the body is no JSON object
}

// at reads a field below dots: a.at("error.details.field").
func (a answer) at(path string) any {
	var v any = a.JSON
	for key := range strings.SplitSeq(path, ".") {
		m, ok := v.(obj)
		if !ok {
			return nil
		}
		v = m[key]
	}
	return v
}

func (a answer) str(path string) string { s, _ := a.at(path).(string); return s }
func (a answer) num(path string) float64 {
	n, ok := a.at(path).(float64)
	if !ok {
		return -1
	}
	return n
}

// list is the answer's data array.
func (a answer) list() []obj {
	items, _ := a.at("data").([]any)
	var out []obj
	for _, i := range items {
		if o, ok := i.(obj); ok {
			out = append(out, o)
		}
	}
	return out
}

func (a answer) String() string {
	b := a.Body
	if len(b) > 2000 {
		b = append(b[:2000:2000], "…"...)
	}
	return fmt.Sprintf("%d %s", a.Status, b)
}

// as returns a client of s with another key; an empty one sends none.
func (s *Server) as(key string) *Client {
	return &Client{srv: s, key: key, http: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 32}}}
}

// header adds a request header.
type header struct{ name, value string }

// request makes a request. A body is sent as it is when it is a string, bytes
// or a reader, else as JSON.
func (c *Client) request(ctx context.Context, method, path string, body any, headers ...header) (*http.Request, error) {
	var r io.Reader
	kind := "application/json"
	switch b := body.(type) {
	case nil:
		kind = ""
	case string:
		r = strings.NewReader(b)
	case []byte:
		r = bytes.NewReader(b)
	case io.Reader:
		r = b
	default:
		j, err := json.Marshal(b)
		if err != nil {
			return nil, err
		}
		r = bytes.NewReader(j)
	}
	if !strings.HasPrefix(path, "/") {
		path = "/api/v1/" + path
	}
	req, err := http.NewRequestWithContext(ctx, method, c.srv.url+path, r)
	if err != nil {
		return nil, err
	}
	if kind != "" {
		req.Header.Set("Content-Type", kind)
	}
	if c.key != "" {
		req.Header.Set("Authorization", "Bearer "+c.key)
	}
	for _, h := range headers {
		req.Header.Set(h.name, h.value)
	}
	return req, nil
}

// try makes a request and reads the whole answer. A path without a leading
// slash is below /api/v1.
func (c *Client) try(ctx context.Context, method, path string, body any, headers ...header) (answer, error) {
	req, err := c.request(ctx, method, path, body, headers...)
	if err != nil {
		return answer{}, err
	}
	res, err := c.http.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer res.Body.Close()
	a := answer{Status: res.StatusCode, Header: res.Header}
	if a.Body, err = io.ReadAll(res.Body); err != nil {
		return a, fmt.Errorf("%s %s: answer %d broke off after %d bytes: %w", method, path, a.Status, len(a.Body), err)
	}
	_ = json.Unmarshal(a.Body, &a.JSON)
	return a, nil
}

func (c *Client) do(t *testing.T, method, path string, body any, headers ...header) answer {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	a, err := c.try(ctx, method, path, body, headers...)
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	return a
}

// want fails the test unless the answer has this status and, when not empty,
// this error code.
func (a answer) want(t *testing.T, status int, code string) answer {
	t.Helper()
	if a.Status != status || (code != "" && a.str("error.code") != code) {
		t.Fatalf("got %s\nwant %d %s", a, status, code)
	}
	return a
}

// tenant makes a tenant with a key; its sandboxes end with the test.
func (s *Server) tenant(t *testing.T) *Client {
	t.Helper()
	c, err := s.newTenant(t.Name())
	if err != nil {
		t.Fatal(err)
	}
	offset := s.log.size()
	t.Cleanup(func() {
		if s == shared { // others are emptied when they are closed
			if t.Failed() {
				t.Logf("log of the shared server since the test began:\n%s\nlog of its engine:\n%s", s.log.tail(offset, 60), s.engineLog())
			}
			c.clear(t)
		}
		c.http.CloseIdleConnections()
	})
	return c
}

func (s *Server) newTenant(name string) (*Client, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	admin := s.as(bootstrapKey)
	made, err := admin.try(ctx, "POST", "tenants", obj{"name": name})
	if err != nil || made.Status != http.StatusCreated {
		return nil, fmt.Errorf("create a tenant: %s %v", made, err)
	}
	c := s.as("")
	c.tenant = made.str("id")
	key, err := admin.try(ctx, "POST", "api-keys", obj{"tenant_id": c.tenant, "name": "e2e"})
	if err != nil || key.Status != http.StatusCreated || key.str("token") == "" {
		return nil, fmt.Errorf("create a key: %s %v", key, err)
	}
	c.key = key.str("token")
	return c, nil
}

// clear destroys every sandbox of the tenant, several at once.
func (c *Client) clear(t *testing.T) {
	t.Helper()
	done := make(chan error)
	live := c.do(t, "GET", "sandboxes", nil).list()
	for _, sb := range live {
		go func() {
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			a, err := c.try(ctx, "DELETE", fmt.Sprint("sandboxes/", sb["id"]), nil)
			if err == nil && a.Status != http.StatusOK {
				err = fmt.Errorf("destroy: %s", a)
			}
			done <- err
		}()
	}
	for range live {
		if err := <-done; err != nil {
			t.Errorf("clear up: %v", err)
		}
	}
}

// create makes a sandbox that runs.
func (c *Client) create(t *testing.T, body obj) string {
	t.Helper()
	return c.created(t, body).str("id")
}

// created makes a sandbox that runs and returns the answer.
func (c *Client) created(t *testing.T, body obj) answer {
	t.Helper()
	if body == nil {
		body = obj{}
	}
	a := c.do(t, "POST", "sandboxes", body).want(t, http.StatusCreated, "")
	if a.str("state") != "running" {
		id := a.str("id")
		eventually(t, 30*time.Second, "sandbox "+id+" runs", func() bool {
			a = c.do(t, "GET", "sandboxes/"+id, nil)
			return a.str("state") == "running"
		})
	}
	return a
}

// exec runs a shell command; more fields of the request may be given.
func (c *Client) exec(t *testing.T, id, command string, more ...obj) answer {
	t.Helper()
	body := obj{"command": command}
	for _, m := range more {
		for k, v := range m {
			body[k] = v
		}
	}
	return c.do(t, "POST", "sandboxes/"+id+"/exec", body)
}

// sh runs a shell command that must succeed, and returns its trimmed stdout.
func (c *Client) sh(t *testing.T, id, command string) string {
	t.Helper()
	a := c.exec(t, id, command).want(t, http.StatusOK, "")
	if a.num("exit_code") != 0 {
		t.Fatalf("in %s: %s\ngot %s", id, command, a)
	}
	return strings.TrimSpace(a.str("stdout"))
}

// upload writes a file, as JSON.
func (c *Client) upload(t *testing.T, id, path string, content []byte) answer {
	t.Helper()
	return c.do(t, "POST", "sandboxes/"+id+"/files", obj{"path": path, "content": base64.StdEncoding.EncodeToString(content)})
}

// download reads a file in the escaped form.
func (c *Client) download(t *testing.T, id, path string) answer {
	t.Helper()
	return c.do(t, "GET", "sandboxes/"+id+"/files/"+url.PathEscape(strings.TrimPrefix(path, "/")), nil)
}

// eventually waits for a condition.
func eventually(t *testing.T, within time.Duration, what string, done func() bool) {
	t.Helper()
	if !soon(within, done) {
		t.Fatalf("not within %s: %s", within, what)
	}
}

// soon polls a condition and tells whether it came true in time.
func soon(within time.Duration, done func() bool) bool {
	deadline := time.NewTimer(within)
	defer deadline.Stop()
	tick := time.NewTicker(25 * time.Millisecond)
	defer tick.Stop()
	for {
		if done() {
			return true
		}
		select {
		case <-deadline.C:
			return done()
		case <-tick.C:
		}
	}
}
