package supervisor

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"silica.dev/silica/internal/event"
	"silica.dev/silica/internal/guest/guestpb"
	driver "silica.dev/silica/internal/runtime"
	"silica.dev/silica/sandbox"
)

// Create admits a sandbox and answers once it runs, or when CreateWait is over.
// The work goes on when ctx ends: the caller finds it by its idempotency key.
func (s *Supervisor) Create(ctx context.Context, c sandbox.Caller, req sandbox.CreateRequest) (sandbox.Sandbox, error) {
	if err := s.open(); err != nil {
		return sandbox.Sandbox{}, err
	}
	if c.Workspace != "" { // what is not given is that; what is must be
		if req.Workspace.ID != "" && req.Workspace.ID != c.Workspace {
			return sandbox.Sandbox{}, sandbox.Field("workspace_id", "no such workspace")
		}
		req.Workspace.ID = c.Workspace
	}
	earlier, err := s.store.Made(ctx, c.Tenant, req.Idempotency)
	if err != nil {
		return sandbox.Sandbox{}, err
	}
	if len(earlier) > 0 { // whatever became of its template, and of the host's room
		return s.made(ctx, earlier[0]), nil
	}
	t, err := s.resolve(ctx, c.Tenant, cmp.Or(req.Template, s.cfg.Template))
	if err != nil {
		return sandbox.Sandbox{}, err
	}
	sb, err := s.cfg.admit(c, req, t)
	if err != nil {
		return sandbox.Sandbox{}, err
	}
	if err := s.makeRoom(ctx, sb.Spec); err != nil {
		return sandbox.Sandbox{}, err
	}
	if sb.Spec.Resources == s.cfg.usual(t) {
		s.demand.note(t.ID, time.Now())
	}
	// Known before the row is, so that whoever finds the row finds the unit.
	u := s.unit(sb.ID)
	// A caller who leaves while the row is being written must not leave a row
	// that nobody works on.
	got, fresh, err := s.store.Create(context.WithoutCancel(ctx), sb, req, s.limitOf(c))
	if err != nil || got.ID != sb.ID {
		s.forget(u)
	}
	if err != nil {
		return sandbox.Sandbox{}, err
	}
	if fresh {
		s.wakePool()
	}
	if fresh && got.State == sandbox.Running {
		u = s.unit(got.ID)
		s.spawn(func() { s.identify(because(u.life, ctx), u, got, t) })
	} else if fresh {
		s.spawn(func() { s.provision(because(u.life, ctx), u, got, t) })
	}
	return s.made(ctx, got), nil
}

// made is a sandbox once it runs, or as it is when CreateWait is over. Its row is
// durable, so that an error would be wrong: whoever got it would ask for another.
func (s *Supervisor) made(ctx context.Context, sb sandbox.Sandbox) sandbox.Sandbox {
	if now, err := s.await(ctx, sb); err == nil {
		return now
	}
	return sb
}

// open tells whether new sandboxes are taken.
func (s *Supervisor) open() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed:
		return errClosing
	case s.draining:
		return errDraining
	case !s.hasRecovered():
		return errStarting
	}
	return nil
}

// room tells whether the host can take one more of this size.
func (s *Supervisor) room(ctx context.Context, res sandbox.Resources) error {
	if s.capacity == nil {
		return nil
	}
	return s.capacity.Room(ctx, res)
}

// makeRoom is room for a tenant's sandbox. On a full host what stands ready for
// others makes way; a member that becomes the sandbox itself, known by its template,
// needs no more than it has.
func (s *Supervisor) makeRoom(ctx context.Context, spec sandbox.Spec) error {
	err := s.room(ctx, spec.Resources)
	if !sandbox.HasCode(err, sandbox.CodeHostFull) {
		return err
	}
	members, failed := s.store.Warm(ctx)
	if failed != nil || len(members) == 0 {
		return err
	}
	for _, m := range members {
		if m.Spec.Template == spec.Template && m.Spec.Revision == spec.Revision && m.Spec.Resources == spec.Resources {
			return nil
		}
	}
	for _, m := range members {
		if u := s.lookup(m.ID); u != nil && s.retire(u, sandbox.Warm) {
			s.awaitGone(ctx, m.ID)
		}
	}
	for range 10 { // a look at the host is good for a while, and memory comes back by and by
		if err = s.room(ctx, spec.Resources); !sandbox.HasCode(err, sandbox.CodeHostFull) {
			break
		}
		pause(ctx, 100*time.Millisecond)
	}
	return err
}

// resolve finds the template that a tenant means by a name. An official one that
// is not built yet comes back without a revision: it is built for who asks first.
func (s *Supervisor) resolve(ctx context.Context, tenant sandbox.TenantID, name string) (sandbox.Template, error) {
	t, err := s.templates.FindTemplate(ctx, tenant, name)
	switch {
	case isKind(err, sandbox.NotFound) && s.builds.Building(name):
		return sandbox.Template{ID: name, Slug: name}, nil
	case isKind(err, sandbox.NotFound):
		return sandbox.Template{}, errNoTemplate.With("template_id", name)
	case err == nil && t.Revision == "" && t.Tenant != "":
		return sandbox.Template{}, errNotBuilt.With("template_id", t.Slug).With("status", string(t.Status))
	}
	return t, err
}

// await waits up to CreateWait for sb to be ready, and returns how it is then.
func (s *Supervisor) await(ctx context.Context, sb sandbox.Sandbox) (sandbox.Sandbox, error) {
	u := s.lookup(sb.ID)
	if decided(sb) || u == nil {
		return s.store.Sandbox(ctx, sb.Tenant, string(sb.ID))
	}
	t := time.NewTimer(s.cfg.CreateWait)
	defer t.Stop()
	select {
	case <-u.ready:
	case <-u.life.Done():
	case <-t.C:
	case <-ctx.Done():
	}
	return s.store.Sandbox(ctx, sb.Tenant, string(sb.ID))
}

// provision brings a sandbox from its row to Running.
func (s *Supervisor) provision(ctx context.Context, u *unit, sb sandbox.Sandbox, t sandbox.Template) {
	ctx, cancel := context.WithDeadlineCause(ctx, sb.CreatedAt.Add(s.cfg.ProvisionTimeout),
		sandbox.E(sandbox.Timeout, sandbox.CodeTimeout, "it did not start in time"))
	defer cancel()
	if err := s.bring(ctx, u, sb, t); err != nil {
		s.startFailed(ctx, u, sb, err)
	}
}

func (s *Supervisor) bring(ctx context.Context, u *unit, sb sandbox.Sandbox, t sandbox.Template) error {
	if t.Revision == "" {
		var err error
		if t, err = s.builds.Await(ctx, sb.Spec.Template, func(e sandbox.BuildEvent) { s.tellBuild(ctx, sb, e) }); err != nil {
			return fmt.Errorf("wait for template %s: %w", sb.Spec.Template, err)
		}
	}
	if err := u.take(ctx); err != nil {
		return err
	}
	defer u.give()
	path, err := s.start(ctx, u, sb.Spec.Resources, t)
	if err != nil {
		return err
	}
	if err := s.init(ctx, u, sb, t); err != nil {
		return err
	}
	var got sandbox.Sandbox
	err = s.persist(ctx, "running", func() (err error) {
		got, err = s.store.Move(ctx, u.id, sandbox.Provisioning, sandbox.Running, func(sb *sandbox.Sandbox) {
			at := now()
			sb.Spec.Revision, sb.Base, sb.BootPath, sb.Boot = t.Revision, t.Image, path, at.Sub(sb.CreatedAt)
			sb.Ready, sb.StartedAt, sb.ReadyAt = true, at, at
		})
		return err
	})
	if err != nil {
		return fmt.Errorf("note that it runs: %w", err)
	}
	s.attend(u, got)
	s.beginMeter(u, true)
	s.observer.Started(got.BootPath, got.Boot)
	return nil
}

// tellBuild lets those who wait for a sandbox see what its template's build does.
func (s *Supervisor) tellBuild(ctx context.Context, sb sandbox.Sandbox, e sandbox.BuildEvent) {
	// Not "state": clients take that of any event for the sandbox's.
	data := map[string]any{"event": e.Event, "build_state": e.State, "build_id": e.Build, "at": e.At}
	if e.Text != "" {
		data["message"] = e.Text
	}
	if e.Step > 0 {
		data["step"] = e.Step
	}
	err := s.events.Record(ctx, event.Event{Sandbox: sb.ID, Tenant: sb.Tenant, Type: event.Build, Data: data, At: now()})
	if err != nil && ctx.Err() == nil {
		s.log.WarnContext(ctx, "what a build does is not told", "sandbox", sb.ID, "err", err)
	}
}

// attend makes a running sandbox usable, and watches over it. The caller holds
// the unit's host token.
func (s *Supervisor) attend(u *unit, sb sandbox.Sandbox) {
	s.watch(u)
	since := time.Now().Add(-time.Second) // the agent's clock was set a moment ago
	s.spawn(func() { s.listen(u, sb, since) })
	u.setReady()
	s.rearm(u.life, sb)
}

// startFailed ends a sandbox that could not be started, unless it was destroyed
// meanwhile or the supervisor closes: then others deal with it.
func (s *Supervisor) startFailed(ctx context.Context, u *unit, sb sandbox.Sandbox, err error) {
	if s.life.Err() != nil || u.life.Err() != nil {
		return
	}
	s.observer.StartFailed()
	s.log.ErrorContext(ctx, "a sandbox did not start", "sandbox", sb.ID, "template", sb.Spec.Template, "err", err)
	reason := "the sandbox could not be started"
	var e *sandbox.Error
	if errors.As(err, &e) && e.Kind != sandbox.Internal {
		reason += ": " + e.Message
	}
	if s.fail(u, failure{code: sandbox.CodeStartFailed, reason: reason}, sandbox.Provisioning, sandbox.Running) {
		return
	}
	// Its row may have come to its end before we had a unit, as when a pool
	// member dies in the moment of its claim: then nobody else frees what we
	// have started.
	got, err := s.store.Sandbox(s.life, sb.Tenant, string(sb.ID))
	if isKind(err, sandbox.NotFound) || err == nil && (got.State == sandbox.Destroyed || got.State == sandbox.Failed) {
		u.end(errLost)
		s.free(u)
	}
}

// start has the driver start a sandbox, from a snapshot where there is one. The
// caller holds the unit's host token.
func (s *Supervisor) start(ctx context.Context, u *unit, res sandbox.Resources, t sandbox.Template) (sandbox.BootPath, error) {
	leave, err := s.starts.enter(ctx)
	if err != nil {
		return "", err
	}
	defer leave()
	return s.startNow(ctx, u, res, t)
}

func (s *Supervisor) startNow(ctx context.Context, u *unit, res sandbox.Resources, t sandbox.Template) (sandbox.BootPath, error) {
	req := driver.StartRequest{ID: u.id, Resources: res, Image: t.Image}
	u.births++
	u.hangUp()
	if sn, err := s.snapshot(ctx, t, res); err == nil {
		req.Snapshot = sn.Ref
		err := s.startOnce(ctx, req)
		if err == nil {
			return sandbox.BootSnapshot, nil
		}
		if !errors.Is(err, driver.ErrSnapshotUnusable) {
			return "", err
		}
		s.observer.RestoreFailed()
		s.log.WarnContext(ctx, "a snapshot can't be restored: booting cold and having it remade",
			"sandbox", u.id, "template", t.Slug, "revision", t.Revision, "snapshot", sn.Ref, "err", err)
		s.builds.Remake(t, res, sn.Ref)
	} else if !isKind(err, sandbox.NotFound) {
		s.log.WarnContext(ctx, "a snapshot can't be looked up: booting cold", "sandbox", u.id, "template", t.Slug, "err", err)
	} else if s.snapshots() {
		s.log.InfoContext(ctx, "no snapshot for this size yet: booting cold and having one made",
			"sandbox", u.id, "template", t.Slug, "revision", t.Revision)
		s.builds.Remake(t, res, "")
	}
	req.Snapshot = ""
	if err := s.startOnce(ctx, req); err != nil {
		return "", err
	}
	return sandbox.BootCold, nil
}

func (s *Supervisor) startOnce(ctx context.Context, req driver.StartRequest) error {
	ctx, cancel := context.WithTimeoutCause(ctx, s.cfg.StartTimeout,
		sandbox.E(sandbox.Timeout, sandbox.CodeTimeout, "it did not start in time"))
	defer cancel()
	err := s.driver.Start(ctx, req)
	if err != nil && ctx.Err() != nil {
		return fmt.Errorf("%w (%w)", context.Cause(ctx), err)
	}
	return err
}

// snapshots tells whether the driver can restore.
func (s *Supervisor) snapshots() bool {
	_, ok := s.driver.(driver.Snapshotter)
	return ok
}

// snapshot finds what serves a template at this size; NotFound when nothing does.
func (s *Supervisor) snapshot(ctx context.Context, t sandbox.Template, res sandbox.Resources) (sandbox.Seed, error) {
	d, ok := s.driver.(driver.Snapshotter)
	if !ok {
		return sandbox.Seed{}, sandbox.E(sandbox.NotFound, sandbox.CodeNotFound, "the driver restores no snapshots")
	}
	return s.templates.Seed(ctx, t.ID, t.Revision, d.SnapshotKey(res))
}

// init gives a started, restored or claimed sandbox its identity.
func (s *Supervisor) init(ctx context.Context, u *unit, sb sandbox.Sandbox, t sandbox.Template) error {
	ctx, cancel := context.WithTimeoutCause(ctx, s.cfg.InitTimeout,
		sandbox.E(sandbox.Timeout, sandbox.CodeTimeout, "its agent did not answer in time"))
	defer cancel()
	entropy := make([]byte, 32)
	_, _ = rand.Read(entropy) // crypto/rand.Read never fails
	_, err := u.agent(s.driver).Init(ctx, &guestpb.InitRequest{
		Hostname: sb.Slug, Env: environment(sb, t), UnixNano: time.Now().UnixNano(), Entropy: entropy,
		Workdir: t.Workdir, Nameservers: s.cfg.Nameservers, MaxProcesses: s.cfg.MaxProcesses,
	})
	if err != nil {
		return fmt.Errorf("init %s: %w", u.id, err)
	}
	s.autoStart(ctx, u, sb, t)
	return nil
}

// identify gives a claimed member its identity. One that does not answer is
// started anew under the same ID: the claim stands.
func (s *Supervisor) identify(ctx context.Context, u *unit, sb sandbox.Sandbox, t sandbox.Template) {
	if err := s.claimed(ctx, u, sb, t); err != nil {
		s.startFailed(ctx, u, sb, err)
	}
}

func (s *Supervisor) claimed(ctx context.Context, u *unit, sb sandbox.Sandbox, t sandbox.Template) error {
	if err := u.take(ctx); err != nil {
		return err
	}
	defer u.give()
	path := sandbox.BootPool
	if err := s.init(ctx, u, sb, t); err != nil {
		if ctx.Err() != nil {
			return err
		}
		s.log.WarnContext(ctx, "a claimed pool member does not answer: starting it anew", "sandbox", u.id, "err", err)
		if err := s.driver.Destroy(ctx, u.id); err != nil {
			return fmt.Errorf("replace pool member: %w", err)
		}
		if path, err = s.start(ctx, u, sb.Spec.Resources, t); err != nil {
			return err
		}
		if err := s.init(ctx, u, sb, t); err != nil {
			return err
		}
		s.watch(u)
	}
	var got sandbox.Sandbox
	err := s.persist(ctx, "ready", func() (err error) {
		got, err = s.store.Update(ctx, u.id, sandbox.Running, func(sb *sandbox.Sandbox) {
			at := now()
			sb.Ready, sb.ReadyAt, sb.BootPath, sb.Boot = true, at, path, at.Sub(sb.CreatedAt)
		})
		return err
	})
	if err != nil {
		return fmt.Errorf("note that it is ready: %w", err)
	}
	since := time.Now().Add(-time.Second)
	s.spawn(func() { s.listen(u, got, since) })
	u.setReady()
	s.beginMeter(u, true)
	s.observer.Started(got.BootPath, got.Boot)
	s.rearm(u.life, got)
	return nil
}
