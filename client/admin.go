package client

import (
	"context"
	"fmt"
	"io"
	"net/http"

	"silica.dev/silica/api"
)

// Drain destroys every sandbox on the server's machine and makes it refuse new
// ones until it is started again. Needs an admin key.
func (c *Client) Drain(ctx context.Context) (*api.Drained, error) {
	return fetch[api.Drained](ctx, c, post(api.PathDrain, struct{}{}).again())
}

// Health tells whether the server is alive.
func (c *Client) Health(ctx context.Context) error {
	return c.do(ctx, call{method: http.MethodGet, path: api.PathHealth}, nil)
}

// Ready tells whether the server takes work; the *Error says what it waits for.
func (c *Client) Ready(ctx context.Context) error {
	return c.do(ctx, call{method: http.MethodGet, path: api.PathReady}, nil)
}

// ServerMetrics returns the server's measurements as Prometheus reads them.
// Needs an admin key. Close it.
func (c *Client) ServerMetrics(ctx context.Context) (io.ReadCloser, error) {
	res, err := c.open(ctx, call{method: http.MethodGet, path: api.PathMetrics, repeat: true}.headed("Accept", "text/plain"))
	if err != nil {
		return nil, err
	}
	return res.Body, nil
}

// maxDocument bounds what OpenAPI takes.
const maxDocument = 16 << 20

// OpenAPI returns the server's contract as JSON.
func (c *Client) OpenAPI(ctx context.Context) ([]byte, error) {
	res, err := c.open(ctx, call{method: http.MethodGet, path: api.PathOpenAPI, repeat: true})
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	p, err := io.ReadAll(io.LimitReader(res.Body, maxDocument))
	if err != nil {
		return nil, fmt.Errorf("read the contract: %w", err)
	}
	return p, nil
}
