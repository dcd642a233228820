package client

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"net/http"

	"silica.dev/silica/api"
)

// Exec runs a command and returns when it has ended. A command that exits with
// another code than 0 is no error; one that ran out of time is an *Error with
// the code EXEC_TIMEOUT and what it wrote so far in its Details.
func (c *Client) Exec(ctx context.Context, id string, req api.ExecRequest) (*api.ExecResult, error) {
	var r api.ExecResult
	cl := call{method: http.MethodPost, path: api.Base + api.SandboxPath(id, "exec"), body: req}
	if err := c.do(ctx, cl, &r); err != nil {
		return nil, err
	}
	return &r, nil
}

// ExecStream runs a command and yields its output while it comes, then an event
// of type ExecExit. Reading slowly slows the command down. Leaving the loop
// ends the command. An error is the last thing yielded.
func (c *Client) ExecStream(ctx context.Context, id string, req api.ExecRequest) iter.Seq2[api.ExecEvent, error] {
	return func(yield func(api.ExecEvent, error) bool) {
		cl := call{method: http.MethodPost, path: api.Base + api.SandboxPath(id, "exec", "stream"), body: req}
		for raw, err := range c.events(ctx, cl) {
			if err != nil {
				yield(api.ExecEvent{}, err)
				return
			}
			var ev api.ExecEvent
			if err := json.Unmarshal(raw.data, &ev); err != nil {
				yield(api.ExecEvent{}, fmt.Errorf("exec stream: %w", err))
				return
			}
			if ev.Type == api.ExecError {
				yield(ev, &Error{Code: ev.Code, Message: ev.Message})
				return
			}
			if !yield(ev, nil) || ev.Type == api.ExecExit {
				return
			}
		}
		yield(api.ExecEvent{}, fmt.Errorf("exec stream broke off before the command's end: %w", io.ErrUnexpectedEOF))
	}
}
