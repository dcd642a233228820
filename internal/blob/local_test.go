package blob

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"silica.dev/silica/sandbox"
)

func open(t *testing.T, dir string) *Local {
	t.Helper()
	l, err := NewLocal(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// put stores files and returns their ref.
func put(t *testing.T, l *Local, files map[string]string) sandbox.Ref {
	t.Helper()
	ref, err := l.Put(t.Context(), fill(t, l, files))
	if err != nil {
		t.Fatal(err)
	}
	return ref
}

func fill(t *testing.T, l *Local, files map[string]string) string {
	t.Helper()
	dir, err := l.TempDir(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// unfinished counts what lies in the session's folder.
func unfinished(t *testing.T, l *Local) int {
	t.Helper()
	entries, err := os.ReadDir(l.session.Name())
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

func TestPutAndOpen(t *testing.T) {
	l := open(t, t.TempDir())
	files := map[string]string{"b": "two", "a": "one", "empty": ""}
	ref := put(t, l, files)
	if again := put(t, l, files); again != ref {
		t.Errorf("the same content got %s, then %s", ref, again)
	}
	if other := put(t, l, map[string]string{"a": "two", "b": "one", "empty": ""}); other == ref {
		t.Error("other content got the same ref")
	}
	dir, release, err := l.Open(t.Context(), ref)
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	for name, want := range files {
		if got, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(got) != want {
			t.Errorf("%s: got %q, %v, want %q", name, got, err, want)
		}
	}
	if err := l.Verify(t.Context(), ref); err != nil {
		t.Errorf("verify: %v", err)
	}
	if n := unfinished(t, l); n != 0 {
		t.Errorf("%d unfinished folders left, want none", n)
	}
	if refs, err := l.List(t.Context()); err != nil || len(refs) != 2 {
		t.Errorf("list: got %v, %v, want 2", refs, err)
	}
}

func TestUnknownRefs(t *testing.T) {
	l := open(t, t.TempDir())
	for _, ref := range []sandbox.Ref{"", "sha256:", "sha256:../../etc", "tmp",
		sandbox.Ref("sha256:" + strings.Repeat("a", 64)), sandbox.Ref("sha256:" + strings.Repeat("A", 64))} {
		if _, _, err := l.Open(t.Context(), ref); sandbox.AsError(err).Kind != sandbox.NotFound {
			t.Errorf("open %q: got %v, want not found", ref, err)
		}
		if err := l.Verify(t.Context(), ref); sandbox.AsError(err).Kind != sandbox.NotFound {
			t.Errorf("verify %q: got %v, want not found", ref, err)
		}
		if err := l.Delete(t.Context(), ref); err != nil {
			t.Errorf("delete %q: got %v, want success", ref, err)
		}
	}
}

func TestDeleteRefusesWhatIsOpen(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir)
	other := open(t, dir) // another process would be kept away by the same lock
	ref := put(t, l, map[string]string{"f": "x"})
	_, release1, err := l.Open(t.Context(), ref)
	if err != nil {
		t.Fatal(err)
	}
	_, release2, err := l.Open(t.Context(), ref)
	if err != nil {
		t.Fatal(err)
	}
	release1()
	release1() // repeating it must not free the second pin
	for name, s := range map[string]*Local{"own": l, "other": other} {
		if err := s.Delete(t.Context(), ref); sandbox.AsError(err).Kind != sandbox.Conflict {
			t.Errorf("%s delete of a pinned artifact: got %v, want conflict", name, err)
		}
	}
	release2()
	if err := other.Delete(t.Context(), ref); err != nil {
		t.Errorf("delete after release: %v", err)
	}
	if _, _, err := l.Open(t.Context(), ref); sandbox.AsError(err).Kind != sandbox.NotFound {
		t.Errorf("open after delete: got %v, want not found", err)
	}
}

func TestDamageIsSeenAndRepaired(t *testing.T) {
	damages := map[string]struct {
		how    func(path string) error
		onOpen bool // noticed without reading the content
	}{
		"cut off":          {func(p string) error { return os.Truncate(filepath.Join(p, "f"), 3) }, true},
		"missing":          {func(p string) error { return os.Remove(filepath.Join(p, "f")) }, true},
		"changed":          {func(p string) error { return os.WriteFile(filepath.Join(p, "f"), []byte("CONTENT"), 0) }, false},
		"manifest changed": {func(p string) error { return os.WriteFile(filepath.Join(p, manifestName), []byte("x"), 0) }, true},
		"manifest missing": {func(p string) error { return os.Remove(filepath.Join(p, manifestName)) }, true},
	}
	for name, c := range damages {
		t.Run(name, func(t *testing.T) {
			l := open(t, t.TempDir())
			files := map[string]string{"f": "content"}
			ref := put(t, l, files)
			path, _ := l.path(ref)
			_ = os.Chmod(filepath.Join(path, "f"), 0o644)
			if err := c.how(path); err != nil {
				t.Fatal(err)
			}
			_, release, err := l.Open(t.Context(), ref)
			if err == nil {
				release()
			}
			if got := errors.Is(err, ErrDamaged); got != c.onOpen {
				t.Errorf("open: got %v, want damage noticed: %v", err, c.onOpen)
			}
			if err := l.Verify(t.Context(), ref); !errors.Is(err, ErrDamaged) {
				t.Errorf("verify: got %v, want damaged", err)
			}
			if again := put(t, l, files); again != ref {
				t.Errorf("put again: got %s, want %s", again, ref)
			}
			if err := l.Verify(t.Context(), ref); err != nil {
				t.Errorf("verify after the repair: %v", err)
			}
			if n := unfinished(t, l); n != 0 {
				t.Errorf("%d unfinished folders left, want none", n)
			}
		})
	}
}

func TestRefusedContent(t *testing.T) {
	cases := map[string]func(dir string) error{
		"folder":      func(d string) error { return os.Mkdir(filepath.Join(d, "sub"), 0o755) },
		"symlink":     func(d string) error { return os.Symlink("/etc/passwd", filepath.Join(d, "l")) },
		"hidden file": func(d string) error { return os.WriteFile(filepath.Join(d, manifestName), nil, 0o644) },
		"fifo":        func(d string) error { return unix.Mkfifo(filepath.Join(d, "p"), 0o644) },
	}
	for name, prepare := range cases {
		l := open(t, t.TempDir())
		dir := fill(t, l, map[string]string{"f": "x"})
		if err := prepare(dir); err != nil {
			t.Fatal(err)
		}
		if ref, err := l.Put(t.Context(), dir); err == nil {
			t.Errorf("%s: put gave %s, want an error", name, ref)
		}
		if n := unfinished(t, l); n != 0 {
			t.Errorf("%s: %d unfinished folders left, want none", name, n)
		}
	}
}

func TestSparseFiles(t *testing.T) {
	l := open(t, t.TempDir())
	dir := fill(t, l, map[string]string{"sparse": "", "plain": ""})
	const size = 8 << 20
	whole := make([]byte, size)
	copy(whole[3<<20:], "in the middle")
	sparse := filepath.Join(dir, "sparse")
	f, err := os.OpenFile(sparse, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.WriteAt([]byte("in the middle"), 3<<20)
	if err := errors.Join(err, f.Truncate(size), f.Close(), os.WriteFile(filepath.Join(dir, "plain"), whole, 0o644)); err != nil {
		t.Fatal(err)
	}
	ref, err := l.Put(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	path, release, err := l.Open(t.Context(), ref)
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	files, err := readManifest(path, ref)
	if err != nil || len(files) != 2 || files[0].Sum != files[1].Sum {
		t.Errorf("sparse and plain file with the same bytes: got %+v, %v", files, err)
	}
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(path, "sparse"), &st); err != nil || st.Blocks*512 > size/2 {
		t.Errorf("the sparse file takes %d bytes, %v: its holes were filled", st.Blocks*512, err)
	}
}

func TestStartSweepsOnlyTheDead(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir)
	mine := fill(t, l, map[string]string{"f": "x"})
	dead := filepath.Join(dir, "tmp", "sdead", "t1")
	if err := os.MkdirAll(dead, 0o755); err != nil {
		t.Fatal(err)
	}
	open(t, dir)
	if _, err := os.Stat(dead); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the dead session is still there: %v", err)
	}
	if _, err := l.Put(t.Context(), mine); err != nil {
		t.Errorf("put by the living session: %v", err)
	}
}

func TestCancelledPutLeavesNothing(t *testing.T) {
	l := open(t, t.TempDir())
	dir := fill(t, l, map[string]string{"f": "x"})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := l.Put(ctx, dir); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want canceled", err)
	}
	if n := unfinished(t, l); n != 0 {
		t.Errorf("%d unfinished folders left, want none", n)
	}
}

func TestConcurrentPutsOpensAndDeletes(t *testing.T) {
	l := open(t, t.TempDir())
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 30 {
				ref := put(t, l, map[string]string{"f": "x"})
				if dir, release, err := l.Open(t.Context(), ref); err == nil {
					if _, err := os.Stat(filepath.Join(dir, "f")); err != nil {
						t.Errorf("a pinned artifact lost its file: %v", err)
					}
					release()
				} else if sandbox.AsError(err).Kind != sandbox.NotFound {
					t.Errorf("open: %v", err)
				}
				if err := l.Delete(t.Context(), ref); err != nil && sandbox.AsError(err).Kind != sandbox.Conflict {
					t.Errorf("delete: %v", err)
				}
			}
		})
	}
	wg.Wait()
	if len(l.pins) != 0 {
		t.Errorf("%d pins left, want none", len(l.pins))
	}
}

// TestDiskFull uses a file system of its own, small enough to fill.
func TestDiskFull(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=64k"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	l := open(t, dir)
	tmp := fill(t, l, map[string]string{"f": "x"})
	// One page short of full: nothing is left for the manifest.
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(tmp, "g"), bytes.Repeat([]byte("x"), int(st.Bfree)*int(st.Bsize)), 0o644); err != nil {
		t.Fatal(err)
	}
	_, err := l.Put(t.Context(), tmp)
	if !sandbox.HasCode(err, sandbox.CodeHostFull) {
		t.Errorf("got %v, want %s", err, sandbox.CodeHostFull)
	}
	if n := unfinished(t, l); n != 0 {
		t.Errorf("%d unfinished folders left, want none", n)
	}
	if refs, _ := l.List(t.Context()); len(refs) != 0 {
		t.Errorf("half an artifact is listed: %v", refs)
	}
}

// TestKilledPutLeavesNothing ends a process that is putting, by SIGKILL.
func TestKilledPutLeavesNothing(t *testing.T) {
	if dir := os.Getenv("BLOB_TEST_DIR"); dir != "" {
		l, err := NewLocal(dir)
		if err != nil {
			t.Fatal(err)
		}
		for { // until killed
			tmp, err := l.TempDir(context.Background())
			if err != nil {
				t.Fatal(err)
			}
			text := make([]byte, 1<<20)
			_, _ = rand.Read(text)
			if err := os.WriteFile(filepath.Join(tmp, "f"), text, 0o644); err != nil {
				t.Fatal(err)
			}
			if _, err := l.Put(context.Background(), tmp); err != nil {
				t.Fatal(err)
			}
		}
	}
	dir := t.TempDir()
	for range 3 {
		cmd := exec.Command(os.Args[0], "-test.run=^TestKilledPutLeavesNothing$")
		cmd.Env = append(os.Environ(), "BLOB_TEST_DIR="+dir)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		before, _ := filepath.Glob(filepath.Join(dir, "sha256-*"))
		for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
			if now, _ := filepath.Glob(filepath.Join(dir, "sha256-*")); len(now) > len(before)+1 {
				break
			}
		}
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		l := open(t, dir)
		refs, err := l.List(t.Context())
		if err != nil || len(refs) == 0 {
			t.Fatalf("list: %v, %v", refs, err)
		}
		for _, ref := range refs {
			if err := l.Verify(t.Context(), ref); err != nil {
				t.Errorf("%s: %v", ref, err)
			}
		}
		if sessions, _ := os.ReadDir(l.tmp()); len(sessions) > 4 {
			t.Errorf("dead sessions were not swept: %v", sessions)
		}
	}
}

func BenchmarkPut600MB(b *testing.B) {
	l, err := NewLocal(b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	text := make([]byte, 600<<20)
	_, _ = rand.Read(text)
	b.SetBytes(int64(len(text)))
	for b.Loop() {
		b.StopTimer()
		dir, _ := l.TempDir(b.Context())
		_, _ = rand.Read(text[:64])
		if err := os.WriteFile(filepath.Join(dir, "root.erofs"), text, 0o644); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
		ref, err := l.Put(b.Context(), dir)
		if err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		if err := l.Delete(b.Context(), ref); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}
