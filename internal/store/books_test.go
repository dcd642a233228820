package store

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"silica.dev/silica/sandbox"
)

// at makes many do f at the same moment, and returns what each said.
func at(n int, f func(i int) error) []error {
	var start, done sync.WaitGroup
	start.Add(1)
	errs := make([]error, n)
	for i := range n {
		done.Go(func() {
			start.Wait()
			errs[i] = f(i)
		})
	}
	start.Done()
	done.Wait()
	return errs
}

// "enforced at create in the same transaction as the row": of 32 at once, as many
// as the limit get in.
func TestQuotasHoldAgainstParallelCreates(t *testing.T) {
	size := sandbox.Resources{MilliCPU: 1000, Memory: 1024 * sandbox.MiB, Disk: 3072 * sandbox.MiB} // of fresh
	for name, q := range map[string]struct {
		tenant   sandbox.Tenant
		external *sandbox.ExternalQuota
		code     string
	}{
		"sandboxes":               {tenant: sandbox.Tenant{MaxSandboxes: 5}, code: sandbox.CodeSandboxLimit},
		"cores":                   {tenant: sandbox.Tenant{Limits: sandbox.Resources{MilliCPU: 5*size.MilliCPU + 1}}, code: sandbox.CodeQuota},
		"memory":                  {tenant: sandbox.Tenant{Limits: sandbox.Resources{Memory: 5 * size.Memory}}, code: sandbox.CodeQuota},
		"storage":                 {tenant: sandbox.Tenant{Limits: sandbox.Resources{Disk: 6*size.Disk - 1}}, code: sandbox.CodeQuota},
		"external max_sandboxes":  {external: &sandbox.ExternalQuota{MaxSandboxes: 5}, code: sandbox.CodeQuota},
		"external max_concurrent": {external: &sandbox.ExternalQuota{MaxConcurrent: 5}, code: sandbox.CodeQuota},
		"external max_storage_gb": {external: &sandbox.ExternalQuota{MaxStorageGB: 15}, code: sandbox.CodeQuota},
	} {
		t.Run(name, func(t *testing.T) {
			onBoth(t, func(t *testing.T, s *Store) {
				ctx := context.Background()
				q.tenant.Slug = "a"
				tn, err := s.CreateTenant(ctx, q.tenant)
				if err != nil {
					t.Fatal(err)
				}
				if q.external != nil {
					q.external.User = "u"
					if err := s.SetQuota(ctx, tn.ID, *q.external); err != nil {
						t.Fatal(err)
					}
				}
				in := 0
				for _, err := range at(32, func(int) error {
					sb := fresh(tn.ID)
					sb.External.User = "u"
					_, _, err := s.Create(ctx, sb, sandbox.CreateRequest{}, 0)
					return err
				}) {
					switch {
					case err == nil:
						in++
					case code(err) != q.code:
						t.Errorf("refused with %v, want %s", err, q.code)
					}
				}
				if in != 5 {
					t.Errorf("%d got in, want 5", in)
				}
				if q.external != nil { // others are not concerned
					sb := fresh(tn.ID)
					sb.External.User = "v"
					if _, _, err := s.Create(ctx, sb, sandbox.CreateRequest{}, 0); err != nil {
						t.Errorf("another external user: %v", err)
					}
				}
			})
		})
	}
}

func TestKeyQuota(t *testing.T) {
	onBoth(t, func(t *testing.T, s *Store) {
		ctx := context.Background()
		tn, err := s.CreateTenant(ctx, sandbox.Tenant{Slug: "a", MaxKeys: 5})
		if err != nil {
			t.Fatal(err)
		}
		made := 0
		for _, err := range at(16, func(int) error { _, _, err := s.CreateKey(ctx, sandbox.Key{Tenant: tn.ID}); return err }) {
			if err == nil {
				made++
			} else if code(err) != sandbox.CodeQuota {
				t.Error(err)
			}
		}
		if made != 5 {
			t.Errorf("%d keys, want 5", made)
		}
	})
}

var testPrices = sandbox.Prices{CoreHour: 10 * sandbox.Credit, GiBHour: sandbox.Credit}

// A transaction that shares a commit with one that fails runs once more. That
// must not make another of an idempotency key.
func TestGrantIsRecognisedAfterASecondRun(t *testing.T) {
	onBoth(t, func(t *testing.T, s *Store) {
		ctx := context.Background()
		tn := tenant(t, s, "a")
		const rounds = 20
		for i := range rounds {
			key := fmt.Sprint("k", i)
			held, release := make(chan struct{}), make(chan struct{})
			var all sync.WaitGroup
			all.Go(func() {
				_ = s.do(ctx, "hold the writer", func(*tx) error { close(held); <-release; return nil })
			})
			<-held
			for range 4 { // most likely they wait when the writer comes back
				all.Go(func() { _ = s.do(ctx, "fail", func(*tx) error { return noTenant }) })
			}
			all.Go(func() {
				if _, err := s.Grant(ctx, tn, sandbox.Credit, "", key); err != nil {
					t.Error(err)
				}
			})
			close(release)
			all.Wait()
			if _, err := s.Grant(ctx, tn, sandbox.Credit, "", key); err != nil {
				t.Fatal(err)
			}
		}
		if _, n, err := s.Entries(ctx, tn, 1, 0); n != rounds || err != nil {
			t.Errorf("%d grants for %d keys, %v", n, rounds, err)
		}
	})
}

// However many charge at once, each run is paid for once, and the balance is the
// sum of the ledger.
func TestLedgerUnderParallelCharges(t *testing.T) {
	onBothWith(t, Config{Prices: testPrices}, func(t *testing.T, s *Store) {
		ctx := context.Background()
		tn := tenant(t, s, "a")
		if _, _, err := s.Create(ctx, fresh(tn), sandbox.CreateRequest{}, 0); code(err) != sandbox.CodeCredits {
			t.Fatalf("create without credits: %v", err)
		}
		for range 2 { // the same key grants once
			if _, err := s.Grant(ctx, tn, 100*sandbox.Credit, "first", "k"); err != nil {
				t.Fatal(err)
			}
		}
		var boxes []sandbox.Sandbox
		for range 8 {
			sb := fresh(tn)
			sb.External.User = "u"
			sb, _, err := s.Create(ctx, sb, sandbox.CreateRequest{}, 0)
			if err != nil {
				t.Fatal(err)
			}
			if sb, err = s.Move(ctx, sb.ID, sandbox.Provisioning, sandbox.Running, nil); err != nil {
				t.Fatal(err)
			}
			boxes = append(boxes, sb)
		}
		began := boxes[len(boxes)-1].UpdatedAt
		for _, err := range at(8, func(i int) error {
			return s.Settle(ctx, time.Time{}, began.Add(time.Duration(i+1)*15*time.Minute), true)
		}) {
			if err != nil {
				t.Fatal(err)
			}
		}
		sums := func() (balance, ledger, used sandbox.Credits) {
			t.Helper()
			all, total, err := s.Entries(ctx, tn, 1000, 0)
			if err != nil || len(all) != total {
				t.Fatal(len(all), total, err)
			}
			for _, e := range all {
				ledger += e.Amount
				if e.Kind == sandbox.EntryUsage {
					used -= e.Amount
				}
			}
			balance, _, _, err = s.Balance(ctx, tn, sandbox.Window{})
			if err != nil {
				t.Fatal(err)
			}
			return balance, ledger, used
		}
		balance, ledger, used := sums()
		// Two hours of 8 sandboxes with a core and a GiB each: 8 × 2 × 11, and the moments between their starts.
		if least := 176 * sandbox.Credit; balance != ledger || used < least || used > least+sandbox.Credit {
			t.Errorf("balance %d, ledger %d, used %d", balance, ledger, used)
		}
		if _, _, err := s.Create(ctx, fresh(tn), sandbox.CreateRequest{}, 0); code(err) != sandbox.CodeCredits {
			t.Errorf("create with an exhausted balance: %v", err)
		}
		// Their true end is earlier than the clock of the test said: nothing is
		// paid back or again, and the books on them are closed.
		for _, sb := range boxes {
			if _, err := s.Move(ctx, sb.ID, sandbox.Running, sandbox.Destroyed, nil); err != nil {
				t.Fatal(err)
			}
		}
		for _, err := range at(4, func(int) error { return s.Settle(ctx, time.Time{}, time.Now(), true) }) {
			if err != nil {
				t.Fatal(err)
			}
		}
		if after, ledger, _ := sums(); after != balance || ledger != balance {
			t.Errorf("balance %d became %d, ledger %d", balance, after, ledger)
		}
		var open int
		if err := s.read.QueryRow(`select count(*) from charges where final = $1`, false).Scan(&open); err != nil || open != 0 {
			t.Errorf("%d runs are not closed, %v", open, err)
		}
		// An external user's own bound.
		if _, err := s.Grant(ctx, tn, 1000*sandbox.Credit, "", ""); err != nil {
			t.Fatal(err)
		}
		if err := s.SetQuota(ctx, tn, sandbox.ExternalQuota{User: "u", MaxCreditCents: 100}); err != nil {
			t.Fatal(err)
		}
		sb := fresh(tn)
		sb.External.User = "u"
		if _, _, err := s.Create(ctx, sb, sandbox.CreateRequest{}, 0); code(err) != sandbox.CodeCredits {
			t.Errorf("create for an external user without credit: %v", err)
		}
		if _, _, err := s.Create(ctx, fresh(tn), sandbox.CreateRequest{}, 0); err != nil {
			t.Errorf("create for nobody in particular: %v", err)
		}
		if _, err := s.Grant(ctx, tn, sandbox.Credit, "", "k"); code(err) != sandbox.CodeIdempotency {
			t.Errorf("the same key for another amount: %v", err)
		}
	})
}

func TestUsageWithinAWindow(t *testing.T) {
	onBoth(t, func(t *testing.T, s *Store) {
		ctx := context.Background()
		tn, other := tenant(t, s, "a"), tenant(t, s, "b")
		day := time.Date(2026, 3, 10, 0, 0, 0, 0, time.UTC)
		add := func(tn sandbox.TenantID, user, workspace string, from, to time.Time) {
			t.Helper()
			_, err := s.write.Exec(`insert into runs (sandbox, tenant, workspace, project, ext_workspace, ext_user, ext_project, milli_cpu, memory,
				started_at, ended_at, metered_at, cpu_us, net_in, net_out, seen_cpu_us, seen_net_in, seen_net_out)
				values ($1, $2, $3, 'p', '', $4, '', 2000, $5, $6, $7, 0, 1000000, 10, 20, 0, 0, 0)`,
				string(sandbox.NewID()), string(tn), workspace, user, 1024*sandbox.MiB, micros(from), micros(to))
			if err != nil {
				t.Fatal(err)
			}
		}
		h := func(n int) time.Time { return day.Add(time.Duration(n) * time.Hour) }
		add(tn, "u", "w1", h(-2), h(1))        // reaches in from before
		add(tn, "u", "w1", h(3), h(4))         // within
		add(tn, "v", "w2", h(20), h(30))       // reaches over midnight
		add(tn, "v", "w2", h(40), time.Time{}) // goes on
		add(tn, "x", "w2", h(-9), h(-8))       // before
		add(tn, "x", "w2", h(100), h(101))     // after
		add(other, "u", "w1", h(0), h(10))     // another's
		f := sandbox.UsageFilter{Tenant: tn, Window: sandbox.Window{From: day, To: h(48)}}
		show := func(by sandbox.GroupBy) string {
			t.Helper()
			sums, err := s.SumUsage(ctx, f, by)
			if err != nil {
				t.Fatal(err)
			}
			var parts []string
			for _, u := range sums {
				parts = append(parts, fmt.Sprintf("%s=%v/%d/%d", u.Group, u.Runtime.Hours(), u.MilliCPU/3600/1000/1000, u.Runs))
			}
			return strings.Join(parts, " ")
		}
		for by, want := range map[sandbox.GroupBy]string{
			sandbox.ByNothing: "=20/40/4", sandbox.ByExternalUser: "u=2/4/2 v=18/36/2", sandbox.ByWorkspace: "w1=2/4/2 w2=18/36/2",
			sandbox.ByDay: "2026-03-10=6/12/3 2026-03-11=14/28/2",
		} {
			if got := show(by); got != want {
				t.Errorf("by %q: %s, want %s", by, got, want)
			}
		}
		f.External.User = "u"
		if got := show(sandbox.ByNothing); got != "=2/4/2" {
			t.Errorf("of u: %s", got)
		}
		list, total, err := s.Runs(ctx, f, 1, 1)
		if err != nil || total != 2 || len(list) != 1 || !list[0].StartedAt.Equal(h(-2)) || list[0].CPU != time.Second {
			t.Errorf("runs: %+v of %d, %v", list, total, err)
		}
		f.Tenant = "tnt_none"
		if got := show(sandbox.ByExternalUser); got != "" {
			t.Errorf("of no tenant: %s", got)
		}
		if _, err := s.SumUsage(ctx, f, "drop table"); code(err) != sandbox.CodeValidation {
			t.Errorf("grouped by nonsense: %v", err)
		}
	})
}

func TestSomebodyAlwaysOwns(t *testing.T) {
	onBoth(t, func(t *testing.T, s *Store) {
		ctx := context.Background()
		tn, other := tenant(t, s, "a"), tenant(t, s, "b")
		user := func(tn sandbox.TenantID, role sandbox.Role) string {
			t.Helper()
			u, err := s.CreateUser(ctx, sandbox.User{Tenant: tn, Name: "x", Role: role})
			if err != nil {
				t.Fatal(err)
			}
			return u.ID
		}
		if _, err := s.EnsureAdminKey(ctx, "msk_root"); err != nil {
			t.Fatal(err)
		}
		one, two, foreign := user(tn, sandbox.Owner), user(tn, ""), user(other, sandbox.Owner)
		ws, err := s.CreateWorkspace(ctx, sandbox.Workspace{Tenant: tn, Name: "Dr. Smith's Clinic!"}, one)
		if err != nil || ws.Slug != "dr-smith-s-clinic" {
			t.Fatal(ws, err)
		}
		again, err := s.CreateWorkspace(ctx, sandbox.Workspace{Tenant: tn, Name: ws.Name}, one)
		if err != nil || again.Slug == ws.Slug {
			t.Errorf("the same name again: %v, %v", again, err)
		}
		if _, err := s.CreateWorkspace(ctx, sandbox.Workspace{Tenant: tn, Slug: ws.Slug}, one); code(err) != sandbox.CodeConflict {
			t.Errorf("the same slug again: %v", err)
		}
		ok := func(sandbox.Role) error { return nil }
		okUser := func(sandbox.User) error { return nil }
		_, err = s.SetMember(ctx, tn, ws.ID, one, sandbox.Viewer, ok)
		for what, err := range map[string]error{
			"demote": err,
			"remove": s.RemoveMember(ctx, tn, ws.ID, one, ok),
			"delete": s.DeleteUser(ctx, tn, one, okUser),
			"foreign": func() error {
				_, err := s.ChangeUser(ctx, other, foreign, func(u *sandbox.User) error { u.Role = sandbox.Admin; return nil })
				return err
			}(),
		} {
			if code(err) != sandbox.CodeConflict {
				t.Errorf("%s the last owner: %v", what, err)
			}
		}
		if _, err := s.SetMember(ctx, tn, ws.ID, foreign, sandbox.Viewer, ok); code(err) != sandbox.CodeValidation {
			t.Errorf("a user of another tenant becomes a member: %v", err)
		}
		if _, err := s.SetMember(ctx, other, ws.ID, foreign, sandbox.Viewer, ok); code(err) != sandbox.CodeNotFound {
			t.Errorf("in a workspace of another tenant: %v", err)
		}
		// A role in one workspace, and a key for it, which follows the role.
		if _, err := s.SetMember(ctx, tn, ws.ID, two, sandbox.Developer, ok); err != nil {
			t.Fatal(err)
		}
		of, confined, err := s.CreateKey(ctx, sandbox.Key{Tenant: tn, User: two, Workspace: ws.ID})
		if err != nil {
			t.Fatal(err)
		}
		_, derived, err := s.CreateKey(ctx, sandbox.Key{
			Tenant: tn, User: user(tn, sandbox.Viewer), Workspace: ws.ID, Type: sandbox.ScopedKey, Parent: of.ID, ExpiresAt: time.Now().Add(time.Hour),
		})
		if err != nil {
			t.Fatal(err)
		}
		_, wide, err := s.CreateKey(ctx, sandbox.Key{Tenant: tn, User: two})
		if err != nil {
			t.Fatal(err)
		}
		may := func(secret string) sandbox.Scopes {
			t.Helper()
			c, err := s.Authenticate(ctx, secret)
			if err != nil {
				t.Fatal(err)
			}
			return c.Scopes
		}
		if may(confined) != sandbox.Developer.May() || may(wide) != 0 {
			t.Errorf("a developer's keys may %v and %v", may(confined).Names(), may(wide).Names())
		}
		if _, err := s.SetMember(ctx, tn, ws.ID, two, sandbox.Viewer, ok); err != nil {
			t.Fatal(err)
		}
		if may(confined) != sandbox.Viewer.May() {
			t.Errorf("after the demotion: %v", may(confined).Names())
		}
		if err := s.RemoveMember(ctx, tn, ws.ID, two, ok); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Authenticate(ctx, confined); code(err) != sandbox.CodeUnauthorized {
			t.Errorf("the key of a former member: %v", err)
		}
		if _, err := s.Authenticate(ctx, derived); code(err) != sandbox.CodeUnauthorized {
			t.Errorf("what a former member derived for somebody else: %v", err)
		}
		// A workspace with sandboxes stays.
		sb, _, err := s.Create(ctx, fresh(tn), sandbox.CreateRequest{Workspace: sandbox.Place{ID: ws.ID}}, 0)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.DeleteWorkspace(ctx, tn, ws.ID); code(err) != sandbox.CodeConflict {
			t.Errorf("delete a workspace with a sandbox: %v", err)
		}
		if _, err := s.Move(ctx, sb.ID, sandbox.Provisioning, sandbox.Destroyed, nil); err != nil {
			t.Fatal(err)
		}
		if err := s.DeleteWorkspace(ctx, tn, ws.ID); err != nil {
			t.Error(err)
		}
	})
}

func TestAuditIsPagedAndPruned(t *testing.T) {
	onBoth(t, func(t *testing.T, s *Store) {
		ctx := context.Background()
		var ids []string
		for i := range 5 {
			a := sandbox.Audit{ID: sandbox.NewLine("aud_"), Tenant: "tnt_a", Key: fmt.Sprint("key_", i%2), Method: "POST", Route: "/x", Status: 201, At: time.Now()}
			if err := s.AddAudit(ctx, a); err != nil {
				t.Fatal(err)
			}
			ids = append(ids, a.ID)
		}
		slices.Sort(ids)
		slices.Reverse(ids)
		var got []string
		for f := (sandbox.AuditFilter{Tenant: "tnt_a", Limit: 2}); ; {
			page, err := s.Audits(ctx, f)
			if err != nil {
				t.Fatal(err)
			}
			if len(page) == 0 {
				break
			}
			for _, a := range page {
				got = append(got, a.ID)
			}
			f.Before = page[len(page)-1].ID
		}
		if !slices.Equal(got, ids) {
			t.Errorf("got %v, want %v", got, ids)
		}
		if page, err := s.Audits(ctx, sandbox.AuditFilter{Tenant: "tnt_a", Key: "key_1"}); err != nil || len(page) != 2 {
			t.Errorf("by key: %v, %v", page, err)
		}
		if page, err := s.Audits(ctx, sandbox.AuditFilter{Tenant: "tnt_b"}); err != nil || len(page) != 0 {
			t.Errorf("another tenant's: %v, %v", page, err)
		}
		if err := s.Prune(ctx, time.Now().Add(91*24*time.Hour)); err != nil {
			t.Fatal(err)
		}
		if page, err := s.Audits(ctx, sandbox.AuditFilter{Tenant: "tnt_a"}); err != nil || len(page) != 0 {
			t.Errorf("after its time: %v, %v", page, err)
		}
	})
}
