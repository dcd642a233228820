package client

import (
	"context"
	"crypto/rand"
	"iter"
	"net/url"

	"silica.dev/silica/api"
)

// Create makes a sandbox. It may not be ready yet: see WaitUntilReady. Without
// an IdempotencyKey a fresh one is used, so a lost answer costs no second sandbox.
func (c *Client) Create(ctx context.Context, req api.CreateSandbox) (*api.Sandbox, error) {
	cl := post(api.PathSandboxes, req).again().headed(api.HeaderIdempotencyKey, keyOr(req.IdempotencyKey))
	return fetch[api.Sandbox](ctx, c, cl)
}

// keyOr is an idempotency key: the caller's, or a fresh one.
func keyOr(key string) string {
	if key == "" {
		return rand.Text()
	}
	return key
}

// Get returns one sandbox by id, slug or name.
func (c *Client) Get(ctx context.Context, id string) (*api.Sandbox, error) {
	return fetch[api.Sandbox](ctx, c, get(api.SandboxPath(id)))
}

// GetByName returns one sandbox by the name it was given, be it one that could
// also be an id or a slug.
func (c *Client) GetByName(ctx context.Context, name string) (*api.Sandbox, error) {
	return fetch[api.Sandbox](ctx, c, get(api.PathSandboxes+"/by-name/"+url.PathEscape(name)))
}

// List returns one page of the tenant's sandboxes that f selects, newest first;
// if f asks for none, all of them up to the server's bound of 1000.
func (c *Client) List(ctx context.Context, f api.SandboxFilter) ([]api.Sandbox, error) {
	l, err := c.ListPage(ctx, f)
	if err != nil {
		return nil, err
	}
	return l.Data, nil
}

// ListPage is List with the counts and the cursor of the next page.
func (c *Client) ListPage(ctx context.Context, f api.SandboxFilter) (*api.List[api.Sandbox], error) {
	return fetch[api.List[api.Sandbox]](ctx, c, get(api.PathSandboxes).asking(f.Query()))
}

// pageSize is how many rows All asks for at once.
const pageSize = 200

// All yields every sandbox that f selects, newest first, asking for a page
// (f.Limit rows) when it is needed. One that is made meanwhile may be missing.
// An error is the last thing yielded.
func (c *Client) All(ctx context.Context, f api.SandboxFilter) iter.Seq2[api.Sandbox, error] {
	f.Page, f.PageSize = 0, 0
	if f.Limit <= 0 {
		f.Limit = pageSize
	}
	return pages[api.Sandbox](ctx, c, func(cursor string) call {
		f := f
		if cursor != "" {
			f.Cursor = cursor
		}
		return get(api.PathSandboxes).asking(f.Query())
	})
}

// Update changes what req sets and leaves the rest as it is.
func (c *Client) Update(ctx context.Context, id string, req api.UpdateSandbox) (*api.Sandbox, error) {
	return fetch[api.Sandbox](ctx, c, patch(api.SandboxPath(id), req))
}

// SetTags replaces the tags of a sandbox.
func (c *Client) SetTags(ctx context.Context, id string, tags ...string) (*api.Sandbox, error) {
	if tags == nil {
		tags = []string{} // null would be no list
	}
	return fetch[api.Sandbox](ctx, c, patch(api.SandboxPath(id, "tags"), api.SetTags{Tags: tags}))
}

// Extend has a sandbox's time to live count anew from now, and makes it
// timeoutSec long unless that is 0.
func (c *Client) Extend(ctx context.Context, id string, timeoutSec int64) (*api.Sandbox, error) {
	return fetch[api.Sandbox](ctx, c, post(api.SandboxPath(id, "extend"), api.ExtendSandbox{TimeoutSec: timeoutSec}).again())
}

// Stop pauses a persistent sandbox with its files kept, and destroys another.
func (c *Client) Stop(ctx context.Context, id string) (*api.Sandbox, error) {
	return fetch[api.Sandbox](ctx, c, post(api.SandboxPath(id, "stop"), nil).again())
}

// Start boots a paused sandbox with its files. See WaitUntilReady.
func (c *Client) Start(ctx context.Context, id string) (*api.Sandbox, error) {
	return fetch[api.Sandbox](ctx, c, post(api.SandboxPath(id, "start"), nil).again())
}

// Restart stops a sandbox and boots it again with its files, persistent or not.
func (c *Client) Restart(ctx context.Context, id string) (*api.Sandbox, error) {
	return fetch[api.Sandbox](ctx, c, post(api.SandboxPath(id, "restart"), nil))
}

// Delete destroys a sandbox. Doing it again answers the same.
func (c *Client) Delete(ctx context.Context, id string) (*api.DestroyedSandbox, error) {
	return fetch[api.DestroyedSandbox](ctx, c, del(api.SandboxPath(id)))
}
