package store

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"silica.dev/silica/sandbox"
)

func ref(n int) sandbox.Ref { return sandbox.Ref(fmt.Sprintf("sha256:%064d", n)) }

// runs brings a fresh sandbox to Running, over the image ref(1).
func runs(t *testing.T, s *Store, tenant sandbox.TenantID) sandbox.Sandbox {
	t.Helper()
	sb, _, err := s.Create(t.Context(), fresh(tenant), sandbox.CreateRequest{}, 0)
	if err == nil {
		sb, err = s.Move(t.Context(), sb.ID, sandbox.Provisioning, sandbox.Running, func(sb *sandbox.Sandbox) { sb.Ready, sb.Base = true, ref(1) })
	}
	if err != nil {
		t.Fatal(err)
	}
	return sb
}

func begin(t *testing.T, s *Store, sb sandbox.Sandbox) sandbox.Snapshot {
	t.Helper()
	at := rowTime()
	n, _, err := s.AddSnapshot(t.Context(), sandbox.Snapshot{
		ID: sandbox.NewName("snap_"), Tenant: sb.Tenant, Sandbox: sb.ID, Comment: "before the change", CreatedAt: at, UpdatedAt: at, LastUsedAt: at,
	}, sandbox.Idempotency{})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func taken(t *testing.T, s *Store, sb sandbox.Sandbox, memory, files sandbox.Ref) sandbox.Snapshot {
	t.Helper()
	n := begin(t, s, sb)
	n.Memory, n.Files, n.Key, n.Size = memory, files, "k", 10*sandbox.MiB
	n, err := s.EndSnapshot(t.Context(), n)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestSnapshotComesBackAsItWasWritten(t *testing.T) {
	onBoth(t, func(t *testing.T, s *Store) {
		a, b := tenant(t, s, "a"), tenant(t, s, "b")
		sb := runs(t, s, a)
		n := begin(t, s, sb)
		if n.Status != sandbox.SnapshotCreating || n.Base != ref(1) || n.Spec.Env["A"] != "1" || !cmp.Equal(n.Parent.Metadata, map[string]any{"k": []any{"v", json.Number("1.5")}}) {
			t.Errorf("AddSnapshot = %+v", n)
		}
		if _, err := s.DeleteSnapshot(t.Context(), a, n.ID); code(err) != sandbox.CodeSnapshotNotReady {
			t.Errorf("delete of one that is being taken: %v", err)
		}
		n = taken(t, s, sb, ref(2), ref(3))
		got, err := s.Snapshot(t.Context(), a, n.ID)
		if d := cmp.Diff(n, got); d != "" || err != nil || got.Status != sandbox.SnapshotReady {
			t.Errorf("Snapshot: %v\n%s", err, d)
		}
		if _, err := s.Snapshot(t.Context(), b, n.ID); code(err) != sandbox.CodeNotFound {
			t.Errorf("another tenant reads it: %v", err)
		}
		if _, err := s.DeleteSnapshot(t.Context(), b, n.ID); code(err) != sandbox.CodeNotFound {
			t.Errorf("another tenant deletes it: %v", err)
		}
		if list, err := s.Snapshots(t.Context(), a, sb.ID); err != nil || len(list) != 2 || list[0].ID != n.ID {
			t.Errorf("Snapshots = %v, %v; want two, the newest first", list, err)
		}
		if list, err := s.Snapshots(t.Context(), b, ""); err != nil || len(list) != 0 {
			t.Errorf("another tenant lists %v, %v", list, err)
		}
		if _, err := s.EndSnapshot(t.Context(), n); code(err) != sandbox.CodeConflict {
			t.Errorf("a snapshot ended twice: %v", err)
		}
	})
}

func TestNothingReferencedIsSwept(t *testing.T) {
	onBoth(t, func(t *testing.T, s *Store) {
		ctx := context.Background()
		a := tenant(t, s, "a")
		sb := runs(t, s, a)
		n := taken(t, s, sb, ref(2), ref(3))
		copies, _, err := s.Fork(ctx, a, sandbox.ForkRequest{Snapshot: n.ID}, []sandbox.Sandbox{fresh(a)}, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.DeleteSnapshot(ctx, a, n.ID); err != nil {
			t.Errorf("delete of one that a copy starts from: %v", err)
		}
		kept, err := s.Kept(ctx)
		for _, r := range []sandbox.Ref{ref(1), ref(2), ref(3)} {
			if !slices.Contains(kept, r) {
				t.Errorf("Kept = %v, %v: not %s, which a copy starts from", kept, err, r)
			}
		}
		if in, err := s.Referenced(ctx, ref(2)); err != nil || !in {
			t.Errorf("Referenced = %v, %v", in, err)
		}
		if _, err := s.Move(ctx, copies[0].ID, sandbox.Provisioning, sandbox.Running, func(sb *sandbox.Sandbox) { sb.Memory, sb.Files = "", "" }); err != nil {
			t.Fatal(err)
		}
		for _, r := range []sandbox.Ref{ref(2), ref(3)} {
			if in, err := s.Referenced(ctx, r); err != nil || in {
				t.Errorf("%s: Referenced = %v, %v after the last use", r, in, err)
			}
		}
	})
}

func TestForkIsAllOrNothing(t *testing.T) {
	onBoth(t, func(t *testing.T, s *Store) {
		ctx := context.Background()
		a := tenant(t, s, "a")
		n := taken(t, s, runs(t, s, a), ref(2), ref(3))
		if _, _, err := s.Fork(ctx, a, sandbox.ForkRequest{Snapshot: n.ID}, []sandbox.Sandbox{fresh(a), fresh(a)}, 2); code(err) != sandbox.CodeSandboxLimit {
			t.Errorf("two copies where one has room: %v", err)
		}
		if l, err := s.List(ctx, sandbox.Filter{Tenant: a}); err != nil || len(l.Sandboxes) != 1 {
			t.Errorf("after it there are %d sandboxes, %v; want only the parent", len(l.Sandboxes), err)
		}
		got, _, err := s.Fork(ctx, a, sandbox.ForkRequest{Snapshot: n.ID}, []sandbox.Sandbox{fresh(a), fresh(a)}, 3)
		if err != nil || len(got) != 2 {
			t.Fatalf("Fork = %v, %v", got, err)
		}
		for _, sb := range got {
			if sb.Memory != ref(2) || sb.Files != ref(3) || sb.Base != ref(1) || sb.State != sandbox.Provisioning {
				t.Errorf("a copy is %+v", sb)
			}
		}
		if _, _, err := s.Fork(ctx, tenant(t, s, "b"), sandbox.ForkRequest{Snapshot: n.ID}, []sandbox.Sandbox{fresh(a)}, 0); code(err) != sandbox.CodeNotFound {
			t.Errorf("fork of another tenant's: %v", err)
		}
	})
}

func TestRevert(t *testing.T) {
	onBoth(t, func(t *testing.T, s *Store) {
		ctx := context.Background()
		a := tenant(t, s, "a")
		sb, other := runs(t, s, a), runs(t, s, a)
		n := taken(t, s, sb, ref(2), ref(3))
		nothing := func(*sandbox.Sandbox) {}
		if _, _, err := s.Revert(ctx, other.ID, sandbox.Running, n.ID, nothing); code(err) != sandbox.CodeNotFound {
			t.Errorf("to a snapshot of another sandbox: %v", err)
		}
		if _, _, err := s.Revert(ctx, sb.ID, sandbox.Paused, n.ID, nothing); code(err) != sandbox.CodeConflict {
			t.Errorf("of one that runs, as paused: %v", err)
		}
		got, old, err := s.Revert(ctx, sb.ID, sandbox.Running, n.ID, nothing)
		if err != nil || got.State != sandbox.Paused || got.Memory != ref(2) || got.Files != ref(3) || old.State != sandbox.Running {
			t.Errorf("Revert = %+v, %+v, %v", got, old, err)
		}
	})
}

func TestQuotaOfWhatIsSaved(t *testing.T) {
	onBoth(t, func(t *testing.T, s *Store) {
		ctx := context.Background()
		a := tenant(t, s, "a")
		if _, err := s.ChangeTenant(ctx, a, func(tn *sandbox.Tenant) { tn.MaxSaved = 15 * sandbox.MiB }); err != nil {
			t.Fatal(err)
		}
		sb := runs(t, s, a)
		first := taken(t, s, sb, ref(2), ref(3))
		second := begin(t, s, sb)
		second.Memory, second.Files, second.Size = ref(4), ref(5), 10*sandbox.MiB
		got, err := s.EndSnapshot(ctx, second)
		if code(err) != sandbox.CodeQuota || got.Status != sandbox.SnapshotFailed || got.Memory != "" {
			t.Errorf("20 MiB where 15 may be: %+v, %v", got, err)
		}
		if _, err := s.Move(ctx, sb.ID, sandbox.Running, sandbox.Paused, func(sb *sandbox.Sandbox) { sb.Files, sb.Saved = ref(6), 5*sandbox.MiB }); err != nil {
			t.Fatal(err)
		}
		if u, err := s.Use(ctx, a); err != nil || u.Saved != 15*sandbox.MiB {
			t.Errorf("Use = %+v, %v; want 15 MiB saved", u, err)
		}
		if err := s.RoomToSave(ctx, a); code(err) != sandbox.CodeQuota {
			t.Errorf("a paused sandbox does not count: %v", err)
		}
		if _, err := s.DeleteSnapshot(ctx, a, first.ID); err != nil {
			t.Fatal(err)
		}
		if err := s.RoomToSave(ctx, a); err != nil {
			t.Errorf("a deleted one counts: %v", err)
		}
	})
}

func TestSnapshotsExpire(t *testing.T) {
	onBoth(t, func(t *testing.T, s *Store) {
		ctx := context.Background()
		a := tenant(t, s, "a")
		sb := runs(t, s, a)
		at := rowTime()
		for _, c := range []struct {
			name string
			n    sandbox.Snapshot
			late time.Duration
			want bool
		}{
			{"by age", sandbox.Snapshot{ExpiresAt: at.Add(time.Hour)}, time.Hour, true},
			{"not yet", sandbox.Snapshot{ExpiresAt: at.Add(time.Hour)}, time.Minute, false},
			{"unused", sandbox.Snapshot{Retention: time.Hour}, 2 * time.Hour, true},
			{"kept", sandbox.Snapshot{Retention: time.Hour, Keep: true}, 2 * time.Hour, false},
			{"for ever", sandbox.Snapshot{}, 1000 * time.Hour, false},
		} {
			n := c.n
			n.ID, n.Tenant, n.Sandbox, n.CreatedAt, n.UpdatedAt, n.LastUsedAt = sandbox.NewName("snap_"), a, sb.ID, at, at, at
			n, _, err := s.AddSnapshot(ctx, n, sandbox.Idempotency{})
			if err == nil {
				n, err = s.EndSnapshot(ctx, n)
			}
			if err != nil {
				t.Fatal(err)
			}
			list, err := s.ExpiredSnapshots(ctx, at.Add(c.late))
			got := slices.ContainsFunc(list, func(o sandbox.Snapshot) bool { return o.ID == n.ID })
			if err != nil || got != c.want {
				t.Errorf("%s: after %v it has expired: %v, %v; want %v", c.name, c.late, got, err, c.want)
			}
		}
	})
}

func TestCutSnapshots(t *testing.T) {
	onBoth(t, func(t *testing.T, s *Store) {
		a := tenant(t, s, "a")
		sb := runs(t, s, a)
		n, done := begin(t, s, sb), taken(t, s, sb, ref(2), ref(3))
		passing := sandbox.Snapshot{ID: sandbox.NewName("snap_"), Tenant: a, Sandbox: sb.ID, Passing: true}
		if _, _, err := s.AddSnapshot(t.Context(), passing, sandbox.Idempotency{}); err != nil {
			t.Fatal(err)
		}
		if gone, err := s.CutSnapshots(t.Context(), "the server ended"); err != nil || len(gone) != 1 || gone[0].ID != passing.ID {
			t.Fatalf("CutSnapshots = %v, %v; want the one that was made for a fork", gone, err)
		}
		if got, err := s.Snapshot(t.Context(), a, n.ID); err != nil || got.Status != sandbox.SnapshotFailed || got.Reason != "the server ended" {
			t.Errorf("one that was being taken: %+v, %v", got, err)
		}
		if got, err := s.Snapshot(t.Context(), a, done.ID); err != nil || got.Status != sandbox.SnapshotReady {
			t.Errorf("one that was ready: %+v, %v", got, err)
		}
	})
}

// An imported snapshot is of no sandbox here, in the tenant's first workspace, and
// counts.
func TestImportedSnapshot(t *testing.T) {
	onBoth(t, func(t *testing.T, s *Store) {
		ctx := t.Context()
		a, at := tenant(t, s, "a"), rowTime()
		if _, err := s.ChangeTenant(ctx, a, func(tn *sandbox.Tenant) { tn.MaxSaved = 15 * sandbox.MiB }); err != nil {
			t.Fatal(err)
		}
		n := sandbox.Snapshot{
			ID: "snap_1", Tenant: a, Sandbox: "sbx_elsewhere", Workspace: "elsewhere", Status: sandbox.SnapshotReady, Spec: fresh(a).Spec,
			Base: ref(1), Files: ref(2), Memory: ref(3), Size: 10 * sandbox.MiB, CreatedAt: at, UpdatedAt: at, LastUsedAt: at,
		}
		if err := s.RoomToImport(ctx, a, n.Size); err != nil {
			t.Fatal(err)
		}
		got, err := s.ImportSnapshot(ctx, n)
		if err != nil || got.Sandbox != "" || got.Workspace == "elsewhere" || got.Workspace == "" || got.Status != sandbox.SnapshotReady || got.Size != n.Size {
			t.Fatalf("ImportSnapshot = %+v, %v", got, err)
		}
		copies, _, err := s.Fork(ctx, a, sandbox.ForkRequest{Snapshot: n.ID}, []sandbox.Sandbox{fresh(a)}, 0)
		if err != nil || copies[0].Base != ref(1) || copies[0].Workspace != got.Workspace {
			t.Errorf("Fork = %+v, %v", copies, err)
		}
		n.ID = "snap_2"
		if err := s.RoomToImport(ctx, a, n.Size); code(err) != sandbox.CodeQuota {
			t.Errorf("RoomToImport beyond the quota: %v", err)
		}
		if _, err := s.ImportSnapshot(ctx, n); code(err) != sandbox.CodeQuota {
			t.Errorf("ImportSnapshot beyond the quota: %v", err)
		}
		n.Tenant = "tnt_none"
		if _, err := s.ImportSnapshot(ctx, n); code(err) != sandbox.CodeNotFound {
			t.Errorf("for nobody: %v", err)
		}
		if err := s.RoomToImport(ctx, "tnt_none", 1); code(err) != sandbox.CodeNotFound {
			t.Errorf("room for nobody: %v", err)
		}
	})
}

// Same key within 24 hours: the same snapshot, or the same copies.
func TestRepeatedSnapshotsAndForks(t *testing.T) {
	onBoth(t, func(t *testing.T, s *Store) {
		ctx := t.Context()
		a, b := tenant(t, s, "a"), tenant(t, s, "b")
		sb := runs(t, s, a)
		k, other := sandbox.Idempotency{Key: "k", Digest: [32]byte{1}}, sandbox.Idempotency{Key: "k", Digest: [32]byte{2}}
		add := func(k sandbox.Idempotency, at time.Time) (sandbox.Snapshot, bool, error) {
			return s.AddSnapshot(ctx, sandbox.Snapshot{ID: sandbox.NewName("snap_"), Tenant: a, Sandbox: sb.ID, CreatedAt: at, UpdatedAt: at, LastUsedAt: at}, k)
		}
		if n, err := s.Snapped(ctx, a, k); err != nil || n.ID != "" {
			t.Fatalf("Snapped before = %v, %v", n, err)
		}
		first, isNew, err := add(k, rowTime())
		if err != nil || !isNew {
			t.Fatalf("first: %v, %v", isNew, err)
		}
		if n, isNew, err := add(k, rowTime()); err != nil || isNew || n.ID != first.ID {
			t.Errorf("second: %s, %v, %v; want %s", n.ID, isNew, err, first.ID)
		}
		if n, err := s.Snapped(ctx, a, k); err != nil || n.ID != first.ID {
			t.Errorf("Snapped = %s, %v", n.ID, err)
		}
		if n, err := s.Snapped(ctx, b, k); err != nil || n.ID != "" {
			t.Errorf("another tenant's key is this one's: %s, %v", n.ID, err)
		}
		if _, _, err := add(other, rowTime()); code(err) != sandbox.CodeIdempotency {
			t.Errorf("another request with the key: %v", err)
		}
		if _, err := s.Snapped(ctx, a, other); code(err) != sandbox.CodeIdempotency {
			t.Errorf("another request with the key, looked for: %v", err)
		}
		first.Reason = "the disk is full"
		if _, err := s.EndSnapshot(ctx, first); err != nil {
			t.Fatal(err)
		}
		// One that has failed, and one a day later, are taken again.
		second, isNew, err := add(k, rowTime())
		if err != nil || !isNew || second.ID == first.ID {
			t.Errorf("after a failure: %v, %v", isNew, err)
		}
		if n, isNew, err := add(k, rowTime().Add(25*time.Hour)); err != nil || !isNew || n.ID == second.ID {
			t.Errorf("a day later: %v, %v", isNew, err)
		}

		n := taken(t, s, sb, ref(2), ref(3))
		fork := sandbox.ForkRequest{Snapshot: n.ID, Idempotency: sandbox.Idempotency{Key: "f", Digest: [32]byte{1}}}
		copies, isNew, err := s.Fork(ctx, a, fork, []sandbox.Sandbox{fresh(a), fresh(a)}, 3)
		if err != nil || !isNew || len(copies) != 2 {
			t.Fatalf("Fork = %v, %v, %v", copies, isNew, err)
		}
		if _, err := s.DeleteSnapshot(ctx, a, n.ID); err != nil {
			t.Fatal(err)
		}
		// Neither the limit nor the lost snapshot matters to what is there already.
		again, isNew, err := s.Fork(ctx, a, fork, []sandbox.Sandbox{fresh(a), fresh(a)}, 3)
		if err != nil || isNew || len(again) != 2 || again[0].ID != copies[0].ID || again[1].ID != copies[1].ID {
			t.Errorf("again: %v, %v, %v", again, isNew, err)
		}
		if list, err := s.Made(ctx, a, fork.Idempotency); err != nil || len(list) != 2 || list[0].ID != copies[0].ID {
			t.Errorf("Made = %v, %v", list, err)
		}
		fork.Idempotency.Digest[0] = 2
		if _, _, err := s.Fork(ctx, a, fork, []sandbox.Sandbox{fresh(a)}, 0); code(err) != sandbox.CodeIdempotency {
			t.Errorf("another request with the key: %v", err)
		}
	})
}
