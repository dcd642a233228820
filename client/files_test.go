package client_test

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"

	"silica.dev/silica/api"
)

// What a watch says, and that its end is never silent: changes may be missed.
func TestWatch(t *testing.T) {
	for name, end := range map[string]string{"unexpected EOF": "", "ended early": `event: closing
data: {"type":"closing","reconnect":true}

`, "revoked": `event: closing
data: {"type":"closing","reason":"revoked","reconnect":false}

`} {
		c, n := serve(t, func(_ int, w http.ResponseWriter, r *http.Request) {
			if got := r.URL.RawQuery; got != "path=%2Fw&recursive=false" {
				t.Errorf("asked for %s", got)
			}
			event(w, "", "change", `,"path":"/w/a","event":"created"`)
			event(w, "", "overflow", `,"path":"/w"`)
			_, _ = io.WriteString(w, end)
		})
		got := ""
		var last error
		for ch, err := range c.Watch(t.Context(), "sbx_1", "/w", false) {
			if err == nil {
				got += ch.Type + " " + ch.Path + "; "
			}
			last = err
		}
		if got != "change /w/a; "+api.ChangesLost+" /w; " || last == nil || !strings.Contains(last.Error(), name) || n.Load() != 1 {
			t.Errorf("%s %v after %d requests, want %s", got, last, n.Load(), name)
		}
	}
}

// An archive is a stream both ways, and its length is told where it is known.
func TestArchives(t *testing.T) {
	c, _ := serve(t, func(_ int, w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPut {
			if r.ContentLength != 5 || r.Header.Get("Content-Type") != "application/x-tar" || r.URL.Query().Get("path") != "/w" {
				t.Errorf("%d bytes of %s for %v", r.ContentLength, r.Header.Get("Content-Type"), r.URL)
			}
			_, _ = io.WriteString(w, `{"files":2}`)
			return
		}
		_, _ = io.WriteString(w, "bytes")
	})
	f, err := c.Pack(t.Context(), "sbx_1", "/w", "tar")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	p, err := io.ReadAll(f)
	if err != nil || string(p) != "bytes" {
		t.Fatalf("%q %v", p, err)
	}
	u, err := c.Unpack(t.Context(), "sbx_1", "/w", strings.NewReader(string(p)), false)
	if err != nil || u.Files != 2 {
		t.Errorf("%v %v", u, err)
	}
}

// A download that breaks in the middle is no shorter file.
func TestReadFileCutShort(t *testing.T) {
	c, _ := serve(t, func(_ int, w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "10")
		_, _ = io.WriteString(w, "half")
	})
	if p, err := c.ReadFile(t.Context(), "sbx_1", "/a"); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("%q %v", p, err)
	}
}

// Lists are whole though the server gives them in parts.
func TestListsAreWhole(t *testing.T) {
	c, n := serve(t, func(n int, w http.ResponseWriter, r *http.Request) {
		if got, want := r.URL.RawQuery, []string{"tenant_id=t", "page=2&page_size=2&tenant_id=t"}[n-1]; got != want {
			t.Errorf("asked for %q, want %q", got, want)
		}
		if n == 1 {
			_, _ = io.WriteString(w, `{"data":[{"id":"1"},{"id":"2"}],"page":{"page":1,"page_size":2,"total":3}}`)
			return
		}
		_, _ = io.WriteString(w, `{"data":[{"id":"3"}],"page":{"page":2,"page_size":2,"total":3}}`)
	})
	keys, err := c.Keys(t.Context(), "t")
	if err != nil || len(keys) != 3 || keys[2].ID != "3" || n.Load() != 2 {
		t.Errorf("%v %v after %d requests", keys, err, n.Load())
	}
}
