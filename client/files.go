package client

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"net/url"
	"os"
	"time"

	"silica.dev/silica/api"
)

// Upload writes what r holds to path inside a sandbox, whole or not at all,
// making parent folders. It does not hold the content in memory.
func (c *Client) Upload(ctx context.Context, id, path string, r io.Reader) (*api.FileWritten, error) {
	var head bytes.Buffer
	m := multipart.NewWriter(&head)
	if err := m.SetBoundary("silica-" + rand.Text()); err != nil {
		return nil, fmt.Errorf("upload: %w", err)
	}
	_ = m.WriteField("path", path) // a bytes.Buffer takes everything
	_, _ = m.CreateFormFile("file", "file")
	tail := "\r\n--" + m.Boundary() + "--\r\n"
	size := int64(-1)
	if n, ok := length(r); ok {
		size = int64(head.Len()) + n + int64(len(tail))
		r = io.LimitReader(r, n) // a file that grows meanwhile keeps its promise
	}
	var w api.FileWritten
	err := c.do(ctx, call{
		method: http.MethodPost, path: api.Base + api.SandboxPath(id, "files"),
		header: http.Header{"Content-Type": {m.FormDataContentType()}},
		stream: io.MultiReader(&head, r, bytes.NewReader([]byte(tail))), size: size,
	}, &w)
	if err != nil {
		return nil, err
	}
	return &w, nil
}

// length tells how many bytes r will give, where that can be known.
func length(r io.Reader) (int64, bool) {
	switch v := r.(type) {
	case interface{ Len() int }: // bytes and strings
		return int64(v.Len()), true
	case *os.File:
		fi, err := v.Stat()
		if err != nil || !fi.Mode().IsRegular() {
			return 0, false
		}
		at, err := v.Seek(0, io.SeekCurrent)
		return max(fi.Size()-at, 0), err == nil
	}
	return 0, false
}

// File is the content of a file being read. Close it.
type File struct {
	io.ReadCloser
	Size     int64 // of what is being read; -1 when the server did not say
	Modified time.Time
}

// Download opens a file inside a sandbox.
func (c *Client) Download(ctx context.Context, id, path string) (*File, error) {
	return c.download(ctx, id, path, "")
}

// DownloadRange opens a part of a file: length bytes from offset, or all that
// follow when length is 0.
func (c *Client) DownloadRange(ctx context.Context, id, path string, offset, length int64) (*File, error) {
	rng := fmt.Sprintf("bytes=%d-", offset)
	if length > 0 {
		rng += fmt.Sprint(offset + length - 1)
	}
	return c.download(ctx, id, path, rng)
}

func (c *Client) download(ctx context.Context, id, path, rng string) (*File, error) {
	cl := get(api.SandboxPath(id, "files", "download"))
	cl.query = url.Values{"path": {path}}
	if rng != "" {
		cl.header = http.Header{"Range": {rng}}
	}
	res, err := c.open(ctx, cl)
	if err != nil {
		return nil, err
	}
	f := &File{ReadCloser: res.Body, Size: res.ContentLength}
	f.Modified, _ = http.ParseTime(res.Header.Get("Last-Modified"))
	return f, nil
}

// ListFiles lists a folder.
func (c *Client) ListFiles(ctx context.Context, id, path string) ([]api.FileEntry, error) {
	var l api.FileList
	cl := get(api.SandboxPath(id, "files"))
	cl.query = url.Values{"path": {path}}
	if err := c.do(ctx, cl, &l); err != nil {
		return nil, err
	}
	return l.Entries, nil
}

// Stat describes a file or folder; of a symlink, the link itself.
func (c *Client) Stat(ctx context.Context, id, path string) (*api.FileEntry, error) {
	var e api.FileEntry
	err := c.do(ctx, call{
		method: http.MethodPost, path: api.Base + api.SandboxPath(id, "files", "stat"),
		body: api.FilePathRequest{Path: path}, repeat: true,
	}, &e)
	if err != nil {
		return nil, err
	}
	return &e, nil
}
