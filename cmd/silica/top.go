package main

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"silica.dev/silica/api"
	"silica.dev/silica/client"
)

// asksAtOnce is how many sandboxes top asks about at the same time.
const asksAtOnce = 8

func newSandboxTop(t *terminal) *cobra.Command {
	var every time.Duration
	var once bool
	c := &cobra.Command{
		Use:   "top [SANDBOX...]",
		Short: "Show what running sandboxes take, again and again; one look without a terminal",
		RunE: talks(func(ctx context.Context, c *client.Client, given []string) error {
			if every < time.Second {
				return usageError{fmt.Errorf("--every %s: want at least 1s", every)}
			}
			if once || t.json || !t.outTTY {
				list, err := measureAll(ctx, c, given)
				if err != nil {
					return err
				}
				return t.print(list, func(w io.Writer) { topTable(w, list) })
			}
			return watchTop(ctx, t, c, given, every)
		}),
	}
	c.Flags().DurationVar(&every, "every", 2*time.Second, "time between looks")
	c.Flags().BoolVar(&once, "once", false, "one look")
	return c
}

// measured is one sandbox in top.
type measured struct {
	Name string `json:"name"`
	*api.Metrics
}

// watchTop draws anew until it is interrupted, which is no failure.
func watchTop(ctx context.Context, t *terminal, c *client.Client, given []string, every time.Duration) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		list, err := measureAll(ctx, c, given)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		var screen bytes.Buffer
		fmt.Fprintf(&screen, "\x1b[H\x1b[2J%s  %s  %d sandboxes\n\n", serverURL(), time.Now().Format(time.TimeOnly), len(list))
		topTable(&screen, list)
		if _, err := t.out.Write(screen.Bytes()); err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// measureAll asks about the sandboxes that were named, or all that run, busiest
// first. One that ends meanwhile is left out.
func measureAll(ctx context.Context, c *client.Client, given []string) ([]measured, error) {
	names := map[string]string{}
	asked := given
	if len(asked) == 0 {
		for sb, err := range c.All(ctx, api.SandboxFilter{State: api.StateRunning}) {
			if err != nil {
				return nil, err
			}
			asked = append(asked, sb.ID)
			names[sb.ID] = deref(sb.Name)
		}
	}
	answers := make([]*api.Metrics, len(asked))
	errs := make([]error, len(asked))
	var asking sync.WaitGroup
	free := make(chan struct{}, asksAtOnce)
	for i, id := range asked {
		free <- struct{}{}
		asking.Go(func() {
			defer func() { <-free }()
			answers[i], errs[i] = c.Metrics(ctx, id, "1m")
		})
	}
	asking.Wait()
	list := []measured{}
	for i, m := range answers {
		switch {
		case errs[i] == nil:
			list = append(list, measured{names[m.SandboxID], m})
		case len(given) > 0 || !client.IsNotFound(errs[i]):
			return nil, fmt.Errorf("%s: %w", asked[i], errs[i])
		}
	}
	slices.SortStableFunc(list, func(a, b measured) int {
		return cmp.Or(cmp.Compare(b.CPU.UsedCores, a.CPU.UsedCores), cmp.Compare(b.Memory.UsedBytes, a.Memory.UsedBytes))
	})
	return list, nil
}

func topTable(w io.Writer, list []measured) {
	rows := make([][]string, len(list))
	for i, m := range list {
		rows[i] = []string{m.SandboxID, m.Name, fmt.Sprintf("%.1f%%", m.CPU.UsagePercent), bytesOf(m.Memory.UsedBytes) + " / " + bytesOf(m.Memory.LimitBytes),
			bytesOf(m.Disk.UsedBytes) + " / " + bytesOf(m.Disk.TotalBytes), fmt.Sprint(m.Processes), bytesOf(m.Traffic.IngressBytes), bytesOf(m.Traffic.EgressBytes)}
	}
	table(w, []string{"ID", "NAME", "CPU", "MEMORY", "DISK", "PROCESSES", "IN", "OUT"}, rows)
}
