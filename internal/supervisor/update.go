package supervisor

import (
	"context"
	"fmt"
	"regexp"
	"time"

	"silica.dev/silica/internal/event"
	"silica.dev/silica/sandbox"
)

var (
	// dnsLabel is what a slug is part of: "{port}-{slug}".
	dnsLabel = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)
	// portFirst could not be told from the host name of a port.
	portFirst = regexp.MustCompile(`^[0-9]+-`)
)

// Update changes fields of a sandbox that has not ended; two at once each have
// their effect. Limits count at once, from where they counted before.
func (s *Supervisor) Update(ctx context.Context, c sandbox.Caller, id string, ch sandbox.Change) (sandbox.Sandbox, error) {
	if err := s.cfg.allow(&ch); err != nil {
		return sandbox.Sandbox{}, err
	}
	return s.edit(ctx, c, id, ch, false)
}

// Extend has the hard limit count anew from now, with another timeout unless
// that is 0.
func (s *Supervisor) Extend(ctx context.Context, c sandbox.Caller, id string, timeout time.Duration) (sandbox.Sandbox, error) {
	var ch sandbox.Change
	if timeout != 0 {
		ch.Timeout = &timeout
	}
	if err := s.cfg.allow(&ch); err != nil {
		return sandbox.Sandbox{}, err
	}
	return s.edit(ctx, c, id, ch, true)
}

func (s *Supervisor) edit(ctx context.Context, c sandbox.Caller, id string, ch sandbox.Change, extend bool) (sandbox.Sandbox, error) {
	if err := s.settled(ctx); err != nil {
		return sandbox.Sandbox{}, err
	}
	sb, err := s.store.Sandbox(ctx, c.Tenant, id)
	if err != nil {
		return sandbox.Sandbox{}, err
	}
	fields := ch.Fields()
	if extend && ch.Timeout == nil {
		fields = append(fields, "timeout_sec")
	}
	if len(fields) == 0 && ch.Persist == nil {
		return sb, nil
	}
	got, err := s.store.Edit(ctx, c.Tenant, sb.ID, func(sb *sandbox.Sandbox) error {
		ch.Apply(sb)
		if extend && sb.State == sandbox.Running {
			sb.ExtendedAt = now()
		}
		return nil
	}, event.Event{Type: event.Updated, Data: map[string]any{"fields": fields}})
	if isKind(err, sandbox.Conflict) && (sb.State == sandbox.Destroyed || sb.State == sandbox.Failed) {
		return sb, errOver.With("state", sb.State)
	}
	if err != nil {
		return sandbox.Sandbox{}, err
	}
	s.rearm(ctx, got)
	return got, nil
}

// errOver is for what can't be done to a sandbox any more.
var errOver = sandbox.E(sandbox.Conflict, sandbox.CodeNotRunning, "the sandbox has ended")

// allow holds a change to the operator's bounds and resolves its defaults.
func (c Config) allow(ch *sandbox.Change) error {
	if ch.Timeout != nil {
		if *ch.Timeout == 0 {
			standard := min(c.Timeout, c.MaxTimeout)
			ch.Timeout = &standard
		}
		err := between("timeout_sec", int64(*ch.Timeout), int64(time.Second), int64(c.MaxTimeout), int64(time.Second), "seconds")
		if err != nil {
			return err
		}
	}
	switch {
	case ch.Idle != nil && *ch.Idle < 0:
		return sandbox.Field("idle_timeout_sec", "must not be negative")
	case ch.AlwaysOn != nil && *ch.AlwaysOn && c.ForbidAlwaysOn:
		return sandbox.Field("always_on", "this server does not allow it")
	case ch.Name != nil && len(*ch.Name) > maxName:
		return sandbox.Field("name", fmt.Sprintf("must be at most %d bytes", maxName))
	case ch.Tags != nil && len(*ch.Tags) > maxTags:
		return sandbox.Field("tags", fmt.Sprintf("must be at most %d", maxTags))
	case ch.Slug != nil && !dnsLabel.MatchString(*ch.Slug):
		return sandbox.Field("slug", "must be a DNS label: 1 to 63 lower-case letters, digits and hyphens, with no hyphen first or last")
	case ch.Slug != nil && portFirst.MatchString(*ch.Slug):
		return sandbox.Field("slug", "must not begin with digits and a hyphen: that stands for a port in a host name")
	}
	return nil
}
