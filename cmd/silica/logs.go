package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"silica.dev/silica/api"
	"silica.dev/silica/client"
)

func newSandboxLogs(t *terminal) *cobra.Command {
	var follow bool
	var tail int
	c := &cobra.Command{
		Use:   "logs SANDBOX",
		Short: "Print what befell a sandbox; -f goes on until its end",
		Args:  args(1, 1),
		RunE: talks(func(ctx context.Context, c *client.Client, given []string) error {
			if !follow {
				l, err := c.Logs(ctx, given[0], tail)
				if err != nil {
					return err
				}
				return t.print(l, func(w io.Writer) {
					for _, line := range l.Entries {
						logLine(w, line)
					}
				})
			}
			for line, err := range c.FollowLogs(ctx, given[0], tail, "") {
				if err != nil {
					return err
				}
				if err := t.line(line, func(w io.Writer) { logLine(w, line) }); err != nil {
					return err
				}
			}
			return nil
		}),
	}
	c.Flags().BoolVarP(&follow, "follow", "f", false, "go on until it ends")
	c.Flags().IntVarP(&tail, "tail", "n", 0, "last lines (default 200)")
	return c
}

func logLine(w io.Writer, l api.LogLine) {
	fmt.Fprintf(w, "%s  %-5s  %s\n", l.Timestamp.Local().Format(time.DateTime), l.Level, shown(l.Line))
}

func newSandboxUsage(t *terminal) *cobra.Command {
	return &cobra.Command{
		Use:   "usage SANDBOX",
		Short: "Tell what a sandbox has used",
		Args:  args(1, 1),
		RunE: asks(t, func(ctx context.Context, c *client.Client, given []string) (*api.Usage, error) {
			return c.Usage(ctx, given[0])
		}, func(w io.Writer, u *api.Usage) {
			fields(w, [][2]string{{"state", u.State}, {"runtime", span(u.RuntimeSec)}, {"cpu", (time.Duration(u.ActiveCPUMS) * time.Millisecond).String()},
				{"received", bytesOf(u.NetworkIngressBytes)}, {"sent", bytesOf(u.NetworkEgressBytes)},
				{"cost", fmt.Sprintf("%.2f credits", float64(u.EstimatedCostCents)/100)}})
		}),
	}
}
