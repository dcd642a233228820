package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

// frame is one server-sent event.
type frame struct {
	ID, Event, Data string
}

// JSON decodes the frame's data.
func (f frame) JSON() obj {
	var o obj
	_ = json.Unmarshal([]byte(f.Data), &o)
	return o
}

// frames reads server-sent events. Comments are left out.
type frames struct {
	r       *bufio.Reader
	longest int // bytes of the longest line seen
}

func newFrames(r io.Reader) *frames { return &frames{r: bufio.NewReaderSize(r, 1<<16)} }

// next returns the next event; io.EOF when the stream ended in order.
func (s *frames) next() (frame, error) {
	var f frame
	var data []string
	for {
		line, err := s.r.ReadString('\n')
		if err != nil {
			return frame{}, err
		}
		s.longest = max(s.longest, len(line))
		line = strings.TrimRight(line, "\r\n")
		name, value, _ := strings.Cut(line, ":")
		value = strings.TrimPrefix(value, " ")
		switch {
		case line == "" && f.Event == "" && data == nil:
		case line == "":
			f.Data = strings.Join(data, "\n")
			return f, nil
		case name == "id":
			f.ID = value
		case name == "event":
			f.Event = value
		case name == "data":
			data = append(data, value)
		}
	}
}

// stream is an open stream read in the background, so that a test can wait with
// a limit.
type stream struct {
	Header http.Header
	events chan frame
	end    chan error // receives once, when the stream ended: nil for in order
	cancel context.CancelFunc
}

// open starts a stream, which ends with the test at the latest.
func (c *Client) open(t *testing.T, method, path string, body any, headers ...header) *stream {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	req, err := c.request(ctx, method, path, body, append(headers, header{"Accept", "text/event-stream"})...)
	if err != nil {
		t.Fatal(err)
	}
	res, err := c.http.Do(req)
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	if res.StatusCode != http.StatusOK || !strings.HasPrefix(res.Header.Get("Content-Type"), "text/event-stream") {
		b, _ := io.ReadAll(io.LimitReader(res.Body, 2000))
		t.Fatalf("%s %s: got %d %q %s, want an event stream", method, path, res.StatusCode, res.Header.Get("Content-Type"), b)
	}
	s := &stream{Header: res.Header, events: make(chan frame), end: make(chan error, 1), cancel: cancel}
	go func() {
		defer res.Body.Close()
		defer close(s.events)
		r := newFrames(res.Body)
		for {
			f, err := r.next()
			if errors.Is(err, io.EOF) {
				err = nil
				s.end <- err
				return
			}
			if err != nil {
				s.end <- err
				return
			}
			select {
			case s.events <- f:
			case <-ctx.Done():
				s.end <- ctx.Err()
				return
			}
		}
	}()
	return s
}

// next waits for the next event.
func (s *stream) next(t *testing.T, within time.Duration) frame {
	t.Helper()
	f, ok := s.within(within)
	if !ok {
		t.Fatalf("no event within %s, or the stream ended", within)
	}
	return f
}

func (s *stream) within(d time.Duration) (frame, bool) {
	timeout := time.NewTimer(d)
	defer timeout.Stop()
	select {
	case f, ok := <-s.events:
		return f, ok
	case <-timeout.C:
		return frame{}, false
	}
}

// until waits for an event that fits and returns it.
func (s *stream) until(t *testing.T, within time.Duration, what string, fits func(frame) bool) frame {
	t.Helper()
	deadline := time.Now().Add(within)
	var seen []frame
	for {
		f, ok := s.within(time.Until(deadline))
		if !ok {
			t.Fatalf("no event within %s: %s; seen: %+v", within, what, seen)
		}
		if fits(f) {
			return f
		}
		seen = append(seen, f)
	}
}

// ends waits for the server to close the stream in order.
func (s *stream) ends(t *testing.T, within time.Duration) {
	t.Helper()
	deadline := time.Now().Add(within)
	for {
		f, ok := s.within(time.Until(deadline))
		if !ok {
			break
		}
		t.Logf("before the end: %+v", f)
	}
	select {
	case err := <-s.end:
		if err != nil {
			t.Fatalf("the stream broke: %v", err)
		}
	default:
		t.Fatalf("the stream is still open after %s", within)
	}
}

// state fits a state_changed event to a state.
func state(name string) func(frame) bool {
	return func(f frame) bool { return f.Event == "state_changed" && f.JSON()["state"] == name }
}

// code fits an error event with a code.
func code(name string) func(frame) bool {
	return func(f frame) bool { return f.Event == "error" && f.JSON()["code"] == name }
}
