package guest

import (
	"errors"
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// wrapped is a connection as drivers return it.
type wrapped struct{ *net.TCPConn }

// A closed connection leaves nothing on the host that goes on sending.
func TestConnectionsAreAborted(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	dialed, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	c, err := aborting(wrapped{dialed.(*net.TCPConn)}, nil)
	if err != nil {
		t.Fatal(err)
	}
	agent, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer agent.Close()
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	_ = agent.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := agent.Read(make([]byte, 1)); !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("the other end saw %v, want a reset", err)
	}
}
