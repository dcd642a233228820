package main

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"silica.dev/silica/api"
	"silica.dev/silica/client"
)

func newSandbox(t *terminal) *cobra.Command {
	g := group("sandbox", "Create, use and remove sandboxes",
		newSandboxCreate(t), newSandboxLs(t), newSandboxGet(t), newSandboxRm(t), newSandboxExec(t), newSandboxCp(t))
	g.Aliases = []string{"sandboxes", "sbx"}
	return g
}

func newSandboxCreate(t *terminal) *cobra.Command {
	var req api.CreateSandbox
	var env, metadata []string
	var timeout, idle time.Duration
	var quiet, noWait bool
	c := &cobra.Command{
		Use:   "create [flags]",
		Short: "Create a sandbox and wait until it is ready",
		Example: `  silica sandbox create --timeout 1h -e TOKEN=abc
  id=$(silica sandbox create -q --cpu 2 --memory 4096)`,
		Args: args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			var err error
			if req.Env, err = pairs("-e", env); err != nil {
				return err
			}
			meta, err := pairs("--metadata", metadata)
			if err != nil {
				return err
			}
			for k, v := range meta {
				if req.Metadata == nil {
					req.Metadata = map[string]any{}
				}
				req.Metadata[k] = v
			}
			if req.TimeoutSec, err = seconds("--timeout", timeout); err != nil {
				return err
			}
			if req.IdleTimeoutSec, err = seconds("--idle-timeout", idle); err != nil {
				return err
			}
			sb, err := create(cmd, t, req, !noWait)
			if err != nil {
				return err
			}
			if quiet && !t.json {
				fmt.Fprintln(t.out, sb.ID)
				return nil
			}
			err = t.print(sb, func(w io.Writer) { fmt.Fprintln(w, strings.TrimSpace(sb.ID+"  "+sb.State+"  "+boot(*sb))) })
			t.hint("\nRun something:  silica sandbox exec %[1]s -- python3 -c 'print(6*7)'\nRemove it:      silica sandbox rm %[1]s", sb.ID)
			return err
		},
	}
	f := c.Flags()
	f.SortFlags = false
	f.StringVarP(&req.TemplateID, "template", "t", "", "template (default the server's)")
	f.StringVar(&req.Name, "name", "", "name to find it by")
	f.StringVar(&req.Size, "size", "", "xs, small, medium, large or xl, instead of the next three")
	f.Int64Var(&req.CPUCount, "cpu", 0, "cores (default 1)")
	f.Int64Var(&req.MemoryMB, "memory", 0, "MiB of memory (default 1024)")
	f.Int64Var(&req.DiskMB, "disk", 0, "MiB of disk (default 3072)")
	f.DurationVar(&timeout, "timeout", 0, "time to live, like 90s or 2h (default 5m)")
	f.DurationVar(&idle, "idle-timeout", 0, "time without use to live (kept; this version does not act on it yet)")
	f.StringArrayVarP(&env, "env", "e", nil, "environment variable KEY=VALUE; repeatable")
	f.StringArrayVar(&metadata, "metadata", nil, "KEY=VALUE kept with it; repeatable")
	f.StringSliceVar(&req.Tags, "tag", nil, "tag; repeatable")
	f.StringVar(&req.WorkspaceSlug, "workspace", "", "slug of the workspace, made when there is none")
	f.StringVar(&req.ProjectSlug, "project", "", "slug of the project, made when there is none")
	f.StringVar(&req.ExternalWorkspaceID, "external-workspace", "", "your own id of the customer")
	f.StringVar(&req.ExternalUserID, "external-user", "", "your own id of the end user")
	f.StringVar(&req.ExternalProjectID, "external-project", "", "your own id of the project")
	f.BoolVar(&req.Persistent, "persistent", false, "pause instead of destroy when its time is up (kept; there is no pause yet, it is destroyed)")
	f.BoolVar(&req.AlwaysOn, "always-on", false, "no time to live")
	f.StringVar(&req.IdempotencyKey, "idempotency-key", "", "the same key within 24 hours returns the same sandbox")
	f.BoolVar(&noWait, "no-wait", false, "do not wait until it is ready")
	f.BoolVarP(&quiet, "quiet", "q", false, "print only the id")
	return c
}

// create makes a sandbox and, when asked, waits until it is ready.
func create(cmd *cobra.Command, t *terminal, req api.CreateSandbox, wait bool) (*api.Sandbox, error) {
	c, err := connect()
	if err != nil {
		return nil, err
	}
	defer c.Close()
	done := t.progress(func() string { return "starting a sandbox" })
	defer done()
	sb, err := c.Create(cmd.Context(), req)
	if err != nil || !wait || sb.Ready {
		return sb, err
	}
	ready, err := c.WaitUntilReady(cmd.Context(), sb.ID)
	if err != nil {
		done()
		return nil, fmt.Errorf("%s was created, but: %w", sb.ID, err)
	}
	return ready, nil
}

func newSandboxLs(t *terminal) *cobra.Command {
	var f api.SandboxFilter
	var all, quiet bool
	c := &cobra.Command{
		Use: "ls [flags]", Aliases: []string{"list"},
		Short: "List sandboxes",
		Args:  args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := connect()
			if err != nil {
				return err
			}
			defer c.Close()
			list, err := c.List(cmd.Context(), f)
			if err != nil {
				return err
			}
			if all && f.State == "" {
				f.State = api.StateDestroyed
				gone, err := c.List(cmd.Context(), f)
				if err != nil {
					return err
				}
				list = append(list, gone...)
			}
			if quiet && !t.json {
				for _, sb := range list {
					fmt.Fprintln(t.out, sb.ID)
				}
				return nil
			}
			return t.print(nonNil(list), func(w io.Writer) {
				rows := make([][]string, len(list))
				for i, sb := range list {
					rows[i] = []string{sb.ID, deref(sb.Name), sb.State, sb.TemplateID, size(sb), boot(sb), age(sb.CreatedAt)}
				}
				table(w, []string{"ID", "NAME", "STATE", "TEMPLATE", "SIZE", "BOOT", "AGE"}, rows)
				if len(list) == 0 {
					t.hint("\nNone yet. \"silica sandbox create\" makes one.")
				}
			})
		},
	}
	fl := c.Flags()
	fl.SortFlags = false
	fl.BoolVarP(&all, "all", "a", false, "also those destroyed")
	fl.StringVar(&f.State, "state", "", "only those provisioning, running, paused, destroyed or error")
	fl.StringVar(&f.WorkspaceID, "workspace-id", "", "only those of this workspace")
	fl.StringVar(&f.ProjectID, "project-id", "", "only those of this project")
	fl.StringVar(&f.ExternalWorkspaceID, "external-workspace", "", "only those of this customer of yours")
	fl.StringVar(&f.ExternalUserID, "external-user", "", "only those of this end user of yours")
	fl.StringVar(&f.ExternalProjectID, "external-project", "", "only those of this project of yours")
	fl.BoolVarP(&quiet, "quiet", "q", false, "print only ids")
	return c
}

func newSandboxGet(t *terminal) *cobra.Command {
	return &cobra.Command{
		Use:   "get SANDBOX",
		Short: "Show one sandbox (by id, slug or name)",
		Args:  args(1, 1),
		RunE: func(cmd *cobra.Command, given []string) error {
			c, err := connect()
			if err != nil {
				return err
			}
			defer c.Close()
			sb, err := c.Get(cmd.Context(), given[0])
			if err != nil {
				return err
			}
			return t.print(sb, func(w io.Writer) { describe(w, *sb) })
		},
	}
}

func describe(w io.Writer, sb api.Sandbox) {
	rows := [][2]string{
		{"id", sb.ID}, {"name", deref(sb.Name)}, {"slug", sb.Slug}, {"state", sb.State}, {"reason", deref(sb.StateReason)},
		{"template", sb.TemplateID}, {"size", size(sb)}, {"boot", boot(sb)},
		{"workspace", sb.WorkspaceID}, {"project", sb.ProjectID}, {"tenant", sb.TenantID},
		{"created", sb.CreatedAt.Local().Format(time.DateTime)}, {"timeout", (time.Duration(sb.TimeoutSec) * time.Second).String()},
	}
	if sb.TimeoutRemainingMS != nil {
		rows = append(rows, [2]string{"remaining", (time.Duration(*sb.TimeoutRemainingMS) * time.Millisecond).Round(time.Second).String()})
	}
	if sb.DestroyedAt != nil {
		rows = append(rows, [2]string{"destroyed", sb.DestroyedAt.Local().Format(time.DateTime)})
	}
	for _, r := range rows {
		if r[1] != "" {
			fmt.Fprintf(w, "%-10s %s\n", r[0], r[1])
		}
	}
}

func newSandboxRm(t *terminal) *cobra.Command {
	var all, yes bool
	c := &cobra.Command{
		Use: "rm SANDBOX...", Aliases: []string{"delete"},
		Short: "Destroy sandboxes; one that is destroyed already counts as success",
		Args:  args(0, -1),
		RunE: func(cmd *cobra.Command, ids []string) error {
			if all == (len(ids) > 0) {
				return usageError{errors.New("name the sandboxes to destroy, or give --all")}
			}
			c, err := connect()
			if err != nil {
				return err
			}
			defer c.Close()
			if all {
				list, err := c.List(cmd.Context(), api.SandboxFilter{})
				if err != nil {
					return err
				}
				for _, sb := range list {
					ids = append(ids, sb.ID)
				}
				if err := t.confirm(fmt.Sprintf("Destroy all %d sandboxes of this tenant?", len(ids)), yes || len(ids) == 0); err != nil {
					return err
				}
			}
			return remove(cmd, t, c, ids)
		},
	}
	c.Flags().BoolVar(&all, "all", false, "destroy all of the tenant's")
	c.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	return c
}

// remove destroys each of ids, going on after a failure.
func remove(cmd *cobra.Command, t *terminal, c *client.Client, ids []string) error {
	gone := []api.DestroyedSandbox{}
	var errs []error
	for _, id := range ids {
		d, err := c.Delete(cmd.Context(), id)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", id, err))
			continue
		}
		gone = append(gone, *d)
		if !t.json {
			fmt.Fprintln(t.out, d.ID)
		}
	}
	if t.json {
		if err := t.print(gone, nil); err != nil {
			return err
		}
	}
	return errors.Join(errs...)
}

// pairs splits KEY=VALUE arguments of a flag.
func pairs(flag string, list []string) (map[string]string, error) {
	if len(list) == 0 {
		return nil, nil
	}
	m := make(map[string]string, len(list))
	for _, item := range list {
		k, v, ok := strings.Cut(item, "=")
		if !ok || k == "" {
			return nil, usageError{fmt.Errorf("%s %q: want KEY=VALUE", flag, item)}
		}
		m[k] = v
	}
	return m, nil
}

// seconds converts a duration for the wire, which has whole seconds only.
func seconds(flag string, d time.Duration) (int64, error) {
	if d < 0 || d%time.Second != 0 {
		return 0, usageError{fmt.Errorf("%s %s: want whole seconds, not negative", flag, d)}
	}
	return int64(d / time.Second), nil
}

func size(sb api.Sandbox) string {
	return fmt.Sprintf("%d cpu, %d MiB", sb.CPUCount, sb.MemoryMB)
}

func boot(sb api.Sandbox) string {
	if sb.BootPath == nil || sb.BootMS == nil {
		return ""
	}
	return strconv.FormatInt(*sb.BootMS, 10) + " ms (" + *sb.BootPath + ")"
}

// age is how long ago t was, in one unit.
func age(t time.Time) string {
	switch d := time.Since(t); {
	case d < time.Minute:
		return fmt.Sprintf("%ds", max(0, int(d.Seconds())))
	case d < time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", int(d.Hours()))
	default:
		return fmt.Sprintf("%dd", int(d.Hours())/24)
	}
}

func deref(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

// nonNil makes JSON print an empty list instead of null.
func nonNil[T any](list []T) []T { return slices.Concat([]T{}, list) }
