package e2e

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"silica.dev/silica/api"
	"silica.dev/silica/client"
)

// goClient is the Go client with a tenant's key, in a context for one test.
func (c *Client) goClient(t *testing.T) (*client.Client, context.Context) {
	t.Helper()
	sdk, err := client.New(c.srv.url, c.key)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(sdk.Close)
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	t.Cleanup(cancel)
	return sdk, ctx
}

// The Go client against the server as it is: what needs more than one answer.
func TestGoClient(t *testing.T) {
	t.Parallel()
	c, ctx := shared.tenant(t).goClient(t)
	made, err := c.Create(ctx, api.CreateSandbox{TimeoutSec: 900, Tags: []string{"go"}})
	if err != nil {
		t.Fatal(err)
	}
	id := made.ID
	if sb, err := c.WaitUntilReady(ctx, id); err != nil || !sb.Ready {
		t.Fatalf("%v %v", sb, err)
	}
	n := 0
	for sb, err := range c.All(ctx, api.SandboxFilter{Tags: []string{"go"}, Limit: 1}) {
		if n++; err != nil || sb.ID != id {
			t.Errorf("listed %v %v", sb.ID, err)
		}
	}
	if n != 1 {
		t.Errorf("listed %d sandboxes", n)
	}

	t.Run("command", func(t *testing.T) {
		const size = 3 << 20
		var out, errs bytes.Buffer
		cmd := c.Command(id, "sh", "-c", `cat; echo "$A $PWD" >&2; exit 300`)
		cmd.Env, cmd.Dir = map[string]string{"A": "b + c&d=%20"}, "/tmp"
		cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(make([]byte, size)), &out, &errs
		err := cmd.Run(ctx)
		var exit *client.ExitError
		if !errors.As(err, &exit) || exit.Code != 300&0xff || out.Len() != size || errs.String() != "b + c&d=%20 /tmp\n" {
			t.Errorf("%v, %d bytes, %q", err, out.Len(), errs.String())
		}
		cmd = c.Command(id, "sleep 60")
		cmd.Timeout = time.Second
		if err := cmd.Run(ctx); err == nil {
			t.Error("a command that ran out of time is a success")
		}
		cmd = c.Command(id, "trap 'exit 9' INT; echo on; while :; do sleep 0.1; done")
		r, w := io.Pipe()
		cmd.Stdout = w
		if err := cmd.Start(ctx); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(r, make([]byte, 3)); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Signal("INT"); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); !errors.As(err, &exit) || exit.Code != 9 {
			t.Errorf("signalled: %v", err)
		}
		if err := c.Command("sbx_nobodys", "true").Run(ctx); !client.HasCode(err, "NOT_FOUND") {
			t.Errorf("%v", err)
		}
		res, err := c.ExecPython(ctx, id, api.ExecPythonRequest{Code: "print(6*7)"})
		if err != nil || res.Stdout != "42\n" {
			t.Errorf("%v %v", res, err)
		}
	})

	t.Run("terminal", func(t *testing.T) {
		term, err := c.OpenTerminal(ctx, id, api.TerminalRequest{Cols: 90, Rows: 33, Shell: "sh"})
		if err != nil {
			t.Fatal(err)
		}
		all := ""
		until := func(word string) {
			t.Helper()
			for buf := make([]byte, 4096); !strings.Contains(all, word); {
				n, err := term.Read(buf)
				if all += string(buf[:n]); err != nil {
					t.Fatalf("%v after %q", err, all)
				}
			}
		}
		typed := func(line string) {
			t.Helper()
			if _, err := io.WriteString(term, line+"\n"); err != nil {
				t.Fatal(err)
			}
		}
		if err := term.Resize(101, 41); err != nil {
			t.Fatal(err)
		}
		typed("stty size; echo en''d")
		until("41 101")
		until("end")
		at := term.Offset()
		if term, err = term.Reattach(ctx); err != nil {
			t.Fatal(err)
		}
		if term.Offset() != at {
			t.Errorf("taken up at %d, want %d", term.Offset(), at)
		}
		list, err := c.Terminals(ctx, id)
		if err != nil || len(list) != 1 || list[0].SessionID != term.Session() {
			t.Errorf("%v %v", list, err)
		}
		all = ""
		typed("echo a''gain; exit 5")
		rest, err := io.ReadAll(term)
		if code, ok := term.ExitCode(); err != nil || !ok || code != 5 || strings.Count(string(rest), "again") != 1 || strings.Contains(string(rest), "41 101") {
			t.Errorf("exit %d %v, %v: %q", code, ok, err, rest)
		}
		_ = term.Close()
	})

	t.Run("tunnel", func(t *testing.T) {
		p, err := c.StartProcess(ctx, id, api.ProcessRequest{Command: "python3 -u -m http.server 8123 --directory /etc"})
		if err != nil {
			t.Fatal(err)
		}
		for ev, err := range c.ProcessStream(ctx, id, p.PID, "") { // until it listens
			if err != nil {
				t.Fatal(err)
			}
			if strings.Contains(ev.Data, "Serving") {
				break
			}
		}
		tr := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return c.DialPort(ctx, id, 8123) }}
		defer tr.CloseIdleConnections()
		res, err := (&http.Client{Transport: tr}).Get("http://inside/hostname")
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		if body, err := io.ReadAll(res.Body); err != nil || res.StatusCode != 200 || len(body) == 0 {
			t.Errorf("%s %q %v", res.Status, body, err)
		}
		if _, err := c.DialPort(ctx, id, 1); !client.HasCode(err, "PORT_CLOSED") {
			t.Errorf("a port where nothing listens: %v", err)
		}
		if p, err = c.KillProcess(ctx, id, p.PID); err != nil || p.Status == api.ProcessRunning {
			t.Errorf("%v %v", p, err)
		}
	})

	t.Run("files", func(t *testing.T) {
		wrote, err := c.WriteFiles(ctx, id, map[string][]byte{"/w/a": []byte("needle\n"), "/w/b/c": make([]byte, 1000)})
		if err != nil || len(wrote.Written) != 2 {
			t.Fatalf("%v %v", wrote, err)
		}
		f, err := c.Pack(ctx, id, "/w", "tar")
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		packed, err := io.ReadAll(f)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Unpack(ctx, id, "/v", bytes.NewReader(packed), false); err != nil {
			t.Fatal(err)
		}
		if p, err := c.ReadFile(ctx, id, "/v/a"); string(p) != "needle\n" || err != nil {
			t.Errorf("%q %v", p, err)
		}
		if _, err := tar.NewReader(bytes.NewReader(packed)).Next(); err != nil {
			t.Error(err)
		}
		found, err := c.Search(ctx, id, api.SearchRequest{Path: "/v", Query: "needle"})
		if err != nil || len(found.Matches) != 1 || found.Matches[0].Path != "/v/a" {
			t.Errorf("%v %v", found, err)
		}
		globbed, err := c.Glob(ctx, id, api.GlobFilter{Path: "/v", Pattern: "**/c"})
		if err != nil || len(globbed.Entries) != 1 || globbed.Entries[0].Size != 1000 {
			t.Errorf("%v %v", globbed, err)
		}
		seen := make(chan struct{})
		defer close(seen)
		go func() { // the watch begins sometime: changes until it has seen one
			every := time.NewTicker(50 * time.Millisecond)
			defer every.Stop()
			for {
				select {
				case at := <-every.C:
					_, _ = c.WriteFile(ctx, id, "/w/new", []byte(at.String()))
				case <-seen:
					return
				}
			}
		}()
		for ch, err := range c.Watch(ctx, id, "/w", true) {
			if err != nil {
				t.Fatal(err)
			}
			if ch.Path == "/w/new" {
				break
			}
		}
		if err := c.RemoveFile(ctx, id, "/v", false); !client.HasCode(err, "CONFLICT") {
			t.Errorf("a folder that is not empty: %v", err)
		}
		if err := c.RemoveFile(ctx, id, "/w", true); err != nil {
			t.Error(err)
		}
	})

	if d, err := c.Delete(ctx, id); err != nil || d.State != api.StateDestroyed {
		t.Errorf("%v %v", d, err)
	}
	last := ""
	for ev, err := range c.Events(ctx, id, "0") { // which end by themselves
		if err != nil {
			t.Fatal(err)
		}
		if ev.Type == api.EventStateChanged {
			last = ev.State
		}
	}
	if last != api.StateDestroyed {
		t.Errorf("the last event says %q", last)
	}
}

// "resume by Last-Event-ID … and never repeat an item": one loop, over a server
// that dies in the middle of it.
func TestGoClientOutlivesTheDaemon(t *testing.T) {
	t.Parallel()
	s := ownServer(t, options{})
	c, ctx := s.tenant(t).goClient(t)
	sb, err := c.Create(ctx, api.CreateSandbox{TimeoutSec: 900})
	if err != nil {
		t.Fatal(err)
	}
	const lines = 300
	p, err := c.StartProcess(ctx, sb.ID, api.ProcessRequest{Command: fmt.Sprintf("for i in $(seq %d); do echo $i; sleep 0.02; done", lines)})
	if err != nil {
		t.Fatal(err)
	}
	begun := make(chan error, 1)
	var got, want []string
	for ev, err := range c.ProcessStream(ctx, sb.ID, p.PID, "") {
		if err != nil {
			t.Fatal(err)
		}
		if got = append(got, ev.Data); len(got) == 50 {
			if err := s.kill(); err != nil {
				t.Fatal(err)
			}
			go func() { begun <- s.begin() }() // the loop tries meanwhile
		}
	}
	if err := <-begun; err != nil {
		t.Fatal(err)
	}
	for i := range lines {
		want = append(want, fmt.Sprintln(i+1))
	}
	if want = append(want, ""); strings.Join(got, "|") != strings.Join(want, "|") { // "": the exit
		t.Errorf("%d events, want %d: something is lost or double", len(got), len(want))
	}
}
