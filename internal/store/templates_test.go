package store

import (
	"context"
	"testing"
	"time"

	"silica.dev/silica/sandbox"
)

func newTemplate(tenant sandbox.TenantID, slug string) sandbox.Template {
	at := time.Now().UTC().Truncate(time.Microsecond)
	return sandbox.Template{ID: sandbox.NewName("tpl_"), Tenant: tenant, Slug: slug, Name: slug, Spec: sandbox.BuildSpec{From: "debian:bookworm"}, CreatedAt: at, UpdatedAt: at}
}

// "A tenant sees official ones and its own; another's is like an unknown one."
func TestTemplatesOfTenants(t *testing.T) {
	onBoth(t, func(t *testing.T, s *Store) {
		ctx := context.Background()
		if err := s.SaveTemplate(ctx, sandbox.Template{Slug: "base", CreatedAt: time.Now()}); err != nil {
			t.Fatal(err)
		}
		a, err := s.CreateTemplate(ctx, newTemplate("tnt_a", "app"), 2)
		if err != nil || a.Status != sandbox.TemplateDraft {
			t.Fatalf("%+v %v", a, err)
		}
		if _, err := s.CreateTemplate(ctx, newTemplate("tnt_b", "app"), 2); err != nil {
			t.Errorf("another tenant's of the same slug: %v", err)
		}
		if _, err := s.CreateTemplate(ctx, newTemplate("tnt_a", "app"), 2); code(err) != sandbox.CodeTaken {
			t.Errorf("a slug twice: %v", err)
		}
		if _, err := s.CreateTemplate(ctx, newTemplate("tnt_a", "app2"), 1); code(err) != sandbox.CodeQuota {
			t.Errorf("beyond the limit: %v", err)
		}
		for _, name := range []string{a.ID, "app"} {
			if got, err := s.FindTemplate(ctx, "tnt_a", name); err != nil || got.ID != a.ID {
				t.Errorf("find %s: %v %v", name, got.ID, err)
			}
		}
		if _, err := s.FindTemplate(ctx, "tnt_b", a.ID); code(err) != sandbox.CodeNoSuchTemplate {
			t.Errorf("another tenant's: %v", err)
		}
		if list, err := s.VisibleTemplates(ctx, "tnt_a"); err != nil || len(list) != 2 || list[0].Slug != "base" || list[1].ID != a.ID {
			t.Errorf("visible: %v %v", list, err)
		}
		_, err = s.EditTemplate(ctx, a.ID, func(t *sandbox.Template) (*sandbox.Build, error) { t.DeletedAt = time.Now(); return nil, nil })
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.FindTemplate(ctx, "tnt_a", "app"); code(err) != sandbox.CodeNoSuchTemplate {
			t.Errorf("a deleted one: %v", err)
		}
		if got, err := s.Template(ctx, a.ID); err != nil || got.DeletedAt.IsZero() {
			t.Errorf("a deleted one for what was started from it: %v", err)
		}
		if _, err := s.CreateTemplate(ctx, newTemplate("tnt_a", "app"), 2); err != nil {
			t.Errorf("its slug is free again: %v", err)
		}
	})
}

func TestBuildsMoveWithTheirEvents(t *testing.T) {
	onBoth(t, func(t *testing.T, s *Store) {
		ctx := context.Background()
		made, err := s.CreateTemplate(ctx, newTemplate("tnt_a", "app"), 2)
		if err != nil {
			t.Fatal(err)
		}
		queue := func() string {
			b := sandbox.Build{ID: sandbox.NewName("bld_"), Tenant: "tnt_a", Template: made.ID, State: sandbox.BuildQueued, Spec: made.Spec, CreatedAt: time.Now()}
			got, err := s.EditTemplate(ctx, made.ID, func(*sandbox.Template) (*sandbox.Build, error) { return &b, nil })
			if err != nil || got.Pending != b.ID || got.LastBuild != b.ID {
				t.Fatalf("queued: %+v %v", got, err)
			}
			return b.ID
		}
		move := func(id string, states ...sandbox.BuildState) {
			t.Helper()
			for _, to := range states {
				if _, err := s.MoveBuild(ctx, id, to, nil); err != nil {
					t.Fatal(err)
				}
			}
		}
		status := func(want sandbox.TemplateStatus) {
			t.Helper()
			if got, err := s.Template(ctx, made.ID); err != nil || got.Status != want {
				t.Errorf("template is %s, %v; want %s", got.Status, err, want)
			}
		}
		id := queue()
		status(sandbox.TemplateBuilding)
		if open, err := s.OpenBuilds(ctx); err != nil || len(open) != 1 || open[0].ID != id {
			t.Errorf("open: %v %v", open, err)
		}
		if _, err := s.MoveBuild(ctx, id, sandbox.BuildReady, nil); code(err) != sandbox.CodeBuildState {
			t.Errorf("an illegal move: %v", err)
		}
		move(id, sandbox.BuildBuilding)
		if err := s.AddBuildEvents(ctx, id, []sandbox.BuildEvent{{Event: "step_output", State: sandbox.BuildBuilding, Step: 1, Text: "hello", At: time.Now()}}); err != nil {
			t.Fatal(err)
		}
		if _, err := s.MoveBuild(ctx, id, sandbox.BuildFailed, func(b *sandbox.Build) { b.Code, b.Message = "C", "why" }); err != nil {
			t.Fatal(err)
		}
		status(sandbox.TemplateBroken)
		events, err := s.BuildEvents(ctx, id, 1, 10)
		want := []string{"building", "step_output", "error", "failed"}
		for i := range want {
			if err != nil || len(events) != 4 || events[i].Event != want[i] || events[i].Seq != int64(i+2) {
				t.Fatalf("events: %+v %v; want %v", events, err, want)
			}
		}

		id = queue()
		move(id, sandbox.BuildBuilding, sandbox.BuildSnapshotting, sandbox.BuildCertifying, sandbox.BuildDistributing)
		rev := made
		rev.Revision, rev.Image, rev.Workdir, rev.Built = "r1", "sha256:i", "/w", made.Spec
		seed := sandbox.Seed{Template: made.ID, Revision: "r1", Key: "k", Ref: "sha256:s"}
		if b, err := s.PublishBuild(ctx, id, rev, seed); err != nil || b.State != sandbox.BuildReady || b.Revision != "r1" || b.FinishedAt.IsZero() {
			t.Fatalf("published: %+v %v", b, err)
		}
		status(sandbox.TemplateReady)
		got, err := s.Template(ctx, made.ID)
		if err != nil || got.Image != "sha256:i" || got.Workdir != "/w" || got.Pending != "" || got.Built.From != "debian:bookworm" {
			t.Errorf("template: %+v %v", got, err)
		}
		if _, err := s.Seed(ctx, made.ID, "r1", "k"); err != nil {
			t.Error(err)
		}
		if _, err := s.PublishBuild(ctx, id, rev); code(err) != sandbox.CodeBuildState {
			t.Errorf("published twice: %v", err)
		}

		id = queue()
		move(id, sandbox.BuildBuilding, sandbox.BuildSnapshotting, sandbox.BuildCertifying, sandbox.BuildDistributing)
		if _, err := s.EditTemplate(ctx, made.ID, func(t *sandbox.Template) (*sandbox.Build, error) { t.DeletedAt = time.Now(); return nil, nil }); err != nil {
			t.Fatal(err)
		}
		if _, err := s.PublishBuild(ctx, id, rev); code(err) != sandbox.CodeNoSuchTemplate {
			t.Errorf("of a template that was deleted meanwhile: %v", err)
		}
		if b, err := s.Build(ctx, id); err != nil || b.State != sandbox.BuildDistributing {
			t.Errorf("half published: %+v %v", b, err)
		}
		if list, err := s.Builds(ctx, made.ID, 2); err != nil || len(list) != 2 || list[0].ID != id {
			t.Errorf("builds: %v %v", list, err)
		}
	})
}
