package supervisor

import (
	"context"
	"fmt"
	"net"
	"time"

	"silica.dev/silica/internal/guest"
	"silica.dev/silica/sandbox"
)

// dialWait bounds how long a port inside a sandbox may take to answer.
const dialWait = 10 * time.Second

// Dial connects to a TCP port inside a running sandbox. The returned context is
// as Guest's; the connection is the caller's to close. The agent's own port is
// nobody's: whoever talks to it may do everything inside, and confuse the host
// about it.
func (s *Supervisor) Dial(ctx context.Context, c sandbox.Caller, id string, port uint16) (context.Context, net.Conn, error) {
	bound, _, sb, err := s.Guest(ctx, c, id)
	if err != nil {
		return nil, nil, err
	}
	if port == 0 || port == guest.Port {
		return nil, nil, sandbox.E(sandbox.Invalid, sandbox.CodeInvalidPort, fmt.Sprintf("port %d can't be reached from outside", port))
	}
	dialing, cancel := context.WithTimeout(bound, dialWait)
	defer cancel()
	conn, err := s.driver.Dial(dialing, sb.ID, port)
	switch {
	case err == nil:
		return bound, conn, nil
	case bound.Err() != nil:
		return nil, nil, context.Cause(bound)
	case isKind(err, sandbox.NotFound):
		return nil, nil, errLost.Because(err)
	}
	return nil, nil, sandbox.E(sandbox.Conflict, sandbox.CodePortClosed,
		fmt.Sprintf("nothing answers on port %d of the sandbox: a server there must listen on 0.0.0.0, not on localhost", port)).Because(err)
}
