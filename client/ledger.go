package client

import (
	"context"
	"iter"

	"silica.dev/silica/api"
)

// UsageReport tells what sandboxes used in a period, by what f groups it.
func (c *Client) UsageReport(ctx context.Context, f api.UsageFilter) (*api.UsageReport, error) {
	return fetch[api.UsageReport](ctx, c, get(api.PathUsage).asking(f.Query()))
}

// UsageSummary tells what all sandboxes used together.
func (c *Client) UsageSummary(ctx context.Context, f api.UsageFilter) (*api.UsageSummary, error) {
	return fetch[api.UsageSummary](ctx, c, get(api.PathUsage+"/summary").asking(f.Query()))
}

// UsageSessions yields the stretches in which sandboxes ran, newest first. An
// error is the last thing yielded.
func (c *Client) UsageSessions(ctx context.Context, f api.UsageFilter) iter.Seq2[api.UsageSession, error] {
	return all[api.UsageSession](ctx, c, get(api.PathUsage+"/sessions").asking(f.Query()))
}

// Balance tells how many credits are left.
func (c *Client) Balance(ctx context.Context) (*api.Balance, error) {
	return fetch[api.Balance](ctx, c, get(api.PathCredits+"/balance"))
}

// Transactions yields the ledger of credits, newest first. An error is the last
// thing yielded.
func (c *Client) Transactions(ctx context.Context) iter.Seq2[api.CreditEntry, error] {
	return all[api.CreditEntry](ctx, c, get(api.PathCredits+"/transactions"))
}

// CreditUsage tells the credits used and granted in a period; of f only that
// counts.
func (c *Client) CreditUsage(ctx context.Context, f api.UsageFilter) (*api.CreditUsage, error) {
	return fetch[api.CreditUsage](ctx, c, get(api.PathCredits+"/usage").asking(f.Query()))
}

// Audit yields who changed what, newest first, asking for a page when it is
// needed. An error is the last thing yielded.
func (c *Client) Audit(ctx context.Context, f api.AuditFilter) iter.Seq2[api.AuditEntry, error] {
	return pages[api.AuditEntry](ctx, c, func(cursor string) call {
		return get(api.PathAudit).asking(f.Query()).with("cursor", cursor)
	})
}
