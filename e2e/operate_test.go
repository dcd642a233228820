package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// outcome is what a command line did.
type outcome struct {
	stdout, stderr string
	code           int
}

// cli runs bin/silica as a user would.
func (c *Client) cli(t *testing.T, stdin string, args ...string) outcome {
	t.Helper()
	cmd := theLab.silica(c.srv, c.key, args...)
	var out, errOut bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &errOut
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return outcome{out.String(), errOut.String(), cmd.ProcessState.ExitCode()}
}

// "`silica sandbox create|ls|get|rm|exec|cp`"; "helpful errors, `--json`".
func TestCommandLine(t *testing.T) {
	t.Parallel()
	c := shared.tenant(t)
	made := c.cli(t, "", "sandbox", "create", "--json")
	var sb obj
	if err := json.Unmarshal([]byte(made.stdout), &sb); err != nil || made.code != 0 {
		t.Fatalf("create --json: %+v: %v", made, err)
	}
	id, _ := sb["id"].(string)
	if sb["state"] != "running" {
		t.Errorf("create: got %v", sb)
	}
	if o := c.cli(t, "", "sandbox", "create", "-q"); o.code != 0 || !regexp.MustCompile(`^sbx_[0-9a-z]{26}\n$`).MatchString(o.stdout) {
		t.Errorf("create -q: %+v", o)
	}
	local := filepath.Join(t.TempDir(), "in.txt")
	if err := os.WriteFile(local, []byte("from here\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	back := filepath.Join(t.TempDir(), "back.txt")
	for _, tc := range []struct {
		args           []string
		code           int
		stdout, stderr string // that must occur
	}{
		{[]string{"sandbox", "exec", id, "--", "python3", "-c", "print(6*7)"}, 0, "42\n", ""},
		{[]string{"sandbox", "exec", id, "echo err >&2; exit 7"}, 7, "", "err\n"},
		{[]string{"sandbox", "exec", "-e", "A=b c", "-w", "/tmp", id, "echo $A; pwd"}, 0, "b c\n/tmp\n", ""},
		{[]string{"sandbox", "exec", "--timeout", "1s", id, "sleep 10"}, 124, "", "time"},
		{[]string{"sandbox", "ls"}, 0, id, ""},
		{[]string{"sandbox", "get", id}, 0, id, ""},
		{[]string{"sandbox", "cp", local, id + ":/root/in.txt"}, 0, "", ""},
		{[]string{"sandbox", "exec", id, "cat /root/in.txt"}, 0, "from here\n", ""},
		{[]string{"sandbox", "cp", id + ":/root/in.txt", back}, 0, "", ""},
		{[]string{"sandbox", "get", unknownID}, 1, "", "silica sandbox ls"},
		{[]string{"sandbox", "exec", unknownID, "true"}, 1, "", ""},
		{[]string{"sandbox", "lst"}, 2, "", "ls"},
		{[]string{"tenant", "ls"}, 1, "", "admin"},
		{[]string{"sandbox", "rm", id}, 0, "", ""},
		{[]string{"sandbox", "exec", id, "true"}, 1, "", "silica sandbox get"},
	} {
		o := c.cli(t, "", tc.args...)
		if o.code != tc.code || !strings.Contains(o.stdout, tc.stdout) || !strings.Contains(o.stderr, tc.stderr) {
			t.Errorf("silica %s: got %+v, want code %d, %q, %q", strings.Join(tc.args, " "), o, tc.code, tc.stdout, tc.stderr)
		}
	}
	if b, err := os.ReadFile(back); err != nil || string(b) != "from here\n" {
		t.Errorf("cp there and back: %q %v", b, err)
	}
	nobody := shared.as("msk_u_nobody_knows_this_key")
	if o := nobody.cli(t, "", "sandbox", "ls"); o.code != 1 || !strings.Contains(o.stderr, "SILICA_API_KEY") {
		t.Errorf("a wrong key: %+v", o)
	}
	away := &Client{srv: &Server{url: "http://127.0.0.1:9"}, key: c.key}
	if o := away.cli(t, "", "sandbox", "ls"); o.code != 69 || !strings.Contains(o.stderr, "silica serve") {
		t.Errorf("no server: %+v", o)
	}
}

// "`silica tenant create|ls|rm`, `silica key create|ls|rm` (`--tenant`)".
func TestCommandLineAccounts(t *testing.T) {
	t.Parallel()
	admin := shared.as(bootstrapKey)
	made := admin.cli(t, "", "tenant", "create", "cli-tenant", "--json")
	var tn obj
	if err := json.Unmarshal([]byte(made.stdout), &tn); err != nil {
		t.Fatalf("tenant create: %+v", made)
	}
	id, _ := tn["id"].(string)
	keyed := admin.cli(t, "", "key", "create", "--tenant", id, "--json")
	var key obj
	if err := json.Unmarshal([]byte(keyed.stdout), &key); err != nil {
		t.Fatalf("key create: %+v", keyed)
	}
	secret, _ := key["token"].(string)
	if o := shared.as(secret).cli(t, "", "sandbox", "ls"); o.code != 0 {
		t.Errorf("with the new key: %+v", o)
	}
	if o := admin.cli(t, "", "key", "ls", "--tenant", id); o.code != 0 || strings.Contains(o.stdout, secret) || !strings.Contains(o.stdout, key["id"].(string)) {
		t.Errorf("key ls: %+v", o)
	}
	for _, args := range [][]string{{"key", "rm", "--tenant", id, key["id"].(string)}, {"tenant", "rm", id}} {
		if o := admin.cli(t, "", append(args, "--yes")...); o.code != 0 {
			if o = admin.cli(t, "", args...); o.code != 0 {
				t.Errorf("silica %s: %+v", strings.Join(args, " "), o)
			}
		}
	}
}

// "`silica drain` is how one empties a machine".
func TestDrain(t *testing.T) {
	t.Parallel()
	s := ownServer(t, options{})
	c := s.tenant(t)
	ids := []string{c.create(t, nil), c.create(t, nil)}
	if o := c.cli(t, "", "drain", "--yes"); o.code == 0 {
		t.Errorf("a tenant's key drained the machine: %+v", o)
	}
	if o := s.as(bootstrapKey).cli(t, "", "drain", "--yes"); o.code != 0 || !strings.Contains(o.stdout, "2") {
		t.Errorf("drain: %+v", o)
	}
	for _, id := range ids {
		if got := c.do(t, "GET", "sandboxes/"+id, nil).want(t, 200, "").str("state"); got != "destroyed" {
			t.Errorf("%s is %s, want destroyed", id, got)
		}
	}
	a := c.do(t, "POST", "sandboxes", obj{}).want(t, 503, "")
	if a.Header.Get("Retry-After") == "" {
		t.Errorf("a create on a drained machine: got %s without Retry-After", a)
	}
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	s.restart(t)
	c.create(t, nil)
}

// "`silica doctor` (names what the machine lacks and how to get it)": its exit
// code tells a script.
func TestDoctor(t *testing.T) {
	t.Parallel()
	s, err := theLab.newServer(options{}) // free port, name and network; not started
	if err != nil {
		t.Fatal(err)
	}
	good := append([]string{"doctor"}, s.flags[1:5]...)
	nobody := s.as("")
	if o := nobody.cli(t, "", good...); o.code != 0 {
		t.Errorf("on a machine that runs these tests: %+v", o)
	}
	o := nobody.cli(t, "", append(good, "--data=/proc/nothing/can/be/here")...)
	if o.code != 1 || !strings.Contains(o.stdout, "FAIL") || !strings.Contains(o.stdout, "fix:") {
		t.Errorf("with an impossible data folder: %+v", o)
	}
	o = nobody.cli(t, "", append(good, "--json")...)
	var findings []obj
	if err := json.Unmarshal([]byte(o.stdout), &findings); err != nil || len(findings) < 5 {
		t.Errorf("--json: %v: %+v", err, o)
	}
}

// A configuration nobody can mean is refused with what is wrong, before anything
// starts.
func TestServeRefusesBadSettings(t *testing.T) {
	t.Parallel()
	c := shared.as("")
	for _, tc := range []struct{ flag, says string }{
		{"--network-name=Capital", "network-name"}, {"--network-prefix=10.0.0.0/30", "network-prefix"}, {"--warm-pool=-1", "warm-pool"},
		{"--listen=nowhere", "listen"}, {"--no-such-flag", "no-such-flag"}, {"--max-timeout=0s", "max-timeout"},
	} {
		o := c.cli(t, "", "serve", "--data="+t.TempDir(), tc.flag)
		if o.code != 2 || !strings.Contains(o.stderr, tc.says) {
			t.Errorf("serve %s: %+v, want code 2 and %q", tc.flag, o, tc.says)
		}
	}
	// A second server on the same data folder.
	o := c.cli(t, "", "serve", "--listen=127.0.0.1:0", "--data="+shared.data, "--network-name=zz")
	if o.code == 0 || o.stderr == "" {
		t.Errorf("two servers on one data folder: %+v", o)
	}
}

// killNow kills one process without a warning.
func killNow(t *testing.T, p process) {
	t.Helper()
	if err := unix.Kill(p.pid, unix.SIGKILL); err != nil && err != unix.ESRCH {
		t.Fatalf("kill %d %s: %v", p.pid, p.args, err)
	}
}

// openFiles counts the descriptors of the daemon and its engine.
func openFiles(t *testing.T, s *Server) int {
	t.Helper()
	n := 0
	for _, p := range append(engines(t, s), process{pid: s.pid()}) {
		fds, err := os.ReadDir(filepath.Join("/proc", strconv.Itoa(p.pid), "fd"))
		if err != nil {
			t.Fatal(err)
		}
		n += len(fds)
	}
	return n
}
