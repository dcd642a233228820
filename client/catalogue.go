package client

import (
	"context"

	"silica.dev/silica/api"
)

// Catalog tells what can be had: sizes, regions and products in one.
func (c *Client) Catalog(ctx context.Context) (*api.Catalog, error) {
	return fetch[api.Catalog](ctx, c, get(api.PathCompute+"/catalog"))
}

// Sizes lists the published sizes.
func (c *Client) Sizes(ctx context.Context) ([]api.ComputeSize, error) {
	return rows[api.ComputeSize](ctx, c, get(api.PathCompute+"/sizes"))
}

// Regions lists where sandboxes run.
func (c *Client) Regions(ctx context.Context) ([]api.Region, error) {
	return rows[api.Region](ctx, c, get(api.PathCompute+"/regions"))
}
