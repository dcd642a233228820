package server

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"silica.dev/silica/internal/guest"
	"silica.dev/silica/internal/guest/guestpb"
	"silica.dev/silica/internal/server/socket"
	"silica.dev/silica/sandbox"
)

// dialogue is a client's WebSocket and what listens to it.
type dialogue struct {
	w       http.ResponseWriter
	conn    *socket.Conn
	dialect socket.Dialect
	ctx     context.Context // what the client asks for ends with it
	cancel  context.CancelFunc
	leave   func() // tells the server that the socket is closed
	heard   sync.WaitGroup
}

// openDialogue upgrades the connection and echoes which of the subprotocols the
// client offers. Call close in the end.
func (s *Server) openDialogue(w http.ResponseWriter, r *http.Request, ctx context.Context, d socket.Dialect, subprotocols ...string) (*dialogue, error) {
	if secret := offeredKey(r); secret != "" {
		// A browser gives up unless one of its offers is taken.
		subprotocols = append(subprotocols, keyProtocol+secret)
	}
	conn, err := socket.Accept(w, r, socket.Config{
		Subprotocols: subprotocols, WriteIdle: s.cfg.WriteIdle, Heartbeat: s.cfg.Heartbeat,
	})
	if refused := (*socket.Refusal)(nil); errors.As(err, &refused) {
		return nil, sandbox.E(sandbox.Malformed, sandbox.CodeBadRequest, cutText(refused.Text, 256))
	}
	if err != nil {
		return nil, fmt.Errorf("upgrade: %w", err)
	}
	talk := &dialogue{w: w, conn: conn, dialect: d, leave: s.sockets.enter()}
	talk.ctx, talk.cancel = context.WithCancel(ctx)
	return talk, nil
}

// listen passes the client's input on to p. left is called when the client
// leaves.
func (talk *dialogue) listen(p socket.Program, left func()) {
	talk.heard.Go(func() {
		talk.conn.Listen(talk.ctx, talk.dialect, p, func(err error) (code, message string) {
			if errors.Is(err, socket.ErrNotJSON) {
				return sandbox.CodeBadRequest, err.Error()
			}
			e := sandbox.AsError(err)
			return e.Code, e.Message
		}, left)
	})
}

// lastWords is how long the program may take for what the client sent before it
// left.
const lastWords = time.Second

// close ends what is left of it.
func (talk *dialogue) close() {
	talk.conn.Drop()
	timer := time.AfterFunc(lastWords, talk.cancel)
	talk.heard.Wait()
	timer.Stop()
	talk.cancel()
	talk.leave()
}

// output sends a piece; an error means that the client has left.
func (talk *dialogue) output(stream guestpb.ProcessEvent_Stream, p []byte) error {
	to := socket.Stdout
	if stream == guestpb.ProcessEvent_STDERR {
		to = socket.Stderr
	}
	return talk.dialect.Output(talk.conn, to, p)
}

// exit tells how the program ended and closes.
func (talk *dialogue) exit(e *guestpb.ProcessEvent_Exited) {
	if e.TimedOut {
		talk.dialect.Complain(talk.conn, errExecTime.Code, errExecTime.Message)
	}
	if status, reason, err := talk.dialect.Exit(talk.conn, int(e.ExitCode)); err == nil {
		talk.conn.Close(status, reason)
	}
}

// broke ends the dialogue with a program whose exit is not known.
func (talk *dialogue) broke(err error) error {
	if errors.Is(err, errClientLeft) || errors.Is(err, context.Canceled) {
		return nil
	}
	e := sandbox.AsError(err)
	status := socket.Broken
	switch {
	case errors.Is(err, errExecCut) || e.Kind == sandbox.Unavailable:
		status, e = socket.GoingAway, errShutdown
	case e.Kind == sandbox.Unauthenticated || e.Kind == sandbox.Forbidden:
		status = socket.Policy
	}
	talk.dialect.Complain(talk.conn, e.Code, e.Message)
	talk.conn.Close(status, e.Message)
	if rec, ok := talk.w.(*response); ok { // the client has been told: only the log has not
		rec.err = err
	}
	return nil
}

// errShutdown is what clients of sockets are told when the server goes away.
var errShutdown = sandbox.E(sandbox.Unavailable, sandbox.CodeUnavailable, "server is shutting down")

// program is a process in a sandbox as the target of a client's input.
type program struct {
	guest    *guest.Client
	id       uint64 // of one that was spawned; else
	pid      uint32 // which is 0 when it never ran
	terminal bool
}

func (p program) Input(ctx context.Context, b []byte) error {
	return p.guest.SendInput(ctx, &guestpb.SendInputRequest{Id: p.id, Pid: p.pid, Data: b})
}

func (p program) End(ctx context.Context) error {
	return p.guest.SendInput(ctx, &guestpb.SendInputRequest{Id: p.id, Pid: p.pid, Close: true})
}

// maxCells bounds both sides of a terminal.
const maxCells = 4096

func (p program) Resize(ctx context.Context, cols, rows int) error {
	if err := checkSize(int64(cols), int64(rows)); err != nil {
		return err
	}
	if !p.terminal {
		return nil // clients send their size whether or not there is a terminal
	}
	return p.guest.Resize(ctx, &guestpb.ResizeRequest{Id: p.id, Pid: p.pid, Pty: &guestpb.Pty{Cols: uint32(cols), Rows: uint32(rows)}})
}

func checkSize(cols, rows int64) error {
	if cols < 1 || cols > maxCells {
		return sandbox.Field("cols", fmt.Sprintf("must be from 1 to %d", maxCells))
	}
	if rows < 1 || rows > maxCells {
		return sandbox.Field("rows", fmt.Sprintf("must be from 1 to %d", maxCells))
	}
	return nil
}

func (p program) Signal(ctx context.Context, name string) error {
	sig, ok := signalNumber(name)
	if !ok {
		return sandbox.Field("signal", "is no signal")
	}
	return p.guest.Signal(ctx, &guestpb.SignalRequest{Id: p.id, Pid: p.pid, Signal: sig, Tree: true})
}

// signals are those of Linux that clients have a use for.
var signals = map[string]int32{
	"HUP": 1, "INT": 2, "QUIT": 3, "ABRT": 6, "KILL": 9, "USR1": 10, "SEGV": 11, "USR2": 12, "PIPE": 13, "ALRM": 14,
	"TERM": 15, "CHLD": 17, "CONT": 18, "STOP": 19, "TSTP": 20, "TTIN": 21, "TTOU": 22, "WINCH": 28,
}

// signalNumber reads "SIGTERM", "term" or "15".
func signalNumber(name string) (int32, bool) {
	if n, err := strconv.Atoi(name); err == nil {
		return int32(n), n >= 1 && n <= 64
	}
	n, ok := signals[strings.TrimPrefix(strings.ToUpper(name), "SIG")]
	return n, ok
}

// openSockets counts connections that net/http no longer knows of.
type openSockets struct {
	mu   sync.Mutex
	n    int
	none chan struct{} // closed when n falls to 0
}

func (o *openSockets) enter() (leave func()) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.n == 0 {
		o.none = make(chan struct{})
	}
	o.n++
	return func() {
		o.mu.Lock()
		defer o.mu.Unlock()
		if o.n--; o.n == 0 {
			close(o.none)
		}
	}
}

// wait returns when all are closed, or ctx ends.
func (o *openSockets) wait(ctx context.Context) error {
	o.mu.Lock()
	n, none := o.n, o.none
	o.mu.Unlock()
	if n == 0 {
		return nil
	}
	select {
	case <-none:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
