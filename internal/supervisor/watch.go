package supervisor

import (
	"context"
	"iter"
	"strings"
	"time"

	"golang.org/x/time/rate"

	"silica.dev/silica/internal/event"
	"silica.dev/silica/internal/guest/guestpb"
	driver "silica.dev/silica/internal/runtime"
	"silica.dev/silica/sandbox"
)

// watch waits for the sandbox to die by itself. The caller holds the unit's host
// token.
func (s *Supervisor) watch(u *unit) {
	birth := u.births
	s.spawn(func() {
		exit, ended := s.wait(u.life, u)
		if !ended {
			return
		}
		if u.take(u.life) != nil {
			return
		}
		defer u.give()
		if u.births == birth {
			s.died(u, exit)
		}
	})
}

// wait returns how a sandbox ended; false when ctx ended first.
func (s *Supervisor) wait(ctx context.Context, u *unit) (driver.Exit, bool) {
	for wait := 50 * time.Millisecond; ; wait = min(2*wait, 5*time.Second) {
		exit, err := s.driver.Wait(ctx, u.id)
		switch {
		case ctx.Err() != nil:
			return exit, false
		case err == nil:
			return exit, true
		case isKind(err, sandbox.NotFound):
			return driver.Exit{Reason: "the sandbox is gone from its host"}, true
		}
		// The driver is not there just now; the sandbox may well be.
		s.log.Warn("waiting for a sandbox failed; trying again", "sandbox", u.id, "err", err)
		if !pause(ctx, wait) {
			return exit, false
		}
	}
}

func (s *Supervisor) died(u *unit, exit driver.Exit) {
	f := failure{code: sandbox.CodeSandboxGone, reason: exit.Reason}
	if f.reason == "" {
		f.reason = "the sandbox ended unexpectedly"
	}
	if exit.OutOfMemory {
		f.code = sandbox.CodeOutOfMemory
	}
	s.log.Warn("a sandbox died", "sandbox", u.id, "reason", f.reason, "out_of_memory", exit.OutOfMemory)
	// Warm first: a claim can only lead from there to Running.
	if !s.retire(u, sandbox.Warm) {
		s.fail(u, f, sandbox.Running)
	}
}

// What an agent may make the log hold: it is hostile.
const (
	maxNotice    = 500 // bytes of a message
	noticeEvery  = 10 * time.Second
	noticeBurst  = 5
	noticesRetry = 10 * time.Second // at most between two connections
	// No more are read, a second and at once: who sends without end waits, and
	// costs the daemon nothing.
	noticeReads     = 20
	noticeReadBurst = 100
)

// noticeCodes names the notices that become error events.
var noticeCodes = map[guestpb.Notice_Kind]string{
	guestpb.Notice_OUT_OF_MEMORY: sandbox.CodeOutOfMemory,
	guestpb.Notice_PROCESS_LIMIT: sandbox.CodeProcessLimit,
	guestpb.Notice_DISK_FULL:     sandbox.CodeDiskFull,
	guestpb.Notice_TREE_KILLED:   sandbox.CodeExecTimeout,
	guestpb.Notice_STATE_DAMAGED: sandbox.CodeStateDamaged,
}

// listen turns what the agent notices into events, until the sandbox ends.
// Notices from before since are of another life: of the template's making, or
// recorded already by the daemon before this one.
func (s *Supervisor) listen(u *unit, sb sandbox.Sandbox, since time.Time) {
	limits := map[string]*rate.Limiter{}
	for _, code := range noticeCodes {
		limits[code] = rate.NewLimiter(rate.Every(noticeEvery), noticeBurst)
	}
	pace := rate.NewLimiter(noticeReads, noticeReadBurst)
	after := uint64(0)
	for wait := 100 * time.Millisecond; u.life.Err() == nil; wait = min(2*wait, noticesRetry) {
		for n, err := range paced(u.life, pace, u.agent(s.driver).Notices(u.life, after)) {
			if err != nil {
				break
			}
			after = max(after, n.Seq)
			code, ok := noticeCodes[n.Kind]
			if !ok || n.UnixNano < since.UnixNano() || !limits[code].Allow() {
				continue
			}
			s.record(u.life, sb, code, n.Message)
		}
		if !pause(u.life, wait) {
			return
		}
	}
}

// paced yields what seq does, no faster than pace lets it.
func paced[T any](ctx context.Context, pace *rate.Limiter, seq iter.Seq2[T, error]) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		for v, err := range seq {
			if pace.Wait(ctx) != nil || !yield(v, err) {
				return
			}
		}
	}
}

func (s *Supervisor) record(ctx context.Context, sb sandbox.Sandbox, code, message string) {
	if len(message) > maxNotice {
		message = message[:maxNotice]
	}
	err := s.events.Record(ctx, event.Event{
		Sandbox: sb.ID, Tenant: sb.Tenant, Type: event.Error, At: now(),
		Data: map[string]any{"code": code, "message": strings.ToValidUTF8(message, "\uFFFD")},
	})
	if err != nil && ctx.Err() == nil {
		s.log.Warn("an event could not be stored", "sandbox", sb.ID, "code", code, "err", err)
	}
}
