package builder

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"time"

	"silica.dev/silica/internal/guest"
	"silica.dev/silica/internal/guest/guestpb"
	"silica.dev/silica/internal/runtime"
	"silica.dev/silica/sandbox"
)

// ErrNotCertified says that a snapshot was made but its copies are not what
// they must be.
var ErrNotCertified = errors.New("snapshot failed its test")

const (
	destroyTimeout = 30 * time.Second
	commandTimeout = 30 * time.Second
	maxOutput      = 4 << 10 // bytes kept of a command's output
)

// snapshot starts the template cold, stores its memory, and proves it by a copy.
func (b *Builder) snapshot(ctx context.Context, driver runtime.Snapshotter, q seedRequest) (_ sandbox.Ref, err error) {
	b.doing(q.template.Slug, "starting it once")
	source, err := b.start(ctx, q, "")
	if err != nil {
		return "", fmt.Errorf("cold start: %w", err)
	}
	defer source.destroy(ctx)

	b.doing(q.template.Slug, "taking the memory snapshot")
	// One command: the image can run any, and what every first command needs
	// is in memory. No more than that: each path looked up makes restores slower.
	if _, err := source.output(ctx, "/bin/sh", "-c", "true"); err != nil {
		return "", fmt.Errorf("first command: %w", err)
	}
	// A kept connection would be in the snapshot, cut off in every copy.
	source.client.Close()
	ref, err := driver.Snapshot(ctx, source.id)
	if err != nil {
		return "", err
	}
	defer func() {
		if err != nil {
			b.discard(context.WithoutCancel(ctx), ref)
		}
	}()

	b.doing(q.template.Slug, "testing the snapshot")
	original, err := source.randomness(ctx)
	if err != nil {
		return "", fmt.Errorf("after the snapshot: %w", err)
	}
	source.destroy(ctx) // the copy needs the room
	copied, err := b.start(ctx, q, ref)
	if err != nil {
		return "", fmt.Errorf("%w: start: %w", ErrNotCertified, err)
	}
	defer copied.destroy(ctx)
	fresh, err := copied.randomness(ctx)
	switch {
	case err != nil:
		return "", fmt.Errorf("%w: a command in a copy: %w", ErrNotCertified, err)
	case copied.seed != source.seed:
		return "", fmt.Errorf("%w: the agent's memory is not the one that was stored", ErrNotCertified)
	case bytes.Equal(fresh, original):
		return "", fmt.Errorf("%w: a copy draws the same random bytes as its original", ErrNotCertified)
	}
	return ref, nil
}

// member is one sandbox of the builder's own.
type member struct {
	builder *Builder
	id      sandbox.ID
	client  *guest.Client
	seed    string
	gone    bool
}

// start brings up a sandbox without tenant and gives it nobody's identity. No
// row names it: recovery destroys it should we not come to.
func (b *Builder) start(ctx context.Context, q seedRequest, snapshot sandbox.Ref) (*member, error) {
	m := &member{builder: b, id: sandbox.NewID()}
	m.client = guest.NewClient(func(ctx context.Context) (net.Conn, error) {
		return b.Driver.Dial(ctx, m.id, guest.Port)
	})
	err := b.Driver.Start(ctx, runtime.StartRequest{ID: m.id, Resources: q.res, Image: q.template.Image, Snapshot: snapshot})
	if err == nil {
		err = m.identify(ctx)
	}
	if err != nil {
		m.destroy(ctx)
		return nil, err
	}
	return m, nil
}

func (m *member) identify(ctx context.Context) error {
	entropy := make([]byte, 32)
	_, _ = rand.Read(entropy) // never fails
	res, err := m.client.Init(ctx, &guestpb.InitRequest{Hostname: "sandbox", UnixNano: m.builder.now().UnixNano(), Entropy: entropy})
	if err != nil {
		return fmt.Errorf("init: %w", err)
	}
	m.seed = res.Seed
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
	ctx, cancel := context.WithTimeout(ctx, commandTimeout)
	defer cancel()
	var out, errs []byte
	req := &guestpb.StartRequest{Args: args, TimeoutMs: commandTimeout.Milliseconds()}
	for ev, err := range m.client.Start(ctx, req) {
		if err != nil {
			return nil, fmt.Errorf("run %s: %w", args[0], err)
		}
		if o := ev.GetOutput(); o != nil {
			if o.Stream == guestpb.ProcessEvent_STDERR {
				errs = keep(errs, o.Data)
			} else {
				out = keep(out, o.Data)
			}
		}
		if x := ev.GetExited(); x != nil {
			if x.ExitCode != 0 {
				return nil, fmt.Errorf("run %s: exit code %d: %s", args[0], x.ExitCode, errs)
			}
			return out, nil
		}
	}
	return nil, fmt.Errorf("run %s: the agent told no end", args[0])
}

func keep(have, more []byte) []byte {
	return append(have, more[:min(len(more), maxOutput-len(have))]...)
}
