package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"time"

	"silica.dev/silica/api"
)

var errStreamEnded = errors.New("the stream ended early")

const (
	// reconnects is how often a stream is taken up in a row without anything
	// having come, before the server is given up.
	reconnects = 30
	// settled is how long a connection lasts that was not in vain although
	// nothing came.
	settled = 10 * time.Second
)

// resume yields the events of a stream, and takes it up after the last one when
// the connection breaks, so that none is missed or comes twice. last is the id
// of the event to begin after, or empty. ended is asked when the server has
// ended the stream without a word: whether there is nothing more to come; nil
// says there always is. An error is the last thing yielded.
func (c *Client) resume(ctx context.Context, cl call, last string, ended func() bool) iter.Seq2[serverEvent, error] {
	return func(yield func(serverEvent, error) bool) {
		for attempt := 0; ; attempt++ {
			if last != "" {
				cl = cl.headed(api.HeaderLastEventID, last)
			}
			began := time.Now()
			broken := errStreamEnded
			for ev, err := range c.events(ctx, cl) {
				if err != nil {
					broken = err
					break
				}
				if ev.name == api.EventClosing {
					if broken = farewell(ev.data); broken != errStreamEnded {
						break
					}
					continue
				}
				attempt = 0
				if ev.id != "" {
					last = ev.id
				}
				if !yield(ev, nil) {
					return
				}
			}
			if time.Since(began) > settled {
				attempt = 0
			}
			var refused *Error
			switch {
			case ctx.Err() != nil:
				yield(serverEvent{}, context.Cause(ctx))
				return
			case attempt >= reconnects, errors.As(broken, &refused) && (refused.Status == 0 || isRefusal(refused.Status)):
				yield(serverEvent{}, broken)
				return
			case broken == errStreamEnded && ended != nil && ended():
				return
			}
			if err := wait(ctx, backoff(attempt, broken)); err != nil {
				yield(serverEvent{}, err)
				return
			}
		}
	}
}

// farewell reads why the server ends a stream: errStreamEnded when one may come
// again, else an *Error.
func farewell(data []byte) error {
	var why struct {
		Reason    string
		Reconnect *bool
	}
	if json.Unmarshal(data, &why) == nil && why.Reconnect != nil && !*why.Reconnect {
		return &Error{Message: "the server ended the stream: " + why.Reason}
	}
	return errStreamEnded
}

// What becomes of an item of a stream.
type fate int

const (
	keep fate = iota
	skip
	final // and no more after it
)

// decode turns events into items. see completes each and says what becomes of
// it; its error ends the stream.
func decode[T any](seq iter.Seq2[serverEvent, error], see func(ev serverEvent, it *T) (fate, error)) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		var none T
		for ev, err := range seq {
			if err != nil {
				yield(none, err)
				return
			}
			var it T
			if err := json.Unmarshal(ev.data, &it); err != nil {
				yield(none, fmt.Errorf("stream: event %q: %w", ev.name, err))
				return
			}
			next, err := see(ev, &it)
			if err != nil {
				yield(it, err)
				return
			}
			if next != skip && !yield(it, nil) || next == final {
				return
			}
		}
	}
}
