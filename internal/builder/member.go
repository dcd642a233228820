package builder

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"net"
	"strings"
	"time"

	"silica.dev/silica/internal/guest"
	"silica.dev/silica/internal/guest/guestpb"
	"silica.dev/silica/internal/runtime"
	"silica.dev/silica/sandbox"
)

const (
	destroyTimeout = 30 * time.Second
	commandTimeout = 30 * time.Second
	maxOutput      = 4 << 10 // bytes kept of a command's output
)

// member is one sandbox of the builder's own.
type member struct {
	builder  *Builder
	id       sandbox.ID
	client   *guest.Client
	hostname string
	seed     string
	told     time.Duration // what it took to tell it who it is, and the time
	gone     bool
}

// start brings up a sandbox without tenant and gives it nobody's identity. No
// row names it: recovery destroys it should we not come to.
func (b *Builder) start(ctx context.Context, q seedRequest, snapshot sandbox.Ref, hostname string) (*member, error) {
	m := &member{builder: b, id: sandbox.NewID(), hostname: hostname}
	m.client = guest.NewClient(func(ctx context.Context) (net.Conn, error) {
		return b.Driver.Dial(ctx, m.id, guest.Port)
	})
	err := b.Driver.Start(ctx, runtime.StartRequest{ID: m.id, Resources: q.res, Image: q.template.Image, Snapshot: snapshot})
	if err == nil {
		err = m.identify(ctx, q.template)
	}
	if err != nil {
		m.destroy(ctx)
		return nil, err
	}
	return m, nil
}

// identify is what a claim does. Programs that were started already keep the
// environment they have.
func (m *member) identify(ctx context.Context, t sandbox.Template) error {
	entropy := make([]byte, 32)
	_, _ = rand.Read(entropy) // never fails
	began := time.Now()
	res, err := m.client.Init(ctx, &guestpb.InitRequest{
		Hostname: m.hostname, Env: t.Env, Workdir: t.Workdir, Nameservers: m.builder.Nameservers,
		UnixNano: began.UnixNano(), Entropy: entropy,
	})
	if err != nil {
		return fmt.Errorf("init: %w", err)
	}
	m.seed, m.told = res.Seed, time.Since(began)
	return nil
}

// destroy frees the sandbox even when ctx has ended; the second call does
// nothing.
func (m *member) destroy(ctx context.Context) {
	if m.gone {
		return
	}
	m.gone = true
	m.client.Close()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), destroyTimeout)
	defer cancel()
	if err := m.builder.Driver.Destroy(ctx, m.id); err != nil {
		m.builder.Log.Error("builder's sandbox not destroyed; recovery will", "sandbox", m.id, "err", err)
	}
}

// randomness draws 16 bytes as a program inside does.
func (m *member) randomness(ctx context.Context) ([]byte, error) {
	out, err := m.output(ctx, "od", "-An", "-tx1", "-N16", "/dev/urandom")
	if err == nil && len(bytes.Fields(out)) != 16 {
		err = fmt.Errorf("od printed %q", out)
	}
	return out, err
}

// output runs a command and returns the beginning of what it printed.
func (m *member) output(ctx context.Context, args ...string) ([]byte, error) {
	out, code, err := m.run(ctx, commandTimeout, args...)
	if err == nil && code != 0 {
		err = finding(fmt.Sprintf("%s ended with exit code %d: %s", args[0], code, strings.TrimSpace(string(out))))
	}
	return out, err
}

// run runs a command to its end, or kills it, and returns the beginning of what
// it printed on both streams.
func (m *member) run(ctx context.Context, limit time.Duration, args ...string) (out []byte, code int32, err error) {
	ctx, cancel := context.WithTimeout(ctx, limit+destroyTimeout) // the agent ends it in time, if it is one
	defer cancel()
	req := &guestpb.StartRequest{Args: args, TimeoutMs: limit.Milliseconds()}
	for ev, err := range m.client.Start(ctx, req) {
		if err != nil {
			return nil, 0, fmt.Errorf("run %s: %w", args[0], err)
		}
		if o := ev.GetOutput(); o != nil {
			out = keep(out, o.Data)
		}
		if x := ev.GetExited(); x != nil {
			return out, x.ExitCode, nil
		}
	}
	return nil, 0, fmt.Errorf("run %s: the agent told no end", args[0])
}

func keep(have, more []byte) []byte {
	return append(have, more[:min(len(more), maxOutput-len(have))]...)
}
