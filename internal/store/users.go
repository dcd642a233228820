package store

import (
	"context"
	"time"

	"silica.dev/silica/sandbox"
)

func (t *tx) addUser(u *sandbox.User) error {
	u.ID, u.CreatedAt = sandbox.NewName("usr_"), time.Now().UTC().Truncate(time.Microsecond)
	_, err := t.exec(`insert into users (id, tenant, name, email, role, created_at) values ($1, $2, $3, $4, $5, $6)`,
		u.ID, string(u.Tenant), u.Name, u.Email, string(u.Role), micros(u.CreatedAt))
	return err
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
