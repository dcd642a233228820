package agent_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"silica.dev/silica/internal/guest/guestpb"
	"silica.dev/silica/sandbox"
)

// folder makes a scratch folder inside.
func (a *guestAgent) folder(t *testing.T) string {
	t.Helper()
	dir := "/var/tmp/silica-test-" + strings.ToLower(strings.ReplaceAll(t.Name(), "/", "-"))
	_ = a.Remove(t.Context(), dir, true)
	if _, err := a.MakeDir(t.Context(), &guestpb.MakeDirRequest{Path: dir, Parents: true}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := a.Remove(context.Background(), dir, true); err != nil && !sandbox.HasCode(err, sandbox.CodeFileNotFound) {
			t.Error(err)
		}
	})
	return dir
}

func (a *guestAgent) read(t *testing.T, path string) string {
	t.Helper()
	s, err := a.tryRead(t.Context(), path, 0)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func (a *guestAgent) tryRead(ctx context.Context, path string, offset int64) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second) // nothing may hang
	defer cancel()
	f, err := a.ReadFile(ctx, path, offset)
	if err != nil {
		return "", err
	}
	defer f.Close()
	b, err := io.ReadAll(f)
	return string(b), err
}

func (a *guestAgent) write(t *testing.T, path, text string) {
	t.Helper()
	if n, err := a.WriteFile(t.Context(), path, 0, strings.NewReader(text)); err != nil || n != int64(len(text)) {
		t.Fatalf("write %s: %d, %v", path, n, err)
	}
}

func TestReadAndWrite(t *testing.T) {
	a := one(t)
	dir := a.folder(t)
	p := dir + "/new/folders/f"
	a.write(t, p, "hello")
	if got := a.read(t, p); got != "hello" {
		t.Errorf("got %q", got)
	}
	a.write(t, p, "")
	if got := a.read(t, p); got != "" {
		t.Errorf("got %q", got)
	}
	if f, err := a.ReadFile(t.Context(), p, 0); err != nil || f.Size != 0 || time.Since(f.Modified) > time.Minute {
		t.Errorf("empty file: %+v, %v", f, err)
	}

	a.write(t, p, "0123456789")
	if got, err := a.tryRead(t.Context(), p, 7); got != "789" || err != nil {
		t.Errorf("from 7: %q, %v", got, err)
	}
	if f, err := a.ReadFile(t.Context(), p, 7); err != nil || f.Size != 10 {
		t.Errorf("size of the whole: %+v, %v", f, err)
	} else {
		f.Close()
	}
	if _, err := a.tryRead(t.Context(), p, 10); !sandbox.HasCode(err, sandbox.CodeValidation) {
		t.Errorf("from the end: %v", err)
	}

	// Mode and owner stay, unless a mode is given.
	a.sh(t, "chown 12:34 "+p+"; chmod 4751 "+p)
	a.write(t, p, "again")
	if e, err := a.Stat(t.Context(), p); err != nil || e.Mode != 0o4751 || e.Uid != 12 || e.Gid != 34 {
		t.Errorf("kept: %v, %v", e, err)
	}
	if _, err := a.WriteFile(t.Context(), p, 0o600, strings.NewReader("x")); err != nil {
		t.Error(err)
	}
	if e, _ := a.Stat(t.Context(), p); e.GetMode() != 0o600 || e.GetUid() != 12 {
		t.Errorf("mode given: %v", e)
	}
	if e, err := a.Stat(t.Context(), dir+"/new"); err != nil || e.Mode != 0o755 {
		t.Errorf("parent: %v, %v", e, err)
	}

	// Through links, also dangling and relative ones.
	a.sh(t, "cd "+dir+"; ln -s new/folders/f link; ln -s nowhere dangling; ln -s loop loop; mkdir d; ln -s d dd; ln -s ../target dd/up")
	a.write(t, dir+"/link", "by link")
	a.write(t, dir+"/dangling", "made")
	a.write(t, dir+"/dd/up", "up")
	for name, want := range map[string]string{"new/folders/f": "by link", "nowhere": "made", "target": "up"} {
		if got := a.read(t, dir+"/"+name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	if e, _ := a.Stat(t.Context(), dir+"/link"); e.GetType() != guestpb.Entry_SYMLINK {
		t.Errorf("the link became %v", e)
	}
	// Names of any bytes can be written and read.
	a.write(t, dir+"/bad-\xff", "bytes")
	if got := a.read(t, dir+"/bad-\xff"); got != "bytes" {
		t.Errorf("got %q", got)
	}
	if got := a.read(t, "/proc/self/status"); !strings.Contains(got, "Name:") {
		t.Errorf("a file of /proc: %q", got)
	}
}

func TestFileErrors(t *testing.T) {
	a := one(t)
	dir := a.folder(t)
	a.sh(t, "cd "+dir+"; mkfifo fifo; ln -s fifo tofifo; ln -s loop loop; echo x >file; mkdir -p full/x; ln -s /dev/zero zero")
	read := func(p string) error { _, err := a.tryRead(t.Context(), p, 0); return err }
	write := func(p string) error {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		_, err := a.WriteFile(ctx, p, 0, strings.NewReader("x"))
		return err
	}
	mkdir := func(p string) error {
		_, err := a.MakeDir(t.Context(), &guestpb.MakeDirRequest{Path: p})
		return err
	}
	list := func(p string) error { _, err := a.ListDir(t.Context(), p, 1); return err }
	remove := func(p string) error { return a.Remove(t.Context(), p, false) }
	move := func(p string) error {
		_, err := a.Move(t.Context(), &guestpb.MoveRequest{From: p, To: dir + "/moved"})
		return err
	}
	for _, tt := range []struct {
		what string
		do   func(string) error
		path string
		code string
	}{
		{"read", read, dir + "/missing", sandbox.CodeFileNotFound},
		{"read", read, dir, sandbox.CodeIsDirectory},
		{"read", read, dir + "/fifo", sandbox.CodeNotRegularFile},
		{"read", read, dir + "/tofifo", sandbox.CodeNotRegularFile},
		{"read", read, "/dev/zero", sandbox.CodeNotRegularFile},
		{"read", read, dir + "/zero", sandbox.CodeNotRegularFile},
		{"read", read, dir + "/file/x", sandbox.CodeNotDirectory},
		{"read", read, dir + "/loop", sandbox.CodeInvalidPath},
		{"read", read, "relative", sandbox.CodeInvalidPath},
		{"read", read, "", sandbox.CodeInvalidPath},
		{"read", read, "/a\x00b", sandbox.CodeInvalidPath},
		{"read", read, "/" + strings.Repeat("n", 300), sandbox.CodeInvalidPath},
		{"read", read, "/" + strings.Repeat("n/", 3000), sandbox.CodeInvalidPath},
		{"write", write, dir, sandbox.CodeIsDirectory},
		{"write", write, dir + "/new/", sandbox.CodeIsDirectory},
		{"write", write, "/", sandbox.CodeIsDirectory},
		{"write", write, dir + "/fifo", sandbox.CodeNotRegularFile},
		{"write", write, "/dev/null", sandbox.CodeNotRegularFile},
		{"write", write, dir + "/file/x", sandbox.CodeNotDirectory},
		{"write", write, dir + "/loop", sandbox.CodeInvalidPath},
		{"write", write, "../x", sandbox.CodeInvalidPath},
		{"mkdir", mkdir, dir + "/file", sandbox.CodeFileExists},
		{"mkdir", mkdir, dir + "/no/parents", sandbox.CodeFileNotFound},
		{"list", list, dir + "/file", sandbox.CodeNotDirectory},
		{"list", list, dir + "/missing", sandbox.CodeFileNotFound},
		{"remove", remove, "/", sandbox.CodeInvalidPath},
		{"remove", remove, "/x/..", sandbox.CodeInvalidPath},
		{"remove", remove, dir + "/full", sandbox.CodeConflict},
		{"remove", remove, dir + "/missing", sandbox.CodeFileNotFound},
		{"move", move, dir + "/missing", sandbox.CodeFileNotFound},
	} {
		if err := tt.do(tt.path); !sandbox.HasCode(err, tt.code) {
			t.Errorf("%s %.60q: %v, want %s", tt.what, tt.path, err, tt.code)
		}
	}
	if err := write("/proc/silica/x"); err == nil {
		t.Error("a file could be made in /proc")
	}
}

// brokenBody ends in an error half way.
type brokenBody struct{ n int }

func (b *brokenBody) Read(p []byte) (int, error) {
	if b.n -= len(p); b.n < 0 {
		return 0, errors.New("the sender broke off")
	}
	return len(p), nil
}

func TestHalfABodyLeavesNothing(t *testing.T) {
	a := one(t)
	dir := a.folder(t)
	a.write(t, dir+"/f", "old")
	if _, err := a.WriteFile(t.Context(), dir+"/f", 0, &brokenBody{1 << 20}); err == nil {
		t.Error("half a body is no error")
	}
	until(t, "the rest is gone", func() bool {
		list, err := a.ListDir(t.Context(), dir, 1)
		return err == nil && len(list) == 1
	})
	if got := a.read(t, dir+"/f"); got != "old" {
		t.Errorf("got %q", got)
	}
}

func TestSpool(t *testing.T) {
	a := one(t)
	dir := a.folder(t)
	p, n, err := a.Spool(t.Context(), strings.NewReader("spooled"))
	if err != nil || n != 7 || p == "" {
		t.Fatalf("%q, %d, %v", p, n, err)
	}
	if err := a.Commit(t.Context(), p, dir+"/deep/f"); err != nil {
		t.Fatal(err)
	}
	if got := a.read(t, dir+"/deep/f"); got != "spooled" {
		t.Errorf("got %q", got)
	}
	if err := a.Commit(t.Context(), p, dir+"/again"); !sandbox.HasCode(err, sandbox.CodeFileNotFound) {
		t.Errorf("a second commit: %v", err)
	}
	if err := a.Commit(t.Context(), dir+"/deep/f", dir+"/x"); !sandbox.HasCode(err, sandbox.CodeInvalidPath) {
		t.Errorf("commit of anything: %v", err)
	}
	// Onto another file system, too.
	p, _, err = a.Spool(t.Context(), strings.NewReader("elsewhere"))
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Commit(t.Context(), p, "/dev/shm/silica-spooled"); err != nil {
		t.Fatal(err)
	}
	if got := a.read(t, "/dev/shm/silica-spooled"); got != "elsewhere" {
		t.Errorf("got %q", got)
	}
	_ = a.Remove(t.Context(), "/dev/shm/silica-spooled", false)
	if e, err := a.Stat(t.Context(), p); err == nil {
		t.Errorf("still spooled: %v", e)
	}
}

func TestTree(t *testing.T) {
	a := one(t)
	dir := a.folder(t)
	a.sh(t, "cd "+dir+"; mkdir -p a/b/c; echo 12345 >a/f; ln -s a toa; ln -s missing broken; mkfifo p; printf x >\"$(printf 'n\\377')\"")
	names := func(depth uint32) string {
		list, err := a.ListDir(t.Context(), dir, depth)
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, e := range list {
			names = append(names, strings.TrimPrefix(e.Path, dir+"/"))
		}
		return strings.Join(names, " ")
	}
	if got := names(0); got != "a broken n\uefff p toa" {
		t.Errorf("depth 0: %q", got)
	}
	if got := names(2); got != "a a/b a/f broken n\uefff p toa" {
		t.Errorf("depth 2: %q", got)
	}
	for name, check := range map[string]func(*guestpb.Entry) bool{
		"a":   func(e *guestpb.Entry) bool { return e.Type == guestpb.Entry_DIRECTORY && e.IsDir && e.Mode == 0o755 },
		"a/f": func(e *guestpb.Entry) bool { return e.Type == guestpb.Entry_FILE && e.Size == 6 && e.Name == "f" },
		"toa": func(e *guestpb.Entry) bool {
			return e.Type == guestpb.Entry_SYMLINK && e.IsDir && e.SymlinkTarget == "a"
		},
		"broken": func(e *guestpb.Entry) bool { return e.Type == guestpb.Entry_SYMLINK && !e.IsDir },
		"p":      func(e *guestpb.Entry) bool { return e.Type == guestpb.Entry_OTHER },
	} {
		if e, err := a.Stat(t.Context(), dir+"/"+name); err != nil || !check(e) {
			t.Errorf("%s: %v, %v", name, e, err)
		}
	}
	if e, err := a.MakeDir(t.Context(), &guestpb.MakeDirRequest{Path: dir + "/m/n", Mode: 0o700, Parents: true}); err != nil || e.Mode != 0o700 {
		t.Errorf("mkdir: %v, %v", e, err)
	}
	if _, err := a.MakeDir(t.Context(), &guestpb.MakeDirRequest{Path: dir + "/m/n", Parents: true}); err != nil {
		t.Errorf("mkdir of one that exists: %v", err)
	}
	if e, err := a.Move(t.Context(), &guestpb.MoveRequest{From: dir + "/a", To: dir + "/far/away"}); err != nil || !e.IsDir {
		t.Errorf("move: %v, %v", e, err)
	}
	if got := a.read(t, dir+"/far/away/f"); got != "12345\n" {
		t.Errorf("moved: %q", got)
	}
	a.write(t, dir+"/small", "x")
	if _, err := a.Move(t.Context(), &guestpb.MoveRequest{From: dir + "/small", To: "/dev/shm/silica-moved"}); err != nil {
		t.Errorf("move to another file system: %v", err)
	}
	if err := a.Remove(t.Context(), "/dev/shm/silica-moved", false); err != nil {
		t.Error(err)
	}
	if err := a.Remove(t.Context(), dir+"/toa", true); err != nil {
		t.Error(err)
	}
	if err := a.Remove(t.Context(), dir+"/far", true); err != nil {
		t.Error(err)
	}
	if got := names(1); got != "broken m n\uefff p" {
		t.Errorf("left: %q", got)
	}
}

func TestListingIsBounded(t *testing.T) {
	a := one(t)
	dir := a.folder(t)
	if os.Getenv(envAddr) != "" {
		t.Skip("needs the test's files")
	}
	long := strings.Repeat("n", 250)
	for i := range 5500 {
		os.WriteFile(fmt.Sprintf("%s/%s%d", dir, long, i), nil, 0o600)
	}
	if _, err := a.ListDir(t.Context(), dir, 1); !sandbox.HasCode(err, sandbox.CodeValidation) {
		t.Errorf("got %v", err)
	}
}

type watched struct {
	events chan *guestpb.WatchEvent
	dir    string
}

func (a *guestAgent) watch(t *testing.T, dir string, recursive bool) *watched {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	w, done := &watched{make(chan *guestpb.WatchEvent, 1000), dir}, make(chan struct{})
	go func() {
		defer close(done)
		defer close(w.events)
		for ev, err := range a.Watch(ctx, &guestpb.WatchRequest{Path: dir, Recursive: recursive}) {
			if err != nil {
				return
			}
			w.events <- ev
		}
	}()
	t.Cleanup(func() { cancel(); <-done })
	if got := w.next(t); got != "WATCHING " {
		t.Fatalf("first %q", got)
	}
	return w
}

func (w *watched) next(t *testing.T) string {
	t.Helper()
	select {
	case ev, ok := <-w.events:
		if !ok {
			return "end"
		}
		s := ev.Kind.String() + " " + strings.TrimPrefix(strings.TrimPrefix(ev.Path, w.dir), "/")
		if ev.OldPath != "" {
			s += " from " + strings.TrimPrefix(ev.OldPath, w.dir+"/")
		}
		return s
	case <-time.After(5 * time.Second):
		return "nothing"
	}
}

// expect skips repeated MODIFIED and CHMOD events that no one asked for.
func (w *watched) expect(t *testing.T, want ...string) {
	t.Helper()
	for _, e := range want {
		got := w.next(t)
		for got != e && (strings.HasPrefix(got, "MODIFIED") || strings.HasPrefix(got, "CHMOD")) {
			got = w.next(t)
		}
		if got != e {
			t.Fatalf("got %q, want %q", got, e)
		}
	}
}

func TestWatch(t *testing.T) {
	a := one(t)
	dir := a.folder(t)
	a.sh(t, "mkdir -p "+dir+"/w/old; mkdir "+dir+"/outside")
	w := a.watch(t, dir+"/w", true)
	step := func(script string, want ...string) {
		t.Helper()
		a.sh(t, "cd "+dir+"/w; "+script)
		w.expect(t, want...)
	}
	step("echo x >f", "CREATED f", "MODIFIED f")
	step("chmod 600 f", "CHMOD f")
	step("mv f g", "RENAMED g from f")
	step("mkdir -p n/m", "CREATED n", "CREATED n/m")
	step("echo x >n/m/f", "CREATED n/m/f", "MODIFIED n/m/f")
	step("echo x >old/f", "CREATED old/f", "MODIFIED old/f")
	step("mv n k", "RENAMED k from n")
	step("rm k/m/f", "DELETED k/m/f")
	step("mv g ../outside/", "DELETED g")
	step("mv ../outside/g back", "CREATED back")
	step("mv k ../outside/; touch ../outside/k/m/unseen; rm back", "DELETED k", "DELETED back")
	a.write(t, dir+"/w/put", "x")
	w.expect(t, "CREATED put")
	step("rm -r old", "DELETED old/f", "DELETED old")
	a.sh(t, "rm -r "+dir+"/w")
	w.expect(t, "DELETED put", "GONE ", "end")

	if err := lastError(a.Watch(t.Context(), &guestpb.WatchRequest{Path: dir + "/missing"})); !sandbox.HasCode(err, sandbox.CodeFileNotFound) {
		t.Errorf("missing: %v", err)
	}
	if err := lastError(a.Watch(t.Context(), &guestpb.WatchRequest{Path: "/etc/hostname"})); !sandbox.HasCode(err, sandbox.CodeNotDirectory) {
		t.Errorf("a file: %v", err)
	}
}

func TestWatchFlat(t *testing.T) {
	a := one(t)
	dir := a.folder(t)
	w := a.watch(t, dir, false)
	a.sh(t, "cd "+dir+"; mkdir d; touch d/f; touch e")
	w.expect(t, "CREATED d", "CREATED e")
}

func lastError[M any](seq func(func(M, error) bool)) (last error) {
	seq(func(_ M, err error) bool { last = err; return err == nil })
	return last
}

func BenchmarkFiles(b *testing.B) {
	c := one(b)
	const size = 64 << 20
	p := "/var/tmp/silica-bench"
	b.Run("up", func(b *testing.B) {
		b.SetBytes(size)
		for b.Loop() {
			if _, err := c.WriteFile(b.Context(), p, 0, io.LimitReader(zero{}, size)); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("down", func(b *testing.B) {
		b.SetBytes(size)
		buf := make([]byte, 1<<20)
		for b.Loop() {
			f, err := c.ReadFile(b.Context(), p, 0)
			if err != nil {
				b.Fatal(err)
			}
			n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, f, buf)
			if f.Close(); n != size || err != nil {
				b.Fatal(n, err)
			}
		}
	})
	_ = c.Remove(context.Background(), p, false)
	b.Run("true", func(b *testing.B) {
		for b.Loop() {
			for _, err := range c.Start(b.Context(), &guestpb.StartRequest{Args: []string{"/bin/true"}, Cwd: "/"}) {
				if err != nil {
					b.Fatal(err)
				}
			}
		}
	})
	b.Run("stdout", func(b *testing.B) {
		b.SetBytes(size)
		for b.Loop() {
			n := 0
			for ev, err := range c.Start(b.Context(), shell(fmt.Sprintf("head -c %d /dev/zero", size))) {
				if err != nil {
					b.Fatal(err)
				}
				n += len(ev.GetOutput().GetData())
			}
			if n != size {
				b.Fatal(n)
			}
		}
	})
}

type zero struct{}

func (zero) Read(p []byte) (int, error) { clear(p); return len(p), nil }
