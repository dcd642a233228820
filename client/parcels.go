package client

import (
	"context"
	"io"

	"silica.dev/silica/api"
)

// ExportSnapshot opens a snapshot as one file, for another machine. Its end is not
// the whole if reading it gives an error.
func (c *Client) ExportSnapshot(ctx context.Context, id string) (*File, error) {
	return c.openFile(ctx, get(api.SnapshotPath(id, "export")))
}

// ImportSnapshot makes a snapshot of such a file, of a tenant or with an empty one
// of the key's own. It needs an admin key, and is never repeated.
func (c *Client) ImportSnapshot(ctx context.Context, tenant string, file io.Reader) (*api.Snapshot, error) {
	cl := post(api.PathSnapshotImport, nil).with("tenant_id", tenant).headed("Content-Type", "application/octet-stream")
	cl.stream, cl.size = file, -1
	if n, ok := length(file); ok {
		cl.stream, cl.size = io.LimitReader(file, n), n
	}
	return fetch[api.Snapshot](ctx, c, cl)
}
