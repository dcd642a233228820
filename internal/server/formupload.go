package server

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"mime/multipart"

	"silica.dev/silica/sandbox"
)

// bufferFor sizes the buffer of an upload of length bytes (-1: unknown).
func bufferFor(length int64) int {
	const least, most = 4 << 10, 128 << 10
	if length < 0 || length > most {
		return most
	}
	return int(max((length+3)/4*4, least))
}

// formUpload is an upload as multipart/form-data: parts path and file.
type formUpload struct {
	body    io.Reader
	mr      *multipart.Reader
	part    *multipart.Part // the content, while it is being read
	to      string
	hasPath bool
	parts   int
}

func newFormUpload(body io.Reader, length int64, boundary string) *formUpload {
	return &formUpload{body: body, mr: multipart.NewReader(bufio.NewReaderSize(body, bufferFor(length)), boundary)}
}

func (u *formUpload) path() (string, bool) { return u.to, u.hasPath }

// begin reads parts up to the next one that is a file.
func (u *formUpload) begin() (bool, error) {
	for {
		part, err := u.mr.NextPart()
		if err == io.EOF {
			// What stands behind the last boundary means nothing.
			if _, err := io.CopyN(io.Discard, u.body, otherThanContent); err != nil && err != io.EOF {
				return false, bodyError(err)
			}
			return false, nil
		}
		if err != nil {
			return false, formError(err)
		}
		if u.parts++; u.parts > 64 {
			return false, sandbox.E(sandbox.Malformed, sandbox.CodeBadRequest, "too many parts")
		}
		switch part.FormName() {
		case "file", "content":
			u.part = part
			return true, nil
		case "path":
			raw, err := io.ReadAll(io.LimitReader(part, maxPath+1))
			if err != nil {
				return false, formError(err)
			}
			u.to, u.hasPath = string(raw), true
		default:
			if n, err := io.CopyN(io.Discard, part, otherThanContent); err == nil && n == otherThanContent {
				return false, sandbox.E(sandbox.TooLarge, sandbox.CodeBodyTooLarge, fmt.Sprintf("the part %q is too large", cutText(part.FormName(), 64)))
			} else if err != nil && err != io.EOF {
				return false, formError(err)
			}
		}
	}
}

func (u *formUpload) Read(p []byte) (int, error) {
	n, err := u.part.Read(p)
	if err == io.EOF {
		again, rest := u.begin()
		switch {
		case rest != nil:
			err = rest
		case again:
			err = sandbox.Field("file", "must be given once")
		}
		return n, err
	}
	if err != nil {
		return n, formError(err)
	}
	return n, nil
}

func formError(err error) error {
	if e := (*sandbox.Error)(nil); errors.As(err, &e) {
		return err
	}
	return sandbox.E(sandbox.Malformed, sandbox.CodeBadRequest, "the multipart body is broken or broke off").Because(err)
}
