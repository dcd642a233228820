package server

import (
	"net/http"
	"time"

	"silica.dev/silica/api"
	"silica.dev/silica/sandbox"
)

func wireKey(k sandbox.Key) api.Key {
	return api.Key{
		ID: k.ID, TenantID: string(k.Tenant), UserID: k.User, Name: k.Name, KeyType: string(k.Type), Prefix: k.Prefix, Admin: k.Admin,
		Scopes: k.Scopes.Names(), WorkspaceID: orNull(k.Workspace),
		ExpiresAt: timeOrNull(k.ExpiresAt), LastUsedAt: timeOrNull(k.LastUsedAt), CreatedAt: k.CreatedAt.UTC(),
	}
}

// tenantFor returns the tenant a key request is about: the caller's own, or
// the one an admin names.
func tenantFor(c sandbox.Caller, named string) (sandbox.TenantID, error) {
	if named == "" || sandbox.TenantID(named) == c.Tenant {
		return c.Tenant, nil
	}
	if !c.Admin || !c.Scopes.Has(admin) {
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

// scopes reads a list of scopes; without one, everything.
func (f *fields) scopes(name string) sandbox.Scopes {
	names, ok := read(f, "an array of strings", decodeAs[[]string], name)
	if !ok || len(names) == 0 {
		return sandbox.AllScopes
	}
	set, unknown := sandbox.ParseScopes(names)
	if unknown != "" {
		f.reject(name, "there is no scope %q", cutText(unknown, 64))
	}
	return set
}

// time reads a moment that is still to come.
func (f *fields) later(name string) time.Time {
	text := f.text(64, name)
	if text == "" {
		return time.Time{}
	}
	at, err := time.Parse(time.RFC3339, text)
	switch {
	case err != nil:
		f.reject(name, "must be a time like 2030-01-31T12:00:00Z")
	case !at.After(time.Now()):
		f.reject(name, "must be in the future")
	case at.Year() > 9999:
		f.reject(name, "is too far away")
	}
	return at
}

func (s *Server) createKey(w http.ResponseWriter, r *http.Request, c sandbox.Caller) error {
	f, err := readFields(r)
	if err != nil {
		return err
	}
	k := sandbox.Key{
		Name: f.label(maxLabel, "name"), Scopes: f.scopes("scopes"), ExpiresAt: f.later("expires_at"),
		Workspace: f.label(maxLabel, "workspace_id"), User: f.label(maxLabel, "user_id"),
	}
	k.Admin, _ = f.boolean("admin")
	switch k.Type = sandbox.KeyType(f.label(maxLabel, "key_type")); k.Type {
	case "", sandbox.UserKey, sandbox.PlatformKey:
	case sandbox.AdminKey:
		k.Admin = true
	default:
		f.reject("key_type", `must be "user", "platform" or "admin"`)
	}
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
	if k.Admin && (!c.Admin || !c.Scopes.Has(admin)) {
		return sandbox.E(sandbox.Forbidden, sandbox.CodeForbidden, "only an admin key may make admin keys")
	}
	if k.Tenant == c.Tenant {
		if err := s.within(r, c, &k); err != nil {
			return err
		}
	}
	return s.mint(w, r, k)
}

// within holds a key that c makes for its own tenant to what c may itself:
// scopes, workspace, time.
func (s *Server) within(r *http.Request, c sandbox.Caller, k *sandbox.Key) error {
	if c.Derived {
		return sandbox.E(sandbox.Forbidden, sandbox.CodeForbidden, "a derived token can't make keys")
	}
	if c.Workspace != "" && k.Workspace != "" && k.Workspace != c.Workspace {
		return sandbox.E(sandbox.NotFound, sandbox.CodeNotFound, "workspace not found")
	}
	orElse(&k.Workspace, c.Workspace)
	orElse(&k.User, c.User)
	if !c.ExpiresAt.IsZero() && (k.ExpiresAt.IsZero() || k.ExpiresAt.After(c.ExpiresAt)) {
		k.ExpiresAt = c.ExpiresAt
	}
	if c.Admin && c.Scopes == sandbox.AllScopes {
		return nil
	}
	role, err := s.deps.Accounts.RoleOf(r.Context(), k.Tenant, k.User, k.Workspace)
	if err != nil {
		return err
	}
	most := role.May() // what k would come to
	if k.Admin {
		most = sandbox.AllScopes
	}
	other := k.User != c.User
	switch {
	case other && role.Above(c.Role):
		// The key would act with that role, whatever its scopes.
		return mayGive(c, role, "")
	case c.Scopes.Covers(most & k.Scopes):
		if other && !c.Scopes.Covers(sandbox.Owner.May()) {
			k.Scopes &= c.Scopes // the user may rise, and c does not with them
		}
	case k.Scopes == sandbox.AllScopes:
		k.Scopes = c.Scopes // no more was asked for than there is to have
	default:
		return sandbox.E(sandbox.Forbidden, sandbox.CodeScope, "a key can't have scopes that the one who makes it lacks").
			With("scopes", (most & k.Scopes &^ c.Scopes).Names())
	}
	return someScope(*k)
}

// someScope refuses a key for nothing: rows without scopes are keys for everything.
func someScope(k sandbox.Key) error {
	if k.Scopes == 0 {
		return sandbox.E(sandbox.Forbidden, sandbox.CodeScope, "a key can't have any of these scopes")
	}
	return nil
}

func (s *Server) mint(w http.ResponseWriter, r *http.Request, k sandbox.Key) error {
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

// Bounds of derived tokens.
const (
	scopedLife    = time.Hour
	maxScopedLife = 24 * time.Hour
)

// createScopedToken derives a key that may less, for a short time.
func (s *Server) createScopedToken(w http.ResponseWriter, r *http.Request, c sandbox.Caller) error {
	f, err := readFields(r)
	if err != nil {
		return err
	}
	k := sandbox.Key{
		Tenant: c.Tenant, Type: sandbox.ScopedKey, Parent: c.KeyID, Name: f.label(maxLabel, "name"), Scopes: f.scopes("scopes"),
		Workspace: f.label(maxLabel, "workspace_id"), User: f.label(maxLabel, "user_id"),
	}
	life, ok := f.integer(1, int64(maxScopedLife/time.Second), "expires_in_seconds", "expires_in")
	if !ok {
		life = int64(scopedLife / time.Second)
	}
	if f.err != nil {
		return f.err
	}
	k.ExpiresAt = time.Now().Add(time.Duration(life) * time.Second)
	if err := s.within(r, c, &k); err != nil {
		return err
	}
	k.Scopes &^= sandbox.ScopesOf(admin) // never the installation
	if err := someScope(k); err != nil {
		return err
	}
	return s.mint(w, r, k)
}

// ticketSeconds is how long a ticket is good.
const ticketSeconds = 60

// createTicket makes what opens one stream where no header can be set.
func (s *Server) createTicket(w http.ResponseWriter, r *http.Request, c sandbox.Caller) error {
	ticket, err := s.deps.Accounts.NewTicket(r.Context(), c.KeyID)
	if err != nil {
		return err
	}
	w.Header().Set("Cache-Control", "no-store")
	writeOne(w, http.StatusCreated, api.Ticket{Ticket: ticket, ExpiresIn: ticketSeconds})
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
	seen := found[:0]
	for _, k := range found {
		if c.Sees(k.Workspace) {
			seen = append(seen, k)
		}
	}
	return writeList(w, r, seen, wireKey)
}

func (s *Server) deleteKey(w http.ResponseWriter, r *http.Request, c sandbox.Caller) error {
	tenant, err := tenantInQuery(r, c)
	if err != nil {
		return err
	}
	k, err := s.deps.Accounts.Key(r.Context(), tenant, param(r, "id"))
	if err != nil {
		return err
	}
	if !c.Sees(k.Workspace) {
		return sandbox.E(sandbox.NotFound, sandbox.CodeNotFound, "key not found")
	}
	if !c.Admin && k.Admin {
		// Whoever shares a tenant with an administrator must not lock them out.
		return sandbox.E(sandbox.Forbidden, sandbox.CodeForbidden, "only an admin key may delete admin keys")
	}
	if err := s.deps.Accounts.DeleteKey(r.Context(), tenant, k.ID); err != nil {
		return err
	}
	writeOne(w, http.StatusOK, api.Deleted{ID: k.ID, Deleted: true})
	return nil
}
