package files

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"context"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"silica.dev/silica/sandbox"
)

// plant makes a tree with one of everything.
func plant(t *testing.T) string {
	t.Helper()
	dir := t.TempDir() + "/src"
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.MkdirAll(dir+"/sub/empty", 0o755))
	must(os.WriteFile(dir+"/a", []byte("small"), 0o640))
	must(os.WriteFile(dir+"/sub/large", bytes.Repeat([]byte("0123456789abcdef"), 100_000), 0o755))
	must(os.WriteFile(dir+"/sub/bad-\xff\n"+strings.Repeat("n", 200), []byte("odd"), 0o600))
	must(os.Symlink("/usr/bin/env", dir+"/absolute"))
	must(os.Symlink("sub/../a", dir+"/relative"))
	must(os.Symlink("loop", dir+"/loop"))
	must(unix.Mkfifo(dir+"/fifo", 0o600))
	must(os.WriteFile(dir+"/hole", nil, 0o600))
	must(os.Truncate(dir+"/hole", 64<<20))
	old := time.Date(2001, 2, 3, 4, 5, 6, 0, time.UTC)
	must(os.Chtimes(dir+"/a", old, old))
	must(os.Chmod(dir+"/sub/empty", 0o700))
	return dir
}

// same compares two trees with tools that know nothing of ours.
func same(t *testing.T, a, b string) {
	t.Helper()
	if out, err := exec.Command("diff", "-r", "--no-dereference", "-x", "fifo", a, b).CombinedOutput(); err != nil {
		t.Errorf("%s and %s differ: %s", a, b, out)
	}
	list := func(dir string) string {
		out, err := exec.Command("sh", "-c", "cd "+dir+" && find . -type f -printf '%P %m %Ts\\n' | sort; find . -type l -printf '%P %l\\n' | sort; find . -type d -printf '%P %m\\n' | sort").Output()
		if err != nil {
			t.Error(err)
		}
		return string(out)
	}
	if x, y := list(a), list(b); x != y {
		t.Errorf("got\n%s\nwant\n%s", y, x)
	}
}

func pack(t *testing.T, f *Files, p Pack) []byte {
	t.Helper()
	a, err := f.Archive(p)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := a.Write(t.Context(), &b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestArchiveThereAndBack(t *testing.T) {
	f, src := New(nil), plant(t)
	for _, format := range []string{FormatTar, FormatTarGz} {
		raw := pack(t, f, Pack{Paths: []string{src}, Format: format})
		dst := t.TempDir() + "/new/dst"
		n, err := f.Unpack(t.Context(), bytes.NewReader(raw), dst, true)
		if err != nil || n.Files != 4 || n.Skipped != 0 || n.Entries != 9 {
			t.Errorf("%s: %+v, %v", format, n, err)
		}
		same(t, src, dst)
		var st unix.Stat_t
		if err := unix.Stat(dst+"/hole", &st); err != nil || st.Blocks > 1000 {
			t.Errorf("the hole takes %d blocks", st.Blocks)
		}
		// Over what is there already.
		if n, err := f.Unpack(t.Context(), bytes.NewReader(raw), dst, true); err != nil {
			t.Errorf("again: %+v, %v", n, err)
		}
		same(t, src, dst)
		// tar itself understands it.
		out := t.TempDir()
		cmd := exec.Command("tar", "xzf", "-", "-C", out)
		if format == FormatTar {
			cmd.Args[1] = "xf"
		}
		cmd.Stdin = bytes.NewReader(raw)
		if msg, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("tar: %v: %s", err, msg)
		}
		same(t, src, out)
	}
	names := func(p Pack) string {
		var list []string
		r := tar.NewReader(bytes.NewReader(pack(t, f, p)))
		for h, err := r.Next(); err == nil; h, err = r.Next() {
			list = append(list, h.Name)
		}
		return strings.Join(list, " ")
	}
	if got := names(Pack{Paths: []string{src + "/a"}, Format: FormatTar}); got != "a" {
		t.Errorf("one file: %q", got)
	}
	if got := names(Pack{Paths: []string{src + "/sub/empty", src + "/relative"}, From: src, Format: FormatTar}); got != "sub/empty/ relative" {
		t.Errorf("from above: %q", got)
	}
	if got := names(Pack{Paths: []string{"/proc/self"}, From: "/proc", Format: FormatTar}); got != "self/" {
		t.Errorf("/proc: %.100q", got)
	}
	z, err := zip.NewReader(bytes.NewReader(pack(t, f, Pack{Paths: []string{src}, Format: FormatZip})), int64(len(pack(t, f, Pack{Paths: []string{src}, Format: FormatZip}))))
	if err != nil {
		t.Fatal(err)
	}
	if b, err := fs.ReadFile(z, "a"); string(b) != "small" {
		t.Errorf("zip: %q, %v", b, err)
	}
	for _, p := range []Pack{
		{Paths: []string{src + "/nope"}, Format: "tar"}, {Paths: []string{"rel"}, Format: "tar"}, {Paths: []string{src}, Format: "rar"},
		{Format: "tar"}, {Paths: []string{"/etc"}, From: src, Format: "tar"}, {Paths: []string{src + "/fifo"}, Format: "tar"},
	} {
		if _, err := f.Archive(p); err == nil {
			t.Errorf("%+v was taken", p)
		}
	}
}

// An archive that is written into the tree it holds ends, as does one of a file
// that grows; one that shrinks does not shift what follows.
func TestArchiveOfWhatChanges(t *testing.T) {
	f, dir := New(nil), t.TempDir()
	for _, name := range []string{"a", "m", "z"} {
		if err := os.WriteFile(dir+"/"+name, make([]byte, 4<<20), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	out, err := os.Create(dir + "/out.tar")
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	a, err := f.Archive(Pack{Paths: []string{dir}, Format: FormatTar})
	if err != nil {
		t.Fatal(err)
	}
	var copied bytes.Buffer
	w := io.MultiWriter(out, &copied, onFirst(func() {
		_ = os.Truncate(dir+"/m", 1)
		_ = os.Truncate(dir+"/z", 100<<20)
	}))
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := a.Write(ctx, w); err != nil {
		t.Fatal(err)
	}
	found := 0
	r := tar.NewReader(&copied)
	for h, err := r.Next(); err != io.EOF; h, err = r.Next() {
		if err != nil {
			t.Fatal(err)
		}
		if h.Name != "out.tar" {
			found++
		}
	}
	if found != 3 {
		t.Errorf("%d files", found)
	}
	cancel()
	if err := a.Write(ctx, io.Discard); err == nil {
		t.Error("it goes on although nobody reads")
	}
}

type onFirst func()

func (f onFirst) Write(p []byte) (int, error) { f(); return len(p), nil }

// Whatever names and links say, nothing is written outside the folder.
func TestUnpackStaysInside(t *testing.T) {
	type e = tar.Header
	reg := func(name string) e { return e{Typeflag: tar.TypeReg, Name: name, Mode: 0o4755, Size: 4} }
	link := func(name, to string) e { return e{Typeflag: tar.TypeSymlink, Name: name, Linkname: to} }
	hard := func(name, to string) e { return e{Typeflag: tar.TypeLink, Name: name, Linkname: to} }
	dir := func(name string) e { return e{Typeflag: tar.TypeDir, Name: name, Mode: 0o755} }
	for name, tt := range map[string]struct {
		entries []e
		code    string
	}{
		"plain":             {[]e{reg("a"), reg("./b/c"), dir("d/"), hard("h", "b/c"), link("l", "/etc"), {Typeflag: tar.TypeChar, Name: "null"}, {Typeflag: tar.TypeFifo, Name: "p"}}, ""},
		"up":                {[]e{reg("../out")}, sandbox.CodeInvalidPath},
		"up and down":       {[]e{reg("a/../../dst/out")}, sandbox.CodeInvalidPath},
		"up inside":         {[]e{dir("a"), reg("a/../out")}, sandbox.CodeInvalidPath},
		"absolute":          {[]e{reg("/tmp/out")}, sandbox.CodeInvalidPath},
		"absolute folder":   {[]e{dir("/tmp/out")}, sandbox.CodeInvalidPath},
		"by absolute link":  {[]e{link("l", "/"), reg("l/out")}, sandbox.CodeInvalidPath},
		"by relative link":  {[]e{link("l", ".."), reg("l/out")}, sandbox.CodeInvalidPath},
		"by two links":      {[]e{dir("a"), link("a/l", ".."), link("m", "a/l/.."), reg("m/out")}, sandbox.CodeInvalidPath},
		"folder by link":    {[]e{link("l", ".."), dir("l/out")}, sandbox.CodeInvalidPath},
		"hard link out":     {[]e{hard("h", "../secret")}, sandbox.CodeInvalidPath},
		"hard link by link": {[]e{link("l", ".."), hard("h", "l/secret")}, sandbox.CodeInvalidPath},
		"over a link":       {[]e{link("l", "../secret"), reg("l")}, ""},
		"folder over link":  {[]e{link("l", ".."), dir("l"), reg("l/f")}, ""},
		"link inside":       {[]e{dir("a"), link("l", "a"), reg("l/f")}, ""},
		"file as folder":    {[]e{reg("f"), reg("f/g")}, sandbox.CodeFileExists},
		"folder as file":    {[]e{dir("f"), reg("f/g"), reg("f")}, ""}, // an error, of either kind
		"endless name":      {[]e{reg(strings.Repeat("n", 300))}, sandbox.CodeInvalidPath},
	} {
		t.Run(name, func(t *testing.T) {
			var b bytes.Buffer
			w := tar.NewWriter(&b)
			for _, h := range tt.entries {
				if err := w.WriteHeader(&h); err != nil {
					t.Fatal(err)
				}
				if h.Size > 0 {
					_, _ = w.Write([]byte("text"))
				}
			}
			_ = w.Close()
			top := t.TempDir()
			if err := os.WriteFile(top+"/secret", []byte("s"), 0o600); err != nil {
				t.Fatal(err)
			}
			n, err := New(nil).Unpack(t.Context(), &b, top+"/dst", false)
			if name == "folder as file" {
				if err == nil {
					t.Error("a folder was replaced by a file")
				}
			} else if tt.code == "" && err != nil || tt.code != "" && !sandbox.HasCode(err, tt.code) {
				t.Errorf("got %v, want %q", err, tt.code)
			}
			if list, _ := os.ReadDir(top); len(list) != 2 {
				t.Errorf("outside: %v", list)
			}
			if b, _ := os.ReadFile(top + "/secret"); string(b) != "s" {
				t.Errorf("the file outside holds %q", b)
			}
			_ = filepath.WalkDir(top, func(p string, d fs.DirEntry, err error) error {
				if err == nil && IsTemp(d.Name()) {
					t.Errorf("left behind: %s", p)
				}
				return nil
			})
			if name == "plain" {
				info, err := os.Stat(top + "/dst/h")
				if err != nil || info.Mode() != 0o755 || n.Skipped != 2 || n.Files != 2 {
					t.Errorf("%v, %v, %+v", info, err, n)
				}
			}
		})
	}
}

func TestUnpackOfWhatIsNoArchive(t *testing.T) {
	f := New(nil)
	whole := pack(t, f, Pack{Paths: []string{plant(t)}, Format: FormatTarGz})
	var bomb bytes.Buffer
	z := gzip.NewWriter(&bomb)
	_, _ = io.CopyN(z, endlessZeros{}, maxTrailer+1<<20)
	z.Close()
	for name, raw := range map[string][]byte{
		"text": []byte(strings.Repeat("hello ", 1000)), "cut": whole[:len(whole)/2], "flipped": append(append([]byte{}, whole[:len(whole)-6]...), 1, 2, 3, 4, 5, 6),
		"only magic": {0x1f, 0x8b}, "zeros without end": bomb.Bytes(),
	} {
		if _, err := f.Unpack(t.Context(), bytes.NewReader(raw), t.TempDir(), false); !sandbox.HasCode(err, sandbox.CodeValidation) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if n, err := f.Unpack(t.Context(), bytes.NewReader(nil), t.TempDir(), false); err != nil {
		t.Errorf("nothing at all: %+v, %v", n, err)
	}
	if err := os.WriteFile(t.TempDir()+"/f", nil, 0o600); err != nil {
		t.Fatal(err)
	}
}

type endlessZeros struct{}

func (endlessZeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }
