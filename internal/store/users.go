package store

import (
	"cmp"
	"context"
	"time"

	"silica.dev/silica/sandbox"
)

var (
	noUser    = sandbox.E(sandbox.NotFound, sandbox.CodeNotFound, "user not found")
	lastOwner = sandbox.E(sandbox.Conflict, sandbox.CodeConflict, "this would leave nobody who owns it: make somebody else an owner first")
)

func rowTime() time.Time { return time.Now().UTC().Truncate(time.Microsecond) }

const selectUser = `select id, tenant, name, email, role, created_at from users `

func scanUser(row scanner) (u sandbox.User, err error) {
	var created int64
	err = row.Scan(&u.ID, &u.Tenant, &u.Name, &u.Email, &u.Role, &created)
	u.CreatedAt = fromMicros(created)
	return u, err
}

func (t *tx) addUser(u *sandbox.User) error {
	u.ID, u.CreatedAt = cmp.Or(u.ID, sandbox.NewName("usr_")), rowTime()
	_, err := t.exec(`insert into users (id, tenant, name, email, role, created_at) values ($1, $2, $3, $4, $5, $6)`,
		u.ID, string(u.Tenant), u.Name, u.Email, string(u.Role), micros(u.CreatedAt))
	return err
}

// Users returns a tenant's users, or, given one, only the members of a
// workspace, oldest first.
func (s *Store) Users(ctx context.Context, tenant sandbox.TenantID, workspace string) ([]sandbox.User, error) {
	return queryList(ctx, s, "list users", scanUser, selectUser+`where tenant = $1 and
		($2 = '' or id in (select user_id from members where workspace = $2)) order by created_at, id`, string(tenant), workspace)
}

// User returns one user of a tenant.
func (s *Store) User(ctx context.Context, tenant sandbox.TenantID, id string) (sandbox.User, error) {
	u, err := scanUser(s.read.QueryRowContext(ctx, selectUser+`where tenant = $1 and id = $2`, string(tenant), id))
	if none(err) {
		return sandbox.User{}, noUser
	}
	return u, wrap(err, "user")
}

// CreateUser makes a user of a tenant.
func (s *Store) CreateUser(ctx context.Context, u sandbox.User) (sandbox.User, error) {
	err := s.do(ctx, "create user", func(t *tx) error {
		if err := t.lockTenant(u.Tenant); err != nil {
			return err
		}
		return t.addUser(&u)
	})
	return u, err
}

// ChangeUser changes name, email and role. A Conflict says that the tenant
// would have no owner left.
func (s *Store) ChangeUser(ctx context.Context, tenant sandbox.TenantID, id string, change func(*sandbox.User) error) (u sandbox.User, err error) {
	err = s.doAccounts(ctx, "change user", func(t *tx) error {
		if err := t.lockTenant(tenant); err != nil {
			return err
		}
		if u, err = scanUser(t.row(selectUser+`where tenant = $1 and id = $2`, string(tenant), id)); none(err) {
			return noUser
		} else if err != nil {
			return err
		}
		before := u.Role
		if err := change(&u); err != nil {
			return err
		}
		if _, err := t.exec(`update users set name = $2, email = $3, role = $4 where id = $1`, id, u.Name, u.Email, string(u.Role)); err != nil {
			return err
		}
		if before != sandbox.Owner {
			return nil
		}
		return t.need(lastOwner, `select count(*) from users where tenant = $1 and role = $2`, string(tenant), string(sandbox.Owner))
	})
	return u, err
}

// DeleteUser removes a user with its keys and memberships. A Conflict says that
// it is the tenant's last owner, the last one of a workspace, or has the last
// admin key. What the user made stays.
func (s *Store) DeleteUser(ctx context.Context, tenant sandbox.TenantID, id string, allow func(sandbox.User) error) error {
	return s.doAccounts(ctx, "delete user", func(t *tx) error {
		if err := t.lockTenant(tenant); err != nil {
			return err
		}
		u, err := scanUser(t.row(selectUser+`where tenant = $1 and id = $2`, string(tenant), id))
		if none(err) {
			return noUser
		}
		if err == nil {
			err = allow(u)
		}
		if err != nil {
			return err
		}
		var sole int // workspaces that only this user owns
		err = t.row(`select count(*) from members m where m.tenant = $1 and m.user_id = $2 and m.role = $3 and not exists
			(select 1 from members o where o.workspace = m.workspace and o.role = $3 and o.user_id <> $2)`,
			string(tenant), id, string(sandbox.Owner)).Scan(&sole)
		if err != nil {
			return err
		}
		if sole > 0 {
			return lastOwner
		}
		var admins int
		if err := t.row(`select count(*) from api_keys where tenant = $1 and user_id = $2 and admin = $3`, string(tenant), id, true).Scan(&admins); err != nil {
			return err
		}
		for _, q := range []string{
			`delete from api_keys where tenant = $1 and parent in (select id from api_keys where tenant = $1 and user_id = $2)`,
			`delete from api_keys where tenant = $1 and user_id = $2`,
			`delete from members where tenant = $1 and user_id = $2`,
			`delete from users where tenant = $1 and id = $2`,
		} {
			if _, err := t.exec(q, string(tenant), id); err != nil {
				return err
			}
		}
		if u.Role == sandbox.Owner {
			if err := t.need(lastOwner, `select count(*) from users where tenant = $1 and role = $2`, string(tenant), string(sandbox.Owner)); err != nil {
				return err
			}
		}
		if admins == 0 {
			return nil
		}
		return t.keepAdmin()
	})
}

// RoleOf returns a user's role in a workspace, or, when that is empty, in the
// tenant; "" for none. A user the tenant does not have is refused.
func (s *Store) RoleOf(ctx context.Context, tenant sandbox.TenantID, user, workspace string) (sandbox.Role, error) {
	var role, member sandbox.Role
	err := s.read.QueryRowContext(ctx, `select u.role, coalesce(m.role, '') from users u
		left join members m on m.user_id = u.id and m.workspace = $3 and $3 <> '' where u.id = $1 and u.tenant = $2`,
		user, string(tenant), workspace).Scan(&role, &member)
	if none(err) {
		return "", noSuchUser
	}
	return role.Higher(member), wrap(err, "role")
}
