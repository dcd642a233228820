package supervisor

import (
	"testing"
	"time"

	"silica.dev/silica/internal/event"
	"silica.dev/silica/internal/runtime/runtimetest"
	"silica.dev/silica/sandbox"
)

// "A tenant sees official ones and its own; another's is like an unknown one."
func TestCreateFromTenantsTemplate(t *testing.T) {
	m := newMachine(t, Config{})
	b := m.tenant("other")
	tpl := sandbox.Template{ID: sandbox.NewName("tpl_"), Tenant: m.a.Tenant, Slug: "app", CreatedAt: time.Now(),
		Spec: sandbox.BuildSpec{From: "debian:bookworm", VCPU: 2, MemoryMiB: 512, DiskMiB: 2048}}
	if err := m.db.SaveTemplate(m.ctx, tpl); err != nil {
		t.Fatal(err)
	}
	// "If a custom template exists but is not ready, sandbox creation returns 409 TEMPLATE_NOT_READY."
	if _, err := m.Create(m.ctx, m.a, sandbox.CreateRequest{Template: "app"}); !sandbox.HasCode(err, sandbox.CodeTemplateNotReady) || sandbox.AsError(err).Kind != sandbox.Conflict {
		t.Errorf("not built yet: %v", err)
	}
	tpl.Revision, tpl.Image, tpl.Built, tpl.Env = "r1", runtimetest.Image("app"), tpl.Spec, map[string]string{"FROM": "app"}
	if err := m.db.SaveTemplate(m.ctx, tpl); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"app", tpl.ID} {
		sb, err := m.Create(m.ctx, m.a, sandbox.CreateRequest{Template: name, Resources: sandbox.Resources{Memory: 256 * sandbox.MiB}})
		if err != nil {
			t.Fatal(err)
		}
		want := sandbox.Resources{MilliCPU: 2 * sandbox.Core, Memory: 256 * sandbox.MiB, Disk: 2048 * sandbox.MiB}
		if sb.Spec.Template != tpl.ID || sb.Spec.Image != "app" || sb.Spec.Resources != want {
			t.Errorf("create from %s: %+v, want the template's size where none is asked for", name, sb.Spec)
		}
	}
	if _, err := m.Create(m.ctx, b, sandbox.CreateRequest{Template: tpl.ID}); !sandbox.HasCode(err, sandbox.CodeInvalidTemplate) {
		t.Errorf("another tenant's: %v", err)
	}
}

// "From an official one not built yet → 201 provisioning: the build starts, its
// progress goes to the sandbox's events, a failed build ends in error."
func TestCreateFromUnbuiltOfficialTemplate(t *testing.T) {
	m := newMachine(t, Config{CreateWait: time.Millisecond})
	soon, never := make(chan sandbox.Template, 1), make(chan sandbox.Template)
	m.builds.mu.Lock()
	m.builds.building = map[string]chan sandbox.Template{"soon": soon, "never": never}
	m.builds.mu.Unlock()
	for _, slug := range []string{"soon", "never"} {
		if err := m.db.SaveTemplate(m.ctx, sandbox.Template{Slug: slug}); err != nil {
			t.Fatal(err)
		}
	}
	sb, err := m.Create(m.ctx, m.a, sandbox.CreateRequest{Template: "soon"})
	if err != nil || sb.State != sandbox.Provisioning {
		t.Fatalf("%v %v", sb.State, err)
	}
	m.eventually("the build's progress is told", func() bool {
		events, err := m.log.Tail(m.ctx, sb.ID, 100)
		for _, e := range events {
			if err == nil && e.Type == event.Build && e.Data["event"] == "building" && e.Data["message"] == "half way" {
				return true
			}
		}
		return false
	})
	soon <- sandbox.Template{ID: "soon", Slug: "soon", Revision: "x", Image: runtimetest.Image("x")}
	if got, err := m.Ready(m.ctx, m.a, string(sb.ID)); err != nil || got.State != sandbox.Running {
		t.Errorf("once it is built: %v %v", got.State, err)
	}

	if sb, err = m.Create(m.ctx, m.a, sandbox.CreateRequest{Template: "never"}); err != nil {
		t.Fatal(err)
	}
	close(never)
	if got, err := m.Ready(m.ctx, m.a, string(sb.ID)); err != nil || got.State != sandbox.Failed {
		t.Errorf("of a build that failed: %v %v", got.State, err)
	}
}
