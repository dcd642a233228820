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
}

func newMetrics(reg prometheus.Registerer) *metrics {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "silica_http_requests_total", Help: "Requests answered.",
		}, []string{"method", "route", "status"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "silica_http_request_duration_seconds", Help: "Time from the request's headers to the answer's end.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 10, 60, 300},
		}, []string{"method", "route"}),
	}
	reg.MustRegister(m.requests, m.duration)
	return m
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
