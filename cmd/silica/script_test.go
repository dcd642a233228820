package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"silica.dev/silica/api"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"silica": func() { os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) },
	})
}

// TestScripts runs testdata/*.txtar. "serve-fake" starts a server that answers
// as Silica does, and points SILICA_URL at it.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Setup: func(env *testscript.Env) error {
			env.Setenv("SILICA_URL", "http://127.0.0.1:1") // nobody listens on port 1
			env.Setenv("SILICA_DATA", filepath.Join(env.WorkDir, "data"))
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"serve-fake": func(ts *testscript.TestScript, neg bool, args []string) {
				s := httptest.NewServer(&fakeServer{files: map[string][]byte{"/root/there.txt": []byte("there\n")}})
				ts.Defer(s.Close)
				ts.Setenv("SILICA_URL", s.URL)
				ts.Setenv("SILICA_API_KEY", fakeKey)
			},
		},
	})
}

const (
	fakeKey = "msk_a_fake_key_for_scripts"
	fakeID  = "sbx_00000000000000000000000000"
)

// fakeServer is as much of the API as the commands need to show how they behave.
type fakeServer struct {
	files  map[string][]byte
	folder []byte // the last archive
}

func (f *fakeServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set(api.HeaderRequestID, "req_1")
	answer := func(status int, v any) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(v)
	}
	refuse := func(status int, code, message string) {
		answer(status, api.NewError(code, message, nil, "req_1"))
	}
	if r.Header.Get("Authorization") != "Bearer "+fakeKey && r.URL.Path != api.PathReady {
		refuse(http.StatusUnauthorized, "UNAUTHORIZED", "no valid API key")
		return
	}
	bootPath, ms, name := "pool", int64(12), "demo"
	sandbox := api.Sandbox{ID: fakeID, Slug: "s0000", Name: &name, State: api.StateRunning, Ready: true, TemplateID: "miosa-sandbox",
		CPUCount: 1, MemoryMB: 1024, BootPath: &bootPath, BootMS: &ms, CreatedAt: time.Now(), TimeoutSec: 300}
	one := api.Base + api.SandboxPath(fakeID)
	switch route := r.Method + " " + r.URL.Path; route {
	case "GET " + api.PathReady:
		answer(http.StatusOK, api.Status{Status: "ready"})
	case "POST " + api.Base + api.PathSandboxes:
		var req api.CreateSandbox
		_ = json.NewDecoder(r.Body).Decode(&req)
		if req.CPUCount > 4 {
			refuse(http.StatusUnprocessableEntity, "VALIDATION_ERROR", "cpu_count: at most 4")
			return
		}
		answer(http.StatusCreated, sandbox)
	case "GET " + api.Base + api.PathSandboxes:
		list := []api.Sandbox{sandbox}
		if strings.Contains(r.URL.Query().Get("state"), api.StateDestroyed) {
			sandbox.ID, sandbox.State = "sbx_gone", api.StateDestroyed
			list = append(list, sandbox)
		}
		answer(http.StatusOK, api.List[api.Sandbox]{Data: list})
	case "GET " + one:
		answer(http.StatusOK, sandbox)
	case "DELETE " + one:
		answer(http.StatusOK, api.DestroyedSandbox{ID: fakeID, State: api.StateDestroyed, TotalRuntimeSec: 1})
	case "POST " + one + "/exec/stream":
		f.stream(w, r)
	case "POST " + one + "/exec":
		answer(http.StatusOK, api.ExecResult{SandboxID: fakeID, ExitCode: 3, Stdout: "out\n"})
	case "POST " + one + "/files":
		f.upload(w, r, answer)
	case "POST " + one + "/files/stat":
		var req api.FilePathRequest
		_ = json.NewDecoder(r.Body).Decode(&req)
		answer(http.StatusOK, api.FileEntry{Path: req.Path, IsDir: req.Path == "/root"})
	case "GET " + one + "/files/download":
		name := r.URL.Query().Get("path")
		if path.Base(path.Clean(name)) == "folder" {
			refuse(http.StatusConflict, "IS_A_DIRECTORY", name+" is a folder")
			return
		}
		content, ok := f.files[name]
		if !ok {
			refuse(http.StatusNotFound, "FILE_NOT_FOUND", "no such file: "+r.URL.Query().Get("path"))
			return
		}
		_, _ = w.Write(content)
	case "POST " + api.Base + api.PathKeys:
		answer(http.StatusCreated, api.Key{ID: "key_1", Token: "msk_u_new"})
	case "GET " + api.Base + api.PathKeys:
		answer(http.StatusOK, api.List[api.Key]{Data: []api.Key{{ID: "key_1", Name: "ci", Prefix: "msk_u_ab", TenantID: r.URL.Query().Get("tenant_id")}}})
	case "POST " + api.Base + api.PathTenants:
		answer(http.StatusCreated, api.Tenant{ID: "tnt_1", Slug: "acme"})
	case "DELETE " + api.Base + api.PathTenants + "/tnt_1":
		answer(http.StatusOK, api.Deleted{ID: "tnt_1", Deleted: true})
	case "POST " + api.Base + api.PathDrain:
		answer(http.StatusOK, api.Drained{Destroyed: 2})
	case "POST " + api.Base + api.PathTemplates + "/validate":
		var req struct {
			BuildSpec api.BuildSpec `json:"build_spec"`
		}
		_ = json.NewDecoder(r.Body).Decode(&req)
		answer(http.StatusOK, api.ValidBuildSpec{Valid: true, BuildSpec: req.BuildSpec})
	case "POST " + api.Base + api.PathTemplates:
		var req api.TemplateRequest
		_ = json.NewDecoder(r.Body).Decode(&req)
		answer(http.StatusCreated, api.Template{ID: "tpl_" + req.Slug, Slug: req.Slug})
	case "POST " + api.Base + api.PathTemplates + "/tpl_page/builds":
		answer(http.StatusCreated, api.Build{ID: "bld_page"})
	default:
		if !f.inside(w, r, strings.Replace(route, one, "", 1), answer) {
			refuse(http.StatusNotFound, "NOT_FOUND", "no such sandbox")
		}
	}
}

// stream tells what it was asked to run, on both streams, then exits with 7.
func (f *fakeServer) stream(w http.ResponseWriter, r *http.Request) {
	var req api.ExecRequest
	_ = json.NewDecoder(r.Body).Decode(&req)
	w.Header().Set("Content-Type", "text/event-stream")
	send := func(ev api.ExecEvent) {
		b, _ := json.Marshal(ev)
		fmt.Fprintf(w, "event: %s\ndata: %s\n\n", ev.Type, b)
	}
	send(api.ExecEvent{Type: "started", ExecID: "exec_1"})
	send(api.ExecEvent{Type: api.ExecStdout, Data: fmt.Sprintf("%s|%d|%s|%s\n", req.Command, req.TimeoutSec, req.WorkingDir, req.Env["K"])})
	send(api.ExecEvent{Type: api.ExecStderr, DataBase64: []byte{0xff, '\n'}})
	send(api.ExecEvent{Type: api.ExecExit, ExitCode: 7, TimedOut: strings.HasPrefix(req.Command, "slow")})
}

func (f *fakeServer) upload(w http.ResponseWriter, r *http.Request, answer func(int, any)) {
	if err := r.ParseMultipartForm(1 << 20); err != nil {
		answer(http.StatusBadRequest, api.NewError("BAD_REQUEST", err.Error(), nil, "req_1"))
		return
	}
	file, _, err := r.FormFile("file")
	if err != nil {
		answer(http.StatusBadRequest, api.NewError("BAD_REQUEST", err.Error(), nil, "req_1"))
		return
	}
	b, _ := io.ReadAll(file)
	f.files[r.FormValue("path")] = b
	answer(http.StatusCreated, api.FileWritten{SandboxID: fakeID, Path: r.FormValue("path"), Size: int64(len(b))})
}
