package main

import (
	"errors"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// A shell must make of shellCommand's text the arguments it was given.
func TestShellCommandRoundTrip(t *testing.T) {
	for _, argv := range [][]string{
		{"printf", "%s\n"},
		{"printf", "%s\n", "it's", `"quoted"`, "$HOME", "a b", "", "*", "-n", "back\\slash", "new\nline", "ü"},
		{"A=1", "x"},
	} {
		text := shellCommand(argv)
		out, err := exec.Command("sh", "-c", `for a in "$@"; do printf '%s\000' "$a"; done`, "sh").Output()
		if err != nil || len(out) != 0 {
			t.Fatalf("sh does not work here: %q %v", out, err)
		}
		out, err = exec.Command("sh", "-c", "set -- "+text+`; for a in "$@"; do printf '%s\000' "$a"; done`).Output()
		if err != nil {
			t.Errorf("%q: %v", text, err)
			continue
		}
		got := strings.Split(strings.TrimSuffix(string(out), "\x00"), "\x00")
		if !slices.Equal(got, argv) {
			t.Errorf("%q: shell got %q, want %q", text, got, argv)
		}
	}
}

func TestExitCodes(t *testing.T) {
	for _, c := range []struct {
		code                  int
		timedOut, outOfMemory bool
		want                  int
	}{{0, false, false, 0}, {7, false, false, 7}, {137, false, true, 137}, {-1, true, false, 124}, {256, false, false, 1}} {
		var e exitCode
		errors.As(exited(c.code, c.timedOut, c.outOfMemory), &e)
		if e.code != c.want {
			t.Errorf("%+v: exit code %d, want %d", c, e.code, c.want)
		}
	}
}

func TestRemotePath(t *testing.T) {
	for _, c := range []struct {
		in, id, file string
		remote       bool
	}{
		{"sbx_1:/root/a", "sbx_1", "/root/a", true},
		{"demo:a:b", "demo", "a:b", true},
		{"./a:b", "", "./a:b", false},
		{"/tmp/a:b", "", "/tmp/a:b", false},
		{"plain", "", "plain", false},
		{"demo:", "", "demo:", false},
		{":x", "", ":x", false},
	} {
		id, file, remote := remotePath(c.in)
		if id != c.id || file != c.file || remote != c.remote {
			t.Errorf("%q: got %q %q %v", c.in, id, file, remote)
		}
	}
}

func TestAdminKeyStaysOnThisMachine(t *testing.T) {
	for server, here := range map[string]bool{
		"http://127.0.0.1:8080": true, "http://localhost:8080": true, "http://[::1]:8080": true,
		"http://192.0.2.1:8080": false, "https://silica.example.com": false, "http://127.0.0.1.example.com": false, "::": false,
	} {
		if got := onThisMachine(server); got != here {
			t.Errorf("%s: got %v, want %v", server, got, here)
		}
	}
}
