package client

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"strconv"
	"strings"
	"sync"

	"github.com/coder/websocket"

	"silica.dev/silica/api"
)

func terminalPath(id, session string) string {
	return api.SandboxPath(id, "terminal", url.PathEscape(session))
}

// CreateTerminal starts a terminal and leaves it to AttachTerminal, or to
// whoever gets its StreamAuth, to open its stream. With a SessionID it makes a
// new StreamAuth for a terminal that runs.
func (c *Client) CreateTerminal(ctx context.Context, id string, req api.TerminalRequest) (*api.TerminalSession, error) {
	cl := post(api.SandboxPath(id, "terminal"), req)
	cl.repeat = req.SessionID != ""
	return fetch[api.TerminalSession](ctx, c, cl)
}

// Terminals lists the terminals that run in a sandbox.
func (c *Client) Terminals(ctx context.Context, id string) ([]api.Terminal, error) {
	return rows[api.Terminal](ctx, c, get(api.SandboxPath(id, "terminals")))
}

// DeleteTerminal ends a terminal and everything that runs in it.
func (c *Client) DeleteTerminal(ctx context.Context, id, session string) error {
	return c.do(ctx, del(terminalPath(id, session)), nil)
}

// ResizeTerminal changes the size of a terminal nobody of us is attached to.
func (c *Client) ResizeTerminal(ctx context.Context, id, session string, cols, rows int) error {
	path := api.SandboxPath(id, "pty", url.PathEscape(session), "resize")
	return c.do(ctx, post(path, api.TerminalSize{Cols: cols, Rows: rows}).again(), nil)
}

// Terminal is a connection to a terminal. Read gives what it prints, io.EOF
// after its program has ended; Write types. One goroutine may read while
// another writes. Closing it detaches: the terminal runs on.
type Terminal struct {
	client  *Client
	sandbox string
	session string
	socket  *socket

	reading   sync.Mutex // one Read at a time
	rest      []byte     // of the last message
	complaint *Error

	mu     sync.Mutex
	offset int64 // of the next byte that Read gives
	exit   *int
}

// OpenTerminal starts a terminal and attaches to it. The connection, but not
// the terminal, ends with ctx.
func (c *Client) OpenTerminal(ctx context.Context, id string, req api.TerminalRequest) (*Terminal, error) {
	s, err := c.CreateTerminal(ctx, id, req)
	if err != nil {
		return nil, err
	}
	return c.AttachTerminal(ctx, id, s.SessionID, 0)
}

// AttachTerminal opens the stream of a terminal at a byte of all that it has
// printed, or below 0 with the last lines of it.
func (c *Client) AttachTerminal(ctx context.Context, id, session string, offset int64) (*Terminal, error) {
	q := url.Values{"session_id": {session}}
	if offset >= 0 {
		q.Set("offset", strconv.FormatInt(offset, 10))
	}
	ws, h, err := c.dial(ctx, api.SandboxPath(id, "terminal", "stream"), q)
	if err != nil {
		return nil, err
	}
	t := &Terminal{client: c, sandbox: id, session: session, offset: max(offset, 0), socket: newSocket(ctx, ws)}
	if n, err := strconv.ParseInt(h.Get("X-Stream-Offset"), 10, 64); err == nil {
		t.offset = n
	}
	return t, nil
}

// Reattach connects anew, after the connection broke, to where Read was.
func (t *Terminal) Reattach(ctx context.Context) (*Terminal, error) {
	_ = t.Close()
	return t.client.AttachTerminal(ctx, t.sandbox, t.session, t.Offset())
}

// Session is the terminal's id.
func (t *Terminal) Session() string { return t.session }

// Offset is how many bytes the terminal had printed before what Read gives next.
func (t *Terminal) Offset() int64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.offset
}

// ExitCode is that of the terminal's program, once Read has given io.EOF.
func (t *Terminal) ExitCode() (code int, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.exit == nil {
		return 0, false
	}
	return *t.exit, true
}

// Read implements io.Reader.
func (t *Terminal) Read(p []byte) (int, error) {
	t.reading.Lock()
	defer t.reading.Unlock()
	for len(t.rest) == 0 {
		m, ok := <-t.socket.in
		switch {
		case !ok:
			return 0, t.ended()
		case !m.text:
			t.rest = m.data
			continue
		}
		switch n := readNote(m.data); n.Type {
		case "gap":
			t.mu.Lock()
			t.offset = n.To
			t.mu.Unlock()
		case "error":
			t.complaint = &Error{Code: n.Code, Message: n.Message}
		}
	}
	n := copy(p, t.rest)
	t.rest = t.rest[n:]
	t.mu.Lock()
	defer t.mu.Unlock()
	t.offset += int64(n)
	return n, nil
}

func (t *Terminal) ended() error {
	word, err := t.socket.ending(t.complaint)
	if code, aerr := strconv.Atoi(strings.TrimPrefix(word, "exit ")); err == io.EOF && aerr == nil {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.exit = &code
	}
	return err
}

// Write implements io.Writer. It blocks while the terminal takes nothing.
func (t *Terminal) Write(p []byte) (int, error) { return t.socket.write(t.socket.ctx, p) }

// Resize tells the terminal the size of its window.
func (t *Terminal) Resize(cols, rows int) error {
	raw, err := json.Marshal(map[string]any{"type": "resize", "cols": cols, "rows": rows})
	if err != nil {
		return fmt.Errorf("resize: %w", err)
	}
	return t.socket.ws.Write(t.socket.ctx, websocket.MessageText, raw)
}

// Close detaches from the terminal. Reading gives an error afterwards.
func (t *Terminal) Close() error {
	t.socket.close()
	return nil
}
