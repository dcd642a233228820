package client

import (
	"context"

	"silica.dev/silica/api"
)

// Storage lists what is on the server's disk and who holds it, the largest first.
// Needs an admin key.
func (c *Client) Storage(ctx context.Context) ([]api.StoredArtifact, error) {
	return rows[api.StoredArtifact](ctx, c, get(api.PathStorage))
}

// CollectGarbage removes what nobody has held for an hour. Needs an admin key.
func (c *Client) CollectGarbage(ctx context.Context) (*api.Collected, error) {
	return fetch[api.Collected](ctx, c, post(api.PathStorage+"/gc", nil).again())
}
