package client

import (
	"context"
	"iter"
	"net/url"

	"silica.dev/silica/api"
)

// Env lists the names of a sandbox's variables. Values are never told.
func (c *Client) Env(ctx context.Context, id string) ([]api.EnvVar, error) {
	return rows[api.EnvVar](ctx, c, get(api.SandboxPath(id, "env")))
}

// SetEnv sets variables for what is started later. Others stay.
func (c *Client) SetEnv(ctx context.Context, id string, vars map[string]string) ([]api.EnvVar, error) {
	return c.putEnv(ctx, id, vars, "")
}

// ReplaceEnv sets variables and drops all others.
func (c *Client) ReplaceEnv(ctx context.Context, id string, vars map[string]string) ([]api.EnvVar, error) {
	return c.putEnv(ctx, id, vars, "true")
}

func (c *Client) putEnv(ctx context.Context, id string, vars map[string]string, replace string) ([]api.EnvVar, error) {
	req := api.SetEnv{Vars: []api.SetEnvVar{}}
	for key, value := range vars {
		req.Vars = append(req.Vars, api.SetEnvVar{Key: key, Value: value})
	}
	return rows[api.EnvVar](ctx, c, put(api.SandboxPath(id, "env"), req).with("replace", replace))
}

// DeleteEnv drops a variable.
func (c *Client) DeleteEnv(ctx context.Context, id, name string) error {
	return c.do(ctx, del(api.SandboxPath(id, "env", url.PathEscape(name))), nil)
}

// Usage tells what a sandbox has used in all the time that it ran.
func (c *Client) Usage(ctx context.Context, id string) (*api.Usage, error) {
	return fetch[api.Usage](ctx, c, get(api.SandboxPath(id, "usage")))
}

// Metrics tells how a sandbox is doing, and how it was in the window ("15m"; an
// hour if empty).
func (c *Client) Metrics(ctx context.Context, id, window string) (*api.Metrics, error) {
	return fetch[api.Metrics](ctx, c, get(api.SandboxPath(id, "metrics")).with("window", window))
}

// Ports lists the TCP ports that something in a sandbox listens on.
func (c *Client) Ports(ctx context.Context, id string) ([]api.Port, error) {
	return rows[api.Port](ctx, c, get(api.SandboxPath(id, "ports")))
}

// Logs returns the last lines of the log of what befell a sandbox; 0 are the
// server's choice.
func (c *Client) Logs(ctx context.Context, id string, lines int) (*api.SandboxLog, error) {
	return fetch[api.SandboxLog](ctx, c, get(api.SandboxPath(id, "logs")).with("lines", positive(lines)))
}

// FollowLogs yields the last lines of that log and those that come, until the
// sandbox's end. With after, a LogLine.ID, it goes on from there. It connects
// again when the connection breaks, and then neither misses nor repeats a line.
// An error is the last thing yielded.
func (c *Client) FollowLogs(ctx context.Context, id string, lines int, after string) iter.Seq2[api.LogLine, error] {
	cl := get(api.SandboxPath(id, "logs", "stream")).with("lines", positive(lines))
	seq := c.resume(ctx, cl, after, func() bool { return c.isOver(ctx, id) })
	return decode(seq, func(raw serverEvent, l *api.LogLine) (fate, error) {
		if raw.name != "log" {
			return skip, nil // of a newer server
		}
		l.ID = raw.id
		return keep, nil
	})
}
