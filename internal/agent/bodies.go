package agent

import (
	"io"
	"net/http"
	"strconv"

	"silica.dev/silica/internal/agent/files"
	"silica.dev/silica/internal/guest"
	"silica.dev/silica/sandbox"
)

// maxDiscard is how much of a refused body is read to nowhere, so that the
// sender, who reads the answer only afterwards, gets to see it.
const maxDiscard = 4 << 30

// statusOf is for the file routes; RPCs have Connect's.
var statusOf = map[sandbox.Kind]int{
	sandbox.Invalid:   http.StatusBadRequest,
	sandbox.Forbidden: http.StatusForbidden,
	sandbox.NotFound:  http.StatusNotFound,
	sandbox.Conflict:  http.StatusConflict,
	sandbox.Exhausted: http.StatusInsufficientStorage,
}

// fail is where an error becomes the answer of a file route.
func (a *Agent) fail(w http.ResponseWriter, r *http.Request, err error) {
	_, _ = io.CopyN(io.Discard, r.Body, maxDiscard) // it ends when the body does
	e := sandbox.AsError(err)
	status, ok := statusOf[e.Kind]
	if !ok {
		status = http.StatusInternalServerError
		a.cfg.Log.Warn("file route", "path", r.URL.Path, "err", err)
	}
	h := w.Header()
	h.Del("Last-Modified")
	h.Del("ETag")
	h.Set(guest.CodeHeader, e.Code)
	h.Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, e.Message)
}

// written answers a successful write.
type written struct {
	Path string `json:"path"`
	Size int64  `json:"size"`
}

func (a *Agent) getFile(w http.ResponseWriter, r *http.Request) {
	if err := a.files.Serve(w, r, r.URL.Query().Get("path")); err != nil {
		a.fail(w, r, err)
	}
}

func (a *Agent) putFile(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	var mode uint64
	if m := q.Get("mode"); m != "" {
		var err error
		if mode, err = strconv.ParseUint(m, 8, 12); err != nil {
			a.fail(w, r, sandbox.Field("mode", "must be permission bits in octal"))
			return
		}
	}
	size, err := a.files.Write(q.Get("path"), uint32(mode), r.Body)
	a.answerWrite(w, r, written{Size: size}, err)
}

func (a *Agent) spoolFile(w http.ResponseWriter, r *http.Request) {
	name, size, err := a.files.Spool(r.Body)
	a.answerWrite(w, r, written{name, size}, err)
}

func (a *Agent) commitFile(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	size, err := a.files.Commit(q.Get("from"), q.Get("to"))
	a.answerWrite(w, r, written{Size: size}, err)
}

func (a *Agent) answerWrite(w http.ResponseWriter, r *http.Request, res written, err error) {
	if err != nil {
		a.fail(w, r, err)
		return
	}
	writeJSON(w, res)
}

// archiveTypes are the media types of archives.
var archiveTypes = map[string]string{
	files.FormatTar: "application/x-tar", files.FormatTarGz: "application/gzip", files.FormatZip: "application/zip",
}

func (a *Agent) getArchive(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	archive, err := a.files.Archive(files.Pack{Paths: q["path"], From: q.Get("from"), Format: q.Get("format")})
	if err != nil {
		a.fail(w, r, err)
		return
	}
	w.Header().Set("Content-Type", archiveTypes[q.Get("format")])
	if err := archive.Write(r.Context(), w); err != nil {
		a.cfg.Log.Warn("archive", "err", err)
		panic(http.ErrAbortHandler) // so that nobody takes the part for the whole
	}
}

// getCapture answers with the whole root file system; see [files.Files.Capture].
func (a *Agent) getCapture(w http.ResponseWriter, r *http.Request) {
	since, err := strconv.ParseInt(r.URL.Query().Get("since"), 10, 64)
	if err != nil {
		a.fail(w, r, sandbox.Field("since", "must be seconds since 1970"))
		return
	}
	w.Header().Set("Content-Type", archiveTypes[files.FormatTar])
	if err := a.files.Capture(r.Context(), since, w); err != nil {
		a.cfg.Log.Warn("capture", "err", err)
		panic(http.ErrAbortHandler)
	}
}

func (a *Agent) putArchive(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	n, err := a.files.Unpack(r.Context(), r.Body, q.Get("path"), q.Get("owners") == "true")
	if err != nil {
		a.fail(w, r, err)
		return
	}
	writeJSON(w, n)
}
