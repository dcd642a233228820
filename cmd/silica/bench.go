package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"silica.dev/silica/bench"
)

func newBench(t *terminal) *cobra.Command {
	var own, quick bool
	var out string
	var config bench.Config
	c := &cobra.Command{
		Use:   "bench",
		Short: "Measure a server, and other runtimes beside it",
		Long: `Measure the server at SILICA_URL as it is configured: create to first command, exec,
files, destroy, and runc and runsc on this machine beside it. It needs room for 50
sandboxes and no rate limit: silica serve --max-sandboxes 100 --rate-limit 0.

With --own it starts servers of its own instead, one for each configuration, and
also measures memory and whether anything grows. That takes root and about fifteen
minutes. Nothing else should run on the machine meanwhile.`,
		Args: args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := benchTarget(&config, own); err != nil {
				return err
			}
			config.Quick = quick
			if config.Runc == "" {
				config.Runc, _ = exec.LookPath("runc")
			}
			config.Log = func(s string) { fmt.Fprintln(t.err, "bench:", s) }
			report, err := bench.Run(cmd.Context(), config)
			report.Machine.Version = version
			if len(report.Sections) > 0 {
				err = errors.Join(err, t.saveReport(out, report))
			}
			return err
		},
	}
	f := c.Flags()
	f.SortFlags = false
	f.BoolVar(&own, "own", false, "start servers of its own in three configurations (root)")
	f.StringVar(&config.Data, "data", "/var/lib/silica-bench", "data folder of own servers, kept for the next time")
	f.StringSliceVar(&config.Only, "only", nil, "with --own: measure only what has one of these words in its name, as it is logged")
	f.DurationVar(&config.Refill, "refill", 250*time.Millisecond, "pause between two starts, for pools to fill")
	f.BoolVar(&quick, "quick", false, "a tenth of the rounds")
	f.StringVar(&config.Runc, "runc", "", "runc to compare with (default the one installed)")
	f.StringVar(&config.Runsc, "runsc", "", "runsc to compare with (\"make bench\" builds one; default none)")
	f.StringVar(&out, "out", "", "file for the report in Markdown (default standard output)")
	return c
}

// benchTarget says which server is measured.
func benchTarget(c *bench.Config, own bool) (err error) {
	if own {
		if os.Geteuid() != 0 {
			return usageError{errors.New("--own starts servers, which needs root")}
		}
		c.Binary, err = os.Executable()
		return err
	}
	c.URL, c.Key = serverURL(), apiKey(serverURL())
	if onThisMachine(c.URL) {
		// "make run" keeps it; without it the daemon's memory is left out.
		b, _ := os.ReadFile(filepath.Join(filepath.Dir(keyFile()), "silica.pid"))
		c.Pid, _ = strconv.Atoi(strings.TrimSpace(string(b)))
	}
	return nil
}

func (t *terminal) saveReport(out string, r bench.Report) error {
	if t.json {
		return t.print(r, nil)
	}
	if out == "" {
		return r.Markdown(t.out)
	}
	var b bytes.Buffer
	if err := r.Markdown(&b); err != nil {
		return err
	}
	return os.WriteFile(out, b.Bytes(), 0o644)
}
