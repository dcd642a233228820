package image

import (
	"context"
	"encoding/binary"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"silica.dev/silica/internal/blob"
	"silica.dev/silica/sandbox"
)

// bootstrapped tells whether this machine can make real images. Root with the
// programs at hand must: a failure there is a failure.
func bootstrapped(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("bootstrapping needs root")
	}
	for _, name := range []string{"mmdebstrap", "fsck.erofs"} {
		if _, err := exec.LookPath(name); err != nil {
			t.Skip(err)
		}
	}
}

func newBuilder(t *testing.T, sources ...Source) *Builder {
	t.Helper()
	l, err := blob.NewLocal(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return &Builder{Blobs: l, Sources: sources, Agent: []byte("#!agent")}
}

// leftBehind lists temporary folders of the builder's store.
func leftBehind(t *testing.T, b *Builder) []string {
	t.Helper()
	dir, err := b.Blobs.TempDir(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer os.Remove(dir)
	all, _ := filepath.Glob(filepath.Join(filepath.Dir(dir), "*"))
	var others []string
	for _, a := range all {
		if a != dir {
			others = append(others, a)
		}
	}
	return others
}

// folder is a source that copies nothing but what fill makes.
type folder struct{ fill func(root string) error }

func (f folder) Handles(from string) bool                        { return from == "folder" }
func (f folder) Resolve(context.Context, string) (string, error) { return "", nil }
func (f folder) Fetch(_ context.Context, _ Spec, work string, _ func(Progress)) (*Base, error) {
	root := filepath.Join(work, "root")
	err := errors.Join(os.MkdirAll(filepath.Join(root, "etc"), 0o755), os.MkdirAll(filepath.Join(root, "bin"), 0o755),
		os.WriteFile(filepath.Join(root, "etc/os-release"), []byte("ID=debian\n"), 0o644), os.WriteFile(filepath.Join(root, "bin/sh"), nil, 0o755),
		f.fill(root))
	if err != nil {
		return nil, err
	}
	files, err := readFolder(root)
	return &Base{files: files}, err
}

func quiet(Progress) {}

func TestUnknownBaseImage(t *testing.T) {
	b := newBuilder(t, &Debian{Host: "/"})
	for _, from := range []string{"", "debian:", "debian:../x", "debian:bookworm --include=x", "UPPER:22"} {
		_, err := b.Build(t.Context(), Spec{From: from}, quiet)
		if sandbox.AsError(err).Kind != sandbox.Invalid {
			t.Errorf("%q: got %v, want invalid", from, err)
		}
	}
}

func TestMissingProgramsAreNamed(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	_, err := (&Debian{Host: "/"}).Fetch(t.Context(), Spec{From: "debian:bookworm"}, t.TempDir(), quiet)
	if e := sandbox.AsError(err); e.Kind != sandbox.Unavailable || !strings.Contains(e.Message, "install the package mmdebstrap") {
		t.Errorf("got %v, want the package named", err)
	}
}

func TestPackageNamesAreChecked(t *testing.T) {
	bootstrapped(t)
	for _, p := range []string{"", "-x", "a,b", "a b", "?essential", "./a.deb", "A"} {
		_, err := (&Debian{Host: "/"}).Fetch(t.Context(), Spec{From: "debian:bookworm", Packages: []string{p}}, t.TempDir(), quiet)
		if sandbox.AsError(err).Kind != sandbox.Invalid {
			t.Errorf("%q: got %v, want invalid", p, err)
		}
	}
}

// mounted unpacks an image by mounting it.
func mounted(t *testing.T, b *Builder, ref sandbox.Ref) string {
	t.Helper()
	dir, release, err := b.Blobs.Open(t.Context(), ref)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(release)
	out := filepath.Join(t.TempDir(), "root")
	if text, err := exec.Command("fsck.erofs", "--extract="+out, filepath.Join(dir, File)).CombinedOutput(); err != nil {
		t.Fatalf("fsck.erofs: %v: %s", err, text)
	}
	return out
}

// TestFinishedImage starts from a base image that means harm: links that lead
// out, a host's identity, another file where a folder must be.
func TestFinishedImage(t *testing.T) {
	bootstrapped(t)
	outside := filepath.Join(t.TempDir(), "outside")
	if err := os.WriteFile(outside, []byte("precious"), 0o644); err != nil {
		t.Fatal(err)
	}
	pyc := make([]byte, 20)
	pyc[0] = 0xa7
	hashed := append([]byte(nil), pyc...)
	hashed[4] = 1 // its source is told by hash, not by time
	fill := func(root string) error {
		mk := func(name, text string) error {
			p := filepath.Join(root, name)
			return errors.Join(os.MkdirAll(filepath.Dir(p), 0o755), os.WriteFile(p, []byte(text), 0o600))
		}
		return errors.Join(
			mk("etc/machine-id", "0123"), mk("etc/ssh/ssh_host_rsa_key", "secret"), mk("etc/ssh/ssh_config", "kept"),
			os.Symlink(outside, filepath.Join(root, "etc/resolv.conf")), os.Symlink(outside, filepath.Join(root, "etc/hosts")),
			os.Symlink(filepath.Dir(outside), filepath.Join(root, ".silica")), mk("workspace", "a file"),
			mk("tmp/junk", "x"), mk("tmp/.junk", "x"), mk("var/log/dpkg.log", "host"), mk("var/cache/apt/pkgcache.bin", "x"),
			os.MkdirAll(filepath.Join(root, "dev"), 0o755), unix.Mknod(filepath.Join(root, "dev/null"), unix.S_IFCHR|0o666, 1<<8|3),
			mk("usr/lib/m.pyc", string(pyc)), mk("usr/lib/h.pyc", string(hashed)), mk("usr/lib/short.pyc", "x"))
	}
	b := newBuilder(t, folder{fill})
	first, err := b.Build(t.Context(), Spec{From: "folder"}, quiet)
	if err != nil {
		t.Fatal(err)
	}
	second, err := b.Build(t.Context(), Spec{From: "folder"}, quiet)
	if err != nil || second.Ref != first.Ref {
		t.Errorf("the same input gave %v, then %v, %v", first, second, err)
	}
	if left := leftBehind(t, b); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	root := mounted(t, b, first.Ref)
	files := map[string]string{"etc/machine-id": "", "etc/resolv.conf": "", "etc/hostname": "sandbox\n", "etc/ssh/ssh_config": "kept",
		"var/log/dpkg.log": "", ".silica/agent": "#!agent", "tmp/.silica": "", "usr/lib/h.pyc": string(hashed), "usr/lib/short.pyc": "x"}
	for name, want := range files {
		st, err := os.Lstat(filepath.Join(root, name))
		if err != nil || !st.Mode().IsRegular() {
			t.Errorf("%s: got %v, %v, want a regular file", name, st, err)
			continue
		}
		if got, err := os.ReadFile(filepath.Join(root, name)); err != nil || string(got) != want {
			t.Errorf("%s: got %q, %v, want %q", name, got, err, want)
		}
	}
	for _, gone := range []string{"etc/ssh/ssh_host_rsa_key", "tmp/junk", "tmp/.junk", "dev/null", "var/cache/apt/pkgcache.bin"} {
		if _, err := os.Lstat(filepath.Join(root, gone)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is in the image", gone)
		}
	}
	modes := map[string]fs.FileMode{"proc": fs.ModeDir | 0o555, "sys": fs.ModeDir | 0o555, "dev/pts": fs.ModeDir | 0o755,
		"dev/shm": fs.ModeDir | fs.ModeSticky | 0o777, "tmp": fs.ModeDir | fs.ModeSticky | 0o777,
		"root": fs.ModeDir | 0o700, "workspace": fs.ModeDir | 0o755, ".silica/agent": 0o755}
	for name, want := range modes {
		if st, err := os.Lstat(filepath.Join(root, name)); err != nil || st.Mode() != want {
			t.Errorf("%s: got %v, %v, want %v", name, st.Mode(), err, want)
		}
	}
	stamped, err := os.ReadFile(filepath.Join(root, "usr/lib/m.pyc"))
	if err != nil || binary.LittleEndian.Uint32(stamped[8:]) != uint32(Epoch.Unix()) {
		t.Errorf("compiled Python: got % x, %v, want the time of all files", stamped, err)
	}
	if text, _ := os.ReadFile(outside); string(text) != "precious" {
		t.Errorf("a file of the host was changed to %q", text)
	}
	if entries, _ := os.ReadDir(filepath.Dir(outside)); len(entries) != 1 {
		t.Errorf("something was written beside it: %v", entries)
	}
}

// TestBootstrap makes the smallest real image from the host's own mirror.
func TestBootstrap(t *testing.T) {
	bootstrapped(t)
	b := newBuilder(t, &Debian{Host: "/", Config: Config{PipIndexURL: "https://index.example/simple"}})
	var counted bool
	img, err := b.Build(t.Context(), Spec{From: "debian:bookworm"}, func(p Progress) {
		counted = counted || p.Message == "installing packages" && p.Done == p.Total && p.Total > 10
	})
	if err != nil {
		t.Fatal(err)
	}
	if !counted {
		t.Error("progress never counted the packages to their end")
	}
	if left := leftBehind(t, b); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	root := mounted(t, b, img.Ref)
	for _, name := range []string{"bin/sh", "usr/bin/apt-get", "etc/ssl/certs/ca-certificates.crt", ".silica/agent",
		"etc/apt/sources.list.d/debian.sources", "etc/dpkg/dpkg.cfg.d/99silica", "usr/share/keyrings/debian-archive-keyring.gpg", "etc/pip.conf"} {
		if st, err := os.Stat(filepath.Join(root, name)); err != nil || st.Size() == 0 {
			t.Errorf("%s is missing or empty: %v", name, err)
		}
	}
	for _, pattern := range []string{"etc/apt/apt.conf.d/*mmdebstrap", "var/lib/apt/lists/*", "usr/share/man/man1/*", "dev/null"} {
		if found, _ := filepath.Glob(filepath.Join(root, pattern)); len(found) > 0 {
			t.Errorf("still there: %v", found)
		}
	}
	if text, _ := os.ReadFile(filepath.Join(root, "etc/apt/sources.list.d/debian.sources")); !strings.Contains(string(text), "Suites: bookworm") {
		t.Errorf("sources for users: %s", text)
	}
}

// TestCancelledBootstrap stops in the middle of the installation, when the
// child has mounted things and runs maintainer scripts.
func TestCancelledBootstrap(t *testing.T) {
	bootstrapped(t)
	b := newBuilder(t, &Debian{Host: "/"})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	_, err := b.Build(ctx, Spec{From: "debian:bookworm"}, func(p Progress) {
		if p.Message == "installing packages" && p.Done > 0 {
			cancel()
		}
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want canceled", err)
	}
	if left := leftBehind(t, b); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	if refs, _ := b.Blobs.List(t.Context()); len(refs) > 0 {
		t.Errorf("stored: %v", refs)
	}
}

func TestUnreachableMirror(t *testing.T) {
	bootstrapped(t)
	sources := filepath.Join(t.TempDir(), "sources.list")
	if err := os.WriteFile(sources, []byte("deb [trusted=yes] http://127.0.0.1:1/debian bookworm main\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	b := newBuilder(t, &Debian{Host: "/", Config: Config{AptSources: sources}})
	_, err := b.Build(t.Context(), Spec{From: "debian:bookworm"}, quiet)
	if e := sandbox.AsError(err); e.Kind != sandbox.Unavailable || !strings.Contains(e.Message, "SILICA_BUILD_APT_MIRROR") {
		t.Errorf("got %v, want unavailable with advice", err)
	}
	if left := leftBehind(t, b); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// TestDiskFull fetches into a file system too small for it.
func TestDiskFull(t *testing.T) {
	bootstrapped(t)
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=80m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	l, err := blob.NewLocal(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	b := &Builder{Blobs: l, Sources: []Source{folder{func(root string) error {
		return os.WriteFile(filepath.Join(root, "big"), make([]byte, 50<<20), 0o644)
	}}}}
	_, err = b.Build(t.Context(), Spec{From: "folder"}, quiet)
	if !sandbox.HasCode(err, sandbox.CodeHostFull) {
		t.Errorf("got %v, want %s", err, sandbox.CodeHostFull)
	}
	if left := leftBehind(t, b); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}
