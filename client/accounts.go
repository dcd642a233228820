package client

import (
	"context"
	"net/url"

	"silica.dev/silica/api"
)

func tenantPath(id string) string { return api.PathTenants + "/" + url.PathEscape(id) }

// CreateTenant makes a tenant. Needs an admin key, as do Tenants and DeleteTenant.
func (c *Client) CreateTenant(ctx context.Context, req api.CreateTenant) (*api.Tenant, error) {
	return fetch[api.Tenant](ctx, c, post(api.PathTenants, req))
}

// Tenants lists all tenants.
func (c *Client) Tenants(ctx context.Context) ([]api.Tenant, error) {
	return rows[api.Tenant](ctx, c, get(api.PathTenants))
}

// DeleteTenant removes a tenant that has no live sandbox.
func (c *Client) DeleteTenant(ctx context.Context, id string) error {
	return c.do(ctx, del(tenantPath(id)), nil)
}

// CreateKey makes an API key; Key.Token in the answer is its secret, told once.
func (c *Client) CreateKey(ctx context.Context, req api.CreateKey) (*api.Key, error) {
	return fetch[api.Key](ctx, c, post(api.PathKeys, req))
}

// Keys lists a tenant's API keys; an empty tenant is the caller's own.
func (c *Client) Keys(ctx context.Context, tenant string) ([]api.Key, error) {
	return rows[api.Key](ctx, c, get(api.PathKeys).with("tenant_id", tenant))
}

// DeleteKey revokes an API key of a tenant; an empty tenant is the caller's own.
func (c *Client) DeleteKey(ctx context.Context, tenant, id string) error {
	return c.do(ctx, del(api.PathKeys+"/"+url.PathEscape(id)).with("tenant_id", tenant), nil)
}

// CreateScopedToken derives a key that may less than the caller's, for a while.
// It ends with the caller's.
func (c *Client) CreateScopedToken(ctx context.Context, req api.CreateScopedToken) (*api.Key, error) {
	return fetch[api.Key](ctx, c, post(api.PathScopedTokens, req))
}

// CreateTicket makes what opens one stream as ?ticket=, for those who can't send
// a key.
func (c *Client) CreateTicket(ctx context.Context) (*api.Ticket, error) {
	return fetch[api.Ticket](ctx, c, post(api.PathTickets, nil))
}
