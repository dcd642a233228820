package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"net/http"

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
		for attempt := 0; ; attempt++ {
			cl := get(api.SandboxPath(id, "events"))
			if after != "" {
				cl.header = http.Header{api.HeaderLastEventID: {after}}
			}
			broken, silent := errStreamEnded, true
			for raw, err := range c.events(ctx, cl) {
				if err != nil {
					broken = err
					break
				}
				attempt, silent = 0, false
				var ev api.Event
				if err := json.Unmarshal(raw.data, &ev); err != nil {
					yield(api.Event{}, fmt.Errorf("event stream: %w", err))
					return
				}
				if ev.Type == api.EventClosing {
					continue
				}
				ev.ID = raw.id
				if raw.id != "" {
					after = raw.id
				}
				if ev.Type == api.EventStateChanged {
					if ev.PreviousState == nil && ev.State == state {
						continue // the greeting of a second connection
					}
					state = ev.State
				}
				if !yield(ev, nil) {
					return
				}
			}
			var refused *Error
			switch {
			case ctx.Err() != nil:
				yield(api.Event{}, context.Cause(ctx))
				return
			case errors.As(broken, &refused) && refused.Status < 500 && refused.Status != http.StatusTooManyRequests:
				yield(api.Event{}, broken)
				return
			case state == api.StateDestroyed || state == api.StateError:
				return
			case silent && errors.Is(broken, errStreamEnded):
				// Nothing has happened since after: maybe because that was the end.
				if sb, err := c.Get(ctx, id); err == nil && (sb.State == api.StateDestroyed || sb.State == api.StateError) {
					return
				}
			}
			if err := wait(ctx, backoff(attempt, broken)); err != nil {
				yield(api.Event{}, err)
				return
			}
		}
	}
}
