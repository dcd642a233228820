package client

import (
	"context"
	"errors"
	"time"

	"silica.dev/silica/api"
)

// Readiness tells whether a sandbox takes work. The server answers a little
// later when it does not, so that polling needs no pause.
func (c *Client) Readiness(ctx context.Context, id string) (*api.Readiness, error) {
	return fetch[api.Readiness](ctx, c, get(api.SandboxPath(id, "readiness")))
}

// Pauses between looks at a sandbox whose readiness can't be streamed.
const (
	firstPause = 50 * time.Millisecond
	mostPause  = 2 * time.Second
)

// WaitUntilReady returns the sandbox once it takes work, a *StateError when it
// can't any more, or ctx's error. It waits for the server's word, and where a
// stream is not to be had (behind some proxies) it looks again and again.
func (c *Client) WaitUntilReady(ctx context.Context, id string) (*api.Sandbox, error) {
	streams := true
	for pause := firstPause; ; {
		verdict := errStreamEnded
		if streams {
			verdict = c.readyEvent(ctx, id)
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		// Whatever the stream said or failed with, the record has the answer.
		sb, err := c.Get(ctx, id)
		switch {
		case err != nil:
			return nil, err
		case sb.Ready:
			return sb, nil
		case over(sb.State):
			return sb, &StateError{*sb}
		case verdict == nil: // it takes long, but the server will tell
			continue
		}
		var refused *Error
		if errors.As(verdict, &refused) && isRefusal(refused.Status) {
			streams = false
		}
		if err := wait(ctx, pause); err != nil {
			return nil, err
		}
		pause = min(2*pause, mostPause)
	}
}

// over tells whether nothing will happen to a sandbox in this state any more.
func over(state string) bool { return state == api.StateError || state == api.StateDestroyed }

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
