package e2e

import (
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// "tenants and API keys (only hashes stored)".
func TestTenantsAndKeys(t *testing.T) {
	t.Parallel()
	admin := shared.as(bootstrapKey)
	tn := admin.do(t, "POST", "tenants", obj{"name": "Acme", "slug": "acme-keys"}).want(t, 201, "")
	id := tn.str("id")
	if !strings.HasPrefix(id, "tnt_") || tn.str("slug") != "acme-keys" || tn.str("name") != "Acme" {
		t.Errorf("tenant: got %s", tn)
	}
	admin.do(t, "POST", "tenants", obj{"slug": "acme-keys"}).want(t, 409, "")
	found := false
	for _, o := range admin.do(t, "GET", "tenants", nil).want(t, 200, "").list() {
		found = found || o["id"] == id
	}
	if !found {
		t.Error("the tenant is not listed")
	}

	made := admin.do(t, "POST", "api-keys", obj{"tenant_id": id, "name": "ci"}).want(t, 201, "")
	secret := made.str("token")
	if !strings.HasPrefix(secret, "msk_") || made.str("key") != secret || made.at("admin") != false {
		t.Errorf("key: got %s", made)
	}
	c := shared.as(secret)
	sb := c.do(t, "POST", "sandboxes", obj{}).want(t, 201, "")
	if sb.str("tenant_id") != id {
		t.Errorf("tenant of its sandbox: got %v, want %s", sb.at("tenant_id"), id)
	}
	// Non-admin keys manage neither tenants nor other tenants' keys.
	for _, r := range []struct {
		method, path string
		body         any
	}{
		{"GET", "tenants", nil}, {"POST", "tenants", obj{"name": "x"}}, {"DELETE", "tenants/" + id, nil},
		{"POST", "api-keys", obj{"admin": true}},
	} {
		a := c.do(t, r.method, r.path, r.body).want(t, 403, "FORBIDDEN")
		checkEnvelope(t, a)
	}
	// "DeleteTenant refuses with a Conflict while it has live sandboxes."
	admin.do(t, "DELETE", "tenants/"+id, nil).want(t, 409, "")
	c.do(t, "DELETE", "sandboxes/"+sb.str("id"), nil).want(t, 200, "")

	// A revoked key is one nobody knows.
	admin.do(t, "DELETE", "api-keys/"+made.str("id")+"?tenant_id="+id, nil).want(t, 200, "")
	revoked := c.do(t, "GET", "sandboxes", nil).want(t, 401, "UNAUTHORIZED")
	never := shared.as("msk_u_neverexisted0123456789").do(t, "GET", "sandboxes", nil).want(t, 401, "UNAUTHORIZED")
	if anonymous(revoked) != anonymous(never) {
		t.Errorf("a revoked key: got %s\nan unknown one: %s", anonymous(revoked), anonymous(never))
	}
	admin.do(t, "DELETE", "tenants/"+id, nil).want(t, 200, "")
	admin.do(t, "DELETE", "tenants/"+id, nil).want(t, 404, "NOT_FOUND")

	for _, key := range []string{"", "msk_", "Basic x", strings.Repeat("a", 4000)} {
		a := shared.as(key).do(t, "POST", "sandboxes", obj{}).want(t, 401, "UNAUTHORIZED")
		checkEnvelope(t, a)
	}
}

// A tenant's own key shows and revokes the keys of its tenant, no other's.
func TestKeysOfAnotherTenant(t *testing.T) {
	t.Parallel()
	c, other := shared.tenant(t), shared.tenant(t)
	admin := shared.as(bootstrapKey)
	foreign := admin.do(t, "POST", "api-keys", obj{"tenant_id": other.tenant, "name": "foreign"}).want(t, 201, "")
	for _, k := range c.do(t, "GET", "api-keys?tenant_id="+other.tenant, nil).list() {
		if k["tenant_id"] == other.tenant {
			t.Errorf("a tenant lists another's key: %v", k)
		}
	}
	for _, k := range admin.do(t, "GET", "api-keys?tenant_id="+other.tenant, nil).want(t, 200, "").list() {
		if k["token"] != nil || k["key"] != nil {
			t.Errorf("a list of keys holds a secret: %v", k)
		}
	}
	a := c.do(t, "DELETE", "api-keys/"+foreign.str("id"), nil)
	if a.Status != 404 && a.Status != 403 {
		t.Errorf("revoke another tenant's key: got %s, want 404 or 403", a)
	}
	if a := c.do(t, "POST", "api-keys", obj{"tenant_id": other.tenant}); a.Status != 403 && a.Status != 404 {
		t.Errorf("make a key for another tenant: got %s, want 403 or 404", a)
	}
	shared.as(foreign.str("token")).do(t, "GET", "sandboxes", nil).want(t, 200, "")
}

// "only hashes of keys are stored": no file below the data folder holds a secret.
func TestSecretsAreNotStored(t *testing.T) {
	t.Parallel()
	c := shared.tenant(t)
	c.create(t, nil)
	secrets := []string{c.key, bootstrapKey}
	err := filepath.WalkDir(shared.data, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || strings.Contains(path, "/blobs/") {
			return nil
		}
		info, err := d.Info()
		if err != nil || info.Size() > 64<<20 {
			return nil // the engine's program
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return nil // gone meanwhile
		}
		for _, s := range secrets {
			if strings.Contains(string(b), s) {
				t.Errorf("%s holds a secret", path)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if log := shared.log.since(0); strings.Contains(log, c.key) || strings.Contains(log, bootstrapKey) {
		t.Error("the log holds a secret")
	}
}

// "300 requests a minute per workspace with `Retry-After` (readiness exempt)".
func TestRateLimit(t *testing.T) {
	t.Parallel()
	s := ownServer(t, options{flags: []string{"--rate-limit=20", "--warm-pool=0", "--empty-slots=0"}})
	c, other := s.tenant(t), s.tenant(t)
	id := c.create(t, nil)
	var limited answer
	for range 60 {
		if a := c.do(t, "GET", "sandboxes/"+id, nil); a.Status == 429 {
			limited = a
			break
		}
	}
	limited.want(t, 429, "RATE_LIMITED")
	checkEnvelope(t, limited)
	after, err := strconv.Atoi(limited.Header.Get("Retry-After"))
	if err != nil || after < 1 || after > 60 {
		t.Errorf("Retry-After: got %q", limited.Header.Get("Retry-After"))
	}
	if ra := limited.num("retry_after"); ra <= 0 || ra > 60 {
		t.Errorf("retry_after: got %v", limited.at("retry_after"))
	}
	for range 50 {
		c.do(t, "GET", "sandboxes/"+id+"/readiness", nil).want(t, 200, "")
	}
	other.do(t, "GET", "sandboxes", nil).want(t, 200, "")
	for _, path := range []string{"/healthz", "/readyz"} {
		c.do(t, "GET", path, nil).want(t, 200, "")
	}
	eventually(t, 70*time.Second, "the bucket fills again", func() bool { return c.do(t, "GET", "sandboxes/"+id, nil).Status == 200 })
}

// Paths beside the API: "`GET /healthz` (alive) and `GET /readyz`,
// `GET /openapi.json`, `GET /metrics` (admin key …)".
func TestOperatorsPaths(t *testing.T) {
	t.Parallel()
	c := shared.tenant(t)
	nobody := shared.as("")
	for _, path := range []string{"/healthz", "/readyz", "/openapi.json"} {
		a := nobody.do(t, "GET", path, nil).want(t, 200, "")
		if a.JSON == nil {
			t.Errorf("%s: got %s, want JSON", path, a)
		}
		if a.Header.Get("X-Request-Id") == "" {
			t.Errorf("%s: no x-request-id", path)
		}
	}
	nobody.do(t, "GET", "/metrics", nil).want(t, 401, "")
	c.do(t, "GET", "/metrics", nil).want(t, 403, "")
	m := shared.as(bootstrapKey).do(t, "GET", "/metrics", nil).want(t, 200, "")
	if !strings.Contains(string(m.Body), "silica_") {
		t.Errorf("/metrics: got %.200s", m.Body)
	}
	l := c.do(t, "GET", "sandbox-templates", nil).want(t, 200, "")
	if l.str("default_template_id") != "miosa-sandbox" || len(l.list()) == 0 {
		t.Errorf("templates: got %s", l)
	}
	one := c.do(t, "GET", "sandbox-templates/miosa-sandbox", nil).want(t, 200, "")
	if one.str("id") != "miosa-sandbox" || one.str("data.id") != "miosa-sandbox" {
		t.Errorf("template: got %s", one)
	}
	c.do(t, "GET", "sandbox-templates/none", nil).want(t, 404, "not_found") // seed 000, in lower case
}
