package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/coder/websocket"

	"silica.dev/silica/api"
)

const tunnelProtocol = "miosa-tunnel-v1"

// DialPort connects to a TCP port that something inside a sandbox listens on.
// The connection can half-close: it has a CloseWrite. As with a net.Dialer, ctx
// is for connecting only.
func (c *Client) DialPort(ctx context.Context, id string, port int) (net.Conn, error) {
	ws, _, err := c.dial(ctx, api.SandboxPath(id, "tunnel", strconv.Itoa(port)), nil, tunnelProtocol)
	if err != nil {
		return nil, err
	}
	t := &tunnel{socket: newSocket(context.WithoutCancel(ctx), ws), peer: tunnelAddr(fmt.Sprintf("%s:%d", id, port))}
	t.readBy.set(t.socket.ctx, time.Time{})
	t.writeBy.set(t.socket.ctx, time.Time{})
	return t, nil
}

// tunnel is a TCP connection into a sandbox.
type tunnel struct {
	socket *socket
	peer   tunnelAddr

	reading   sync.Mutex // one Read at a time
	rest      []byte
	complaint *Error

	readBy, writeBy deadline
}

func (t *tunnel) Read(p []byte) (int, error) {
	t.reading.Lock()
	defer t.reading.Unlock()
	for len(t.rest) == 0 {
		ctx := t.readBy.context()
		var m message
		var ok bool
		select {
		case m, ok = <-t.socket.in:
		case <-ctx.Done():
			if t.socket.ctx.Err() == nil {
				return 0, t.fail("read", os.ErrDeadlineExceeded)
			}
			m, ok = <-t.socket.in // the connection is over: this says why
		}
		switch {
		case !ok:
			return 0, t.ended()
		case !m.text:
			t.rest = m.data
		default:
			if n := readNote(m.data); n.Type == "error" {
				t.complaint = &Error{Code: n.Code, Message: n.Message}
			}
		}
	}
	n := copy(p, t.rest)
	t.rest = t.rest[n:]
	return n, nil
}

func (t *tunnel) ended() error {
	if _, err := t.socket.ending(t.complaint); err != io.EOF {
		return t.fail("read", err)
	}
	return io.EOF
}

func (t *tunnel) fail(op string, err error) error {
	return &net.OpError{Op: op, Net: "silica", Addr: t.peer, Err: err}
}

// Write sends p. A deadline that passes in the middle ends the connection.
func (t *tunnel) Write(p []byte) (int, error) {
	ctx := t.writeBy.context()
	n, err := t.socket.write(ctx, p)
	switch {
	case err == nil:
		return n, nil
	case t.socket.ctx.Err() != nil:
		err = net.ErrClosed
	case ctx.Err() != nil:
		err = os.ErrDeadlineExceeded
	}
	return n, t.fail("write", err)
}

// CloseWrite tells the other side that no more will come; it can still be read.
func (t *tunnel) CloseWrite() error {
	err := t.socket.ws.Write(t.writeBy.context(), websocket.MessageText, []byte(`{"type":"eof"}`))
	if err != nil {
		return t.fail("close", err)
	}
	return nil
}

func (t *tunnel) Close() error {
	t.socket.close()
	return nil
}

func (t *tunnel) LocalAddr() net.Addr  { return tunnelAddr("client") }
func (t *tunnel) RemoteAddr() net.Addr { return t.peer }

func (t *tunnel) SetDeadline(at time.Time) error {
	return errors.Join(t.SetReadDeadline(at), t.SetWriteDeadline(at))
}

func (t *tunnel) SetReadDeadline(at time.Time) error { return t.readBy.set(t.socket.ctx, at) }

func (t *tunnel) SetWriteDeadline(at time.Time) error { return t.writeBy.set(t.socket.ctx, at) }

// tunnelAddr is "<sandbox>:<port>".
type tunnelAddr string

func (tunnelAddr) Network() string  { return "silica" }
func (a tunnelAddr) String() string { return string(a) }

// deadline is a context that ends at a moment which may be moved.
type deadline struct {
	mu     sync.Mutex
	ctx    context.Context
	cancel context.CancelFunc
	timer  *time.Timer // nil: there is none
}

func (d *deadline) set(parent context.Context, at time.Time) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if parent.Err() != nil && d.ctx != nil {
		return net.ErrClosed
	}
	if fired := d.timer != nil && !d.timer.Stop(); d.ctx == nil || fired || d.ctx.Err() != nil {
		d.ctx, d.cancel = context.WithCancel(parent)
	}
	d.timer = nil
	if !at.IsZero() {
		d.timer = time.AfterFunc(time.Until(at), d.cancel)
	}
	return nil
}

func (d *deadline) context() context.Context {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.ctx
}
