package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"silica.dev/silica/api"
	"silica.dev/silica/client"
)

func newSandboxUpdate(t *terminal) *cobra.Command {
	var name, slug string
	var tags, metadata []string
	var timeout, idle time.Duration
	var alwaysOn bool
	c := &cobra.Command{
		Use:   "update SANDBOX",
		Short: "Change name, limits, tags and metadata; what is not named stays",
		Example: `  silica sandbox update $id --name builder --idle-timeout 10m
  silica sandbox update $id --tag '' --metadata team=red`,
		Args: args(1, 1),
	}
	c.RunE = func(cmd *cobra.Command, given []string) error {
		var req api.UpdateSandbox
		changed := cmd.Flags().Changed
		if changed("name") {
			req.Name = &name
		}
		if changed("slug") {
			req.Slug = &slug
		}
		if changed("always-on") {
			req.AlwaysOn = &alwaysOn
		}
		if changed("tag") {
			tags = withoutEmpty(tags)
			req.Tags = &tags
		}
		if changed("metadata") {
			m, err := pairs("--metadata", withoutEmpty(metadata))
			if err != nil {
				return err
			}
			req.Metadata = plain(m)
		}
		for flag, into := range map[string]**int64{"timeout": &req.TimeoutSec, "idle-timeout": &req.IdleTimeoutSec} {
			if !changed(flag) {
				continue
			}
			d, _ := cmd.Flags().GetDuration(flag)
			n, err := seconds("--"+flag, d)
			if err != nil {
				return err
			}
			*into = &n
		}
		if req.Name == nil && req.Slug == nil && req.AlwaysOn == nil && req.Tags == nil && req.Metadata == nil && req.TimeoutSec == nil && req.IdleTimeoutSec == nil {
			return usageError{errors.New("say what to change; \"" + cmd.CommandPath() + " --help\" lists what can be")}
		}
		return asks(t, func(ctx context.Context, c *client.Client, given []string) (*api.Sandbox, error) {
			return c.Update(ctx, given[0], req)
		}, func(w io.Writer, sb *api.Sandbox) { describe(w, *sb) })(cmd, given)
	}
	f := c.Flags()
	f.SortFlags = false
	f.StringVar(&name, "name", "", "name to find it by; empty for none")
	f.StringVar(&slug, "slug", "", "short name")
	f.DurationVar(&timeout, "timeout", 0, "time to live; 0 is the server's default")
	f.DurationVar(&idle, "idle-timeout", 0, "time without use to live; 0 is none")
	f.BoolVar(&alwaysOn, "always-on", false, "no time to live (--always-on=false: again one)")
	f.StringSliceVar(&tags, "tag", nil, "the tags from now on; repeatable, empty for none")
	f.StringArrayVar(&metadata, "metadata", nil, "KEY=VALUE, all there is from now on; repeatable, empty for none")
	return c
}

func newSandboxTags(t *terminal) *cobra.Command {
	return &cobra.Command{
		Use:   "tags SANDBOX [TAG...]",
		Short: "Replace the tags of a sandbox; without any, take them away",
		Args:  args(1, -1),
		RunE: asks(t, func(ctx context.Context, c *client.Client, given []string) (*api.Sandbox, error) {
			return c.SetTags(ctx, given[0], given[1:]...)
		}, func(w io.Writer, sb *api.Sandbox) { describe(w, *sb) }),
	}
}

func newSandboxExtend(t *terminal) *cobra.Command {
	var timeout time.Duration
	c := &cobra.Command{
		Use:   "extend SANDBOX",
		Short: "Count the time to live anew from now",
		Args:  args(1, 1),
	}
	c.RunE = func(cmd *cobra.Command, given []string) error {
		n, err := seconds("--timeout", timeout)
		if err != nil {
			return err
		}
		return asks(t, func(ctx context.Context, c *client.Client, given []string) (*api.Sandbox, error) {
			return c.Extend(ctx, given[0], n)
		}, func(w io.Writer, sb *api.Sandbox) {
			left := "no limit"
			if sb.TimeoutRemainingMS != nil {
				left = (time.Duration(*sb.TimeoutRemainingMS) * time.Millisecond).Round(time.Second).String()
			}
			fmt.Fprintln(w, sb.ID+"  "+left)
		})(cmd, given)
	}
	c.Flags().DurationVar(&timeout, "timeout", 0, "and make it this long (default as it is)")
	return c
}

// newSandboxStop and its siblings take several sandboxes, and wait where there
// is something to wait for.
func newSandboxStop(t *terminal) *cobra.Command {
	return newMove(t, "stop", "Pause persistent sandboxes with their files kept; destroy others",
		func(ctx context.Context, c *client.Client, id string) (*api.Sandbox, error) { return c.Stop(ctx, id) })
}

func newSandboxStart(t *terminal) *cobra.Command {
	return newMove(t, "start", "Bring paused sandboxes back: from memory, or booted with their files", bringBack)
}

func newSandboxRestart(t *terminal) *cobra.Command {
	return newMove(t, "restart", "Stop sandboxes and boot them again with their files",
		func(ctx context.Context, c *client.Client, id string) (*api.Sandbox, error) {
			if _, err := c.Restart(ctx, id); err != nil {
				return nil, err
			}
			return c.WaitUntilReady(ctx, id)
		})
}

func newMove(t *terminal, verb, short string, move func(context.Context, *client.Client, string) (*api.Sandbox, error)) *cobra.Command {
	return &cobra.Command{
		Use:   verb + " SANDBOX...",
		Short: short,
		Args:  args(1, -1),
		RunE: talks(func(ctx context.Context, c *client.Client, given []string) error {
			return each(t, given, func(id string) (*api.Sandbox, error) { return move(ctx, c, id) })
		}),
	}
}

func newSandboxWait(t *terminal) *cobra.Command {
	var timeout time.Duration
	c := &cobra.Command{
		Use:   "wait SANDBOX...",
		Short: "Wait until sandboxes are ready",
		Args:  args(1, -1),
		RunE: talks(func(ctx context.Context, c *client.Client, given []string) error {
			ctx, cancel := context.WithTimeoutCause(ctx, timeout, fmt.Errorf("not ready after %s", timeout))
			defer cancel()
			return each(t, given, func(id string) (*api.Sandbox, error) { return c.WaitUntilReady(ctx, id) })
		}),
	}
	c.Flags().DurationVar(&timeout, "timeout", 5*time.Minute, "give up after this long")
	return c
}

func withoutEmpty(list []string) []string {
	kept := []string{}
	for _, s := range list {
		if s != "" {
			kept = append(kept, s)
		}
	}
	return kept
}

// plain makes metadata of texts; never nil.
func plain(m map[string]string) map[string]any {
	out := make(map[string]any, len(m))
	for k, v := range m {
		out[k] = v
	}
	return out
}
