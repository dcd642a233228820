package client

import (
	"context"
	"iter"
	"net/url"
	"strconv"
	"time"

	"silica.dev/silica/api"
)

func processPath(id, pid string, rest ...string) string {
	return api.SandboxPath(id, append([]string{"processes", url.PathEscape(pid)}, rest...)...)
}

// StartProcess runs a command in the background. It outlives its caller.
func (c *Client) StartProcess(ctx context.Context, id string, req api.ProcessRequest) (*api.Process, error) {
	return fetch[api.Process](ctx, c, post(api.SandboxPath(id, "processes"), req))
}

// Processes lists background processes and those that have ended lately, by
// their start. kind also lists what is none: terminal, service, command, all.
func (c *Client) Processes(ctx context.Context, id, kind string) ([]api.Process, error) {
	return rows[api.Process](ctx, c, get(api.SandboxPath(id, "processes")).with("kind", kind))
}

// Process returns one background process.
func (c *Client) Process(ctx context.Context, id, pid string) (*api.Process, error) {
	return fetch[api.Process](ctx, c, get(processPath(id, pid)))
}

// WaitProcess returns a process once it has ended.
func (c *Client) WaitProcess(ctx context.Context, id, pid string) (*api.Process, error) {
	for {
		p, err := fetch[api.Process](ctx, c, get(processPath(id, pid)).with("wait", "60"))
		if err != nil || p.Status != api.ProcessRunning {
			return p, err
		}
		if err := wait(ctx, 50*time.Millisecond); err != nil { // not all servers wait
			return p, err
		}
	}
}

// KillProcess ends a process and everything it started.
func (c *Client) KillProcess(ctx context.Context, id, pid string) (*api.Process, error) {
	return fetch[api.Process](ctx, c, del(processPath(id, pid)))
}

// ProcessLogs returns the last lines that a process wrote; 0 are the server's 1000.
func (c *Client) ProcessLogs(ctx context.Context, id, pid string, tail int) (*api.Logs, error) {
	return fetch[api.Logs](ctx, c, get(processPath(id, pid, "logs")).with("tail", positive(tail)))
}

// positive is a number for a query, or nothing.
func positive(n int) string {
	if n <= 0 {
		return ""
	}
	return strconv.Itoa(n)
}

// ProcessStream yields what a process wrote, as far as it is kept, and what it
// writes, then an event of type ExecExit. With after, a ProcessEvent.ID, it goes
// on from there. It connects again when the connection breaks, and then neither
// misses nor repeats anything. An error is the last thing yielded.
func (c *Client) ProcessStream(ctx context.Context, id, pid, after string) iter.Seq2[api.ProcessEvent, error] {
	seq := c.resume(ctx, get(processPath(id, pid, "stream")), after, nil)
	return decode(seq, func(raw serverEvent, ev *api.ProcessEvent) (fate, error) {
		ev.ID = raw.id
		switch ev.Type {
		case api.ProcessError:
			return final, &Error{Code: ev.Code, Message: ev.Message}
		case api.ExecExit:
			return final, nil
		}
		return keep, nil
	})
}

// WriteProcess writes to the standard input of a process.
func (c *Client) WriteProcess(ctx context.Context, id, pid string, p []byte) error {
	return c.do(ctx, post(processPath(id, pid, "stdin"), api.ProcessInput{DataBase64: p}), nil)
}

// CloseProcessInput closes the standard input of a process.
func (c *Client) CloseProcessInput(ctx context.Context, id, pid string) error {
	return c.do(ctx, post(processPath(id, pid, "stdin"), api.ProcessInput{Close: true}).again(), nil)
}

// SignalProcess sends a signal ("SIGINT", "INT" or "2") to a process and
// everything it started.
func (c *Client) SignalProcess(ctx context.Context, id, pid, signal string) error {
	return c.do(ctx, post(processPath(id, pid, "signal"), api.ProcessSignal{Signal: signal}), nil)
}
