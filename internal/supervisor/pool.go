package supervisor

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
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
	// poolRetry is the first pause after a member could not be made, and
	// poolMostRest the longest.
	poolRetry    = time.Second
	poolMostRest = 5 * time.Minute
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

// pools is what the keeper of the warm pools remembers between two looks, by
// template. It is the keeper's alone.
type pools struct {
	slots prepared
	kept  map[string]*pool
}

// pool is one template's.
type pool struct {
	revision string
	lastMade time.Time
	retry    time.Duration // how long to wait after the next failure
	resting  time.Time     // until then nothing is made: the last try failed
}

// of returns what is remembered of a template's pool. Another revision is
// another chance.
func (p *pools) of(t sandbox.Template) *pool {
	q := p.kept[t.ID]
	if q == nil || q.revision != t.Revision {
		q = &pool{revision: t.Revision, retry: poolRetry}
		p.kept[t.ID] = q
	}
	return q
}

// keepPool holds the pools of restored members, and the driver's empty slots, at
// their sizes. It makes one member at a time, and only while nobody waits for a
// start.
func (s *Supervisor) keepPool() {
	all := &pools{kept: map[string]*pool{}}
	retry := poolRetry
	for {
		made, wait, err := s.tendPools(all)
		switch {
		case s.life.Err() != nil:
			return
		case err != nil:
			s.log.Warn("the warm pools could not be looked after; trying again", "wait", retry, "err", err)
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

// wanted is a template's pool as it should be, and how many of its members are
// there.
type wanted struct {
	template sandbox.Template
	pool     *pool
	least    int
	want     int
	have     int
}

// tendPools retires what does not belong in a pool and makes at most one member,
// for the template that lacks most. made says that there may be more to do; if
// there is not, wait is until the next look.
func (s *Supervisor) tendPools(all *pools) (made bool, wait time.Duration, err error) {
	list, err := s.wantedPools(all)
	if err != nil {
		return false, 0, err
	}
	if err := s.sortMembers(list); err != nil {
		return false, 0, err
	}
	for _, w := range list {
		if w.template.Slug == s.cfg.Template {
			if err := s.prepare(&all.slots, prepared{w.template.Image, s.emptySlots()}); err != nil {
				return false, 0, err
			}
		}
	}
	wait = poolLook
	for _, w := range neediest(list) {
		if rest := time.Until(w.pool.resting); rest > 0 {
			wait = min(wait, rest)
			continue
		}
		select {
		case <-s.starts.quiet():
		case <-s.life.Done():
			return false, 0, nil
		}
		made, err := s.addMember(w.template)
		if made {
			w.pool.lastMade, w.pool.retry = time.Now(), poolRetry
			return true, 0, nil
		}
		if err != nil && s.life.Err() == nil { // its own matter: the others go on
			s.log.Warn("a member of a warm pool could not be made; trying again", "template", w.template.Slug, "wait", w.pool.retry, "err", err)
			w.pool.resting = time.Now().Add(w.pool.retry)
			wait = min(wait, w.pool.retry)
			w.pool.retry = min(2*w.pool.retry, poolMostRest)
		}
	}
	return false, s.settles(list, wait), nil
}

// wantedPools lists the pools of all templates that are to have one now, or may
// have had.
func (s *Supervisor) wantedPools(all *pools) ([]*wanted, error) {
	templates, err := s.templates.AllTemplates(s.life)
	if err != nil {
		return nil, err
	}
	var list []*wanted
	there := map[string]bool{}
	for _, t := range templates {
		if t.Revision == "" || !t.DeletedAt.IsZero() { // not built yet: TemplateChanged wakes us
			continue
		}
		there[t.ID] = true
		least, want := s.poolSize(t)
		list = append(list, &wanted{template: t, pool: all.of(t), least: least, want: want})
	}
	maps.DeleteFunc(all.kept, func(key string, _ *pool) bool { return !there[key] })
	return list, nil
}

// sortMembers counts the members that fit, and retires all others: of old
// revisions, of templates that are no more, and those that are too many.
func (s *Supervisor) sortMembers(list []*wanted) error {
	members, err := s.store.Warm(s.life)
	if err != nil {
		return err
	}
	for _, m := range members {
		i := slices.IndexFunc(list, func(w *wanted) bool {
			return m.Spec.Template == w.template.ID && m.Spec.Revision == w.template.Revision && m.Spec.Resources == s.cfg.usual(w.template)
		})
		if i >= 0 && list[i].have < list[i].want {
			list[i].have++
			continue
		}
		if u := s.lookup(m.ID); u != nil { // or it has ended since its row was read
			s.retire(u, sandbox.Warm)
		}
	}
	return nil
}

// neediest orders the pools that lack members: the emptiest first, as a share of
// what it should have, and of those that are equal the one served longest ago.
func neediest(list []*wanted) []*wanted {
	lacking := slices.DeleteFunc(slices.Clone(list), func(w *wanted) bool { return w.have >= w.want })
	slices.SortStableFunc(lacking, func(a, b *wanted) int {
		return cmp.Or(cmp.Compare(a.have*b.want, b.have*a.want), a.pool.lastMade.Compare(b.pool.lastMade))
	})
	return lacking
}

// poolSize is how many members of t should stand ready, at least and now: one more
// for each that was asked for of late, up to the most.
func (s *Supervisor) poolSize(t sandbox.Template) (least, want int) {
	s.mu.Lock()
	draining := s.draining
	s.mu.Unlock()
	if draining {
		return 0, 0
	}
	bounds := t.Pool
	if bounds == (sandbox.PoolSize{}) && t.Slug == s.cfg.Template && t.Tenant == "" {
		bounds = sandbox.PoolSize{MinIdle: s.cfg.WarmPool, MaxIdle: s.cfg.WarmPool}
	}
	return bounds.MinIdle, min(bounds.MinIdle+s.demand.recent(t.ID, time.Now()), max(bounds.MinIdle, bounds.MaxIdle))
}

// settles is when to look again at pools that have grown: as demand is forgotten
// they shrink, which nothing else wakes us for.
func (s *Supervisor) settles(list []*wanted, wait time.Duration) time.Duration {
	for _, w := range list {
		if w.want > w.least {
			return min(wait, demandFades/4)
		}
	}
	return wait
}

func (s *Supervisor) emptySlots() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.draining {
		return 0
	}
	return s.cfg.EmptySlots
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
	size := s.cfg.usual(t)
	if err := s.room(s.life, size); err != nil {
		return false, err
	}
	// A pool of cold boots would be slow to fill and no proof of a snapshot:
	// wait for the snapshot, which wakes us when it is there.
	if s.snapshots() {
		if _, err := s.snapshot(s.life, t, size); isKind(err, sandbox.NotFound) {
			s.builds.Remake(t, size, "")
			return false, nil
		} else if err != nil {
			return false, err
		}
	}
	at := now()
	sb := sandbox.Sandbox{
		ID: sandbox.NewID(), Slug: sandbox.NewSlug(), State: sandbox.Provisioning, CreatedAt: at, UpdatedAt: at,
		Spec: sandbox.Spec{Template: t.ID, Revision: t.Revision, Image: t.Slug, Resources: size},
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
