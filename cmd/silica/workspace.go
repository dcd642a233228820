package main

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"silica.dev/silica/api"
	"silica.dev/silica/client"
)

func newWorkspace(t *terminal) *cobra.Command {
	g := group("workspace", "Manage workspaces, their members and projects",
		newWorkspaceCreate(t), newWorkspaceLs(t), newWorkspaceGet(t), newWorkspaceUpdate(t),
		newRm(t, "rm WORKSPACE...", "Delete workspaces without sandboxes, with their projects, members and keys", (*client.Client).DeleteWorkspace),
		newMember(t), newProject(t))
	g.Aliases = []string{"ws"}
	return g
}

// bindWorkspace binds what can be said of a workspace. Call the answer before req
// is used.
func bindWorkspace(f *pflag.FlagSet, req *api.WorkspaceRequest) func() error {
	var metadata []string
	f.StringVar(&req.Description, "description", "", "what it is for")
	f.StringArrayVar(&metadata, "metadata", nil, "KEY=VALUE kept with it; repeatable")
	return func() (err error) {
		req.Metadata, err = pairs("--metadata", metadata)
		return err
	}
}

func newWorkspaceCreate(t *terminal) *cobra.Command {
	var req api.WorkspaceRequest
	c := &cobra.Command{Use: "create NAME", Short: "Create a workspace, which the caller owns", Args: args(1, 1)}
	finish := bindWorkspace(c.Flags(), &req)
	c.Flags().StringVar(&req.Slug, "slug", "", "short name for paths (default made of the name)")
	c.RunE = asks(t, func(ctx context.Context, c *client.Client, given []string) (*api.Workspace, error) {
		req.Name = given[0]
		if err := finish(); err != nil {
			return nil, err
		}
		return c.CreateWorkspace(ctx, req)
	}, func(w io.Writer, x *api.Workspace) { fmt.Fprintln(w, x.ID+"  "+x.Slug) })
	return c
}

func newWorkspaceUpdate(t *terminal) *cobra.Command {
	var req api.WorkspaceRequest
	c := &cobra.Command{Use: "update WORKSPACE", Short: "Change a workspace; what is not named stays", Args: args(1, 1)}
	finish := bindWorkspace(c.Flags(), &req)
	c.Flags().StringVar(&req.Name, "name", "", "name")
	c.RunE = asks(t, func(ctx context.Context, c *client.Client, given []string) (*api.Workspace, error) {
		if err := finish(); err != nil {
			return nil, err
		}
		return c.ChangeWorkspace(ctx, given[0], req)
	}, describeWorkspace)
	return c
}

func newWorkspaceLs(t *terminal) *cobra.Command {
	return &cobra.Command{
		Use: "ls", Aliases: []string{"list"},
		Short: "List the workspaces that the caller can see",
		Args:  args(0, 0),
		RunE: lists(t, []string{"ID", "SLUG", "NAME", "AGE"},
			func(ctx context.Context, c *client.Client, _ []string) ([]api.Workspace, error) {
				return c.Workspaces(ctx)
			},
			func(x api.Workspace) []string { return []string{x.ID, x.Slug, x.Name, age(x.CreatedAt)} }),
	}
}

func newWorkspaceGet(t *terminal) *cobra.Command {
	return &cobra.Command{
		Use:   "get WORKSPACE",
		Short: "Show one workspace (by id or slug)",
		Args:  args(1, 1),
		RunE: asks(t, func(ctx context.Context, c *client.Client, given []string) (*api.Workspace, error) {
			return c.Workspace(ctx, given[0])
		}, describeWorkspace),
	}
}

func describeWorkspace(w io.Writer, x *api.Workspace) {
	rows := [][2]string{{"id", x.ID}, {"slug", x.Slug}, {"name", x.Name}, {"description", x.Description}, {"tenant", x.TenantID}, {"created", when(&x.CreatedAt)}}
	fields(w, rows)
}

func newMember(t *terminal) *cobra.Command {
	put := func(verb, short string, do func(*client.Client, context.Context, string, string, string) (*api.Member, error)) *cobra.Command {
		return &cobra.Command{
			Use:   verb + " WORKSPACE USER ROLE",
			Short: short,
			Args:  args(3, 3),
			RunE: asks(t, func(ctx context.Context, c *client.Client, given []string) (*api.Member, error) {
				return do(c, ctx, given[0], given[1], given[2])
			}, func(w io.Writer, m *api.Member) { fmt.Fprintln(w, m.UserID+"  "+m.Role) }),
		}
	}
	ls := &cobra.Command{
		Use: "ls WORKSPACE", Aliases: []string{"list"},
		Short: "List the members of a workspace",
		Args:  args(1, 1),
		RunE: lists(t, []string{"USER", "ROLE", "NAME", "EMAIL", "SINCE"},
			func(ctx context.Context, c *client.Client, given []string) ([]api.Member, error) {
				return c.Members(ctx, given[0])
			},
			func(m api.Member) []string { return []string{m.UserID, m.Role, m.Name, m.Email, when(&m.CreatedAt)} }),
	}
	rm := &cobra.Command{
		Use: "rm WORKSPACE USER...", Aliases: []string{"delete"},
		Short: "End memberships",
		Args:  args(2, -1),
		RunE: talks(func(ctx context.Context, c *client.Client, given []string) error {
			return each(t, given[1:], func(user string) (api.Deleted, error) {
				return deleted(user), c.RemoveMember(ctx, given[0], user)
			})
		}),
	}
	return group("member", "Members and their roles: owner, admin, developer or viewer", ls,
		put("add", "Make a user a member", (*client.Client).AddMember), put("set", "Change a member's role", (*client.Client).ChangeMember), rm)
}

func newProject(t *terminal) *cobra.Command {
	var of string
	ls := &cobra.Command{
		Use: "ls", Aliases: []string{"list"},
		Short: "List projects",
		Args:  args(0, 0),
		RunE: lists(t, []string{"ID", "SLUG", "NAME", "WORKSPACE", "AGE"},
			func(ctx context.Context, c *client.Client, _ []string) ([]api.Project, error) {
				return c.Projects(ctx, of)
			},
			func(p api.Project) []string { return []string{p.ID, p.Slug, p.Name, p.WorkspaceID, age(p.CreatedAt)} }),
	}
	ls.Flags().StringVar(&of, "workspace", "", "id of the workspace (default all)")
	var req api.ProjectRequest
	create := &cobra.Command{
		Use:   "create SLUG",
		Short: "Find or create a project",
		Args:  args(1, 1),
		RunE: asks(t, func(ctx context.Context, c *client.Client, given []string) (*api.Project, error) {
			req.Slug = given[0]
			return c.CreateProject(ctx, req)
		}, func(w io.Writer, p *api.Project) { fmt.Fprintln(w, p.ID+"  "+p.Slug) }),
	}
	create.Flags().StringVar(&req.WorkspaceSlug, "workspace", "", "slug of the workspace, made when there is none")
	create.Flags().StringVar(&req.Name, "name", "", "name")
	return group("project", "Projects, the parts of workspaces", create, ls,
		newRm(t, "rm PROJECT...", "Delete projects without sandboxes", (*client.Client).DeleteProject))
}
