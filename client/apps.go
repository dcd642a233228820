package client

import (
	"context"

	"silica.dev/silica/api"
)

// StartApp installs and starts the app of a sandbox's template. While the
// installation takes long the status is [api.AppInstalling]: calling it again
// waits on.
func (c *Client) StartApp(ctx context.Context, id string, req api.StartApp) (*api.App, error) {
	return fetch[api.App](ctx, c, post(api.SandboxPath(id, "template", "start"), req))
}

// Artifacts tells where the results of a sandbox's template are, and what its app
// is doing.
func (c *Client) Artifacts(ctx context.Context, id string) (*api.Artifacts, error) {
	return fetch[api.Artifacts](ctx, c, get(api.SandboxPath(id, "artifacts")))
}
