package store

import (
	"context"
	"testing"

	"silica.dev/silica/sandbox"
)

// What was kept of a sandbox is looked for at every resume, among all rows there are.
func TestReferencesAreFoundByIndexes(t *testing.T) {
	s := openSQLite(t)
	plan, err := queryList(t.Context(), s, "explain", func(row scanner) (step string, err error) {
		var id, parent, unused int
		err = row.Scan(&id, &parent, &unused, &step)
		return step, err
	}, `explain query plan `+momentRefs, "sha256:x")
	if err != nil {
		t.Fatal(err)
	}
	for _, step := range plan {
		if step == "SCAN sandboxes" || step == "SCAN snapshots" {
			t.Errorf("every row is read: %q", plan)
		}
	}
}

// "snapshots, paused sandboxes, images and build layers form one reference graph;
// … nothing referenced ever is" collected: whatever is kept elsewhere is held here.
func TestHoldersAreAllThatIsKept(t *testing.T) {
	onBoth(t, func(t *testing.T, s *Store) {
		ctx := context.Background()
		tn := tenant(t, s, "a")
		sb := fresh(tn)
		sb.Base, sb.Files = "sha256:base", "sha256:files"
		if _, _, err := s.Create(ctx, sb, sandbox.CreateRequest{}, 0); err != nil {
			t.Fatal(err)
		}
		if err := s.SaveTemplate(ctx, sandbox.Template{Slug: "tpl", Revision: "r", Image: "sha256:image"}); err != nil {
			t.Fatal(err)
		}
		if err := s.SaveSeed(ctx, sandbox.Seed{Template: "tpl", Revision: "r", Key: "k", Ref: "sha256:seed"}); err != nil {
			t.Fatal(err)
		}
		got, err := s.Holders(ctx)
		if err != nil {
			t.Fatal(err)
		}
		held := map[sandbox.Ref]sandbox.Holder{}
		for _, h := range got {
			held[h.Ref] = h
		}
		kept, err := s.Kept(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for _, ref := range append(kept, "sha256:image", "sha256:seed", "sha256:base", "sha256:files") {
			if _, ok := held[ref]; !ok {
				t.Errorf("%s is kept and nobody holds it: %v", ref, got)
			}
		}
		if h := held["sha256:files"]; h.Kind != sandbox.HeldFiles || h.ID != string(sb.ID) || h.Tenant != tn {
			t.Errorf("files are held by %+v", h)
		}
	})
}
