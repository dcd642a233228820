package client

import (
	"context"
	"net/http"
	"net/url"

	"silica.dev/silica/api"
)

// CreateTenant makes a tenant. Needs an admin key, as do Tenants and DeleteTenant.
func (c *Client) CreateTenant(ctx context.Context, req api.CreateTenant) (*api.Tenant, error) {
	var t api.Tenant
	err := c.do(ctx, call{method: http.MethodPost, path: api.Base + api.PathTenants, body: req}, &t)
	if err != nil {
		return nil, err
	}
	return &t, nil
}

// Tenants lists all tenants.
func (c *Client) Tenants(ctx context.Context) ([]api.Tenant, error) {
	var l api.List[api.Tenant]
	if err := c.do(ctx, get(api.PathTenants), &l); err != nil {
		return nil, err
	}
	return l.Data, nil
}

// DeleteTenant removes a tenant that has no live sandbox.
func (c *Client) DeleteTenant(ctx context.Context, id string) error {
	return c.do(ctx, call{method: http.MethodDelete, path: api.Base + api.PathTenants + "/" + url.PathEscape(id)}, nil)
}

// CreateKey makes an API key; Key.Token in the answer is its secret, told once.
func (c *Client) CreateKey(ctx context.Context, req api.CreateKey) (*api.Key, error) {
	var k api.Key
	err := c.do(ctx, call{method: http.MethodPost, path: api.Base + api.PathKeys, body: req}, &k)
	if err != nil {
		return nil, err
	}
	return &k, nil
}

// Keys lists a tenant's API keys; an empty tenant is the caller's own.
func (c *Client) Keys(ctx context.Context, tenant string) ([]api.Key, error) {
	var l api.List[api.Key]
	cl := get(api.PathKeys)
	cl.query = ofTenant(tenant)
	if err := c.do(ctx, cl, &l); err != nil {
		return nil, err
	}
	return l.Data, nil
}

// DeleteKey revokes an API key of a tenant; an empty tenant is the caller's own.
func (c *Client) DeleteKey(ctx context.Context, tenant, id string) error {
	return c.do(ctx, call{
		method: http.MethodDelete, path: api.Base + api.PathKeys + "/" + url.PathEscape(id), query: ofTenant(tenant),
	}, nil)
}

func ofTenant(tenant string) url.Values {
	if tenant == "" {
		return nil
	}
	return url.Values{"tenant_id": {tenant}}
}

// Templates lists the catalogue and names the default.
func (c *Client) Templates(ctx context.Context) (*api.TemplateList, error) {
	var l api.TemplateList
	if err := c.do(ctx, get(api.PathTemplates), &l); err != nil {
		return nil, err
	}
	return &l, nil
}

// Template returns one template by id or slug.
func (c *Client) Template(ctx context.Context, id string) (*api.Template, error) {
	var t api.Template
	if err := c.do(ctx, get(api.PathTemplates+"/"+url.PathEscape(id)), &t); err != nil {
		return nil, err
	}
	return &t, nil
}

// Health tells whether the server is alive.
func (c *Client) Health(ctx context.Context) error {
	return c.do(ctx, call{method: http.MethodGet, path: api.PathHealth}, nil)
}

// Ready tells whether the server takes work; the *Error says what it waits for.
func (c *Client) Ready(ctx context.Context) error {
	return c.do(ctx, call{method: http.MethodGet, path: api.PathReady}, nil)
}
