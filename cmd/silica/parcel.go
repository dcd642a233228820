package main

import (
	"context"
	"fmt"
	"io"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"silica.dev/silica/api"
	"silica.dev/silica/client"
)

func newSnapshotExport(t *terminal) *cobra.Command {
	return &cobra.Command{
		Use:   "export SNAPSHOT FILE|-",
		Short: "Put a snapshot into one file, for another machine",
		Example: `  silica snapshot export $snap web.silica
  silica snapshot export $snap - | ssh other silica snapshot import -`,
		Args: args(2, 2),
		RunE: talks(func(ctx context.Context, c *client.Client, given []string) error {
			f, err := c.ExportSnapshot(ctx, given[0])
			if err != nil {
				return err
			}
			defer f.Close()
			count := &counter{Reader: f}
			done := t.progress(func() string { return "exported " + humanize.IBytes(uint64(count.n.Load())) })
			defer done()
			if given[1] == "-" {
				_, err := io.Copy(t.out, count)
				return err
			}
			if err := writeWholeAs(given[1], count, 0o600); err != nil { // the environment is in it
				return fmt.Errorf("%s: %w", given[1], err)
			}
			done()
			if t.json {
				return t.print(map[string]any{"path": given[1], "size": count.n.Load()}, nil)
			}
			return nil
		}),
	}
}

func newSnapshotImport(t *terminal) *cobra.Command {
	var tenant string
	var quiet bool
	c := &cobra.Command{
		Use:   "import FILE|-",
		Short: "Make a snapshot of an exported file; it can be forked (needs an admin key)",
		Example: `  silica snapshot import web.silica
  silica snapshot fork $(silica snapshot import -q web.silica)`,
		Args: args(1, 1),
	}
	c.RunE = asks(t, func(ctx context.Context, c *client.Client, given []string) (*api.Snapshot, error) {
		src, length, err := openLocal(t, given[0])
		if err != nil {
			return nil, err
		}
		defer src.Close()
		count := &counter{Reader: src}
		var body io.Reader = count
		total := ""
		if length >= 0 {
			body = sized{count, int(length)}
			total = " of " + humanize.IBytes(uint64(length))
		}
		done := t.progress(func() string { return "imported " + humanize.IBytes(uint64(count.n.Load())) + total })
		defer done()
		return c.ImportSnapshot(ctx, tenant, body)
	}, func(w io.Writer, snap *api.Snapshot) {
		if quiet {
			fmt.Fprintln(w, snap.ID)
			return
		}
		fmt.Fprintln(w, snap.ID+"  "+snap.Status+"  "+bytesOf(snap.SizeBytes))
		t.hint("\nMake a sandbox of it:  silica snapshot fork %s", snap.ID)
	})
	c.Flags().StringVar(&tenant, "tenant", "", "whose it becomes (default the key's own)")
	c.Flags().BoolVarP(&quiet, "quiet", "q", false, "print only the id")
	return c
}
