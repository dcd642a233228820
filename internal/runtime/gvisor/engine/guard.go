package engine

import (
	"context"
	"net"
	"strconv"
	"time"

	"silica.dev/silica/internal/guest"
	"silica.dev/silica/internal/runtime/gvisor/cgroup"
)

// answerWithin is how long an agent may take to end a process.
const answerWithin = time.Second

// shortFor covers a call of the guard and the wait for what it did.
const shortFor = 5 * time.Second

// wasShort tells whether the sandbox was short of memory a moment ago. A sentry
// at its hard limit mostly is not killed for it: it dies of the first signal that
// the kernel finds no memory to deliver.
func (s *slot) wasShort() bool {
	return time.Since(time.Unix(0, s.short.Load())) < shortFor
}

// guard asks a sandbox's agent to end its greediest process whenever the sandbox
// nears its memory limit, until the sandbox ends or the engine does. Without it
// the kernel would end the sentry, and all with it.
func (e *Engine) guard(s *slot) {
	ctx, cancel := context.WithCancel(e.ctx)
	defer cancel()
	e.work.Go(func() {
		select {
		case <-s.gone:
			cancel()
		case <-ctx.Done():
		}
	})
	rec := s.record()
	log := e.cfg.Log.With("slot", s.number, "sandbox", rec.ID)
	address := net.JoinHostPort(rec.Address, strconv.Itoa(int(guest.Port)))
	agent := guest.NewClient(func(ctx context.Context) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "tcp4", address)
	})
	defer agent.Close()

	err := e.cfg.Groups.Watch(ctx, s.name(), func(ctx context.Context, p cgroup.Pressure) cgroup.Decision {
		s.short.Store(time.Now().UnixNano())
		ctx, cancel := context.WithTimeout(ctx, answerWithin)
		defer cancel()
		res, err := agent.Relieve(ctx)
		if err != nil {
			// It may stand still for want of memory itself: the next look gives it some.
			log.Warn("short of memory and no answer", "used", p.Used, "line", p.Line, "stopped", p.Stopped, "attempt", p.Attempt, "err", err)
			return cgroup.Acted
		}
		if res.Pid == 0 {
			// Those ended before may still hold theirs.
			log.Warn("short of memory and nothing to end", "used", p.Used, "line", p.Line, "attempt", p.Attempt)
			return cgroup.Acted
		}
		// What the agent says of itself is the sandbox's word: for the log only.
		log.Info("short of memory: a process was ended", "used", p.Used, "line", p.Line, "pid", res.Pid, "memory", res.Memory)
		return cgroup.Acted
	})
	if err != nil && ctx.Err() == nil {
		log.Error("memory guard", "err", err)
	}
}
