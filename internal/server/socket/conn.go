// Package socket carries a program's streams over one WebSocket, in the dialects
// that public clients speak, so that the routes need not know how any of them
// frames bytes.
package socket

import (
	"bufio"
	"context"
	"encoding/binary"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"
)

// MaxMessage bounds one message of a client; maxFrame one of ours.
const (
	MaxMessage = 1 << 20
	maxFrame   = 64 << 10
)

// Codes of the closing frame.
const (
	Normal    = 1000
	GoingAway = 1001
	Policy    = 1008
	Broken    = 1011
)

// farewell bounds how long a client may take to answer our closing frame.
const farewell = time.Second

// Config says what a connection is to be like.
type Config struct {
	// Subprotocols are those that are echoed when the client offers them.
	Subprotocols []string
	// WriteIdle is how long the client may leave a message unread, or a ping
	// unanswered; Heartbeat is how often it is pinged.
	WriteIdle, Heartbeat time.Duration
}

// Conn is one WebSocket on the server's side. One goroutine may receive while
// others send.
type Conn struct {
	ws  *websocket.Conn
	raw net.Conn
	cfg Config

	armed   atomic.Int64  // when the deadline for writing was last moved, in Unix nanoseconds
	stalled atomic.Bool   // nobody receives just now, so no pong can be seen
	gone    chan struct{} // closed when a ping has found the client gone

	mu     sync.Mutex
	beat   *time.Timer // nil: the connection is closing
	beats  sync.WaitGroup
	hushed bool
}

// Asked tells whether a request asks for a WebSocket at all.
func Asked(r *http.Request) bool {
	return r.Method == http.MethodGet && strings.EqualFold(strings.TrimSpace(r.Header.Get("Upgrade")), "websocket")
}

// Refusal is why a handshake failed. Nothing has been written.
type Refusal struct {
	Status int
	Text   string
}

func (r *Refusal) Error() string { return r.Text }

// Accept answers the handshake. The request's context is of no use afterwards
// for noticing that the client left: Receive tells.
//
// Every origin is welcome. A page elsewhere can do harm only with what the
// browser adds by itself, and there are no cookies: whoever opens a socket had
// to be given a key or a token first.
func Accept(w http.ResponseWriter, r *http.Request, cfg Config) (*Conn, error) {
	h := &handshake{ResponseWriter: w}
	ws, err := websocket.Accept(h, r, &websocket.AcceptOptions{InsecureSkipVerify: true, Subprotocols: cfg.Subprotocols})
	if err != nil {
		if h.refused != nil {
			return nil, h.refused
		}
		return nil, err
	}
	ws.SetReadLimit(MaxMessage)
	c := &Conn{ws: ws, raw: h.raw, cfg: cfg, gone: make(chan struct{})}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.beat = time.AfterFunc(cfg.Heartbeat, c.ping)
	return c, nil
}

// handshake keeps the connection that is handed over, and holds refusals back:
// the API has a shape of its own for them.
type handshake struct {
	http.ResponseWriter
	raw     net.Conn
	refused *Refusal
}

func (h *handshake) WriteHeader(status int) {
	if status != http.StatusSwitchingProtocols {
		h.refused = &Refusal{Status: status}
		return
	}
	h.ResponseWriter.WriteHeader(status)
}

func (h *handshake) Write(p []byte) (int, error) {
	if h.refused != nil {
		h.refused.Text = strings.TrimSpace(string(p))
		return len(p), nil
	}
	return h.ResponseWriter.Write(p)
}

func (h *handshake) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	raw, brw, err := http.NewResponseController(h.ResponseWriter).Hijack()
	h.raw = raw
	return raw, brw, err
}

// Receive waits for the client's next message. Any error means that the client
// has left, or that Close was called.
func (c *Conn) Receive() (text bool, p []byte, err error) {
	kind, p, err := c.ws.Read(context.Background())
	return kind == websocket.MessageText, p, err
}

// Text and Binary send one message. They block while the client does not read,
// for as long as WriteIdle.
func (c *Conn) Text(p []byte) error   { return c.send(websocket.MessageText, p) }
func (c *Conn) Binary(p []byte) error { return c.send(websocket.MessageBinary, p) }

func (c *Conn) send(kind websocket.MessageType, p []byte) error {
	if now := time.Now(); now.UnixNano()-c.armed.Load() > int64(c.cfg.WriteIdle/8) {
		_ = c.raw.SetWriteDeadline(now.Add(c.cfg.WriteIdle))
		c.armed.Store(now.UnixNano())
	}
	return c.ws.Write(context.Background(), kind, p)
}

// ping keeps proxies from forgetting the connection, and finds out when the
// client is no more.
func (c *Conn) ping() {
	c.mu.Lock()
	if c.hushed {
		c.mu.Unlock()
		return
	}
	c.beats.Add(1)
	c.mu.Unlock()
	defer c.beats.Done()

	ctx, cancel := context.WithTimeout(context.Background(), c.cfg.WriteIdle)
	defer cancel()
	err := c.ws.Ping(ctx)
	// No answer says nothing while what the client sent is not taken.
	if err != nil && (ctx.Err() == nil || !c.stalled.Load()) {
		close(c.gone)
		_ = c.ws.CloseNow()
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.hushed {
		c.beat.Reset(c.cfg.Heartbeat)
	}
}

func (c *Conn) hush() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.hushed = true
	c.beat.Stop()
}

// Close ends the connection with a code and a reason. It gives the client a
// moment to take what was sent before.
func (c *Conn) Close(code int, reason string) {
	c.hush()
	by := time.Now().Add(farewell)
	_ = c.raw.SetDeadline(by)
	reason = cut(reason, 123)
	if sendable(code) {
		_ = c.ws.Close(websocket.StatusCode(code), reason)
	} else {
		c.closeRaw(code, reason)
	}
	c.beats.Wait()
}

// sendable tells whether the library agrees to send a code.
func sendable(code int) bool {
	return code >= 1000 && code <= 1014 && (code < 1004 || code > 1006) || code >= 3000 && code <= 4999
}

// closeRaw sends a code that the standard keeps for itself: one dialect puts exit
// codes there. Nobody else writes any more.
func (c *Conn) closeRaw(code int, reason string) {
	frame := append([]byte{0x88, byte(2 + len(reason))}, binary.BigEndian.AppendUint16(nil, uint16(code))...)
	if _, err := c.raw.Write(append(frame, reason...)); err == nil {
		// Until the client has closed: the end of the connection before that
		// could throw away what it has not read yet.
		buf := make([]byte, 512)
		for err == nil {
			_, err = c.raw.Read(buf)
		}
	}
	_ = c.ws.CloseNow()
}

// Drop ends the connection of a client that is gone.
func (c *Conn) Drop() {
	c.hush()
	_ = c.ws.CloseNow()
	c.beats.Wait()
}

// cut shortens s to n bytes, in whole characters.
func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n], "")
}
