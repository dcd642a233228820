package server

import (
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// listenAt makes a port of every sandbox, served by serve.
func (w *world) listenAt(t *testing.T, port uint16, serve func(*net.TCPConn)) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	w.ports = map[uint16]string{port: ln.Addr().String()}
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go serve(c.(*net.TCPConn))
		}
	}()
}

// §7.3: "subprotocol miosa-tunnel-v1: binary frames both ways are the bytes of
// one TCP connection".
func TestTunnel(t *testing.T) {
	w, _, base := serveWorld(t, Config{})
	id := create(t, base, `{}`)
	w.listenAt(t, 8000, func(c *net.TCPConn) { // says what it was told once that has ended
		defer c.Close()
		all, _ := io.ReadAll(c)
		_, _ = c.Write([]byte(strings.ToUpper(string(all))))
	})
	p := mustDial(t, base+"/api/v1/computers/"+id+"/tunnel/8000", []string{"miosa-tunnel-v1"})
	if p.Subprotocol() != "miosa-tunnel-v1" {
		t.Errorf("subprotocol %q", p.Subprotocol())
	}
	p.send(false, "he\x00l")
	p.send(false, "lo")
	p.send(true, `{"type":"eof"}`)
	if got, want := p.all(), []message{raw("HE\x00LLO"), {status: 1000, reason: "eof"}}; !slices.Equal(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

// Who leaves lets go of the connection inside.
func TestTunnelEndsWithItsClient(t *testing.T) {
	w, _, base := serveWorld(t, Config{})
	id := create(t, base, `{}`)
	ended := make(chan error, 2)
	w.listenAt(t, 8000, func(c *net.TCPConn) {
		_, err := io.Copy(io.Discard, c)
		ended <- err
	})
	for _, leave := range []func(*peer){
		func(p *peer) { _ = p.Close(websocket.StatusNormalClosure, "") },
		func(p *peer) { _ = p.CloseNow() },
	} {
		leave(mustDial(t, base+"/api/v1/sandboxes/"+id+"/tunnel/8000", nil))
		select {
		case <-ended:
		case <-time.After(20 * time.Second):
			t.Fatal("the connection inside is still open")
		}
	}
}

// Neither side is read faster than the other takes it.
func TestTunnelHasBackPressure(t *testing.T) {
	w, _, base := serveWorld(t, Config{WriteIdle: 300 * time.Millisecond})
	id := create(t, base, `{}`)
	written := make(chan int64, 1)
	w.listenAt(t, 8000, func(c *net.TCPConn) {
		n, _ := io.CopyN(c, zeros{}, 1<<30)
		written <- n
	})
	mustDial(t, base+"/api/v1/sandboxes/"+id+"/tunnel/8000", nil) // never reads
	select {
	case n := <-written:
		if n == 1<<30 {
			t.Error("a gigabyte was taken for a client that does not read")
		}
	case <-time.After(20 * time.Second):
		t.Fatal("a client that does not read is not dropped")
	}
}

func TestTunnelRefusals(t *testing.T) {
	_, _, base := serveWorld(t, Config{})
	id := create(t, base, `{}`)
	at := base + "/api/v1/sandboxes/" + id
	upgrade := []string{"Connection", "Upgrade", "Upgrade", "websocket", "Sec-WebSocket-Version", "13", "Sec-WebSocket-Key", "AAAAAAAAAAAAAAAAAAAAAA=="}
	for _, port := range []string{"0", "65536", "x", "-1"} {
		request(t, "GET", at+"/tunnel/"+port, "", upgrade...).want(t, 422, "INVALID_PORT")
	}
	request(t, "GET", at+"/tunnel/9", "", upgrade...).want(t, 409, "PORT_CLOSED")
	request(t, "GET", at+"/ssh-tunnel", "", upgrade...).want(t, 409, "PORT_CLOSED")
	request(t, "GET", at+"/tunnel/9", "").want(t, 426, "UPGRADE_REQUIRED")
}
