package files

import (
	"os"
	"path/filepath"
	"testing"

	"silica.dev/silica/sandbox"
)

func TestByteRange(t *testing.T) {
	for _, tt := range []struct {
		header       string
		from, length int64
		partial      bool
		code         string
	}{
		{"", 0, 10, false, ""},
		{"bytes=0-", 0, 10, true, ""},
		{"bytes=3-", 3, 7, true, ""},
		{"bytes=3-5", 3, 3, true, ""},
		{"bytes=3-99", 3, 7, true, ""},
		{"bytes=-4", 6, 4, true, ""},
		{"bytes=-99", 0, 10, true, ""},
		{"bytes=9-", 9, 1, true, ""},
		{"bytes=10-", 0, 0, false, sandbox.CodeValidation},
		{"bytes=99-100", 0, 0, false, sandbox.CodeValidation},
		// What can't be understood is ignored, as HTTP wants it.
		{"bytes=5-3", 0, 10, false, ""},
		{"bytes=-0", 0, 10, false, ""},
		{"bytes=1-2,4-5", 0, 10, false, ""},
		{"bytes=x-", 0, 10, false, ""},
		{"bytes=-", 0, 10, false, ""},
		{"lines=1-2", 0, 10, false, ""},
		{"bytes=99999999999999999999-", 0, 10, false, ""},
	} {
		from, length, partial, err := byteRange(tt.header, 10)
		if tt.code != "" {
			if !sandbox.HasCode(err, tt.code) {
				t.Errorf("%q: %v, want %s", tt.header, err, tt.code)
			}
			continue
		}
		if from != tt.from || length != tt.length || partial != tt.partial || err != nil {
			t.Errorf("%q: %d %d %v %v, want %d %d %v", tt.header, from, length, partial, err, tt.from, tt.length, tt.partial)
		}
	}
}

func TestClean(t *testing.T) {
	for in, want := range map[string]string{
		"/": "/", "/a/../b": "/b", "/../../etc": "/etc", "//a//b/": "/a/b", "/a/./b": "/a/b",
	} {
		if got, err := Clean(in); got != want || err != nil {
			t.Errorf("%q: %q, %v; want %q", in, got, err, want)
		}
	}
}

func TestFollow(t *testing.T) {
	dir := t.TempDir()
	real, err := filepath.EvalSymlinks(dir)
	if err != nil {
		t.Fatal(err)
	}
	os.MkdirAll(dir+"/deep/er", 0o755)
	for name, target := range map[string]string{
		"abs": "/nowhere/x", "rel": "file", "twice": "rel", "folder": "deep/er", "deep/er/up": "../target", "loop": "loop",
	} {
		if err := os.Symlink(target, dir+"/"+name); err != nil {
			t.Fatal(err)
		}
	}
	for in, want := range map[string]string{
		dir + "/plain":     dir + "/plain",
		dir + "/abs":       "/nowhere/x",
		dir + "/rel":       real + "/file",
		dir + "/twice":     real + "/file",
		dir + "/folder/up": real + "/deep/target", // of the real folder, not dir
	} {
		if got, err := follow(in); got != want || err != nil {
			t.Errorf("%q: %q, %v; want %q", in, got, err, want)
		}
	}
	if _, err := follow(dir + "/loop"); !sandbox.HasCode(New(nil).classify("loop", err), sandbox.CodeInvalidPath) {
		t.Errorf("a loop: %v", err)
	}
}
