package server

import (
	"net/http"
	"slices"

	"silica.dev/silica/api"
	"silica.dev/silica/sandbox"
)

func wireTenant(t sandbox.Tenant) api.Tenant {
	return api.Tenant{ID: string(t.ID), Slug: t.Slug, Name: t.Name, MaxSandboxes: t.MaxSandboxes, CreatedAt: t.CreatedAt.UTC()}
}

func (s *Server) createTenant(w http.ResponseWriter, r *http.Request, _ sandbox.Caller) error {
	f, err := readFields(r)
	if err != nil {
		return err
	}
	t := sandbox.Tenant{Slug: f.label(63, "slug"), Name: f.label(maxLabel, "name")}
	if t.Slug != "" && !slugForm.MatchString(t.Slug) {
		f.reject("slug", "must be letters, digits, dots, dashes and underscores")
	}
	if t.Slug == "" && t.Name == "" {
		f.reject("name", "is missing")
	}
	most, _ := f.integer(0, 1<<20, "max_sandboxes")
	t.MaxSandboxes = int(most)
	if f.err != nil {
		return f.err
	}
	if t, err = s.deps.Accounts.CreateTenant(r.Context(), t); err != nil {
		return err
	}
	writeOne(w, http.StatusCreated, wireTenant(t))
	return nil
}

func (s *Server) listTenants(w http.ResponseWriter, r *http.Request, _ sandbox.Caller) error {
	found, err := s.deps.Accounts.Tenants(r.Context())
	if err != nil {
		return err
	}
	return writeList(w, r, found, wireTenant)
}

func (s *Server) deleteTenant(w http.ResponseWriter, r *http.Request, _ sandbox.Caller) error {
	id := param(r, "id")
	if err := s.deps.Accounts.DeleteTenant(r.Context(), sandbox.TenantID(id)); err != nil {
		return err
	}
	writeOne(w, http.StatusOK, api.Deleted{ID: id, Deleted: true})
	return nil
}

func wireKey(k sandbox.Key) api.Key {
	return api.Key{
		ID: k.ID, TenantID: string(k.Tenant), UserID: k.User, Name: k.Name, Prefix: k.Prefix, Admin: k.Admin,
		CreatedAt: k.CreatedAt.UTC(),
	}
}

// tenantFor returns the tenant a key request is about: the caller's own, or
// the one an admin names.
func tenantFor(c sandbox.Caller, named string) (sandbox.TenantID, error) {
	if named == "" || sandbox.TenantID(named) == c.Tenant {
		return c.Tenant, nil
	}
	if !c.Admin {
		return "", sandbox.E(sandbox.Forbidden, sandbox.CodeForbidden, "only an admin key may name another tenant")
	}
	return sandbox.TenantID(named), nil
}

func tenantInQuery(r *http.Request, c sandbox.Caller) (sandbox.TenantID, error) {
	q := r.URL.Query()
	named := q.Get("tenant_id")
	if named == "" {
		named = q.Get("tenant")
	}
	return tenantFor(c, named)
}

func (s *Server) createKey(w http.ResponseWriter, r *http.Request, c sandbox.Caller) error {
	f, err := readFields(r)
	if err != nil {
		return err
	}
	k := sandbox.Key{Name: f.label(maxLabel, "name")}
	k.Admin, _ = f.boolean("admin")
	named := f.label(maxLabel, "tenant_id", "tenant")
	if f.err != nil {
		return f.err
	}
	if named == "" {
		named = r.URL.Query().Get("tenant_id")
	}
	if k.Tenant, err = tenantFor(c, named); err != nil {
		return err
	}
	if k.Admin && !c.Admin {
		return sandbox.E(sandbox.Forbidden, sandbox.CodeForbidden, "only an admin key may make admin keys")
	}
	k, secret, err := s.deps.Accounts.CreateKey(r.Context(), k)
	if err != nil {
		return err
	}
	a := wireKey(k)
	a.Token, a.Key = secret, secret
	w.Header().Set("Cache-Control", "no-store")
	writeOne(w, http.StatusCreated, a)
	return nil
}

func (s *Server) listKeys(w http.ResponseWriter, r *http.Request, c sandbox.Caller) error {
	tenant, err := tenantInQuery(r, c)
	if err != nil {
		return err
	}
	found, err := s.deps.Accounts.Keys(r.Context(), tenant)
	if err != nil {
		return err
	}
	return writeList(w, r, found, wireKey)
}

func (s *Server) deleteKey(w http.ResponseWriter, r *http.Request, c sandbox.Caller) error {
	tenant, err := tenantInQuery(r, c)
	if err != nil {
		return err
	}
	id := param(r, "id")
	if !c.Admin {
		// Whoever shares a tenant with an administrator must not lock them out.
		keys, err := s.deps.Accounts.Keys(r.Context(), tenant)
		if err != nil {
			return err
		}
		if slices.ContainsFunc(keys, func(k sandbox.Key) bool { return k.ID == id && k.Admin }) {
			return sandbox.E(sandbox.Forbidden, sandbox.CodeForbidden, "only an admin key may delete admin keys")
		}
	}
	if err := s.deps.Accounts.DeleteKey(r.Context(), tenant, id); err != nil {
		return err
	}
	writeOne(w, http.StatusOK, api.Deleted{ID: id, Deleted: true})
	return nil
}
