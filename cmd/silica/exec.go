package main

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"silica.dev/silica/api"
	"silica.dev/silica/client"
)

// exitTimedOut is what timeout(1) says too.
const exitTimedOut = 124

func newSandboxExec(t *terminal) *cobra.Command {
	var req api.ExecRequest
	var env []string
	var timeout time.Duration
	var input, tty bool
	c := &cobra.Command{
		Use:   "exec [flags] SANDBOX [--] COMMAND [ARGUMENT...]",
		Short: "Run a command in a sandbox; its exit code becomes silica's",
		Long: `Run a command in a sandbox. Output appears while it comes, and the exit code
becomes silica's own (124 when the time is up).

One argument alone goes to a shell as it is, so pipes and variables work; several
are passed on exactly. Standard input is passed on with -i, a terminal made with -t.`,
		Example: `  silica sandbox exec $id -- python3 -c 'print(6*7)'
  silica sandbox exec $id 'ls /usr/bin | wc -l'
  silica sandbox exec -w /srv -e DEBUG=1 --timeout 2m $id make test
  silica sandbox exec -i $id 'wc -l' < data.csv
  silica sandbox exec -it $id -- vim notes.txt`,
		Args: args(2, -1),
		RunE: func(cmd *cobra.Command, given []string) error {
			var err error
			if req.Env, err = pairs("-e", env); err != nil {
				return err
			}
			if req.TimeoutSec, err = seconds("--timeout", timeout); err != nil {
				return err
			}
			argv, err := commandLine(cmd, given)
			if err != nil {
				return err
			}
			req.Command = shellCommand(argv)
			c, err := connect()
			if err != nil {
				return err
			}
			defer c.Close()
			switch {
			case t.json && (input || tty):
				return usageError{errors.New("--json has no place for -i and -t")}
			case input || tty:
				return execSocket(cmd.Context(), t, c, given[0], req, input, tty)
			case t.json:
				return execOnce(cmd.Context(), t, c, given[0], req)
			}
			return execLive(cmd.Context(), t, c, given[0], req)
		},
	}
	f := c.Flags()
	f.SortFlags = false
	f.SetInterspersed(false) // flags after the sandbox belong to the command
	f.DurationVar(&timeout, "timeout", 0, "time to run (default 30s, at most 5m; with -i or -t default none)")
	f.BoolVarP(&input, "interactive", "i", false, "pass standard input on")
	f.BoolVarP(&tty, "tty", "t", false, "give the command a terminal")
	f.StringArrayVarP(&env, "env", "e", nil, "environment variable KEY=VALUE; repeatable")
	f.StringVarP(&req.WorkingDir, "cwd", "w", "", "folder to run in (default the template's)")
	return c
}

// commandLine is what follows the sandbox.
func commandLine(cmd *cobra.Command, given []string) ([]string, error) {
	argv := given[1:]
	if len(argv) > 0 && argv[0] == "--" { // a matter of taste
		argv = argv[1:]
	}
	if len(argv) == 0 {
		return nil, usageError{errors.New("a command is missing\nUsage: " + cmd.UseLine())}
	}
	return argv, nil
}

// execSocket runs a command that reads standard input, or has a terminal.
func execSocket(ctx context.Context, t *terminal, c *client.Client, id string, req api.ExecRequest, input, tty bool) error {
	cmd := c.Command(id, req.Command)
	cmd.Dir, cmd.Env, cmd.Timeout = req.WorkingDir, req.Env, time.Duration(req.TimeoutSec)*time.Second
	cmd.Stdout, cmd.Stderr = t.out, t.err
	if input {
		cmd.Stdin = t.in
	}
	k := &keyboard{fd: -1}
	if cmd.TTY = tty; tty && input {
		var err error
		if k, err = t.raw(); err != nil {
			return err
		}
		defer k.restore()
		cmd.Cols, cmd.Rows = k.size()
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if err := cmd.Start(ctx); err != nil {
		return err
	}
	if k.was != nil {
		go k.follow(ctx, cmd.Resize)
	}
	err := cmd.Wait()
	k.restore()
	var exit *client.ExitError
	if errors.As(err, &exit) {
		return exited(exit.Code, req.TimeoutSec > 0 && exit.Code == exitTimedOut, false)
	}
	return timedOut(err)
}

// execLive copies output as it comes.
func execLive(ctx context.Context, t *terminal, c *client.Client, id string, req api.ExecRequest) error {
	for ev, err := range c.ExecStream(ctx, id, req) {
		if err != nil {
			return timedOut(err)
		}
		switch ev.Type {
		case api.ExecStdout:
			_, err = t.out.Write(ev.Bytes())
		case api.ExecStderr:
			_, err = t.err.Write(ev.Bytes())
		case api.ExecExit:
			return exited(ev.ExitCode, ev.TimedOut, ev.OutOfMemory)
		}
		if err != nil {
			return fmt.Errorf("write output: %w", err) // leaving the loop ends the command
		}
	}
	return errors.New("the command's output ended without an exit code")
}

func execOnce(ctx context.Context, t *terminal, c *client.Client, id string, req api.ExecRequest) error {
	r, err := c.Exec(ctx, id, req)
	if err != nil {
		return timedOut(err)
	}
	if err := t.print(r, nil); err != nil {
		return err
	}
	if r.ExitCode != 0 {
		return exitCode{code: r.ExitCode & 0xff}
	}
	return nil
}

// timedOut gives the server's time-out the exit code people expect.
func timedOut(err error) error {
	if !client.HasCode(err, "EXEC_TIMEOUT") {
		return err
	}
	return exitCode{exitTimedOut, "the command ran out of time and was ended; --timeout gives it more (at most 5m)"}
}

// exited turns a command's end into silica's.
func exited(code int, timedOut, outOfMemory bool) error {
	switch {
	case timedOut:
		return exitCode{exitTimedOut, "the command ran out of time and was ended; --timeout gives it more (at most 5m)"}
	case outOfMemory:
		return exitCode{max(code&0xff, 1), "the command was ended because the sandbox ran out of memory; \"silica sandbox create --memory\" gives more"}
	case code != 0:
		return exitCode{code: max(code&0xff, 1)}
	}
	return nil
}

var plainWord = regexp.MustCompile(`^[A-Za-z0-9_@%+=:,./-]+$`)

// shellCommand writes argv so that a shell makes the same argv of it. A single
// argument is a shell command already.
func shellCommand(argv []string) string {
	if len(argv) == 1 {
		return argv[0]
	}
	words := make([]string, len(argv))
	for i, a := range argv {
		if !plainWord.MatchString(a) || i == 0 && strings.Contains(a, "=") {
			a = "'" + strings.ReplaceAll(a, "'", `'\''`) + "'"
		}
		words[i] = a
	}
	return strings.Join(words, " ")
}
