package main

import (
	"context"
	"strconv"

	"github.com/spf13/cobra"

	"silica.dev/silica/api"
	"silica.dev/silica/client"
)

func newAudit(t *terminal) *cobra.Command {
	var f api.AuditFilter
	var most int
	c := &cobra.Command{
		Use:     "audit",
		Short:   "Tell who changed what, newest first",
		Example: "  silica audit --resource $id --from 2030-01-01",
		Args:    args(0, 0),
		RunE: lists(t, []string{"WHEN", "ACTION", "RESOURCE", "STATUS", "CODE", "USER", "KEY", "FROM"},
			func(ctx context.Context, c *client.Client, _ []string) ([]api.AuditEntry, error) {
				return first(c.Audit(ctx, f), most)
			},
			func(e api.AuditEntry) []string {
				return []string{when(&e.CreatedAt), shown(e.Action), shown(e.ResourceID), strconv.Itoa(e.Status), e.Code, e.UserID, e.KeyID, e.IPAddress}
			}),
	}
	fl := c.Flags()
	fl.SortFlags = false
	fl.StringVar(&f.From, "from", "", "a time or a day")
	fl.StringVar(&f.To, "to", "", "its end")
	fl.StringVar(&f.ResourceID, "resource", "", "id of what was changed")
	fl.StringVar(&f.UserID, "user", "", "id of who changed it")
	fl.StringVar(&f.KeyID, "key", "", "id of the key that was used")
	fl.StringVar(&f.Action, "action", "", "method and route")
	fl.StringVar(&f.Method, "method", "", "method")
	fl.StringVar(&f.RequestID, "request", "", "id of the request")
	fl.StringVar(&f.TenantID, "tenant", "", "id of another tenant (needs an admin key)")
	fl.IntVarP(&most, "limit", "n", 100, "so many; 0 is all")
	return c
}
