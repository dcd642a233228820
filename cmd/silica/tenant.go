package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"silica.dev/silica/api"
	"silica.dev/silica/client"
)

func newTenant(t *terminal) *cobra.Command {
	return group("tenant", "Manage tenants, the isolated customers of a server (needs an admin key)",
		newTenantCreate(t), newTenantLs(t), newTenantGet(t), newTenantUpdate(t), newTenantRm(t))
}

func newTenantCreate(t *terminal) *cobra.Command {
	var req api.CreateTenant
	var quiet bool
	c := &cobra.Command{
		Use:   "create NAME",
		Short: "Create a tenant",
		Args:  args(1, 1),
		RunE: asks(t, func(ctx context.Context, c *client.Client, given []string) (*api.Tenant, error) {
			req.Name = given[0]
			return c.CreateTenant(ctx, req)
		}, func(w io.Writer, tenant *api.Tenant) {
			if fmt.Fprint(w, tenant.ID); !quiet {
				fmt.Fprint(w, "  ", tenant.Slug)
			}
			fmt.Fprintln(w)
			t.hint("\nMake a key for it:  silica key create --tenant %s", tenant.ID)
		}),
	}
	f := c.Flags()
	f.SortFlags = false
	f.StringVar(&req.Slug, "slug", "", "short name for paths (default made up)")
	bindLimits(f, &req)
	f.BoolVarP(&quiet, "quiet", "q", false, "print only the id")
	return c
}

func bindLimits(f *pflag.FlagSet, req *api.CreateTenant) {
	f.StringVar(&req.Plan, "plan", "", "name of its plan")
	f.IntVar(&req.MaxSandboxes, "max-sandboxes", 0, "concurrent sandboxes (0: the server's default)")
	f.Float64Var(&req.MaxVCPUs, "max-vcpus", 0, "cores of all live sandboxes together (0: no limit)")
	f.Int64Var(&req.MaxMemoryMB, "max-memory", 0, "MiB of memory of all live sandboxes together (0: no limit)")
	f.Int64Var(&req.MaxStorageMB, "max-storage", 0, "MiB of disk of all sandboxes that are not destroyed (0: no limit)")
	f.Int64Var(&req.MaxSnapshotsMB, "max-snapshots", 0, "MiB on disk of snapshots and paused sandboxes (0: no limit)")
	f.IntVar(&req.MaxKeys, "max-keys", 0, "API keys (0: no limit)")
}

func newTenantUpdate(t *terminal) *cobra.Command {
	var to api.CreateTenant
	c := &cobra.Command{
		Use:   "update TENANT",
		Short: "Change a tenant's name, plan and limits; what is not named stays",
		Args:  args(1, 1),
	}
	c.RunE = func(cmd *cobra.Command, given []string) error {
		var req api.ChangeTenant
		f := cmd.Flags()
		changes := []bool{
			set(f, "name", &req.Name, &to.Name), set(f, "plan", &req.Plan, &to.Plan), set(f, "max-sandboxes", &req.MaxSandboxes, &to.MaxSandboxes),
			set(f, "max-vcpus", &req.MaxVCPUs, &to.MaxVCPUs), set(f, "max-memory", &req.MaxMemoryMB, &to.MaxMemoryMB),
			set(f, "max-storage", &req.MaxStorageMB, &to.MaxStorageMB), set(f, "max-snapshots", &req.MaxSnapshotsMB, &to.MaxSnapshotsMB),
			set(f, "max-keys", &req.MaxKeys, &to.MaxKeys),
		}
		if !anyOf(changes) {
			return usageError{errors.New("say what to change; \"" + cmd.CommandPath() + " --help\" lists what can be")}
		}
		return asks(t, func(ctx context.Context, c *client.Client, given []string) (*api.Tenant, error) {
			return c.ChangeTenant(ctx, given[0], req)
		}, describeTenant)(cmd, given)
	}
	f := c.Flags()
	f.SortFlags = false
	f.StringVar(&to.Name, "name", "", "name")
	bindLimits(f, &to)
	return c
}

// set points into at v when the flag was given, and tells whether it was.
func set[T any](f *pflag.FlagSet, flag string, into **T, v *T) bool {
	if !f.Changed(flag) {
		return false
	}
	*into = v
	return true
}

func anyOf(list []bool) bool {
	for _, b := range list {
		if b {
			return true
		}
	}
	return false
}

func newTenantLs(t *terminal) *cobra.Command {
	return &cobra.Command{
		Use: "ls", Aliases: []string{"list"},
		Short: "List tenants",
		Args:  args(0, 0),
		RunE: lists(t, []string{"ID", "SLUG", "NAME", "PLAN", "SANDBOXES", "AGE"},
			func(ctx context.Context, c *client.Client, _ []string) ([]api.Tenant, error) { return c.Tenants(ctx) },
			func(x api.Tenant) []string {
				return []string{x.ID, x.Slug, x.Name, x.Plan, limit(int64(x.MaxSandboxes), "default"), age(x.CreatedAt)}
			}),
	}
}

// limit is a bound for people; 0 is spelled as none says.
func limit(n int64, none string) string {
	if n == 0 {
		return none
	}
	return strconv.FormatInt(n, 10)
}

func newTenantGet(t *terminal) *cobra.Command {
	return &cobra.Command{
		Use:   "get TENANT",
		Short: "Show one tenant with its limits",
		Args:  args(1, 1),
		RunE: asks(t, func(ctx context.Context, c *client.Client, given []string) (*api.Tenant, error) {
			return c.Tenant(ctx, given[0])
		}, describeTenant),
	}
}

func describeTenant(w io.Writer, x *api.Tenant) {
	fields(w, [][2]string{{"id", x.ID}, {"slug", x.Slug}, {"name", x.Name}, {"plan", x.Plan},
		{"sandboxes", limit(int64(x.MaxSandboxes), "default")}, {"vcpus", strconv.FormatFloat(x.MaxVCPUs, 'g', -1, 64)},
		{"memory", limit(x.MaxMemoryMB, "no limit")}, {"storage", limit(x.MaxStorageMB, "no limit")},
		{"snapshots", limit(x.MaxSnapshotsMB, "no limit")}, {"keys", limit(int64(x.MaxKeys), "no limit")},
		{"created", when(&x.CreatedAt)}})
}

func newTenantRm(t *terminal) *cobra.Command {
	return newRm(t, "rm TENANT...", "Delete tenants that have no live sandbox, with their keys", (*client.Client).DeleteTenant)
}

// newRm deletes things by id.
func newRm(t *terminal, use, short string, remove func(*client.Client, context.Context, string) error) *cobra.Command {
	return &cobra.Command{
		Use: use, Aliases: []string{"delete"},
		Short: short,
		Args:  args(1, -1),
		RunE: talks(func(ctx context.Context, c *client.Client, given []string) error {
			return each(t, given, func(id string) (api.Deleted, error) { return deleted(id), remove(c, ctx, id) })
		}),
	}
}

func deleted(id string) api.Deleted { return api.Deleted{ID: id, Deleted: true} }
