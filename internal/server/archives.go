package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path"
	"strconv"
	"strings"
	"unicode"

	"silica.dev/silica/api"
	"silica.dev/silica/internal/guest"
	"silica.dev/silica/sandbox"
)

const (
	// maxArchive is how many bytes one archive sent to us may have. What is in
	// it is bounded by the agent, and by the sandbox's disk.
	maxArchive = 16 << 30
	// maxNamed is how many bytes the paths of one export have together.
	maxNamed = 16 << 10
)

// Forms of archives, and the media types they are sent as.
var archiveFormats = map[string]string{"tar": "application/x-tar", "tar.gz": "application/gzip", "zip": "application/zip"}

func archiveFormat(name string) (string, error) {
	switch name {
	case "":
		return "tar.gz", nil
	case "tgz":
		return "tar.gz", nil
	}
	if archiveFormats[name] == "" {
		return "", sandbox.Field("format", "must be tar, tar.gz or zip")
	}
	return name, nil
}

// getArchive sends a folder's content as an archive, names starting from the
// folder itself.
func (s *Server) getArchive(w http.ResponseWriter, r *http.Request, c sandbox.Caller) error {
	q := r.URL.Query()
	from, err := cleanPath("path", q.Get("path"))
	if err != nil {
		return err
	}
	format, err := archiveFormat(q.Get("format"))
	if err != nil {
		return err
	}
	ctx, g, _, err := s.deps.Sandboxes.Guest(r.Context(), c, param(r, "id"))
	if err != nil {
		return err
	}
	return s.sendArchive(ctx, w, g, guest.Pack{Paths: []string{from}, Format: format}, path.Base(from)+"."+format)
}

// sendArchive passes an archive on while the sandbox packs it, as fast as the
// client reads.
func (s *Server) sendArchive(ctx context.Context, w http.ResponseWriter, g *guest.Client, p guest.Pack, name string) error {
	ctx, agent, cancel := s.patient(ctx)
	defer cancel()
	body, err := g.ReadArchive(ctx, p)
	if err != nil {
		return err
	}
	defer body.Close()
	agent.rest()
	h := w.Header()
	h.Set("Content-Type", archiveFormats[p.Format])
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Disposition", attachment(name))
	buf := copyBuffers.Get().(*[]byte)
	defer copyBuffers.Put(buf)
	w.WriteHeader(http.StatusOK)
	_, err = io.CopyBuffer(struct{ io.Writer }{w}, agent.from(body), *buf)
	return err // the client sees the connection break
}

// attachment is a Content-Disposition under which browsers store a download.
func attachment(name string) string {
	plain := strings.Map(func(c rune) rune {
		if c < ' ' || c > '~' || c == '"' || c == '\\' || c == '/' {
			return '_'
		}
		return c
	}, name)
	return fmt.Sprintf(`attachment; filename="%s"; filename*=UTF-8''%s`, plain, escapeExt(name))
}

// escapeExt escapes as RFC 8187 wants it.
func escapeExt(s string) string {
	var b strings.Builder
	for i := range len(s) {
		c := s[i]
		if c < unicode.MaxASCII && (c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '.' || c == '-' || c == '_') {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}

// putArchive unpacks the body, a tar archive that may be compressed with gzip,
// into a folder.
func (s *Server) putArchive(w http.ResponseWriter, r *http.Request, c sandbox.Caller) error {
	q := r.URL.Query()
	to, err := cleanPath("path", q.Get("path"))
	if err != nil {
		return err
	}
	owners := false
	if v := q.Get("preserve_owner"); v != "" {
		if owners, err = strconv.ParseBool(v); err != nil {
			return sandbox.Field("preserve_owner", "must be true or false")
		}
	}
	ctx, g, sb, err := s.deps.Sandboxes.Guest(r.Context(), c, param(r, "id"))
	if err != nil {
		return err
	}
	tooLarge := sandbox.E(sandbox.TooLarge, sandbox.CodeFileTooLarge,
		fmt.Sprintf("an archive may have at most %d GiB", maxArchive>>30)).With("max_bytes", int64(maxArchive))
	if r.ContentLength > maxArchive {
		return tooLarge
	}
	ctx, agent, cancel := s.patient(ctx)
	defer cancel()
	body := &content{src: rawUpload{r.Body}, agent: agent, left: maxArchive, tooLarge: tooLarge}
	n, err := g.WriteArchive(ctx, to, owners, body)
	if err = body.verdict(err); err != nil {
		return err
	}
	writeOne(w, http.StatusOK, api.Unpacked{
		SandboxID: string(sb.ID), Path: to, Entries: n.Entries, Files: n.Files, Bytes: n.Bytes, Skipped: n.Skipped,
	})
	return nil
}

// rawUpload is an upload whose body is the content.
type rawUpload struct{ r io.Reader }

func (rawUpload) begin() (bool, error) { return true, nil }
func (rawUpload) path() (string, bool) { return "", false }

func (u rawUpload) Read(p []byte) (int, error) {
	n, err := u.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = bodyError(err)
	}
	return n, err
}
