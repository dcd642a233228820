package server

import (
	"net/http"

	"silica.dev/silica/api"
	"silica.dev/silica/sandbox"
)

func wireTenant(t sandbox.Tenant) api.Tenant {
	return api.Tenant{
		ID: string(t.ID), Slug: t.Slug, Name: t.Name, Plan: t.Plan, MaxSandboxes: t.MaxSandboxes, MaxKeys: t.MaxKeys,
		MaxVCPUs: float64(t.Limits.MilliCPU) / float64(sandbox.Core), MaxMemoryMB: t.Limits.Memory / sandbox.MiB,
		MaxStorageMB: t.Limits.Disk / sandbox.MiB, MaxSnapshotsMB: t.MaxSaved / sandbox.MiB, CreatedAt: t.CreatedAt.UTC(),
	}
}

// tenant reads what an operator may set of a tenant into t.
func (f *fields) tenant(t *sandbox.Tenant) {
	if name := f.label(maxLabel, "name"); name != "" {
		t.Name = name
	}
	if plan := f.label(maxLabel, "plan"); plan != "" {
		t.Plan = plan
	}
	if n, ok := f.integer(0, 1<<20, "max_sandboxes"); ok {
		t.MaxSandboxes = int(n)
	}
	if n, ok := f.integer(0, 1<<20, "max_keys"); ok {
		t.MaxKeys = int(n)
	}
	if n, ok := read(f, "a number", decodeAs[float64], "max_vcpus"); ok {
		if n < 0 || n > 1<<20 {
			f.reject("max_vcpus", "must be from 0 to %d", 1<<20)
		}
		t.Limits.MilliCPU = int64(n * float64(sandbox.Core))
	}
	if n, ok := f.integer(0, 1<<40, "max_memory_mb"); ok {
		t.Limits.Memory = n * sandbox.MiB
	}
	if n, ok := f.integer(0, 1<<40, "max_storage_mb"); ok {
		t.Limits.Disk = n * sandbox.MiB
	}
	if n, ok := f.integer(0, 1<<40, "max_snapshots_mb"); ok {
		t.MaxSaved = n * sandbox.MiB
	}
}

func (s *Server) createTenant(w http.ResponseWriter, r *http.Request, _ sandbox.Caller) error {
	f, err := readFields(r)
	if err != nil {
		return err
	}
	t := sandbox.Tenant{Slug: f.label(63, "slug")}
	f.tenant(&t)
	if t.Slug != "" && !slugForm.MatchString(t.Slug) {
		f.reject("slug", "must be letters, digits, dots, dashes and underscores")
	}
	if t.Slug == "" && t.Name == "" {
		f.reject("name", "is missing")
	}
	if f.err != nil {
		return f.err
	}
	if t, err = s.deps.Accounts.CreateTenant(r.Context(), t); err != nil {
		return err
	}
	writeOne(w, http.StatusCreated, wireTenant(t))
	return nil
}

// getTenant shows an operator any tenant, and everybody their own.
func (s *Server) getTenant(w http.ResponseWriter, r *http.Request, c sandbox.Caller) error {
	id := sandbox.TenantID(param(r, "id"))
	if id != c.Tenant && allow(c, admin) != nil || !tenantWide(c) {
		return sandbox.E(sandbox.NotFound, sandbox.CodeNotFound, "tenant not found")
	}
	t, err := s.deps.Accounts.Tenant(r.Context(), id)
	if err != nil {
		return err
	}
	writeOne(w, http.StatusOK, wireTenant(t))
	return nil
}

func (s *Server) changeTenant(w http.ResponseWriter, r *http.Request, _ sandbox.Caller) error {
	f, err := readFields(r)
	if err != nil {
		return err
	}
	if f.tenant(&sandbox.Tenant{}); f.err != nil {
		return f.err
	}
	t, err := s.deps.Accounts.ChangeTenant(r.Context(), sandbox.TenantID(param(r, "id")), f.tenant)
	if err != nil {
		return err
	}
	writeOne(w, http.StatusOK, wireTenant(t))
	return nil
}

// tenantWide tells whether the caller's key is for the whole tenant.
func tenantWide(c sandbox.Caller) bool { return c.Workspace == "" }

// errConfined is what a key for one workspace is told about things of the tenant.
var errConfined = sandbox.E(sandbox.NotFound, sandbox.CodeNotFound, "a key for one workspace does not see this")

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
