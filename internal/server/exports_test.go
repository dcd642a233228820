package server

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path"
	"slices"
	"strings"
	"testing"
	"time"

	"silica.dev/silica/sandbox"
)

// unpacked lists a tar.gz as "name=content".
func unpacked(t *testing.T, raw []byte) string {
	t.Helper()
	z, err := gzip.NewReader(bytes.NewReader(raw))
	if err != nil {
		t.Errorf("%v: %.200q", err, raw)
		return ""
	}
	var list []string
	r := tar.NewReader(z)
	for h, err := r.Next(); err != io.EOF; h, err = r.Next() {
		if err != nil {
			t.Error(err)
			break
		}
		b, _ := io.ReadAll(r)
		list = append(list, h.Name+"="+string(b))
	}
	slices.Sort(list)
	return strings.Join(list, " ")
}

// "POST /sandboxes/{id}/exports: path or paths, label, filename → {id,
// files:[{path,download_url}], archive_download_url}; GET …/exports/download ?path=
// or repeated paths[]=, filename → one file, or tar.gz for several";
// "POST /computers/{id}/files/export {path} → flat {url, expires_at}".
func TestExports(t *testing.T) {
	w, s, base := serveWorld(t, Config{})
	id := create(t, base, `{}`)
	dir := w.realAgent(t)
	sb := base + "/api/v1/sandboxes/" + id
	mustWrite(t, dir+"/a.txt", "A")
	mustWrite(t, dir+"/d/ü b\xff.txt", "B")
	mustWrite(t, dir+"/other/c", "C")
	get := func(url string, headers ...string) answer {
		t.Helper()
		return request(t, "GET", url, "", append(headers, "Authorization", "")...) // without a key
	}
	a := request(t, "POST", sb+"/exports", object("paths", []string{dir + "/a.txt", dir + "/d"}, "label", "mine", "filename", "all"))
	files, _ := a.body["files"].([]any)
	if a.status != 201 || len(files) != 2 || !strings.HasPrefix(a.body["id"].(string), "exp_") {
		t.Fatalf("%d %s", a.status, a.raw)
	}
	one := get(asObject(files[0])["download_url"].(string), "Range", "bytes=0-0")
	if one.status != 206 || string(one.raw) != "A" || one.header.Get("Content-Type") != "application/octet-stream" || !strings.Contains(one.header.Get("Content-Disposition"), `"a.txt"`) {
		t.Errorf("one file: %d %q %v", one.status, one.raw, one.header)
	}
	if got := unpacked(t, get(asObject(files[1])["download_url"].(string)).raw); got != "d/= d/ü b\xff.txt=B" {
		t.Errorf("a folder: %q", got)
	}
	all := get(a.body["archive_download_url"].(string))
	if got := unpacked(t, all.raw); got != "a.txt=A d/= d/ü b\xff.txt=B" || !strings.Contains(all.header.Get("Content-Disposition"), `"all.tar.gz"`) {
		t.Errorf("all: %q %v", got, all.header)
	}

	for query, want := range map[string]string{
		"paths[]=" + dir + "/d&paths[]=" + dir + "/other/c": "d/= d/ü b\xff.txt=B other/c=C",
		"path=" + dir + "/d&filename=x":                     "d/= d/ü b\xff.txt=B",
		"path=" + dir + "/a.txt&format=tar.gz":              "a.txt=A",
	} {
		if got := unpacked(t, request(t, "GET", sb+"/exports/download?"+query, "").raw); got != want {
			t.Errorf("%s: %q, want %q", query, got, want)
		}
	}
	if a := request(t, "GET", sb+"/exports/download?path="+dir+"/d/%C3%BC%20b%FF.txt", ""); string(a.raw) != "B" {
		t.Errorf("one at once: %d %q", a.status, a.raw)
	}

	link := request(t, "POST", base+"/api/v1/computers/"+id+"/files/export", object("path", dir+"/a.txt", "expires_in", 60))
	to, _ := link.body["url"].(string)
	until, err := time.Parse(time.RFC3339, fmt.Sprint(link.body["expires_at"]))
	if err != nil || time.Until(until) > 61*time.Second || string(get(to).raw) != "A" {
		t.Errorf("%d %s, %v", link.status, link.raw, err)
	}

	// A link is for what it was made for, and for nobody's else.
	u, _ := url.Parse(to)
	token := u.Query().Get("token")
	payload, mac, _ := strings.Cut(token, ".")
	raw, _ := base64.RawURLEncoding.DecodeString(payload)
	forged := base64.RawURLEncoding.EncodeToString(bytes.Replace(raw, []byte("a.txt"), []byte("b.txt"), 1))
	for name, token := range map[string]string{"none": "", "half": payload, "forged": forged + "." + mac, "cut": token[:len(token)-1], "noise": "x.y"} {
		request(t, "GET", base+"/api/v1/sandboxes/"+id+"/exports/files/x?token="+token, "", "Authorization", "").want(t, 403, "FORBIDDEN")
		_ = name
	}
	elsewhere := strings.Replace(to, id, create(t, base, `{}`), 1)
	request(t, "GET", elsewhere, "", "Authorization", "").want(t, 403, "FORBIDDEN")
	if _, err := s.unseal(token, time.Now().Add(2*time.Minute)); !sandbox.HasCode(err, sandbox.CodeForbidden) {
		t.Errorf("an old link: %v", err)
	}
	_, other, _ := serveWorld(t, Config{})
	if _, err := other.unseal(token, time.Now()); err == nil {
		t.Error("another server's link was taken")
	}

	for name, body := range map[string]string{
		"nothing": `{}`, "no paths": `{"paths":[]}`, "a number": `{"path":1}`, "slash": object("path", dir, "filename", "a/b"),
		"format": object("path", dir, "format", "rar"), "forever": object("path", dir, "expires_in", 1e9),
		"many": object("paths", make([]string, maxFiles+1)), "long": object("paths", []string{"/" + strings.Repeat("x", 4000), "/" + strings.Repeat("x", 4000), "/" + strings.Repeat("x", 4000), "/" + strings.Repeat("x", 4000), "/" + strings.Repeat("x", 4000)}),
	} {
		if a := request(t, "POST", sb+"/exports", body); a.status != 422 {
			t.Errorf("%s: %d %s", name, a.status, a.raw)
		}
	}
	request(t, "POST", sb+"/exports", object("path", dir+"/nope")).want(t, 404, "FILE_NOT_FOUND")
	w.move(id, sandbox.Destroyed)
	get(to).want(t, 409, "SANDBOX_NOT_RUNNING")
}

func TestCommonParent(t *testing.T) {
	for _, tt := range []struct {
		want  string
		paths []string
	}{
		{"/", []string{"/"}}, {"/", []string{"/a"}}, {"/a", []string{"/a/b/"}}, {"/a", []string{"/a/b", "/a/c/d"}},
		{"/", []string{"/a", "/a/b"}}, {"/", []string{"/a/b", "/ab/c"}}, {"/a", []string{"/a/b/c", "/a/b"}},
	} {
		if got := commonParent(tt.paths); got != tt.want {
			t.Errorf("%q: %q, want %q", tt.paths, got, tt.want)
		}
	}
}

// A folder goes out as an archive and comes back in another place.
func TestArchives(t *testing.T) {
	w, _, base := serveWorld(t, Config{})
	id := create(t, base, `{}`)
	dir := w.realAgent(t)
	files := base + "/api/v1/sandboxes/" + id + "/files"
	mustWrite(t, dir+"/src/a", "A")
	mustWrite(t, dir+"/src/sub/b", strings.Repeat("B", 3<<20))
	for _, format := range []string{"", "tar", "tgz"} {
		a := request(t, "GET", files+"/archive?path="+dir+"/src&format="+format, "")
		if a.status != 200 {
			t.Fatalf("%s: %d %s", format, a.status, a.raw)
		}
		for _, method := range []string{"PUT", "POST"} {
			b := request(t, method, files+"/archive?path="+dir+"/deep/dst", string(a.raw), "Content-Type", "application/octet-stream")
			if b.status != 200 || b.body["files"] != 2.0 || b.body["bytes"] != float64(1+3<<20) && b.body["bytes"] != float64(3<<20+1) {
				t.Errorf("%s: %d %s", method, b.status, b.raw)
			}
			if onDisk(dir+"/deep/dst/a") != "A" || len(onDisk(dir+"/deep/dst/sub/b")) != 3<<20 {
				t.Error("it came back otherwise")
			}
			_ = os.RemoveAll(dir + "/deep")
		}
	}
	request(t, "GET", files+"/archive?path="+dir+"/nope", "").want(t, 404, "FILE_NOT_FOUND")
	request(t, "GET", files+"/archive?path="+dir+"&format=rar", "").want(t, 422, "VALIDATION_ERROR")
	request(t, "PUT", files+"/archive?path="+dir+"/x", strings.Repeat("no archive ", 1000)).want(t, 422, "VALIDATION_ERROR")
	request(t, "PUT", files+"/archive", "").want(t, 422, "VALIDATION_ERROR")
	var b bytes.Buffer
	tw := tar.NewWriter(&b)
	_ = tw.WriteHeader(&tar.Header{Name: "../out", Size: 1, Typeflag: tar.TypeReg})
	_, _ = tw.Write([]byte("x"))
	_ = tw.Close()
	request(t, "PUT", files+"/archive?path="+dir+"/x", b.String()).want(t, 422, "INVALID_PATH")
	if got := onDisk(dir + "/out"); !strings.HasPrefix(got, "error") {
		t.Error("an archive wrote outside its folder")
	}
}

// A client that leaves stops the work in the sandbox, and one that does not read
// holds it back: nothing piles up in between.
func TestArchiveIsNotPiledUp(t *testing.T) {
	w, _, base := serveWorld(t, Config{})
	id := create(t, base, `{}`)
	dir := w.realAgent(t)
	mustWrite(t, dir+"/zeros", "")
	if err := os.Truncate(dir+"/zeros", 50<<30); err != nil {
		t.Fatal(err)
	}
	res := stream(t, "GET", base+"/api/v1/sandboxes/"+id+"/files/archive?format=tar&path="+dir, "")
	if n, err := io.CopyN(io.Discard, res.Body, 8<<20); err != nil {
		t.Fatal(n, err)
	}
	openFiles := func() int {
		n := 0
		list, _ := os.ReadDir("/proc/self/fd")
		for _, fd := range list {
			if to, _ := os.Readlink(path.Join("/proc/self/fd", fd.Name())); to == dir+"/zeros" {
				n++
			}
		}
		return n
	}
	if openFiles() != 1 {
		t.Errorf("%d times open while it is packed", openFiles())
	}
	_ = res.Body.Close()
	for deadline := time.Now().Add(20 * time.Second); openFiles() > 0; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the sandbox goes on packing for nobody")
		}
	}
}

// Contract §8.4: event name change, data with event and type set to the same verb,
// path, old_path, is_dir, size, size_bytes, timestamp.
func TestWatchFiles(t *testing.T) {
	w, _, base := serveWorld(t, Config{Heartbeat: 20 * time.Millisecond})
	id := create(t, base, `{}`)
	dir := w.realAgent(t)
	files := base + "/api/v1/sandboxes/" + id + "/files"
	mustWrite(t, dir+"/sub/old", "12345")
	res := stream(t, "GET", files+"/watch?path="+dir, "") // its headers say that the watch stands
	if res.StatusCode != http.StatusOK || res.Header.Get("Content-Type") != "text/event-stream" {
		t.Fatalf("%d %v", res.StatusCode, res.Header)
	}
	if err := os.Rename(dir+"/sub/old", dir+"/sub/new\xff"); err != nil {
		t.Fatal(err)
	}
	if a := request(t, "POST", files, object("path", dir+"/made", "content", "eHl6")); a.status != 200 {
		t.Fatal(a.status)
	}
	_ = os.Chmod(dir+"/made", 0o600)
	_ = os.Remove(dir + "/made")
	_ = os.RemoveAll(dir)
	var got []string
	var last map[string]any
	for _, ev := range readSSE(t, res.Body, nil) {
		last = ev.data
		if ev.name != "change" {
			continue
		}
		d := ev.data
		if d["event"] != d["type"] || d["size"] != d["size_bytes"] || d["timestamp"] == nil {
			t.Errorf("%v", d)
		}
		line := fmt.Sprint(d["type"], " ", strings.TrimPrefix(fmt.Sprint(d["path"]), dir))
		if d["old_path"] != nil {
			line += fmt.Sprint(" from ", strings.TrimPrefix(fmt.Sprint(d["old_path"]), dir), " ", d["size"])
		}
		got = append(got, line)
	}
	text := strings.Join(got, ", ")
	if !strings.HasPrefix(text, "renamed /sub/new\uefff from /sub/old 5, created /made, chmod /made, deleted /made") {
		t.Errorf("got %s", text)
	}
	if last["type"] != "closing" || last["reconnect"] != false || !strings.Contains(fmt.Sprint(last["reason"]), "gone") {
		t.Errorf("the end: %v", last)
	}
	request(t, "GET", files+"/watch?path="+dir, "").want(t, 404, "FILE_NOT_FOUND")
	request(t, "GET", files+"/watch?path=/etc/passwd", "").want(t, 409, "NOT_A_DIRECTORY")
	request(t, "GET", files+"/watch?recursive=perhaps", "").want(t, 422, "VALIDATION_ERROR")
}

// "every stream ends with a reason at shutdown", and when the sandbox ends.
func TestWatchEndsWithAReason(t *testing.T) {
	for name, end := range map[string]func(*world, *Server, string){
		"shutdown": func(_ *world, s *Server, _ string) { s.beginClose() },
		"sandbox":  func(w *world, _ *Server, id string) { w.move(id, sandbox.Destroyed) },
	} {
		t.Run(name, func(t *testing.T) {
			w, s, base := serveWorld(t, Config{})
			id := create(t, base, `{}`)
			dir := w.realAgent(t)
			res := stream(t, "GET", base+"/api/v1/sandboxes/"+id+"/files/watch?path="+dir, "")
			end(w, s, id)
			if name == "sandbox" {
				_ = os.RemoveAll(dir) // the fake world's guests do not end with their sandboxes
			}
			evs := readSSE(t, res.Body, nil)
			if len(evs) == 0 || evs[len(evs)-1].name != "closing" || evs[len(evs)-1].data["reason"] == "" {
				t.Errorf("%v", evs)
			}
		})
	}
}
