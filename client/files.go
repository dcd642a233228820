package client

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"os"
	"strings"
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
	cl := post(api.SandboxPath(id, "files"), nil).headed("Content-Type", m.FormDataContentType())
	cl.stream, cl.size = io.MultiReader(&head, r, strings.NewReader(tail)), size
	return fetch[api.FileWritten](ctx, c, cl)
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

// WriteFile writes p to path inside a sandbox as Upload does, and is repeated
// when the connection breaks.
func (c *Client) WriteFile(ctx context.Context, id, path string, p []byte) (*api.FileWritten, error) {
	body := api.UploadFile{Path: path, Content: p}
	return fetch[api.FileWritten](ctx, c, post(api.SandboxPath(id, "files"), body).again())
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
	cl := get(api.SandboxPath(id, "files", "download")).with("path", path)
	if rng != "" {
		cl = cl.headed("Range", rng)
	}
	return c.openFile(ctx, cl)
}

// openFile makes a call whose answer is bytes.
func (c *Client) openFile(ctx context.Context, cl call) (*File, error) {
	res, err := c.open(ctx, cl)
	if err != nil {
		return nil, err
	}
	f := &File{ReadCloser: res.Body, Size: res.ContentLength}
	f.Modified, _ = http.ParseTime(res.Header.Get("Last-Modified"))
	return f, nil
}

// maxRead bounds what ReadFile takes; it is what the server lets be written.
const maxRead = 100 << 20

// ReadFile returns the content of a file of at most 100 MiB.
func (c *Client) ReadFile(ctx context.Context, id, path string) ([]byte, error) {
	f, err := c.Download(ctx, id, path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	p, err := io.ReadAll(io.LimitReader(f, maxRead+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("read %s: %w", path, err)
	case len(p) > maxRead:
		return nil, fmt.Errorf("read %s: it is larger than %d bytes; use Download", path, maxRead)
	}
	return p, nil
}
