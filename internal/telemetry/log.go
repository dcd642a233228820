package telemetry

import (
	"context"
	"log/slog"

	"go.opentelemetry.io/otel/trace"

	"silica.dev/silica/sandbox"
)

// Contextual adds to every line what request caused it and the trace it belongs
// to, unless the line says so itself.
func Contextual(h slog.Handler) slog.Handler { return contextual{h} }

type contextual struct{ slog.Handler }

func (h contextual) Handle(ctx context.Context, line slog.Record) error {
	said := map[string]bool{}
	line.Attrs(func(a slog.Attr) bool { said[a.Key] = true; return true })
	add := func(name, value string) {
		if value != "" && !said[name] {
			line.AddAttrs(slog.String(name, value))
		}
	}
	if q := sandbox.RequestOf(ctx); q != nil {
		add("request_id", q.ID)
		add("route", q.Route)
		add("tenant", string(q.Tenant))
		add("sandbox", q.Sandbox)
	}
	if span := trace.SpanContextFromContext(ctx); span.IsSampled() {
		add("trace_id", span.TraceID().String())
	}
	return h.Handler.Handle(ctx, line)
}

func (h contextual) WithAttrs(attrs []slog.Attr) slog.Handler {
	return contextual{h.Handler.WithAttrs(attrs)}
}

func (h contextual) WithGroup(name string) slog.Handler {
	return contextual{h.Handler.WithGroup(name)}
}
