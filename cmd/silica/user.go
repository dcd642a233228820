package main

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"silica.dev/silica/api"
	"silica.dev/silica/client"
)

func newUser(t *terminal) *cobra.Command {
	ls := &cobra.Command{
		Use: "ls", Aliases: []string{"list"},
		Short: "List the users of the tenant",
		Args:  args(0, 0),
		RunE: lists(t, []string{"ID", "NAME", "EMAIL", "ROLE", "AGE"},
			func(ctx context.Context, c *client.Client, _ []string) ([]api.User, error) { return c.Users(ctx) },
			func(u api.User) []string { return []string{u.ID, u.Name, u.Email, u.Role, age(u.CreatedAt)} }),
	}
	return group("user", "Manage users, whom keys belong to", newUserPut(t, "create NAME", "Create a user"), ls, newUserGet(t),
		newUserPut(t, "update USER", "Change a user; what is not named stays"),
		newRm(t, "rm USER...", "Delete users with their keys", (*client.Client).DeleteUser))
}

func newUserGet(t *terminal) *cobra.Command {
	return &cobra.Command{
		Use:   "get USER",
		Short: "Show one user",
		Args:  args(1, 1),
		RunE: asks(t, func(ctx context.Context, c *client.Client, given []string) (*api.User, error) {
			return c.User(ctx, given[0])
		}, func(w io.Writer, u *api.User) {
			fields(w, [][2]string{{"id", u.ID}, {"name", u.Name}, {"email", u.Email}, {"role", u.Role}, {"tenant", u.TenantID}, {"created", when(&u.CreatedAt)}})
		}),
	}
}

// newUserPut makes the commands that create and change a user.
func newUserPut(t *terminal, use, short string) *cobra.Command {
	var req api.UserRequest
	c := &cobra.Command{Use: use, Short: short, Args: args(1, 1)}
	create := c.Name() == "create"
	c.RunE = asks(t, func(ctx context.Context, c *client.Client, given []string) (*api.User, error) {
		if create {
			req.Name = given[0]
			return c.CreateUser(ctx, req)
		}
		return c.ChangeUser(ctx, given[0], req)
	}, func(w io.Writer, u *api.User) { fmt.Fprintln(w, u.ID+"  "+u.Name) })
	f := c.Flags()
	f.SortFlags = false
	if !create {
		f.StringVar(&req.Name, "name", "", "name")
	}
	f.StringVar(&req.Email, "email", "", "address")
	f.StringVar(&req.Role, "role", "", "in the whole tenant: owner, admin, developer, viewer or none")
	return c
}
