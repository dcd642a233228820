package files

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path"
	"path/filepath"

	"golang.org/x/sys/unix"

	"silica.dev/silica/internal/guest/guestpb"
)

// Copy copies a file, or with recursive a folder and all in it, and makes the
// target's parents. Permissions, owners and times stay what they are, symlinks
// below from stay symlinks, and holes holes. Existing files are replaced one by
// one, each whole or not at all, unless keep is set; folders are merged. It ends
// early when ctx does.
func (f *Files) Copy(ctx context.Context, from, to string, recursive, keep bool) (*guestpb.Entry, error) {
	src, err := Clean(from)
	if err != nil {
		return nil, err
	}
	dst, err := Clean(to)
	if err != nil {
		return nil, err
	}
	real, err := filepath.EvalSymlinks(src)
	if err != nil {
		return nil, f.classify(src, err)
	}
	var a, b unix.Stat_t
	if err := unix.Stat(real, &a); err != nil {
		return nil, f.classify(src, err)
	}
	isDir := a.Mode&unix.S_IFMT == unix.S_IFDIR
	switch {
	case isDir && !recursive:
		return nil, isDirectory(src)
	case !isDir && a.Mode&unix.S_IFMT != unix.S_IFREG:
		return nil, notRegular(src)
	}
	if err := vacant(dst, keep); err != nil {
		return nil, err
	}
	if unix.Stat(dst, &b) == nil {
		targetIsDir := b.Mode&unix.S_IFMT == unix.S_IFDIR
		switch {
		case a.Dev == b.Dev && a.Ino == b.Ino:
			return nil, intoItself(src)
		case targetIsDir && !isDir:
			return nil, isDirectory(dst)
		case isDir && !targetIsDir:
			return nil, notDirectory(dst)
		}
	}
	if err := os.MkdirAll(path.Dir(dst), parentMode); err != nil {
		return nil, f.classify(dst, err)
	}
	if folder, err := filepath.EvalSymlinks(path.Dir(dst)); err == nil && isDir && below(path.Join(folder, path.Base(dst)), real) {
		return nil, intoItself(src)
	}
	c := copier{f: f, ctx: ctx}
	if err := c.tree(real, dst); err != nil {
		return nil, f.classify(dst, err)
	}
	e, err := entry(dst)
	return e, f.classify(dst, err)
}

// copier copies trees.
type copier struct {
	f   *Files
	ctx context.Context
}

// tree copies whatever is at src.
func (c copier) tree(src, dst string) error {
	if err := context.Cause(c.ctx); err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Lstat(src, &st); err != nil {
		return c.f.classify(src, err)
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		return c.file(src, dst, &st)
	case unix.S_IFDIR:
		return c.folder(src, dst, &st)
	case unix.S_IFLNK:
		return c.link(src, dst, &st)
	case unix.S_IFIFO:
		if err := unix.Mkfifo(dst, st.Mode&0o7777); err != nil && !errors.Is(err, unix.EEXIST) {
			return c.f.classify(dst, err)
		}
	}
	return nil // sockets mean nothing elsewhere, and devices can't be made in here
}

func (c copier) folder(src, dst string, st *unix.Stat_t) error {
	err := os.Mkdir(dst, 0o700)
	if errors.Is(err, unix.EEXIST) {
		err = nil
		if info, serr := os.Stat(dst); serr == nil && !info.IsDir() {
			return notDirectory(dst)
		}
	}
	if err != nil {
		return c.f.classify(dst, err)
	}
	d, err := os.Open(src)
	if err != nil {
		return c.f.classify(src, err)
	}
	defer d.Close()
	for {
		names, err := d.Readdirnames(256)
		for _, name := range names {
			if IsTemp(name) {
				continue // a write under way
			}
			if err := c.tree(path.Join(src, name), path.Join(dst, name)); err != nil && !gone(src, name, err) {
				return err
			}
		}
		if err != nil || len(names) == 0 {
			break // io.EOF
		}
	}
	return dress(dst, st)
}

// gone tells whether err is only about something that went while we looked.
func gone(dir, name string, err error) bool {
	if !errors.Is(err, unix.ENOENT) {
		return false
	}
	_, err = os.Lstat(path.Join(dir, name))
	return errors.Is(err, unix.ENOENT)
}

func (c copier) link(src, dst string, st *unix.Stat_t) error {
	target, err := os.Readlink(src)
	if err != nil {
		return c.f.classify(src, err)
	}
	if old, err := os.Readlink(dst); err == nil && old == target {
		return nil
	}
	temp := tempName(path.Dir(dst))
	if err := os.Symlink(target, temp); err != nil {
		return c.f.classify(dst, err)
	}
	_ = os.Lchown(temp, int(st.Uid), int(st.Gid))
	if err := os.Rename(temp, dst); err != nil {
		os.Remove(temp)
		return c.f.classify(dst, err)
	}
	return nil
}

func (c copier) file(src, dst string, st *unix.Stat_t) error {
	in, err := openRegular(src)
	if err != nil {
		return c.f.classify(src, err)
	}
	defer in.Close()
	if info, err := os.Stat(dst); err == nil && info.IsDir() {
		return isDirectory(dst)
	}
	out, err := createTemp(path.Dir(dst))
	if err != nil {
		return c.f.classify(dst, err)
	}
	err = c.f.sparse(c.ctx, out, in)
	if cerr := out.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = dress(out.Name(), st)
	}
	if err == nil {
		err = os.Rename(out.Name(), dst)
	}
	if err != nil {
		os.Remove(out.Name())
		return c.f.classify(dst, err)
	}
	return nil
}

// openRegular opens a regular file, and nothing that would have effects or block.
func openRegular(p string) (*os.File, error) {
	var st unix.Stat_t
	if err := unix.Lstat(p, &st); err != nil {
		return nil, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, notRegular(p)
	}
	fd, err := unix.Open(p, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	if err := unix.Fstat(fd, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
		unix.Close(fd)
		return nil, notRegular(p)
	}
	_ = unix.SetNonblock(fd, false) // no need for the poller
	return os.NewFile(uintptr(fd), p), nil
}

// dress gives what is at p the owner, permissions and times of st.
func dress(p string, st *unix.Stat_t) error {
	if err := os.Lchown(p, int(st.Uid), int(st.Gid)); err != nil {
		return err
	}
	if err := unix.Chmod(p, st.Mode&0o7777); err != nil { // after chown, which clears set-id bits
		return err
	}
	return unix.UtimesNanoAt(unix.AT_FDCWD, p, []unix.Timespec{st.Atim, st.Mtim}, unix.AT_SYMLINK_NOFOLLOW)
}

// hole is the least run of zeros that is not written.
const hole = 64 << 10

var zeros [hole]byte

// sparse copies in to the empty file out, leaving holes where there are only zeros.
func (f *Files) sparse(ctx context.Context, out *os.File, in io.Reader) error {
	buf := f.buffer()
	defer f.putBuffer(buf)
	size, skipped := int64(0), false
	for {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		n, err := io.ReadFull(in, buf[:])
		for piece := buf[:n]; len(piece) > 0; {
			part := piece[:min(hole, len(piece))]
			piece = piece[len(part):]
			size += int64(len(part))
			if bytes.Equal(part, zeros[:len(part)]) {
				skipped = true
				continue
			}
			if skipped {
				if _, err := out.Seek(size-int64(len(part)), io.SeekStart); err != nil {
					return err
				}
				skipped = false
			}
			if _, err := out.Write(part); err != nil {
				return err
			}
		}
		switch {
		case errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF):
			if skipped {
				return out.Truncate(size)
			}
			return nil
		case err != nil:
			return err
		}
	}
}
