package gvisor

import (
	"os"
	"path/filepath"
	"testing"
)

func TestLogBeginsAnewWhenItIsLarge(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, logName)
	open := func() int64 {
		t.Helper()
		f, err := openLog(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := f.WriteString("line\n"); err != nil {
			t.Fatal(err)
		}
		info, err := f.Stat()
		if err != nil {
			t.Fatal(err)
		}
		return info.Size()
	}
	open()
	if got := open(); got != 10 {
		t.Errorf("a small log has %d bytes after the second start, want 10", got)
	}
	for range 2 { // the second time there is an old one already
		if err := os.Truncate(path, logLimit+1); err != nil { // a hole: it takes no room
			t.Fatal(err)
		}
		if got := open(); got != 5 {
			t.Errorf("a large log has %d bytes after a start, want 5", got)
		}
	}
	if info, err := os.Stat(path + ".old"); err != nil || info.Size() != logLimit+1 {
		t.Errorf("the old log: %v, %v", info, err)
	}
}
