package client

import (
	"context"
	"net/http"

	"silica.dev/silica/api"
)

// Drain destroys every sandbox on the server's machine and makes it refuse new
// ones until it is started again. Needs an admin key.
func (c *Client) Drain(ctx context.Context) (*api.Drained, error) {
	var d api.Drained
	err := c.do(ctx, call{method: http.MethodPost, path: api.Base + api.PathDrain, body: struct{}{}, repeat: true}, &d)
	if err != nil {
		return nil, err
	}
	return &d, nil
}
