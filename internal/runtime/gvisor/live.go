package gvisor

import (
	"context"
	"errors"
	"net"
	"strconv"
	"sync"
	"time"

	"silica.dev/silica/internal/runtime"
	"silica.dev/silica/internal/runtime/gvisor/wire"
	"silica.dev/silica/sandbox"
)

// live is what the daemon knows of a sandbox that it has met: where it is, and
// that it has not ended. A dead sandbox sends no reset, so its connections are
// closed from here.
type live struct {
	id      sandbox.ID
	engine  *engine
	address string
	gone    chan struct{} // closed with the end; exit is set then

	mu    sync.Mutex
	ended bool
	exit  runtime.Exit
	conns map[*guestConn]struct{}
}

// follow waits for the end of the sandbox, across restarts of its engine, until
// ctx ends.
func (l *live) follow(ctx context.Context, log func(error)) {
	for pause := 100 * time.Millisecond; ; pause = min(2*pause, 5*time.Second) {
		var exit runtime.Exit
		err := l.engine.call(ctx, wire.PathWait, wire.IDRequest{ID: l.id}, &exit, true)
		var e *sandbox.Error
		switch {
		case err == nil:
			l.end(exit)
			return
		case errors.As(err, &e) && e.Kind == sandbox.NotFound:
			l.end(runtime.Exit{Reason: "the sandbox is gone"})
			return
		case ctx.Err() != nil:
			return
		}
		log(err)
		select {
		case <-l.gone:
			return
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}

// end closes every connection and lets waiters go. The first exit counts.
func (l *live) end(exit runtime.Exit) {
	l.mu.Lock()
	if l.ended {
		l.mu.Unlock()
		return
	}
	l.ended, l.exit = true, exit
	conns := l.conns
	l.conns = nil
	l.mu.Unlock()
	close(l.gone)
	for c := range conns {
		_ = c.SetLinger(0) // nobody is there to hear more, and the next one there must not
		c.TCPConn.Close()
	}
}

// dial connects to a port inside, and gives up when the sandbox ends.
func (l *live) dial(ctx context.Context, port uint16) (net.Conn, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	done := make(chan struct{})
	defer close(done)
	go func() {
		select {
		case <-l.gone:
			cancel()
		case <-done:
		}
	}()
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp4", net.JoinHostPort(l.address, strconv.Itoa(int(port))))
	if err != nil {
		return nil, err
	}
	g := &guestConn{TCPConn: c.(*net.TCPConn), live: l}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended {
		c.Close()
		return nil, net.ErrClosed
	}
	l.conns[g] = struct{}{}
	return g, nil
}

// guestConn is a connection into a sandbox. It stays a TCP connection for all
// who copy bytes, so that these may never enter this process.
type guestConn struct {
	*net.TCPConn
	live *live
}

func (c *guestConn) Close() error {
	c.live.mu.Lock()
	delete(c.live.conns, c)
	c.live.mu.Unlock()
	return c.TCPConn.Close()
}
