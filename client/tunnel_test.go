package client_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// tunnelTo serves a tunnel whose other end is f's.
func tunnelTo(t *testing.T, f func(ctx context.Context, ws *websocket.Conn)) net.Conn {
	t.Helper()
	c := sockets(t, "miosa-tunnel-v1", func(ctx context.Context, ws *websocket.Conn, r *http.Request) {
		if r.URL.Path != "/api/v1/sandboxes/sbx_1/tunnel/80" {
			t.Errorf("asked for %s", r.URL.Path)
		}
		f(ctx, ws)
	})
	ctx, cancel := context.WithCancel(t.Context())
	conn, err := c.DialPort(ctx, "sbx_1", 80)
	cancel() // "ctx is for connecting only"
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// A tunnel carries HTTP, as any connection.
func TestDialPort(t *testing.T) {
	conn := tunnelTo(t, func(ctx context.Context, ws *websocket.Conn) {
		req, err := http.ReadRequest(bufio.NewReader(websocket.NetConn(ctx, ws, websocket.MessageBinary)))
		if err != nil {
			t.Error(err)
			return
		}
		send(ctx, ws, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n")
		send(ctx, ws, req.URL.Path)
		_, _, _ = ws.Read(ctx)
	})
	h := http.Client{Transport: &http.Transport{
		DialContext: func(context.Context, string, string) (net.Conn, error) { return conn, nil },
	}}
	res, err := h.Get("http://inside/path")
	if err != nil {
		t.Fatal(err)
	}
	p, err := io.ReadAll(res.Body)
	if string(p) != "/path" || err != nil {
		t.Errorf("%q %v", p, err)
	}
	h.CloseIdleConnections()
}

// "half-close": after CloseWrite the rest can still be read, up to a proper end.
func TestTunnelHalfClose(t *testing.T) {
	conn := tunnelTo(t, func(ctx context.Context, ws *websocket.Conn) {
		n := 0
		for {
			kind, p, err := ws.Read(ctx)
			if err != nil {
				t.Error(err)
				return
			}
			if kind == websocket.MessageText {
				break
			}
			n += len(p)
		}
		send(ctx, ws, fmt.Sprint(n))
		_ = ws.Close(websocket.StatusNormalClosure, "eof")
	})
	if n, err := conn.Write(make([]byte, 200_000)); n != 200_000 || err != nil {
		t.Fatal(n, err)
	}
	if err := conn.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if p, err := io.ReadAll(conn); string(p) != "200000" || err != nil {
		t.Errorf("%q %v", p, err)
	}
}

// A deadline interrupts a Read, and the connection can be used on.
func TestTunnelDeadlines(t *testing.T) {
	conn := tunnelTo(t, func(ctx context.Context, ws *websocket.Conn) {
		for {
			_, p, err := ws.Read(ctx)
			if err != nil {
				return
			}
			send(ctx, ws, string(p))
		}
	})
	buf := make([]byte, 9)
	for _, at := range []time.Time{time.Now().Add(-time.Second), time.Now().Add(20 * time.Millisecond)} {
		_ = conn.SetReadDeadline(at)
		_, err := conn.Read(buf)
		var late net.Error
		if !errors.Is(err, os.ErrDeadlineExceeded) || !errors.As(err, &late) || !late.Timeout() {
			t.Errorf("%v", err)
		}
	}
	_ = conn.SetDeadline(time.Time{})
	if _, err := conn.Write([]byte("on")); err != nil {
		t.Fatal(err)
	}
	if n, err := conn.Read(buf); string(buf[:n]) != "on" || err != nil {
		t.Errorf("%q %v", buf[:n], err)
	}
	conn.Close()
	if _, err := conn.Read(buf); err == nil || err == io.EOF {
		t.Errorf("a closed connection reads as %v", err)
	}
	if _, err := conn.Write(buf); !errors.Is(err, net.ErrClosed) {
		t.Errorf("%v", err)
	}
}

// "no goroutine leaks": a closed tunnel leaves none, be there unread data or not.
func TestTunnelLeavesNothing(t *testing.T) {
	for _, data := range []string{"", "unread"} {
		conn := tunnelTo(t, func(ctx context.Context, ws *websocket.Conn) {
			if data != "" {
				send(ctx, ws, data)
			}
			_, _, _ = ws.Read(ctx)
		})
		conn.Close()
		all := make([]byte, 1<<20)
		all = all[:runtime.Stack(all, true)]
		if strings.Contains(string(all), "client.newSocket") {
			t.Errorf("still there:\n%s", all)
		}
	}
}
