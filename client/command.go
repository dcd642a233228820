package client

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strconv"
	"time"

	"github.com/coder/websocket"

	"silica.dev/silica/api"
)

// The subprotocol of …/exec/stream: the first byte of a message is its kind.
const (
	commandProtocol = "miosa-exec-v1"
	kindStdin       = 0
	kindStdout      = 1
	kindStderr      = 2
	kindExit        = 3
)

// Command runs a command inside a sandbox and carries its streams, much as
// [os/exec.Cmd] does outside. Fill in the fields, then call Run, or Start and
// Wait. A Command is used once.
type Command struct {
	Name string   // a line for the shell; with Args, a program
	Args []string // without the program itself
	Dir  string
	Env  map[string]string // travels in the URL, which proxies may write down
	// Timeout ends the command; 0 is none. It is counted in whole seconds.
	Timeout time.Duration
	// Stdin is what the command reads; nil is nothing. It is read ahead of the
	// command. A Read that blocks is not waited for when the command ends.
	Stdin io.Reader
	// Stdout and Stderr take what it writes; nil drops it. A slow one slows
	// the command down.
	Stdout, Stderr io.Writer
	// TTY gives the command a terminal of Cols by Rows, 80 by 24 if they are 0.
	// All output then comes to Stdout.
	TTY        bool
	Cols, Rows int

	client  *Client
	sandbox string
	ws      *websocket.Conn
	ctx     context.Context
	cancel  context.CancelCauseFunc
	done    chan struct{} // closed when the command has ended, with err
	err     error
}

// ExitError is a command's end with another code than 0.
type ExitError struct{ Code int }

func (e *ExitError) Error() string { return fmt.Sprintf("exit code %d", e.Code) }

// Command prepares a command for a sandbox: a line for its shell, or with args a
// program.
func (c *Client) Command(id, name string, args ...string) *Command {
	return &Command{Name: name, Args: args, client: c, sandbox: id}
}

// Run starts the command and waits for its end; see Wait.
func (cmd *Command) Run(ctx context.Context) error {
	if err := cmd.Start(ctx); err != nil {
		return err
	}
	return cmd.Wait()
}

// Output runs the command and returns what it wrote to standard output.
func (cmd *Command) Output(ctx context.Context) ([]byte, error) {
	var out bytes.Buffer
	cmd.Stdout = &out
	err := cmd.Run(ctx)
	return out.Bytes(), err
}

// Start starts the command. It ends with ctx.
func (cmd *Command) Start(ctx context.Context) error {
	if cmd.done != nil {
		return errors.New("this command was started already")
	}
	ws, _, err := cmd.client.dial(ctx, api.SandboxPath(cmd.sandbox, "exec", "stream"), cmd.query(), commandProtocol)
	if err != nil {
		return err
	}
	cmd.ws, cmd.done = ws, make(chan struct{})
	cmd.ctx, cmd.cancel = context.WithCancelCause(ctx)
	go func() {
		defer close(cmd.done)
		cmd.err = cmd.receive()
		cmd.cancel(nil)
		_ = ws.CloseNow()
	}()
	go cmd.send()
	return nil
}

func (cmd *Command) query() url.Values {
	q := url.Values{"command": {cmd.Name}, "args": cmd.Args}
	if cmd.Dir != "" {
		q.Set("cwd", cmd.Dir)
	}
	for name, value := range cmd.Env {
		q.Add("env", name+"="+value)
	}
	if cmd.Timeout > 0 {
		q.Set("timeout", strconv.FormatInt(int64((cmd.Timeout+time.Second-1)/time.Second), 10))
	}
	if cmd.TTY {
		q.Set("tty", "true")
		q.Set("cols", strconv.Itoa(cmd.Cols))
		q.Set("rows", strconv.Itoa(cmd.Rows))
	}
	return q
}

// Wait waits for the command's end: nil for the code 0, an *ExitError for
// another, else whatever kept it from being known. It must be called once.
func (cmd *Command) Wait() error {
	if cmd.done == nil {
		return errors.New("this command was not started")
	}
	<-cmd.done
	return cmd.err
}

// receive hands out what the command writes, until its end.
func (cmd *Command) receive() error {
	for {
		_, p, err := cmd.ws.Read(cmd.ctx)
		var bye websocket.CloseError
		switch {
		case cmd.ctx.Err() != nil:
			return context.Cause(cmd.ctx)
		case errors.As(err, &bye) && bye.Reason != "":
			return &Error{Message: bye.Reason}
		case err != nil:
			return fmt.Errorf("the connection broke before the command's end: %w", err)
		case len(p) == 0:
			continue
		}
		switch kind, p := p[0], p[1:]; {
		case kind == kindStdout:
			err = deliver(cmd.Stdout, p)
		case kind == kindStderr:
			err = deliver(cmd.Stderr, p)
		case kind == kindExit && len(p) >= 4:
			if code := int(int32(binary.BigEndian.Uint32(p))); code != 0 {
				return &ExitError{Code: code}
			}
			return nil
		}
		if err != nil {
			return fmt.Errorf("take the command's output: %w", err)
		}
	}
}

func deliver(w io.Writer, p []byte) error {
	if w == nil {
		return nil
	}
	_, err := w.Write(p)
	return err
}

// send passes standard input on, and then its end. If it can't be read, the
// command is ended: it would take the part for the whole.
func (cmd *Command) send() {
	buf := make([]byte, piece)
	buf[0] = kindStdin
	for cmd.Stdin != nil {
		n, err := cmd.Stdin.Read(buf[1:])
		if n > 0 && cmd.ws.Write(cmd.ctx, websocket.MessageBinary, buf[:1+n]) != nil {
			return // receive knows why
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			cmd.cancel(fmt.Errorf("read the command's input: %w", err))
			return
		}
	}
	if cmd.TTY && cmd.Stdin == nil {
		return // a terminal without a keyboard goes on
	}
	_ = cmd.control(map[string]any{"type": "stdin_close"})
}

func (cmd *Command) control(v map[string]any) error {
	if cmd.ws == nil {
		return errors.New("this command was not started")
	}
	raw, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode: %w", err)
	}
	return cmd.ws.Write(cmd.ctx, websocket.MessageText, raw)
}

// Signal sends a signal ("SIGINT", "INT" or "2") to the command and everything
// it started.
func (cmd *Command) Signal(name string) error {
	return cmd.control(map[string]any{"type": "signal", "signal": name})
}

// Resize tells the command the size of its terminal's window.
func (cmd *Command) Resize(cols, rows int) error {
	return cmd.control(map[string]any{"type": "resize", "cols": cols, "rows": rows})
}
