package builder

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"silica.dev/silica/internal/guest"
	"silica.dev/silica/sandbox"
)

const (
	// sourceReady is how long a start command may take until it is ready, and
	// copyReady how long its copies may, in which it runs already.
	sourceReady = 2 * time.Minute
	copyReady   = 10 * time.Second
	// readyEvery is the pause between two questions whether it is ready, and
	// readyLimit how long one may take to be answered.
	readyEvery = 250 * time.Millisecond
	readyLimit = 10 * time.Second
)

// warmUp has the template's start command run, and be ready, in the sandbox
// whose memory will be kept.
func (m *member) warmUp(ctx context.Context, t sandbox.Template) error {
	spec := t.Built
	m.builder.doing(t.Slug, "running its start command")
	p, err := m.client.StartApp(ctx, guest.AppOf(t))
	if err != nil {
		return fmt.Errorf("start command: %w", err)
	}
	exit, err := m.client.AwaitApp(ctx, p.Id)
	if err != nil {
		return fmt.Errorf("start command: %w", err)
	}
	if exit != nil {
		return finding(fmt.Sprintf("the start command ended with exit code %d: %s", exit.ExitCode, m.lastWords(ctx)))
	}
	m.builder.doing(t.Slug, "waiting for its start command to be ready")
	return m.awaitReady(ctx, spec, sourceReady)
}

// awaitReady waits until the ready command of a template holds or, if it has
// none, its port answers.
func (m *member) awaitReady(ctx context.Context, spec sandbox.BuildSpec, within time.Duration) error {
	ctx, cancel := context.WithTimeoutCause(ctx, within, errNotReady)
	defer cancel()
	why := "nothing answered in that time"
	for {
		err := m.readyNow(ctx, spec)
		if err == nil {
			return nil
		}
		if text := strings.TrimPrefix(forUsers(err), ": "); ctx.Err() == nil && text != "" {
			why = text
		}
		select {
		case <-time.After(readyEvery):
			continue
		case <-ctx.Done():
		}
		if !errors.Is(context.Cause(ctx), errNotReady) {
			return context.Cause(ctx)
		}
		return finding(fmt.Sprintf("it was not ready within %v: %s", within, why))
	}
}

var errNotReady = errors.New("not ready in time")

func (m *member) readyNow(ctx context.Context, spec sandbox.BuildSpec) error {
	switch {
	case spec.ReadyCmd != "":
		out, code, err := m.run(ctx, readyLimit, "/bin/sh", "-c", spec.ReadyCmd)
		if err == nil && code != 0 {
			err = finding(fmt.Sprintf("the ready command ended with exit code %d: %s", code, strings.TrimSpace(string(out))))
		}
		return err
	case spec.PreviewPort != 0:
		conn, err := m.builder.Driver.Dial(ctx, m.id, uint16(spec.PreviewPort))
		if err != nil {
			return finding(fmt.Sprintf("nothing answers on port %d", spec.PreviewPort))
		}
		return conn.Close()
	}
	return nil
}

// lastWords is the end of what the start command printed.
func (m *member) lastWords(ctx context.Context) string {
	text, _, err := m.client.AppTail(ctx, maxOutput)
	if err != nil {
		return ""
	}
	return strings.ToValidUTF8(strings.TrimSpace(string(text)), "\ufffd")
}
