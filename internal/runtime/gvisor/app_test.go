package gvisor_test

import (
	"io"
	"strings"
	"testing"
	"time"

	"silica.dev/silica/internal/guest"
	"silica.dev/silica/sandbox"
)

// answering is a server that tells how often it was asked, for want of a package
// that has one.
const answering = `exec python3 -c '
import os, socket
s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind(("0.0.0.0", int(os.environ["PORT"]))); s.listen(16)
print("listening", flush=True)
n = 0
while True:
    c, _ = s.accept()
    n += 1
    c.sendall(b"answer %d" % n); c.close()
'`

func (h *host) hear(id sandbox.ID, port uint16) string {
	h.t.Helper()
	var text []byte
	eventually(h.t, "the app answers", func() bool {
		c, err := h.driver.Dial(h.t.Context(), id, port)
		if err != nil {
			return false
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(10 * time.Second))
		text, err = io.ReadAll(c)
		return err == nil && len(text) > 0
	})
	return string(text)
}

// TestAppSurvivesRestore: copies of a sandbox whose app runs have it running, with
// what it had in memory, each its own; connections are gone, who listens is not.
func TestAppSurvivesRestore(t *testing.T) {
	h := newHost(t)
	source := h.start("")
	h.seed(source)
	g := h.agent(source)
	app := guest.App{Install: "echo installed > /tmp/made", Start: answering, Port: 8000, Workdir: "/srv/app"}
	p, err := g.StartApp(t.Context(), app)
	if err != nil {
		t.Fatal(err)
	}
	if exit, err := g.AwaitApp(t.Context(), p.Id); err != nil || exit != nil {
		t.Fatalf("the app ended: %v, %v", exit, err)
	}
	if got := h.hear(source, 8000); got != "answer 1" {
		t.Errorf("the original says %q", got)
	}
	ref := h.snapshot(source)
	h.destroy(source)
	for range 2 {
		id := h.start(ref)
		h.seed(id)
		if got := h.hear(id, 8000); got != "answer 2" {
			t.Errorf("a copy says %q", got)
		}
		g := h.agent(id)
		last, err := g.LastApp(t.Context())
		if err != nil || last == nil || !last.Running || !app.Is(last) || !guest.AppInstalled(last) {
			t.Fatalf("in a copy runs %v, %v", last, err)
		}
		if out, code := h.sh(id, "cat /tmp/made && kill -0 $(cat "+guest.AppPID+")"); out != "installed\n" || code != 0 {
			t.Errorf("its traces: %q, exit %d", out, code)
		}
		if text, _, err := g.AppTail(t.Context(), 1<<10); err != nil || !strings.Contains(string(text), "listening") {
			t.Errorf("its log: %q, %v", text, err)
		}
		if err := g.StopApp(t.Context(), last); err != nil {
			t.Errorf("it can't be stopped: %v", err)
		}
	}
}

// TestAppThatFails: the exit is that of the command that failed, and its words are
// in the log.
func TestAppThatFails(t *testing.T) {
	h := newHost(t)
	id := h.start("")
	h.seed(id)
	g := h.agent(id)
	for name, app := range map[string]guest.App{
		"install": {Install: "echo no such package; exit 7", Start: "true", Workdir: "/srv"},
		"start":   {Start: "echo no such package; exit 7", Workdir: "/srv", User: "nobody"},
	} {
		p, err := g.StartApp(t.Context(), app)
		if err != nil {
			t.Fatal(err)
		}
		exit, err := g.AwaitApp(t.Context(), p.Id)
		if err != nil || exit.GetExitCode() != 7 {
			t.Errorf("%s: %v, %v", name, exit, err)
		}
		if text, _, err := g.AppTail(t.Context(), 1<<10); err != nil || !strings.Contains(string(text), "no such package") {
			t.Errorf("%s: its log is %q, %v", name, text, err)
		}
		if p, err = g.Process(t.Context(), p.Id); err != nil || guest.AppInstalled(p) != (name == "start") {
			t.Errorf("%s: installed: %v, %v", name, p, err)
		}
	}
	p, err := g.StartApp(t.Context(), guest.App{Start: "id -un; pwd; echo $HOME; exec sleep 60", Workdir: "/srv", User: "nobody"})
	if err != nil {
		t.Fatal(err)
	}
	if exit, err := g.AwaitApp(t.Context(), p.Id); err != nil || exit != nil {
		t.Fatalf("as another user: %v, %v", exit, err)
	}
	if text, _, _ := g.AppTail(t.Context(), 1<<10); string(text) != "nobody\n/srv\n/nonexistent\n" {
		t.Errorf("as another user: %q", text)
	}
}

// TestLimitsInForce: what the kernel holds a restored sandbox to is its size.
func TestLimitsInForce(t *testing.T) {
	h := newHost(t)
	id := h.start(h.snapshot(h.start("")))
	got, err := h.driver.Limits(t.Context(), id)
	if err != nil || got.MilliCPU != small.MilliCPU || got.Memory < small.Memory || got.Memory > small.Memory+1024*sandbox.MiB {
		t.Errorf("Limits = %+v, %v, want those of %+v", got, err, small)
	}
}
