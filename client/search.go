package client

import (
	"context"
	"fmt"
	"io"
	"iter"
	"strconv"

	"silica.dev/silica/api"
)

// Glob finds files and folders below path by a pattern, "**/*.go".
func (c *Client) Glob(ctx context.Context, id string, f api.GlobFilter) (*api.FilesFound, error) {
	return fetch[api.FilesFound](ctx, c, get(api.SandboxPath(id, "files", "glob")).asking(f.Query()))
}

// Search finds lines in files.
func (c *Client) Search(ctx context.Context, id string, req api.SearchRequest) (*api.SearchResult, error) {
	return fetch[api.SearchResult](ctx, c, post(api.SandboxPath(id, "files", "search"), req).again())
}

// Replace replaces text in files.
func (c *Client) Replace(ctx context.Context, id string, req api.ReplaceRequest) (*api.ReplaceResult, error) {
	cl := post(api.SandboxPath(id, "files", "replace"), req)
	cl.repeat = req.DryRun
	return fetch[api.ReplaceResult](ctx, c, cl)
}

// Watch yields what changes in a folder, and in those below it if recursive. One
// of type ChangesLost says that some were not told. Changes are not kept, so a
// broken connection ends it: an error is the last thing yielded.
func (c *Client) Watch(ctx context.Context, id, path string, recursive bool) iter.Seq2[api.FileChange, error] {
	return func(yield func(api.FileChange, error) bool) {
		cl := get(api.SandboxPath(id, "files", "watch")).with("path", path).with("recursive", strconv.FormatBool(recursive))
		left := false
		decode(c.events(ctx, cl), func(ev serverEvent, ch *api.FileChange) (fate, error) {
			if ev.name == api.EventClosing {
				return final, farewell(ev.data)
			}
			return keep, nil
		})(func(ch api.FileChange, err error) bool {
			left = !yield(ch, err) || err != nil
			return !left
		})
		if !left {
			yield(api.FileChange{}, fmt.Errorf("watch: %w", io.ErrUnexpectedEOF))
		}
	}
}
