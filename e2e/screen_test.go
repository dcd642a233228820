package e2e

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/coder/websocket"
	"github.com/creack/pty"
	"github.com/hinshun/vt10x"
)

// screen is a terminal emulator fed by a program.
type screen struct {
	vt    vt10x.Terminal
	held  []byte
	keys  func(string)
	size  func(cols, rows int)
	ended chan struct{}
}

// feed shows p. The emulator drops characters that are cut in two, so their
// beginning waits.
func (s *screen) feed(p []byte) {
	p = append(s.held, p...)
	n := len(p)
	for i := 1; i <= min(n, utf8.UTFMax-1); i++ {
		if utf8.RuneStart(p[len(p)-i]) {
			if !utf8.FullRune(p[len(p)-i:]) {
				n = len(p) - i
			}
			break
		}
	}
	_, _ = s.vt.Write(p[:n])
	s.held = append([]byte(nil), p[n:]...)
}

// rows is what somebody would see.
func (s *screen) rows() []string {
	s.vt.Lock()
	defer s.vt.Unlock()
	cols, rows := s.vt.Size()
	out := make([]string, rows)
	for y := range rows {
		var line strings.Builder
		for x := range cols {
			c := s.vt.Cell(x, y).Char
			if c == 0 {
				c = ' '
			}
			line.WriteRune(c)
		}
		out[y] = strings.TrimRight(line.String(), " ")
	}
	return out
}

func (s *screen) String() string { return strings.Join(s.rows(), "\n") }

// inSandbox shows a program that runs on a terminal of a sandbox.
func inSandbox(t *testing.T, c *Client, id, command string, cols, rows int) *screen {
	sh := c.terminal(t, id, obj{"shell": command, "cols": cols, "rows": rows}, "")
	s := &screen{ended: make(chan struct{})}
	s.keys = func(k string) { _ = sh.Write(context.Background(), websocket.MessageBinary, []byte(k)) }
	s.size = func(cols, rows int) {
		s.vt.Resize(cols, rows) // first, as a terminal does: the program draws at once
		sh.send(true, fmt.Sprintf(`{"type":"resize","cols":%d,"rows":%d}`, cols, rows))
	}
	s.vt = vt10x.New(vt10x.WithSize(cols, rows), vt10x.WithWriter(writer(s.keys)))
	go func() {
		defer close(s.ended)
		for {
			_, p, err := sh.Read(context.Background())
			if err != nil {
				return
			}
			s.feed(p)
		}
	}()
	return s
}

// outside shows the same program on a terminal of this machine.
func outside(t *testing.T, command string, cols, rows int) *screen {
	cmd := exec.Command("/bin/sh", "-c", command)
	cmd.Dir = "/"
	cmd.Env = []string{"TERM=xterm-256color", "LANG=C.UTF-8", "HOME=/root", "PATH=" + os.Getenv("PATH")}
	f, err := pty.StartWithSize(cmd, &pty.Winsize{Cols: uint16(cols), Rows: uint16(rows)})
	if err != nil {
		t.Fatal(err)
	}
	s := &screen{ended: make(chan struct{})}
	s.keys = func(k string) { _, _ = io.WriteString(f, k) }
	s.size = func(cols, rows int) {
		s.vt.Resize(cols, rows)
		_ = pty.Setsize(f, &pty.Winsize{Cols: uint16(cols), Rows: uint16(rows)})
	}
	s.vt = vt10x.New(vt10x.WithSize(cols, rows), vt10x.WithWriter(writer(s.keys)))
	go func() {
		defer close(s.ended)
		buf := make([]byte, 4096)
		for {
			n, err := f.Read(buf)
			s.feed(buf[:n])
			if err != nil {
				return
			}
		}
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = f.Close()
		<-s.ended
		_ = cmd.Wait()
	})
	return s
}

// writer sends the emulator's answers to questions of the program.
type writer func(string)

func (w writer) Write(p []byte) (int, error) { w(string(p)); return len(p), nil }

// "full-screen programs (vim, htop, less) right (screen captured and compared
// with the same program outside)".
func TestFullScreenPrograms(t *testing.T) {
	t.Parallel()
	c := shared.tenant(t)
	id := c.create(t, nil)
	var text strings.Builder
	for i := 1; i <= 200; i++ {
		fmt.Fprintf(&text, "%d: line with ünïcode ✓ and\ttabs %s\n", i, strings.Repeat("long ", i%23))
	}
	dir := filepath.Join("/tmp", filepath.Base(t.TempDir())+"-screen")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	doc := filepath.Join(dir, "doc")
	if err := os.WriteFile(doc, []byte(text.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	c.upload(t, id, doc, []byte(text.String())).want(t, 200, "")

	for _, tt := range []struct {
		name, command, version string
		keys                   []string
		resized                string // what makes the place in the text sure after a resize
	}{
		{"less", "less " + doc, "less --version | head -1", []string{"", " ", "/150:\r", "G", "g", "50%", "\x1b[B"}, "g"},
		{"vim", "vi -u NONE -i NONE -N -n " + doc, "vi --version | head -1", []string{
			"", "5dd", "ihällo\x1b", ":set list\r", "G", "ggVG>",
			"u:\x1b", // without the message, which tells how many seconds ago
			":split\r", "/150:\r",
		}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			out, err := exec.Command("/bin/sh", "-c", tt.version).Output()
			if inside := c.sh(t, id, tt.version); err != nil || strings.TrimSpace(string(out)) != inside {
				t.Skipf("another version outside: %q, inside %q", out, inside)
			}
			in, out2 := inSandbox(t, c, id, tt.command, 90, 28), outside(t, tt.command, 90, 28)
			same := func(what string) {
				t.Helper()
				var was string
				settled := 0
				if !soon(20*time.Second, func() bool {
					now := in.String()
					if now == was && now == out2.String() && strings.TrimSpace(now) != "" {
						settled++
					} else {
						settled = 0
					}
					was = now
					return settled == 4
				}) {
					t.Fatalf("%s: inside\n%s\n-------- outside\n%s", what, in, out2)
				}
			}
			for _, k := range tt.keys {
				in.keys(k)
				out2.keys(k)
				same(fmt.Sprintf("after %q", k))
			}
			in.size(120, 40)
			out2.size(120, 40)
			if tt.resized != "" {
				// A key that comes with the news of the size is lost to some programs.
				if !soon(20*time.Second, func() bool { return in.rows()[39] != "" && out2.rows()[39] != "" }) {
					t.Fatalf("after a resize: inside\n%s\n-------- outside\n%s", in, out2)
				}
				in.keys(tt.resized)
				out2.keys(tt.resized)
			}
			same("after a resize")
		})
	}
	t.Run("htop", func(t *testing.T) { // its screen never stands still
		s := inSandbox(t, c, id, "htop", 90, 28)
		shows := func(rows int) {
			t.Helper()
			if !soon(20*time.Second, func() bool {
				r := s.rows()
				return len(r) == rows && strings.HasPrefix(r[rows-1], "F1Help") && strings.Contains(s.String(), "PID USER") &&
					strings.Contains(s.String(), "Mem[") && strings.Contains(s.String(), "htop")
			}) {
				t.Fatalf("the screen is\n%s", s)
			}
		}
		shows(28)
		s.size(120, 40)
		shows(40)
		s.keys("q")
		select {
		case <-s.ended:
		case <-time.After(20 * time.Second):
			t.Error("q does not end it")
		}
	})
}
