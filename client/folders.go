package client

import (
	"context"
	"encoding/base64"

	"silica.dev/silica/api"
)

// ListFiles lists a folder.
func (c *Client) ListFiles(ctx context.Context, id, path string) ([]api.FileEntry, error) {
	return c.ListFilesDeep(ctx, id, path, 0)
}

// ListFilesDeep lists a folder and the folders in it, depth levels in all.
func (c *Client) ListFilesDeep(ctx context.Context, id, path string, depth int) ([]api.FileEntry, error) {
	l, err := fetch[api.FileList](ctx, c, get(api.SandboxPath(id, "files")).with("path", path).with("depth", positive(depth)))
	if err != nil {
		return nil, err
	}
	return l.Entries, nil
}

// Tree returns a folder as a tree of depth levels (0: three). Truncated in the
// root says that there is more.
func (c *Client) Tree(ctx context.Context, id, path string, depth int) (*api.TreeNode, error) {
	return fetch[api.TreeNode](ctx, c, get(api.SandboxPath(id, "files", "tree")).with("path", path).with("depth", positive(depth)))
}

// Stat describes a file or folder; of a symlink, the link itself.
func (c *Client) Stat(ctx context.Context, id, path string) (*api.FileEntry, error) {
	return fetch[api.FileEntry](ctx, c, post(api.SandboxPath(id, "files", "stat"), api.FilePathRequest{Path: path}).again())
}

// MakeFolder makes a folder, and its parents unless Recursive says no.
func (c *Client) MakeFolder(ctx context.Context, id string, req api.MakeFolder) (*api.FileEntry, error) {
	cl := post(api.SandboxPath(id, "files", "mkdir"), req)
	cl.repeat = req.Recursive == nil || *req.Recursive // else the second time would fail
	return fetch[api.FileEntry](ctx, c, cl)
}

// MoveFile renames or moves a file or folder.
func (c *Client) MoveFile(ctx context.Context, id string, req api.MoveFile) (*api.FileEntry, error) {
	return fetch[api.FileEntry](ctx, c, post(api.SandboxPath(id, "files", "rename"), req))
}

// CopyFile copies a file, or with Recursive a folder.
func (c *Client) CopyFile(ctx context.Context, id string, req api.CopyFile) (*api.FileEntry, error) {
	return fetch[api.FileEntry](ctx, c, post(api.SandboxPath(id, "files", "copy"), req))
}

// ChangeMode sets permissions.
func (c *Client) ChangeMode(ctx context.Context, id string, req api.ChangeMode) (*api.FileEntry, error) {
	return fetch[api.FileEntry](ctx, c, post(api.SandboxPath(id, "files", "chmod"), req).again())
}

// ChangeOwner sets the owner.
func (c *Client) ChangeOwner(ctx context.Context, id string, req api.ChangeOwner) (*api.FileEntry, error) {
	return fetch[api.FileEntry](ctx, c, post(api.SandboxPath(id, "files", "chown"), req).again())
}

// RemoveFile deletes a file or an empty folder; with recursive, any folder.
func (c *Client) RemoveFile(ctx context.Context, id, path string, recursive bool) error {
	cl := del(api.SandboxPath(id, "files"))
	cl.body = api.DeleteFile{Path: path, Recursive: recursive}
	return c.do(ctx, cl, nil)
}

// WriteFiles writes up to 1000 small files, contents by path. Each is whole or
// in the answer's Failed.
func (c *Client) WriteFiles(ctx context.Context, id string, files map[string][]byte) (*api.FilesWritten, error) {
	req := api.WriteFiles{Files: []api.WriteFile{}}
	for path, p := range files {
		req.Files = append(req.Files, api.WriteFile{Path: path, Content: base64.StdEncoding.EncodeToString(p)})
	}
	return fetch[api.FilesWritten](ctx, c, post(api.SandboxPath(id, "files", "write-many"), req).again())
}
