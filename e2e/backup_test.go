package e2e

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// A backup is made while the server works, a new server starts on what was
// restored from it, and creates from the restored template without a build.
func TestBackupUnderLoadAndRestore(t *testing.T) {
	s := ownServer(t, options{flags: []string{"--max-sandboxes=20", "--rate-limit=0"}})
	c := s.tenant(t)
	ran := c.create(t, obj{"name": "ran"})

	// Load: rows are written and sandboxes come and go.
	ctx, stop := context.WithCancel(context.Background())
	var load sync.WaitGroup
	for range 2 {
		load.Go(func() {
			for ctx.Err() == nil {
				a, err := c.try(ctx, "POST", "sandboxes", obj{})
				if err == nil && a.Status == 201 {
					_, _ = c.try(ctx, "POST", "sandboxes/"+a.str("id")+"/exec", obj{"command": "true"})
					_, _ = c.try(ctx, "DELETE", "sandboxes/"+a.str("id"), nil)
				}
			}
		})
	}
	file := filepath.Join(t.TempDir(), "silica.tar.zst")
	out, err := s.lab.silica(s, "", "backup", "--data="+s.data, "--to="+file).CombinedOutput()
	stop()
	load.Wait()
	if err != nil {
		t.Fatalf("backup: %v\n%s", err, out)
	}
	if st, err := os.Stat(file); err != nil || st.Mode().Perm() != 0o600 {
		t.Fatalf("the backup: %v %v", st, err)
	}

	// Restore refuses a folder that is not empty, and leaves nothing of a
	// damaged file.
	if out, err := s.lab.silica(s, "", "restore", "--from="+file, "--data="+s.data).CombinedOutput(); err == nil || !strings.Contains(string(out), "not empty") {
		t.Errorf("restore over a data folder: %v\n%s", err, out)
	}
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	cut := filepath.Join(t.TempDir(), "cut.tar.zst")
	if err := os.WriteFile(cut, raw[:len(raw)/2], 0o600); err != nil {
		t.Fatal(err)
	}
	nowhere := filepath.Join(s.lab.dir, "nowhere")
	if out, err := s.lab.silica(s, "", "restore", "--from="+cut, "--data="+nowhere).CombinedOutput(); err == nil || !strings.Contains(string(out), "damaged") {
		t.Errorf("restore half a file: %v\n%s", err, out)
	}
	if left, _ := filepath.Glob(filepath.Join(s.lab.dir, "*nowhere*")); len(left) > 0 {
		t.Errorf("half a restore left %v", left)
	}

	n, err := s.lab.newServer(options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, l := range n.close() {
			t.Errorf("left behind: %s", l)
		}
		if t.Failed() {
			t.Logf("log of the restored server:\n%s", n.log.tail(0, 60))
		}
	})
	if out, err := s.lab.silica(s, "", "restore", "--from="+file, "--data="+n.data).CombinedOutput(); err != nil {
		t.Fatalf("restore: %v\n%s", err, out)
	}
	n.restart(t)
	if n.readyAfter > time.Minute || strings.Contains(n.log.since(0), "image built") {
		t.Errorf("the template was built anew: ready after %v", n.readyAfter)
	}
	again := n.as(c.key) // keys are rows
	lost := again.do(t, "GET", "sandboxes/"+ran, nil).want(t, 200, "")
	if lost.str("state") != "error" || lost.str("state_reason") == "" {
		t.Errorf("a sandbox that ran: %s", lost)
	}
	a := again.do(t, "POST", "sandboxes", obj{}).want(t, 201, "")
	if a.str("boot_path") == "cold" {
		t.Errorf("the restored template boots cold: %s", a)
	}
	if out := again.sh(t, a.str("id"), "echo restored"); out != "restored" {
		t.Errorf("exec: %q", out)
	}
	again.clear(t)
}
