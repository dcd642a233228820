package main

import (
	"context"
	"fmt"
	"io"
	"iter"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"silica.dev/silica/api"
	"silica.dev/silica/client"
)

func newSandboxRun(t *terminal) *cobra.Command {
	var req api.ProcessRequest
	var env []string
	c := &cobra.Command{
		Use:     "run [flags] SANDBOX [--] COMMAND [ARGUMENT...]",
		Short:   "Start a command in the background and print its pid",
		Example: `  pid=$(silica sandbox run $id 'python3 -m http.server 3000')` + "\n" + `  silica sandbox process logs -f $id $pid`,
		Args:    args(2, -1),
	}
	c.RunE = func(cmd *cobra.Command, given []string) (err error) {
		if req.Env, err = pairs("-e", env); err != nil {
			return err
		}
		argv, err := commandLine(cmd, given)
		if err != nil {
			return err
		}
		req.Command = shellCommand(argv)
		return asks(t, func(ctx context.Context, c *client.Client, given []string) (*api.Process, error) {
			return c.StartProcess(ctx, given[0], req)
		}, func(w io.Writer, p *api.Process) { fmt.Fprintln(w, p.PID) })(cmd, given)
	}
	f := c.Flags()
	f.SortFlags = false
	f.SetInterspersed(false)
	f.StringVar(&req.Name, "name", "", "name to know it by")
	f.StringVarP(&req.Cwd, "cwd", "w", "", "folder to run in (default the template's)")
	f.StringArrayVarP(&env, "env", "e", nil, "environment variable KEY=VALUE; repeatable")
	return c
}

func newSandboxPs(t *terminal) *cobra.Command {
	var kind string
	c := &cobra.Command{
		Use:   "ps SANDBOX",
		Short: "List background processes, also those that ended lately",
		Args:  args(1, 1),
		RunE: lists(t, []string{"PID", "NAME", "KIND", "STATUS", "AGE", "COMMAND"},
			func(ctx context.Context, c *client.Client, given []string) ([]api.Process, error) {
				return c.Processes(ctx, given[0], kind)
			},
			func(p api.Process) []string {
				return []string{p.PID, p.Name, p.Kind, ended(p), age(p.StartedAt), brief(p.Command)}
			}),
	}
	c.Flags().StringVar(&kind, "kind", "", "process, service, terminal, command or all (default process)")
	return c
}

// ended is a process's status with how it ended.
func ended(p api.Process) string {
	switch {
	case p.Signal != nil && *p.Signal != "":
		return p.Status + " (" + *p.Signal + ")"
	case p.ExitCode != nil:
		return p.Status + " (" + strconv.Itoa(int(*p.ExitCode)) + ")"
	}
	return p.Status
}

func newProcess(t *terminal) *cobra.Command {
	g := group("process", "Follow and steer background processes",
		newProcessGet(t), newProcessLogs(t), newProcessWait(t), newProcessStop(t), newProcessSignal(t), newProcessStdin(t))
	g.Aliases = []string{"proc"}
	return g
}

func newProcessGet(t *terminal) *cobra.Command {
	return &cobra.Command{
		Use:   "get SANDBOX PID",
		Short: "Show one process",
		Args:  args(2, 2),
		RunE: asks(t, func(ctx context.Context, c *client.Client, given []string) (*api.Process, error) {
			return c.Process(ctx, given[0], given[1])
		}, func(w io.Writer, p *api.Process) {
			fields(w, [][2]string{{"pid", p.PID}, {"name", p.Name}, {"kind", p.Kind}, {"status", ended(*p)}, {"command", p.Command},
				{"cwd", p.Cwd}, {"started", p.StartedAt.Local().Format(time.DateTime)}, {"ended", when(p.EndedAt)}})
		}),
	}
}

func newProcessLogs(t *terminal) *cobra.Command {
	var follow bool
	var tail int
	c := &cobra.Command{
		Use:   "logs SANDBOX PID",
		Short: "Print what a process wrote; -f all of it, and what it writes until its end",
		Args:  args(2, 2),
		RunE: talks(func(ctx context.Context, c *client.Client, given []string) error {
			if follow {
				return t.follow(c.ProcessStream(ctx, given[0], given[1], ""))
			}
			l, err := c.ProcessLogs(ctx, given[0], given[1], tail)
			if err != nil {
				return err
			}
			return t.print(l, func(w io.Writer) { fmt.Fprint(w, l.Data) })
		}),
	}
	c.Flags().BoolVarP(&follow, "follow", "f", false, "go on until it ends")
	c.Flags().IntVarP(&tail, "tail", "n", 0, "last lines (default 1000)")
	return c
}

// follow prints a process's output as it comes. A process's exit code is its own
// and not that of who watches.
func (t *terminal) follow(seq iter.Seq2[api.ProcessEvent, error]) error {
	for ev, err := range seq {
		if err != nil {
			return err
		}
		if t.json {
			err = t.line(ev, nil)
		} else {
			switch ev.Type {
			case api.ExecStdout:
				_, err = t.out.Write(ev.Bytes())
			case api.ExecStderr:
				_, err = t.err.Write(ev.Bytes())
			case api.ProcessGap:
				_, err = fmt.Fprintf(t.err, "silica: %d bytes are no longer kept\n", ev.LostBytes)
			}
		}
		if err != nil {
			return fmt.Errorf("write output: %w", err)
		}
	}
	return nil
}

func newProcessWait(t *terminal) *cobra.Command {
	return &cobra.Command{
		Use:   "wait SANDBOX PID",
		Short: "Wait for a process's end; its exit code becomes silica's",
		Args:  args(2, 2),
		RunE: talks(func(ctx context.Context, c *client.Client, given []string) error {
			p, err := c.WaitProcess(ctx, given[0], given[1])
			if err != nil {
				return err
			}
			if t.json {
				err = t.print(p, nil)
			}
			if err != nil || p.ExitCode == nil {
				return err
			}
			return exited(int(*p.ExitCode), false, false)
		}),
	}
}

func newProcessStop(t *terminal) *cobra.Command {
	return &cobra.Command{
		Use: "stop SANDBOX PID...", Aliases: []string{"rm", "kill"},
		Short: "End processes and everything they started",
		Args:  args(2, -1),
		RunE: talks(func(ctx context.Context, c *client.Client, given []string) error {
			return each(t, given[1:], func(pid string) (*api.Process, error) { return c.KillProcess(ctx, given[0], pid) })
		}),
	}
}

func newProcessSignal(t *terminal) *cobra.Command {
	return &cobra.Command{
		Use:     "signal SANDBOX PID SIGNAL",
		Short:   "Send a signal to a process and everything it started",
		Example: "  silica sandbox process signal $id 42 INT",
		Args:    args(3, 3),
		RunE: asks(t, func(ctx context.Context, c *client.Client, given []string) (api.ProcessSignal, error) {
			return api.ProcessSignal{PID: given[1], Signal: given[2]}, c.SignalProcess(ctx, given[0], given[1], given[2])
		}, func(w io.Writer, s api.ProcessSignal) { fmt.Fprintln(w, s.PID) }),
	}
}

func newProcessStdin(t *terminal) *cobra.Command {
	var open bool
	c := &cobra.Command{
		Use:   "stdin SANDBOX PID [TEXT]",
		Short: "Write a line, or else standard input and its end, to a process",
		Args:  args(2, 3),
		RunE: talks(func(ctx context.Context, c *client.Client, given []string) error {
			id, pid := given[0], given[1]
			if len(given) == 3 {
				return c.WriteProcess(ctx, id, pid, []byte(given[2]+"\n"))
			}
			buf := make([]byte, 64<<10)
			for {
				n, err := t.in.Read(buf)
				if n > 0 {
					if err := c.WriteProcess(ctx, id, pid, buf[:n]); err != nil {
						return err
					}
				}
				switch {
				case err == io.EOF && open:
					return nil
				case err == io.EOF:
					return c.CloseProcessInput(ctx, id, pid)
				case err != nil:
					return fmt.Errorf("read standard input: %w", err)
				}
			}
		}),
	}
	c.Flags().BoolVar(&open, "keep-open", false, "do not pass on the end of standard input")
	return c
}
