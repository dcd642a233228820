package client_test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"silica.dev/silica/api"
	"silica.dev/silica/client"
)

func event(w io.Writer, id, name, data string) {
	if id != "" {
		_, _ = fmt.Fprintf(w, "id: %s\n", id)
	}
	_, _ = fmt.Fprintf(w, "event: %s\ndata: {\"type\":%q%s}\n\n", name, name, data)
}

// "never repeat an item": a stream that breaks, ends early, is refused for a
// moment or said farewell to is taken up after its last event.
func TestStreamResumes(t *testing.T) {
	c, _ := serve(t, func(n int, w http.ResponseWriter, r *http.Request) {
		after := r.Header.Get("Last-Event-ID")
		if want := []string{"", "7-1", "7-2", "7-2", "7-3"}[n-1]; after != want {
			t.Errorf("request %d goes on after %q, want %q", n, after, want)
		}
		switch n {
		case 1: // broken in the middle of the second
			event(w, "7-1", "stdout", `,"data":"a\n"`)
			_, _ = io.WriteString(w, "id: 7-2\nevent: stdout\nda")
		case 2: // ended without a word
			event(w, "7-2", "stderr", `,"data":"b\n"`)
		case 3:
			refuse(w, http.StatusServiceUnavailable, "UNAVAILABLE")
		case 4:
			event(w, "7-3", "gap", `,"lost_bytes":9`)
			event(w, "", "closing", `,"reason":"the server is shutting down","reconnect":true`)
		case 5:
			event(w, "7-4", "exit", `,"exit_code":2`)
			event(w, "7-5", "stdout", `,"data":"never"`)
		}
	}, client.WithRetries(0))
	got := ""
	for ev, err := range c.ProcessStream(t.Context(), "sbx_1", "12", "") {
		if err != nil {
			t.Fatal(err)
		}
		got += fmt.Sprintf("%s %s%q %d %d; ", ev.ID, ev.Type, ev.Data, ev.LostBytes, ev.ExitCode)
	}
	if want := `7-1 stdout"a\n" 0 0; 7-2 stderr"b\n" 0 0; 7-3 gap"" 9 0; 7-4 exit"" 0 2; `; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

// What can't get better ends the stream with its reason.
func TestStreamEnds(t *testing.T) {
	for name, tt := range map[string]struct {
		answer func(w http.ResponseWriter)
		want   string
	}{
		"refused":    {func(w http.ResponseWriter) { refuse(w, http.StatusNotFound, "NOT_FOUND") }, "NOT_FOUND"},
		"error":      {func(w http.ResponseWriter) { event(w, "", "error", `,"code":"SANDBOX_NOT_RUNNING","message":"m"`) }, "SANDBOX_NOT_RUNNING"},
		"no return":  {func(w http.ResponseWriter) { event(w, "", "closing", `,"reason":"revoked","reconnect":false`) }, "revoked"},
		"not events": {func(w http.ResponseWriter) { _, _ = io.WriteString(w, "data: [1]\n\n") }, "cannot unmarshal"},
	} {
		t.Run(name, func(t *testing.T) {
			c, n := serve(t, func(_ int, w http.ResponseWriter, _ *http.Request) { tt.answer(w) })
			var last error
			for _, err := range c.FollowService(t.Context(), "sbx_1", "web", "3-4") {
				last = err
			}
			if last == nil || !strings.Contains(last.Error(), tt.want) || n.Load() != 1 {
				t.Errorf("%v after %d requests, want %s", last, n.Load(), tt.want)
			}
		})
	}
}

// "streams end when the loop breaks": and so does the request.
func TestStreamLeft(t *testing.T) {
	gone := make(chan struct{})
	c, _ := serve(t, func(_ int, w http.ResponseWriter, r *http.Request) {
		event(w, "1", "state_changed", `,"state":"running"`)
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
		close(gone)
	})
	for ev, err := range c.Events(t.Context(), "sbx_1", "") {
		if err != nil || ev.State != api.StateRunning {
			t.Errorf("%v %v", ev, err)
		}
		break
	}
	<-gone
}

// Events end with the sandbox, though the end was all there was to say.
func TestEventsOfEnded(t *testing.T) {
	c, _ := serve(t, func(_ int, w http.ResponseWriter, r *http.Request) {
		if !strings.HasSuffix(r.URL.Path, "/events") {
			_, _ = io.WriteString(w, `{"id":"sbx_1","state":"destroyed"}`)
		}
	})
	for ev, err := range c.Events(t.Context(), "sbx_1", "99") {
		t.Errorf("%v %v", ev, err)
	}
}

// "404 or a broken stream → polling".
func TestWaitUntilReady(t *testing.T) {
	for name, stream := range map[string]func(w http.ResponseWriter){
		"no stream": func(w http.ResponseWriter) { refuse(w, http.StatusNotFound, "NOT_FOUND") },
		"broken":    cut,
		"empty":     func(http.ResponseWriter) {},
	} {
		t.Run(name, func(t *testing.T) {
			looks, streams := 0, 0
			c, _ := serve(t, func(_ int, w http.ResponseWriter, r *http.Request) {
				if strings.HasSuffix(r.URL.Path, "/stream") {
					streams++
					stream(w)
					return
				}
				looks++
				_, _ = fmt.Fprintf(w, `{"id":"sbx_1","state":"provisioning","ready":%v}`, looks == 3)
			}, client.WithRetries(0))
			sb, err := c.WaitUntilReady(t.Context(), "sbx_1")
			if err != nil || !sb.Ready || looks != 3 {
				t.Errorf("%v %v after %d looks", sb, err, looks)
			}
			if name == "no stream" && streams != 1 {
				t.Errorf("asked %d times for what is not there", streams)
			}
		})
	}
	c, _ := serve(t, func(_ int, w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/stream") {
			event(w, "", "timeout", "")
			return
		}
		_, _ = io.WriteString(w, `{"id":"sbx_1","state":"error","state_reason":"no room"}`)
	})
	_, err := c.WaitUntilReady(t.Context(), "sbx_1")
	var state *client.StateError
	if !errors.As(err, &state) || !strings.Contains(err.Error(), "no room") {
		t.Errorf("%v", err)
	}
}

// All pages, each once, and none that is not needed.
func TestAll(t *testing.T) {
	c, n := serve(t, func(_ int, w http.ResponseWriter, r *http.Request) {
		if q := r.URL.Query(); q.Get("limit") != "2" || q.Get("tag") != "x" || q.Has("page") {
			t.Errorf("asked for %v", q)
		}
		switch r.URL.Query().Get("cursor") {
		case "":
			_, _ = io.WriteString(w, `{"data":[{"id":"1"},{"id":"2"}],"next_cursor":"c1"}`)
		case "c1":
			_, _ = io.WriteString(w, `{"data":[{"id":"3"}],"next_cursor":null}`)
		}
	})
	ids := func(stop string) (got string) {
		for sb, err := range c.All(t.Context(), api.SandboxFilter{Tags: []string{"x"}, Limit: 2, Page: 3}) {
			if err != nil {
				t.Fatal(err)
			}
			if got += sb.ID; sb.ID == stop {
				break
			}
		}
		return got
	}
	if got := ids(""); got != "123" || n.Load() != 2 {
		t.Errorf("%s with %d requests", got, n.Load())
	}
	if got := ids("2"); got != "12" || n.Load() != 3 {
		t.Errorf("%s with %d requests", got, n.Load())
	}
}

// A delete whose answer was lost was one.
func TestDeleteTwice(t *testing.T) {
	c, n := serve(t, func(n int, w http.ResponseWriter, _ *http.Request) {
		if n == 1 {
			cut(w)
			return
		}
		refuse(w, http.StatusNotFound, "NOT_FOUND")
	})
	if err := c.RemoveFile(t.Context(), "sbx_1", "/a", false); err != nil || n.Load() != 2 {
		t.Errorf("%v after %d", err, n.Load())
	}
	if err := c.RemoveFile(t.Context(), "sbx_1", "/a", false); !client.IsNotFound(err) {
		t.Errorf("%v: nothing was there", err)
	}
}
