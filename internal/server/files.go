package server

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/go-chi/chi/v5"

	"silica.dev/silica/api"
	"silica.dev/silica/internal/guest"
	"silica.dev/silica/internal/guest/guestpb"
	"silica.dev/silica/sandbox"
)

// homeDir is the folder that is listed when none is named.
const homeDir = "/root"

func (s *Server) listFiles(w http.ResponseWriter, r *http.Request, c sandbox.Caller) error {
	path := r.URL.Query().Get("path")
	if path == "" {
		path = homeDir
	}
	path, err := cleanPath("path", path)
	if err != nil {
		return err
	}
	depth := uint64(1)
	if v := r.URL.Query().Get("depth"); v != "" {
		if depth, err = strconv.ParseUint(v, 10, 8); err != nil || depth < 1 || depth > 32 {
			return sandbox.Field("depth", "must be from 1 to 32")
		}
	}
	ctx, g, sb, err := s.deps.Sandboxes.Guest(r.Context(), c, param(r, "id"))
	if err != nil {
		return err
	}
	ctx, _, cancel := s.patient(ctx)
	defer cancel()
	entries, err := g.ListDir(ctx, path, uint32(depth))
	if err != nil {
		return err
	}
	writeFiles(w, sb.ID, path, entries)
	return nil
}

// writeFiles writes api.FileList in the hybrid form, entry by entry: a folder
// may hold very many.
func writeFiles(w http.ResponseWriter, id sandbox.ID, path string, entries []*guestpb.Entry) {
	head, err := json.Marshal(struct {
		SandboxID string `json:"sandbox_id"`
		Path      string `json:"path"`
	}{string(id), path})
	if err != nil {
		panic("file list can't be encoded: " + err.Error())
	}
	bw := openRows(w, 2*len(entries)*512)
	object := func() {
		_, _ = bw.Write(head[:len(head)-1])
		_, _ = bw.WriteString(`,"entries":`)
		writeRows(bw, entries, wireEntry)
	}
	object()
	_, _ = bw.WriteString(`,"data":`)
	object()
	_, _ = bw.WriteString("}}")
	_ = bw.Flush() // a client that has left is no error of ours
}

func (s *Server) statFile(w http.ResponseWriter, r *http.Request, c sandbox.Caller) error {
	f, err := readFields(r)
	if err != nil {
		return err
	}
	path := f.text(maxPath, "path")
	if f.err != nil {
		return f.err
	}
	if path, err = cleanPath("path", path); err != nil {
		return err
	}
	ctx, g, _, err := s.deps.Sandboxes.Guest(r.Context(), c, param(r, "id"))
	if err != nil {
		return err
	}
	ctx, _, cancel := s.patient(ctx)
	defer cancel()
	e, err := g.Stat(ctx, path)
	if err != nil {
		return err
	}
	writeOne(w, http.StatusOK, wireEntry(e))
	return nil
}

var typeNames = map[guestpb.Entry_Type]string{
	guestpb.Entry_FILE: "file", guestpb.Entry_DIRECTORY: "directory", guestpb.Entry_SYMLINK: "symlink",
}

func wireEntry(e *guestpb.Entry) api.FileEntry {
	kind, ok := typeNames[e.GetType()]
	if !ok {
		kind = "other"
	}
	return api.FileEntry{
		Name: e.GetName(), Path: e.GetPath(), Type: kind,
		IsDir:     e.GetIsDir() || e.GetType() == guestpb.Entry_DIRECTORY,
		IsSymlink: e.GetType() == guestpb.Entry_SYMLINK, SymlinkTarget: orNull(e.GetSymlinkTarget()),
		Size: e.GetSize(), SizeBytes: e.GetSize(), Mode: fmt.Sprintf("%04o", e.GetMode()&0o7777),
		UID: e.GetUid(), GID: e.GetGid(), ModifiedAt: time.Unix(0, e.GetModifiedUnixNano()).UTC(),
	}
}

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
	ctx, g, _, err := s.deps.Sandboxes.Guest(r.Context(), c, param(r, "id"))
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
	status, length := http.StatusOK, f.Size
	if f.Size >= 0 {
		h.Set("Accept-Ranges", "bytes")
		from, n, partial, err := byteRange(r.Header.Get("Range"), f.Size)
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
				if f, err = reopen(f, func() (*guest.File, error) { return g.ReadFile(ctx, path, from) }); err != nil {
					return err
				}
			}
		}
		h.Set("Content-Length", strconv.FormatInt(length, 10))
	}
	if !f.Modified.IsZero() {
		h.Set("Last-Modified", f.Modified.UTC().Format(http.TimeFormat))
	}
	w.WriteHeader(status)
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
