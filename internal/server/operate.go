package server

import (
	"context"
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"silica.dev/silica/api"
	"silica.dev/silica/sandbox"
)

func (s *Server) health(w http.ResponseWriter, _ *http.Request, _ sandbox.Caller) error {
	writeJSON(w, http.StatusOK, api.Status{Status: "ok", Version: s.cfg.Version})
	return nil
}

func (s *Server) ready(w http.ResponseWriter, r *http.Request, _ sandbox.Caller) error {
	if s.closing.Err() != nil {
		return sandbox.E(sandbox.Unavailable, sandbox.CodeUnavailable, "the server is shutting down")
	}
	if s.deps.Ready != nil {
		if err := s.deps.Ready(r.Context()); err != nil {
			// Whatever is missing, it is this server that is not ready: 503,
			// also for a template, whose own code would be a 409.
			return sandbox.E(sandbox.Unavailable, sandbox.CodeUnavailable, sandbox.AsError(err).Message).Because(err)
		}
	}
	writeJSON(w, http.StatusOK, api.Status{Status: "ready", Version: s.cfg.Version})
	return nil
}

// drainPatience bounds one request to empty the machine; it may be repeated.
const drainPatience = time.Minute

func (s *Server) drain(w http.ResponseWriter, r *http.Request, _ sandbox.Caller) error {
	ctx, cancel := context.WithTimeout(r.Context(), drainPatience)
	defer cancel()
	destroyed, left, err := s.deps.Sandboxes.Drain(ctx, 0)
	if err != nil {
		return err
	}
	writeOne(w, http.StatusOK, api.Drained{Destroyed: destroyed, Failed: left})
	return nil
}

// MetricsHandler serves the registry without asking for a key, for a listener
// that only operators reach.
func (s *Server) MetricsHandler() http.Handler {
	return promhttp.HandlerFor(s.deps.Registry, promhttp.HandlerOpts{})
}

func (s *Server) serveMetrics(w http.ResponseWriter, r *http.Request, _ sandbox.Caller) error {
	s.MetricsHandler().ServeHTTP(w, r)
	return nil
}

// metrics counts requests by route, never by anything a caller can make up.
type metrics struct {
	requests *prometheus.CounterVec
	duration *prometheus.HistogramVec
	bytes    *prometheus.CounterVec // of bodies, by direction
	commands prometheus.Histogram
	running  prometheus.Gauge // commands
}

func newMetrics(reg prometheus.Registerer, underWay *inFlight) *metrics {
	seconds := []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 10, 60, 300}
	m := &metrics{
		bytes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "silica_http_bytes_total", Help: "Bytes of bodies, up from clients and down to them.",
		}, []string{"direction"}),
		commands: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "silica_exec_duration_seconds", Help: "Commands of exec, from being admitted to their end.", Buckets: seconds,
		}),
		running: prometheus.NewGauge(prometheus.GaugeOpts{Name: "silica_execs_running", Help: "Commands of exec under way."}),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "silica_http_requests_total", Help: "Requests answered.",
		}, []string{"method", "route", "status"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "silica_http_request_duration_seconds", Help: "Time from the request's headers to the answer's end.",
			Buckets: seconds,
		}, []string{"method", "route"}),
	}
	gauge := func(name, help string, value func() float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, value)
	}
	reg.MustRegister(m.requests, m.duration, m.bytes, m.commands, m.running,
		gauge("silica_http_requests_under_way", "Requests of keys being answered, streams included.", func() float64 { all, _ := underWay.count(); return float64(all) }),
		gauge("silica_http_streams_open", "Streams and sockets that clients hold open.", func() float64 { _, streams := underWay.count(); return float64(streams) }),
	)
	return m
}

// command notes a command under way until done is called.
func (m *metrics) command() (done func()) {
	start := time.Now()
	m.running.Inc()
	return func() {
		m.running.Dec()
		m.commands.Observe(time.Since(start).Seconds())
	}
}

func (m *metrics) traffic(up, down int64) {
	m.bytes.WithLabelValues("up").Add(float64(up))
	m.bytes.WithLabelValues("down").Add(float64(down))
}

var knownMethods = map[string]bool{"GET": true, "POST": true, "PUT": true, "PATCH": true, "DELETE": true, "HEAD": true}

func (m *metrics) observe(route, method string, status int, took time.Duration) {
	if route == "" {
		route = "none"
	}
	if !knownMethods[method] {
		method = "other"
	}
	m.requests.WithLabelValues(method, route, strconv.Itoa(status)).Inc()
	m.duration.WithLabelValues(method, route).Observe(took.Seconds())
}
