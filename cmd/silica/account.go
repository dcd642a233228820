package main

import (
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"silica.dev/silica/api"
)

func newTenant(t *terminal) *cobra.Command {
	return group("tenant", "Manage tenants, the isolated customers of a server (needs an admin key)",
		newTenantCreate(t), newTenantLs(t), newTenantRm(t))
}

func newTenantCreate(t *terminal) *cobra.Command {
	var req api.CreateTenant
	var quiet bool
	c := &cobra.Command{
		Use:   "create NAME",
		Short: "Create a tenant",
		Args:  args(1, 1),
		RunE: func(cmd *cobra.Command, given []string) error {
			c, err := connect()
			if err != nil {
				return err
			}
			defer c.Close()
			req.Name = given[0]
			tenant, err := c.CreateTenant(cmd.Context(), req)
			if err != nil {
				return err
			}
			err = t.print(tenant, func(w io.Writer) {
				if fmt.Fprint(w, tenant.ID); !quiet {
					fmt.Fprint(w, "  ", tenant.Slug)
				}
				fmt.Fprintln(w)
			})
			t.hint("\nMake a key for it:  silica key create --tenant %s", tenant.ID)
			return err
		},
	}
	c.Flags().StringVar(&req.Slug, "slug", "", "short name for paths (default made up)")
	c.Flags().IntVar(&req.MaxSandboxes, "max-sandboxes", 0, "concurrent sandboxes (default the server's)")
	c.Flags().BoolVarP(&quiet, "quiet", "q", false, "print only the id")
	return c
}

func newTenantLs(t *terminal) *cobra.Command {
	return &cobra.Command{
		Use: "ls", Aliases: []string{"list"},
		Short: "List tenants",
		Args:  args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := connect()
			if err != nil {
				return err
			}
			defer c.Close()
			list, err := c.Tenants(cmd.Context())
			if err != nil {
				return err
			}
			return t.print(nonNil(list), func(w io.Writer) {
				rows := make([][]string, len(list))
				for i, x := range list {
					limit := "default"
					if x.MaxSandboxes > 0 {
						limit = strconv.Itoa(x.MaxSandboxes)
					}
					rows[i] = []string{x.ID, x.Slug, x.Name, limit, age(x.CreatedAt)}
				}
				table(w, []string{"ID", "SLUG", "NAME", "SANDBOXES", "AGE"}, rows)
			})
		},
	}
}

func newTenantRm(t *terminal) *cobra.Command {
	return &cobra.Command{
		Use: "rm TENANT...", Aliases: []string{"delete"},
		Short: "Delete tenants that have no live sandbox, with their keys",
		Args:  args(1, -1),
		RunE: func(cmd *cobra.Command, ids []string) error {
			c, err := connect()
			if err != nil {
				return err
			}
			defer c.Close()
			return each(t, ids, func(id string) (api.Deleted, error) { return deleted(id), c.DeleteTenant(cmd.Context(), id) })
		},
	}
}

func newKey(t *terminal) *cobra.Command {
	return group("key", "Manage API keys", newKeyCreate(t), newKeyLs(t), newKeyRm(t))
}

func newKeyCreate(t *terminal) *cobra.Command {
	var req api.CreateKey
	c := &cobra.Command{
		Use:   "create [NAME]",
		Short: "Create an API key and print its secret, this once",
		Args:  args(0, 1),
		RunE: func(cmd *cobra.Command, given []string) error {
			c, err := connect()
			if err != nil {
				return err
			}
			defer c.Close()
			if len(given) > 0 {
				req.Name = given[0]
			}
			k, err := c.CreateKey(cmd.Context(), req)
			if err != nil {
				return err
			}
			err = t.print(k, func(w io.Writer) { fmt.Fprintln(w, k.Token) })
			t.hint("\nOnly its hash is kept: this is the last time it is shown.\nUse it:     export SILICA_API_KEY=...\nRevoke it:  silica key rm %s", k.ID)
			return err
		},
	}
	c.Flags().StringVar(&req.TenantID, "tenant", "", "id of the tenant (default the caller's own)")
	c.Flags().BoolVar(&req.Admin, "admin", false, "may manage tenants and keys")
	return c
}

func newKeyLs(t *terminal) *cobra.Command {
	var tenant string
	c := &cobra.Command{
		Use: "ls", Aliases: []string{"list"},
		Short: "List API keys, without their secrets",
		Args:  args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := connect()
			if err != nil {
				return err
			}
			defer c.Close()
			list, err := c.Keys(cmd.Context(), tenant)
			if err != nil {
				return err
			}
			return t.print(nonNil(list), func(w io.Writer) {
				rows := make([][]string, len(list))
				for i, k := range list {
					kind := "tenant"
					if k.Admin {
						kind = "admin"
					}
					rows[i] = []string{k.ID, k.Name, k.Prefix, kind, k.TenantID, k.CreatedAt.Local().Format(time.DateOnly)}
				}
				table(w, []string{"ID", "NAME", "BEGINS", "KIND", "TENANT", "CREATED"}, rows)
			})
		},
	}
	c.Flags().StringVar(&tenant, "tenant", "", "id of the tenant (default the caller's own)")
	return c
}

func newKeyRm(t *terminal) *cobra.Command {
	var tenant string
	c := &cobra.Command{
		Use: "rm KEY...", Aliases: []string{"delete"},
		Short: "Revoke API keys, by id",
		Args:  args(1, -1),
		RunE: func(cmd *cobra.Command, ids []string) error {
			c, err := connect()
			if err != nil {
				return err
			}
			defer c.Close()
			return each(t, ids, func(id string) (api.Deleted, error) { return deleted(id), c.DeleteKey(cmd.Context(), tenant, id) })
		},
	}
	c.Flags().StringVar(&tenant, "tenant", "", "id of the tenant (default the caller's own)")
	return c
}

func deleted(id string) api.Deleted { return api.Deleted{ID: id, Deleted: true} }
