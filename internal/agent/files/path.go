// Package files reads and changes files by absolute path, so that nothing else
// in the agent need know how to do so whole or not at all.
//
// Paths come and go in guest's spelling, which any name has; those that come may
// also be the bytes themselves.
package files

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"silica.dev/silica/internal/guest"
	"silica.dev/silica/sandbox"
)

// Files does the work.
type Files struct {
	bufs  sync.Pool // *[bufSize]byte
	noted func()    // a write found no room
}

// bufSize is that of one copy.
const bufSize = 512 << 10

// New returns Files that calls noSpace whenever a write found no room.
func New(noSpace func()) *Files {
	return &Files{bufs: sync.Pool{New: func() any { return new([bufSize]byte) }}, noted: noSpace}
}

func (f *Files) buffer() *[bufSize]byte     { return f.bufs.Get().(*[bufSize]byte) }
func (f *Files) putBuffer(b *[bufSize]byte) { f.bufs.Put(b) }

// Clean checks a path and removes what is superfluous in it.
func Clean(p string) (string, error) {
	p = guest.Unspell(p)
	bad := ""
	switch {
	case p == "":
		bad = "the path is empty"
	case p[0] != '/':
		bad = "the path must be absolute"
	case strings.IndexByte(p, 0) >= 0:
		bad = "the path holds a NUL byte"
	case len(p) >= unix.PathMax:
		bad = "the path is too long"
	}
	if bad != "" {
		return "", sandbox.E(sandbox.Invalid, sandbox.CodeInvalidPath, bad)
	}
	return path.Clean(p), nil
}

// classify turns what the kernel says about p into what the caller can do.
func (f *Files) classify(p string, err error) error {
	var mine *sandbox.Error
	if err == nil || errors.As(err, &mine) {
		return err
	}
	p = guest.Spell(p)
	var errno unix.Errno
	errors.As(err, &errno)
	e := func(kind sandbox.Kind, code, text string) error {
		return sandbox.E(kind, code, text).Because(err)
	}
	switch errno {
	case unix.ENOENT:
		return e(sandbox.NotFound, sandbox.CodeFileNotFound, fmt.Sprintf("%q does not exist", p))
	case unix.ENOTDIR:
		return e(sandbox.Conflict, sandbox.CodeNotDirectory, fmt.Sprintf("a part of %q is not a directory", p))
	case unix.EISDIR:
		return e(sandbox.Conflict, sandbox.CodeIsDirectory, fmt.Sprintf("%q is a directory", p))
	case unix.EEXIST:
		return e(sandbox.Conflict, sandbox.CodeFileExists, fmt.Sprintf("%q exists", p))
	case unix.EACCES, unix.EPERM, unix.EROFS:
		return e(sandbox.Forbidden, sandbox.CodePermissionDenied, fmt.Sprintf("access to %q is denied: %s", p, errno))
	case unix.ENOSPC, unix.EDQUOT:
		if f.noted != nil {
			f.noted()
		}
		return e(sandbox.Exhausted, sandbox.CodeNoSpace, fmt.Sprintf("no space left for %q", p))
	case unix.ENAMETOOLONG, unix.ELOOP, unix.EINVAL, unix.EILSEQ:
		return e(sandbox.Invalid, sandbox.CodeInvalidPath, fmt.Sprintf("%q can't be a path: %s", p, errno))
	case unix.ENOTEMPTY:
		return e(sandbox.Conflict, sandbox.CodeConflict, fmt.Sprintf("the directory %q is not empty", p))
	case unix.EBUSY, unix.ETXTBSY, unix.EXDEV:
		return e(sandbox.Conflict, sandbox.CodeConflict, fmt.Sprintf("%q is in use or on another file system: %s", p, errno))
	case unix.ENXIO, unix.ENODEV, unix.ESPIPE, unix.EIO:
		return e(sandbox.Conflict, sandbox.CodeNotRegularFile, fmt.Sprintf("%q can't be read as a file", p))
	}
	return fmt.Errorf("%q: %w", p, err)
}

func isDirectory(p string) error {
	return sandbox.E(sandbox.Conflict, sandbox.CodeIsDirectory, fmt.Sprintf("%q is a directory", guest.Spell(p)))
}

func notRegular(p string) error {
	return sandbox.E(sandbox.Conflict, sandbox.CodeNotRegularFile, fmt.Sprintf("%q is not a regular file", guest.Spell(p)))
}

// Temporary files, in the folder of what they are to replace.
const (
	tempPrefix = ".silica-"
	tempSuffix = ".tmp"
)

// IsTemp tells whether a name is that of a write under way.
func IsTemp(name string) bool {
	return strings.HasPrefix(name, tempPrefix) && strings.HasSuffix(name, tempSuffix)
}

// createTemp makes an empty file in dir. Its name is fresh also in copies of one
// snapshot: it comes from the kernel.
func createTemp(dir string) (*os.File, error) {
	return os.OpenFile(tempName(dir), os.O_WRONLY|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o600)
}

func tempName(dir string) string { return path.Join(dir, tempPrefix+rand.Text()+tempSuffix) }

// follow resolves symlinks in the last part of p, also of a target that does
// not exist yet, so that a write goes where the link points.
func follow(p string) (string, error) {
	for range 40 {
		target, err := os.Readlink(p)
		if err != nil {
			return p, nil // EINVAL: no link; the rest shows when it is opened
		}
		if !path.IsAbs(target) {
			dir, err := filepath.EvalSymlinks(path.Dir(p)) // ".." is that of the real folder
			if err != nil {
				return "", err
			}
			target = path.Join(dir, target)
		}
		p = path.Clean(target)
	}
	return "", &fs.PathError{Op: "open", Path: p, Err: unix.ELOOP}
}
