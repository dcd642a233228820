package image

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// Names by which a layer takes away what earlier ones put there.
const (
	whiteout = ".wh."
	opaque   = ".wh..wh..opq"
)

// spool keeps the bodies of archives until an image is written from them.
type spool struct {
	file *os.File
	end  int64
	buf  []byte
}

// newSpool makes one in the folder dir.
func newSpool(dir string) (*spool, error) {
	f, err := os.CreateTemp(dir, "bodies")
	if err != nil {
		return nil, err
	}
	return &spool{file: f, buf: make([]byte, 256<<10)}, nil
}

func (s *spool) close() error { return errors.Join(s.file.Close(), os.Remove(s.file.Name())) }

// add keeps size bytes of r.
func (s *spool) add(r io.Reader, size int64) (body, error) {
	if size == 0 {
		return nil, nil
	}
	e := extent{s.file, s.end, size}
	for left := size; left > 0; {
		n, err := io.ReadFull(r, s.buf[:min(left, int64(len(s.buf)))])
		if err != nil {
			return nil, err
		}
		if _, err := s.file.WriteAt(s.buf[:n], s.end); err != nil {
			return nil, err
		}
		s.end += int64(n)
		left -= int64(n)
	}
	return e, nil
}

// unpacking adds one archive to a tree.
type unpacking struct {
	to    *tree
	spool *spool
	// layered says that the archive takes away what is below it by whiteouts.
	layered bool
	// base, when not nil, is what a hard link to itself means: as it was there.
	base *tree
}

// unpack reads the archive to its end.
func (u unpacking) unpack(ctx context.Context, r io.Reader) error {
	u.to.layer++
	archive := tar.NewReader(r)
	for {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return damaged(err)
		}
		if err := u.to.count(max(h.Size, 0)); err != nil {
			return err
		}
		if err := u.entry(h, archive); err != nil {
			return err
		}
	}
}

// damaged classifies an archive that can't be read; a broken connection, or a
// full disk, is no fault of the archive.
func damaged(err error) error {
	if errors.Is(err, tar.ErrHeader) || errors.Is(err, tar.ErrFieldTooLong) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errors.Join(hostile("", "is no archive, or a damaged one"), err)
	}
	return fmt.Errorf("read an archive: %w", err)
}

func (u unpacking) entry(h *tar.Header, r io.Reader) error {
	dir, last := path.Split(strings.TrimRight(h.Name, "/"))
	if u.layered && last == opaque {
		return u.to.hide(dir, true)
	}
	if hidden, ok := strings.CutPrefix(last, whiteout); u.layered && ok {
		if hidden == "" || hidden == "." || hidden == ".." {
			return hostile(h.Name, "takes away what can't be")
		}
		return u.to.hide(path.Join("/", dir, hidden), false)
	}
	if h.Uid < 0 || h.Gid < 0 || int64(h.Uid) > maxID || int64(h.Gid) > maxID {
		return hostile(h.Name, "belongs to a number that is no user's or group's")
	}
	n := &node{mode: uint32(h.Mode) & 0o7777, uid: uint32(h.Uid), gid: uint32(h.Gid)}
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeGNUSparse:
		if h.Size < 0 {
			return hostile(h.Name, "has a size below zero")
		}
		content, err := u.spool.add(r, h.Size)
		if err != nil {
			return damaged(err)
		}
		n.mode |= unix.S_IFREG
		n.size, n.body, n.stamped = h.Size, content, isBytecode(h.Name)
		return u.to.put(h.Name, n)
	case tar.TypeDir:
		n.mode |= unix.S_IFDIR
		n.children = map[string]*node{}
		return u.to.put(h.Name, n)
	case tar.TypeSymlink:
		if h.Linkname == "" || len(h.Linkname) > maxPath || strings.ContainsRune(h.Linkname, 0) {
			return hostile(h.Name, "is a link with an unusable target")
		}
		n.mode = unix.S_IFLNK | 0o777
		n.target, n.size = h.Linkname, int64(len(h.Linkname))
		return u.to.put(h.Name, n)
	case tar.TypeLink:
		if u.base != nil && h.Linkname == h.Name {
			return u.keep(h.Name)
		}
		return u.to.link(h.Name, h.Linkname)
	case tar.TypeChar, tar.TypeBlock, tar.TypeFifo:
		// Sandboxes have a /dev of their own.
		if parts, err := split(h.Name); err == nil && len(parts) > 1 && parts[0] == "dev" || h.Typeflag == tar.TypeFifo {
			return err
		}
		return hostile(h.Name, "is a device")
	case tar.TypeXGlobalHeader:
		return nil
	}
	return hostile(h.Name, "is of an unknown type")
}

// maxID is the largest number of a user or group; the one above means none.
const maxID = 1<<32 - 2

// keep takes over what the base has at name, with all that is below it. A
// folder can be taken over once: else it could be made to lie within itself.
func (u unpacking) keep(name string) error {
	n := u.base.find(name, false)
	if n == nil {
		return hostile(name, "is kept from the base image, which has none")
	}
	if n.isDir() {
		if err := u.take(name, n); err != nil {
			return err
		}
	}
	return u.to.put(name, n)
}

func (u unpacking) take(name string, n *node) error {
	if n.taken {
		return hostile(name, "is kept from the base image twice")
	}
	n.taken = true
	for _, c := range n.children {
		if err := u.to.count(c.size); err != nil {
			return err
		}
		if c.isDir() {
			if err := u.take(name, c); err != nil {
				return err
			}
		}
	}
	return nil
}
