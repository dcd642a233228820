package e2e

import (
	"bytes"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/creack/pty"
)

// Issue 3: "CLI complete for all of this: shell is a real terminal, cp takes
// folders both ways, logs -f, ps, top".
func TestCLI(t *testing.T) {
	s := ownServer(t, options{})
	c := s.tenant(t)
	silica := func(stdin string, args ...string) (string, int) {
		cmd := theLab.silica(s, c.key, args...)
		cmd.Stdin = strings.NewReader(stdin)
		var out, errs bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &errs
		err := cmd.Run()
		if cmd.ProcessState == nil {
			t.Fatalf("silica %q: %v", args, err)
		}
		if errs.Len() > 0 {
			t.Logf("silica %q: %s", args, errs.String())
		}
		return out.String(), cmd.ProcessState.ExitCode()
	}
	ok := func(args ...string) string {
		t.Helper()
		out, code := silica("", args...)
		if code != 0 {
			t.Fatalf("silica %q: exit code %d, output %q", args, code, out)
		}
		return out
	}
	id := strings.TrimSpace(ok("sandbox", "create", "-q", "--name", "cli", "--timeout", "10m"))

	if out, code := silica("a\nb\n", "sandbox", "exec", "-i", id, "wc -l; exit 5"); strings.TrimSpace(out) != "2" || code != 5 {
		t.Errorf("exec -i: %q, exit code %d; want 2 lines and 5", out, code)
	}

	dir := t.TempDir()
	src := filepath.Join(dir, "src")
	if err := os.MkdirAll(filepath.Join(src, "sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"run.sh": "#!/bin/sh\necho ran\n", "sub/ü ä.txt": "text\n"} {
		if err := os.WriteFile(filepath.Join(src, name), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("sub/ü ä.txt", filepath.Join(src, "link")); err != nil {
		t.Fatal(err)
	}
	ok("sandbox", "cp", src, "cli:/root")
	if out := ok("sandbox", "exec", id, "/root/src/run.sh && cat /root/src/link"); out != "ran\ntext\n" {
		t.Errorf("the copied folder: %q", out)
	}
	ok("sandbox", "cp", id+":/root/src", filepath.Join(dir, "back"))
	if out, err := exec.Command("diff", "-r", "--no-dereference", src, filepath.Join(dir, "back")).CombinedOutput(); err != nil {
		t.Errorf("there and back: %v\n%s", err, out)
	}

	t.Run("shell", func(t *testing.T) {
		cmd := theLab.silica(s, c.key, "sandbox", "shell", id)
		tty, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: 30, Cols: 100})
		if err != nil {
			t.Fatal(err)
		}
		defer tty.Close()
		defer func() { _ = cmd.Process.Kill() }()
		screen := &printed{}
		go func() { _, _ = io.Copy(screen, tty) }() // ends with the terminal
		sees := func(what string) {
			t.Helper()
			eventually(t, 20*time.Second, what+" on the screen", func() bool { return strings.Contains(screen.String(), what) })
		}
		typed := func(line string) {
			t.Helper()
			if _, err := tty.WriteString(line + "\r"); err != nil {
				t.Fatal(err)
			}
		}
		typed("echo ready=$((40+2))")
		sees("ready=42")
		typed("echo first=$(stty size | tr ' ' x)")
		sees("first=30x100")
		if err := pty.Setsize(tty, &pty.Winsize{Rows: 41, Cols: 121}); err != nil {
			t.Fatal(err)
		}
		typed("until [ \"$(stty size)\" = '41 121' ]; do :; done; echo then=$(stty size | tr ' ' x)")
		sees("then=41x121")
		typed("exit 9")
		_ = cmd.Wait()
		if code := cmd.ProcessState.ExitCode(); code != 9 {
			t.Errorf("exit code %d, want 9\n%s", code, screen.String())
		}
	})

	pid := strings.TrimSpace(ok("sandbox", "run", "--name", "ticker", id, "echo one; echo two >&2; cat; echo three"))
	if out := ok("sandbox", "ps", id); !strings.Contains(out, "ticker") || !strings.Contains(out, "running") {
		t.Errorf("ps: %s", out)
	}
	silica("typed\n", "sandbox", "process", "stdin", id, pid)
	if out := ok("sandbox", "process", "logs", "-f", id, pid); out != "one\ntyped\nthree\n" {
		t.Errorf("process logs -f: %q", out)
	}

	var top []struct {
		SandboxID string `json:"sandbox_id"`
		Memory    struct {
			Used int64 `json:"used_bytes"`
		}
	}
	if err := json.Unmarshal([]byte(ok("sandbox", "top", "--json")), &top); err != nil || len(top) != 1 || top[0].SandboxID != id || top[0].Memory.Used <= 0 {
		t.Errorf("top --json: %v %+v", err, top)
	}
	ok("sandbox", "env", "set", id, "COLOUR=blue")
	if out := ok("sandbox", "exec", id, "echo $COLOUR"); out != "blue\n" {
		t.Errorf("a variable that was set: %q", out)
	}
	if out := ok("sandbox", "rm", "cli"); strings.TrimSpace(out) != "cli" {
		t.Errorf("rm: %q", out)
	}
	if out := ok("sandbox", "logs", "-f", id); !strings.Contains(out, "destroyed") {
		t.Errorf("logs -f of a sandbox that has ended: %q", out)
	}
	if _, code := silica("", "sandbox", "exec", id, "true"); code != 1 {
		t.Errorf("exec after rm: exit code %d, want 1", code)
	}
}

// printed is what a program has printed so far.
type printed struct {
	mu   sync.Mutex
	text strings.Builder
}

func (p *printed) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.text.Write(b)
}

func (p *printed) String() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.text.String()
}
