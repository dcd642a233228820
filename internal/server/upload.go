package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strings"
	"sync"
	"time"

	"silica.dev/silica/api"
	"silica.dev/silica/internal/guest"
	"silica.dev/silica/sandbox"
)

// source is the body of an upload in one of its two wire forms. The file's
// content is read while it comes; the path may stand before or after it.
type source interface {
	// begin reads up to the content and tells whether there is any.
	begin() (bool, error)
	// Read reads the content. Before it says io.EOF it has read the rest of
	// the body too, so that a body broken behind the content stores nothing.
	io.Reader
	// path is the path as far as it is known: after begin, or after io.EOF.
	path() (string, bool)
}

// otherThanContent is what a body may hold besides the content, in bytes.
const otherThanContent = 1 << 20

// upload stores a file. Nothing of it stays when anything goes wrong.
func (s *Server) upload(w http.ResponseWriter, r *http.Request, c sandbox.Caller) error {
	src, most, err := s.sourceOf(r)
	if err != nil {
		return err
	}
	// A wrong id or a stopped sandbox is said before the content is looked at.
	ctx, g, sb, err := s.deps.Sandboxes.Guest(r.Context(), c, param(r, "id"))
	if err != nil {
		return err
	}
	if r.ContentLength > most {
		return s.tooLarge()
	}
	has, err := src.begin()
	if err != nil {
		return err
	}
	if !has {
		return sandbox.Field("content", "is missing: send base64 in JSON, or a part named file in multipart/form-data")
	}
	ctx, agent, cancel := s.patient(ctx)
	defer cancel()
	path, size, err := s.receive(ctx, g, agent, src)
	if err != nil {
		return err
	}
	writeOne(w, http.StatusOK, api.FileWritten{SandboxID: string(sb.ID), Path: path, Size: size})
	return nil
}

// receive stores the content of src, which has been read up to it.
func (s *Server) receive(ctx context.Context, g *guest.Client, agent *patience, src source) (path string, size int64, err error) {
	content := &content{src: src, agent: agent, left: s.cfg.MaxUpload, tooLarge: s.tooLarge()}
	early, ok := src.path()
	if !ok {
		return spool(ctx, g, content)
	}
	if path, err = cleanPath("path", early); err != nil {
		return "", 0, err
	}
	size, err = g.WriteFile(ctx, path, 0, content)
	return path, size, content.verdict(err)
}

// spool stores content whose path comes behind it.
func spool(ctx context.Context, g *guest.Client, content *content) (path string, size int64, err error) {
	from, size, err := g.Spool(ctx, content)
	err = content.verdict(err)
	if from != "" {
		defer func() {
			if err != nil {
				// Also when the client has left meanwhile.
				ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
				defer cancel()
				_ = g.Remove(ctx, from, false)
			}
		}()
	}
	if err != nil {
		return "", 0, err
	}
	content.agent.rest()
	late, _ := content.src.path()
	if path, err = cleanPath("path", late); err != nil {
		return "", 0, err
	}
	content.agent.wait()
	if err = g.Commit(ctx, from, path); err != nil {
		return "", 0, err
	}
	return path, size, nil
}

func (s *Server) tooLarge() error {
	return sandbox.E(sandbox.TooLarge, sandbox.CodeFileTooLarge,
		fmt.Sprintf("a file may have at most %d MB", s.cfg.MaxUpload/sandbox.MiB)).With("max_bytes", s.cfg.MaxUpload)
}

// sourceOf chooses the wire form, and how long its body may be.
func (s *Server) sourceOf(r *http.Request) (source, int64, error) {
	media, params, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err == nil && media == "multipart/form-data" {
		boundary := params["boundary"]
		if boundary == "" || len(boundary) > 256 {
			return nil, 0, sandbox.E(sandbox.Malformed, sandbox.CodeBadRequest, "multipart/form-data needs a boundary")
		}
		return newFormUpload(r.Body, r.ContentLength, boundary), s.cfg.MaxUpload + otherThanContent, nil
	}
	if err == nil && strings.HasPrefix(media, "multipart/") {
		return nil, 0, sandbox.E(sandbox.Malformed, sandbox.CodeBadRequest, "send JSON or multipart/form-data")
	}
	return newJSONUpload(r.Body, r.ContentLength), s.cfg.MaxUpload/3*4 + otherThanContent, nil
}

// content is the file's bytes, counted. It can be shut: the transport that
// reads it may go on for a moment after its request has been answered, and the
// body must be left alone then.
type content struct {
	src      source
	agent    *patience // not while the client is waited for
	tooLarge error

	mu   sync.Mutex
	left int64
	err  error // the first of src, io.EOF included
}

var errShut = errors.New("the upload is over")

func (c *content) Read(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return 0, c.err
	}
	c.agent.rest()
	defer c.agent.wait()
	n, err := c.src.Read(p)
	if c.left -= int64(n); c.left < 0 {
		n, err = 0, c.tooLarge
	}
	c.err = err
	return n, err
}

// verdict shuts the content and picks the error that tells more: what the body
// failed with, or what the sandbox answered.
func (c *content) verdict(answered error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	read := c.err
	c.err = errShut
	if read != nil && read != io.EOF {
		return read
	}
	return answered
}

// cleanPath checks a path inside a sandbox as far as the host cares, and spells
// it as [guest.Spell] does: in a query it may have been any bytes.
func cleanPath(field, p string) (string, error) {
	bad := func(reason string) (string, error) {
		return "", sandbox.E(sandbox.Invalid, sandbox.CodeInvalidPath, field+": "+reason).With("field", field).With("reason", reason)
	}
	switch {
	case p == "":
		return "", sandbox.Field(field, "is missing")
	case !strings.HasPrefix(p, "/"):
		return bad("must be absolute")
	case len(p) > maxPath:
		return bad(fmt.Sprintf("must not be longer than %d bytes", maxPath))
	case strings.ContainsRune(p, 0):
		return bad("must not contain a null character")
	}
	return guest.Spell(guest.Unspell(p)), nil
}
