package supervisor

import (
	"context"
	"fmt"

	"silica.dev/silica/internal/guest"
	"silica.dev/silica/sandbox"
)

// autoStart has the app of a sandbox's template run if that was asked for, before
// anybody else can do anything in it. What goes wrong is told by the sandbox's
// events: it is there all the same.
func (s *Supervisor) autoStart(ctx context.Context, u *unit, sb sandbox.Sandbox, t sandbox.Template) {
	if !sb.AutoStart {
		return
	}
	app := guest.AppOf(t)
	if app.Start == "" {
		s.spawn(func() {
			s.record(u.life, sb, sandbox.CodeTemplateStart, "auto_start: the template has no start command")
		})
		return
	}
	agent := u.agent(s.driver)
	p, err := agent.LastApp(ctx)
	if err == nil && (p == nil || !p.Running) { // it may be in the snapshot
		p, err = agent.StartApp(ctx, app)
	}
	if err != nil {
		s.log.WarnContext(ctx, "the app of a template was not started", "sandbox", u.id, "template", t.Slug, "err", err)
		s.spawn(func() {
			s.record(u.life, sb, sandbox.CodeTemplateStart, "auto_start: "+sandbox.AsError(err).Message)
		})
		return
	}
	s.spawn(func() {
		exit, err := agent.AwaitApp(u.life, p.Id)
		if err == nil && exit != nil && exit.ExitCode != 0 {
			s.record(u.life, sb, sandbox.CodeTemplateStart, fmt.Sprintf("auto_start: the start command ended with exit code %d; see %s", exit.ExitCode, guest.AppLog))
		}
	})
}
