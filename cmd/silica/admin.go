package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"silica.dev/silica/client"
	"silica.dev/silica/cmd/silica/doctor"
	"silica.dev/silica/cmd/silica/embedded"
)

func newDrain(t *terminal) *cobra.Command {
	var yes bool
	c := &cobra.Command{
		Use:   "drain",
		Short: "Empty the machine: destroy every sandbox of every tenant (needs an admin key)",
		Long: `Empty the machine: destroy every sandbox of every tenant and refuse new ones until
the server is started again. Stopping the server alone leaves sandboxes running.`,
		Args: args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := t.confirm("Destroy every sandbox of every tenant on "+serverURL()+"?", yes); err != nil {
				return err
			}
			c, err := connect()
			if err != nil {
				return err
			}
			defer c.Close()
			done := t.progress(func() string { return "destroying sandboxes" })
			d, err := c.Drain(cmd.Context())
			done()
			if err != nil {
				return err
			}
			if err := t.print(d, func(w io.Writer) { fmt.Fprintf(w, "%d sandboxes destroyed\n", d.Destroyed) }); err != nil {
				return err
			}
			if d.Failed > 0 {
				return exitCode{exitFailure, fmt.Sprintf("%d could not be freed yet; the server's log says why. Run \"silica drain\" again", d.Failed)}
			}
			return nil
		},
	}
	c.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	return c
}

func newWait(t *terminal) *cobra.Command {
	var timeout time.Duration
	c := &cobra.Command{
		Use:   "wait",
		Short: "Wait until the server takes work, showing what it is doing",
		Args:  args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := connect()
			if err != nil {
				return err
			}
			defer c.Close()
			var doing atomic.Value
			doing.Store("waiting for " + serverURL())
			done := t.progress(func() string { return doing.Load().(string) })
			defer done()
			return waitReady(cmd.Context(), c, timeout, func(s string) { doing.Store(s) })
		},
	}
	c.Flags().DurationVar(&timeout, "timeout", 15*time.Minute, "give up after this long")
	return c
}

// waitReady polls until the server is ready; tell hears what it waits for.
func waitReady(ctx context.Context, c *client.Client, timeout time.Duration, tell func(string)) error {
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, fmt.Errorf("not ready after %s", timeout))
	defer cancel()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		err := c.Ready(ctx)
		var refused *client.Error
		switch {
		case err == nil:
			return nil
		case errors.As(err, &refused):
			tell(refused.Message)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return exitCode{exitUnreachable, fmt.Sprintf("%s: %v; last: %v", serverURL(), context.Cause(ctx), err)}
		}
	}
}

func newDoctor(t *terminal) *cobra.Command {
	var config Config
	c := &cobra.Command{
		Use:   "doctor",
		Short: "Name what this machine lacks for \"silica serve\", and how to get it",
		Long: `Name what this machine lacks for "silica serve", what that costs, and how to get
it. Exits with 1 when something is missing that Silica can't do without. Takes the
flags, environment and file of "silica serve".`,
		Args: args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			settings, err := readSettings(os.Getenv("SILICA_CONFIG"))
			if err != nil {
				return usageError{err}
			}
			if err := config.fill(cmd.LocalFlags(), os.Getenv, settings); err != nil {
				return usageError{err}
			}
			findings := doctor.Run(cmd.Context(), doctor.Options{
				Listen: config.Listen, Data: config.Data, NetworkPrefix: config.NetworkPrefix, NetworkName: config.NetworkName,
				Nameservers: config.Nameservers, EgressAllow: config.EgressAllow, BuiltIn: builtIn(),
			})
			if err := t.print(findings, func(w io.Writer) { showFindings(w, findings) }); err != nil {
				return err
			}
			if doctor.Worst(findings) == doctor.Failure {
				return exitCode{code: exitFailure}
			}
			return nil
		},
	}
	config.bind(c.Flags())
	return c
}

func builtIn() error {
	_, agent := embedded.Find(embedded.Agent)
	_, engine := embedded.Find(embedded.Engine)
	return errors.Join(agent, engine)
}

func showFindings(w io.Writer, findings []doctor.Finding) {
	marks := map[doctor.Level]string{doctor.OK: "ok", doctor.Info: "info", doctor.Warning: "WARN", doctor.Failure: "FAIL"}
	for _, f := range findings {
		fmt.Fprintf(w, "%-4s  %-14s %s\n", marks[f.Level], f.Check, f.Found)
		if f.Effect != "" {
			fmt.Fprintf(w, "      %-14s effect: %s\n", "", f.Effect)
		}
		if f.Fix != "" {
			fmt.Fprintf(w, "      %-14s fix: %s\n", "", f.Fix)
		}
	}
}

func newVersion(t *terminal) *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the versions of silica and of what it carries",
		Args:  args(0, 0),
		RunE: func(*cobra.Command, []string) error {
			v := map[string]string{"silica": version, "go": strings.TrimPrefix(runtime.Version(), "go")}
			for name, key := range map[string]string{embedded.Agent: "agent", embedded.Engine: "engine"} {
				v[key] = "not built in"
				if a, err := embedded.Find(name); err == nil {
					v[key] = a.Version
					if v[key] == "" {
						v[key] = a.Digest[:12]
					}
				}
			}
			return t.print(v, func(w io.Writer) {
				for _, key := range []string{"silica", "engine", "agent", "go"} {
					fmt.Fprintf(w, "%-7s %s\n", key, v[key])
				}
			})
		},
	}
}
