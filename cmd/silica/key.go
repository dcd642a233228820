package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"silica.dev/silica/api"
	"silica.dev/silica/client"
)

func newKey(t *terminal) *cobra.Command {
	return group("key", "Manage API keys", newKeyCreate(t), newKeyScoped(t), newKeyLs(t), newKeyRm(t))
}

func newKeyCreate(t *terminal) *cobra.Command {
	var req api.CreateKey
	var expires time.Duration
	c := &cobra.Command{
		Use:     "create [NAME]",
		Short:   "Create an API key and print its secret, this once",
		Example: "  silica key create ci --scope sandboxes:read --scope sandboxes:write --expires 720h",
		Args:    args(0, 1),
		RunE: asks(t, func(ctx context.Context, c *client.Client, given []string) (*api.Key, error) {
			if len(given) > 0 {
				req.Name = given[0]
			}
			if expires > 0 {
				at := time.Now().Add(expires).UTC().Truncate(time.Second)
				req.ExpiresAt = &at
			}
			return c.CreateKey(ctx, req)
		}, t.secret),
	}
	f := c.Flags()
	f.SortFlags = false
	f.StringVar(&req.TenantID, "tenant", "", "id of the tenant (default the caller's own)")
	f.BoolVar(&req.Admin, "admin", false, "may manage tenants and keys")
	f.StringSliceVar(&req.Scopes, "scope", nil, "what it may, like sandboxes:read; repeatable (default all that the caller may)")
	f.DurationVar(&expires, "expires", 0, "for how long it holds, like 720h (default for ever)")
	f.StringVar(&req.WorkspaceID, "workspace", "", "id of the only workspace it can see")
	f.StringVar(&req.UserID, "user", "", "id of the user it belongs to (default the caller's own)")
	return c
}

func newKeyScoped(t *terminal) *cobra.Command {
	var req api.CreateScopedToken
	var expires time.Duration
	c := &cobra.Command{
		Use:   "scoped [NAME]",
		Short: "Derive a key that may less than the caller's, for at most a day",
		Args:  args(0, 1),
		RunE: asks(t, func(ctx context.Context, c *client.Client, given []string) (*api.Key, error) {
			if len(given) > 0 {
				req.Name = given[0]
			}
			req.ExpiresInSeconds = int(expires / time.Second)
			return c.CreateScopedToken(ctx, req)
		}, t.secret),
	}
	f := c.Flags()
	f.SortFlags = false
	f.StringSliceVar(&req.Scopes, "scope", nil, "what it may; repeatable")
	f.DurationVar(&expires, "expires", 0, "for how long it holds (default 1h, at most 24h)")
	f.StringVar(&req.WorkspaceID, "workspace", "", "id of the only workspace it can see")
	f.StringVar(&req.UserID, "user", "", "id of the user it belongs to")
	return c
}

// secret prints a new key's secret.
func (t *terminal) secret(w io.Writer, k *api.Key) {
	fmt.Fprintln(w, k.Token)
	t.hint("\nOnly its hash is kept: this is the last time it is shown.\nUse it:     export SILICA_API_KEY=...\nRevoke it:  silica key rm %s", k.ID)
}

func newKeyLs(t *terminal) *cobra.Command {
	var tenant string
	c := &cobra.Command{
		Use: "ls", Aliases: []string{"list"},
		Short: "List API keys, without their secrets",
		Args:  args(0, 0),
		RunE: lists(t, []string{"ID", "NAME", "BEGINS", "KIND", "TENANT", "SCOPES", "CREATED", "EXPIRES"},
			func(ctx context.Context, c *client.Client, _ []string) ([]api.Key, error) { return c.Keys(ctx, tenant) },
			func(k api.Key) []string {
				kind := k.KeyType
				switch {
				case k.Admin:
					kind = "admin"
				case kind == "":
					kind = "tenant"
				}
				return []string{k.ID, k.Name, k.Prefix, kind, k.TenantID, strings.Join(k.Scopes, ","), k.CreatedAt.Local().Format(time.DateOnly), when(k.ExpiresAt)}
			}),
	}
	c.Flags().StringVar(&tenant, "tenant", "", "id of the tenant (default the caller's own)")
	return c
}

func newKeyRm(t *terminal) *cobra.Command {
	var tenant string
	c := newRm(t, "rm KEY...", "Revoke API keys, by id", func(c *client.Client, ctx context.Context, id string) error { return c.DeleteKey(ctx, tenant, id) })
	c.Flags().StringVar(&tenant, "tenant", "", "id of the tenant (default the caller's own)")
	return c
}
