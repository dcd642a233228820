package server

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"mime/multipart"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"silica.dev/silica/sandbox"
)

// form makes a multipart body; a name that starts with "file" is a file.
func form(parts ...string) (body, contentType string) {
	var b bytes.Buffer
	m := multipart.NewWriter(&b)
	for i := 0; i < len(parts); i += 2 {
		if strings.HasPrefix(parts[i], "file") {
			f, _ := m.CreateFormFile(parts[i], "x.bin")
			_, _ = io.WriteString(f, parts[i+1])
		} else {
			_ = m.WriteField(parts[i], parts[i+1])
		}
	}
	_ = m.Close()
	return b.String(), m.FormDataContentType()
}

// {path, content(base64)} or multipart path + file → {data:{sandbox_id,path,size}}.
func TestUploadForms(t *testing.T) {
	w, _, base := serveWorld(t, Config{})
	id := create(t, base, `{}`)
	url := base + "/api/v1/sandboxes/" + id + "/files"
	content := strings.Repeat("any bytes \x00\xff\n", 40_000)
	b64 := base64.StdEncoding.EncodeToString([]byte(content))
	wrapped := strings.ReplaceAll(strings.ReplaceAll(b64, "/", `\/`), "f", `\n\u0066`)
	pathFirst, ct1 := form("path", "/w/f", "file", content)
	fileFirst, ct2 := form("file", content, "other", "x", "path", "/w/f")
	for name, tt := range map[string][2]string{
		"json, path first":    {`{"path":"/w/f","content":"` + b64 + `"}`},
		"json, content first": {`{"x":{"content":[1,"}"]},"content":"` + b64 + `","y":null,"path":"/w/f"}`},
		"json, no padding":    {` { "path" : "/w/f" , "content" : "` + strings.TrimRight(b64, "=") + `" } `},
		"json, escapes":       {`{"path":"\/w\u002ff","content":"` + wrapped + `"}`},
		"form, path first":    {pathFirst, ct1},
		"form, file first":    {fileFirst, ct2},
	} {
		for _, route := range []string{"", "/upload"} {
			clear(w.agent.files)
			a := request(t, "POST", url+route, tt[0], "Content-Type", tt[1])
			if a.status != 200 {
				t.Errorf("%s: %d %.200s", name, a.status, a.raw)
				continue
			}
			for _, o := range []map[string]any{a.body, a.body["data"].(map[string]any)} {
				if o["sandbox_id"] != id || o["path"] != "/w/f" || o["size"] != float64(len(content)) {
					t.Errorf("%s: %v", name, o)
				}
			}
			if string(w.agent.files["/w/f"]) != content || len(w.agent.files) != 1 {
				t.Errorf("%s: arrived %d bytes, files %v", name, len(w.agent.files["/w/f"]), slices.Collect(maps.Keys(w.agent.files)))
			}
		}
	}
	for _, body := range []string{`{"path":"/e","content":""}`, `{"content":"","path":"/e"}`} {
		if a := request(t, "POST", url, body); a.status != 200 || a.body["size"] != 0.0 {
			t.Errorf("empty file: %d %s", a.status, a.raw)
		}
	}
}

func TestUploadBadInput(t *testing.T) {
	w, _, base := serveWorld(t, Config{MaxUpload: 1000})
	id := create(t, base, `{}`)
	url := base + "/api/v1/sandboxes/" + id + "/files"
	big := strings.Repeat("x", 1001)
	big64 := base64.StdEncoding.EncodeToString([]byte(big))
	noPath, ct := form("file", "x")
	noFile, ct2 := form("path", "/a")
	twoFiles, ct3 := form("path", "/a", "file", "x", "file", "y")
	bigForm, ct4 := form("path", "/a", "file", big)
	bigFirst, ct5 := form("file", big, "path", "/a")
	whole, ct6 := form("path", "/a", "file", "content")
	for _, tt := range []struct {
		name, body, ct string
		status         int
		code           string
	}{
		{"empty", "", "", 400, "BAD_REQUEST"},
		{"no json", "hello", "", 400, "BAD_REQUEST"},
		{"array", "[]", "", 422, "VALIDATION_ERROR"},
		{"nothing", "{}", "", 422, "VALIDATION_ERROR"},
		{"no path", `{"content":"eA=="}`, "", 422, "VALIDATION_ERROR"},
		{"no content", `{"path":"/a"}`, "", 422, "VALIDATION_ERROR"},
		{"content null", `{"path":"/a","content":null}`, "", 422, "VALIDATION_ERROR"},
		{"content number", `{"path":"/a","content":7}`, "", 422, "VALIDATION_ERROR"},
		{"path number", `{"path":7,"content":"eA=="}`, "", 422, "VALIDATION_ERROR"},
		{"not base64", `{"path":"/a","content":"!!!!"}`, "", 422, "VALIDATION_ERROR"},
		{"cut base64", `{"path":"/a","content":"eHh4e"}`, "", 422, "VALIDATION_ERROR"},
		{"data behind padding", `{"path":"/a","content":"eA==eA=="}`, "", 422, "VALIDATION_ERROR"},
		{"content twice", `{"path":"/a","content":"eA==","content":"eQ=="}`, "", 422, "VALIDATION_ERROR"},
		{"broken behind content", `{"path":"/a","content":"eA=="`, "", 400, "BAD_REQUEST"},
		{"broken behind content", `{"path":"/a","content":"eA==",}`, "", 400, "BAD_REQUEST"},
		{"more behind the object", `{"path":"/a","content":"eA=="} {}`, "", 400, "BAD_REQUEST"},
		{"ends in content", `{"path":"/a","content":"eA`, "", 400, "BAD_REQUEST"},
		{"relative", `{"path":"a","content":"eA=="}`, "", 422, "INVALID_PATH"},
		{"relative late", `{"content":"eA==","path":"a"}`, "", 422, "INVALID_PATH"},
		{"null character", `{"path":"/a\u0000b","content":"eA=="}`, "", 422, "INVALID_PATH"},
		{"long path", `{"path":"/` + strings.Repeat("x", 5000) + `","content":"eA=="}`, "", 422, "INVALID_PATH"},
		{"too large", `{"path":"/a","content":"` + big64 + `"}`, "", 413, "FILE_TOO_LARGE"},
		{"too large, path late", `{"content":"` + big64 + `","path":"/a"}`, "", 413, "FILE_TOO_LARGE"},
		{"far too large", `{"path":"/a","content":"` + strings.Repeat("eHh4", 1<<20) + `"}`, "", 413, "FILE_TOO_LARGE"},
		{"folder", `{"content":"eA==","path":"/dir"}`, "", 409, "IS_A_DIRECTORY"},
		{"no space", `{"path":"/full/a","content":"eA=="}`, "", 507, "NO_SPACE"},
		{"form without path", noPath, ct, 422, "VALIDATION_ERROR"},
		{"form without file", noFile, ct2, 422, "VALIDATION_ERROR"},
		{"form with two files", twoFiles, ct3, 422, "VALIDATION_ERROR"},
		{"form too large", bigForm, ct4, 413, "FILE_TOO_LARGE"},
		{"form too large, path late", bigFirst, ct5, 413, "FILE_TOO_LARGE"},
		{"form cut", whole[:len(whole)-10], ct6, 400, "BAD_REQUEST"},
		{"form without boundary", "x", "multipart/form-data", 400, "BAD_REQUEST"},
		{"other multipart", "x", "multipart/mixed; boundary=x", 400, "BAD_REQUEST"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			request(t, "POST", url, tt.body, "Content-Type", tt.ct).want(t, tt.status, tt.code)
			// "larger refused with nothing left inside"
			w.agent.mu.Lock()
			defer w.agent.mu.Unlock()
			if len(w.agent.files) != 0 {
				t.Errorf("left behind: %v", slices.Collect(maps.Keys(w.agent.files)))
				clear(w.agent.files)
			}
		})
	}
	w.move(id, sandbox.Destroyed)
	request(t, "POST", url, `{"path":"/a","content":"eA=="}`).want(t, 409, "SANDBOX_NOT_RUNNING")
	request(t, "GET", url+"/a", "").want(t, 409, "SANDBOX_NOT_RUNNING")
}

// Both path forms, always octet-stream, ranges, reserved words.
func TestDownload(t *testing.T) {
	w, _, base := serveWorld(t, Config{})
	id := create(t, base, `{}`)
	files := base + "/api/v1/sandboxes/" + id + "/files"
	w.agent.files["/workspace/out put.json"] = []byte(`{"a":1}`)
	w.agent.files["/tree"] = []byte("t")
	w.agent.files["/a%2Fb"] = []byte("percent")
	for _, path := range []string{
		"/workspace%2Fout%20put.json", "/workspace/out%20put.json", "//workspace//out%20put.json", "/%2Fworkspace%2Fout%20put.json",
		"/download?path=/workspace/out%20put.json",
	} {
		a := request(t, "GET", files+path, "", "Accept", "application/json")
		if a.status != 200 || string(a.raw) != `{"a":1}` || a.header.Get("Content-Type") != "application/octet-stream" || a.header.Get("Content-Length") != "7" {
			t.Errorf("%s: %d %s %v", path, a.status, a.raw, a.header)
		}
	}
	if a := request(t, "GET", files+"/a%252Fb", ""); string(a.raw) != "percent" {
		t.Errorf("a percent sign in a name: %d %s", a.status, a.raw)
	}
	request(t, "GET", files+"/nope", "").want(t, 404, "FILE_NOT_FOUND")
	request(t, "GET", files+"/move", "").want(t, 404, "NOT_FOUND")
	request(t, "GET", files+"/stat", "").want(t, 404, "NOT_FOUND")
	if a := request(t, "GET", files+"/download?path=/tree", ""); string(a.raw) != "t" {
		t.Errorf("%s", a.raw)
	}
	request(t, "GET", files+"/download", "").want(t, 422, "VALIDATION_ERROR")
	request(t, "POST", files+"/workspace/x", "").want(t, 405, "METHOD_NOT_ALLOWED")
	for header, want := range map[string]string{
		"bytes=0-2": "206 {\"a bytes 0-2/7", "bytes=4-": "206 :1} bytes 4-6/7", "bytes=-2": "206 1} bytes 5-6/7", "bytes=5-900": "206 1} bytes 5-6/7",
		"bytes=0-1,3-4": "200 {\"a\":1} ", "lines=1-2": "200 {\"a\":1} ", "bytes=5-4": "200 {\"a\":1} ", "bytes=x": "200 {\"a\":1} ",
	} {
		a := request(t, "GET", files+"/workspace/out%20put.json", "", "Range", header)
		if got := fmt.Sprintf("%d %s %s", a.status, a.raw, a.header.Get("Content-Range")); got != want {
			t.Errorf("%s: got %q, want %q", header, got, want)
		}
	}
	a := request(t, "GET", files+"/workspace/out%20put.json", "", "Range", "bytes=7-")
	a.want(t, 416, "RANGE_NOT_SATISFIABLE")
	if a.header.Get("Content-Range") != "bytes */7" || a.header.Get("Content-Type") != "application/json" {
		t.Errorf("%v", a.header)
	}
}

// {data:{path,entries}} and flat; entries that satisfy every client.
func TestListAndStat(t *testing.T) {
	w, _, base := serveWorld(t, Config{})
	id := create(t, base, `{}`)
	files := base + "/api/v1/sandboxes/" + id + "/files"
	w.agent.files["/w/a.txt"] = []byte("abc")
	a := request(t, "GET", files+"?path=/w", "")
	for _, o := range []map[string]any{a.body, a.body["data"].(map[string]any)} {
		e := o["entries"].([]any)[0].(map[string]any)
		for k, want := range map[string]any{
			"name": "a.txt", "path": "/w/a.txt", "type": "file", "is_dir": false, "is_symlink": false, "symlink_target": nil,
			"size": 3.0, "size_bytes": 3.0, "mode": "0644",
		} {
			if e[k] != want {
				t.Errorf("%s: got %v, want %v", k, e[k], want)
			}
		}
		if _, err := time.Parse(time.RFC3339, e["modified_at"].(string)); err != nil || o["path"] != "/w" {
			t.Errorf("%v %v", err, o)
		}
	}
	if a := request(t, "GET", files, ""); a.body["path"] != "/root" || len(a.body["entries"].([]any)) != 0 {
		t.Errorf("%s", a.raw)
	}
	if a := request(t, "POST", files+"/stat", `{"path":"/w/a.txt"}`); a.body["mode"] != "0644" || a.body["data"].(map[string]any)["type"] != "file" {
		t.Errorf("%s", a.raw)
	}
	request(t, "POST", files+"/stat", `{"path":"/w/b"}`).want(t, 404, "FILE_NOT_FOUND")
	request(t, "POST", files+"/stat", `{}`).want(t, 422, "VALIDATION_ERROR")
	request(t, "GET", files+"?path=rel", "").want(t, 422, "INVALID_PATH")
	request(t, "GET", files+"?path=/&depth=0", "").want(t, 422, "VALIDATION_ERROR")
}

// "100 MB through without buffering in memory": the heap must not follow the file.
func TestTransfersDoNotBuffer(t *testing.T) {
	w, _, base := serveWorld(t, Config{})
	id := create(t, base, `{}`)
	files := base + "/api/v1/sandboxes/" + id + "/files"
	const size = 100 << 20
	grew := func(what string, run func()) {
		runtime.GC()
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		start := time.Now()
		run()
		took := time.Since(start)
		runtime.ReadMemStats(&after)
		// Everything ever allocated meanwhile, both ends of the wire included.
		if n := after.TotalAlloc - before.TotalAlloc; n > 16<<20 {
			t.Errorf("%s: allocated %d MiB", what, n>>20)
		}
		t.Logf("%s: %.0f MB/s", what, size/1e6/took.Seconds())
	}
	post := func(ct string, body io.Reader) {
		req, _ := http.NewRequestWithContext(t.Context(), "POST", files, body)
		req.Header.Set("Authorization", "Bearer "+keyA)
		req.Header.Set("Content-Type", ct)
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		var a struct{ Size int64 }
		if err := json.NewDecoder(res.Body).Decode(&a); err != nil || res.StatusCode != 200 || a.Size != size {
			t.Errorf("%d, %d bytes, %v", res.StatusCode, a.Size, err)
		}
	}
	grew("multipart up", func() {
		post("multipart/form-data; boundary=b", io.MultiReader(
			strings.NewReader("--b\r\nContent-Disposition: form-data; name=\"path\"\r\n\r\n/null\r\n--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"f\"\r\n\r\n"),
			io.LimitReader(zeros{}, size), strings.NewReader("\r\n--b--\r\n")))
	})
	grew("json up", func() {
		chars := int64(size+2) / 3 * 4
		post("application/json", io.MultiReader(strings.NewReader(`{"path":"/null","content":"`),
			io.LimitReader(letters{}, chars-2), strings.NewReader(`=="}`)))
	})
	if w.agent.received != 2*size {
		t.Errorf("arrived %d", w.agent.received)
	}
	grew("down", func() {
		res := stream(t, "GET", fmt.Sprintf("%s/zeros/%d", files, size), "")
		if n, err := io.Copy(io.Discard, res.Body); err != nil || n != size {
			t.Errorf("%d bytes, %v", n, err)
		}
	})
}

// letters is base64 without end.
type letters struct{}

func (letters) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = 'A'
	}
	return len(p), nil
}

func TestDownloadThatBreaksOffIsSeen(t *testing.T) {
	w, _, base := serveWorld(t, Config{})
	id := create(t, base, `{}`)
	res := stream(t, "GET", base+"/api/v1/sandboxes/"+id+"/files/zeros/100000000", "")
	_, _ = io.CopyN(io.Discard, res.Body, 1<<20)
	w.agent.breakOff()
	if _, err := io.Copy(io.Discard, res.Body); err == nil {
		t.Error("a download that was cut looks whole")
	}
}
