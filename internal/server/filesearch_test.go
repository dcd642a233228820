package server

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestGlobFiles(t *testing.T) {
	w, _, base := serveWorld(t, Config{})
	id := create(t, base, `{}`)
	dir := w.realAgent(t)
	files := base + "/api/v1/sandboxes/" + id + "/files"
	for _, name := range []string{"a.go", "b.txt", "src/c.go", "src/deep/er/d.go", "src/deep/e_test.go", ".git/x.go", "sp ace/[f].go", "bad\xff.go"} {
		mustWrite(t, dir+"/"+name, name)
	}
	_ = os.Symlink(".", dir+"/loop")
	find := func(query string) string {
		t.Helper()
		a := request(t, "GET", files+"/glob?path="+dir+"&"+query, "")
		if a.status != 200 {
			return fmt.Sprint(a.status, " ", a.code())
		}
		var names []string
		for _, e := range a.body["entries"].([]any) {
			names = append(names, strings.TrimPrefix(asObject(e)["path"].(string), dir+"/"))
		}
		if a.body["truncated"] == true {
			names = append(names, "and more")
		}
		return strings.Join(names, " ")
	}
	for query, want := range map[string]string{
		"pattern=*.go":                         "a.go bad\uefff.go",
		"pattern=**/*.go":                      "a.go bad\uefff.go sp ace/[f].go src/c.go src/deep/e_test.go src/deep/er/d.go",
		"pattern=src/*.go":                     "src/c.go",
		"pattern=src/**/*.go":                  "src/c.go src/deep/e_test.go src/deep/er/d.go",
		"pattern=src/**":                       "src/c.go src/deep src/deep/e_test.go src/deep/er src/deep/er/d.go",
		"pattern=**/deep":                      "src/deep",
		"pattern=*.{go,txt}":                   "a.go b.txt bad\uefff.go",
		"pattern=?.go":                         "a.go",
		"pattern=[ab].*":                       "a.go b.txt",
		"pattern=[!a].*":                       "b.txt",
		"pattern=*/%5C[f%5C].go":               "sp ace/[f].go",
		"pattern=bad%FF.go":                    "bad\uefff.go",
		"name=*_test.go":                       "src/deep/e_test.go",
		"name=d*&type=directory":               "src/deep",
		"name=loop&type=symlink":               "loop",
		"pattern=**/x.go&all=true":             ".git/x.go",
		"pattern=**&max_results=2":             "", // any two
		"pattern=[":                            "422 VALIDATION_ERROR",
		"pattern={a":                           "422 VALIDATION_ERROR",
		"pattern=":                             "422 VALIDATION_ERROR",
		"pattern=x&max_results=0":              "422 VALIDATION_ERROR",
		"pattern=x&type=device":                "422 VALIDATION_ERROR",
		"pattern=" + strings.Repeat("x", 2000): "422 VALIDATION_ERROR",
	} {
		got := find(query)
		if query == "pattern=**&max_results=2" {
			if !strings.HasSuffix(got, "and more") || strings.Count(got, " ") < 3 {
				t.Errorf("%s: %q", query, got)
			}
		} else if got != want {
			t.Errorf("%.60s: got %q, want %q", query, got, want)
		}
	}
	request(t, "GET", files+"/glob?path="+dir+"/nope&pattern=x", "").want(t, 404, "FILE_NOT_FOUND")
}

func TestSearchFiles(t *testing.T) {
	w, _, base := serveWorld(t, Config{})
	id := create(t, base, `{}`)
	dir := w.realAgent(t)
	files := base + "/api/v1/sandboxes/" + id + "/files"
	mustWrite(t, dir+"/a.txt", "one\ntwo Needle here\r\nthree\nfour needle\nfive")
	mustWrite(t, dir+"/sub/b.go", "func needle() {}\n")
	mustWrite(t, dir+"/sub/c.md", "no such thing; $1 (x)\n")
	mustWrite(t, dir+"/bin", "\x00needle\n")
	mustWrite(t, dir+"/.git/n", "needle\n")
	mustWrite(t, dir+"/long", strings.Repeat("x", 600_000)+"needle"+strings.Repeat("ü", 5000)+"\nbad \xff needle\n")
	_ = unix.Mkfifo(dir+"/fifo", 0o600)
	_ = os.Symlink(".", dir+"/loop")
	search := func(pairs ...any) (string, answer) {
		t.Helper()
		a := request(t, "POST", files+"/search", object(append([]any{"path", dir}, pairs...)...))
		if a.status != 200 {
			return fmt.Sprint(a.status, " ", a.code()), a
		}
		var out []string
		for _, m := range a.body["matches"].([]any) {
			o := asObject(m)
			out = append(out, fmt.Sprintf("%s:%v:%v", strings.TrimPrefix(o["path"].(string), dir+"/"), o["line"], o["column"]))
		}
		return strings.Join(out, " "), a
	}
	for _, tt := range []struct {
		want  string
		pairs []any
	}{
		{"a.txt:4:6 long:1:75713 long:2:7 sub/b.go:1:6", []any{"query", "needle"}},
		{"a.txt:2:5 a.txt:4:6 long:1:75713 long:2:7 sub/b.go:1:6", []any{"query", "needle", "case_sensitive", false}},
		{"sub/b.go:1:6", []any{"pattern", `needle\(`}},
		{"sub/b.go:1:6", []any{"query", `n[e]+dle\(`, "regex", true}},
		{"sub/c.md:1:16", []any{"query", "$1 (x)"}},
		{"a.txt:4:6", []any{"query", "needle", "include", []string{"*.txt"}}},
		{"sub/b.go:1:6", []any{"query", "needle", "include", "sub/**"}},
		{"sub/b.go:1:6", []any{"query", "needle", "exclude", []string{"a.txt", "long"}}},
		{"a.txt:4:6", []any{"query", "needle", "exclude", []string{"sub", "l*"}}},
		{".git/n:1:1 bin:1:2", []any{"query", "needle", "all", true, "exclude", []string{"a.txt", "long", "sub"}}},
		{"a.txt:1:1", []any{"pattern", "^one$"}},
		{"422 VALIDATION_ERROR", []any{"pattern", "("}},
		{"422 VALIDATION_ERROR", []any{}},
		{"422 VALIDATION_ERROR", []any{"query", "x", "context", 21}},
		{"422 VALIDATION_ERROR", []any{"query", "x", "include", "["}},
		{"422 VALIDATION_ERROR", []any{"query", "x", "max_results", 10001}},
	} {
		if got, a := search(tt.pairs...); got != tt.want {
			t.Errorf("%v: got %q, want %q (%.300s)", tt.pairs, got, tt.want, a.raw)
		}
	}
	_, a := search("query", "needle", "include", "a.txt", "case_sensitive", false, "context", 1)
	first, second := asObject(a.body["matches"].([]any)[0]), asObject(a.body["matches"].([]any)[1])
	if fmt.Sprintf("%v%v%v%v%v", first["before"], first["text"], first["after"], second["before"], second["after"]) != "[one]two Needle here[three][three][five]" {
		t.Errorf("context: %v %v", first, second)
	}
	_, a = search("query", "needle", "max_results", 1)
	if a.body["truncated"] != true || len(a.body["matches"].([]any)) != 1 {
		t.Errorf("%s", a.raw)
	}
	_, a = search("query", "needle", "include", "long")
	for _, m := range a.body["matches"].([]any) {
		if text := asObject(m)["text"].(string); !strings.Contains(text, "needle") || len(text) > 4096 {
			t.Errorf("a long line: %d bytes", len(text))
		}
	}
	if got := request(t, "POST", files+"/search", object("path", dir+"/a.txt", "query", "five")); len(got.body["matches"].([]any)) != 1 {
		t.Errorf("one file: %s", got.raw)
	}
	request(t, "POST", files+"/search", object("path", dir+"/nope", "query", "x")).want(t, 404, "FILE_NOT_FOUND")
	request(t, "POST", files+"/search", object("path", dir+"/fifo", "query", "x")).want(t, 409, "NOT_A_REGULAR_FILE")
}

func TestReplaceInFiles(t *testing.T) {
	w, _, base := serveWorld(t, Config{})
	id := create(t, base, `{}`)
	dir := w.realAgent(t)
	replace := func(pairs ...any) answer {
		return request(t, "POST", base+"/api/v1/sandboxes/"+id+"/files/replace", object(append([]any{"path", dir}, pairs...)...))
	}
	mustWrite(t, dir+"/a", "x=1 x=2 $1\n")
	mustWrite(t, dir+"/b", "x=3\n")
	mustWrite(t, dir+"/bin", "\x00x=4")
	_ = os.Chmod(dir+"/a", 0o751)
	if a := replace("query", "x=", "replacement", "y$1", "dry_run", true); a.body["replacements"] != 3.0 || onDisk(dir+"/b") != "x=3\n" {
		t.Errorf("dry: %s", a.raw)
	}
	if a := replace("query", "x=", "replacement", "y$1"); a.body["replacements"] != 3.0 || onDisk(dir+"/a") != "y$11 y$12 $1\n" || onDisk(dir+"/bin") != "\x00x=4" {
		t.Errorf("%s: %q", a.raw, onDisk(dir+"/a"))
	}
	if a := replace("pattern", `y\$(\d)`, "replacement", "<$1>", "include", "a"); a.status != 200 || onDisk(dir+"/a") != "<1>1 <1>2 $1\n" || onDisk(dir+"/b") != "y$13\n" {
		t.Errorf("%s: %q", a.raw, onDisk(dir+"/a"))
	}
	if info, err := os.Stat(dir + "/a"); err != nil || info.Mode().Perm() != 0o751 {
		t.Errorf("%v, %v", info, err)
	}
	replace("query", "x").want(t, 422, "VALIDATION_ERROR")
}
