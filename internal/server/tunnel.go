package server

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"time"

	"silica.dev/silica/internal/server/socket"
	"silica.dev/silica/sandbox"
)

const (
	tunnelProtocol = "miosa-tunnel-v1"
	sshPort        = 22
	// tunnelIdle is how long a tunnel may carry nothing.
	tunnelIdle = time.Hour
	// tunnelPiece is how much is read of a sandbox's connection at once.
	tunnelPiece = 32 << 10
)

var errIdle = sandbox.E(sandbox.Timeout, sandbox.CodeTimeout, "the tunnel carried nothing for an hour")

// tunnel carries one TCP connection into the sandbox.
func (s *Server) tunnel(w http.ResponseWriter, r *http.Request, c sandbox.Caller) error {
	port, err := strconv.ParseUint(param(r, "port"), 10, 16)
	if err != nil || port == 0 {
		if _, err := s.deps.Sandboxes.Get(r.Context(), c, param(r, "id")); err != nil {
			return err
		}
		return sandbox.E(sandbox.Invalid, sandbox.CodeInvalidPort, "the port must be from 1 to 65535")
	}
	return s.tunnelTo(w, r, c, uint16(port))
}

// sshTunnel is the tunnel to the sandbox's own sshd, if it runs one.
func (s *Server) sshTunnel(w http.ResponseWriter, r *http.Request, c sandbox.Caller) error {
	return s.tunnelTo(w, r, c, sshPort)
}

func (s *Server) tunnelTo(w http.ResponseWriter, r *http.Request, c sandbox.Caller, port uint16) error {
	if !socket.Asked(r) {
		return s.noSocket(r, c)
	}
	ctx, conn, err := s.deps.Sandboxes.Dial(r.Context(), c, param(r, "id"), port)
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	defer context.AfterFunc(s.closed, func() { end(errShutdown) })()
	// Reads end with ctx; writes are bounded by the client's patience and end
	// with the connection.
	defer context.AfterFunc(ctx, func() { _ = conn.SetReadDeadline(time.Now()) })()

	talk, err := s.openDialogue(w, r, ctx, socket.Terminal{}, tunnelProtocol)
	if err != nil {
		return err
	}
	defer talk.close()
	idle := time.AfterFunc(tunnelIdle, func() { end(errIdle) })
	defer idle.Stop()
	busy := func() { idle.Reset(tunnelIdle) }
	talk.listen(tunnelEnd{conn, busy}, func() { end(errClientLeft) })
	buf := make([]byte, tunnelPiece)
	for {
		n, err := conn.Read(buf)
		busy()
		switch {
		case n > 0:
			if talk.conn.Binary(buf[:n]) != nil {
				return nil // the client has left
			}
		case err == nil:
		case ctx.Err() != nil:
			return talk.broke(context.Cause(ctx))
		case err == io.EOF:
			talk.conn.Close(socket.Normal, "eof")
			return nil
		default: // reset
			return talk.broke(sandbox.E(sandbox.Conflict, sandbox.CodePortClosed, "the connection inside the sandbox broke off").Because(err))
		}
	}
}

// tunnelEnd is the sandbox's end of a tunnel as the target of a client's input.
type tunnelEnd struct {
	conn net.Conn
	busy func()
}

// Input blocks while the server inside does not read: so does the client, then.
func (t tunnelEnd) Input(ctx context.Context, p []byte) error {
	t.busy()
	stop := context.AfterFunc(ctx, func() { _ = t.conn.SetWriteDeadline(time.Now()) })
	defer stop()
	_, err := t.conn.Write(p)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return context.Cause(ctx)
	}
	return err
}

// End is half a close: the client sends no more, and still reads.
func (t tunnelEnd) End(context.Context) error {
	if c, ok := t.conn.(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	return nil
}

// A tunnel has neither size nor signals.
func (tunnelEnd) Resize(context.Context, int, int) error { return nil }

func (tunnelEnd) Signal(context.Context, string) error { return nil }
