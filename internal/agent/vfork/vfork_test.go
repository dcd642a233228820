package vfork_test

import (
	"errors"
	"io"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"silica.dev/silica/internal/agent/vfork"
)

// start runs a shell script and returns what it wrote and its status.
func start(t *testing.T, c vfork.Command) (string, unix.WaitStatus, error) {
	t.Helper()
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	c.Files = [3]int{int(null.Fd()), int(w.Fd()), int(w.Fd())}
	if c.OpenFiles.Max == 0 {
		c.OpenFiles = unix.Rlimit{Cur: 256, Max: 512}
	}
	pid, err := vfork.Start(c)
	w.Close()
	var ws unix.WaitStatus
	if pid != 0 {
		if _, werr := unix.Wait4(pid, &ws, 0, nil); werr != nil {
			t.Fatal(werr)
		}
	}
	out, rerr := io.ReadAll(r)
	if rerr != nil {
		t.Fatal(rerr)
	}
	return string(out), ws, err
}

func script(text string) vfork.Command {
	return vfork.Command{Path: "/bin/sh", Args: []string{"sh", "-c", text}, Env: []string{"A=b", "PATH=/usr/bin:/bin"}, Dir: "/usr"}
}

func TestStart(t *testing.T) {
	out, ws, err := start(t, script(`echo $A $PWD; ulimit -Sn; ulimit -Hn; exit 3`))
	if err != nil {
		t.Fatal(err)
	}
	if want := "b /usr\n256\n512\n"; out != want || ws.ExitStatus() != 3 {
		t.Errorf("wrote %q and exited with %d, want %q and 3", out, ws.ExitStatus(), want)
	}
}

// A program starts with the signals blocked and ignored that this process was
// started with; Go's own changes don't show.
func TestSignals(t *testing.T) {
	out, _, err := start(t, script(`exec cat /proc/self/status`))
	if err != nil {
		t.Fatal(err)
	}
	own, err := os.ReadFile("/proc/thread-self/status")
	if err != nil {
		t.Fatal(err)
	}
	for _, set := range []string{"SigBlk:", "SigIgn:"} {
		got, want := field(out, set), field(string(own), set)
		if got == "" || got != want {
			t.Errorf("%s %q, want %q", set, got, want)
		}
	}
	_, ws, err := start(t, script(`kill -TERM $$; sleep 60`))
	if err != nil || ws.Signal() != unix.SIGTERM {
		t.Errorf("ended with %v (%v), want SIGTERM", ws, err)
	}
}

func field(status, name string) string {
	for line := range strings.Lines(status) {
		if v, ok := strings.CutPrefix(line, name); ok {
			return strings.TrimSpace(v)
		}
	}
	return ""
}

// What could not be loaded is told, and this process is unharmed.
func TestFailures(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*vfork.Command)
		want   error
	}{
		"no such program":   {func(c *vfork.Command) { c.Path = "/no/such" }, unix.ENOENT},
		"a folder":          {func(c *vfork.Command) { c.Path = "/usr" }, unix.EACCES},
		"no such directory": {func(c *vfork.Command) { c.Dir = "/no/such" }, unix.ENOENT},
		"a bad limit":       {func(c *vfork.Command) { c.OpenFiles = unix.Rlimit{Cur: 2, Max: 1} }, unix.EINVAL},
		"a NUL byte":        {func(c *vfork.Command) { c.Args = []string{"a\x00b"} }, unix.EINVAL},
	} {
		t.Run(name, func(t *testing.T) {
			c := script("echo ran")
			tc.change(&c)
			out, _, err := start(t, c)
			if !errors.Is(err, tc.want) || out != "" {
				t.Errorf("got %q, %v, want %v", out, err, tc.want)
			}
		})
	}
}

// Many at once, with the collector at work: nothing of the shared memory breaks.
func TestParallel(t *testing.T) {
	for range 8 {
		t.Run("", func(t *testing.T) {
			t.Parallel()
			for range 50 {
				garbage := make([]string, 1000)
				for i := range garbage {
					garbage[i] = strings.Repeat("x", i)
				}
				if out, _, err := start(t, script("echo hello")); err != nil || out != "hello\n" {
					t.Fatalf("got %q, %v", out, err)
				}
			}
		})
	}
}
