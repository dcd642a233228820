package e2e

import (
	"compress/gzip"
	"encoding/hex"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/protobuf/proto"
)

// A caller's trace goes on through the request and the supervisor down to the
// driver's start, although that outlives the request; and the log's lines of all
// name the request.
func TestOneTraceDownToTheDriver(t *testing.T) {
	var mu sync.Mutex
	names := map[string]bool{} // of the spans in our trace
	const trace = "0af7651916cd43dd8448eb211c80319c"
	otlp := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		var body io.Reader = r.Body
		if r.Header.Get("Content-Encoding") == "gzip" {
			body, _ = gzip.NewReader(r.Body)
		}
		raw, _ := io.ReadAll(body)
		var req collector.ExportTraceServiceRequest
		if err := proto.Unmarshal(raw, &req); err != nil {
			t.Error(err)
		}
		mu.Lock()
		defer mu.Unlock()
		for _, rs := range req.ResourceSpans {
			for _, ss := range rs.ScopeSpans {
				for _, s := range ss.Spans {
					if hex.EncodeToString(s.TraceId) == trace {
						names[s.Name] = true
					}
				}
			}
		}
	}))
	defer otlp.Close()
	s := ownServer(t, options{flags: []string{"--warm-pool=0", "--otlp-endpoint=" + otlp.URL, "--log-format=json"}})
	c := s.tenant(t)
	caller := header{"traceparent", "00-" + trace + "-b7ad6b7169203331-01"}
	id := c.do(t, "POST", "sandboxes", obj{}, caller, header{"x-request-id", "req_traced"}).want(t, 201, "").str("id")
	c.do(t, "DELETE", "sandboxes/"+id, nil, caller).want(t, 200, "")
	want := []string{"POST /api/v1/sandboxes", "sandbox.create", "driver.start", "sandbox.destroy", "DELETE /api/v1/sandboxes/{id}"}
	var missing []string
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); <-time.After(50 * time.Millisecond) {
		missing = nil
		mu.Lock()
		for _, name := range want {
			if !names[name] {
				missing = append(missing, name)
			}
		}
		mu.Unlock()
		if len(missing) == 0 {
			break
		}
	}
	if len(missing) > 0 {
		t.Errorf("spans %q did not come; there are %v", missing, names)
	}
	if !strings.Contains(s.log.since(0), `"request_id":"req_traced"`) || !strings.Contains(s.log.since(0), `"trace_id":"`+trace+`"`) {
		t.Errorf("the log does not name request and trace")
	}
	metrics := string(s.as(bootstrapKey).do(t, "GET", "/metrics", nil).want(t, 200, "").Body)
	for _, line := range []string{
		"silica_engine_up 1", "silica_store_up 1", "silica_template_ready 1", `silica_sandbox_create_duration_seconds_count{boot_path="snapshot"} 1`,
		`silica_sandboxes{state="running"} 0`, `silica_driver_duration_seconds_count{operation="start",result="ok"}`, "go_goroutines ", "silica_event_lag_seconds_count",
	} {
		if !strings.Contains(metrics, "\n"+line) {
			t.Errorf("/metrics lacks %q", line)
		}
	}
	if strings.Contains(metrics, id) || strings.Contains(metrics, c.tenant) {
		t.Error("a label names a sandbox or a tenant")
	}
}
