package supervisor

import (
	"slices"
	"testing"

	"silica.dev/silica/internal/guest"
	"silica.dev/silica/internal/guest/guestpb"
	"silica.dev/silica/sandbox"
)

// running is the app in a sandbox.
func (m *machine) running(id sandbox.ID) *guestpb.Process {
	m.t.Helper()
	_, g, _, err := m.Guest(m.ctx, m.a, string(id))
	if err != nil {
		m.t.Fatal(err)
	}
	p, err := g.LastApp(m.ctx)
	if err != nil {
		m.t.Fatal(err)
	}
	return p
}

// auto_start: "MIOSA starts the selected template after the sandbox reaches running".
func TestAutoStart(t *testing.T) {
	m := bareMachine(t, Config{WarmPool: 1})
	m.a = m.tenant("a")
	m.template("r1")
	m.describe = func(t *sandbox.Template) { t.Built = sandbox.BuildSpec{StartCmd: "serve", PreviewPort: 3000} }
	m.up()
	m.warm(1)
	claimed := m.create(m.a, sandbox.CreateRequest{AutoStart: true})
	restored := m.create(m.a, sandbox.CreateRequest{AutoStart: true, Resources: sandbox.Resources{MilliCPU: 2000}})
	for _, sb := range []sandbox.Sandbox{claimed, restored} {
		p := m.running(sb.ID)
		if app, _ := guest.ReadApp(p.GetArgs()); p == nil || !p.Running || app.Start != "serve" || app.Port != 3000 || app.Workdir != "/root" {
			t.Errorf("%s: in it runs %v", sb.BootPath, p)
		}
	}
	if claimed.BootPath != sandbox.BootPool || restored.BootPath == sandbox.BootPool {
		t.Errorf("boot paths: %s, %s", claimed.BootPath, restored.BootPath)
	}
	if p := m.running(m.create(m.a, sandbox.CreateRequest{}).ID); p != nil {
		t.Errorf("nobody asked for %v", p)
	}
}

func TestAutoStartThatFailsIsTold(t *testing.T) {
	for name, command := range map[string]string{"ends": "exit 3", "none": ""} {
		t.Run(name, func(t *testing.T) {
			m := bareMachine(t, Config{})
			m.a = m.tenant("a")
			m.template("r1")
			m.describe = func(t *sandbox.Template) { t.Built = sandbox.BuildSpec{StartCmd: command} }
			m.up()
			sb := m.create(m.a, sandbox.CreateRequest{AutoStart: true})
			m.eventually("an event tells of it", func() bool { return slices.Contains(m.history(sb.ID), sandbox.CodeTemplateStart) })
			if got := m.get(m.a, sb.ID); got.State != sandbox.Running {
				t.Errorf("the sandbox is %s", got.State)
			}
		})
	}
}
