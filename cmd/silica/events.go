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

func newSandboxEvents(t *terminal) *cobra.Command {
	return &cobra.Command{
		Use:   "events SANDBOX",
		Short: "Print what happens to a sandbox, until its end",
		Args:  args(1, 1),
		RunE: talks(func(ctx context.Context, c *client.Client, given []string) error {
			for ev, err := range c.Events(ctx, given[0], "") {
				if err != nil {
					return err
				}
				if err := t.line(ev, func(w io.Writer) { fmt.Fprintln(w, eventText(ev)) }); err != nil {
					return err
				}
			}
			return nil
		}),
	}
}

func eventText(ev api.Event) string {
	text := ev.Timestamp.Local().Format(time.TimeOnly) + "  " + ev.Type
	for _, part := range []string{ev.State, ev.Reason, ev.Code, ev.Message, brief(ev.Data)} {
		if part != "" {
			text += "  " + part
		}
	}
	return text
}
