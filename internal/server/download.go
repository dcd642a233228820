package server

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"

	"github.com/go-chi/chi/v5"

	"silica.dev/silica/internal/guest"
	"silica.dev/silica/sandbox"
)

func (s *Server) downloadQuery(w http.ResponseWriter, r *http.Request, c sandbox.Caller) error {
	path, err := cleanPath("path", r.URL.Query().Get("path"))
	if err != nil {
		return err
	}
	return s.download(w, r, c, path)
}

// downloadPath serves a file by its path below …/files/, in which slashes may
// be escaped or not.
func (s *Server) downloadPath(w http.ResponseWriter, r *http.Request, c sandbox.Caller) error {
	raw := chi.URLParam(r, "*")
	if reserved[raw] {
		return sandbox.E(sandbox.NotFound, sandbox.CodeNotFound,
			"there is no such endpoint; a file of that name is read with files/download?path=/"+raw)
	}
	path, err := url.PathUnescape(raw)
	if err != nil {
		return sandbox.E(sandbox.Malformed, sandbox.CodeBadRequest, "the path is not URL-encoded").Because(err)
	}
	if path, err = cleanPath("path", "/"+strings.TrimPrefix(path, "/")); err != nil {
		return err
	}
	return s.download(w, r, c, path)
}

// copyBuffers are what downloads go through: memory does not grow with files.
var copyBuffers = sync.Pool{New: func() any { b := make([]byte, 128<<10); return &b }}

func (s *Server) download(w http.ResponseWriter, r *http.Request, c sandbox.Caller, path string) error {
	return s.downloadOf(w, r, c, param(r, "id"), path)
}

func (s *Server) downloadOf(w http.ResponseWriter, r *http.Request, c sandbox.Caller, id, path string) error {
	ctx, g, _, err := s.deps.Sandboxes.Guest(r.Context(), c, id)
	if err != nil {
		return err
	}
	ctx, agent, cancel := s.patient(ctx)
	defer cancel()
	f, err := g.ReadFile(ctx, path, 0)
	if err != nil {
		return err
	}
	defer func() { f.Close() }()

	h := w.Header()
	// Never a type of its own, also for .json: a public client takes a JSON
	// answer for an envelope.
	h.Set("Content-Type", "application/octet-stream")
	h.Set("X-Content-Type-Options", "nosniff")
	if f.ETag != "" {
		h.Set("ETag", f.ETag)
		if matches(r.Header.Get("If-None-Match"), f.ETag) {
			h.Del("Content-Type")
			w.WriteHeader(http.StatusNotModified)
			return nil
		}
	}
	status, length := http.StatusOK, f.Size
	if f.Size >= 0 {
		h.Set("Accept-Ranges", "bytes")
		wanted := r.Header.Get("Range")
		if is := r.Header.Get("If-Range"); is != "" && is != f.ETag {
			wanted = "" // it is another file by now
		}
		from, n, partial, err := byteRange(wanted, f.Size)
		if err != nil {
			h.Del("Content-Type")
			h.Set("Content-Range", fmt.Sprintf("bytes */%d", f.Size))
			return err
		}
		if partial {
			h.Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, from+n-1, f.Size))
			status, length = http.StatusPartialContent, n
			if from > 0 {
				agent.wait()
				was := f.ETag
				if f, err = reopen(f, func() (*guest.File, error) { return g.ReadFile(ctx, path, from) }); err != nil {
					return err
				}
				if f.ETag != was {
					return sandbox.E(sandbox.Conflict, sandbox.CodeConflict, "the file changed meanwhile")
				}
			}
		}
		h.Set("Content-Length", strconv.FormatInt(length, 10))
	}
	if !f.Modified.IsZero() {
		h.Set("Last-Modified", f.Modified.UTC().Format(http.TimeFormat))
	}
	w.WriteHeader(status)
	if r.Method == http.MethodHead {
		return nil
	}
	agent.rest()
	body := agent.from(f)
	if length >= 0 {
		body = io.LimitReader(body, length)
	}
	buf := copyBuffers.Get().(*[]byte)
	defer copyBuffers.Put(buf)
	n, err := io.CopyBuffer(struct{ io.Writer }{w}, body, *buf)
	if err == nil && length >= 0 && n < length {
		err = lost(io.ErrUnexpectedEOF) // it shrank, or the sandbox ended
	}
	return err // the client sees the connection break
}

// matches tells whether an If-None-Match header names tag.
func matches(header, tag string) bool {
	for part := range strings.SplitSeq(header, ",") {
		if part = strings.TrimSpace(part); part == "*" || strings.TrimPrefix(part, "W/") == tag {
			return true
		}
	}
	return false
}

// reopen closes f and opens it again elsewhere. On an error f stays the
// closed one.
func reopen(f *guest.File, open func() (*guest.File, error)) (*guest.File, error) {
	_ = f.Close()
	again, err := open()
	if err != nil {
		return f, err
	}
	return again, nil
}

var errRange = errors.New("unusable range")

// byteRange reads a Range header of one range. One of several, or one that is
// not understood, is as good as none, as RFC 9110 §14.2 allows.
func byteRange(header string, size int64) (from, n int64, partial bool, err error) {
	spec, ok := strings.CutPrefix(header, "bytes=")
	first, last, dash := strings.Cut(spec, "-")
	if !ok || !dash || strings.Contains(spec, ",") {
		return 0, size, false, nil
	}
	first, last = strings.TrimSpace(first), strings.TrimSpace(last)
	a, errA := strconv.ParseInt(first, 10, 64)
	b, errB := strconv.ParseInt(last, 10, 64)
	beyond := sandbox.E(sandbox.Invalid, sandbox.CodeRange, fmt.Sprintf("the file has %d bytes", size)).With("size", size).Because(errRange)
	switch {
	case first == "" && errB == nil: // the last b bytes
		if b == 0 || size == 0 {
			return 0, 0, false, beyond
		}
		b = min(b, size)
		return size - b, b, true, nil
	case errA != nil || a < 0 || last != "" && (errB != nil || b < a):
		return 0, size, false, nil
	case a >= size:
		return 0, 0, false, beyond
	case last == "":
		return a, size - a, true, nil
	}
	return a, min(b, size-1) - a + 1, true, nil
}
