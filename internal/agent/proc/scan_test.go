package proc

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// A process may call itself anything; its numbers must not be taken from that.
func TestScanIsNotFooledByNames(t *testing.T) {
	sleep, err := exec.LookPath("sleep")
	if err != nil {
		t.Skip(err)
	}
	link := filepath.Join(t.TempDir(), "x) R 1 1 1 (")
	if err := os.Symlink(sleep, link); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(link, "100")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer cmd.Process.Kill()
	var s scanner
	if err := s.open(); err != nil {
		t.Fatal(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.all() {
		if e.pid == cmd.Process.Pid {
			if e.parent != os.Getpid() {
				t.Errorf("parent %d, want %d", e.parent, os.Getpid())
			}
			return
		}
	}
	t.Error("not found")
}

func TestScanNumber(t *testing.T) {
	for in, want := range map[string]int{"1\x00": 1, "4711\x00junk": 4711, "self\x00": -1, "\x00": -1, "12": -1, "99999999999999\x00": -1} {
		n, ok := number([]byte(in))
		if !ok {
			n = -1
		}
		if n != want {
			t.Errorf("%q: %d, want %d", in, n, want)
		}
	}
}

func TestScanDoesNotAllocateMuch(t *testing.T) {
	var s scanner
	if err := s.open(); err != nil {
		t.Fatal(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	n := len(s.all())
	if got := testing.AllocsPerRun(10, func() { s.all() }); got > float64(8*n+100) {
		t.Errorf("%.0f allocations for %d processes", got, n)
	}
}
