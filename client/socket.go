package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"

	"github.com/coder/websocket"
)

// maxMessage bounds one message of a WebSocket; the server's are of 64 KiB.
const maxMessage = 1 << 20

// dial opens a WebSocket below the API's prefix. Opening it begins what it is
// for, so only a refusal for being too many is taken as a reason to try again.
func (c *Client) dial(ctx context.Context, path string, query url.Values, protocols ...string) (*websocket.Conn, http.Header, error) {
	cl := get(path).asking(query)
	cl.repeat = false
	u := c.root + cl.path
	if len(query) > 0 {
		u += "?" + strings.ReplaceAll(query.Encode(), "+", "%20") // a plus may be taken for one
	}
	var ws *websocket.Conn
	var answer http.Header
	err := c.persist(ctx, cl, func(int) error {
		keep := &refusals{next: c.http.Transport}
		h := *c.http
		h.Transport = keep
		conn, res, err := websocket.Dial(ctx, u, &websocket.DialOptions{HTTPClient: &h, HTTPHeader: c.identity(), Subprotocols: protocols})
		switch {
		case keep.refused != nil:
			return keep.refused
		case err != nil:
			return fmt.Errorf("GET %s: %w", cl.path, withoutURL(err))
		}
		conn.SetReadLimit(maxMessage)
		ws, answer = conn, res.Header
		return nil
	})
	return ws, answer, err
}

// refusals reads what the server has to say when it does not open a WebSocket:
// the library would keep too little of it.
type refusals struct {
	next    http.RoundTripper
	refused error
}

func (r *refusals) RoundTrip(req *http.Request) (*http.Response, error) {
	next := r.next
	if next == nil {
		next = http.DefaultTransport
	}
	res, err := next.RoundTrip(req)
	if err == nil && res.StatusCode >= 400 {
		r.refused = readError(res)
	}
	return res, err
}

// message is one that a socket received.
type message struct {
	text bool
	data []byte
}

// socket is a WebSocket whose messages a goroutine of its own receives, one
// ahead of the reader, so that the server's pings are answered though nobody
// reads just now. close ends it; so does the end of its context.
type socket struct {
	ws     *websocket.Conn
	ctx    context.Context // of the connection: a Read has none
	cancel context.CancelFunc
	in     chan message // closed at the end, when err says why
	err    error
	closed atomic.Bool // by us
}

func newSocket(ctx context.Context, ws *websocket.Conn) *socket {
	s := &socket{ws: ws, in: make(chan message)}
	s.ctx, s.cancel = context.WithCancel(ctx)
	go func() {
		defer s.cancel()
		s.err = s.receive()
		_ = ws.CloseNow()
		close(s.in)
	}()
	return s
}

func (s *socket) receive() error {
	for {
		kind, p, err := s.ws.Read(s.ctx)
		if err != nil {
			return err
		}
		select {
		case s.in <- message{kind == websocket.MessageText, p}:
		case <-s.ctx.Done():
			return context.Cause(s.ctx)
		}
	}
}

// close says farewell and waits for the goroutine.
func (s *socket) close() {
	s.closed.Store(true)
	_ = s.ws.Close(websocket.StatusNormalClosure, "")
	s.cancel()
	for range s.in {
	}
}

// note is a text message of a terminal or a tunnel.
type note struct {
	Type    string `json:"type"`
	To      int64  `json:"to"`      // of a gap
	Code    string `json:"code"`    // of an error
	Message string `json:"message"` // of an error
}

func readNote(p []byte) (n note) {
	_ = json.Unmarshal(p, &n) // a newer server's may be anything
	return n
}

// ending tells why a socket has ended, once in is closed: io.EOF when the other
// side had nothing more to say, and then its last word. complaint is what the
// server said before, if it did.
func (s *socket) ending(complaint *Error) (lastWord string, err error) {
	var bye websocket.CloseError
	switch {
	case s.closed.Load():
		return "", net.ErrClosed
	case !errors.As(s.err, &bye):
		return "", fmt.Errorf("the connection broke: %w", s.err)
	case bye.Code == websocket.StatusNormalClosure:
		return bye.Reason, io.EOF
	case complaint != nil:
		return "", complaint
	}
	return "", &Error{Message: strings.TrimSpace("the server closed the connection: " + bye.Reason)}
}

// piece is how much of what is written goes into one message.
const piece = 32 << 10

func (s *socket) write(ctx context.Context, p []byte) (n int, err error) {
	for n < len(p) {
		part := p[n:min(n+piece, len(p))]
		if err := s.ws.Write(ctx, websocket.MessageBinary, part); err != nil {
			return n, fmt.Errorf("the connection broke: %w", err)
		}
		n += len(part)
	}
	return n, nil
}
