package main

import (
	"context"
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
	g := group("sandbox", "Create, use and remove sandboxes")
	g.Aliases = []string{"sandboxes", "sbx"}
	under(g, "life", "Life:", newSandboxCreate(t), newSandboxLs(t), newSandboxGet(t), newSandboxUpdate(t), newSandboxTags(t), newSandboxExtend(t),
		newSandboxWait(t), newSandboxStop(t), newSandboxStart(t), newSandboxRestart(t), newSandboxRm(t))
	under(g, "keep", "Keep and branch:", newSandboxPause(t), newSandboxResume(t), newSnapshot(t), newSandboxFork(t))
	under(g, "work", "Work in one:", newSandboxExec(t), newSandboxShell(t), newSandboxTerminals(t), newSandboxRun(t), newSandboxPs(t),
		newProcess(t), newService(t), newApp(t), newEnv(t), newSandboxForward(t))
	under(g, "files", "Files:", newSandboxCp(t), newFiles(t))
	under(g, "look", "Look:", newSandboxTop(t), newSandboxLogs(t), newSandboxEvents(t), newSandboxUsage(t))
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
			if len(meta) > 0 {
				req.Metadata = plain(meta)
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
	f.DurationVar(&idle, "idle-timeout", 0, "time without use to live (default none)")
	f.StringArrayVarP(&env, "env", "e", nil, "environment variable KEY=VALUE; repeatable")
	f.StringArrayVar(&metadata, "metadata", nil, "KEY=VALUE kept with it; repeatable")
	f.StringSliceVar(&req.Tags, "tag", nil, "tag; repeatable")
	f.StringVar(&req.WorkspaceSlug, "workspace", "", "slug of the workspace, made when there is none")
	f.StringVar(&req.ProjectSlug, "project", "", "slug of the project, made when there is none")
	f.StringVar(&req.ExternalWorkspaceID, "external-workspace", "", "your own id of the customer")
	f.StringVar(&req.ExternalUserID, "external-user", "", "your own id of the end user")
	f.StringVar(&req.ExternalProjectID, "external-project", "", "your own id of the project")
	f.BoolVar(&req.Persistent, "persistent", false, "pause with its files kept instead of destroy when its time is up")
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

func newSandboxGet(t *terminal) *cobra.Command {
	return &cobra.Command{
		Use:   "get SANDBOX",
		Short: "Show one sandbox (by id, slug or name)",
		Args:  args(1, 1),
		RunE: asks(t, func(ctx context.Context, c *client.Client, given []string) (*api.Sandbox, error) {
			return c.Get(ctx, given[0])
		}, func(w io.Writer, sb *api.Sandbox) { describe(w, *sb) }),
	}
}

func describe(w io.Writer, sb api.Sandbox) {
	rows := [][2]string{
		{"id", sb.ID}, {"name", deref(sb.Name)}, {"slug", sb.Slug}, {"state", sb.State}, {"reason", deref(sb.StateReason)},
		{"template", sb.TemplateID}, {"size", size(sb)}, {"boot", boot(sb)},
		{"tags", tags(sb)}, {"workspace", sb.WorkspaceID}, {"project", sb.ProjectID}, {"tenant", sb.TenantID},
		{"created", sb.CreatedAt.Local().Format(time.DateTime)}, {"timeout", (time.Duration(sb.TimeoutSec) * time.Second).String()},
	}
	if sb.TimeoutRemainingMS != nil {
		rows = append(rows, [2]string{"remaining", (time.Duration(*sb.TimeoutRemainingMS) * time.Millisecond).Round(time.Second).String()})
	}
	if sb.Memory != nil {
		rows = append(rows, [2]string{"keeps", map[bool]string{true: "memory and files", false: "files"}[*sb.Memory]})
	}
	rows = append(rows, [2]string{"destroyed", when(sb.DestroyedAt)})
	fields(w, rows)
}

// fields writes names and values, without those that are empty.
func fields(w io.Writer, rows [][2]string) {
	width := 0
	for _, r := range rows {
		width = max(width, len(r[0]))
	}
	for _, r := range rows {
		if r[1] != "" {
			fmt.Fprintf(w, "%-*s %s\n", width, r[0], r[1])
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
			return each(t, ids, func(id string) (*api.DestroyedSandbox, error) { return c.Delete(cmd.Context(), id) })
		},
	}
	c.Flags().BoolVar(&all, "all", false, "destroy all of the tenant's")
	c.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	return c
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

// when is a moment in this machine's time; nil is none.
func when(t *time.Time) string {
	if t == nil || t.IsZero() {
		return ""
	}
	return t.Local().Format(time.DateTime)
}

// brief is the beginning of a text of any length, on one line.
func brief(s string) string {
	const most = 60
	r := []rune(strings.Join(strings.Fields(s), " "))
	if len(r) > most {
		r = append(r[:most-1], '…')
	}
	return shown(string(r))
}

// tags are a sandbox's, with commas.
func tags(sb api.Sandbox) string {
	list, _ := sb.Tags.([]any) // the shape that this client gets
	words := make([]string, 0, len(list))
	for _, tag := range list {
		words = append(words, fmt.Sprint(tag))
	}
	return strings.Join(words, ", ")
}

func deref(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

// nonNil makes JSON print an empty list instead of null.
func nonNil[T any](list []T) []T { return slices.Concat([]T{}, list) }
