package client

import (
	"context"
	"net/url"

	"silica.dev/silica/api"
)

// Users lists the users of the tenant.
func (c *Client) Users(ctx context.Context) ([]api.User, error) {
	return rows[api.User](ctx, c, get(api.PathUsers))
}

// CreateUser makes a user, whom keys can belong to.
func (c *Client) CreateUser(ctx context.Context, req api.UserRequest) (*api.User, error) {
	return fetch[api.User](ctx, c, post(api.PathUsers, req))
}

// User returns one user.
func (c *Client) User(ctx context.Context, id string) (*api.User, error) {
	return fetch[api.User](ctx, c, get(api.PathUsers+"/"+url.PathEscape(id)))
}

// ChangeUser changes a user, or its role in the tenant.
func (c *Client) ChangeUser(ctx context.Context, id string, req api.UserRequest) (*api.User, error) {
	return fetch[api.User](ctx, c, patch(api.PathUsers+"/"+url.PathEscape(id), req))
}

// DeleteUser deletes a user with its keys.
func (c *Client) DeleteUser(ctx context.Context, id string) error {
	return c.do(ctx, del(api.PathUsers+"/"+url.PathEscape(id)), nil)
}

func workspacePath(id string, rest ...string) string {
	p := api.PathWorkspaces + "/" + url.PathEscape(id)
	for _, r := range rest {
		p += "/" + url.PathEscape(r)
	}
	return p
}

// Workspaces lists the workspaces that the caller can see.
func (c *Client) Workspaces(ctx context.Context) ([]api.Workspace, error) {
	return rows[api.Workspace](ctx, c, get(api.PathWorkspaces))
}

// CreateWorkspace makes a workspace, which the caller owns.
func (c *Client) CreateWorkspace(ctx context.Context, req api.WorkspaceRequest) (*api.Workspace, error) {
	return fetch[api.Workspace](ctx, c, post(api.PathWorkspaces, req))
}

// Workspace returns one workspace by id or slug.
func (c *Client) Workspace(ctx context.Context, id string) (*api.Workspace, error) {
	return fetch[api.Workspace](ctx, c, get(workspacePath(id)))
}

// ChangeWorkspace changes what req sets.
func (c *Client) ChangeWorkspace(ctx context.Context, id string, req api.WorkspaceRequest) (*api.Workspace, error) {
	return fetch[api.Workspace](ctx, c, patch(workspacePath(id), req))
}

// DeleteWorkspace deletes a workspace that has no sandboxes, with its projects,
// members and keys.
func (c *Client) DeleteWorkspace(ctx context.Context, id string) error {
	return c.do(ctx, del(workspacePath(id)), nil)
}

// Members lists the members of a workspace.
func (c *Client) Members(ctx context.Context, workspace string) ([]api.Member, error) {
	return rows[api.Member](ctx, c, get(workspacePath(workspace, "members")))
}

// AddMember makes a user a member of a workspace.
func (c *Client) AddMember(ctx context.Context, workspace, user, role string) (*api.Member, error) {
	return fetch[api.Member](ctx, c, post(workspacePath(workspace, "members"), api.MemberRequest{UserID: user, Role: role}))
}

// ChangeMember changes a member's role.
func (c *Client) ChangeMember(ctx context.Context, workspace, user, role string) (*api.Member, error) {
	return fetch[api.Member](ctx, c, patch(workspacePath(workspace, "members", user), api.MemberRequest{Role: role}))
}

// RemoveMember ends a membership.
func (c *Client) RemoveMember(ctx context.Context, workspace, user string) error {
	return c.do(ctx, del(workspacePath(workspace, "members", user)), nil)
}

// Projects lists the projects of a workspace, or of all if it is empty.
func (c *Client) Projects(ctx context.Context, workspace string) ([]api.Project, error) {
	return rows[api.Project](ctx, c, get(api.PathProjects).with("workspace_id", workspace))
}

// CreateProject finds or makes a project, as creating a sandbox does.
func (c *Client) CreateProject(ctx context.Context, req api.ProjectRequest) (*api.Project, error) {
	return fetch[api.Project](ctx, c, post(api.PathProjects, req).again())
}

// Project returns one project.
func (c *Client) Project(ctx context.Context, id string) (*api.Project, error) {
	return fetch[api.Project](ctx, c, get(api.PathProjects+"/"+url.PathEscape(id)))
}

// DeleteProject deletes a project that has no sandboxes.
func (c *Client) DeleteProject(ctx context.Context, id string) error {
	return c.do(ctx, del(api.PathProjects+"/"+url.PathEscape(id)), nil)
}

// Plan tells what the tenant may have, and has.
func (c *Client) Plan(ctx context.Context) (*api.Plan, error) {
	return fetch[api.Plan](ctx, c, get(api.PathPlan))
}

func quotaPath(user string) string { return api.PathQuotas + "/" + url.PathEscape(user) }

// Quota tells what one of the tenant's own users, an external_user_id, may have.
func (c *Client) Quota(ctx context.Context, externalUser string) (*api.Quota, error) {
	return fetch[api.Quota](ctx, c, get(quotaPath(externalUser)))
}

// SetQuota replaces that quota.
func (c *Client) SetQuota(ctx context.Context, externalUser string, req api.QuotaRequest) (*api.Quota, error) {
	return fetch[api.Quota](ctx, c, put(quotaPath(externalUser), req))
}

// DeleteQuota takes all bounds away.
func (c *Client) DeleteQuota(ctx context.Context, externalUser string) error {
	return c.do(ctx, del(quotaPath(externalUser)), nil)
}

// Tenant returns one tenant. Another than the caller's needs an admin key.
func (c *Client) Tenant(ctx context.Context, id string) (*api.Tenant, error) {
	return fetch[api.Tenant](ctx, c, get(tenantPath(id)))
}

// ChangeTenant changes a tenant's plan and limits. Needs an admin key.
func (c *Client) ChangeTenant(ctx context.Context, id string, req api.ChangeTenant) (*api.Tenant, error) {
	return fetch[api.Tenant](ctx, c, patch(tenantPath(id), req))
}

// GrantCredits gives a tenant credits, once also when the answer is lost. An
// empty key is a fresh one; the same key grants once. Needs an admin key.
func (c *Client) GrantCredits(ctx context.Context, tenant, key string, req api.GrantRequest) (*api.CreditEntry, error) {
	cl := post(tenantPath(tenant)+"/credits", req).again().headed(api.HeaderIdempotencyKey, keyOr(key))
	return fetch[api.CreditEntry](ctx, c, cl)
}
