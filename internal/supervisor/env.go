package supervisor

import (
	"context"
	"fmt"
	"maps"

	"silica.dev/silica/sandbox"
)

// environment is what processes of a sandbox are started with: its template's
// variables and its own over them.
func environment(sb sandbox.Sandbox, t sandbox.Template) map[string]string {
	env := map[string]string{}
	maps.Copy(env, t.Env)
	maps.Copy(env, sb.Spec.Env)
	return env
}

// SetEnv changes the variables of a sandbox: replace drops all there were
// before, unset some, and then set counts. Processes that run keep what they
// have. The row holds it; the agent of what runs is told before this returns.
func (s *Supervisor) SetEnv(ctx context.Context, c sandbox.Caller, id string, ch sandbox.EnvChange) (sandbox.Sandbox, error) {
	if err := s.settled(ctx); err != nil {
		return sandbox.Sandbox{}, err
	}
	sb, err := s.store.Sandbox(ctx, c.Tenant, id)
	if err != nil {
		return sandbox.Sandbox{}, err
	}
	got, err := s.store.Edit(ctx, c.Tenant, sb.ID, func(sb *sandbox.Sandbox) error {
		env := map[string]string{}
		if !ch.Replace {
			maps.Copy(env, sb.Spec.Env)
		}
		for _, name := range ch.Unset {
			if _, ok := env[name]; !ok {
				return sandbox.E(sandbox.NotFound, sandbox.CodeNotFound, "the sandbox has no such variable").With("key", name)
			}
			delete(env, name)
		}
		maps.Copy(env, ch.Set)
		sb.Spec.Env = env
		return checkEnv(env)
	})
	if isKind(err, sandbox.Conflict) && (sb.State == sandbox.Destroyed || sb.State == sandbox.Failed) {
		return sb, errOver.With("state", sb.State)
	}
	if err != nil {
		return sandbox.Sandbox{}, err
	}
	u := s.lookup(got.ID)
	switch {
	case u == nil: // it gets them when it starts
	case u.usable():
		err = s.tellEnv(ctx, u, got)
	default: // it may have been told of the old ones already
		s.spawn(func() {
			select {
			case <-u.ready:
				if err := s.tellEnv(u.life, u, got); err != nil && u.life.Err() == nil {
					s.log.Warn("a sandbox could not be told of its environment", "sandbox", u.id, "err", err)
				}
			case <-u.life.Done():
			}
		})
	}
	return got, err
}

// tellEnv gives the agent what the row says by now. Of several changes the last
// one counts.
func (s *Supervisor) tellEnv(ctx context.Context, u *unit, sb sandbox.Sandbox) error {
	ctx, cancel := context.WithTimeoutCause(ctx, s.cfg.InitTimeout,
		sandbox.E(sandbox.Timeout, sandbox.CodeTimeout, "the variables are kept, but the sandbox's agent did not answer in time"))
	defer cancel()
	u.env.Lock()
	defer u.env.Unlock()
	row, err := s.store.Sandbox(ctx, sb.Tenant, string(sb.ID))
	if err != nil || row.State != sandbox.Running {
		return err
	}
	t, err := s.templates.Template(ctx, row.Spec.Template)
	if err != nil && !isKind(err, sandbox.NotFound) {
		return fmt.Errorf("its template: %w", err)
	}
	if err := u.agent(s.driver).SetEnv(ctx, environment(row, t)); err != nil && u.life.Err() == nil {
		return fmt.Errorf("set environment of %s: %w", u.id, err)
	}
	return nil
}
