package client

import (
	"context"
	"io"
	"strconv"

	"silica.dev/silica/api"
)

// Pack opens an archive of what a folder holds: tar.gz (also for ""), tar or
// zip. Its end is not the whole if reading it gives an error.
func (c *Client) Pack(ctx context.Context, id, path, format string) (*File, error) {
	return c.openFile(ctx, get(api.SandboxPath(id, "files", "archive")).with("path", path).with("format", format))
}

// Unpack writes what a tar archive holds, compressed with gzip or not, into a
// folder. Everything is root's unless preserveOwner is true.
func (c *Client) Unpack(ctx context.Context, id, path string, archive io.Reader, preserveOwner bool) (*api.Unpacked, error) {
	cl := put(api.SandboxPath(id, "files", "archive"), nil).with("path", path).
		with("preserve_owner", strconv.FormatBool(preserveOwner)).headed("Content-Type", "application/x-tar")
	cl.stream, cl.size = archive, -1
	if n, ok := length(archive); ok {
		cl.stream, cl.size = io.LimitReader(archive, n), n
	}
	return fetch[api.Unpacked](ctx, c, cl)
}

// ExportFile makes a URL of a file, or of a folder's archive, that needs no key.
func (c *Client) ExportFile(ctx context.Context, id string, req api.ExportRequest) (*api.FileLink, error) {
	return fetch[api.FileLink](ctx, c, post(api.SandboxPath(id, "files", "export"), req).again())
}

// CreateExport makes URLs of several files and of an archive of all of them,
// that need no key.
func (c *Client) CreateExport(ctx context.Context, id string, req api.ExportRequest) (*api.Export, error) {
	return fetch[api.Export](ctx, c, post(api.SandboxPath(id, "exports"), req).again())
}

// DownloadExport opens one file as it is, or an archive of a folder or of
// several paths; with a format always an archive.
func (c *Client) DownloadExport(ctx context.Context, id, format string, paths ...string) (*File, error) {
	return c.openFile(ctx, get(api.SandboxPath(id, "exports", "download")).with("paths[]", paths...).with("format", format))
}
