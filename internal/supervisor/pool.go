package supervisor

import (
	"context"
	"fmt"
	"time"

	"silica.dev/silica/internal/guest/guestpb"
	driver "silica.dev/silica/internal/runtime"
	"silica.dev/silica/sandbox"
)

const (
	// poolLook is how often the pool is looked at without a reason.
	poolLook = 30 * time.Second
	// poolSettle is how long a claim has the CPUs to itself: its first commands
	// come right behind it.
	poolSettle = 100 * time.Millisecond
	// poolRetry is the first pause after a member could not be made.
	poolRetry = time.Second
)

// TemplateChanged says that a template or snapshot was made: the pools follow.
func (s *Supervisor) TemplateChanged() { s.wakePool() }

func (s *Supervisor) wakePool() {
	select {
	case s.refill <- struct{}{}:
	default:
	}
}

// prepared is what the driver's slots were last asked to be for.
type prepared struct {
	image sandbox.Ref
	n     int
}

// keepPool holds the pool of restored members, and the driver's empty slots, at
// their sizes. It makes one member at a time, and only while nobody waits for a
// start.
func (s *Supervisor) keepPool() {
	var slots prepared
	retry := poolRetry
	for {
		wait := poolLook
		switch made, err := s.tendPool(&slots); {
		case s.life.Err() != nil:
			return
		case err != nil:
			s.log.Warn("the warm pool could not be filled; trying again", "wait", retry, "err", err)
			wait, retry = retry, min(2*retry, poolLook)
		case made:
			retry = poolRetry
			continue
		default:
			retry = poolRetry
		}
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-s.refill:
			pause(s.life, poolSettle)
		case <-s.life.Done():
		}
		t.Stop()
	}
}

// tendPool retires what does not belong in the pool and makes at most one
// member. made says that there may be more to do.
func (s *Supervisor) tendPool(slots *prepared) (made bool, err error) {
	want, empty := s.poolSizes()
	members, err := s.store.Warm(s.life)
	if err != nil {
		return false, err
	}
	t, err := s.templates.Template(s.life, s.cfg.Template)
	if err != nil && !isKind(err, sandbox.NotFound) {
		return false, err
	}
	if err != nil { // not built yet: TemplateChanged wakes us
		return false, nil
	}
	fit := 0
	for _, m := range members {
		if m.Spec.Template == t.Slug && m.Spec.Revision == t.Revision && m.Spec.Resources == s.cfg.Default && fit < want {
			fit++
			continue
		}
		if u := s.lookup(m.ID); u != nil { // or it has ended since its row was read
			s.retire(u, sandbox.Warm)
		}
	}
	if err := s.prepare(slots, prepared{t.Image, empty}); err != nil {
		return false, err
	}
	if fit >= want {
		return false, nil
	}
	select {
	case <-s.starts.quiet():
	case <-s.life.Done():
		return false, nil
	}
	return s.addMember(t)
}

func (s *Supervisor) poolSizes() (warm, empty int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.draining {
		return 0, 0
	}
	return s.cfg.WarmPool, s.cfg.EmptySlots
}

func (s *Supervisor) prepare(slots *prepared, want prepared) error {
	p, ok := s.driver.(driver.Pooler)
	if !ok || *slots == want || s.cfg.EmptySlots == 0 {
		return nil
	}
	if want.n > 0 {
		if err := s.room(s.life, s.cfg.Default); err != nil {
			return err
		}
	}
	if err := p.Prepare(s.life, want.image, s.cfg.Default, want.n); err != nil {
		return err
	}
	*slots = want
	return nil
}

// addMember restores one sandbox that no tenant owns yet.
func (s *Supervisor) addMember(t sandbox.Template) (made bool, err error) {
	if err := s.room(s.life, s.cfg.Default); err != nil {
		return false, err
	}
	// A pool of cold boots would be slow to fill and no proof of a snapshot:
	// wait for the snapshot, which wakes us when it is there.
	if s.snapshots() {
		if _, err := s.snapshot(s.life, t, s.cfg.Default); isKind(err, sandbox.NotFound) {
			s.builds.Remake(t, s.cfg.Default, "")
			return false, nil
		} else if err != nil {
			return false, err
		}
	}
	at := now()
	sb := sandbox.Sandbox{
		ID: sandbox.NewID(), Slug: sandbox.NewSlug(), State: sandbox.Provisioning, CreatedAt: at, UpdatedAt: at,
		Spec: sandbox.Spec{Template: t.Slug, Revision: t.Revision, Image: t.Slug, Resources: s.cfg.Default},
	}
	u := s.unit(sb.ID)
	if err := s.store.AddMember(s.life, sb); err != nil {
		s.forget(u)
		return false, err
	}
	err = s.warmUp(u, sb, t)
	s.observer.Refilled(now().Sub(at), err)
	if err != nil {
		s.retire(u, sandbox.Provisioning)
		return false, err
	}
	return true, nil
}

func (s *Supervisor) warmUp(u *unit, sb sandbox.Sandbox, t sandbox.Template) error {
	if err := u.take(u.life); err != nil {
		return err
	}
	defer u.give()
	// Not through the line of starts: we have seen it empty, and who comes now
	// must not wait behind us.
	path, err := s.startNow(u.life, u, sb.Spec.Resources, t)
	if err != nil {
		return err
	}
	if err := s.init(u.life, u, sb, t); err != nil {
		return err
	}
	if err := s.rehearse(u); err != nil {
		return err
	}
	err = s.persist(u.life, "warm", func() error {
		_, err := s.store.Move(u.life, u.id, sandbox.Provisioning, sandbox.Warm, func(sb *sandbox.Sandbox) {
			sb.Base, sb.BootPath, sb.Boot = t.Image, path, now().Sub(sb.CreatedAt)
		})
		return err
	})
	if err != nil {
		return err
	}
	s.watch(u)
	return nil
}

// rehearse runs one command in a fresh copy. The first one takes twice as long
// as the next: it brings in pages and names that all share, and a member has
// the time.
func (s *Supervisor) rehearse(u *unit) error {
	ctx, cancel := context.WithTimeout(u.life, s.cfg.InitTimeout)
	defer cancel()
	req := &guestpb.StartRequest{Args: []string{"/bin/sh", "-c", "/bin/true"}, TimeoutMs: s.cfg.InitTimeout.Milliseconds()}
	for _, err := range u.agent(s.driver).Start(ctx, req) {
		if err != nil {
			return fmt.Errorf("rehearse %s: %w", u.id, err)
		}
	}
	return nil
}

// Drain empties the machine: it takes no new sandboxes from now on, gives
// running ones grace to end by themselves, destroys the rest, and returns when
// the host holds nothing any more, or ctx ends: then left counts what is not
// freed yet. Cancelling ctx stops the waiting, not the refusal of new ones.
func (s *Supervisor) Drain(ctx context.Context, grace time.Duration) (destroyed, left int, err error) {
	s.mu.Lock()
	s.draining = true
	s.mu.Unlock()
	if err := s.afterRecovery(ctx); err != nil {
		return 0, 0, errStarting.Because(err) // what runs is not known yet
	}
	s.wakePool()
	patience, cancel := context.WithTimeout(ctx, grace)
	defer cancel()
	if s.empty(patience) == nil {
		return 0, 0, nil
	}
	for ctx.Err() == nil { // a create that was let in just before may still add to them
		n, err := s.buryAll(ctx)
		destroyed += n
		if err != nil && ctx.Err() == nil {
			return destroyed, s.held(), err
		}
		wait, cancel := context.WithTimeout(ctx, time.Second)
		err = s.empty(wait)
		cancel()
		if err == nil || s.life.Err() != nil {
			return destroyed, s.held(), err
		}
	}
	return destroyed, s.held(), nil
}

// held counts the sandboxes that may have something on the host.
func (s *Supervisor) held() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.units)
}

// buryAll destroys every tenant's live sandboxes, or pauses them if their files
// are to be kept, and says how many. One that is being started with its files is
// left to the next round.
func (s *Supervisor) buryAll(ctx context.Context) (n int, err error) {
	rows, err := s.store.Unfreed(ctx)
	if err != nil {
		return 0, err
	}
	live := func(sb sandbox.Sandbox) bool { return sb.State.Live() && !precious(sb) }
	for _, sb := range rows {
		if sb.Tenant != "" && sb.State == sandbox.Running && sb.Persist {
			if _, err := s.halt(ctx, sb.Tenant, sb.ID, reasonDrained); err != nil {
				s.log.Error("a persistent sandbox could not be stopped, and runs on", "sandbox", sb.ID, "err", err)
			} else {
				n++
			}
			continue
		}
		if sb.Tenant == "" || !live(sb) {
			continue // the pool's keeper retires its own
		}
		if _, err := s.bury(ctx, sb.Tenant, string(sb.ID), reasonDrained, live); err == nil {
			n++
		} else if !isKind(err, sandbox.NotFound) {
			return n, err
		}
	}
	return n, nil
}

// precious tells whether a sandbox has files that must not be lost.
func precious(sb sandbox.Sandbox) bool {
	return sb.Persist && (sb.State == sandbox.Running || sb.Files != "")
}

// empty waits until nothing is left on the host.
func (s *Supervisor) empty(ctx context.Context) error {
	for {
		s.mu.Lock()
		n, forgotten := len(s.units), s.forgotten
		s.mu.Unlock()
		if n == 0 {
			return nil
		}
		select {
		case <-forgotten:
		case <-s.life.Done():
			return context.Cause(s.life)
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
