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

func newSandboxPause(t *terminal) *cobra.Command {
	return newMove(t, "pause", "Put sandboxes to rest with memory and files; they use no memory of the host then",
		func(ctx context.Context, c *client.Client, id string) (*api.Sandbox, error) { return c.Pause(ctx, id) })
}

func newSandboxResume(t *terminal) *cobra.Command {
	return newMove(t, "resume", "Have paused sandboxes go on; the same as start", bringBack)
}

func bringBack(ctx context.Context, c *client.Client, id string) (*api.Sandbox, error) {
	if _, err := c.Start(ctx, id); err != nil {
		return nil, err
	}
	return c.WaitUntilReady(ctx, id)
}

func newSandboxFork(t *terminal) *cobra.Command {
	c := newFork(t, func(name string, _ *api.ForkSandbox) (sandbox string) { return name })
	c.Use, c.Short = "fork SANDBOX", "Copy a running sandbox, processes and all"
	c.Example = `  silica sandbox fork $id --count 4
  copy=$(silica sandbox fork $id -q)`
	return c
}

// newFork copies what the argument names: aim says which sandbox that is, or puts
// the snapshot into the request.
func newFork(t *terminal, aim func(name string, req *api.ForkSandbox) (sandbox string)) *cobra.Command {
	var req api.ForkSandbox
	var timeout time.Duration
	var metadata []string
	var quiet, noWait bool
	c := &cobra.Command{Args: args(1, 1)}
	c.RunE = func(cmd *cobra.Command, given []string) (err error) {
		if req.TimeoutSec, err = seconds("--timeout", timeout); err != nil {
			return err
		}
		m, err := pairs("--metadata", metadata)
		if err != nil {
			return err
		}
		if len(m) > 0 {
			req.Metadata = plain(m)
		}
		return asks(t, func(ctx context.Context, c *client.Client, given []string) ([]api.Sandbox, error) {
			copies, err := c.Fork(ctx, aim(given[0], &req), req)
			if err != nil || noWait {
				return copies, err
			}
			var errs []error
			for i, sb := range copies {
				ready, err := c.WaitUntilReady(ctx, sb.ID)
				if err != nil {
					errs = append(errs, fmt.Errorf("%s was made, but: %w", sb.ID, err))
					continue
				}
				copies[i] = *ready
			}
			return copies, errors.Join(errs...)
		}, func(w io.Writer, copies []api.Sandbox) {
			for _, sb := range copies {
				if quiet {
					fmt.Fprintln(w, sb.ID)
				} else {
					fmt.Fprintln(w, sb.ID+"  "+sb.State+"  "+boot(sb))
				}
			}
		})(cmd, given)
	}
	f := c.Flags()
	f.SortFlags = false
	f.Int64VarP(&req.Count, "count", "n", 1, "copies, up to 16")
	f.StringVar(&req.Name, "name", "", "name to find it by")
	f.DurationVar(&timeout, "timeout", 0, "time to live (default the parent's)")
	f.StringArrayVar(&metadata, "metadata", nil, "KEY=VALUE in place of the parent's; repeatable")
	f.StringVar(&req.ExternalUserID, "external-user", "", "your own id of the end user (default the parent's)")
	f.StringVar(&req.ExternalWorkspaceID, "external-workspace", "", "your own id of the customer (default the parent's)")
	f.StringVar(&req.ExternalProjectID, "external-project", "", "your own id of the project (default the parent's)")
	f.StringVar(&req.IdempotencyKey, "idempotency-key", "", "the same key within 24 hours returns the same copies")
	f.BoolVar(&noWait, "no-wait", false, "do not wait until they are ready")
	f.BoolVarP(&quiet, "quiet", "q", false, "print only ids")
	return c
}

func newSnapshot(t *terminal) *cobra.Command {
	fork := newFork(t, func(name string, req *api.ForkSandbox) (sandbox string) {
		req.SnapshotID = name
		return ""
	})
	fork.Use, fork.Short = "fork SNAPSHOT", "Make sandboxes of a snapshot"
	g := group("snapshot", "Keep sandboxes as they are at a moment; go back, and branch",
		newSnapshotCreate(t), newSnapshotLs(t), newSnapshotGet(t), newSnapshotRestore(t), fork, newSnapshotExport(t), newSnapshotImport(t), newSnapshotRm(t))
	g.Aliases = []string{"snapshots", "checkpoint"}
	return g
}

func newSnapshotCreate(t *terminal) *cobra.Command {
	var req api.CreateSnapshot
	var retention, expires time.Duration
	var quiet bool
	c := &cobra.Command{
		Use:   "create SANDBOX",
		Short: "Keep memory and files of a running sandbox, which goes on",
		Example: `  silica snapshot create $id --comment 'before the upgrade'
  silica snapshot create $id --expires 48h`,
		Args: args(1, 1),
	}
	c.RunE = func(cmd *cobra.Command, given []string) (err error) {
		if req.RetentionSeconds, err = seconds("--retention", retention); err != nil {
			return err
		}
		if req.ExpirationSeconds, err = seconds("--expires", expires); err != nil {
			return err
		}
		return asks(t, func(ctx context.Context, c *client.Client, given []string) (*api.Snapshot, error) {
			snap, err := c.TakeSnapshot(ctx, given[0], req)
			if err == nil && snap.Status == api.SnapshotCreating {
				snap, err = c.WaitForSnapshot(ctx, snap)
			}
			if err == nil && snap.Status != api.SnapshotReady && snap.Status != api.SnapshotRestoring {
				err = fmt.Errorf("%s %s: %s", snap.ID, snap.Status, deref(snap.Error))
			}
			return snap, err
		}, func(w io.Writer, snap *api.Snapshot) {
			if quiet {
				fmt.Fprintln(w, snap.ID)
				return
			}
			fmt.Fprintln(w, snap.ID+"  "+snap.Status+"  "+bytesOf(snap.SizeBytes))
			t.hint("\nGo back to it:   silica snapshot restore %[1]s\nBranch from it:  silica snapshot fork %[1]s", snap.ID)
		})(cmd, given)
	}
	f := c.Flags()
	f.SortFlags = false
	f.StringVarP(&req.Comment, "comment", "m", "", "what it is for")
	f.BoolVar(&req.Keep, "keep", false, "it never expires")
	f.DurationVar(&retention, "retention", 0, "delete it so long after it was last used (default never)")
	f.DurationVar(&expires, "expires", 0, "delete it so long from now (default never)")
	f.StringVar(&req.IdempotencyKey, "idempotency-key", "", "the same key within 24 hours returns the same snapshot")
	f.BoolVarP(&quiet, "quiet", "q", false, "print only the id")
	return c
}

func newSnapshotLs(t *terminal) *cobra.Command {
	var status string
	var quiet bool
	c := &cobra.Command{
		Use: "ls [SANDBOX]", Aliases: []string{"list"},
		Short: "List snapshots, of one sandbox (also a destroyed one) or all",
		Args:  args(0, 1),
	}
	c.RunE = func(cmd *cobra.Command, given []string) error {
		list := func(ctx context.Context, c *client.Client, given []string) ([]api.Snapshot, error) {
			f := api.SnapshotFilter{Status: status}
			if len(given) > 0 {
				f.SandboxID = given[0]
			}
			return c.Snapshots(ctx, f)
		}
		if quiet && !t.json {
			return talks(func(ctx context.Context, c *client.Client, given []string) error {
				found, err := list(ctx, c, given)
				if err != nil {
					return err
				}
				return ids(t, found, func(snap api.Snapshot) string { return snap.ID })
			})(cmd, given)
		}
		return lists(t, []string{"ID", "SANDBOX", "STATUS", "SIZE", "EXPIRES", "AGE", "COMMENT"}, list, func(snap api.Snapshot) []string {
			return []string{snap.ID, snap.SandboxID, snap.Status, bytesOf(snap.SizeBytes), when(snap.ExpiresAt), age(snap.CreatedAt), brief(snap.Comment)}
		})(cmd, given)
	}
	c.Flags().StringVar(&status, "status", "", "only those creating, ready, restoring or failed")
	c.Flags().BoolVarP(&quiet, "quiet", "q", false, "print only ids")
	return c
}

func newSnapshotGet(t *terminal) *cobra.Command {
	return &cobra.Command{
		Use:   "get SNAPSHOT",
		Short: "Show one snapshot",
		Args:  args(1, 1),
		RunE: asks(t, func(ctx context.Context, c *client.Client, given []string) (*api.Snapshot, error) {
			return c.Snapshot(ctx, given[0])
		}, func(w io.Writer, snap *api.Snapshot) {
			holds := "files"
			if snap.Memory {
				holds = "memory and files"
			}
			fields(w, [][2]string{
				{"id", snap.ID}, {"sandbox", snap.SandboxID}, {"status", snap.Status}, {"error", deref(snap.Error)}, {"comment", brief(snap.Comment)},
				{"template", snap.TemplateID}, {"holds", holds}, {"size", bytesOf(snap.SizeBytes)},
				{"created", snap.CreatedAt.Local().Format(time.DateTime)}, {"used", when(snap.LastUsedAt)}, {"expires", when(snap.ExpiresAt)},
			})
		}),
	}
}

func newSnapshotRestore(t *terminal) *cobra.Command {
	return &cobra.Command{
		Use:   "restore SNAPSHOT",
		Short: "Have the sandbox that a snapshot was taken of go on from it; what it is now is lost",
		Args:  args(1, 1),
		RunE: asks(t, func(ctx context.Context, c *client.Client, given []string) (*api.Sandbox, error) {
			sb, err := c.Restore(ctx, given[0])
			if err != nil || sb.Ready {
				return sb, err
			}
			return c.WaitUntilReady(ctx, sb.ID)
		}, func(w io.Writer, sb *api.Sandbox) { fmt.Fprintln(w, sb.ID+"  "+sb.State+"  "+boot(*sb)) }),
	}
}

func newSnapshotRm(t *terminal) *cobra.Command {
	return &cobra.Command{
		Use: "rm SNAPSHOT...", Aliases: []string{"delete"},
		Short: "Delete snapshots",
		Args:  args(1, -1),
		RunE: talks(func(ctx context.Context, c *client.Client, given []string) error {
			return each(t, given, func(id string) (*api.Snapshot, error) { return c.DeleteSnapshot(ctx, id) })
		}),
	}
}
