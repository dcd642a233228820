package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/mattn/go-isatty"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"silica.dev/silica/api"
	"silica.dev/silica/client"
)

func newSandboxShell(t *terminal) *cobra.Command {
	var req api.TerminalRequest
	var env []string
	c := &cobra.Command{
		Use:   "shell SANDBOX",
		Short: "Open a terminal in a sandbox; its exit code becomes silica's",
		Long: `Open a terminal in a sandbox. The shell's exit code becomes silica's own.

Ctrl-] twice leaves the terminal running, and so does a lost connection:
--session opens it again. "silica sandbox terminals" lists those that run.`,
		Args: args(1, 1),
	}
	c.RunE = func(cmd *cobra.Command, given []string) (err error) {
		if req.Env, err = pairs("-e", env); err != nil {
			return err
		}
		return talks(func(ctx context.Context, c *client.Client, given []string) error {
			return openShell(ctx, t, c, given[0], req)
		})(cmd, given)
	}
	f := c.Flags()
	f.SortFlags = false
	f.StringVar(&req.SessionID, "session", "", "a terminal that runs, instead of a new one")
	f.StringVar(&req.Shell, "shell", "", "program to run (default the sandbox's shell)")
	f.StringVarP(&req.WorkingDir, "cwd", "w", "", "folder to begin in")
	f.StringArrayVarP(&env, "env", "e", nil, "environment variable KEY=VALUE; repeatable")
	return c
}

func newSandboxTerminals(t *terminal) *cobra.Command {
	return &cobra.Command{
		Use:   "terminals SANDBOX",
		Short: "List the terminals that run in a sandbox",
		Args:  args(1, 1),
		RunE: lists(t, []string{"SESSION", "PID", "SHELL", "CWD", "AGE"},
			func(ctx context.Context, c *client.Client, given []string) ([]api.Terminal, error) {
				return c.Terminals(ctx, given[0])
			},
			func(s api.Terminal) []string { return []string{s.SessionID, s.PID, s.Shell, s.Cwd, age(s.StartedAt)} }),
	}
}

// keyboard is the local terminal, if there is one, in raw mode.
type keyboard struct {
	fd      int
	was     *term.State
	resized chan os.Signal
}

// raw takes over the keyboard; restore gives it back. It does nothing where
// input is no terminal.
func (t *terminal) raw() (k *keyboard, err error) {
	in, ok := t.in.(*os.File)
	if !ok || !isatty.IsTerminal(in.Fd()) {
		return &keyboard{fd: -1}, nil
	}
	k = &keyboard{fd: int(in.Fd()), resized: make(chan os.Signal, 1)}
	if k.was, err = term.MakeRaw(k.fd); err != nil {
		return nil, fmt.Errorf("prepare the terminal: %w", err)
	}
	signal.Notify(k.resized, syscall.SIGWINCH)
	return k, nil
}

func (k *keyboard) restore() {
	if k.was == nil {
		return
	}
	signal.Stop(k.resized)
	_ = term.Restore(k.fd, k.was)
}

// size is that of the local terminal, else 80 by 24.
func (k *keyboard) size() (cols, rows int) {
	if k.fd < 0 {
		return 80, 24
	}
	cols, rows, err := term.GetSize(k.fd)
	if err != nil || cols <= 0 || rows <= 0 {
		return 80, 24
	}
	return cols, rows
}

// follow tells of each change of size, and first of the size as it is, until
// ctx ends.
func (k *keyboard) follow(ctx context.Context, resize func(cols, rows int) error) {
	for {
		_ = resize(k.size())
		select {
		case <-k.resized: // never, when there is no terminal
		case <-ctx.Done():
			return
		}
	}
}

var (
	errDetached = errors.New("detached")
	detachKeys  = []byte{0x1d, 0x1d} // Ctrl-] twice
)

const endOfInput = 0x04 // Ctrl-D

// openShell joins the local terminal with one in a sandbox.
func openShell(ctx context.Context, t *terminal, c *client.Client, id string, req api.TerminalRequest) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	k, err := t.raw()
	if err != nil {
		return err
	}
	defer k.restore()
	req.Cols, req.Rows = k.size()
	var shell *client.Terminal
	if req.SessionID != "" {
		shell, err = c.AttachTerminal(ctx, id, req.SessionID, -1)
	} else {
		shell, err = c.OpenTerminal(ctx, id, req)
	}
	if err != nil {
		return err
	}
	var now atomic.Pointer[client.Terminal] // another one after the connection broke
	now.Store(shell)
	go k.follow(ctx, func(cols, rows int) error { return now.Load().Resize(cols, rows) })
	go func() {
		if typed(t.in, func(p []byte) { _, _ = now.Load().Write(p) }, k.fd < 0) {
			cancel(errDetached)
		}
	}()
	for {
		_, err = io.Copy(t.out, shell)
		if err == nil || ctx.Err() != nil || refused(err) {
			break
		}
		if shell, err = reattach(ctx, shell); err != nil {
			break
		}
		now.Store(shell)
		_ = shell.Resize(k.size())
	}
	_ = shell.Close()
	k.restore()
	if code, ok := shell.ExitCode(); ok {
		return exited(code, false, false)
	}
	if context.Cause(ctx) == errDetached {
		return exitCode{0, fmt.Sprintf("\nleft running; \"silica sandbox shell --session %s %s\" opens it again", shell.Session(), id)}
	}
	return err
}

// typed passes on what is typed until there is no more, or until the keys to
// detach were typed, and tells which. The end of input is told as a keyboard
// does: the other side decides when it is over.
func typed(in io.Reader, send func([]byte), piped bool) (detach bool) {
	buf := make([]byte, 4096)
	last := false // whether the first of the two keys was the last one typed
	for {
		n, err := in.Read(buf)
		p := buf[:n]
		if n > 0 && !piped {
			if bytes.Contains(p, detachKeys) || last && p[0] == detachKeys[0] {
				return true
			}
			last = p[n-1] == detachKeys[0]
		}
		if n > 0 {
			send(p)
		}
		if err != nil {
			send([]byte{endOfInput})
			return false
		}
	}
}

func refused(err error) bool {
	var e *client.Error
	return errors.As(err, &e)
}

// reattach connects again after the connection broke, for half a minute.
func reattach(ctx context.Context, shell *client.Terminal) (*client.Terminal, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, 30*time.Second, errors.New("the connection broke"))
	defer cancel()
	for {
		again, err := shell.Reattach(ctx)
		switch {
		case err == nil:
			return again, nil
		case refused(err):
			return shell, err
		}
		select {
		case <-time.After(500 * time.Millisecond):
		case <-ctx.Done():
			return shell, fmt.Errorf("%w; \"silica sandbox shell --session %s\" opens it again", err, shell.Session())
		}
	}
}
