package store

import (
	"context"
	"strings"
	"testing"

	"silica.dev/silica/sandbox"
)

func TestKeys(t *testing.T) {
	ctx, s := context.Background(), open(t)
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
	if want := (sandbox.Caller{KeyID: key.ID, Tenant: tn.ID, User: key.User, MaxSandboxes: 3}); err != nil || got != want {
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
}

func TestRevokedBootstrapKeyStaysRevoked(t *testing.T) {
	ctx, s := context.Background(), open(t)
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
}

func TestSecretsAreNotKept(t *testing.T) {
	ctx, s := context.Background(), open(t)
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
}

func TestDeleteTenant(t *testing.T) {
	ctx, s := context.Background(), open(t)
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
}
