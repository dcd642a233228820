package main

import (
	"context"
	"fmt"
	"io"
	"strconv"

	"github.com/spf13/cobra"

	"silica.dev/silica/api"
	"silica.dev/silica/client"
)

func newService(t *terminal) *cobra.Command {
	type action func(*client.Client, context.Context, string, string) (*api.Service, error)
	act := func(verb, short string, do action) *cobra.Command {
		return &cobra.Command{
			Use:   verb + " SANDBOX SERVICE",
			Short: short,
			Args:  args(2, 2),
			RunE: asks(t, func(ctx context.Context, c *client.Client, given []string) (*api.Service, error) {
				return do(c, ctx, given[0], given[1])
			}, func(w io.Writer, s *api.Service) { fmt.Fprintln(w, s.Name+"  "+s.Status) }),
		}
	}
	return group("service", "Keep commands running in a sandbox",
		newServiceLs(t), newServiceAdd(t),
		act("start", "Start a service that does not run", (*client.Client).StartService),
		act("stop", "End a service until it is started", (*client.Client).StopService),
		act("restart", "End a service and start it anew", (*client.Client).RestartService),
		newServiceLogs(t), newServiceRm(t))
}

func newServiceLs(t *terminal) *cobra.Command {
	return &cobra.Command{
		Use: "ls SANDBOX", Aliases: []string{"list"},
		Short: "List the services of a sandbox",
		Args:  args(1, 1),
		RunE: lists(t, []string{"NAME", "STATUS", "PID", "RESTARTS", "PORT", "RESTART", "AGE", "COMMAND"},
			func(ctx context.Context, c *client.Client, given []string) ([]api.Service, error) {
				return c.Services(ctx, given[0])
			},
			func(s api.Service) []string {
				port, started := "", ""
				if s.Port != nil {
					port = strconv.Itoa(*s.Port)
				}
				if s.StartedAt != nil {
					started = age(*s.StartedAt)
				}
				return []string{s.Name, s.Status, deref(s.PID), strconv.Itoa(s.RestartCount), port, s.Restart, started, brief(s.Command)}
			}),
	}
}

func newServiceAdd(t *terminal) *cobra.Command {
	var req api.ServiceRequest
	var env []string
	c := &cobra.Command{
		Use: "add [flags] SANDBOX NAME [--] COMMAND [ARGUMENT...]", Aliases: []string{"create"},
		Short:   "Define a command that is kept running, and start it",
		Example: "  silica sandbox service add --port 3000 $id web -- npm start",
		Args:    args(3, -1),
	}
	c.RunE = func(cmd *cobra.Command, given []string) (err error) {
		if req.Env, err = pairs("-e", env); err != nil {
			return err
		}
		argv, err := commandLine(cmd, given[1:])
		if err != nil {
			return err
		}
		req.Name, req.Command = given[1], shellCommand(argv)
		return asks(t, func(ctx context.Context, c *client.Client, given []string) (*api.Service, error) {
			return c.CreateService(ctx, given[0], req)
		}, func(w io.Writer, s *api.Service) { fmt.Fprintln(w, s.Name+"  "+s.Status) })(cmd, given)
	}
	f := c.Flags()
	f.SortFlags = false
	f.SetInterspersed(false)
	f.IntVar(&req.Port, "port", 0, "port it listens on")
	f.StringVar(&req.Restart, "restart", "", "always, on-failure or never (default the server's)")
	f.StringVarP(&req.Cwd, "cwd", "w", "", "folder to run in (default the template's)")
	f.StringArrayVarP(&env, "env", "e", nil, "environment variable KEY=VALUE; repeatable")
	return c
}

func newServiceLogs(t *terminal) *cobra.Command {
	var follow bool
	var tail int
	c := &cobra.Command{
		Use:   "logs SANDBOX SERVICE",
		Short: "Print what a service wrote over all its starts; -f goes on",
		Args:  args(2, 2),
		RunE: talks(func(ctx context.Context, c *client.Client, given []string) error {
			if !follow {
				l, err := c.ServiceLogs(ctx, given[0], given[1], tail)
				if err != nil {
					return err
				}
				return t.print(l, func(w io.Writer) { fmt.Fprint(w, l.Data) })
			}
			for l, err := range c.FollowService(ctx, given[0], given[1], "") {
				if err != nil {
					return err
				}
				if err := t.line(l, func(w io.Writer) { fmt.Fprintln(w, l.Message) }); err != nil {
					return err
				}
			}
			return nil
		}),
	}
	c.Flags().BoolVarP(&follow, "follow", "f", false, "go on until the sandbox ends")
	c.Flags().IntVarP(&tail, "tail", "n", 0, "last lines (default 1000)")
	return c
}

func newServiceRm(t *terminal) *cobra.Command {
	return &cobra.Command{
		Use: "rm SANDBOX SERVICE...", Aliases: []string{"delete"},
		Short: "End services and forget them",
		Args:  args(2, -1),
		RunE: talks(func(ctx context.Context, c *client.Client, given []string) error {
			return each(t, given[1:], func(name string) (api.Deleted, error) {
				return deleted(name), c.DeleteService(ctx, given[0], name)
			})
		}),
	}
}
