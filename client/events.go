package client

import (
	"context"
	"iter"

	"silica.dev/silica/api"
)

// Events yields what happens to a sandbox: first its state as it is, then every
// change, and the output of commands while it comes. It connects again when the
// connection breaks, without missing a change, and ends after the sandbox has.
// With after, an Event.ID, it goes on from there instead. An error is the last
// thing yielded.
func (c *Client) Events(ctx context.Context, id, after string) iter.Seq2[api.Event, error] {
	return func(yield func(api.Event, error) bool) {
		state := "" // last yielded
		ended := func() bool { return over(state) || c.isOver(ctx, id) }
		seq := c.resume(ctx, get(api.SandboxPath(id, "events")), after, ended)
		decode(seq, func(raw serverEvent, ev *api.Event) (fate, error) {
			ev.ID = raw.id
			if ev.Type == api.EventStateChanged {
				if ev.PreviousState == nil && ev.State == state {
					return skip, nil // the greeting of a second connection
				}
				state = ev.State
			}
			return keep, nil
		})(yield)
	}
}

// isOver tells whether a sandbox has ended, as far as that can be known: a
// stream that ends in silence may have come to its end, or have broken.
func (c *Client) isOver(ctx context.Context, id string) bool {
	sb, err := c.Get(ctx, id)
	return err == nil && over(sb.State)
}
