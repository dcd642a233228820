package client

import (
	"context"
	"iter"
	"net/url"

	"silica.dev/silica/api"
)

func servicePath(id, service string, rest ...string) string {
	return api.SandboxPath(id, append([]string{"services", url.PathEscape(service)}, rest...)...)
}

// CreateService defines a command that is kept running, and starts it.
func (c *Client) CreateService(ctx context.Context, id string, req api.ServiceRequest) (*api.Service, error) {
	return fetch[api.Service](ctx, c, post(api.SandboxPath(id, "services"), req))
}

// Services lists the services of a sandbox.
func (c *Client) Services(ctx context.Context, id string) ([]api.Service, error) {
	return rows[api.Service](ctx, c, get(api.SandboxPath(id, "services")))
}

// Service returns one service by id or name, as the other methods take them.
func (c *Client) Service(ctx context.Context, id, service string) (*api.Service, error) {
	return fetch[api.Service](ctx, c, get(servicePath(id, service)))
}

// DeleteService ends a service and forgets it.
func (c *Client) DeleteService(ctx context.Context, id, service string) error {
	return c.do(ctx, del(servicePath(id, service)), nil)
}

// StartService starts a service that does not run.
func (c *Client) StartService(ctx context.Context, id, service string) (*api.Service, error) {
	return fetch[api.Service](ctx, c, post(servicePath(id, service, "start"), nil).again())
}

// StopService ends a service, which then stays stopped.
func (c *Client) StopService(ctx context.Context, id, service string) (*api.Service, error) {
	return fetch[api.Service](ctx, c, post(servicePath(id, service, "stop"), nil).again())
}

// RestartService ends a service and starts it anew.
func (c *Client) RestartService(ctx context.Context, id, service string) (*api.Service, error) {
	return fetch[api.Service](ctx, c, post(servicePath(id, service, "restart"), nil))
}

// ServiceLogs returns the last lines that a service wrote; 0 are the server's 1000.
func (c *Client) ServiceLogs(ctx context.Context, id, service string, tail int) (*api.Logs, error) {
	n := positive(tail)
	if n == "" {
		n = "1000" // without a number the answer is a stream
	}
	return fetch[api.Logs](ctx, c, get(servicePath(id, service, "logs")).with("tail", n))
}

// FollowService yields what a service wrote over all its starts, as far as it is
// kept, and what it writes, as ProcessStream does. The end of the sandbox's run
// is its only end, and an error.
func (c *Client) FollowService(ctx context.Context, id, service, after string) iter.Seq2[api.ServiceLog, error] {
	seq := c.resume(ctx, get(servicePath(id, service, "logs")).with("follow", "true"), after, nil)
	return decode(seq, func(raw serverEvent, l *api.ServiceLog) (fate, error) {
		l.ID = raw.id
		if l.Type == api.ProcessError {
			return final, &Error{Code: l.Code, Message: l.Message}
		}
		return keep, nil
	})
}
