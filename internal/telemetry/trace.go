package telemetry

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"strings"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"

	"silica.dev/silica/sandbox"
)

// Tracing is where spans go. The zero value's costs nothing.
type Tracing struct {
	provider *sdktrace.TracerProvider // nil: off
}

// NewTracing sends spans by OTLP over HTTP to endpoint, a URL like
// http://collector:4318. Empty means what OTEL_EXPORTER_OTLP_ENDPOINT or
// OTEL_EXPORTER_OTLP_TRACES_ENDPOINT say, and off when they say nothing.
// Failures to send are logged and never stop anything.
func NewTracing(ctx context.Context, endpoint, version string, log *slog.Logger) (*Tracing, error) {
	var options []otlptracehttp.Option
	switch {
	case endpoint != "":
		u, err := url.Parse(endpoint)
		if err != nil || u.Host == "" {
			return nil, fmt.Errorf("%q is not a URL", endpoint)
		}
		if strings.Trim(u.Path, "/") == "" {
			u.Path = "/v1/traces"
		}
		options = append(options, otlptracehttp.WithEndpointURL(u.String()))
	case os.Getenv("OTEL_EXPORTER_OTLP_ENDPOINT") == "" && os.Getenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") == "":
		return &Tracing{}, nil
	}
	exporter, err := otlptracehttp.New(ctx, options...)
	if err != nil {
		return nil, fmt.Errorf("traces: %w", err)
	}
	about := resource.NewSchemaless(attribute.String("service.name", "silica"), attribute.String("service.version", version))
	if about, err = resource.Merge(about, resource.Environment()); err != nil {
		return nil, errors.Join(fmt.Errorf("traces: %w", err), exporter.Shutdown(ctx))
	}
	return &Tracing{provider: sdktrace.NewTracerProvider(
		sdktrace.WithBatcher(quiet{exporter, log}), sdktrace.WithResource(about),
		sdktrace.WithSampler(sdktrace.ParentBased(sdktrace.AlwaysSample())),
	)}, nil
}

// quiet logs what could not be sent, where OpenTelemetry would write to
// standard error.
type quiet struct {
	sdktrace.SpanExporter
	log *slog.Logger
}

func (q quiet) ExportSpans(ctx context.Context, spans []sdktrace.ReadOnlySpan) error {
	if err := q.SpanExporter.ExportSpans(ctx, spans); err != nil {
		q.log.Warn("spans not sent", "spans", len(spans), "err", err)
	}
	return nil
}

// On tells whether spans go anywhere.
func (t *Tracing) On() bool { return t.provider != nil }

// Tracer returns what makes spans.
func (t *Tracing) Tracer() trace.Tracer {
	if t.provider == nil {
		return noop.NewTracerProvider().Tracer("")
	}
	return t.provider.Tracer("silica.dev/silica")
}

// Close sends what is left, until ctx ends.
func (t *Tracing) Close(ctx context.Context) error {
	if t.provider == nil {
		return nil
	}
	return t.provider.Shutdown(ctx)
}

// Do runs f in a span about a sandbox.
func Do(ctx context.Context, tracer trace.Tracer, name string, id sandbox.ID, f func(context.Context) error) error {
	ctx, span := tracer.Start(ctx, name)
	defer span.End()
	if id != "" {
		span.SetAttributes(attribute.String("silica.sandbox.id", string(id)))
	}
	err := f(ctx)
	if err != nil {
		span.SetStatus(codes.Error, sandbox.AsError(err).Code)
	}
	return err
}
