package store

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"silica.dev/silica/sandbox"
)

func TestKeys(t *testing.T) {
	onBoth(t, func(t *testing.T, s *Store) {
		ctx := context.Background()
		created, err := s.EnsureAdminKey(ctx, "msk_bootstrap")
		if err != nil || !created {
			t.Fatalf("EnsureAdminKey = %v, %v", created, err)
		}
		if created, err = s.EnsureAdminKey(ctx, "msk_bootstrap"); err != nil || created {
			t.Errorf("EnsureAdminKey again = %v, %v", created, err)
		}
		admin, err := s.Authenticate(ctx, "msk_bootstrap")
		if err != nil || !admin.Admin || admin.Tenant == "" || admin.User == "" {
			t.Fatalf("Authenticate = %+v, %v", admin, err)
		}
		tn, err := s.CreateTenant(ctx, sandbox.Tenant{Slug: "acme", MaxSandboxes: 3})
		if err != nil {
			t.Fatal(err)
		}
		key, secret, err := s.CreateKey(ctx, sandbox.Key{Tenant: tn.ID, Name: "ci"})
		if err != nil || !strings.HasPrefix(secret, "msk_u_") || len(secret) != len("msk_u_")+43 || !strings.HasPrefix(secret, key.Prefix) {
			t.Fatalf("CreateKey = %+v, %q, %v", key, secret, err)
		}
		got, err := s.Authenticate(ctx, secret)
		if want := (sandbox.Caller{KeyID: key.ID, Tenant: tn.ID, User: key.User, Role: sandbox.Owner, Scopes: sandbox.Owner.May(), MaxSandboxes: 3}); err != nil || got != want {
			t.Errorf("Authenticate = %+v, %v; want %+v", got, err, want)
		}
		for _, bad := range []string{"", "msk_", "msk_u_wrong", secret + "x", strings.TrimPrefix(secret, "msk_")} {
			if _, err := s.Authenticate(ctx, bad); code(err) != sandbox.CodeUnauthorized {
				t.Errorf("Authenticate(%q) = %v", bad, err)
			}
		}
		if err := s.DeleteKey(ctx, admin.Tenant, key.ID); code(err) != sandbox.CodeNotFound {
			t.Errorf("another tenant deletes the key: %v", err)
		}
		if err := s.DeleteKey(ctx, tn.ID, key.ID); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Authenticate(ctx, secret); code(err) != sandbox.CodeUnauthorized {
			t.Errorf("a deleted key still works: %v", err)
		}
		if err := s.DeleteKey(ctx, "", admin.KeyID); code(err) != sandbox.CodeConflict {
			t.Errorf("the last admin key can be deleted: %v", err)
		}
		if _, err := s.Authenticate(ctx, "msk_bootstrap"); err != nil {
			t.Errorf("the last admin key is gone: %v", err)
		}
	})
}

func TestRevokedBootstrapKeyStaysRevoked(t *testing.T) {
	onBoth(t, func(t *testing.T, s *Store) {
		ctx := context.Background()
		if _, err := s.EnsureAdminKey(ctx, "msk_bootstrap"); err != nil {
			t.Fatal(err)
		}
		admin, err := s.Authenticate(ctx, "msk_bootstrap")
		if err != nil {
			t.Fatal(err)
		}
		if created, err := s.EnsureAdminKey(ctx, "msk_second"); err != nil || !created {
			t.Fatalf("another key: %v, %v", created, err)
		}
		if err := s.DeleteKey(ctx, "", admin.KeyID); err != nil {
			t.Fatal(err)
		}
		if created, err := s.EnsureAdminKey(ctx, "msk_bootstrap"); err != nil || created {
			t.Errorf("EnsureAdminKey of a revoked key = %v, %v", created, err)
		}
		if _, err := s.Authenticate(ctx, "msk_bootstrap"); code(err) != sandbox.CodeUnauthorized {
			t.Errorf("a revoked key is back: %v", err)
		}
	})
}

func TestSecretsAreNotKept(t *testing.T) {
	onBoth(t, func(t *testing.T, s *Store) {
		ctx := context.Background()
		tn := tenant(t, s, "a")
		_, secret, err := s.CreateKey(ctx, sandbox.Key{Tenant: tn})
		if err != nil {
			t.Fatal(err)
		}
		rows, err := s.read.Query(`select id || tenant || user_id || name || prefix || hash from api_keys`)
		if err != nil {
			t.Fatal(err)
		}
		defer rows.Close()
		for rows.Next() {
			var text string
			if err := rows.Scan(&text); err != nil || strings.Contains(text, secret) {
				t.Errorf("row %q holds the secret (%v)", text, err)
			}
		}
		if err := rows.Err(); err != nil {
			t.Fatal(err)
		}
	})
}

func TestDeleteTenant(t *testing.T) {
	onBoth(t, func(t *testing.T, s *Store) {
		ctx := context.Background()
		if _, err := s.EnsureAdminKey(ctx, "msk_root"); err != nil {
			t.Fatal(err)
		}
		id := tenant(t, s, "acme")
		_, secret, err := s.CreateKey(ctx, sandbox.Key{Tenant: id})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.CreateTenant(ctx, sandbox.Tenant{Slug: "acme"}); code(err) != sandbox.CodeConflict {
			t.Errorf("a slug is taken twice: %v", err)
		}
		sb, _, err := s.Create(ctx, fresh(id), sandbox.CreateRequest{}, 0)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.DeleteTenant(ctx, id); code(err) != sandbox.CodeConflict {
			t.Errorf("a tenant with a live sandbox is deleted: %v", err)
		}
		if _, err := s.Authenticate(ctx, secret); err != nil {
			t.Errorf("a refused deletion took the key: %v", err)
		}
		if _, err := s.Move(ctx, sb.ID, sandbox.Provisioning, sandbox.Destroyed, nil); err != nil {
			t.Fatal(err)
		}
		if err := s.DeleteTenant(ctx, id); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Authenticate(ctx, secret); code(err) != sandbox.CodeUnauthorized {
			t.Errorf("the key of a deleted tenant works: %v", err)
		}
		if _, _, err := s.Create(ctx, fresh(id), sandbox.CreateRequest{}, 0); code(err) != sandbox.CodeUnauthorized {
			t.Errorf("a deleted tenant creates: %v", err)
		}
		if err := s.DeleteTenant(ctx, id); code(err) != sandbox.CodeNotFound {
			t.Errorf("DeleteTenant twice = %v", err)
		}
		list, err := s.Tenants(ctx)
		if err != nil || len(list) != 1 {
			t.Fatalf("Tenants = %v, %v", list, err)
		}
		if err := s.DeleteTenant(ctx, list[0].ID); code(err) != sandbox.CodeConflict {
			t.Errorf("the operator's tenant with the last admin key is deleted: %v", err)
		}
	})
}

func TestKeyEndsWithItsTimeAndItsParent(t *testing.T) {
	onBoth(t, func(t *testing.T, s *Store) {
		ctx := context.Background()
		changes := 0
		s.OnAccounts(func() { changes++ })
		tn := tenant(t, s, "a")
		parent, secret, err := s.CreateKey(ctx, sandbox.Key{Tenant: tn, Scopes: sandbox.ScopesOf(sandbox.ScopeSandboxesRead)})
		if err != nil {
			t.Fatal(err)
		}
		soon := time.Now().Add(50 * time.Millisecond)
		_, short, err := s.CreateKey(ctx, sandbox.Key{Tenant: tn, User: parent.User, ExpiresAt: soon})
		if err != nil {
			t.Fatal(err)
		}
		c, err := s.Authenticate(ctx, short)
		if err != nil && time.Now().Before(soon) {
			t.Errorf("before its time: %v", err)
		}
		for time.Now().Before(soon) {
			time.Sleep(time.Until(soon))
		}
		if _, err := s.Authenticate(ctx, short); code(err) != sandbox.CodeUnauthorized {
			t.Errorf("an expired key works, though remembered as %+v: %v", c, err)
		}
		_, derived, err := s.CreateKey(ctx, sandbox.Key{Tenant: tn, User: parent.User, Type: sandbox.ScopedKey, Parent: parent.ID, ExpiresAt: time.Now().Add(time.Hour)})
		if err != nil || !strings.HasPrefix(derived, "msk_s_") {
			t.Fatal(derived, err)
		}
		if c, err := s.Authenticate(ctx, derived); err != nil || !c.Derived {
			t.Errorf("%+v, %v", c, err)
		}
		keys, err := s.Keys(ctx, tn)
		if err != nil || len(keys) != 2 || keys[0].Scopes != parent.Scopes {
			t.Errorf("Keys = %+v, %v", keys, err)
		}
		if err := s.DeleteKey(ctx, tn, parent.ID); err != nil {
			t.Fatal(err)
		}
		for _, secret := range []string{secret, derived} {
			if _, err := s.Authenticate(ctx, secret); code(err) != sandbox.CodeUnauthorized {
				t.Errorf("it works without its parent: %v", err)
			}
		}
		if changes != 1 {
			t.Errorf("told of %d changes", changes)
		}
		if _, _, err := s.CreateKey(ctx, sandbox.Key{Tenant: tn, User: parent.User, Type: sandbox.ScopedKey, Parent: parent.ID}); code(err) != sandbox.CodeUnauthorized {
			t.Errorf("derive from a revoked key: %v", err)
		}
		for field, k := range map[string]sandbox.Key{"user_id": {Tenant: tn, User: "usr_none"}, "workspace_id": {Tenant: tn, Workspace: "none"}} {
			if _, _, err := s.CreateKey(ctx, k); code(err) != sandbox.CodeValidation {
				t.Errorf("unknown %s: %v", field, err)
			}
		}
	})
}

func TestTicketsAreTakenOnce(t *testing.T) {
	onBoth(t, func(t *testing.T, s *Store) {
		ctx := context.Background()
		k, _, err := s.CreateKey(ctx, sandbox.Key{Tenant: tenant(t, s, "a")})
		if err != nil {
			t.Fatal(err)
		}
		ticket, err := s.NewTicket(ctx, k.ID)
		if err != nil {
			t.Fatal(err)
		}
		got := make(chan error, 8)
		for range cap(got) {
			go func() {
				c, err := s.Redeem(ctx, ticket)
				if err == nil && c.KeyID != k.ID {
					err = fmt.Errorf("ticket of %s", c.KeyID)
				}
				got <- err
			}()
		}
		taken := 0
		for range cap(got) {
			if err := <-got; err == nil {
				taken++
			} else if code(err) != sandbox.CodeUnauthorized {
				t.Error(err)
			}
		}
		if taken != 1 {
			t.Errorf("taken %d times", taken)
		}
		late, err := s.NewTicket(ctx, k.ID)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.write.Exec(`update tickets set expires_at = $1`, time.Now().UnixMicro()); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Redeem(ctx, late); code(err) != sandbox.CodeUnauthorized {
			t.Errorf("an expired ticket: %v", err)
		}
	})
}

func TestLastUseIsKept(t *testing.T) {
	onBoth(t, func(t *testing.T, s *Store) {
		ctx := context.Background()
		tn := tenant(t, s, "a")
		k, secret, err := s.CreateKey(ctx, sandbox.Key{Tenant: tn})
		if err != nil {
			t.Fatal(err)
		}
		before := time.Now().Add(-time.Second)
		for range 3 {
			if _, err := s.Authenticate(ctx, secret); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.writeUsed(); err != nil {
			t.Fatal(err)
		}
		if got, err := s.Key(ctx, tn, k.ID); err != nil || !got.LastUsedAt.After(before) {
			t.Errorf("%+v, %v", got, err)
		}
	})
}

// What another server on the same database changes is known soon.
func TestChangesOfAnotherServerAreSeen(t *testing.T) {
	ctx, path := context.Background(), filepath.Join(t.TempDir(), "silica.db")
	var both [2]*Store
	for i := range both {
		s, err := Open(ctx, Config{Path: path, SharedEvery: 5 * time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = s.Close() })
		both[i] = s
	}
	tn := tenant(t, both[0], "a")
	k, secret, err := both[0].CreateKey(ctx, sandbox.Key{Tenant: tn})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := both[1].Authenticate(ctx, secret); err != nil {
		t.Fatal(err)
	}
	if err := both[0].DeleteKey(ctx, tn, k.ID); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		if _, err := both[1].Authenticate(ctx, secret); err != nil {
			break
		}
		if time.Now().After(end) {
			t.Fatal("a key that another server revoked goes on working")
		}
	}
}
