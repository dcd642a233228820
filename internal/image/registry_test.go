package image

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"golang.org/x/sys/unix"

	"silica.dev/silica/sandbox"
)

// archive writes a tar; entries of no type are files with their Linkname as content.
func archive(entries ...tar.Header) []byte {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range entries {
		content := ""
		if h.Typeflag == 0 {
			h.Typeflag, content = tar.TypeReg, h.Linkname
			h.Linkname, h.Size = "", int64(len(content))
		}
		if h.Mode == 0 {
			h.Mode = 0o755
		}
		if err := w.WriteHeader(&h); err != nil {
			panic(err)
		}
		_, _ = io.WriteString(w, content)
	}
	_ = w.Close()
	return b.Bytes()
}

func file(name, content string) tar.Header { return tar.Header{Name: name, Linkname: content} }

// debian are the files that make an image one of the family.
func debian(more ...tar.Header) []byte {
	return archive(append([]tar.Header{file("usr/lib/os-release", "ID=ubuntu\nID_LIKE=debian\n"),
		{Name: "etc/os-release", Typeflag: tar.TypeSymlink, Linkname: "../usr/lib/os-release"}, file("usr/bin/sh", "sh"),
		{Name: "bin", Typeflag: tar.TypeSymlink, Linkname: "usr/bin"}}, more...)...)
}

// ociImage makes an image for this machine of layers.
func ociImage(t *testing.T, layers ...[]byte) v1.Image {
	t.Helper()
	img := empty.Image
	for _, l := range layers {
		layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(l)), nil })
		if err != nil {
			t.Fatal(err)
		}
		if img, err = mutate.AppendLayers(img, layer); err != nil {
			t.Fatal(err)
		}
	}
	return configured(t, img, platform().Architecture)
}

func configured(t *testing.T, img v1.Image, architecture string) v1.Image {
	t.Helper()
	c, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	c = c.DeepCopy()
	c.OS, c.Architecture = "linux", architecture
	c.Config = v1.Config{Env: []string{"PATH=/opt/bin:/bin", "LANG=C.UTF-8"}, WorkingDir: "/srv", User: "app"}
	if img, err = mutate.ConfigFile(img, c); err != nil {
		t.Fatal(err)
	}
	return img
}

// registryWith serves images; its host is what names of images begin with.
func registryWith(t *testing.T, wrap func(http.Handler) http.Handler, images map[string]v1.Image) (host string) {
	t.Helper()
	var h http.Handler = registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	if wrap == nil {
		wrap = func(h http.Handler) http.Handler { return h }
	}
	s := httptest.NewServer(wrap(h))
	t.Cleanup(s.Close)
	host = strings.TrimPrefix(s.URL, "http://")
	for n, img := range images {
		ref, err := name.ParseReference(host + "/" + n)
		if err != nil {
			t.Fatal(err)
		}
		if err := remote.Write(ref, img, remote.WithAuth(&authn.Basic{Username: "u", Password: "p"})); err != nil {
			t.Fatal(err)
		}
	}
	return host
}

// needsLogin asks for u and p.
func needsLogin(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, password, _ := r.BasicAuth(); user != "u" || password != "p" {
			w.Header().Set("WWW-Authenticate", `Basic realm="registry"`)
			http.Error(w, `{"errors":[{"code":"UNAUTHORIZED"}]}`, http.StatusUnauthorized)
			return
		}
		h.ServeHTTP(w, r)
	})
}

var loopback = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}

// unpacked reads an image back.
func unpacked(t *testing.T, b *Builder, ref sandbox.Ref) *tree {
	t.Helper()
	dir, release, err := b.Blobs.Open(t.Context(), ref)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(release)
	f, err := os.Open(filepath.Join(dir, File))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	files, err := readTree(f)
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func TestImageFromRegistry(t *testing.T) {
	img := ociImage(t, debian(file("etc/old", "old"), file("etc/gone", "x"), file("var/data/below", "x"), file("both", "lower"), tar.Header{Name: "hard", Typeflag: tar.TypeLink, Linkname: "both"}),
		archive(tar.Header{Name: "etc/.wh.gone"}, tar.Header{Name: "var/data/.wh..wh..opq"}, file("var/data/new", "new"), file("/bin/tool", "t"),
			tar.Header{Name: "usr/bin/su", Mode: 0o4755, Uid: 70000, Linkname: "su"}, file("both", "upper"), tar.Header{Name: "run/fifo", Typeflag: tar.TypeFifo}))
	host := registryWith(t, nil, map[string]v1.Image{"team/app:1": img})
	b := newBuilder(t, &Debian{}, &Layout{}, &Registry{Allow: loopback, Config: Config{PipIndexURL: "https://index.example/simple", Certificates: []byte("-----BEGIN CERTIFICATE-----\n")}})
	from := host + "/team/app:1"
	got, err := b.Build(t.Context(), Spec{From: from}, quiet)
	if err != nil {
		t.Fatal(err)
	}
	digest, err := b.Resolve(t.Context(), from)
	if want, _ := img.Digest(); err != nil || got.Digest != want.String() || digest != got.Digest {
		t.Errorf("digest: got %s, resolved %s, %v, want %s", got.Digest, digest, err, want)
	}
	if got.Env["LANG"] != "C.UTF-8" || got.Workdir != "/srv" || got.User != "app" {
		t.Errorf("the image's configuration: got %+v", got)
	}
	files := unpacked(t, b, got.Ref)
	for name, want := range map[string]string{"etc/old": "old", "var/data/new": "new", "usr/bin/tool": "t", "both": "upper", "hard": "lower",
		"etc/pip.conf": "[global]\nindex-url = https://index.example/simple\n", "etc/ssl/certs/ca-certificates.crt": "-----BEGIN CERTIFICATE-----\n"} {
		if text, ok := files.read(name); !ok || text != want {
			t.Errorf("%s: got %q, %v, want %q", name, text, ok, want)
		}
	}
	for _, name := range []string{"etc/gone", "var/data/below", "run/fifo", "etc/.wh.gone"} {
		if files.find(name, false) != nil {
			t.Errorf("%s is there", name)
		}
	}
	if su := files.find("usr/bin/su", false); su == nil || su.mode != unix.S_IFREG|0o4755 || su.uid != 70000 {
		t.Errorf("a setuid file of a large owner: got %+v", su)
	}
	if left := leftBehind(t, b); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestRegistryThatWantsLogin(t *testing.T) {
	host := registryWith(t, needsLogin, map[string]v1.Image{"app:1": ociImage(t, debian())})
	from := host + "/app:1"
	if _, err := newBuilder(t, &Registry{Allow: loopback}).Build(t.Context(), Spec{From: from}, quiet); !sandbox.HasCode(err, sandbox.CodeRegistryLogin) {
		t.Errorf("without a login: got %v", err)
	}
	logins := filepath.Join(t.TempDir(), "config.json")
	text := fmt.Sprintf(`{"auths":{%q:{"auth":%q}},"credHelpers":{"x":"never-run"}}`, host, base64.StdEncoding.EncodeToString([]byte("u:p")))
	if err := os.WriteFile(logins, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	// A registry the operator has a login for may be anywhere.
	if _, err := newBuilder(t, &Registry{Auth: logins}).Build(t.Context(), Spec{From: from}, quiet); err != nil {
		t.Errorf("with a login: got %v", err)
	}
}

func TestRegistriesThatFail(t *testing.T) {
	host := registryWith(t, nil, map[string]v1.Image{"app:1": ociImage(t, debian()), "other:1": configured(t, ociImage(t, debian()), "s390x"),
		"alien:1": ociImage(t, archive(file("etc/os-release", "ID=void\n"), file("bin/sh", ""))), "bare:1": ociImage(t, archive(file("hello", "")))})
	for from, want := range map[string]string{
		host + "/app:2": sandbox.CodeBaseNotFound, host + "/none:1": sandbox.CodeBaseNotFound, "127.0.0.1:1/app:1": sandbox.CodeRegistryDown,
		host + "/other:1": sandbox.CodeUnsupportedBase, host + "/alien:1": sandbox.CodeUnsupportedBase, host + "/bare:1": sandbox.CodeUnsupportedBase,
		"alpine": sandbox.CodeUnsupportedBase, "node:22-alpine3.20": sandbox.CodeUnsupportedBase, "gcr.io/distroless/base": sandbox.CodeUnsupportedBase,
		"scratch": sandbox.CodeUnsupportedBase, "quay.io/x/busybox:1": sandbox.CodeUnsupportedBase,
	} {
		b := newBuilder(t, &Registry{Allow: loopback})
		if _, err := b.Build(t.Context(), Spec{From: from}, quiet); !sandbox.HasCode(err, want) {
			t.Errorf("%s: got %v, want %s", from, err, want)
		}
		if left := leftBehind(t, b); len(left) > 0 {
			t.Errorf("%s: left behind: %v", from, left)
		}
	}
	// A tenant's choice of name is no way to the machine's own network.
	if _, err := newBuilder(t, &Registry{}).Build(t.Context(), Spec{From: host + "/app:1"}, quiet); !sandbox.HasCode(err, sandbox.CodeRegistryDown) || !strings.Contains(err.Error(), "not open to tenants") {
		t.Errorf("a registry on the loopback: got %v", err)
	}
}

// A name may stand for images of several machines, in indexes of indexes.
func TestIndexOfManyMachines(t *testing.T) {
	host := registryWith(t, nil, nil)
	other, mine := configured(t, ociImage(t, debian(file("etc/who", "other"))), "s390x"), ociImage(t, debian(file("etc/who", "mine")))
	index := func(images ...mutate.Appendable) v1.ImageIndex {
		all := v1.ImageIndex(empty.Index)
		for _, img := range images {
			p := platform()
			if img == other {
				p.Architecture = "s390x"
			}
			all = mutate.AppendManifests(all, mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: &p}})
		}
		return all
	}
	for n, all := range map[string]v1.ImageIndex{"many:1": index(other, index(other, mine)), "others:1": index(other, index(other))} {
		ref, err := name.ParseReference(host + "/" + n)
		if err != nil {
			t.Fatal(err)
		}
		if err := remote.WriteIndex(ref, all); err != nil {
			t.Fatal(err)
		}
	}
	b := newBuilder(t, &Registry{Allow: loopback})
	got, err := b.Build(t.Context(), Spec{From: host + "/many:1"}, quiet)
	if err != nil {
		t.Fatal(err)
	}
	if who, _ := unpacked(t, b, got.Ref).read("etc/who"); who != "mine" {
		t.Errorf("the image of %q", who)
	}
	if _, err := b.Build(t.Context(), Spec{From: host + "/others:1"}, quiet); !sandbox.HasCode(err, sandbox.CodeUnsupportedBase) {
		t.Errorf("none for this machine: %v", err)
	}
}

func TestMirrorsAreAskedFirst(t *testing.T) {
	host := registryWith(t, nil, map[string]v1.Image{"hub/library/node:22-bookworm": ociImage(t, debian())})
	mirror, err := ParseMirror("docker.io=http://" + host + "/hub")
	if err != nil {
		t.Fatal(err)
	}
	// The first mirror is down; the operator's may be anywhere.
	r := &Registry{Mirrors: []Mirror{{"docker.io", &url.URL{Scheme: "http", Host: "127.0.0.1:1"}}, mirror}}
	if _, err := newBuilder(t, r).Build(t.Context(), Spec{From: "node:22-bookworm"}, quiet); err != nil {
		t.Error(err)
	}
	for _, bad := range []string{"docker.io", "=http://x", "a=ftp://x", "a=http://u:p@x"} {
		if _, err := ParseMirror(bad); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}

func TestArchivesAndLayoutsOfTheHost(t *testing.T) {
	dir := t.TempDir()
	open := filepath.Join(dir, "open")
	at, err := layout.Write(filepath.Join(open, "image"), empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	if err := at.AppendImage(configured(t, ociImage(t, debian()), "s390x"), layout.WithPlatform(v1.Platform{OS: "linux", Architecture: "s390x"})); err != nil {
		t.Fatal(err)
	}
	if err := at.AppendImage(ociImage(t, debian())); err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := w.AddFS(os.DirFS(filepath.Join(open, "image"))); err != nil {
		t.Fatal(err)
	}
	_ = w.WriteHeader(&tar.Header{Name: "../../escaped", Typeflag: tar.TypeReg})
	_ = w.Close()
	if err := os.WriteFile(filepath.Join(open, "image.tar"), b.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	secret := filepath.Join(dir, "secret")
	if err := os.Mkdir(secret, 0o755); err != nil {
		t.Fatal(err)
	}
	_ = os.Symlink(secret, filepath.Join(open, "link"))
	var refs []sandbox.Ref
	for from, want := range map[string]string{
		"oci-layout:" + open + "/image": "", "oci-archive:" + open + "/image.tar": "", "oci-layout:" + open + "/nothing": sandbox.CodeBaseNotFound,
		"oci-layout:" + secret: sandbox.CodeForbidden, "oci-layout:" + open + "/../secret": sandbox.CodeForbidden, "oci-archive:image.tar": sandbox.CodeValidation,
		"oci-layout:" + open + "/link": sandbox.CodeForbidden, "oci-archive:/etc/passwd": sandbox.CodeForbidden,
	} {
		img, err := newBuilder(t, &Layout{Folders: []string{open}}).Build(t.Context(), Spec{From: from}, quiet)
		if want == "" && err != nil || want != "" && !sandbox.HasCode(err, want) {
			t.Errorf("%s: got %v, want %q", from, err, want)
		}
		if want == "" {
			refs = append(refs, img.Ref)
		}
	}
	if len(refs) != 2 || refs[0] != refs[1] {
		t.Errorf("one image in two forms gave %v", refs)
	}
	if _, err := newBuilder(t, &Layout{}).Build(t.Context(), Spec{From: "oci-layout:" + open + "/image"}, quiet); !sandbox.HasCode(err, sandbox.CodeForbidden) {
		t.Errorf("without folders of the operator's: got %v", err)
	}
}

// TestHostileArchives: a clear code, nothing left behind.
func TestHostileArchives(t *testing.T) {
	deep := strings.Repeat("d/", maxDepth+1) + "f"
	cases := map[string][]byte{
		"out":            debian(file("../../etc/passwd", "x")),
		"out in between": debian(file("a/../../b", "x")),
		"hard link out":  debian(tar.Header{Name: "l", Typeflag: tar.TypeLink, Linkname: "../../../etc/shadow"}),
		"hard link":      debian(tar.Header{Name: "l", Typeflag: tar.TypeLink, Linkname: "etc/shadow"}),
		"link to folder": debian(tar.Header{Name: "l", Typeflag: tar.TypeLink, Linkname: "usr"}),
		"itself":         debian(tar.Header{Name: "l", Typeflag: tar.TypeLink, Linkname: "l"}),
		"device":         debian(tar.Header{Name: "sda", Typeflag: tar.TypeBlock, Devmajor: 8}),
		"root replaced":  debian(tar.Header{Name: "./", Typeflag: tar.TypeSymlink, Linkname: "/etc"}),
		"below a file":   debian(file("a", ""), file("a/b", "")),
		"behind nothing": debian(tar.Header{Name: "s", Typeflag: tar.TypeSymlink, Linkname: "/nowhere"}, file("s/x", "")),
		"circle":         debian(tar.Header{Name: "s", Typeflag: tar.TypeSymlink, Linkname: "s"}, file("s/x", "")),
		"too deep":       debian(file(deep, "")),
		"long name":      debian(file(strings.Repeat("n", 256), "")),
		"empty link":     debian(tar.Header{Name: "s", Typeflag: tar.TypeSymlink}),
		"whiteout of ..": debian(tar.Header{Name: "a/.wh..."}, tar.Header{Name: "a/.wh.."}),
		"garbage":        []byte(strings.Repeat("garbage ", 1000)),
		"cut off":        debian(file("big", strings.Repeat("x", 9000)))[:8000],
		"size bomb":      bomb(1 << 40),
		"negative owner": debian(tar.Header{Name: "x", Uid: -1, Format: tar.FormatGNU}),
	}
	for what, layer := range cases {
		host := registryWith(t, nil, map[string]v1.Image{"bad:1": ociImage(t, layer)})
		b := newBuilder(t, &Registry{Allow: loopback})
		_, err := b.Build(t.Context(), Spec{From: host + "/bad:1"}, quiet)
		if !sandbox.HasCode(err, sandbox.CodeInvalidImage) && !sandbox.HasCode(err, sandbox.CodeImageTooLarge) {
			t.Errorf("%s: got %v, want a code for it", what, err)
		}
		if left := leftBehind(t, b); len(left) > 0 {
			t.Errorf("%s: left behind: %v", what, left)
		}
		if refs, _ := b.Blobs.List(t.Context()); len(refs) > 0 {
			t.Errorf("%s: stored %v", what, refs)
		}
	}
}

// bomb is an archive with the head of a file of that size.
func bomb(size int64) []byte {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	_ = w.WriteHeader(&tar.Header{Name: "bomb", Typeflag: tar.TypeReg, Size: size, Mode: 0o644, Format: tar.FormatGNU})
	return b.Bytes()
}

// TestMillionFiles has more entries than an image may.
func TestMillionFiles(t *testing.T) {
	r, w := io.Pipe()
	go func() {
		out := tar.NewWriter(w)
		for i := 0; ; i++ {
			if out.WriteHeader(&tar.Header{Name: fmt.Sprint(i), Typeflag: tar.TypeReg}) != nil {
				return
			}
		}
	}()
	bodies, err := newSpool(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer bodies.close()
	files := newTree()
	files.most = 10_000
	err = unpacking{to: files, spool: bodies}.unpack(t.Context(), r)
	r.Close()
	if !sandbox.HasCode(err, sandbox.CodeImageTooLarge) {
		t.Errorf("got %v, want %s", err, sandbox.CodeImageTooLarge)
	}
}

// TestAbsoluteNamesAndLinksStayInside: what other unpackers take, but not out.
func TestAbsoluteNamesAndLinksStayInside(t *testing.T) {
	bodies, err := newSpool(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer bodies.close()
	files := newTree()
	err = unpacking{to: files, spool: bodies, layered: true}.unpack(t.Context(), bytes.NewReader(archive(file("/abs", "a"), file("etc/hosts", "h"),
		tar.Header{Name: "up", Typeflag: tar.TypeSymlink, Linkname: "../../../../etc"}, file("up/via", "v"), tar.Header{Name: "dev/null", Typeflag: tar.TypeChar})))
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"abs": "a", "etc/via": "v", "up/hosts": "h"} {
		if got, _ := files.read(name); got != want {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
}

// TestFoldersAreKeptOnce: else one could be made to lie within itself.
func TestFoldersAreKeptOnce(t *testing.T) {
	base := newTree()
	for _, name := range []string{"x/c/k/f", "y/f"} {
		if err := base.write(name, []byte("1"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	base.root.children["y"].children["c"] = base.root.children["x"].children["c"] // as a hostile base might
	kept := func(name string) tar.Header { return tar.Header{Name: name, Typeflag: tar.TypeLink, Linkname: name} }
	err := unpacking{to: newTree(), base: base}.unpack(t.Context(), bytes.NewReader(archive(kept("x"),
		tar.Header{Name: "y", Typeflag: tar.TypeSymlink, Linkname: "x/c/k"}, kept("y/c"))))
	if !sandbox.HasCode(err, sandbox.CodeInvalidImage) {
		t.Errorf("got %v, want %s", err, sandbox.CodeInvalidImage)
	}
}

func TestSettingsOfTheHost(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"etc/pip.conf": "[global]\nindex-url = https://pip.example/simple\n", "root/.npmrc": "registry=https://u:p@npm.example/\n",
		"etc/npmrc": "cafile=x\nregistry = https://npm.example/\n"} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	c := Config{HTTPProxy: "http://u:p@proxy.example:3128", HTTPSProxy: "http://proxy.example:3128"}
	c.FromHost(os.DirFS(dir), func(string) string { return "" })
	env := c.StepEnv()
	if c.PipIndexURL != "https://pip.example/simple" || c.NpmRegistry != "https://npm.example/" || env["http_proxy"] != "" || env["https_proxy"] == "" {
		t.Errorf("got %+v, steps with %v", c, env)
	}
}

// FuzzUnpack feeds the unpacker, and the writer and reader with what came out.
func FuzzUnpack(f *testing.F) {
	f.Add(debian(file("a/b", "c"), tar.Header{Name: "l", Typeflag: tar.TypeLink, Linkname: "a/b"}, tar.Header{Name: "a/.wh.b"}))
	f.Add(archive(tar.Header{Name: "s", Typeflag: tar.TypeSymlink, Linkname: "/t/../.."}, file("s/x", ""), tar.Header{Name: "x", Typeflag: tar.TypeLink, Linkname: "x"}))
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, data []byte) {
		bodies, err := newSpool(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer bodies.close()
		base := newTree()
		_ = base.write("x/y/z", []byte("base"), 0o644)
		files := newTree()
		if (unpacking{to: files, spool: bodies, layered: true, base: base}).unpack(context.Background(), bytes.NewReader(data)) != nil {
			return
		}
		if err := finish(files, []byte("agent")); err != nil {
			return
		}
		out := filepath.Join(t.TempDir(), "out")
		if err := pack(context.Background(), files, out, quiet); err != nil {
			if !sandbox.HasCode(err, sandbox.CodeInvalidImage) {
				t.Fatal(err)
			}
			return
		}
		in, err := os.Open(out)
		if err != nil {
			t.Fatal(err)
		}
		defer in.Close()
		again, err := readTree(in)
		if err != nil {
			t.Fatal(err)
		}
		files.each(func(name string, n *node) {
			m := again.find(name, false)
			if m == nil || m.mode != n.mode || m.uid != n.uid || m.size != n.size && !n.isDir() || m.target != n.target {
				t.Fatalf("%q was written as %+v and read as %+v", name, n, m)
			}
		})
	})
}
