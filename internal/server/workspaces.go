package server

import (
	"encoding/json"
	"net/http"

	"silica.dev/silica/api"
	"silica.dev/silica/sandbox"
)

func wireWorkspace(w sandbox.Workspace) api.Workspace {
	a := api.Workspace{
		ID: w.ID, TenantID: string(w.Tenant), Slug: w.Slug, Name: w.Name, Description: w.Description, Metadata: w.Metadata,
		CreatedAt: w.CreatedAt.UTC(), UpdatedAt: w.UpdatedAt.UTC(),
	}
	if a.Metadata == nil {
		a.Metadata = map[string]string{}
	}
	return a
}

var noWorkspace = sandbox.E(sandbox.NotFound, sandbox.CodeNotFound, "workspace not found")

// workspace finds the workspace in the path, if the caller sees it.
func (s *Server) workspace(r *http.Request, c sandbox.Caller) (sandbox.Workspace, error) {
	ws, err := s.deps.Directory.Workspace(r.Context(), c.Tenant, param(r, "id"))
	if err == nil && !c.Sees(ws.ID) {
		err = noWorkspace
	}
	return ws, err
}

// labels reads an object of strings, which is what public clients decode.
func (f *fields) labels(name string, most int) (labels map[string]string, ok bool) {
	return read(f, "an object of strings", func(raw json.RawMessage) (map[string]string, bool) {
		if len(raw) > most {
			f.reject(name, "must not be larger than %d bytes", most)
			return nil, true
		}
		var values map[string]*string
		if json.Unmarshal(raw, &values) != nil {
			return nil, false
		}
		labels := make(map[string]string, len(values))
		for k, v := range values {
			if v == nil {
				return nil, false
			}
			labels[k] = *v
		}
		return labels, true
	}, name)
}

func (s *Server) listWorkspaces(w http.ResponseWriter, r *http.Request, c sandbox.Caller) error {
	found, err := s.deps.Directory.Workspaces(r.Context(), c.Tenant, c.Workspace)
	if err != nil {
		return err
	}
	return writeList(w, r, found, wireWorkspace)
}

func (s *Server) createWorkspace(w http.ResponseWriter, r *http.Request, c sandbox.Caller) error {
	if !tenantWide(c) {
		return errConfined
	}
	f, err := readFields(r)
	if err != nil {
		return err
	}
	ws := sandbox.Workspace{
		Tenant: c.Tenant, Name: f.label(maxLabel, "name"), Slug: f.label(63, "slug"), Description: f.text(maxDescription, "description"),
	}
	ws.Metadata, _ = f.labels("metadata", maxMetadata)
	if ws.Slug != "" && !slugForm.MatchString(ws.Slug) {
		f.reject("slug", "must be letters, digits, dots, dashes and underscores")
	}
	if ws.Name == "" && ws.Slug == "" {
		f.reject("name", "is missing")
	}
	if f.err != nil {
		return f.err
	}
	if ws, err = s.deps.Directory.CreateWorkspace(r.Context(), ws, c.User); err != nil {
		return err
	}
	writeOne(w, http.StatusCreated, wireWorkspace(ws))
	return nil
}

// maxDescription bounds what people say about a thing, in bytes.
const maxDescription = 4096

func (s *Server) getWorkspace(w http.ResponseWriter, r *http.Request, c sandbox.Caller) error {
	ws, err := s.workspace(r, c)
	if err != nil {
		return err
	}
	writeOne(w, http.StatusOK, wireWorkspace(ws))
	return nil
}

func (s *Server) changeWorkspace(w http.ResponseWriter, r *http.Request, c sandbox.Caller) error {
	ws, err := s.workspace(r, c)
	if err != nil {
		return err
	}
	f, err := readFields(r)
	if err != nil {
		return err
	}
	name := f.label(maxLabel, "name")
	description, described := read(f, "a string", decodeAs[string], "description")
	f.check("description", description, maxDescription)
	labels, labelled := f.labels("metadata", maxMetadata)
	if f.err != nil {
		return f.err
	}
	ws, err = s.deps.Directory.ChangeWorkspace(r.Context(), c.Tenant, ws.ID, func(ws *sandbox.Workspace) {
		if name != "" {
			ws.Name = name
		}
		if described {
			ws.Description = description
		}
		if labelled {
			ws.Metadata = labels
		}
	})
	if err != nil {
		return err
	}
	writeOne(w, http.StatusOK, wireWorkspace(ws))
	return nil
}

func (s *Server) deleteWorkspace(w http.ResponseWriter, r *http.Request, c sandbox.Caller) error {
	ws, err := s.workspace(r, c)
	if err != nil {
		return err
	}
	if err := s.deps.Directory.DeleteWorkspace(r.Context(), c.Tenant, ws.ID); err != nil {
		return err
	}
	writeOne(w, http.StatusOK, api.Deleted{ID: ws.ID, Deleted: true})
	return nil
}

// workspaceSandboxes lists what runs in a workspace.
func (s *Server) workspaceSandboxes(w http.ResponseWriter, r *http.Request, c sandbox.Caller) error {
	ws, err := s.workspace(r, c)
	if err != nil {
		return err
	}
	f, page, err := listFilter(r, computerStates)
	if err != nil {
		return err
	}
	f.Workspace = ws.ID
	found, err := s.deps.Sandboxes.List(r.Context(), c, f)
	if err != nil {
		return err
	}
	writePage(w, found, f, page, wireComputer)
	return nil
}

func wireMember(m sandbox.Member) api.Member {
	return api.Member{
		ID: m.User.ID, UserID: m.User.ID, WorkspaceID: m.Workspace, Role: string(m.Role), Name: m.User.Name, Email: m.User.Email,
		CreatedAt: m.CreatedAt.UTC(),
	}
}

func (s *Server) listMembers(w http.ResponseWriter, r *http.Request, c sandbox.Caller) error {
	ws, err := s.workspace(r, c)
	if err != nil {
		return err
	}
	found, err := s.deps.Directory.Members(r.Context(), c.Tenant, ws.ID)
	if err != nil {
		return err
	}
	return writeList(w, r, found, wireMember)
}

func (s *Server) addMember(w http.ResponseWriter, r *http.Request, c sandbox.Caller) error {
	f, err := readFields(r)
	if err != nil {
		return err
	}
	user := f.label(maxLabel, "user_id")
	if user == "" {
		f.reject("user_id", "is missing")
	}
	return s.setMember(w, r, c, f, user, func(before sandbox.Role) error {
		if before != "" {
			return sandbox.E(sandbox.Conflict, sandbox.CodeConflict, "the user is a member already")
		}
		return nil
	})
}

func (s *Server) changeMember(w http.ResponseWriter, r *http.Request, c sandbox.Caller) error {
	f, err := readFields(r)
	if err != nil {
		return err
	}
	return s.setMember(w, r, c, f, param(r, "user_id"), func(before sandbox.Role) error {
		if before == "" {
			return sandbox.E(sandbox.NotFound, sandbox.CodeNotFound, "member not found")
		}
		return nil
	})
}

func (s *Server) setMember(w http.ResponseWriter, r *http.Request, c sandbox.Caller, f *fields, user string, expect func(before sandbox.Role) error) error {
	ws, err := s.workspace(r, c)
	if err != nil {
		return err
	}
	role, given := f.role("role", "")
	if !given {
		f.reject("role", "is missing")
	}
	if f.err != nil {
		return f.err
	}
	m, err := s.deps.Directory.SetMember(r.Context(), c.Tenant, ws.ID, user, role, func(before sandbox.Role) error {
		if err := expect(before); err != nil {
			return err
		}
		return mayGive(c, before, role)
	})
	if err != nil {
		return err
	}
	status := http.StatusOK
	if r.Method == http.MethodPost {
		status = http.StatusCreated
	}
	writeOne(w, status, wireMember(m))
	return nil
}

func (s *Server) removeMember(w http.ResponseWriter, r *http.Request, c sandbox.Caller) error {
	ws, err := s.workspace(r, c)
	if err != nil {
		return err
	}
	user := param(r, "user_id")
	err = s.deps.Directory.RemoveMember(r.Context(), c.Tenant, ws.ID, user, func(before sandbox.Role) error { return mayGive(c, before, "") })
	if err != nil {
		return err
	}
	writeOne(w, http.StatusOK, api.Deleted{ID: user, Deleted: true})
	return nil
}

func wireProject(p sandbox.Project) api.Project {
	return api.Project{
		ID: p.ID, TenantID: string(p.Tenant), WorkspaceID: p.Workspace, Slug: p.Slug, Name: p.Name, CreatedAt: p.CreatedAt.UTC(),
	}
}

func (s *Server) listProjects(w http.ResponseWriter, r *http.Request, c sandbox.Caller) error {
	only := c.Workspace
	if named := r.URL.Query().Get("workspace_id"); named != "" {
		if !c.Sees(named) {
			return noWorkspace
		}
		only = named
	}
	found, err := s.deps.Directory.Projects(r.Context(), c.Tenant, only)
	if err != nil {
		return err
	}
	return writeList(w, r, found, wireProject)
}

func (s *Server) createProject(w http.ResponseWriter, r *http.Request, c sandbox.Caller) error {
	f, err := readFields(r)
	if err != nil {
		return err
	}
	p := sandbox.Place{Slug: f.slug("slug"), Name: f.label(maxLabel, "name")}
	in := sandbox.Place{ID: f.label(maxLabel, "workspace_id"), Slug: f.slug("workspace_slug")}
	if p.Slug == "" && p.Name == "" {
		f.reject("name", "is missing")
	}
	if f.err != nil {
		return f.err
	}
	if in.ID != "" && !c.Sees(in.ID) {
		return noWorkspace
	}
	orElse(&in.ID, c.Workspace)
	got, fresh, err := s.deps.Directory.CreateProject(r.Context(), c.Tenant, in, p)
	if err != nil {
		return err
	}
	status := http.StatusOK
	if fresh {
		status = http.StatusCreated
	}
	writeOne(w, status, wireProject(got))
	return nil
}

// slug reads a slug.
func (f *fields) slug(name string) string {
	text := f.label(63, name)
	if text != "" && !slugForm.MatchString(text) {
		f.reject(name, "must be letters, digits, dots, dashes and underscores")
	}
	return text
}

func (s *Server) project(r *http.Request, c sandbox.Caller) (sandbox.Project, error) {
	p, err := s.deps.Directory.Project(r.Context(), c.Tenant, param(r, "id"))
	if err == nil && !c.Sees(p.Workspace) {
		err = sandbox.E(sandbox.NotFound, sandbox.CodeNotFound, "project not found")
	}
	return p, err
}

func (s *Server) getProject(w http.ResponseWriter, r *http.Request, c sandbox.Caller) error {
	p, err := s.project(r, c)
	if err != nil {
		return err
	}
	writeOne(w, http.StatusOK, wireProject(p))
	return nil
}

func (s *Server) deleteProject(w http.ResponseWriter, r *http.Request, c sandbox.Caller) error {
	p, err := s.project(r, c)
	if err != nil {
		return err
	}
	if err := s.deps.Directory.DeleteProject(r.Context(), c.Tenant, p.ID); err != nil {
		return err
	}
	writeOne(w, http.StatusOK, api.Deleted{ID: p.ID, Deleted: true})
	return nil
}
