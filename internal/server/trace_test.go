package server

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/hex"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	spans "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"silica.dev/silica/internal/telemetry"
)

// collect is an OpenTelemetry collector that keeps what it is sent.
func collect(t *testing.T) (url string, got func() []*spans.Span) {
	t.Helper()
	var mu sync.Mutex
	var all []*spans.Span
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var body io.Reader = r.Body
		if r.Header.Get("Content-Encoding") == "gzip" {
			z, err := gzip.NewReader(r.Body)
			if err != nil {
				t.Error(err)
				return
			}
			body = z
		}
		raw, _ := io.ReadAll(body)
		var req collector.ExportTraceServiceRequest
		if err := proto.Unmarshal(raw, &req); err != nil || r.URL.Path != "/v1/traces" {
			t.Errorf("%s: %v", r.URL.Path, err)
		}
		mu.Lock()
		defer mu.Unlock()
		for _, rs := range req.ResourceSpans {
			for _, ss := range rs.ScopeSpans {
				all = append(all, ss.Spans...)
			}
		}
	}))
	t.Cleanup(srv.Close)
	return srv.URL, func() []*spans.Span { mu.Lock(); defer mu.Unlock(); return all }
}

// A request is a span under the caller's own (W3C trace context), and every line
// of the log names request, route, tenant, sandbox and trace.
func TestRequestsAreTracedAndLogged(t *testing.T) {
	url, got := collect(t)
	tracing, err := telemetry.NewTracing(t.Context(), url, "v", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var log bytes.Buffer
	_, _, base := serveWorldWith(t, Config{}, func(d *Deps) {
		d.Tracer = tracing.Tracer()
		d.Log = slog.New(telemetry.Contextual(slog.NewJSONHandler(writerFunc(func(p []byte) (int, error) {
			mu.Lock()
			defer mu.Unlock()
			return log.Write(p)
		}), nil)))
	})
	id := create(t, base, `{}`)
	const trace, parent = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
	request(t, "GET", base+"/api/v1/sandboxes/"+id, "", "traceparent", "00-"+trace+"-"+parent+"-01", "x-request-id", "req_mine").want(t, 200, "")
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := tracing.Close(ctx); err != nil {
		t.Fatal(err)
	}
	found := false
	for _, s := range got() {
		if hex.EncodeToString(s.TraceId) == trace && hex.EncodeToString(s.ParentSpanId) == parent && s.Name == "GET /api/v1/sandboxes/{id}" {
			found = true
		}
	}
	if !found {
		t.Errorf("no span of the request under the caller's: %v", got())
	}
	mu.Lock()
	defer mu.Unlock()
	for line := range strings.Lines(log.String()) {
		var m map[string]any
		if json.Unmarshal([]byte(line), &m) != nil || m["request_id"] != "req_mine" {
			continue
		}
		if m["route"] != "/api/v1/sandboxes/{id}" || m["tenant"] != "tnt_a" || m["sandbox"] != id || m["trace_id"] != trace {
			t.Errorf("a line lacks something: %s", line)
		}
		return
	}
	t.Errorf("no line of the request: %s", log.String())
}

// Without an endpoint nothing is recorded and nothing listens.
func TestTracingIsOffByDefault(t *testing.T) {
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "")
	t.Setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "")
	tracing, err := telemetry.NewTracing(t.Context(), "", "v", nil)
	if err != nil || tracing.On() {
		t.Fatalf("on: %v %v", tracing, err)
	}
	if _, span := tracing.Tracer().Start(t.Context(), "x"); span.IsRecording() {
		t.Error("a span is recorded")
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }
