package main

import (
	"context"
	"net"
	"time"

	"go.opentelemetry.io/otel/trace"

	"silica.dev/silica/internal/runtime"
	"silica.dev/silica/internal/runtime/gvisor"
	"silica.dev/silica/internal/supervisor"
	"silica.dev/silica/internal/telemetry"
	"silica.dev/silica/sandbox"
)

// observedDriver counts and traces the calls that take time. All that the
// driver can do beyond them is there as it was.
type observedDriver struct {
	*gvisor.Driver
	metrics *telemetry.Metrics
	tracer  trace.Tracer
}

func (d observedDriver) observe(ctx context.Context, operation string, id sandbox.ID, f func(context.Context) error) error {
	start := time.Now()
	err := telemetry.Do(ctx, d.tracer, "driver."+operation, id, f)
	d.metrics.Driver(operation, time.Since(start), err)
	return err
}

func (d observedDriver) Start(ctx context.Context, req runtime.StartRequest) error {
	return d.observe(ctx, "start", req.ID, func(ctx context.Context) error { return d.Driver.Start(ctx, req) })
}

func (d observedDriver) Destroy(ctx context.Context, id sandbox.ID) error {
	return d.observe(ctx, "destroy", id, func(ctx context.Context) error { return d.Driver.Destroy(ctx, id) })
}

func (d observedDriver) Dial(ctx context.Context, id sandbox.ID, port uint16) (conn net.Conn, err error) {
	err = d.observe(ctx, "dial", id, func(ctx context.Context) error {
		conn, err = d.Driver.Dial(ctx, id, port)
		return err
	})
	return conn, err
}

func (d observedDriver) Snapshot(ctx context.Context, id sandbox.ID) (ref sandbox.Ref, err error) {
	err = d.observe(ctx, "snapshot", id, func(ctx context.Context) error {
		ref, err = d.Driver.Snapshot(ctx, id)
		return err
	})
	return ref, err
}

// tracedSandboxes makes spans of what routes ask of the supervisor.
type tracedSandboxes struct {
	*supervisor.Supervisor
	tracer trace.Tracer
}

func (t tracedSandboxes) Create(ctx context.Context, c sandbox.Caller, req sandbox.CreateRequest) (sb sandbox.Sandbox, err error) {
	err = telemetry.Do(ctx, t.tracer, "sandbox.create", "", func(ctx context.Context) error {
		sb, err = t.Supervisor.Create(ctx, c, req)
		return err
	})
	return sb, err
}

func (t tracedSandboxes) Destroy(ctx context.Context, c sandbox.Caller, id string) (sb sandbox.Sandbox, err error) {
	err = telemetry.Do(ctx, t.tracer, "sandbox.destroy", "", func(ctx context.Context) error {
		sb, err = t.Supervisor.Destroy(ctx, c, id)
		return err
	})
	return sb, err
}
