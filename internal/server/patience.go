package server

import (
	"context"
	"io"
	"time"

	"silica.dev/silica/sandbox"
)

// It need not be lost: it may be busy, and its files are where they were.
var errMute = sandbox.E(sandbox.Timeout, sandbox.CodeTimeout, "the sandbox did not answer in time")

// patience gives a call to an agent up when the agent keeps silent for too
// long, however long the whole call takes.
type patience struct {
	d     time.Duration
	timer *time.Timer
}

// patient returns a context for one call that waits from now on. It has no
// deadline, which the agent would be told of and might answer to. Call cancel
// in the end.
func (s *Server) patient(ctx context.Context) (_ context.Context, p *patience, cancel func()) {
	return patientFor(ctx, s.cfg.GuestWait)
}

func patientFor(ctx context.Context, d time.Duration) (_ context.Context, p *patience, cancel func()) {
	ctx, end := context.WithCancelCause(ctx)
	p = &patience{d: d}
	p.timer = time.AfterFunc(p.d, func() { end(errMute) })
	return ctx, p, func() { p.rest(); end(nil) }
}

// wait begins to wait for the agent anew; rest stops while something else is
// waited for.
func (p *patience) wait() { p.timer.Reset(p.d) }
func (p *patience) rest() { p.timer.Stop() }

// from reads what an agent sends, and waits only in Read.
func (p *patience) from(r io.Reader) io.Reader { return patientReader{r, p} }

type patientReader struct {
	r io.Reader
	p *patience
}

func (r patientReader) Read(b []byte) (int, error) {
	r.p.wait()
	defer r.p.rest()
	return r.r.Read(b)
}
