package builder

import (
	"context"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"silica.dev/silica/internal/blob"
	"silica.dev/silica/internal/image"
	"silica.dev/silica/internal/runtime/gvisor"
	"silica.dev/silica/internal/store"
	"silica.dev/silica/sandbox"
)

// realBuilder builds with gVisor and Debian's packages, as the daemon does. It
// needs root and what builds need.
func realBuilder(t *testing.T) *Builder {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("sandboxes need root")
	}
	for _, name := range []string{"mmdebstrap", "nft"} {
		if _, err := exec.LookPath(name); err != nil {
			t.Skip(err)
		}
	}
	dir := t.TempDir()
	program := func(name string) []byte {
		file := filepath.Join(dir, name)
		cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", file, "silica.dev/silica/cmd/"+name)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if text, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("build %s: %v: %s", name, err, text)
		}
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	blobs, err := blob.NewLocal(filepath.Join(dir, "blobs"))
	if err != nil {
		t.Fatal(err)
	}
	driver, err := gvisor.New(t.Context(), gvisor.Config{
		DataDir: dir, Program: program("silica-engine"), Blobs: blobs, CgroupTop: "mktest", ExpediteRCU: true, Log: slog.New(slog.DiscardHandler),
		Network: gvisor.Network{Name: "mktst", Prefix: netip.MustParsePrefix("10.78.0.0/16")},
	})
	if err != nil {
		t.Fatal(err)
	}
	db, err := store.Open(t.Context(), store.Config{Path: filepath.Join(dir, "silica.db"), Node: "n"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	b := New(Config{
		Driver: driver, Blobs: blobs, Log: slog.New(slog.NewTextHandler(t.Output(), nil)), Store: &rows{Store: db},
		Images: &image.Builder{Blobs: blobs, Agent: program("silica-agent"), Sources: []image.Source{&image.Debian{Host: "/"}}},
		Making: Making{Cache: filepath.Join(dir, "cache.json"), CacheBytes: 8 << 30, StepTimeout: 2 * time.Minute},
	})
	t.Cleanup(func() {
		ctx := context.WithoutCancel(t.Context())
		if left, err := driver.List(ctx); err != nil || len(left) > 0 {
			t.Errorf("sandboxes left: %v, %v", left, err)
		}
		if err := driver.Shutdown(ctx); err != nil {
			t.Error(err)
		}
		_ = exec.Command("sh", "-c", "rmdir /sys/fs/cgroup/*/mktest /sys/fs/cgroup/mktest").Run() // the driver keeps it for the next start
		_ = blobs.Close()
	})
	return b
}

// TestStepsForReal makes an image by steps in sandboxes of gVisor, twice, and then
// with another last step.
func TestStepsForReal(t *testing.T) {
	b := realBuilder(t)
	spec := sandbox.BuildSpec{From: "debian:bookworm", Steps: []sandbox.Step{
		{Env: map[string]string{"GREETING": "hello"}},
		{Run: "useradd -m app && echo $GREETING > /etc/greeting && rm /etc/debian_version && chmod 4755 /usr/bin/du"},
		{Workdir: "/srv/app"},
		{Run: "pwd > where; echo data > a; ln a b; ln -s a c; chown app:app a; mkdir -p deep/er; for i in $(seq 300); do echo $i > deep/er/$i; done; setsid sleep 600 &"},
	}}
	build := func(spec sandbox.BuildSpec) (made, []string) {
		t.Helper()
		var events []string
		began := time.Now()
		m, err := b.makeImage(t.Context(), spec, func(e sandbox.BuildEvent) { events = append(events, e.Event) })
		if err != nil {
			t.Fatalf("%v (%v)", err, sandbox.AsError(err).Details)
		}
		t.Logf("%s: %s", time.Since(began).Round(time.Millisecond), strings.Join(events, " "))
		return m, events
	}
	first, _ := build(spec)
	again, events := build(spec)
	if again.Image != first.Image || strings.Contains(strings.Join(events, " "), "started") {
		t.Errorf("the same spec gave %s, then %s with %v: want all steps cached", first.Image, again.Image, events)
	}
	if first.Env["GREETING"] != "hello" || first.Workdir != "/srv/app" {
		t.Errorf("left for run time: %+v", first)
	}
	spec.Steps = append(spec.Steps, sandbox.Step{Run: "cat a > d"})
	longer, events := build(spec)
	if got := strings.Join(events, " "); !strings.HasPrefix(got, "step_cached step_cached step_cached step_started ") {
		t.Errorf("another last step: got %s", got)
	}

	w, err := b.startWorkshop(t.Context(), longer.Image, "")
	if err != nil {
		t.Fatal(err)
	}
	defer w.leave(t.Context())
	out, err := w.output(t.Context(), "/bin/sh", "-c", "cd /srv/app; cat /etc/greeting where d; ls deep/er | wc -l; stat -c '%h %U' b; readlink c; "+
		"stat -c %a /usr/bin/du; ls -A /etc/debian_version 2>/dev/null; true")
	if want := "hello\n/srv/app\ndata\n300\n2 app\na\n4755\n"; err != nil || string(out) != want {
		t.Errorf("inside: got\n%s%v\nwant\n%s", out, err, want)
	}
	began := time.Now()
	same, err := b.capture(t.Context(), w.client, longer.Image)
	t.Logf("capture: %s", time.Since(began).Round(time.Millisecond))
	if err != nil || same != longer.Image {
		t.Errorf("the image of a sandbox nothing was done in is %s, %v, want that it was started from: %s", same, err, longer.Image)
	}
}
