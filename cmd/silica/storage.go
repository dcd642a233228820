package main

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"silica.dev/silica/api"
	"silica.dev/silica/client"
)

func newStorage(t *terminal) *cobra.Command {
	return group("storage", "See who holds what on the server's disk (needs an admin key)", newStorageLs(t), newStorageGC(t))
}

func newStorageLs(t *terminal) *cobra.Command {
	return &cobra.Command{
		Use: "ls", Aliases: []string{"list"},
		Short: "List artifacts with all who hold them, the largest first",
		Args:  args(0, 0),
		RunE: lists(t, []string{"SIZE", "AGE", "ARTIFACT", "HELD BY"}, func(ctx context.Context, c *client.Client, _ []string) ([]api.StoredArtifact, error) {
			return c.Storage(ctx)
		}, func(a api.StoredArtifact) []string {
			held := make([]string, len(a.Holders))
			for i, h := range a.Holders {
				held[i] = h.Kind + " of " + h.ID
			}
			if len(held) == 0 {
				held = []string{"nobody"}
			}
			return []string{bytesOf(a.SizeBytes), age(a.PutAt), short(a.ID), strings.Join(held, ", ")}
		}),
	}
}

// short is as much of a digest as tells it from others.
func short(digest string) string {
	const enough = len("sha256:") + 12
	return digest[:min(len(digest), enough)]
}

func newStorageGC(t *terminal) *cobra.Command {
	return &cobra.Command{
		Use:   "gc",
		Short: "Remove what nobody has held for an hour",
		Args:  args(0, 0),
		RunE: asks(t, func(ctx context.Context, c *client.Client, _ []string) (*api.Collected, error) {
			return c.CollectGarbage(ctx)
		}, func(w io.Writer, got *api.Collected) {
			fmt.Fprintf(w, "%d artifacts removed, %s freed\n", got.Removed, bytesOf(got.FreedBytes))
		}),
	}
}
