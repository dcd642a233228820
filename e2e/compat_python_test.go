package e2e

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// pythonClient is the published client that the script drives, unmodified.
const pythonClient = "2.19.2"

// "an unmodified client pointed at the machine works as if it talked to the
// hosted product"
//
// The steps are in testdata/compat_python.py; each is a test of its own here.
func TestPythonClient(t *testing.T) {
	t.Parallel()
	python := installPythonClient(t)
	s := ownServer(t, options{flags: []string{"--rate-limit=0"}})
	c := s.tenant(t)

	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, python, "testdata/compat_python.py", pythonClient)
	cmd.Env = append(plainEnv(), "MIOSA_BASE_URL="+s.url+"/api/v1", "MIOSA_API_KEY="+c.key)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("the script: %v\n%s\n%s", err, stdout.String(), stderr.String())
	}
	steps, ended := 0, 0
	lines := bufio.NewScanner(&stdout)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		verdict, rest, _ := strings.Cut(lines.Text(), " ")
		switch verdict {
		case "ok", "FAIL":
			steps++
			name, why, failed := strings.Cut(rest, ": ")
			t.Run(name, func(t *testing.T) {
				if failed {
					t.Error(why)
				}
			})
		case "end":
			_, _ = fmt.Sscan(rest, &ended)
		}
	}
	if steps == 0 || steps != ended {
		t.Errorf("%d steps of %d were run\n%s", steps, ended, stderr.String())
	}
}

// installPythonClient makes a virtual environment with the client and returns
// its interpreter. Packages come from wherever this machine's pip gets them.
func installPythonClient(t *testing.T) string {
	t.Helper()
	venv := filepath.Join(t.TempDir(), "venv")
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	if out, err := exec.CommandContext(ctx, "python3", "-m", "venv", venv).CombinedOutput(); err != nil {
		t.Fatalf("a virtual environment is needed for the Python client (Debian: python3-venv): %v\n%s", err, out)
	}
	python := filepath.Join(venv, "bin", "python")
	install := exec.CommandContext(ctx, python, "-m", "pip", "install", "--quiet", "--no-input", "miosa=="+pythonClient)
	if out, err := install.CombinedOutput(); err != nil {
		t.Fatalf("pip can't install miosa==%s: this test needs a Python package index, as pip is set up on this machine: %v\n%s", pythonClient, err, out)
	}
	return python
}
