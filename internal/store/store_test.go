package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"silica.dev/silica/internal/event"
	"silica.dev/silica/sandbox"
)

func tenant(t testing.TB, s *Store, slug string) sandbox.TenantID {
	t.Helper()
	tn, err := s.CreateTenant(context.Background(), sandbox.Tenant{Slug: slug})
	if err != nil {
		t.Fatal(err)
	}
	return tn.ID
}

func fresh(tenant sandbox.TenantID) sandbox.Sandbox {
	now := time.Now().UTC().Truncate(time.Microsecond)
	return sandbox.Sandbox{
		ID: sandbox.NewID(), Tenant: tenant, Owner: "usr_1", Slug: sandbox.NewSlug(), State: sandbox.Provisioning,
		Spec: sandbox.Spec{Template: "t", Revision: "r1", Image: "t", Env: map[string]string{"A": "1"},
			Resources: sandbox.Resources{MilliCPU: 1000, Memory: 1024 * sandbox.MiB, Disk: 3072 * sandbox.MiB}},
		Metadata: map[string]any{"k": []any{"v", json.Number("1.5")}}, Tags: []string{"x"}, Timeout: 300 * time.Second,
		CreatedAt: now, UpdatedAt: now,
	}
}

func code(err error) string {
	if err == nil {
		return ""
	}
	return sandbox.AsError(err).Code
}

func TestSandboxComesBackAsItWasWritten(t *testing.T) {
	onBoth(t, func(t *testing.T, s *Store) {
		ctx := context.Background()
		a := tenant(t, s, "a")
		want, isNew, err := s.Create(ctx, fresh(a), sandbox.CreateRequest{}, 0)
		if err != nil || !isNew {
			t.Fatalf("Create = fresh %v, %v", isNew, err)
		}
		got, err := s.Sandbox(ctx, a, string(want.ID))
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("the row differs (-written +read):\n%s", d)
		}
		if want.Workspace == "" || want.Project == "" {
			t.Errorf("no default workspace and project: %+v", want)
		}
		events, err := s.EventsAfter(ctx, want.ID, 0, 10)
		if err != nil || len(events) != 1 || events[0].Data["state"] != "provisioning" || events[0].Tenant != a {
			t.Errorf("events = %+v, %v", events, err)
		}
	})
}

// TestNumbersOfAnySizeAreReadBack: metadata is a user's, and a row that can't be
// read can't be ended either, nor the daemon started.
func TestNumbersOfAnySizeAreReadBack(t *testing.T) {
	onBoth(t, func(t *testing.T, s *Store) {
		ctx := context.Background()
		sb := fresh(tenant(t, s, "a"))
		sb.Metadata = map[string]any{"huge": json.Number("1e999"), "exact": json.Number("12345678901234567890.10")}
		if _, _, err := s.Create(ctx, sb, sandbox.CreateRequest{}, 0); err != nil {
			t.Fatal(err)
		}
		rows, err := s.Unfreed(ctx)
		if err != nil || len(rows) != 1 || len(rows[0].Spec.Env) != 1 {
			t.Fatalf("Unfreed = %+v, %v", rows, err)
		}
		listed, err := s.List(ctx, sandbox.Filter{Tenant: sb.Tenant})
		if err != nil || listed.Total != 1 || listed.Sandboxes[0].Spec.Env != nil || listed.Sandboxes[0].Spec.Image != sb.Spec.Image {
			t.Errorf("List = %+v, %v; want it without the environment", listed, err)
		}
		if d := cmp.Diff(sb.Metadata, rows[0].Metadata); d != "" {
			t.Errorf("metadata differs (-written +read):\n%s", d)
		}
		if _, err := s.Move(ctx, sb.ID, sandbox.Provisioning, sandbox.Destroyed, nil); err != nil {
			t.Errorf("Move: %v", err)
		}
	})
}

func TestAnotherTenantsSandboxIsNotFound(t *testing.T) {
	onBoth(t, func(t *testing.T, s *Store) {
		ctx := context.Background()
		a, b := tenant(t, s, "a"), tenant(t, s, "b")
		sb, _, err := s.Create(ctx, fresh(a), sandbox.CreateRequest{}, 0)
		if err != nil {
			t.Fatal(err)
		}
		_, foreign := s.Sandbox(ctx, b, string(sb.ID))
		_, unknown := s.Sandbox(ctx, b, string(sandbox.NewID()))
		if code(foreign) != sandbox.CodeNotFound || foreign.Error() != unknown.Error() {
			t.Errorf("foreign: %v, unknown: %v; want the same NOT_FOUND", foreign, unknown)
		}
		if err := s.AddMember(ctx, fresh("")); err != nil {
			t.Fatal(err)
		}
		if list, _ := s.List(ctx, sandbox.Filter{}); list.Total != 0 {
			t.Errorf("a list without a tenant shows %v", list)
		}
	})
}

// A public client passes names where ids belong, and uses them again.
func TestSandboxByNameOrSlug(t *testing.T) {
	onBoth(t, func(t *testing.T, s *Store) {
		ctx := context.Background()
		a, b := tenant(t, s, "a"), tenant(t, s, "b")
		named := func(tenant sandbox.TenantID, name string) sandbox.Sandbox {
			sb := fresh(tenant)
			sb.Name = name
			got, _, err := s.Create(ctx, sb, sandbox.CreateRequest{}, 0)
			if err != nil {
				t.Fatal(err)
			}
			return got
		}
		box, other, unnamed := named(a, "box"), named(b, "other"), named(a, "")
		tricky := named(a, string(box.ID)) // its name is another's id
		for _, c := range []struct {
			id   string
			want sandbox.ID
			code string
		}{
			{"box", box.ID, ""}, {box.Slug, box.ID, ""}, {string(box.ID), box.ID, ""}, {tricky.Slug, tricky.ID, ""},
			{"other", "", sandbox.CodeNotFound}, {other.Slug, "", sandbox.CodeNotFound}, {"", "", sandbox.CodeNotFound},
			{unnamed.Slug, unnamed.ID, ""}, {"BOX", "", sandbox.CodeNotFound},
		} {
			if got, err := s.Sandbox(ctx, a, c.id); got.ID != c.want || code(err) != c.code {
				t.Errorf("Sandbox(%q) = %q, %v; want %q %s", c.id, got.ID, err, c.want, c.code)
			}
		}
		second := named(a, "box")
		if _, err := s.Sandbox(ctx, a, "box"); code(err) != sandbox.CodeConflict {
			t.Errorf("a name that two have: %v, want a conflict", err)
		}
		if _, err := s.Move(ctx, box.ID, sandbox.Provisioning, sandbox.Destroyed, nil); err != nil {
			t.Fatal(err)
		}
		if got, err := s.Sandbox(ctx, a, "box"); got.ID != second.ID || err != nil {
			t.Errorf("the name of a destroyed one = %s, %v; want %s", got.ID, err, second.ID)
		}
		if got, err := s.Sandbox(ctx, a, box.Slug); got.ID != box.ID || err != nil {
			t.Errorf("the slug of a destroyed one = %s, %v", got.ID, err)
		}
	})
}

func TestSandboxesAreFoundByIndex(t *testing.T) {
	rows, err := openSQLite(t).read.QueryContext(t.Context(), "explain query plan "+bySlugOrName, "tnt", "box", "destroyed")
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	plan := ""
	for rows.Next() {
		var id, parent, unused int
		var step string
		if err := rows.Scan(&id, &parent, &unused, &step); err != nil {
			t.Fatal(err)
		}
		plan += step + "\n"
	}
	if !strings.Contains(plan, "(slug=?)") || !strings.Contains(plan, "(tenant=? AND name=?)") || strings.Contains(plan, "SCAN") {
		t.Errorf("the query walks through rows:\n%s", plan)
	}
}

func TestCreateHoldsTheLimitUnderConcurrency(t *testing.T) {
	onBoth(t, func(t *testing.T, s *Store) {
		ctx := context.Background()
		a := tenant(t, s, "a")
		const limit = 10
		var wg sync.WaitGroup
		errs := make([]error, 4*limit)
		for i := range errs {
			wg.Go(func() { _, _, errs[i] = s.Create(ctx, fresh(a), sandbox.CreateRequest{}, limit) })
		}
		wg.Wait()
		made := 0
		for _, err := range errs {
			switch code(err) {
			case "":
				made++
			case sandbox.CodeSandboxLimit:
			default:
				t.Errorf("Create: %v", err)
			}
		}
		if made != limit {
			t.Errorf("%d creates succeeded, want %d", made, limit)
		}
	})
}

func TestIdempotency(t *testing.T) {
	onBoth(t, func(t *testing.T, s *Store) {
		ctx := context.Background()
		a, b := tenant(t, s, "a"), tenant(t, s, "b")
		req := sandbox.CreateRequest{Idempotency: sandbox.Idempotency{Key: "k", Digest: [32]byte{1}}}
		first, isNew, err := s.Create(ctx, fresh(a), req, 1)
		if err != nil || !isNew {
			t.Fatalf("first: fresh %v, %v", isNew, err)
		}
		again, isNew, err := s.Create(ctx, fresh(a), req, 1)
		if err != nil || isNew || again.ID != first.ID {
			t.Errorf("repeat at the limit = %s, fresh %v, %v; want %s", again.ID, isNew, err, first.ID)
		}
		other := req
		other.Idempotency.Digest = [32]byte{2}
		if _, _, err := s.Create(ctx, fresh(a), other, 1); code(err) != sandbox.CodeIdempotency {
			t.Errorf("another payload = %v", err)
		}
		if got, isNew, err := s.Create(ctx, fresh(b), req, 1); err != nil || !isNew || got.ID == first.ID {
			t.Errorf("another tenant with the same key = %s, fresh %v, %v", got.ID, isNew, err)
		}
		late := fresh(a)
		late.CreatedAt = late.CreatedAt.Add(25 * time.Hour)
		if got, isNew, err := s.Create(ctx, late, other, 0); err != nil || !isNew || got.ID == first.ID {
			t.Errorf("after a day = %s, fresh %v, %v; want a new one", got.ID, isNew, err)
		}
	})
}

func TestOneMemberIsClaimedOnce(t *testing.T) {
	onBoth(t, func(t *testing.T, s *Store) {
		ctx := context.Background()
		a, b := tenant(t, s, "a"), tenant(t, s, "b")
		m := fresh("")
		if err := s.AddMember(ctx, m); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Move(ctx, m.ID, sandbox.Provisioning, sandbox.Warm, nil); err != nil {
			t.Fatal(err)
		}
		got := make([]sandbox.Sandbox, 2)
		var wg sync.WaitGroup
		for i, tn := range []sandbox.TenantID{a, b} {
			wg.Go(func() {
				var err error
				if got[i], _, err = s.Create(ctx, fresh(tn), sandbox.CreateRequest{}, 10); err != nil {
					t.Errorf("Create: %v", err)
				}
			})
		}
		wg.Wait()
		if (got[0].ID == m.ID) == (got[1].ID == m.ID) {
			t.Fatalf("claims: %s and %s, member %s: want exactly one", got[0].ID, got[1].ID, m.ID)
		}
		for _, sb := range got {
			if (sb.ID == m.ID) != (sb.State == sandbox.Running) || sb.ID == m.ID && (sb.BootPath != sandbox.BootPool || sb.Slug != m.Slug || sb.Ready) {
				t.Errorf("claimed: %+v", sb)
			}
			if _, err := s.Sandbox(ctx, sb.Tenant, string(sb.ID)); err != nil {
				t.Errorf("its tenant does not see it: %v", err)
			}
		}
	})
}

func TestMemberOfAnotherRevisionIsNotClaimed(t *testing.T) {
	onBoth(t, func(t *testing.T, s *Store) {
		ctx := context.Background()
		a := tenant(t, s, "a")
		m := fresh("")
		m.State, m.Spec.Revision = sandbox.Warm, "r0"
		if err := s.AddMember(ctx, m); err != nil {
			t.Fatal(err)
		}
		big := fresh("")
		big.State, big.Spec.Memory = sandbox.Warm, big.Spec.Memory*2
		if err := s.AddMember(ctx, big); err != nil {
			t.Fatal(err)
		}
		if got, _, err := s.Create(ctx, fresh(a), sandbox.CreateRequest{}, 0); err != nil || got.State != sandbox.Provisioning {
			t.Errorf("Create = %s in %s, %v; want a new one", got.ID, got.State, err)
		}
	})
}

func TestMoveIsConditionalAndBringsItsEvents(t *testing.T) {
	onBoth(t, func(t *testing.T, s *Store) {
		ctx := context.Background()
		a := tenant(t, s, "a")
		sb, _, err := s.Create(ctx, fresh(a), sandbox.CreateRequest{}, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Move(ctx, sb.ID, sandbox.Destroyed, sandbox.Running, nil); code(err) != sandbox.CodeConflict {
			t.Errorf("an illegal move = %v", err)
		}
		oops := event.Event{Type: event.Error, Data: map[string]any{"code": "OUT_OF_MEMORY"}}
		got, err := s.Move(ctx, sb.ID, sandbox.Provisioning, sandbox.Failed, func(sb *sandbox.Sandbox) { sb.Reason = "why" }, oops)
		if err != nil || got.State != sandbox.Failed || got.Reason != "why" {
			t.Fatalf("Move = %+v, %v", got, err)
		}
		if _, err := s.Move(ctx, sb.ID, sandbox.Provisioning, sandbox.Running, nil); code(err) != sandbox.CodeConflict {
			t.Errorf("a second move from the same state = %v", err)
		}
		if _, err := s.Move(ctx, sandbox.NewID(), sandbox.Provisioning, sandbox.Running, nil); code(err) != sandbox.CodeNotFound {
			t.Errorf("a move of an unknown one = %v", err)
		}
		events, err := s.EventsAfter(ctx, sb.ID, 1, 10)
		if err != nil || len(events) != 2 || events[0].Type != event.Error || events[1].Data["state"] != "error" || events[1].Data["previous_state"] != "provisioning" {
			t.Errorf("events = %+v, %v", events, err)
		}
	})
}

func TestEventsAreAnnouncedInOrderAfterTheyAreDurable(t *testing.T) {
	onBoth(t, func(t *testing.T, s *Store) {
		ctx := context.Background()
		var mu sync.Mutex
		var seqs []int64
		s.Announce(func(e event.Event) {
			mu.Lock()
			defer mu.Unlock()
			seqs = append(seqs, e.Seq)
		})
		a := tenant(t, s, "a")
		var wg sync.WaitGroup
		for range 50 {
			wg.Go(func() {
				if _, _, err := s.Create(ctx, fresh(a), sandbox.CreateRequest{}, 25); err != nil && code(err) != sandbox.CodeSandboxLimit {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		mu.Lock()
		defer mu.Unlock()
		if len(seqs) != 25 || !slices.IsSorted(seqs) {
			t.Errorf("announced %v, want 25 in order", seqs)
		}
	})
}

func TestListFilters(t *testing.T) {
	onBoth(t, func(t *testing.T, s *Store) {
		ctx := context.Background()
		a := tenant(t, s, "a")
		var made []sandbox.Sandbox
		for i := range 4 {
			sb := fresh(a)
			sb.CreatedAt = sb.CreatedAt.Add(time.Duration(i) * time.Second)
			sb.External = sandbox.External{Workspace: fmt.Sprint("w", i%2), User: fmt.Sprint("u", i), Project: "p"}
			got, _, err := s.Create(ctx, sb, sandbox.CreateRequest{Workspace: sandbox.Place{Slug: fmt.Sprint("ws", i%2)}}, 0)
			if err != nil {
				t.Fatal(err)
			}
			made = append(made, got)
		}
		if _, err := s.Move(ctx, made[3].ID, sandbox.Provisioning, sandbox.Destroyed, nil); err != nil {
			t.Fatal(err)
		}
		cases := []struct {
			name string
			f    sandbox.Filter
			want []int
		}{
			{"all but destroyed, newest first", sandbox.Filter{}, []int{2, 1, 0}},
			{"workspace", sandbox.Filter{Workspace: made[0].Workspace}, []int{2, 0}},
			{"project", sandbox.Filter{Project: made[1].Project}, []int{1}},
			{"external workspace", sandbox.Filter{External: sandbox.External{Workspace: "w0"}}, []int{2, 0}},
			{"external user", sandbox.Filter{External: sandbox.External{User: "u1"}}, []int{1}},
			{"external project", sandbox.Filter{External: sandbox.External{Project: "no"}}, nil},
			{"state", sandbox.Filter{States: []sandbox.State{sandbox.Destroyed}}, []int{3}},
			{"hidden state", sandbox.Filter{States: []sandbox.State{sandbox.Warm}}, nil},
			{"together", sandbox.Filter{States: []sandbox.State{sandbox.Provisioning}, External: sandbox.External{Workspace: "w0", User: "u2"}}, []int{2}},
			{"a page", sandbox.Filter{Limit: 1, Offset: 1}, []int{1}},
		}
		for _, c := range cases {
			c.f.Tenant = a
			list, err := s.List(ctx, c.f)
			if err != nil {
				t.Fatal(err)
			}
			var got []int
			for _, sb := range list.Sandboxes {
				got = append(got, slices.IndexFunc(made, func(m sandbox.Sandbox) bool { return m.ID == sb.ID }))
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("%s: got %v, want %v", c.name, got, c.want)
			}
		}
	})
}

func TestPlaces(t *testing.T) {
	onBoth(t, func(t *testing.T, s *Store) {
		ctx := context.Background()
		a, b := tenant(t, s, "a"), tenant(t, s, "b")
		create := func(tn sandbox.TenantID, w, p sandbox.Place) (sandbox.Sandbox, error) {
			sb, _, err := s.Create(ctx, fresh(tn), sandbox.CreateRequest{Workspace: w, Project: p}, 0)
			return sb, err
		}
		one, err := create(a, sandbox.Place{Slug: "clinic", Name: "Clinic"}, sandbox.Place{Slug: "site"})
		if err != nil {
			t.Fatal(err)
		}
		same, err := create(a, sandbox.Place{Slug: "clinic"}, sandbox.Place{Slug: "site"})
		if err != nil || same.Workspace != one.Workspace || same.Project != one.Project {
			t.Errorf("the same slugs give %s/%s, want %s/%s (%v)", same.Workspace, same.Project, one.Workspace, one.Project, err)
		}
		byID, err := create(a, sandbox.Place{}, sandbox.Place{ID: one.Project})
		if err != nil || byID.Workspace != one.Workspace {
			t.Errorf("a project by id gives workspace %s, want %s (%v)", byID.Workspace, one.Workspace, err)
		}
		foreign, err := create(b, sandbox.Place{Slug: "clinic"}, sandbox.Place{Slug: "site"})
		if err != nil || foreign.Workspace == one.Workspace {
			t.Errorf("two tenants share a workspace (%v)", err)
		}
		for _, c := range []struct{ w, p sandbox.Place }{
			{sandbox.Place{ID: foreign.Workspace}, sandbox.Place{}},
			{sandbox.Place{}, sandbox.Place{ID: foreign.Project}},
			{sandbox.Place{Slug: "elsewhere"}, sandbox.Place{ID: one.Project}},
		} {
			if _, err := create(a, c.w, c.p); code(err) != sandbox.CodeValidation {
				t.Errorf("Create in %+v = %v, want a validation error", c, err)
			}
		}
	})
}

func TestFullDiskIsSaidAndRecovers(t *testing.T) {
	ctx, s := context.Background(), openSQLite(t)
	a := tenant(t, s, "a")
	var pages int
	if err := s.write.QueryRow("pragma page_count").Scan(&pages); err != nil {
		t.Fatal(err)
	}
	if _, err := s.write.Exec(fmt.Sprintf("pragma max_page_count = %d", pages+4)); err != nil {
		t.Fatal(err)
	}
	big := fresh(a)
	big.Metadata = map[string]any{"x": strings.Repeat("x", 1<<20)}
	var wg sync.WaitGroup
	for range 8 { // together: one batch must not harm another caller's rows
		wg.Go(func() {
			sb := big
			sb.ID, sb.Slug = sandbox.NewID(), sandbox.NewSlug()
			_, _, err := s.Create(ctx, sb, sandbox.CreateRequest{}, 0)
			if code(err) != sandbox.CodeHostFull || sandbox.AsError(err).Kind != sandbox.Unavailable {
				t.Errorf("Create on a full disk = %v", err)
			}
		})
	}
	wg.Wait()
	if list, err := s.List(ctx, sandbox.Filter{Tenant: a}); err != nil || list.Total != 0 {
		t.Errorf("rows of failed creates: %d, %v", list.Total, err)
	}
	if _, err := s.write.Exec("pragma max_page_count = 1000000"); err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.Create(ctx, big, sandbox.CreateRequest{}, 0); err != nil {
		t.Errorf("Create with space again: %v", err)
	}
}

func TestPrune(t *testing.T) {
	onBoth(t, func(t *testing.T, s *Store) {
		ctx := context.Background()
		a := tenant(t, s, "a")
		var ids []sandbox.ID
		for i := range 3 {
			sb, _, err := s.Create(ctx, fresh(a), sandbox.CreateRequest{Idempotency: sandbox.Idempotency{Key: fmt.Sprint(i)}}, 0)
			if err != nil {
				t.Fatal(err)
			}
			ids = append(ids, sb.ID)
		}
		for _, id := range ids[:2] {
			if _, err := s.Move(ctx, id, sandbox.Provisioning, sandbox.Destroyed, nil); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.MarkFreed(ctx, ids[0]); err != nil {
			t.Fatal(err)
		}
		if err := s.Prune(ctx, time.Now().Add(60*24*time.Hour)); err != nil {
			t.Fatal(err)
		}
		for i, want := range []string{sandbox.CodeNotFound, "", ""} { // freed, not freed, live
			if _, err := s.Sandbox(ctx, a, string(ids[i])); code(err) != want {
				t.Errorf("sandbox %d after a long time = %v, want %q", i, err, want)
			}
		}
		if events, _ := s.EventsAfter(ctx, ids[2], 0, 10); len(events) != 0 {
			t.Errorf("old events are still there: %v", events)
		}
		var n int
		if err := s.read.QueryRow("select count(*) from idempotency").Scan(&n); err != nil || n != 0 {
			t.Errorf("%d idempotency records are left (%v)", n, err)
		}
	})
}

func TestPruneKeepsTheNewestEndedOfEachTenant(t *testing.T) {
	onBothWith(t, Config{MaxEnded: 2}, func(t *testing.T, s *Store) {
		ctx := context.Background()
		a, b := tenant(t, s, "a"), tenant(t, s, "b")
		var ids []sandbox.ID
		for i, tn := range []sandbox.TenantID{a, a, a, a, a, b} {
			sb, _, err := s.Create(ctx, fresh(tn), sandbox.CreateRequest{}, 0)
			if err != nil {
				t.Fatal(err)
			}
			ids = append(ids, sb.ID)
			if i == 0 { // lives
				continue
			}
			if _, err := s.Move(ctx, sb.ID, sandbox.Provisioning, sandbox.Destroyed, nil); err != nil {
				t.Fatal(err)
			}
			if i == 1 { // may hold something
				continue
			}
			if err := s.MarkFreed(ctx, sb.ID); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.Prune(ctx, time.Now()); err != nil {
			t.Fatal(err)
		}
		for i, want := range []string{"", "", sandbox.CodeNotFound, "", "", ""} {
			tn := a
			if i == 5 {
				tn = b
			}
			if _, err := s.Sandbox(ctx, tn, string(ids[i])); code(err) != want {
				t.Errorf("sandbox %d = %v, want %q", i, err, want)
			}
		}
	})
}

func TestEndedSandboxesKeepNoEnvironment(t *testing.T) {
	onBoth(t, func(t *testing.T, s *Store) {
		ctx := context.Background()
		for _, end := range []sandbox.State{sandbox.Destroyed, sandbox.Failed} {
			sb := fresh(tenant(t, s, string(end)))
			sb.Spec.Env = map[string]string{"TOKEN": "s3cret"}
			if _, _, err := s.Create(ctx, sb, sandbox.CreateRequest{}, 0); err != nil {
				t.Fatal(err)
			}
			got, err := s.Move(ctx, sb.ID, sandbox.Provisioning, end, nil)
			if err != nil || got.Spec.Env != nil {
				t.Errorf("%s with %v, %v; want no environment", end, got.Spec.Env, err)
			}
		}
		var n int
		if err := s.read.QueryRow("select count(*) from sandboxes where env like '%s3cret%'").Scan(&n); err != nil || n != 0 {
			t.Errorf("%d rows hold the secret (%v)", n, err)
		}
	})
}

func TestErrorEventsOfOneSandboxAreBounded(t *testing.T) {
	onBoth(t, func(t *testing.T, s *Store) {
		ctx := context.Background()
		a := tenant(t, s, "a")
		sb, _, err := s.Create(ctx, fresh(a), sandbox.CreateRequest{}, 0)
		if err != nil {
			t.Fatal(err)
		}
		oops := event.Event{Sandbox: sb.ID, Tenant: a, Type: event.Error, Data: map[string]any{"code": sandbox.CodeDiskFull}}
		for i := range maxErrors + 5 {
			e, err := s.AppendEvent(ctx, oops)
			if err != nil || (e.Seq != 0) != (i <= maxErrors) {
				t.Fatalf("error %d = %+v, %v", i, e, err)
			}
		}
		// What ends it is always told.
		end := event.Event{Type: event.Error, Data: map[string]any{"code": sandbox.CodeOutOfMemory}}
		if _, err := s.Move(ctx, sb.ID, sandbox.Provisioning, sandbox.Failed, nil, end); err != nil {
			t.Fatal(err)
		}
		list, err := s.EventsAfter(ctx, sb.ID, 0, 1000)
		if err != nil || len(list) != 1+maxErrors+1+2 {
			t.Fatalf("%d events, %v", len(list), err)
		}
		for i, want := range map[int]string{maxErrors: sandbox.CodeDiskFull, maxErrors + 1: sandbox.CodeRateLimited, maxErrors + 2: sandbox.CodeOutOfMemory} {
			if got := list[i].Data["code"]; got != want {
				t.Errorf("event %d is %v, want %s", i, list[i].Data, want)
			}
		}
	})
}

func TestRowsSurviveAndMigrationsRunOnce(t *testing.T) {
	ctx := context.Background()
	path := filepath.Join(t.TempDir(), "a b?.db")
	for i := range 2 {
		s, err := Open(ctx, Config{Path: path})
		if err != nil {
			t.Fatal(err)
		}
		v, err := s.Meta(ctx, "n")
		if want := []string{"", "0"}[i]; err != nil || v != want {
			t.Errorf("run %d reads %q, %v; want %q", i, v, err, want)
		}
		if err := s.SetMeta(ctx, "n", fmt.Sprint(i)); err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if err := s.SetMeta(ctx, "n", "late"); code(err) != sandbox.CodeUnavailable {
			t.Errorf("a write after Close = %v", err)
		}
	}
}

func TestCancelledCallerWritesNothingOrAll(t *testing.T) {
	onBoth(t, func(t *testing.T, s *Store) {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		if err := s.SetMeta(ctx, "n", "1"); !errors.Is(err, context.Canceled) {
			t.Errorf("SetMeta of a cancelled caller = %v", err)
		}
	})
}

func TestTemplatesAndSnapshots(t *testing.T) {
	onBoth(t, func(t *testing.T, s *Store) {
		ctx := context.Background()
		tpl := sandbox.Template{ID: "t", Slug: "t", Name: "T", Status: sandbox.TemplateReady, Revision: "1", Image: "sha256:i", Workdir: "/w",
			User: "root", Env: map[string]string{"A": "b"}, Tags: []string{"x"}, Metadata: map[string]any{"k": "v"},
			CreatedAt: time.Now().UTC().Truncate(time.Microsecond)}
		if _, err := s.Template(ctx, "t"); code(err) != sandbox.CodeNoSuchTemplate {
			t.Errorf("no template yet: %v", err)
		}
		for _, rev := range []string{"1", "2"} {
			tpl.Revision = rev
			if err := s.SaveTemplate(ctx, tpl); err != nil {
				t.Fatal(err)
			}
		}
		if got, err := s.Template(ctx, "t"); err != nil || !cmp.Equal(got, tpl) {
			t.Errorf("Template = %+v, %v; want %+v", got, err, tpl)
		}
		sn := sandbox.Seed{Template: "t", Revision: "2", Key: "k", Ref: "sha256:a", CreatedAt: tpl.CreatedAt}
		for _, ref := range []sandbox.Ref{"sha256:a", "sha256:b"} {
			sn.Ref = ref
			if err := s.SaveSeed(ctx, sn); err != nil {
				t.Fatal(err)
			}
		}
		if got, err := s.Seed(ctx, "t", "2", "k"); err != nil || got != sn {
			t.Errorf("Snapshot = %+v, %v; want %+v", got, err, sn)
		}
		if err := s.DeleteSeed(ctx, sn.Ref); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Seed(ctx, "t", "2", "k"); code(err) != sandbox.CodeNotFound {
			t.Errorf("a deleted snapshot: %v", err)
		}
	})
}

func BenchmarkCreate(b *testing.B) {
	b.Run("sqlite", func(b *testing.B) { benchmarkCreate(b, openSQLite(b)) })
	b.Run("postgres", func(b *testing.B) { benchmarkCreate(b, openPostgres(b, newDatabase(b))) })
}

func benchmarkCreate(b *testing.B, s *Store) {
	a := tenant(b, s, "a")
	b.Run("one at a time", func(b *testing.B) {
		for b.Loop() {
			if _, _, err := s.Create(b.Context(), fresh(a), sandbox.CreateRequest{}, 1<<30); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("many at once", func(b *testing.B) {
		b.SetParallelism(16)
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				if _, _, err := s.Create(b.Context(), fresh(a), sandbox.CreateRequest{}, 1<<30); err != nil {
					b.Fatal(err)
				}
			}
		})
	})
}
