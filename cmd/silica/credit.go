package main

import (
	"context"
	"fmt"
	"io"
	"strconv"

	"github.com/spf13/cobra"

	"silica.dev/silica/api"
	"silica.dev/silica/client"
)

func newCredit(t *terminal) *cobra.Command {
	balance := &cobra.Command{
		Use:   "balance",
		Short: "Tell how many credits are left",
		Args:  args(0, 0),
		RunE: asks(t, func(ctx context.Context, c *client.Client, _ []string) (*api.Balance, error) { return c.Balance(ctx) },
			func(w io.Writer, b *api.Balance) {
				fmt.Fprintln(w, b.Balance)
				if !b.Billing {
					t.hint("This server charges nothing.")
				}
			}),
	}
	return group("credit", "Show and grant credits", balance, newCreditLs(t), newCreditUsage(t), newCreditGrant(t))
}

func newCreditLs(t *terminal) *cobra.Command {
	var most int
	c := &cobra.Command{
		Use: "ls", Aliases: []string{"list", "transactions"},
		Short: "The ledger, newest first",
		Args:  args(0, 0),
		RunE: lists(t, []string{"WHEN", "TYPE", "AMOUNT", "BALANCE", "SANDBOX", "DESCRIPTION"},
			func(ctx context.Context, c *client.Client, _ []string) ([]api.CreditEntry, error) {
				return first(c.Transactions(ctx), most)
			},
			func(e api.CreditEntry) []string {
				return []string{when(&e.CreatedAt), e.Type, amount(e.Amount), amount(e.BalanceAfter), e.SandboxID, brief(e.Description)}
			}),
	}
	c.Flags().IntVarP(&most, "limit", "n", 100, "so many; 0 is all")
	return c
}

func amount(credits float64) string { return strconv.FormatFloat(credits, 'f', 2, 64) }

func newCreditUsage(t *terminal) *cobra.Command {
	var f api.UsageFilter
	c := &cobra.Command{
		Use:   "usage",
		Short: "The credits used and granted in a period",
		Args:  args(0, 0),
		RunE: asks(t, func(ctx context.Context, c *client.Client, _ []string) (*api.CreditUsage, error) {
			return c.CreditUsage(ctx, f)
		}, func(w io.Writer, u *api.CreditUsage) {
			fields(w, [][2]string{{"from", when(&u.PeriodStart)}, {"to", when(&u.PeriodEnd)}, {"used", fmt.Sprint(u.Used)},
				{"granted", fmt.Sprint(u.Granted)}, {"balance", fmt.Sprint(u.Balance)}})
		}),
	}
	c.Flags().StringVar(&f.Period, "period", "", "hour, day, week, month, or a month like 2030-01")
	return c
}

func newCreditGrant(t *terminal) *cobra.Command {
	var req api.GrantRequest
	var key string
	c := &cobra.Command{
		Use:     "grant TENANT CREDITS",
		Short:   "Give a tenant credits; below 0, take some back (needs an admin key)",
		Example: "  silica credit grant tnt_… 100 --note 'invoice 7' --idempotency-key invoice-7\n  silica credit grant tnt_… -- -5",
		Args:    args(2, 2),
	}
	c.RunE = func(cmd *cobra.Command, given []string) (err error) {
		if req.Amount, err = strconv.ParseInt(given[1], 10, 64); err != nil {
			return usageError{fmt.Errorf("%q: want a whole number of credits", given[1])}
		}
		return asks(t, func(ctx context.Context, c *client.Client, given []string) (*api.CreditEntry, error) {
			return c.GrantCredits(ctx, given[0], key, req)
		}, func(w io.Writer, e *api.CreditEntry) { fmt.Fprintln(w, e.ID+"  "+amount(e.BalanceAfter)) })(cmd, given)
	}
	c.Flags().StringVar(&req.Note, "note", "", "why, for the ledger")
	c.Flags().StringVar(&key, "idempotency-key", "", "the same key grants once")
	return c
}
