package server

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// object is JSON text of pairs of names and values.
func object(pairs ...any) string {
	m := map[string]any{}
	for i := 0; i < len(pairs); i += 2 {
		m[pairs[i].(string)] = pairs[i+1]
	}
	raw, _ := json.Marshal(m)
	return string(raw)
}

func mustWrite(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func onDisk(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return "error: " + err.Error()
	}
	return string(b)
}

// Contract §5, both families: mkdir {path, recursive, mode}, rename {from,to}, copy
// {from,to,recursive?}, chmod {path, mode ("0755" or int)}, DELETE with a JSON body
// or a query.
func TestFileChanges(t *testing.T) {
	w, _, base := serveWorld(t, Config{})
	id := create(t, base, `{}`)
	for _, family := range []string{"/sandboxes/", "/computers/"} {
		t.Run(family, func(t *testing.T) {
			dir := w.realAgent(t)
			files := base + "/api/v1" + family + id + "/files"
			post := func(op string, pairs ...any) answer {
				t.Helper()
				return request(t, "POST", files+op, object(pairs...))
			}
			entry := func(a answer, path, kind, mode string) {
				t.Helper()
				for _, o := range []map[string]any{a.body, asObject(a.body["data"])} {
					if a.status != 200 || o["path"] != path || o["type"] != kind || o["mode"] != mode {
						t.Errorf("got %d %s, want %s %s %s", a.status, a.raw, path, kind, mode)
					}
				}
			}
			entry(post("/mkdir", "path", dir+"/a/b", "mode", "0750"), dir+"/a/b", "directory", "0750")
			entry(post("/mkdir", "path", dir+"/a/b"), dir+"/a/b", "directory", "0750") // as mkdir -p
			post("/mkdir", "path", dir+"/a", "recursive", false).want(t, 409, "FILE_EXISTS")
			post("/mkdir", "path", dir+"/x/y", "recursive", false).want(t, 404, "FILE_NOT_FOUND")
			post("/mkdir", "path", dir+"/m", "mode", "rwx").want(t, 422, "VALIDATION_ERROR")

			mustWrite(t, dir+"/a/f", "one")
			entry(post("/rename", "from", dir+"/a/f", "to", dir+"/new/deep/g"), dir+"/new/deep/g", "file", "0644")
			mustWrite(t, dir+"/a/h", "two")
			post("/move", "source", dir+"/a/h", "destination", dir+"/new/deep/g", "overwrite", false).want(t, 409, "FILE_EXISTS")
			entry(post("/move", "source", dir+"/a/h", "destination", dir+"/new/deep/g"), dir+"/new/deep/g", "file", "0644")
			if got := onDisk(dir + "/new/deep/g"); got != "two" {
				t.Errorf("moved onto: %q", got)
			}
			post("/rename", "from", dir+"/new", "to", dir+"/new/deep/below").want(t, 422, "INVALID_PATH")
			post("/rename", "from", dir+"/nope", "to", dir+"/x").want(t, 404, "FILE_NOT_FOUND")

			entry(post("/chmod", "path", dir+"/new/deep/g", "mode", "0600"), dir+"/new/deep/g", "file", "0600")
			entry(post("/chmod", "path", dir+"/new/deep/g", "mode", 0o751), dir+"/new/deep/g", "file", "0751")
			post("/chmod", "path", dir+"/new/deep/g").want(t, 422, "VALIDATION_ERROR")
			post("/chmod", "path", dir+"/new/deep/g", "mode", "9").want(t, 422, "VALIDATION_ERROR")
			if a := post("/chown", "path", dir+"/new", "uid", 12, "recursive", true); a.body["uid"] != 12.0 {
				t.Errorf("chown: %s", a.raw)
			}
			if a := request(t, "POST", files+"/stat", object("path", dir+"/new/deep/g")); a.body["uid"] != 12.0 {
				t.Errorf("chown of all below: %s", a.raw)
			}

			old := time.Date(2001, 2, 3, 4, 5, 6, 0, time.UTC)
			_ = os.Chtimes(dir+"/new/deep/g", old, old)
			_ = os.Symlink("g", dir+"/new/deep/link")
			entry(post("/copy", "from", dir+"/new/deep/g", "to", dir+"/c/g"), dir+"/c/g", "file", "0751")
			post("/copy", "from", dir+"/new", "to", dir+"/copy").want(t, 409, "IS_A_DIRECTORY")
			entry(post("/copy", "from", dir+"/new", "to", dir+"/copy", "recursive", true), dir+"/copy", "directory", "0755")
			if info, err := os.Stat(dir + "/copy/deep/g"); err != nil || info.Mode().Perm() != 0o751 || !info.ModTime().Equal(old) || onDisk(dir+"/copy/deep/link") != "two" {
				t.Errorf("the copy: %v, %v", info, err)
			}
			if target, err := os.Readlink(dir + "/copy/deep/link"); target != "g" {
				t.Errorf("a link in it: %q, %v", target, err)
			}
			post("/copy", "from", dir+"/new", "to", dir+"/new/deep/again", "recursive", true).want(t, 422, "INVALID_PATH")
			post("/copy", "from", dir+"/new/deep/g", "to", dir+"/c/g", "overwrite", false).want(t, 409, "FILE_EXISTS")
			post("/copy", "from", dir+"/new/deep/g", "to", dir+"/c").want(t, 409, "IS_A_DIRECTORY")

			request(t, "DELETE", files, object("path", dir+"/copy")).want(t, 409, "CONFLICT")
			if a := request(t, "DELETE", files, object("path", dir+"/copy", "recursive", true)); a.status != 200 || a.body["deleted"] != true {
				t.Errorf("delete: %d %s", a.status, a.raw)
			}
			if a := request(t, "DELETE", files+"?recursive=true&path="+url.QueryEscape(dir+"/new"), ""); a.status != 200 {
				t.Errorf("delete by query: %d %s", a.status, a.raw)
			}
			if _, err := os.Stat(dir + "/new"); err == nil {
				t.Error("it is still there")
			}
			request(t, "DELETE", files, "").want(t, 422, "VALIDATION_ERROR")
			request(t, "DELETE", files+"?path=/&recursive=true", "").want(t, 422, "INVALID_PATH")
			request(t, "DELETE", files+"?path="+dir+"/gone", "").want(t, 404, "FILE_NOT_FOUND")
		})
	}
}

func asObject(v any) map[string]any { m, _ := v.(map[string]any); return m }

// "GET …/files/tree: default /workspace, depth 3; flat node {path, type ("dir" or
// "file"), name, size?, modified_at?, children[]}".
func TestTree(t *testing.T) {
	w, _, base := serveWorld(t, Config{})
	id := create(t, base, `{}`)
	dir := w.realAgent(t)
	files := base + "/api/v1/sandboxes/" + id + "/files"
	mustWrite(t, dir+"/a/b/c/d/e", "deep")
	mustWrite(t, dir+"/f", "12345")
	_ = os.Symlink(".", dir+"/loop")
	_ = unix.Mkfifo(dir+"/fifo", 0o600)
	a := request(t, "GET", files+"/tree?path="+dir, "")
	var show func(n map[string]any) string
	show = func(n map[string]any) string {
		s := fmt.Sprint(n["name"], ":", n["type"])
		if size, ok := n["size"]; ok {
			s += fmt.Sprint(":", size)
		}
		if list, ok := n["children"].([]any); ok {
			for i, c := range list {
				list[i] = show(c.(map[string]any))
			}
			s += fmt.Sprint(list)
		}
		return s
	}
	if got, want := show(a.body), filepath.Base(dir)+":dir[a:dir[b:dir[c:dir]] f:file:5 fifo:other loop:symlink]"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if got := show(request(t, "GET", files+"/tree?depth=1&path="+dir, "").body); strings.Contains(got, "b:dir") {
		t.Errorf("depth 1: %s", got)
	}
	if got := show(request(t, "GET", files+"/tree?path="+dir+"/f", "").body); got != "f:file:5" {
		t.Errorf("a file: %s", got)
	}
	request(t, "GET", files+"/tree?path="+dir+"/nope", "").want(t, 404, "FILE_NOT_FOUND")
	for i := range maxTree + 1 {
		_ = os.Mkdir(fmt.Sprintf("%s/a/%d", dir, i), 0o755)
	}
	if a := request(t, "GET", files+"/tree?path="+dir, ""); a.body["truncated"] != true || len(a.body["children"].([]any)) != 4 {
		t.Errorf("too many: %d %.300s", a.status, a.raw)
	}
}

// "POST …/files/write-many {files:[{path, content_base64}]} → flat {written[],failed[]}";
// batch has content instead.
func TestWriteMany(t *testing.T) {
	w, _, base := serveWorld(t, Config{MaxUpload: 1 << 20})
	id := create(t, base, `{}`)
	files := base + "/api/v1/sandboxes/" + id + "/files"
	dir := w.realAgent(t)
	b64 := base64.StdEncoding.EncodeToString
	mustWrite(t, dir+"/file", "x")
	large := strings.Repeat("0123456789", 30_000)
	body := fmt.Sprintf(`{"x":[{}],"files":[
		{"path":%q,"content_base64":%q}, {"content":%q,"path":%q},
		{"path":%q,"content_base64":"!!\n!!"}, {"path":"relative","content":"eA=="}, {"path":%q}, {},
		{"path":%q,"content_base64":%q}, {"path":%q,"content":"\u00e4\/\u0020eA=="}, {"path":%q,"content_base64":""}
	],"y":null}`, dir+"/d/1", b64([]byte(large)), b64([]byte("two")), dir+"/d/2", dir+"/bad", dir+"/none",
		dir+"/file/below", b64([]byte(large)), dir+"/odd", dir+"/empty")
	for _, op := range []string{"/write-many", "/batch"} {
		a := request(t, "POST", files+op, body)
		if a.status != 200 {
			t.Fatalf("%s: %d %s", op, a.status, a.raw)
		}
		var got struct {
			Written []struct {
				Path string
				Size int
			}
			Failed []struct{ Path, Error, Code string }
		}
		if err := json.Unmarshal(a.raw, &got); err != nil {
			t.Fatal(err)
		}
		if text := fmt.Sprint(got.Written); text != fmt.Sprintf("[{%s/d/1 300000} {%[1]s/d/2 3} {%[1]s/empty 0}]", dir) {
			t.Errorf("written: %s", text)
		}
		failed := ""
		for _, f := range got.Failed {
			failed += " " + strings.TrimPrefix(f.Path, dir) + ":" + f.Code
		}
		if failed != " /bad:VALIDATION_ERROR relative:INVALID_PATH /none:VALIDATION_ERROR :VALIDATION_ERROR /file/below:NOT_A_DIRECTORY /odd:VALIDATION_ERROR" {
			t.Errorf("failed:%s", failed)
		}
		if onDisk(dir+"/d/1") != large || onDisk(dir+"/d/2") != "two" || onDisk(dir+"/empty") != "" {
			t.Error("what was written is not what is there")
		}
		if left, _ := filepath.Glob(dir + "/.silica-*"); len(left) > 0 {
			t.Errorf("left behind: %v", left)
		}
		_ = os.RemoveAll(dir + "/d")
	}
	one := object("path", dir+"/e/1", "content", "eA==")
	for name, tt := range map[string]struct {
		body string
		code string
	}{
		"no list":       {`{}`, "VALIDATION_ERROR"},
		"not an object": {`[]`, "BAD_REQUEST"},
		"not a list":    {`{"files":{}}`, "VALIDATION_ERROR"},
		"twice":         {`{"files":[],"files":[]}`, "VALIDATION_ERROR"},
		"not objects":   {`{"files":[1]}`, "BAD_REQUEST"},
		"broken off":    {`{"files":[` + one + `,{"path":"/x"`, "BAD_REQUEST"},
		"in content":    {`{"files":[` + one + `,{"path":"` + dir + `/cut/x","content":"eA`, "BAD_REQUEST"},
		"more behind":   {`{"files":[]} {}`, "BAD_REQUEST"},
		"too many":      {`{"files":[` + strings.Repeat(`{},`, maxFiles) + `{}]}`, "BODY_TOO_LARGE"},
		"too large":     {`{"files":[{"path":"` + dir + `/l","content":"` + strings.Repeat("eHh4", 1<<20) + `"}]}`, "FILE_TOO_LARGE"},
	} {
		a := request(t, "POST", files+"/write-many", tt.body)
		if a.status < 400 || asObject(a.body["error"])["code"] != tt.code {
			t.Errorf("%s: %d %.300s, want %s", name, a.status, a.raw, tt.code)
		}
		details := asObject(asObject(a.body["error"])["details"])
		if name == "broken off" && details["written"] != 1.0 {
			t.Errorf("%s: %.300s", name, a.raw)
		}
	}
	if onDisk(dir+"/e/1") != "x" {
		t.Error("what came before the break was not written")
	}
	if a := request(t, "POST", files+"/write-many", `{"files":[]}`); a.status != 200 {
		t.Errorf("no files: %d %s", a.status, a.raw)
	}
}

// A full disk in the middle: some are written, the others say why not.
func TestWriteManyOnAFullDisk(t *testing.T) {
	w, _, base := serveWorld(t, Config{})
	id := create(t, base, `{}`)
	dir := w.realAgent(t)
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Skip("no mounts here:", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	part := func(name string, size int) string {
		return object("path", dir+"/"+name, "content_base64", base64.StdEncoding.EncodeToString(make([]byte, size)))
	}
	a := request(t, "POST", base+"/api/v1/sandboxes/"+id+"/files/write-many",
		`{"files":[`+part("a", 500_000)+","+part("b", 900_000)+","+part("c", 100_000)+`]}`)
	written, failed := a.body["written"].([]any), a.body["failed"].([]any)
	if len(written) != 2 || len(failed) != 1 || asObject(failed[0])["code"] != "NO_SPACE" || asObject(written[1])["path"] != dir+"/c" {
		t.Errorf("%d %.500s", a.status, a.raw)
	}
	if list, _ := os.ReadDir(dir); len(list) != 2 {
		t.Errorf("inside: %v", list)
	}
}

// Names are bytes. What a listing calls a file finds it again in every request.
func TestOddNames(t *testing.T) {
	w, _, base := serveWorld(t, Config{})
	id := create(t, base, `{}`)
	dir := w.realAgent(t)
	files := base + "/api/v1/sandboxes/" + id + "/files"
	names := []string{"line\nfeed", "bad-\xff\xfe", "half \xe2\x82", "icon \uef80", strings.Repeat("n", 255), strings.Repeat("\xfe", 255), "tree", "100%25", "a b+c?d#e&f", "\\", "\"", "-rf", "\u202e", "ü", "u\u0308"}
	for _, name := range names {
		mustWrite(t, dir+"/"+name, name)
	}
	a := request(t, "GET", files+"?path="+dir, "")
	entries := a.body["entries"].([]any)
	if len(entries) != len(names) {
		t.Fatalf("%d entries: %s", len(entries), a.raw)
	}
	for _, e := range entries {
		name, path := asObject(e)["name"].(string), asObject(e)["path"].(string)
		if st := request(t, "POST", files+"/stat", object("path", path)); st.body["path"] != path || st.body["name"] != name {
			t.Errorf("stat %q: %d %s", path, st.status, st.raw)
		}
		raw := request(t, "GET", files+"/download?path="+url.QueryEscape(path), "").raw
		byPath := request(t, "GET", files+"/"+url.PathEscape(path[1:]), "").raw
		if string(raw) != string(byPath) || onDisk(dir+"/"+string(raw)) != string(raw) || len(raw) == 0 {
			t.Errorf("%q: got %q and %q", path, raw, byPath)
		}
		to := strings.Replace(path, dir, dir+"/moved", 1)
		if mv := request(t, "POST", files+"/rename", object("from", path, "to", to)); mv.body["path"] != to {
			t.Errorf("rename %q: %d %s", path, mv.status, mv.raw)
		}
		if onDisk(dir+"/moved/"+string(raw)) != string(raw) {
			t.Errorf("%q is not there by its own name", to)
		}
		if rm := request(t, "DELETE", files+"?path="+url.QueryEscape(to), ""); rm.status != 200 {
			t.Errorf("delete %q: %d %s", to, rm.status, rm.raw)
		}
	}
	// The bytes themselves, escaped once, are as good.
	mustWrite(t, dir+"/raw\xff", "r")
	if a := request(t, "GET", files+"/download?path="+dir+"/raw%FF", ""); string(a.raw) != "r" {
		t.Errorf("raw bytes: %d %s", a.status, a.raw)
	}
	if a := request(t, "DELETE", files+"?path="+dir+"/raw%FF", ""); a.status != 200 {
		t.Errorf("raw bytes: %d %s", a.status, a.raw)
	}
	request(t, "POST", files, object("path", dir+"/"+strings.Repeat("n", 256), "content", "")).want(t, 422, "INVALID_PATH")
	// As many folders as a path can name.
	deep := dir + strings.Repeat("/d", 500)
	if a := request(t, "POST", files, object("path", deep+"/f", "content", "eA==")); a.status != 200 {
		t.Errorf("deep: %d %.300s", a.status, a.raw)
	}
	if a := request(t, "GET", files+"?depth=512&path="+dir, ""); !strings.Contains(string(a.raw), deep+`/f"`) {
		t.Errorf("a listing of 500 levels: %d, %d bytes", a.status, len(a.raw))
	}
	if a := request(t, "DELETE", files, object("path", dir+"/d", "recursive", true)); a.status != 200 {
		t.Errorf("deep: %d %.300s", a.status, a.raw)
	}
}

// HEAD, validators, and what is no plain file.
func TestDownloadHeaders(t *testing.T) {
	w, _, base := serveWorld(t, Config{})
	id := create(t, base, `{}`)
	dir := w.realAgent(t)
	files := base + "/api/v1/sandboxes/" + id + "/files"
	mustWrite(t, dir+"/f.json", "0123456789")
	for _, path := range []string{"/download?path=" + dir + "/f.json", dir + "/f.json"} {
		head := request(t, "HEAD", files+path, "")
		if head.status != 200 || head.header.Get("Content-Length") != "10" || head.header.Get("Content-Type") != "application/octet-stream" {
			t.Errorf("HEAD %s: %d %v", path, head.status, head.header)
		}
		tag := head.header.Get("ETag")
		if a := request(t, "GET", files+path, "", "If-None-Match", `"x", `+tag); tag == "" || a.status != http.StatusNotModified || len(a.raw) != 0 {
			t.Errorf("unchanged: %d %q", a.status, a.raw)
		}
		if a := request(t, "GET", files+path, "", "Range", "bytes=8-", "If-Range", tag); a.status != 206 || string(a.raw) != "89" {
			t.Errorf("the rest: %d %q", a.status, a.raw)
		}
		if a := request(t, "GET", files+path, "", "Range", "bytes=8-", "If-Range", `"other"`); a.status != 200 || len(a.raw) != 10 {
			t.Errorf("the rest of another: %d %q", a.status, a.raw)
		}
		mustWrite(t, dir+"/f.json", "987654321-")
		if a := request(t, "GET", files+path, "", "If-None-Match", tag); a.status != 200 {
			t.Errorf("changed: %d", a.status)
		}
		mustWrite(t, dir+"/f.json", "0123456789")
	}
	// "GO asks Accept: application/json even for downloads; do not answer 406."
	if a := request(t, "GET", files+"/read?path="+dir+"/f.json", "", "Accept", "application/json"); a.status != 200 || string(a.raw) != "0123456789" {
		t.Errorf("read: %d %s", a.status, a.raw)
	}
	if a := request(t, "GET", files+"/proc/self/status", ""); !strings.Contains(string(a.raw), "Name:") {
		t.Errorf("a file of /proc: %d %s", a.status, a.raw)
	}
	_ = unix.Mkfifo(dir+"/fifo", 0o600)
	_ = unix.Mknod(dir+"/socket", unix.S_IFSOCK|0o600, 0)
	_ = os.Symlink("loop", dir+"/loop")
	for path, code := range map[string]string{"/dev/zero": "NOT_A_REGULAR_FILE", dir + "/fifo": "NOT_A_REGULAR_FILE", dir + "/socket": "NOT_A_REGULAR_FILE", dir: "IS_A_DIRECTORY"} {
		request(t, "GET", files+"/download?path="+path, "").want(t, 409, code)
	}
	request(t, "GET", files+"/download?path="+dir+"/loop", "").want(t, 422, "INVALID_PATH")
	if err := os.Truncate(dir+"/f.json", 10<<30); err != nil {
		t.Fatal(err)
	}
	if a := request(t, "GET", files+"/readdir?path="+dir, ""); !strings.Contains(string(a.raw), "10737418240") || !strings.Contains(string(a.raw), `"type":"other"`) {
		t.Errorf("a sparse file and others in a listing: %d %s", a.status, a.raw)
	}
}
