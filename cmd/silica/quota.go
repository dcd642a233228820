package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"

	"github.com/spf13/cobra"

	"silica.dev/silica/api"
	"silica.dev/silica/client"
)

func newQuota(t *terminal) *cobra.Command {
	get := &cobra.Command{
		Use:   "get EXTERNAL-USER",
		Short: "Show what one of your users may have",
		Args:  args(1, 1),
		RunE: asks(t, func(ctx context.Context, c *client.Client, given []string) (*api.Quota, error) {
			return c.Quota(ctx, given[0])
		}, describeQuota),
	}
	return group("quota", "Bound what the tenant's own users may have", get, newQuotaSet(t),
		newRm(t, "rm EXTERNAL-USER...", "Take all bounds away", (*client.Client).DeleteQuota), newQuotaPlan(t))
}

func newQuotaSet(t *terminal) *cobra.Command {
	var req api.QuotaRequest
	c := &cobra.Command{
		Use:   "set EXTERNAL-USER",
		Short: "Replace the bounds; what is not named has none",
		Args:  args(1, 1),
		RunE: asks(t, func(ctx context.Context, c *client.Client, given []string) (*api.Quota, error) {
			return c.SetQuota(ctx, given[0], req)
		}, describeQuota),
	}
	f := c.Flags()
	f.SortFlags = false
	f.Int64Var(&req.MaxSandboxes, "max-sandboxes", 0, "sandboxes that are not destroyed")
	f.Int64Var(&req.MaxConcurrent, "max-concurrent", 0, "sandboxes that run at once")
	f.Int64Var(&req.MaxStorageGB, "max-storage", 0, "GB of disk")
	f.Int64Var(&req.MaxCreditCents, "max-credit-cents", 0, "cents of credit")
	return c
}

func describeQuota(w io.Writer, q *api.Quota) {
	fields(w, [][2]string{{"user", q.ExternalUserID}, {"sandboxes", fmt.Sprintf("%d of %s", q.CurrentSandboxes, limit(q.MaxSandboxes, "any number"))},
		{"concurrent", limit(q.MaxConcurrent, "no limit")}, {"storage", limit(q.MaxStorageGB, "no limit")}, {"credit", limit(q.MaxCreditCents, "no limit")}})
}

func newQuotaPlan(t *terminal) *cobra.Command {
	return &cobra.Command{
		Use:   "plan",
		Short: "Show what the tenant itself may have, and has",
		Args:  args(0, 0),
		RunE: asks(t, func(ctx context.Context, c *client.Client, _ []string) (*api.Plan, error) { return c.Plan(ctx) },
			func(w io.Writer, p *api.Plan) {
				rows := [][]string{}
				names := slices.Collect(maps.Keys(p.Limits))
				for name := range p.Usage {
					if _, limited := p.Limits[name]; !limited {
						names = append(names, name)
					}
				}
				for _, name := range slices.Sorted(slices.Values(names)) {
					rows = append(rows, []string{name, strconv.FormatInt(p.Usage[name], 10), limit(p.Limits[name], "no limit")})
				}
				table(w, []string{"WHAT", "USED", "LIMIT"}, rows)
			}),
	}
}
