package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"

	"silica.dev/silica/api"
	"silica.dev/silica/internal/guest"
	"silica.dev/silica/sandbox"
)

// maxFiles is how many files one request may write, or name.
const maxFiles = 1000

// writeMany stores the files of {"files":[{path, content}, …]} one after the
// other while they come, each whole or not at all. One that can't be stored does
// not stop the others; a body that breaks off does, and the error says how many
// were written before.
func (s *Server) writeMany(w http.ResponseWriter, r *http.Request, c sandbox.Caller) error {
	most := s.cfg.MaxUpload/3*4 + otherThanContent
	ctx, g, _, err := s.deps.Sandboxes.Guest(r.Context(), c, param(r, "id"))
	if err != nil {
		return err
	}
	if r.ContentLength > most {
		return s.tooLarge()
	}
	ctx, agent, cancel := s.patient(ctx)
	defer cancel()
	agent.rest()
	body := &limited{r: r.Body, left: most, err: s.tooLarge()}
	b := &batch{s: s, g: g, agent: agent, u: newJSONUpload(body, r.ContentLength)}
	b.done.Written, b.done.Failed = []api.FileStored{}, []api.FileRefused{}
	if err := b.run(ctx); err != nil {
		var e *sandbox.Error
		if errors.As(err, &e) {
			return e.With("written", len(b.done.Written)).Because(err)
		}
		return err
	}
	writeOne(w, http.StatusOK, b.done)
	return nil
}

// limited fails with err once more than left bytes have been read.
type limited struct {
	r    io.Reader
	left int64
	err  error
}

func (l *limited) Read(p []byte) (int, error) {
	n, err := l.r.Read(p)
	if l.left -= int64(n); l.left < 0 {
		return 0, l.err
	}
	return n, err
}

// batch is a body of many files being read.
type batch struct {
	s     *Server
	g     *guest.Client
	agent *patience
	u     *jsonUpload // reads the body, and in it file by file
	seen  bool        // the list has been read
	done  api.FilesWritten
}

func (b *batch) run(ctx context.Context) error {
	c, err := b.u.next()
	if err != nil || c != '{' {
		return syntax(err)
	}
	if c, err = b.u.next(); err != nil {
		return syntax(err)
	}
	if c != '}' {
		_ = b.u.r.UnreadByte()
		for more := true; more; {
			if err := b.member(ctx); err != nil {
				return err
			}
			if more, err = b.u.comma(); err != nil {
				return err
			}
		}
	} else if err := b.u.end(); err != nil {
		return err
	}
	if !b.seen {
		return sandbox.Field("files", "is missing")
	}
	return nil
}

func (b *batch) member(ctx context.Context) error {
	raw, err := b.u.value()
	if err != nil {
		return err
	}
	name, ok := decodeAs[string](raw)
	if c, err := b.u.next(); !ok || err != nil || c != ':' {
		return syntax(err)
	}
	if name != "files" {
		_, err := b.u.value()
		return err
	}
	if c, err := b.u.next(); err != nil {
		return syntax(err)
	} else if c != '[' || b.seen {
		return sandbox.Field("files", "must be one array of objects")
	}
	b.seen = true
	if c, err := b.u.next(); err != nil {
		return syntax(err)
	} else if c == ']' {
		return nil
	}
	_ = b.u.r.UnreadByte()
	for n := 0; ; n++ {
		if n == maxFiles {
			return sandbox.E(sandbox.TooLarge, sandbox.CodeBodyTooLarge, fmt.Sprintf("more than %d files in one request", maxFiles)).With("max_files", maxFiles)
		}
		if err := b.file(ctx, n); err != nil {
			return err
		}
		switch c, err := b.u.next(); {
		case err != nil:
			return syntax(err)
		case c == ']':
			return nil
		case c != ',':
			return syntax(nil)
		}
	}
}

// file stores one file. The error it returns ends the whole request.
func (b *batch) file(ctx context.Context, n int) error {
	src := b.u.inner()
	has, err := src.begin()
	if err != nil {
		return err
	}
	var path string
	var size int64
	if _, named := src.path(); !has {
		err = sandbox.Field(fmt.Sprintf("files[%d].content", n), "is missing")
		if !named {
			err = sandbox.Field(fmt.Sprintf("files[%d].path", n), "is missing")
		}
	} else {
		b.agent.wait()
		path, size, err = b.s.receive(ctx, b.g, b.agent, src)
		b.agent.rest()
		if err != nil && sandbox.AsError(err).Kind == sandbox.Malformed {
			return err // the body itself is broken
		}
		if rest := src.drain(); rest != nil {
			return rest
		}
	}
	switch {
	case err == nil:
		b.done.Written = append(b.done.Written, api.FileStored{Path: path, Size: size})
	case ctx.Err() != nil || sandbox.HasCode(err, sandbox.CodeSandboxGone) || sandbox.AsError(err).Kind == sandbox.Internal:
		return err
	default:
		e := sandbox.AsError(err)
		to, _ := src.path()
		b.done.Failed = append(b.done.Failed, api.FileRefused{Path: cutText(to, maxPath), Error: e.Message, Code: e.Code})
	}
	return nil
}
