package server

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// The types below are what public clients decode answers into, by the contract's
// report (§1, §3.2, §12): as strict as theirs, and with nothing they don't read.

// wrapped is "data = the decoder reads the object/array under key data".
type wrapped[T any] struct {
	Data T `json:"data"`
}

// either is "the decoder takes data when present, else the top level".
type either[T any] struct{ V T }

func (e *either[T]) UnmarshalJSON(raw []byte) error {
	var w wrapped[json.RawMessage]
	if err := json.Unmarshal(raw, &w); err != nil {
		return err
	}
	if len(w.Data) > 0 {
		raw = w.Data
	}
	return json.Unmarshal(raw, &e.V)
}

// goSandbox has strict integers: §12.34 "boot_ms: 1.5 breaks get".
type goSandbox struct {
	ID               string         `json:"id"`
	Slug             string         `json:"slug"`
	State            string         `json:"state"`
	Ready            bool           `json:"ready"`
	CPUCount         int            `json:"cpu_count"`
	MemoryMB         int            `json:"memory_mb"`
	DiskSizeMB       int            `json:"disk_size_mb"`
	BootMS           *int           `json:"boot_ms"`
	TimeoutSec       int            `json:"timeout_sec"`
	TotalRuntimeSec  *int           `json:"total_runtime_sec"`
	Metadata         map[string]any `json:"metadata"`
	ResourceContract *struct {
		ID         string `json:"id"`
		VCPUs      int    `json:"vcpus"`
		MemoryMB   int    `json:"memory_mb"`
		DiskSizeMB int    `json:"disk_size_mb"`
	} `json:"resource_contract"`
	CreatedAt time.Time `json:"created_at"`
}

func (s goSandbox) ok() bool { return s.ID != "" && s.State == "running" && s.CPUCount > 0 }

// goHandle is an object that holds service handles beside the fields: §12.4 "an
// array or a string under any of these breaks it".
type goHandle struct {
	ID       string            `json:"id"`
	Metadata map[string]string `json:"metadata"`

	Ports, Volumes, Services, Snapshots, Events, Domains, Env, Logs *struct{}
	Metrics, Secrets, Files, Exec, Terminal, Network, Audit, Inbox  *struct{}
}

type goComputer struct {
	ID           string            `json:"id"`
	Name         string            `json:"name"`
	Status       string            `json:"status"`
	TemplateType string            `json:"template_type"`
	Metadata     map[string]string `json:"metadata"` // §12.8
	CreatedAt    time.Time         `json:"created_at"`
}

func (c goComputer) ok() bool { return c.ID != "" && c.Status == "running" }

type cliSandbox struct {
	ID       string            `json:"id"`
	State    string            `json:"state"`
	Tags     map[string]string `json:"tags"` // §12.9
	Metadata map[string]string `json:"metadata"`
}

func (s cliSandbox) ok() bool { return s.ID != "" && s.State == "running" }

type goUsage struct {
	SandboxID       string `json:"sandbox_id"`
	RuntimeSec      *int64 `json:"runtime_sec"`
	ProvisionedVCPU *int64 `json:"provisioned_vcpu_ms"`
	ActiveCPU       *int64 `json:"active_cpu_ms"`
	Ingress         *int64 `json:"network_ingress_bytes"`
	Cents           *int64 `json:"estimated_cost_cents"`
}

func (u goUsage) ok() bool { return u.SandboxID != "" && u.RuntimeSec != nil }

type goProcess struct {
	PID       string `json:"pid"` // §12.7: "a JSON number errors"
	Name      string `json:"name"`
	Command   string `json:"command"`
	Status    string `json:"status"`
	StartedAt string `json:"started_at"`
	ExitCode  *int   `json:"exit_code"`
}

func (p goProcess) ok() bool { return p.PID != "" && p.Status == "running" }

type goEntry struct {
	Name      string    `json:"name"`
	IsDir     bool      `json:"is_dir"`
	IsSymlink bool      `json:"is_symlink"`
	Size      int64     `json:"size"`
	Mode      string    `json:"mode"` // §12.34: "a number errors"
	Modified  time.Time `json:"modified_at"`
}

func (e goEntry) ok() bool { return e.Name == "f" && e.Mode == "0644" && e.Size == 4 }

type goEntries struct {
	Path    string    `json:"path"`
	Entries []goEntry `json:"entries"`
}

func (l goEntries) ok() bool { return l.Path != "" && len(l.Entries) == 1 && l.Entries[0].ok() }

type goTree struct {
	Path, Type, Name string
	Children         []goTree
}

func (n goTree) ok() bool {
	return n.Type == "dir" && len(n.Children) == 1 && n.Children[0].Name == "f"
}

type goWritten struct {
	Written []map[string]any `json:"written"`
	Failed  []map[string]any `json:"failed"`
}

func (w goWritten) ok() bool { return len(w.Written) == 1 && len(w.Failed) == 0 }

type goExec struct {
	Output   string `json:"output"`
	ExitCode int    `json:"exit_code"`
	Success  bool   `json:"success"`
}

func (e goExec) ok() bool { return e.Output == "hi\n" && e.Success }

type goNamed struct {
	ID       string            `json:"id"`
	Name     string            `json:"name"`
	Metadata map[string]string `json:"metadata"`
}

func (n goNamed) ok() bool { return n.ID != "" && n.Name != "" }

type goKey struct {
	ID, Name, Prefix, Token, Key string
	Scopes                       []string
}

func (k goKey) ok() bool { return k.ID != "" && k.Token != "" && k.Token == k.Key }

type goQuota struct {
	MaxSandboxes int `json:"max_sandboxes"`
	Current      int `json:"current_sandboxes"`
}

func (q goQuota) ok() bool { return q.MaxSandboxes == 3 }

type goPlan struct {
	Limits map[string]int64 `json:"limits"` // §12.33
	Usage  map[string]int64 `json:"usage"`
}

func (p goPlan) ok() bool { return p.Limits != nil && p.Usage != nil }

type goBalance struct {
	Balance *int64 `json:"balance"`
}

func (b goBalance) ok() bool { return b.Balance != nil }

type goRollUp struct {
	Start   time.Time `json:"period_start"`
	Results []struct {
		SandboxSeconds *json.Number `json:"sandbox_seconds"`
	} `json:"results"`
}

func (u goRollUp) ok() bool { return !u.Start.IsZero() && u.Results != nil }

type goSummary struct {
	Start   time.Time `json:"period_start"`
	Hours   *float64  `json:"compute_hours"`
	Tokens  *int64    `json:"ai_tokens"`
	Credits *int64    `json:"total_credits"`
}

func (s goSummary) ok() bool { return s.Hours != nil && s.Credits != nil }

type goError struct {
	Message    string `json:"message"` // §12.6
	Code       string `json:"code"`
	RetryAfter *int   `json:"retry_after"`
}

func (e goError) ok() bool { return e.Message != "" && e.Code == "NOT_FOUND" }

type goSnapshot struct {
	ID        string    `json:"id"`
	SandboxID string    `json:"sandbox_id"`
	Status    string    `json:"status"`
	Comment   string    `json:"comment"`
	Keep      bool      `json:"keep"`
	Retention int       `json:"retention_seconds"`
	ExpiresAt time.Time `json:"expires_at"`
	CreatedAt time.Time `json:"created_at"`
}

func (s goSnapshot) ok() bool { return s.ID != "" && s.Status == "ready" && !s.CreatedAt.IsZero() }

type goBuild struct {
	ID         string    `json:"id"`
	TemplateID string    `json:"template_id"`
	Status     string    `json:"status"`
	Error      string    `json:"error"` // §6.3: "never an object"
	CreatedAt  time.Time `json:"created_at"`
}

func (b goBuild) ok() bool {
	return b.ID != "" && b.TemplateID != "" && b.Status != "" && !b.CreatedAt.IsZero()
}

type goValid struct {
	Valid  bool     `json:"valid"`
	Errors []string `json:"errors"`
}

func (v goValid) ok() bool { return v.Valid }

type texts map[string]any

func (t texts) ok() bool { return len(t) > 0 }

type answered interface{ ok() bool }

// into decodes as a public client does. It says what the client would see.
func into[T answered](raw []byte) error {
	var v T
	if err := json.Unmarshal(raw, &v); err != nil {
		return err
	}
	if !v.ok() {
		return fmt.Errorf("decodes to %+v, without an error", v)
	}
	return nil
}

type listOf[T answered] struct {
	Data []T `json:"data"`
	Meta *struct {
		Total, Page, PerPage int
	} `json:"meta"`
}

func (l listOf[T]) ok() bool {
	for _, v := range l.Data {
		if !v.ok() {
			return false
		}
	}
	return len(l.Data) > 0
}

func (w wrapped[T]) ok() bool { v, is := any(w.Data).(answered); return is && v.ok() }
func (e either[T]) ok() bool  { v, is := any(e.V).(answered); return is && v.ok() }

// §1: "The SDKs disagree about wrapping, for the same endpoint". §12.2: "a
// data-only body decodes to zero values without an error"; §12.3: the same of a
// flat one where data is read.
func TestPublicDecoders(t *testing.T) {
	w, _, base := serveWorld(t, Config{})
	id := create(t, base, `{"name":"n","size":"small","tags":["a"],"metadata":{"n":1,"miosa_persistent":true,"s":"x"}}`)
	dir := w.realAgent(t)
	mustWrite(t, dir+"/f", "four")
	sbx, computer := "/sandboxes/"+id, "/computers/"+id
	const cli = "miosa-cli/0.9"
	for _, c := range []struct {
		clause       string
		method, path string
		body         string
		agent        string
		decode       func([]byte) error
	}{
		{"§12.1 list: data only", "GET", "/sandboxes", "", "miosa-go/2.0.2", into[listOf[goSandbox]]},
		{"§1 create: flat (CLI)", "POST", "/sandboxes", `{"template_id":"miosa-sandbox"}`, cli, into[cliSandbox]},
		{"§1 create: either (GO)", "POST", "/sandboxes", `{}`, "", into[either[goSandbox]]},
		{"§1 get: flat (CLI), §12.9", "GET", sbx, "", cli, into[cliSandbox]},
		{"§1 list (CLI), §12.9", "GET", "/sandboxes", "", cli, into[listOf[cliSandbox]]},
		{"§12.34 get: strict integers (GO)", "GET", sbx, "", "", into[either[goSandbox]]},
		{"§12.10 by name (CLI)", "GET", "/sandboxes/n", "", cli, into[cliSandbox]},
		{"§12.31 extend with {}", "POST", sbx + "/extend", `{}`, "", into[either[goSandbox]]},
		{"§12.2, §12.8 computers get: flat", "GET", computer, "", "", into[goComputer]},
		{"§12.8 computers list: data", "GET", "/computers?page=1&per_page=10", "", "", into[listOf[goComputer]]},
		{"§12.2 computers create: flat", "POST", "/computers", `{"name":"c","template_type":"miosa-sandbox","metadata":{"a":1}}`, "", into[goComputer]},
		{"§9.8 start of a running one", "POST", computer + "/start", `{}`, "", into[goComputer]},
		{"§3.5, §12.3 usage: data", "GET", sbx + "/usage", "", "", into[wrapped[goUsage]]},
		{"§9.3, §12.34 env: an object", "GET", sbx + "/env", "", "", into[texts]},
		{"§4.3 computers exec: flat", "POST", computer + "/exec", `{"command":"echo hi"}`, "", into[goExec]},
		{"§4.1 exec: data, else flat (CLI)", "POST", sbx + "/exec", `{"command":"echo hi"}`, cli, into[wrapped[goExec]]},
		{"§12.7 process start: flat, string pid", "POST", sbx + "/processes", `{"command":"sleep 100","name":"p"}`, "", into[goProcess]},
		{"§12.7 processes: data", "GET", sbx + "/processes", "", "", into[listOf[goProcess]]},
		{"§12.11 files list: flat (CLI)", "GET", sbx + "/files?path=" + dir, "", cli, into[goEntries]},
		{"S1 files list: data", "GET", sbx + "/files?path=" + dir, "", "", into[wrapped[goEntries]]},
		{"§5 readdir: data", "GET", computer + "/files/readdir?path=" + dir, "", "", into[wrapped[goEntries]]},
		{"§12.34 stat: data, mode a string", "POST", computer + "/files/stat", object("path", dir+"/f"), "", into[wrapped[goEntry]]},
		{"§12.2 tree: flat", "GET", sbx + "/files/tree?depth=2&path=" + dir, "", "", into[goTree]},
		{"§12.2 write-many: flat", "POST", sbx + "/files/write-many", `{"files":[{"path":"` + dir + `/g","content_base64":"eA=="}]}`, "", into[goWritten]},
		{"§12.3 template: data", "GET", "/sandbox-templates/miosa-sandbox", "", "", into[wrapped[goNamed]]},
		{"§12.3 template create: data (GO)", "POST", "/sandbox-templates", `{"name":"Agent Web App","slug":"agent-web-app","build_spec":{"from":"node:22-bookworm"}}`, "", into[wrapped[goNamed]]},
		{"§6.3 build: data, error a string (GO)", "POST", "/sandbox-templates/agent-web-app/builds", `{}`, "", into[wrapped[goBuild]]},
		{"§6.3 builds: data (GO)", "GET", "/sandbox-templates/agent-web-app/builds", "", "", into[listOf[goBuild]]},
		{"§6.4 validate: errors a list of strings (GO)", "POST", "/sandbox-templates/validate", `{"build_spec":{"from":"debian:12"}}`, "", into[goValid]},
		{"§6.1 build-spec: a map", "GET", "/sandbox-templates/build-spec", "", "", into[texts]},
		{"§12.1 templates: data", "GET", "/sandbox-templates", "", "", into[listOf[goNamed]]},
		{"§12.2 workspace: flat (GO)", "POST", "/workspaces", `{"name":"one"}`, "", into[goNamed]},
		{"§1 workspace: data (CLI)", "POST", "/workspaces", `{"name":"two"}`, cli, into[wrapped[goNamed]]},
		{"§9.9 workspaces: data", "GET", "/workspaces", "", "", into[listOf[goNamed]]},
		{"§12.3 api-keys create: data, token and key", "POST", "/api-keys", `{"name":"k"}`, "", into[wrapped[goKey]]},
		{"§12.2 quota: flat", "PUT", "/quotas/external/u1", `{"max_sandboxes":3}`, "", into[goQuota]},
		{"§12.33 plan: integers only", "GET", "/tenant/plan", "", "", into[goPlan]},
		{"§9.9 credits: flat", "GET", "/credits/balance", "", cli, into[goBalance]},
		{"§9.9 usage: flat", "GET", "/usage", "", "", into[goRollUp]},
		{"§9.9 usage/summary: flat", "GET", "/usage/summary", "", "", into[goSummary]},
		{"§6.6 catalogue", "GET", "/compute/catalog", "", cli, into[wrapped[texts]]},
		{"§6.6 templates: data array", "GET", "/templates", "", "", into[listOf[goNamed]]},
		{"§9.2 snapshot: data (GO, CLI)", "POST", sbx + "/snapshots", `{"comment":"c"}`, cli, into[wrapped[goSnapshot]]},
		{"§9.2 snapshots: data", "GET", sbx + "/snapshots", "", "", into[listOf[goSnapshot]]},
		{"§9.2 computers snapshot: data", "POST", computer + "/snapshots", `{"comment":"c"}`, "", into[wrapped[goSnapshot]]},
		{"§3.3 fork: either (GO)", "POST", sbx + "/fork", `{}`, "", into[either[goSandbox]]},
		{"§1 fork: flat (GO, old), §12.4", "POST", sbx + "/fork", `{}`, "miosa-go/2.0.2", into[goComputer]},
		{"§12.6 error: top-level message", "GET", "/sandboxes/nope", "", "", into[goError]},
	} {
		a := request(t, c.method, base+"/api/v1"+c.path, c.body, "User-Agent", c.agent)
		if err := c.decode(a.raw); err != nil {
			t.Errorf("%s: %s %s: %v\n%d %.400s", c.clause, c.method, c.path, err, a.status, a.raw)
		}
	}
	// §12.4, with the only metadata that client can take.
	plain := create(t, base, `{"metadata":{"s":"x"}}`)
	for _, family := range []string{"/sandboxes/", "/computers/"} {
		var h goHandle
		if a := request(t, "GET", base+"/api/v1"+family+plain, ""); json.Unmarshal(a.raw, &h) != nil || h.ID != plain {
			t.Errorf("§12.4 %s: %+v from %s", family, h, a.raw)
		}
	}
}

// §12.14: "JSON body or 204"; §12.36: an empty chunked body is an error. What
// answers with nothing else must still answer with JSON.
func TestActionsAnswerJSON(t *testing.T) {
	w, _, base := serveWorld(t, Config{})
	id := create(t, base, `{"persistent":true}`)
	dir := w.realAgent(t)
	mustWrite(t, dir+"/f", "x")
	mustWrite(t, dir+"/g", "x")
	url := base + "/api/v1/sandboxes/" + id
	for _, c := range []struct{ method, path, body string }{
		{"POST", "/files/mkdir", object("path", dir+"/d")},
		{"POST", "/files/rename", object("from", dir+"/f", "to", dir+"/h")},
		{"POST", "/files/chmod", object("path", dir+"/h", "mode", "0600")},
		{"DELETE", "/files", object("path", dir+"/h")}, // §12.29: a body,
		{"DELETE", "/files?path=" + dir + "/g", ""},    // or the query
		{"PATCH", "/tags", `{"tags":["a"]}`},
		{"PUT", "/env", `{"vars":[{"key":"A","value":"1"}]}`},
		{"DELETE", "/env/A", ""},
		{"POST", "/stop", `{}`},
		{"POST", "/start", `{}`},
		{"POST", "/stop", ""},
		{"POST", "/resume", ""},
		{"POST", "/extend", ""},
		{"DELETE", "", ""},
		{"DELETE", "", ""}, // §12.28: "200 with the same body for an already destroyed one"
	} {
		a := request(t, c.method, url+c.path, c.body)
		if a.status != 200 || len(a.body) == 0 || !strings.HasPrefix(a.header.Get("Content-Type"), "application/json") {
			t.Errorf("%s %s: %d %s %q", c.method, c.path, a.status, a.header.Get("Content-Type"), a.raw)
		}
	}
	if _, err := os.Stat(dir + "/g"); err == nil {
		t.Error("a file named in the query was not removed")
	}
}

// §12.20: "GO SSE GET carries a body (null, JSON content type): accept".
func TestStreamsTakeABodyOfNull(t *testing.T) {
	_, _, base := serveWorld(t, Config{})
	id := create(t, base, `{}`)
	for _, path := range []string{"/events", "/readiness/stream"} {
		res := stream(t, "GET", base+"/api/v1/sandboxes/"+id+path, "null", "Content-Type", "application/json", "Accept", "text/event-stream")
		if res.StatusCode != 200 || !strings.HasPrefix(res.Header.Get("Content-Type"), "text/event-stream") {
			t.Errorf("%s: %d %s", path, res.StatusCode, res.Header.Get("Content-Type"))
		}
		if n, err := io.ReadFull(res.Body, make([]byte, 10)); err != nil {
			t.Errorf("%s: %d bytes, %v", path, n, err)
		}
	}
}

// §12.13: "always octet-stream"; §12.37: "GO asks Accept: application/json even
// for downloads; do not answer 406". §12.22: "%2F; no redirects".
func TestDownloadsAreNeverJSON(t *testing.T) {
	w, _, base := serveWorld(t, Config{})
	id := create(t, base, `{}`)
	w.agent.files["/workspace/a.json"] = []byte(`{"content":"eA=="}`)
	w.agent.files["/tree"] = []byte("a file named as a route")
	noRedirects := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	for path, want := range map[string]string{
		"/files/workspace/a.json":                `{"content":"eA=="}`,
		"/files/workspace%2Fa.json":              `{"content":"eA=="}`,
		"/files//workspace/a.json":               `{"content":"eA=="}`,
		"/files/download?path=/workspace/a.json": `{"content":"eA=="}`,
		"/files/download?path=/tree":             "a file named as a route",
	} {
		req, err := http.NewRequestWithContext(t.Context(), "GET", base+"/api/v1/computers/"+id+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+keyA)
		req.Header.Set("Accept", "application/json")
		res, err := noRedirects.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(res.Body)
		res.Body.Close()
		if err != nil || res.StatusCode != 200 || res.Header.Get("Content-Type") != "application/octet-stream" || !bytes.Equal(got, []byte(want)) {
			t.Errorf("%s: %d %s %q, %v", path, res.StatusCode, res.Header.Get("Content-Type"), got, err)
		}
	}
}

// §12.26: "Pick sbx_ + sortable id and UUIDs for workspaces/projects".
func TestIDsAreOfTheirKind(t *testing.T) {
	_, _, base := serveWorld(t, Config{})
	first, second := create(t, base, `{}`), create(t, base, `{}`)
	if !strings.HasPrefix(first, "sbx_") || first >= second {
		t.Errorf("%s, then %s", first, second)
	}
	if ws, _ := request(t, "POST", base+"/api/v1/workspaces", `{"name":"w"}`).body["id"].(string); len(ws) != 36 || strings.Count(ws, "-") != 4 {
		t.Errorf("workspace %q", ws)
	}
}

// §12.35: "a path with a space makes a malformed request line (SDK bug; the HTTP
// server rejects it before our handler)". It must be told, and harm nobody else.
func TestMalformedRequestLineIsRefused(t *testing.T) {
	_, _, base := serveWorld(t, Config{})
	id := create(t, base, `{}`)
	c, err := net.Dial("tcp", strings.TrimPrefix(base, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	fmt.Fprintf(c, "GET /api/v1/sandboxes/%s/files/tree?path=/a b HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n\r\n", id, keyA)
	got, err := io.ReadAll(c)
	if err != nil || !strings.HasPrefix(string(got), "HTTP/1.1 400 ") {
		t.Errorf("%q, %v", got, err)
	}
	if a := request(t, "GET", base+"/api/v1/sandboxes/"+id, ""); a.status != 200 {
		t.Errorf("after it: %d %s", a.status, a.raw)
	}
}

// docs/compatibility.md names the test that proves each of its lines, and the
// routes that are there.
func TestCompatibilityPageIsTrue(t *testing.T) {
	page, err := os.ReadFile("../../docs/compatibility.md")
	if err != nil {
		t.Fatal(err)
	}
	tests := map[string]bool{}
	for _, dir := range []string{".", "../../e2e", "../../client", "../supervisor"} {
		files, err := filepath.Glob(dir + "/*_test.go")
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			src, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range regexp.MustCompile(`(?m)^func (Test\w+)\(`).FindAllSubmatch(src, -1) {
				tests[string(m[1])] = true
			}
		}
	}
	named := regexp.MustCompile("`(Test\\w+)`").FindAllSubmatch(page, -1)
	if len(named) < 60 {
		t.Errorf("only %d tests are named", len(named))
	}
	for _, m := range named {
		if !tests[string(m[1])] {
			t.Errorf("there is no %s", m[1])
		}
	}
	_, s, _ := serveWorld(t, Config{})
	there := map[string]bool{}
	for _, rt := range s.routes() {
		there[rt.method+" "+regexp.MustCompile(`\{\w+\}`).ReplaceAllString(strings.TrimPrefix(rt.pattern, v1), "{}")] = true
	}
	rows := regexp.MustCompile("(?m)^\\| `((?:GET|POST|PUT|PATCH|DELETE) /[^`]*)` \\|").FindAllSubmatch(page, -1)
	if len(rows) < 40 {
		t.Errorf("only %d routes are named", len(rows))
	}
	for _, m := range rows {
		if r := regexp.MustCompile(`\{\w+\}`).ReplaceAllString(string(m[1]), "{}"); !there[r] {
			t.Errorf("there is no route %s", m[1])
		}
	}
}
