package store

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/google/uuid"

	"silica.dev/silica/sandbox"
)

var (
	noWorkspace = sandbox.E(sandbox.NotFound, sandbox.CodeNotFound, "workspace not found")
	noProject   = sandbox.E(sandbox.NotFound, sandbox.CodeNotFound, "project not found")
	noMember    = sandbox.E(sandbox.NotFound, sandbox.CodeNotFound, "member not found")
)

const selectWorkspace = `select id, tenant, slug, name, description, metadata, created_at, updated_at from workspaces `

func scanWorkspace(row scanner) (w sandbox.Workspace, err error) {
	var metadata string
	var created, updated int64
	if err = row.Scan(&w.ID, &w.Tenant, &w.Slug, &w.Name, &w.Description, &metadata, &created, &updated); err != nil {
		return sandbox.Workspace{}, err
	}
	if err := json.Unmarshal([]byte(metadata), &w.Metadata); err != nil {
		return sandbox.Workspace{}, fmt.Errorf("row of workspace %s: %w", w.ID, err)
	}
	w.CreatedAt, w.UpdatedAt = fromMicros(created), fromMicros(cmp.Or(updated, created))
	return w, nil
}

// Workspaces returns a tenant's workspaces, oldest first; only, if it is not
// empty, the one with that ID.
func (s *Store) Workspaces(ctx context.Context, tenant sandbox.TenantID, only string) ([]sandbox.Workspace, error) {
	return queryList(ctx, s, "list workspaces", scanWorkspace, selectWorkspace+`where tenant = $1 and ($2 = '' or id = $2) order by created_at, id`,
		string(tenant), only)
}

// byIDOrSlug prefers the ID, should a slug look like one.
const byIDOrSlug = `where tenant = $1 and (id = $2 or slug = $2) order by case when id = $2 then 0 else 1 end limit 1`

// Workspace returns one workspace of a tenant by ID or slug.
func (s *Store) Workspace(ctx context.Context, tenant sandbox.TenantID, id string) (sandbox.Workspace, error) {
	w, err := scanWorkspace(s.read.QueryRowContext(ctx, selectWorkspace+byIDOrSlug, string(tenant), id))
	if none(err) {
		return sandbox.Workspace{}, noWorkspace
	}
	return w, wrap(err, "workspace")
}

// CreateWorkspace makes a workspace that a user owns. Without a Slug it gets
// one like its name. A Conflict says that the slug is taken.
func (s *Store) CreateWorkspace(ctx context.Context, w sandbox.Workspace, owner string) (sandbox.Workspace, error) {
	chosen := w.Slug != ""
	err := s.do(ctx, "create workspace", func(t *tx) error {
		if err := t.lockTenant(w.Tenant); err != nil {
			return err
		}
		if !chosen {
			w.Slug = slugLike(w.Name)
			var n int
			if err := t.row(`select count(*) from workspaces where tenant = $1 and slug = $2`, string(w.Tenant), w.Slug).Scan(&n); err != nil {
				return err
			}
			if n > 0 {
				w.Slug += "-" + sandbox.NewSlug()
			}
		}
		w.ID, w.CreatedAt = cmp.Or(w.ID, uuid.NewString()), rowTime()
		w.Name, w.UpdatedAt = cmp.Or(w.Name, w.Slug), w.CreatedAt
		metadata, err := json.Marshal(w.Metadata)
		if err != nil {
			return fmt.Errorf("metadata: %w", err)
		}
		_, err = t.exec(`insert into workspaces (id, tenant, slug, name, description, metadata, created_at, updated_at) values ($1, $2, $3, $4, $5, $6, $7, $7)`,
			w.ID, string(w.Tenant), w.Slug, w.Name, w.Description, string(metadata), micros(w.CreatedAt))
		if unique(err) {
			return sandbox.E(sandbox.Conflict, sandbox.CodeConflict, fmt.Sprintf("there is a workspace %q already", w.Slug))
		}
		if err != nil {
			return err
		}
		return t.putMember(w.Tenant, w.ID, owner, sandbox.Owner)
	})
	return w, err
}

// slugLike makes a slug of a name.
func slugLike(name string) string {
	slug := strings.Map(func(c rune) rune {
		if c >= 'a' && c <= 'z' || c >= '0' && c <= '9' {
			return c
		}
		return '-'
	}, strings.ToLower(name))
	for strings.Contains(slug, "--") {
		slug = strings.ReplaceAll(slug, "--", "-")
	}
	slug = strings.Trim(slug[:min(len(slug), 40)], "-")
	return cmp.Or(slug, sandbox.NewSlug())
}

// ChangeWorkspace changes name, description and metadata.
func (s *Store) ChangeWorkspace(ctx context.Context, tenant sandbox.TenantID, id string, change func(*sandbox.Workspace)) (w sandbox.Workspace, err error) {
	err = s.do(ctx, "change workspace", func(t *tx) error {
		if err := t.lockTenant(tenant); err != nil {
			return err
		}
		if w, err = scanWorkspace(t.row(selectWorkspace+`where tenant = $1 and id = $2`, string(tenant), id)); none(err) {
			return noWorkspace
		} else if err != nil {
			return err
		}
		change(&w)
		w.UpdatedAt = rowTime()
		metadata, err := json.Marshal(w.Metadata)
		if err != nil {
			return fmt.Errorf("metadata: %w", err)
		}
		_, err = t.exec(`update workspaces set name = $2, description = $3, metadata = $4, updated_at = $5 where id = $1`,
			id, w.Name, w.Description, string(metadata), micros(w.UpdatedAt))
		return err
	})
	return w, err
}

// DeleteWorkspace removes a workspace with its projects, members and keys. A
// Conflict says that it still has sandboxes.
func (s *Store) DeleteWorkspace(ctx context.Context, tenant sandbox.TenantID, id string) error {
	return s.doAccounts(ctx, "delete workspace", func(t *tx) error {
		if err := t.lockTenant(tenant); err != nil {
			return err
		}
		if err := t.need(noWorkspace, `select count(*) from workspaces where tenant = $1 and id = $2`, string(tenant), id); err != nil {
			return err
		}
		if err := t.emptied("workspace", tenant, id); err != nil {
			return err
		}
		var admins int
		if err := t.row(`select count(*) from api_keys where tenant = $1 and workspace = $2 and admin = $3`, string(tenant), id, true).Scan(&admins); err != nil {
			return err
		}
		for _, q := range []string{
			`delete from api_keys where tenant = $1 and workspace = $2`,
			`delete from members where tenant = $1 and workspace = $2`,
			`delete from projects where tenant = $1 and workspace = $2`,
			`delete from workspaces where tenant = $1 and id = $2`,
		} {
			if _, err := t.exec(q, string(tenant), id); err != nil {
				return err
			}
		}
		if admins == 0 {
			return nil
		}
		return t.keepAdmin()
	})
}

// emptied refuses while a workspace or project has sandboxes that go on.
func (t *tx) emptied(what string, tenant sandbox.TenantID, id string) error {
	var n int
	err := t.row(`select count(*) from sandboxes where tenant = $1 and `+what+` = $2 and state not in ($3, $4)`,
		string(tenant), id, string(sandbox.Destroyed), string(sandbox.Failed)).Scan(&n)
	if err == nil && n > 0 {
		err = sandbox.E(sandbox.Conflict, sandbox.CodeConflict, fmt.Sprintf("the %s has %d sandboxes: destroy them first", what, n))
	}
	return err
}

const selectMember = `select m.workspace, m.role, m.created_at, u.id, u.tenant, u.name, u.email, u.role, u.created_at
	from members m join users u on u.id = m.user_id and u.tenant = m.tenant `

func scanMember(row scanner) (m sandbox.Member, err error) {
	var created, user int64
	err = row.Scan(&m.Workspace, &m.Role, &created, &m.User.ID, &m.User.Tenant, &m.User.Name, &m.User.Email, &m.User.Role, &user)
	m.CreatedAt, m.User.CreatedAt = fromMicros(created), fromMicros(user)
	return m, err
}

// Members returns the members of a workspace, oldest first.
func (s *Store) Members(ctx context.Context, tenant sandbox.TenantID, workspace string) ([]sandbox.Member, error) {
	return queryList(ctx, s, "list members", scanMember, selectMember+`where m.tenant = $1 and m.workspace = $2 order by m.created_at, u.id`,
		string(tenant), workspace)
}

func (t *tx) putMember(tenant sandbox.TenantID, workspace, user string, role sandbox.Role) error {
	_, err := t.exec(`insert into members (workspace, tenant, user_id, role, created_at)
		select $1, u.tenant, u.id, $4, $5 from users u where u.tenant = $2 and u.id = $3
		on conflict (workspace, user_id) do update set role = excluded.role`, workspace, string(tenant), user, string(role), micros(rowTime()))
	return err
}

// SetMember gives a user a role in a workspace. before is what it was, "" if it
// was no member; allow may refuse. A Conflict says that no owner would be left.
func (s *Store) SetMember(ctx context.Context, tenant sandbox.TenantID, workspace, user string, role sandbox.Role, allow func(before sandbox.Role) error) (m sandbox.Member, err error) {
	err = s.doAccounts(ctx, "set member", func(t *tx) error {
		before, err := t.member(tenant, workspace, user, allow)
		if err != nil {
			return err
		}
		if err := t.need(noSuchUser, `select count(*) from users where tenant = $1 and id = $2`, string(tenant), user); err != nil {
			return err
		}
		if err := t.putMember(tenant, workspace, user, role); err != nil {
			return err
		}
		if err := t.keepOwner(workspace, before); err != nil {
			return err
		}
		m, err = scanMember(t.row(selectMember+`where m.workspace = $1 and m.user_id = $2`, workspace, user))
		return err
	})
	return m, err
}

// RemoveMember ends a membership, and with it the user's keys for that
// workspace, unless the user has a role in the whole tenant.
func (s *Store) RemoveMember(ctx context.Context, tenant sandbox.TenantID, workspace, user string, allow func(before sandbox.Role) error) error {
	return s.doAccounts(ctx, "remove member", func(t *tx) error {
		before, err := t.member(tenant, workspace, user, allow)
		if err != nil {
			return err
		}
		if before == "" {
			return noMember
		}
		if _, err := t.exec(`delete from members where workspace = $1 and user_id = $2`, workspace, user); err != nil {
			return err
		}
		if err := t.keepOwner(workspace, before); err != nil {
			return err
		}
		const keys = `from api_keys where tenant = $1 and workspace = $2 and user_id = $3 and admin = $4
			and user_id in (select id from users where tenant = $1 and role = '')`
		// What was derived from them may be somebody else's.
		for _, q := range []string{`delete from api_keys where parent in (select id ` + keys + `)`, `delete ` + keys} {
			if _, err := t.exec(q, string(tenant), workspace, user, false); err != nil {
				return err
			}
		}
		return nil
	})
}

// member locks the tenant and returns what a user is in a workspace of it.
func (t *tx) member(tenant sandbox.TenantID, workspace, user string, allow func(sandbox.Role) error) (before sandbox.Role, err error) {
	if err := t.lockTenant(tenant); err != nil {
		return "", err
	}
	if err := t.need(noWorkspace, `select count(*) from workspaces where tenant = $1 and id = $2`, string(tenant), workspace); err != nil {
		return "", err
	}
	err = t.row(`select role from members where workspace = $1 and user_id = $2`, workspace, user).Scan(&before)
	if err != nil && !none(err) {
		return "", err
	}
	return before, allow(before)
}

func (t *tx) keepOwner(workspace string, before sandbox.Role) error {
	if before != sandbox.Owner {
		return nil
	}
	return t.need(lastOwner, `select count(*) from members where workspace = $1 and role = $2`, workspace, string(sandbox.Owner))
}

const selectProject = `select id, tenant, workspace, slug, name, created_at from projects `

func scanProject(row scanner) (p sandbox.Project, err error) {
	var created int64
	err = row.Scan(&p.ID, &p.Tenant, &p.Workspace, &p.Slug, &p.Name, &created)
	p.CreatedAt = fromMicros(created)
	return p, err
}

// Projects returns a tenant's projects, or one workspace's, oldest first.
func (s *Store) Projects(ctx context.Context, tenant sandbox.TenantID, workspace string) ([]sandbox.Project, error) {
	return queryList(ctx, s, "list projects", scanProject, selectProject+`where tenant = $1 and ($2 = '' or workspace = $2) order by created_at, id`,
		string(tenant), workspace)
}

// Project returns one project of a tenant.
func (s *Store) Project(ctx context.Context, tenant sandbox.TenantID, id string) (sandbox.Project, error) {
	p, err := scanProject(s.read.QueryRowContext(ctx, selectProject+`where tenant = $1 and id = $2`, string(tenant), id))
	if none(err) {
		return sandbox.Project{}, noProject
	}
	return p, wrap(err, "project")
}

// CreateProject finds or makes a project, and its workspace, as a create does;
// fresh says that it was made.
func (s *Store) CreateProject(ctx context.Context, tenant sandbox.TenantID, w, p sandbox.Place) (got sandbox.Project, fresh bool, err error) {
	err = s.do(ctx, "create project", func(t *tx) error {
		if err := t.lockTenant(tenant); err != nil {
			return err
		}
		at := rowTime()
		if p.Slug == "" {
			p.Slug = slugLike(p.Name)
		}
		_, id, err := t.place(tenant, w, p, at)
		if err != nil {
			return err
		}
		got, err = scanProject(t.row(selectProject+`where id = $1`, id))
		fresh = got.CreatedAt.Equal(at)
		return err
	})
	return got, fresh, err
}

// DeleteProject removes a project without sandboxes.
func (s *Store) DeleteProject(ctx context.Context, tenant sandbox.TenantID, id string) error {
	return s.do(ctx, "delete project", func(t *tx) error {
		if err := t.lockTenant(tenant); err != nil {
			return err
		}
		if err := t.need(noProject, `select count(*) from projects where tenant = $1 and id = $2`, string(tenant), id); err != nil {
			return err
		}
		if err := t.emptied("project", tenant, id); err != nil {
			return err
		}
		_, err := t.exec(`delete from projects where tenant = $1 and id = $2`, string(tenant), id)
		return err
	})
}
