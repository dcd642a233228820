package client

import (
	"context"
	"crypto/rand"
	"errors"
	"net/http"
	"time"

	"silica.dev/silica/api"
)

// Create makes a sandbox. It may not be ready yet: see WaitUntilReady. Without
// an IdempotencyKey a fresh one is used, so a lost answer costs no second sandbox.
func (c *Client) Create(ctx context.Context, req api.CreateSandbox) (*api.Sandbox, error) {
	key := req.IdempotencyKey
	if key == "" {
		key = rand.Text()
	}
	var sb api.Sandbox
	err := c.do(ctx, call{
		method: http.MethodPost, path: api.Base + api.PathSandboxes, body: req, repeat: true,
		header: http.Header{api.HeaderIdempotencyKey: {key}},
	}, &sb)
	if err != nil {
		return nil, err
	}
	return &sb, nil
}

// Get returns one sandbox by id, slug or name.
func (c *Client) Get(ctx context.Context, id string) (*api.Sandbox, error) {
	var sb api.Sandbox
	if err := c.do(ctx, get(api.SandboxPath(id)), &sb); err != nil {
		return nil, err
	}
	return &sb, nil
}

// List returns the tenant's sandboxes that f selects, newest first.
func (c *Client) List(ctx context.Context, f api.SandboxFilter) ([]api.Sandbox, error) {
	var l api.List[api.Sandbox]
	cl := get(api.PathSandboxes)
	cl.query = f.Query()
	if err := c.do(ctx, cl, &l); err != nil {
		return nil, err
	}
	return l.Data, nil
}

// Delete destroys a sandbox. Doing it again answers the same.
func (c *Client) Delete(ctx context.Context, id string) (*api.DestroyedSandbox, error) {
	var d api.DestroyedSandbox
	cl := call{method: http.MethodDelete, path: api.Base + api.SandboxPath(id), repeat: true}
	if err := c.do(ctx, cl, &d); err != nil {
		return nil, err
	}
	return &d, nil
}

// Readiness tells whether a sandbox takes work. The server answers a little
// later when it does not, so that polling needs no pause.
func (c *Client) Readiness(ctx context.Context, id string) (*api.Readiness, error) {
	var r api.Readiness
	if err := c.do(ctx, get(api.SandboxPath(id, "readiness")), &r); err != nil {
		return nil, err
	}
	return &r, nil
}

// WaitUntilReady returns the sandbox once it takes work, a *StateError when it
// can't any more, or ctx's error.
func (c *Client) WaitUntilReady(ctx context.Context, id string) (*api.Sandbox, error) {
	for {
		verdict := c.readyEvent(ctx, id)
		if IsNotFound(verdict) || ctx.Err() != nil {
			return nil, verdict
		}
		// Whatever the stream said or failed with, the record has the answer.
		sb, err := c.Get(ctx, id)
		switch {
		case err != nil:
			return nil, err
		case sb.Ready:
			return sb, nil
		case sb.State == api.StateError || sb.State == api.StateDestroyed:
			return sb, &StateError{*sb}
		}
		if verdict != nil {
			if err := wait(ctx, 100*time.Millisecond); err != nil {
				return nil, err
			}
		}
	}
}

var errStreamEnded = errors.New("the stream ended early")

// readyEvent waits for the verdict of the readiness stream, and returns nil
// when there was one, whichever.
func (c *Client) readyEvent(ctx context.Context, id string) error {
	for ev, err := range c.events(ctx, get(api.SandboxPath(id, "readiness", "stream"))) {
		if err != nil {
			return err
		}
		if ev.name == "ready" || ev.name == "timeout" {
			return nil
		}
	}
	return errStreamEnded
}

// get is a call below the API's prefix that may be repeated.
func get(path string) call {
	return call{method: http.MethodGet, path: api.Base + path, repeat: true}
}
