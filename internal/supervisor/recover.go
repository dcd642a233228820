package supervisor

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	driver "silica.dev/silica/internal/runtime"
	"silica.dev/silica/sandbox"
)

// adopters bounds how many agents are asked at once.
const adopters = 32

// lostWhileDown is the Reason of a sandbox that did not outlive the daemon.
const lostWhileDown = "the sandbox was lost while the server was down, or its machine was restarted"

// Recover makes rows and host agree after a restart: it adopts what runs, goes on
// with what was being started, ends what is lost or out of time, and frees what
// nobody owns. It returns when new work can be taken; slow agents and frees go
// on behind it. Call it once, before anything else uses the driver.
func (s *Supervisor) Recover(ctx context.Context) error {
	onHost, err := s.driver.List(ctx)
	if err != nil {
		return fmt.Errorf("recover: list what is on the host: %w", err)
	}
	rows, err := s.store.Unfreed(ctx)
	if err != nil {
		return fmt.Errorf("recover: %w", err)
	}
	cut, err := s.store.CutSnapshots(ctx, "the server ended while it was being taken")
	if err != nil {
		return fmt.Errorf("recover: %w", err)
	}
	for _, n := range cut {
		s.discard(n.Memory, n.Files)
	}
	known := map[sandbox.ID]bool{}
	var asked sync.WaitGroup
	places := make(chan struct{}, adopters)
	ask := func(f func()) {
		asked.Add(1)
		if !s.spawn(func() {
			defer asked.Done()
			places <- struct{}{}
			defer func() { <-places }()
			f()
		}) {
			asked.Done()
		}
	}
	for _, sb := range rows {
		known[sb.ID] = true
		u := s.unit(sb.ID)
		alive := slices.Contains(onHost, sb.ID)
		switch {
		case sb.State == sandbox.Destroyed || sb.State == sandbox.Failed:
			u.end(errDestroyed)
			s.free(u)
		case sb.State == sandbox.Paused: // its files are kept: what ran is of no use
			u.end(errPaused)
			s.free(u)
		case sb.State == sandbox.Running && alive:
			ask(func() { s.adopt(u, sb) })
		case sb.State == sandbox.Running:
			ask(func() { s.lost(u) })
		case sb.State == sandbox.Warm && alive:
			ask(func() { s.adoptMember(u, sb) })
		case sb.Tenant == "":
			ask(func() { s.retire(u, sb.State) })
		case sb.State == sandbox.Provisioning:
			s.spawn(func() { s.resume(u, sb) })
		}
	}
	for _, id := range onHost {
		if !known[id] {
			s.log.Warn("freeing what no row owns", "sandbox", id)
			u := s.unit(id)
			u.end(errDestroyed)
			s.free(u)
		}
	}
	s.spawn(func() { s.deadlines.run(s.life, s.ring) })

	done := make(chan struct{})
	go func() { // ends with the goroutines it waits for, which Close ends
		asked.Wait()
		close(done)
	}()
	t := time.NewTimer(s.cfg.AdoptWait)
	defer t.Stop()
	select {
	case <-done:
	case <-t.C:
		s.log.Info("some sandboxes are slow to answer: going on without waiting for them")
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	close(s.recovered)
	s.spawn(s.keepPool)
	s.spawn(s.keepMeter)
	s.spawn(s.expireSnapshots)
	return nil
}

// How long an adoption waits between two questions to a silent agent.
const (
	adoptPause    = time.Second
	adoptPauseMax = 30 * time.Second
)

// adopt takes over a sandbox that outlived the daemon. It asks once; an agent
// that is silent, as a busy one can be, is asked again behind it.
func (s *Supervisor) adopt(u *unit, sb sandbox.Sandbox) {
	if u.take(u.life) != nil {
		return
	}
	u.births++
	s.arm(u, sb) // it counts also while nobody answers
	alive, stop := s.whileAlive(u)
	err := s.reach(alive, u, sb)
	if err == nil || alive.Err() != nil {
		s.adopted(u, sb, err)
	} else if s.spawn(func() {
		defer u.give()
		defer stop()
		s.adopted(u, sb, s.insist(alive, u, sb, err))
	}) {
		return // the token goes with it
	}
	stop()
	u.give()
}

// whileAlive returns a context that ends with the unit's life, or when the
// driver says that the sandbox is gone.
func (s *Supervisor) whileAlive(u *unit) (context.Context, context.CancelFunc) {
	alive, stop := context.WithCancel(u.life)
	s.spawn(func() {
		if exit, ended := s.wait(alive, u); ended {
			s.log.Info("a sandbox ended before it was adopted", "sandbox", u.id, "reason", exit.Reason)
			stop()
		}
	})
	return alive, stop
}

// insist asks an agent that was silent until it answers, or alive ends. Only the
// driver can say that a sandbox is lost: a tenant who keeps every CPU busy must
// not lose its files for that.
func (s *Supervisor) insist(alive context.Context, u *unit, sb sandbox.Sandbox, err error) error {
	s.log.Warn("a sandbox lives but its agent does not answer: asking again until it does", "sandbox", u.id, "err", err)
	for wait := adoptPause; pause(alive, wait); wait = min(2*wait, adoptPauseMax) {
		if err = s.reach(alive, u, sb); err == nil {
			s.log.Info("the agent answers", "sandbox", u.id)
			return nil
		}
		s.log.Debug("the agent is silent still", "sandbox", u.id, "err", err)
	}
	return err
}

// adopted goes on with what reach found out: err unless nil says that the sandbox
// is lost, or the unit's life over. The caller holds the unit's host token.
func (s *Supervisor) adopted(u *unit, sb sandbox.Sandbox, err error) {
	if err != nil {
		if u.life.Err() == nil {
			s.log.Warn("a sandbox did not outlive the daemon", "sandbox", sb.ID, "err", err)
			s.lost(u)
		}
		return
	}
	if !sb.Ready { // claimed just before the daemon ended
		err := s.persist(u.life, "ready", func() (err error) {
			sb, err = s.store.Update(u.life, u.id, sandbox.Running, func(sb *sandbox.Sandbox) {
				at := now()
				sb.Ready, sb.ReadyAt, sb.Boot = true, at, at.Sub(sb.CreatedAt)
			})
			return err
		})
		if err != nil {
			if u.life.Err() == nil {
				s.log.Error("an adopted sandbox could not be marked ready", "sandbox", u.id, "err", err)
			}
			return
		}
	}
	s.attend(u, sb)
	s.beginMeter(u, false)
}

// lost ends a sandbox that was there when the daemon ended and is no more. It
// ran for as long as it was seen to.
func (s *Supervisor) lost(u *unit) {
	if err := s.persist(s.life, "end run", func() error { return s.store.EndRun(s.life, u.id) }); err != nil && s.life.Err() == nil {
		s.log.Error("the run of a lost sandbox could not be ended", "sandbox", u.id, "err", err)
	}
	s.fail(u, failure{sandbox.CodeSandboxGone, lostWhileDown}, sandbox.Running)
}

// reach asks the agent of a sandbox that outlived the daemon for an answer. One
// that has its identity keeps it: its template may be another by now, and its
// files are its own.
func (s *Supervisor) reach(ctx context.Context, u *unit, sb sandbox.Sandbox) error {
	// A stop that was cut short has not happened.
	if k, ok := s.driver.(driver.FileKeeper); ok {
		if err := k.Thaw(ctx, u.id); err != nil {
			return fmt.Errorf("let it run on: %w", err)
		}
	}
	if sb.Ready {
		return s.ping(ctx, u)
	}
	t, err := s.templates.Template(ctx, sb.Spec.Template)
	if err != nil && !isKind(err, sandbox.NotFound) {
		return fmt.Errorf("its template: %w", err)
	}
	return s.init(ctx, u, sb, t)
}

// ping returns once the agent answers.
func (s *Supervisor) ping(ctx context.Context, u *unit) error {
	ctx, cancel := context.WithTimeoutCause(ctx, s.cfg.InitTimeout,
		sandbox.E(sandbox.Timeout, sandbox.CodeTimeout, "its agent did not answer in time"))
	defer cancel()
	_, err := u.agent(s.driver).Metrics(ctx)
	return err
}

// adoptMember takes over a member of the warm pool; the pool's keeper decides
// whether it still belongs there.
func (s *Supervisor) adoptMember(u *unit, sb sandbox.Sandbox) {
	if u.take(u.life) != nil {
		return
	}
	defer u.give()
	u.births++
	if s.ping(u.life, u) != nil {
		s.retire(u, sandbox.Warm)
		return
	}
	s.watch(u)
}

// resume goes on with a start that the daemon's end cut short.
func (s *Supervisor) resume(u *unit, sb sandbox.Sandbox) {
	err := s.clear(u)
	if sb.Files != "" { // it was being started again
		if err != nil {
			s.bootFailed(u, sb, err)
			return
		}
		s.wake(u, sb)
		return
	}
	if err != nil {
		s.startFailed(u.life, u, sb, err)
		return
	}
	t, err := s.resolve(u.life, sb.Tenant, sb.Spec.Template)
	if err != nil {
		s.startFailed(u.life, u, sb, err)
		return
	}
	s.provision(u.life, u, sb, t)
}

// clear removes what a cut start has left on the host.
func (s *Supervisor) clear(u *unit) error {
	if err := u.take(u.life); err != nil {
		return err
	}
	defer u.give()
	ctx, cancel := context.WithTimeout(u.life, hostTimeout)
	defer cancel()
	return s.driver.Destroy(ctx, u.id)
}
