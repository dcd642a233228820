package e2e

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// multipartBody is an upload as a form; the path may follow the file.
func multipartBody(path string, content io.Reader, pathLast bool) (io.Reader, header) {
	pr, pw := io.Pipe()
	w := multipart.NewWriter(pw)
	go func() {
		var err error
		if !pathLast {
			err = w.WriteField("path", path)
		}
		if err == nil {
			var part io.Writer
			if part, err = w.CreateFormFile("file", "local-name.bin"); err == nil {
				_, err = io.Copy(part, content)
			}
		}
		if err == nil && pathLast {
			err = w.WriteField("path", path)
		}
		if err == nil {
			err = w.Close()
		}
		pw.CloseWithError(err)
	}()
	return pr, header{"Content-Type", w.FormDataContentType()}
}

// Seed 001, "Upload a File", "Download a File", "List Files", "Stat a File".
func TestFiles(t *testing.T) {
	t.Parallel()
	c := shared.tenant(t)
	id := c.create(t, nil)
	base := "sandboxes/" + id + "/files"
	content := []byte("print('hello')\x00\xff\n")

	a := c.upload(t, id, "/workspace/deep/script.py", content).want(t, 200, "")
	for _, at := range []string{"", "data."} {
		if a.str(at+"path") != "/workspace/deep/script.py" || a.num(at+"size") != float64(len(content)) || a.str(at+"sandbox_id") != id {
			t.Errorf("upload as JSON: got %s", a)
		}
	}
	for i, pathLast := range []bool{false, true} {
		path := fmt.Sprintf("/workspace/form-%d ü+%%.bin", i)
		body, kind := multipartBody(path, bytes.NewReader(content), pathLast)
		a := c.do(t, "POST", base, body, kind).want(t, 200, "")
		if a.str("data.path") != path || a.num("data.size") != float64(len(content)) {
			t.Errorf("upload as form: got %s", a)
		}
		got := c.download(t, id, path).want(t, 200, "")
		if !bytes.Equal(got.Body, content) {
			t.Errorf("download %s: got %q", path, got.Body)
		}
	}
	// Raw slashes, escaped ones, with and without the leading one; also JSON
	// files are octets.
	c.upload(t, id, "/workspace/data.json", []byte(`{"content":"eA=="}`)).want(t, 200, "")
	for _, p := range []string{"workspace/data.json", "workspace%2Fdata.json", "%2Fworkspace%2Fdata.json", "/workspace/data.json"} {
		got := c.do(t, "GET", base+"/"+p, nil).want(t, 200, "")
		if string(got.Body) != `{"content":"eA=="}` || got.Header.Get("Content-Type") != "application/octet-stream" {
			t.Errorf("GET files/%s: got %q as %q", p, got.Body, got.Header.Get("Content-Type"))
		}
	}
	// Overwrite, shorter, and empty.
	c.upload(t, id, "/workspace/data.json", []byte("x")).want(t, 200, "")
	c.upload(t, id, "/workspace/empty", nil).want(t, 200, "")
	if got := c.sh(t, id, "cat /workspace/data.json; stat -c %s /workspace/empty"); got != "x0" {
		t.Errorf("inside: got %q", got)
	}

	l := c.do(t, "GET", base+"?path=/workspace", nil).want(t, 200, "")
	if l.str("path") != "/workspace" || l.str("data.path") != "/workspace" {
		t.Errorf("list: got %s", l)
	}
	entries := map[string]obj{}
	items, _ := l.at("data.entries").([]any)
	for _, it := range items {
		e, _ := it.(obj)
		entries[fmt.Sprint(e["name"])] = e
	}
	if e := entries["deep"]; e["is_dir"] != true || e["path"] != "/workspace/deep" {
		t.Errorf("list: the folder: got %v", e)
	}
	if e := entries["data.json"]; e["is_dir"] != false || e["size"] != 1.0 || e["path"] != "/workspace/data.json" {
		t.Errorf("list: the file: got %v", e)
	}
	if _, flat := l.at("entries").([]any); !flat || len(entries) != 5 {
		t.Errorf("list: got %d entries, flat %v", len(entries), flat)
	}

	c.sh(t, id, "chmod 640 /workspace/data.json; ln -s data.json /workspace/link")
	st := c.do(t, "POST", base+"/stat", obj{"path": "/workspace/data.json"}).want(t, 200, "")
	for field, want := range (obj{"name": "data.json", "path": "/workspace/data.json", "type": "file", "is_dir": false, "is_symlink": false, "size": 1.0, "mode": "0640"}) {
		if st.at(field) != want || st.at("data."+field) != want {
			t.Errorf("stat: %s: got %v and %v, want %v", field, st.at(field), st.at("data."+field), want)
		}
	}
	ln := c.do(t, "POST", base+"/stat", obj{"path": "/workspace/link"}).want(t, 200, "")
	if ln.at("is_symlink") != true || ln.at("symlink_target") != "data.json" {
		t.Errorf("stat of a symlink: got %s", ln)
	}
}

// "100 MB through without buffering in memory, larger refused with 413"; "memory
// of the daemon grows by < 16 MB".
func TestBigFiles(t *testing.T) {
	// Alone: it measures the daemon.
	s := ownServer(t, options{flags: []string{"--warm-pool=0"}})
	c := s.tenant(t)
	id := c.create(t, nil)
	const size = 100_000_000
	block := make([]byte, 1<<20)
	_, _ = rand.Read(block)
	source := func() io.Reader { return io.LimitReader(&repeat{block: block}, size) }
	digest := sha256.New()
	_, _ = io.Copy(digest, source())
	want := fmt.Sprintf("%x", digest.Sum(nil))

	once := func(path string, watch bool) {
		stop := func() int64 { return 0 }
		if watch {
			stop = peak(t, s.pid())
		}
		before := residentNow(t, s.pid())
		start := time.Now()
		body, kind := multipartBody(path, source(), false)
		c.do(t, "POST", "sandboxes/"+id+"/files", body, kind).want(t, 200, "")
		up := time.Since(start)
		start = time.Now()
		got := sha256.New()
		n := c.read(t, id, path, got)
		down := time.Since(start)
		if n != size || fmt.Sprintf("%x", got.Sum(nil)) != want {
			t.Errorf("%s: %d bytes came back, or others than went in", path, n)
		}
		t.Logf("%s: up %.0f MB/s, down %.0f MB/s", path, size/1e6/up.Seconds(), size/1e6/down.Seconds())
		if grown := stop() - before; watch && grown > 16<<20 {
			t.Errorf("the daemon grew by %d MB while 100 MB passed, want less than 16", grown>>20)
		}
	}
	once("/root/warm-up", false)
	once("/root/big", true)
	if got := c.sh(t, id, "sha256sum /root/big | cut -d' ' -f1"); got != want {
		t.Errorf("inside: digest %s, want %s", got, want)
	}
	c.sh(t, id, "rm /root/big /root/warm-up")

	free := func() string { return c.sh(t, id, "df --output=used / | tail -1") }
	before, _ := strconv.Atoi(free())
	const limit = 100 << 20
	for name, upload := range map[string]func() answer{
		"form": func() answer {
			body, kind := multipartBody("/root/too-big", io.LimitReader(&repeat{block: block}, limit+1), false)
			return c.do(t, "POST", "sandboxes/"+id+"/files", body, kind)
		},
		"form, path last": func() answer {
			body, kind := multipartBody("/root/too-big", io.LimitReader(&repeat{block: block}, limit+1), true)
			return c.do(t, "POST", "sandboxes/"+id+"/files", body, kind)
		},
		"JSON": func() answer {
			pr, pw := io.Pipe()
			go func() {
				_, _ = io.WriteString(pw, `{"path":"/root/too-big","content":"`)
				e := base64.NewEncoder(base64.StdEncoding, pw)
				_, err := io.Copy(e, io.LimitReader(&repeat{block: block}, limit+1))
				_ = e.Close()
				if err == nil {
					_, err = io.WriteString(pw, `"}`)
				}
				pw.CloseWithError(err)
			}()
			return c.do(t, "POST", "sandboxes/"+id+"/files", pr)
		},
	} {
		if a := upload(); a.Status != http.StatusRequestEntityTooLarge || a.str("error.code") != "FILE_TOO_LARGE" {
			t.Errorf("%s: more than 100 MB: got %s, want 413 FILE_TOO_LARGE", name, a)
		}
		c.download(t, id, "/root/too-big").want(t, 404, "FILE_NOT_FOUND")
	}
	eventually(t, 10*time.Second, "the space of refused uploads is free again", func() bool {
		now, err := strconv.Atoi(free())
		return err == nil && now-before < 1024
	})
}

// repeat yields a block again and again.
type repeat struct {
	block []byte
	at    int
}

func (r *repeat) Read(p []byte) (int, error) {
	n := copy(p, r.block[r.at:])
	r.at = (r.at + n) % len(r.block)
	return n, nil
}

// read downloads a file into w.
func (c *Client) read(t *testing.T, id, path string, w io.Writer) int64 {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	req, err := c.request(ctx, "GET", "sandboxes/"+id+"/files/"+url.PathEscape(strings.TrimPrefix(path, "/")), nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := c.http.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		t.Fatalf("download %s: got %d", path, res.StatusCode)
	}
	n, err := io.Copy(w, res.Body)
	if err != nil {
		t.Fatalf("download %s: after %d bytes: %v", path, n, err)
	}
	return n
}

// residentNow returns a process's private and shared memory in bytes.
func residentNow(t *testing.T, pid int) int64 {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "Rss:" {
			kb, _ := strconv.ParseInt(f[1], 10, 64)
			return kb << 10
		}
	}
	t.Fatal("no Rss in smaps_rollup")
	return 0
}

// peak resets the kernel's mark of a process's largest memory; the returned func
// reads it.
func peak(t *testing.T, pid int) func() int64 {
	t.Helper()
	if err := os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", pid), []byte("5"), 0); err != nil {
		t.Fatal(err)
	}
	return func() int64 {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(b)) {
			if f := strings.Fields(line); len(f) > 1 && f[0] == "VmHWM:" {
				kb, _ := strconv.ParseInt(f[1], 10, 64)
				return kb << 10
			}
		}
		t.Fatal("no VmHWM in status")
		return 0
	}
}

// "path traversal, symlink out, `/proc`, a FIFO, a device, a directory as file,
// no space, no permission → a clear code; the host's file system is never
// touched by path".
func TestHostilePaths(t *testing.T) {
	t.Parallel()
	c := shared.tenant(t)
	id := c.create(t, nil)
	base := "sandboxes/" + id + "/files"

	// A file of the host that no sandbox may see.
	hostDir := t.TempDir()
	hostFile := filepath.Join(hostDir, "host-secret")
	secret := "only the host knows this"
	if err := os.WriteFile(hostFile, []byte(secret), 0o644); err != nil {
		t.Fatal(err)
	}
	c.sh(t, id, fmt.Sprintf(`cd /root; ln -s %[1]s direct; ln -s ../../../../../../..%[1]s relative; ln -s %[2]s folder; ln -s self self
mkfifo fifo; mkdir dir; touch plain; ln -s /proc/1/root/ root; ln -s /dev/zero zero`, hostFile, hostDir))
	up := strings.Repeat("../", 20)
	paths := []string{
		hostFile, up + hostFile, "root/" + up + hostFile, "/root/direct", "/root/relative", "/root/folder/host-secret",
		"/proc/1/root" + hostFile, "/proc/self/root" + hostFile, "/root/root" + hostFile, "/proc/1/cwd" + hostFile,
	}
	for _, p := range paths {
		for _, form := range []string{url.PathEscape(p), strings.TrimPrefix(p, "/"), strings.ReplaceAll(p, "..", "%2e%2e")} {
			a := c.do(t, "GET", base+"/"+form, nil)
			if a.Status < 400 || a.Status >= 500 || strings.Contains(string(a.Body), secret) {
				t.Errorf("GET files/%s: got %s, want a client error", form, a)
			}
		}
	}
	for _, p := range paths { // these go somewhere inside, or are refused
		if a := c.upload(t, id, p, []byte("overwritten")); a.Status >= 500 {
			t.Errorf("upload %s: got %s", p, a)
		}
	}
	if b, err := os.ReadFile(hostFile); err != nil || string(b) != secret {
		t.Errorf("the host's file: %q %v", b, err)
	}

	get := func(p string) answer { return c.download(t, id, p) }
	put := func(p string) answer { return c.upload(t, id, p, []byte("x")) }
	list := func(p string) answer { return c.do(t, "GET", base+"?path="+url.QueryEscape(p), nil) }
	cases := []struct {
		what   string
		answer answer
		status int
		code   string
	}{
		{"read what is not there", get("/root/none"), 404, "FILE_NOT_FOUND"},
		{"read a folder", get("/root/dir"), 409, "IS_A_DIRECTORY"},
		{"write a folder", put("/root/dir"), 409, "IS_A_DIRECTORY"},
		{"write below a file", put("/root/plain/x"), 409, "NOT_A_DIRECTORY"},
		{"read a FIFO", get("/root/fifo"), 409, "NOT_A_REGULAR_FILE"},
		{"write a FIFO", put("/root/fifo"), 409, "NOT_A_REGULAR_FILE"},
		{"read a device", get("/dev/zero"), 409, "NOT_A_REGULAR_FILE"},
		{"read a device by symlink", get("/root/zero"), 409, "NOT_A_REGULAR_FILE"},
		{"write a device", put("/dev/null"), 409, "NOT_A_REGULAR_FILE"},
		{"read a circle of symlinks", get("/root/self"), 0, ""},
		{"write to /proc", put("/proc/version"), 0, ""},
		{"list a file", list("/root/plain"), 409, "NOT_A_DIRECTORY"},
		{"list what is not there", list("/none"), 404, "FILE_NOT_FOUND"},
		{"stat what is not there", c.do(t, "POST", base+"/stat", obj{"path": "/none"}), 404, "FILE_NOT_FOUND"},
		{"an empty path", put(""), 422, "VALIDATION_ERROR"},
		{"a null character", put("/root/a\x00b"), 422, ""},
		{"a very long path", put("/" + strings.Repeat("a/", 5000)), 422, ""},
		{"a very long name", put("/root/" + strings.Repeat("a", 300)), 422, ""},
	}
	for _, tc := range cases {
		if tc.status == 0 && (tc.answer.Status < 400 || tc.answer.Status >= 500) || tc.status != 0 && tc.answer.Status != tc.status || tc.code != "" && tc.answer.str("error.code") != tc.code {
			t.Errorf("%s: got %s, want %d %s", tc.what, tc.answer, tc.status, tc.code)
		}
		checkEnvelope(t, tc.answer)
	}
	// /proc files have no size and still come whole.
	if a := get("/proc/version"); a.Status == 200 && !strings.Contains(string(a.Body), "Linux") || a.Status >= 500 {
		t.Errorf("read /proc/version: got %s", a)
	}
	if got := c.sh(t, id, "echo alive"); got != "alive" {
		t.Errorf("after all that: got %q", got)
	}
}
