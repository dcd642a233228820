package server

import (
	"net/http"

	"silica.dev/silica/api"
	"silica.dev/silica/sandbox"
)

func wireUser(u sandbox.User) api.User {
	return api.User{ID: u.ID, TenantID: string(u.Tenant), Name: u.Name, Email: u.Email, Role: string(u.Role), CreatedAt: u.CreatedAt.UTC()}
}

// role reads a role; none is what stands for "no role", if that may be.
func (f *fields) role(name, none string) (role sandbox.Role, ok bool) {
	text := f.label(maxLabel, name)
	switch role = sandbox.Role(text); {
	case text == "":
		return "", false
	case none != "" && text == none:
		return "", true
	case !role.Valid():
		f.reject(name, "must be owner, admin, developer or viewer")
	}
	return role, true
}

// mayGive tells whether the caller may make somebody what it is not itself, or
// take a role above its own away.
func mayGive(c sandbox.Caller, before, after sandbox.Role) error {
	if before.Above(c.Role) || after.Above(c.Role) {
		return sandbox.E(sandbox.Forbidden, sandbox.CodeForbidden, "only an "+string(before.Higher(after))+" may do this")
	}
	return nil
}

func (s *Server) listUsers(w http.ResponseWriter, r *http.Request, c sandbox.Caller) error {
	found, err := s.deps.Directory.Users(r.Context(), c.Tenant, c.Workspace)
	if err != nil {
		return err
	}
	return writeList(w, r, found, wireUser)
}

func (s *Server) createUser(w http.ResponseWriter, r *http.Request, c sandbox.Caller) error {
	if !tenantWide(c) {
		return errConfined
	}
	f, err := readFields(r)
	if err != nil {
		return err
	}
	u := sandbox.User{Tenant: c.Tenant, Name: f.label(maxLabel, "name"), Email: f.label(maxLabel, "email")}
	u.Role, _ = f.role("role", noRole)
	if u.Name == "" && u.Email == "" {
		f.reject("name", "is missing")
	}
	if f.err != nil {
		return f.err
	}
	if err := mayGive(c, "", u.Role); err != nil {
		return err
	}
	if u, err = s.deps.Directory.CreateUser(r.Context(), u); err != nil {
		return err
	}
	writeOne(w, http.StatusCreated, wireUser(u))
	return nil
}

// noRole is how a request says that a user has no role in the whole tenant.
const noRole = "none"

func (s *Server) getUser(w http.ResponseWriter, r *http.Request, c sandbox.Caller) error {
	if !tenantWide(c) {
		return errConfined
	}
	u, err := s.deps.Directory.User(r.Context(), c.Tenant, param(r, "id"))
	if err != nil {
		return err
	}
	writeOne(w, http.StatusOK, wireUser(u))
	return nil
}

func (s *Server) changeUser(w http.ResponseWriter, r *http.Request, c sandbox.Caller) error {
	if !tenantWide(c) {
		return errConfined
	}
	f, err := readFields(r)
	if err != nil {
		return err
	}
	name, email := f.label(maxLabel, "name"), f.label(maxLabel, "email")
	role, given := f.role("role", noRole)
	if f.err != nil {
		return f.err
	}
	u, err := s.deps.Directory.ChangeUser(r.Context(), c.Tenant, param(r, "id"), func(u *sandbox.User) error {
		before := u.Role
		if name != "" {
			u.Name = name
		}
		if email != "" {
			u.Email = email
		}
		if given {
			u.Role = role
		}
		return mayGive(c, before, u.Role)
	})
	if err != nil {
		return err
	}
	writeOne(w, http.StatusOK, wireUser(u))
	return nil
}

func (s *Server) deleteUser(w http.ResponseWriter, r *http.Request, c sandbox.Caller) error {
	if !tenantWide(c) {
		return errConfined
	}
	id := param(r, "id")
	err := s.deps.Directory.DeleteUser(r.Context(), c.Tenant, id, func(u sandbox.User) error { return mayGive(c, u.Role, "") })
	if err != nil {
		return err
	}
	writeOne(w, http.StatusOK, api.Deleted{ID: id, Deleted: true})
	return nil
}
