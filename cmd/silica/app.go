package main

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"silica.dev/silica/api"
	"silica.dev/silica/client"
)

func newApp(t *terminal) *cobra.Command {
	return group("app", "Run what a sandbox's template has to run", newAppStart(t), newAppStatus(t), newAppLogs(t))
}

func newAppStart(t *terminal) *cobra.Command {
	var req api.StartApp
	c := &cobra.Command{
		Use:   "start [flags] SANDBOX",
		Short: "Install and start the app in the background",
		Long: `Install and start the app in the background.

One that runs already is left alone, unless its commands are others or --restart
is given. The command waits until the app runs, however long its installation takes.`,
		Example: "  silica sandbox app start --install $id",
		Args:    args(1, 1),
		RunE: asks(t, func(ctx context.Context, c *client.Client, given []string) (*api.App, error) {
			for {
				a, err := c.StartApp(ctx, given[0], req)
				if err != nil || a.Status != api.AppInstalling {
					return a, err
				}
				req.Restart = false // that has happened
			}
		}, func(w io.Writer, a *api.App) {
			line := a.Status
			if a.AlreadyRuns {
				line = "runs already"
			}
			if a.PreviewPort != nil {
				line += fmt.Sprintf(", port %d", *a.PreviewPort)
			}
			fmt.Fprintf(w, "%s\nlog: %s\n", line, a.LogsPath)
		}),
	}
	f := c.Flags()
	f.SortFlags = false
	f.BoolVar(&req.Install, "install", false, "run the template's install command first")
	f.StringVar(&req.InstallCommand, "install-command", "", "run this first instead")
	f.StringVar(&req.StartCommand, "start-command", "", "start this instead of the template's")
	f.IntVar(&req.Port, "port", 0, "port it is to listen on, told to it as PORT")
	f.StringVarP(&req.Workdir, "cwd", "w", "", "folder to run in (default the template's)")
	f.BoolVar(&req.Restart, "restart", false, "end the one that runs first")
	return c
}

func newAppStatus(t *terminal) *cobra.Command {
	return &cobra.Command{
		Use: "status SANDBOX", Aliases: []string{"artifacts"},
		Short: "Tell what the app is doing, and where its results are",
		Args:  args(1, 1),
		RunE: asks(t, func(ctx context.Context, c *client.Client, given []string) (*api.Artifacts, error) {
			return c.Artifacts(ctx, given[0])
		}, func(w io.Writer, a *api.Artifacts) {
			fmt.Fprintf(w, "status:    %s\n", a.Lifecycle.Status)
			if a.Lifecycle.StartCommand != nil {
				fmt.Fprintf(w, "command:   %s\n", brief(*a.Lifecycle.StartCommand))
			}
			if a.Lifecycle.ExitCode != nil {
				fmt.Fprintf(w, "exit code: %d\n", *a.Lifecycle.ExitCode)
			}
			if a.Preview.Port != nil {
				fmt.Fprintf(w, "port:      %d\n", *a.Preview.Port)
			}
			fmt.Fprintf(w, "folder:    %s\nartifacts: %s\nlog:       %s\n", a.Workdir, strings.Join(a.ArtifactPaths, " "), a.LogsPath)
		}),
	}
}

func newAppLogs(t *terminal) *cobra.Command {
	return &cobra.Command{
		Use:   "logs SANDBOX",
		Short: "Print what the app wrote",
		Args:  args(1, 1),
		RunE: talks(func(ctx context.Context, c *client.Client, given []string) error {
			a, err := c.Artifacts(ctx, given[0])
			if err != nil {
				return err
			}
			f, err := c.Download(ctx, given[0], a.LogsPath)
			if err != nil {
				return err
			}
			defer f.Close()
			_, err = io.Copy(t.out, f)
			return err
		}),
	}
}
