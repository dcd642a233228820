package client

import (
	"context"
	"fmt"
	"io"
	"iter"

	"silica.dev/silica/api"
)

// Exec runs a command and returns when it has ended. A command that exits with
// another code than 0 is no error; one that ran out of time is an *Error with
// the code EXEC_TIMEOUT and what it wrote so far in its Details.
func (c *Client) Exec(ctx context.Context, id string, req api.ExecRequest) (*api.ExecResult, error) {
	return fetch[api.ExecResult](ctx, c, post(api.SandboxPath(id, "exec"), req))
}

// ExecPython runs Python code as Exec runs a command.
func (c *Client) ExecPython(ctx context.Context, id string, req api.ExecPythonRequest) (*api.ExecResult, error) {
	return fetch[api.ExecResult](ctx, c, post(api.SandboxPath(id, "exec", "python"), req))
}

// ExecStream runs a command and yields its output while it comes, then an event
// of type ExecExit. Reading slowly slows the command down. Leaving the loop
// ends the command, and so does a broken connection: nothing is run twice. An
// error is the last thing yielded.
func (c *Client) ExecStream(ctx context.Context, id string, req api.ExecRequest) iter.Seq2[api.ExecEvent, error] {
	return func(yield func(api.ExecEvent, error) bool) {
		ended := false
		seq := decode(c.events(ctx, post(api.SandboxPath(id, "exec", "stream"), req)), func(_ serverEvent, ev *api.ExecEvent) (fate, error) {
			switch ev.Type {
			case api.ExecError:
				return final, &Error{Code: ev.Code, Message: ev.Message}
			case api.ExecExit:
				return final, nil
			}
			return keep, nil
		})
		for ev, err := range seq {
			ended = err != nil || ev.Type == api.ExecExit
			if !yield(ev, err) {
				return
			}
		}
		if !ended {
			yield(api.ExecEvent{}, fmt.Errorf("exec stream broke off before the command's end: %w", io.ErrUnexpectedEOF))
		}
	}
}
