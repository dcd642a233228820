package server

import (
	"net/http"

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
