package store

import (
	"context"
	"slices"
	"sync"
	"testing"

	"silica.dev/silica/internal/event"
	"silica.dev/silica/sandbox"
)

func TestEditsAtOnceLoseNothing(t *testing.T) {
	onBoth(t, func(t *testing.T, s *Store) {
		sb := fresh(tenant(t, s, "a"))
		if _, _, err := s.Create(t.Context(), sb, sandbox.CreateRequest{}, 0); err != nil {
			t.Fatal(err)
		}
		var all sync.WaitGroup
		for _, tag := range []string{"a", "b", "c", "d", "e"} {
			all.Go(func() {
				_, err := s.Edit(context.Background(), sb.Tenant, sb.ID, func(sb *sandbox.Sandbox) error {
					sb.Tags = append(sb.Tags, tag)
					return nil
				}, event.Event{Type: event.Updated, Data: map[string]any{"fields": []string{"tags"}}})
				if err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		got, err := s.Row(t.Context(), sb.ID)
		if err != nil {
			t.Fatal(err)
		}
		for _, tag := range []string{"a", "b", "c", "d", "e"} {
			if !slices.Contains(got.Tags, tag) {
				t.Errorf("tag %s is lost: %v", tag, got.Tags)
			}
		}
	})
}

func TestNamesAndSlugsAreNotTaken(t *testing.T) {
	onBoth(t, func(t *testing.T, s *Store) {
		one, two, far := fresh(tenant(t, s, "a")), sandbox.Sandbox{}, fresh(tenant(t, s, "b"))
		two = fresh(one.Tenant)
		two.Name = "two"
		for _, sb := range []sandbox.Sandbox{one, two, far} {
			if _, _, err := s.Create(t.Context(), sb, sandbox.CreateRequest{}, 0); err != nil {
				t.Fatal(err)
			}
		}
		edit := func(change func(*sandbox.Sandbox)) error {
			_, err := s.Edit(t.Context(), one.Tenant, one.ID, func(sb *sandbox.Sandbox) error { change(sb); return nil })
			return err
		}
		for what, err := range map[string]error{
			"a name":            edit(func(sb *sandbox.Sandbox) { sb.Name = "two" }),
			"a slug":            edit(func(sb *sandbox.Sandbox) { sb.Slug = two.Slug }),
			"another's slug":    edit(func(sb *sandbox.Sandbox) { sb.Slug = far.Slug }),
			"a name for a slug": edit(func(sb *sandbox.Sandbox) { sb.Slug = "two" }),
		} {
			if code(err) != sandbox.CodeConflict {
				t.Errorf("%s that is taken: %v", what, err)
			}
		}
		if _, err := s.Edit(t.Context(), far.Tenant, one.ID, func(*sandbox.Sandbox) error { return nil }); code(err) != sandbox.CodeNotFound {
			t.Errorf("edit of another's: %v", err)
		}
	})
}

// A row names its kept files until they are gone, and a start is held to the limit.
func TestKeptFilesAndReadmission(t *testing.T) {
	onBoth(t, func(t *testing.T, s *Store) {
		sb := fresh(tenant(t, s, "a"))
		sb.State = sandbox.Provisioning
		if _, _, err := s.Create(t.Context(), sb, sandbox.CreateRequest{}, 0); err != nil {
			t.Fatal(err)
		}
		move := func(from, to sandbox.State, change func(*sandbox.Sandbox)) {
			t.Helper()
			if _, err := s.Move(t.Context(), sb.ID, from, to, change); err != nil {
				t.Fatal(err)
			}
		}
		move(sandbox.Provisioning, sandbox.Running, func(sb *sandbox.Sandbox) { sb.Base = "sha256:base" })
		move(sandbox.Running, sandbox.Paused, func(sb *sandbox.Sandbox) { sb.Files = "sha256:files" })
		other := fresh(sb.Tenant)
		if _, _, err := s.Create(t.Context(), other, sandbox.CreateRequest{}, 1); err != nil {
			t.Fatalf("a paused one counts: %v", err)
		}
		if _, err := s.Readmit(t.Context(), sb.ID, 1, nil); code(err) != sandbox.CodeSandboxLimit {
			t.Errorf("start above the limit: %v", err)
		}
		if err := s.MarkFreed(t.Context(), sb.ID); err != nil {
			t.Fatal(err)
		}
		if refs, err := s.Kept(t.Context()); err != nil || !slices.Contains(refs, "sha256:base") || !slices.Contains(refs, "sha256:files") {
			t.Errorf("Kept = %v, %v", refs, err)
		}
		move(sandbox.Paused, sandbox.Destroyed, func(sb *sandbox.Sandbox) { sb.Freed = false })
		if err := s.MarkFreed(t.Context(), sb.ID); err != nil {
			t.Fatal(err)
		}
		if row, err := s.Row(t.Context(), sb.ID); err != nil || row.Freed {
			t.Errorf("freed with files that are there: %v", err)
		}
	})
}
