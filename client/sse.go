package client

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"iter"
)

// maxLine bounds one line of a stream; the server stays below 64 KiB.
const maxLine = 1 << 20

// serverEvent is one event of an SSE stream.
type serverEvent struct {
	id, name string
	data     []byte // valid until the next one
}

// events opens a stream and yields its events until it ends. An error is the
// last thing yielded.
func (c *Client) events(ctx context.Context, cl call) iter.Seq2[serverEvent, error] {
	return func(yield func(serverEvent, error) bool) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		res, err := c.open(ctx, cl.headed("Accept", "text/event-stream"))
		if err != nil {
			yield(serverEvent{}, err)
			return
		}
		defer res.Body.Close()
		defer cancel() // before Close, which would wait for what is left
		readEvents(res.Body, yield)
	}
}

// readEvents parses the event stream format of the HTML standard.
func readEvents(r io.Reader, yield func(serverEvent, error) bool) {
	sc := bufio.NewScanner(r)
	sc.Buffer(make([]byte, 0, 64<<10), maxLine)
	sc.Split(splitLine)
	var ev serverEvent
	data, some := []byte(nil), false
	for sc.Scan() {
		line := sc.Bytes()
		if len(line) == 0 {
			if some {
				ev.data = bytes.TrimSuffix(data, []byte("\n"))
				if ev.name == "" {
					ev.name = "message"
				}
				if !yield(ev, nil) {
					return
				}
			}
			ev.name, data, some = "", data[:0], false
			continue
		}
		field, value, _ := bytes.Cut(line, []byte(":"))
		value = bytes.TrimPrefix(value, []byte(" "))
		switch string(field) {
		case "event":
			ev.name = string(value)
		case "id":
			ev.id = string(value)
		case "data":
			data, some = append(append(data, value...), '\n'), true
		}
	}
	if err := sc.Err(); err != nil {
		yield(serverEvent{}, err)
	}
}

// splitLine splits at LF or CRLF and drops an unfinished last line, which the
// standard says to ignore.
func splitLine(data []byte, atEOF bool) (int, []byte, error) {
	if i := bytes.IndexByte(data, '\n'); i >= 0 {
		return i + 1, bytes.TrimSuffix(data[:i], []byte("\r")), nil
	}
	if atEOF && len(data) > 0 {
		return len(data), nil, io.ErrUnexpectedEOF
	}
	return 0, nil, nil
}
