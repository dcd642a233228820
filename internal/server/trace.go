package server

import (
	"context"
	"net/http"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"silica.dev/silica/sandbox"
)

// span begins the span of a request, under the caller's own when it sends a W3C
// traceparent. end takes the request as it was handled.
func (s *Server) span(r *http.Request) (ctx context.Context, end func(*http.Request, *response)) {
	ctx = propagation.TraceContext{}.Extract(r.Context(), propagation.HeaderCarrier(r.Header))
	ctx, span := s.deps.Tracer.Start(ctx, r.Method, trace.WithSpanKind(trace.SpanKindServer))
	if !span.IsRecording() {
		return ctx, func(*http.Request, *response) { span.End() }
	}
	return ctx, func(r *http.Request, rec *response) {
		q := sandbox.RequestOf(r.Context())
		span.SetName(r.Method + " " + q.Route)
		span.SetAttributes(
			attribute.String("http.request.method", r.Method), attribute.String("http.route", q.Route),
			attribute.Int("http.response.status_code", rec.status), attribute.Int64("http.response.body.size", rec.bytes),
			attribute.String("silica.request.id", q.ID),
		)
		if q.Tenant != "" {
			span.SetAttributes(attribute.String("silica.tenant.id", string(q.Tenant)))
		}
		if q.Sandbox != "" {
			span.SetAttributes(attribute.String("silica.sandbox", q.Sandbox))
		}
		if rec.status >= 500 {
			span.SetStatus(codes.Error, http.StatusText(rec.status))
		}
		span.End()
	}
}
