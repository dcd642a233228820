package server

import (
	"strings"
	"sync"
	"testing"
	"time"

	"silica.dev/silica/internal/guest"
	"silica.dev/silica/sandbox"
)

// onSpawn answers every app that is started: it is installed, and prints.
func (a *fakeAgent) onSpawn(t *testing.T, app func(id uint64)) {
	t.Helper()
	a.mu.Lock()
	a.spawnHook = app
	a.mu.Unlock()
}

// serves has the default template be built of spec.
func (w *world) serves(t *testing.T, spec sandbox.BuildSpec) {
	t.Helper()
	err := w.rows.SaveTemplate(t.Context(), sandbox.Template{
		ID: "miosa-sandbox", Slug: "miosa-sandbox", Revision: "1", Status: sandbox.TemplateReady, Built: spec, Workdir: "/workspace", CreatedAt: time.Now(),
	})
	if err != nil {
		t.Fatal(err)
	}
}

// Seed 001: "MIOSA runs the template install command, launches the start command in
// the background, stores PID/log paths, and returns the preview URL."
func TestTemplateStart(t *testing.T) {
	d := published(t)
	w, _, base := serveWorld(t, Config{})
	w.serves(t, sandbox.BuildSpec{StartCmd: "npm run dev", InstallCmd: "npm install", PreviewPort: 3000, ArtifactPaths: []string{"/workspace/out"}})
	id := create(t, base, `{}`)
	one := base + "/api/v1/sandboxes/" + id
	route := "/api/v1/sandboxes/{id}"
	check := func(method, path string, a answer) {
		t.Helper()
		if err := d.Check(method, path, a.status, a.header, a.raw); err != nil {
			t.Errorf("%s %s: %v\n%s", method, path, err, a.raw)
		}
	}
	w.agent.onSpawn(t, func(id uint64) { w.agent.prints(id, guest.AppBegun+"\n") })

	a := request(t, "POST", one+"/template/start", `{"install":true}`)
	check("POST", route+"/template/start", a)
	data, _ := a.body["data"].(map[string]any)
	if a.status != 200 || data["status"] != "started" || a.body["status"] != "started" || data["template_id"] != "miosa-sandbox" || data["workdir"] != "/workspace" ||
		data["preview_port"] != 3000.0 || data["preview_url"] != nil || data["logs_path"] != "/tmp/miosa-run/template.log" ||
		data["pid_path"] != "/tmp/miosa-run/template.pid" || data["artifact_paths"].([]any)[0] != "/workspace/out" || data["already_running"] != false {
		t.Fatalf("got %d %s", a.status, a.raw)
	}
	app, ok := guest.ReadApp(w.agent.spawned[0].Args)
	if want := (guest.App{Install: "npm install", Start: "npm run dev", Port: 3000, Workdir: "/workspace"}); !ok || app.Install != want.Install || app.Start != want.Start || app.Port != want.Port || app.Workdir != want.Workdir {
		t.Errorf("started: %+v", app)
	}

	// Asked again, it only tells of it; other commands replace it.
	a = request(t, "POST", one+"/template/start", `{}`)
	if a.body["already_running"] != true || len(w.agent.spawned) != 1 {
		t.Errorf("again: %s, %d started", a.raw, len(w.agent.spawned))
	}
	a = request(t, "POST", one+"/template/start", `{"start_command":"npm start","port":8080,"workdir":"/srv"}`)
	app, _ = guest.ReadApp(w.agent.spawned[len(w.agent.spawned)-1].Args)
	if a.status != 200 || a.body["already_running"] != false || len(w.agent.spawned) != 2 || w.agent.spawned[0].Running || app.Start != "npm start" || app.Port != 8080 || app.Workdir != "/srv" || app.Install != "" {
		t.Errorf("with other commands: %d %s, %+v", a.status, a.raw, app)
	}
	request(t, "POST", one+"/template/start", `{"start_command":"npm start","port":8080,"workdir":"/srv","restart":true}`)
	if len(w.agent.spawned) != 3 {
		t.Errorf("a restart started nothing")
	}

	// "Returns the template artifact contract and current lifecycle metadata."
	a = request(t, "GET", one+"/artifacts", "")
	check("GET", route+"/artifacts", a)
	life, _ := a.body["lifecycle"].(map[string]any)
	preview, _ := a.body["preview"].(map[string]any)
	if life["status"] != "started" || life["pid"] != "103" || life["start_command"] != "npm start" || preview["port"] != 8080.0 || a.body["workdir"] != "/srv" {
		t.Errorf("artifacts: %s", a.raw)
	}
	w.agent.ends(3, 1)
	a = request(t, "GET", one+"/artifacts", "")
	if life, _ = a.body["lifecycle"].(map[string]any); life["status"] != "failed" || life["exit_code"] != 1.0 || life["pid"] != nil {
		t.Errorf("artifacts after its end: %s", a.raw)
	}
	if a := request(t, "GET", strings.Replace(one, "sandboxes", "computers", 1)+"/artifacts", ""); a.status != 200 {
		t.Errorf("of a computer: %d", a.status)
	}

	w.agent.mu.Lock()
	w.agent.files[guest.AppLog] = []byte("compiling\nready on 8080\n")
	w.agent.mu.Unlock()
	a = request(t, "GET", one+"/logs?lines=2", "")
	check("GET", route+"/logs", a)
	if a.body["content"] != "compiling\nready on 8080\n" {
		t.Errorf("log: %s", a.raw)
	}
	if a = request(t, "GET", one+"/logs", ""); !strings.Contains(string(a.raw), "state: provisioning") || !strings.Contains(string(a.raw), "ready on 8080") {
		t.Errorf("whole log: %s", a.raw)
	}
}

func TestTemplateStartThatFails(t *testing.T) {
	w, _, base := serveWorld(t, Config{})
	id := create(t, base, `{}`)
	start := base + "/api/v1/sandboxes/" + id + "/template/start"
	a := request(t, "POST", start, `{}`)
	a.want(t, 422, sandbox.CodeValidation)
	if !strings.Contains(string(a.raw), "start_command") {
		t.Errorf("without a start command: %s", a.raw)
	}
	for body, field := range map[string]string{`{"port":0}`: "port", `{"port":70000}`: "port", `{"workdir":"a"}`: "workdir", `{"install":"x"}`: "install", `{"start_command":7}`: "start_command"} {
		a := request(t, "POST", start, body)
		a.want(t, 422, sandbox.CodeValidation)
		if !strings.Contains(string(a.raw), field) {
			t.Errorf("%s: %s", body, a.raw)
		}
	}
	w.agent.mu.Lock()
	w.agent.files[guest.AppLog] = []byte("npm ERR! 404\n")
	w.agent.mu.Unlock()
	for phase, said := range map[string]string{"install": "", "start": guest.AppBegun + "\n"} {
		w.agent.onSpawn(t, func(id uint64) {
			if said != "" {
				w.agent.prints(id, said)
			}
			w.agent.ends(id, 7)
		})
		a := request(t, "POST", start, `{"install_command":"npm ci","start_command":"npm start"}`)
		a.want(t, 409, sandbox.CodeTemplateStart)
		if !strings.Contains(string(a.raw), `"phase":"`+phase+`"`) || !strings.Contains(string(a.raw), `"exit_code":7`) || !strings.Contains(string(a.raw), "npm ERR! 404") {
			t.Errorf("%s: %s", phase, a.raw)
		}
	}
	request(t, "POST", start, `{}`, "Authorization", "Bearer "+keyB).want(t, 404, sandbox.CodeNotFound)
	request(t, "DELETE", strings.TrimSuffix(start, "/template/start"), "")
	request(t, "POST", start, `{"start_command":"x"}`).want(t, 409, sandbox.CodeNotRunning)
}

// Clients repeat what took too long: two at once start one app.
func TestTemplateStartTwiceAtOnce(t *testing.T) {
	w, _, base := serveWorld(t, Config{})
	w.agent.onSpawn(t, func(id uint64) { w.agent.prints(id, guest.AppBegun+"\n") })
	start := base + "/api/v1/sandboxes/" + create(t, base, `{}`) + "/template/start"
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if a := request(t, "POST", start, `{"start_command":"serve"}`); a.status != 200 {
				t.Errorf("%d %s", a.status, a.raw)
			}
		})
	}
	wg.Wait()
	if n := len(w.agent.spawned); n != 1 {
		t.Errorf("%d apps were started", n)
	}
}
