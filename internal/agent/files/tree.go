package files

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"silica.dev/silica/internal/guest/guestpb"
	"silica.dev/silica/sandbox"
)

const (
	// maxEntries and maxListing bound one answer; the latter in bytes, below
	// what the host takes as one message.
	maxEntries = 100_000
	maxListing = 3 << 20
)

// Stat describes what is at name, a symlink as such.
func (f *Files) Stat(name string) (*guestpb.Entry, error) {
	p, err := Clean(name)
	if err != nil {
		return nil, err
	}
	e, err := entry(p)
	return e, f.classify(p, err)
}

func entry(p string) (*guestpb.Entry, error) {
	var st unix.Stat_t
	if err := unix.Lstat(p, &st); err != nil {
		return nil, &fs.PathError{Op: "lstat", Path: p, Err: err}
	}
	e := &guestpb.Entry{
		Name:             Text(path.Base(p)),
		Path:             Text(p),
		Type:             guestpb.Entry_OTHER,
		Size:             st.Size,
		Mode:             st.Mode & 0o7777,
		Uid:              st.Uid,
		Gid:              st.Gid,
		ModifiedUnixNano: st.Mtim.Nano(),
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		e.Type = guestpb.Entry_FILE
	case unix.S_IFDIR:
		e.Type, e.IsDir = guestpb.Entry_DIRECTORY, true
	case unix.S_IFLNK:
		e.Type = guestpb.Entry_SYMLINK
		target, _ := os.Readlink(p) // gone meanwhile: no target
		e.SymlinkTarget = Text(target)
		e.IsDir = unix.Stat(p, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR
	}
	return e, nil
}

// List names what is in a folder, depth levels deep (0 is 1), sorted by path.
// Symlinks below it are not followed.
func (f *Files) List(name string, depth uint32) ([]*guestpb.Entry, error) {
	p, err := Clean(name)
	if err != nil {
		return nil, err
	}
	var st unix.Stat_t
	if err := unix.Stat(p, &st); err != nil {
		return nil, f.classify(p, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return nil, sandbox.E(sandbox.Conflict, sandbox.CodeNotDirectory, fmt.Sprintf("%q is not a directory", Text(p)))
	}
	l := lister{}
	if err := l.add(p, max(1, depth)); err != nil {
		return nil, f.classify(p, err)
	}
	slices.SortFunc(l.entries, func(a, b *guestpb.Entry) int { return strings.Compare(a.Path, b.Path) })
	return l.entries, nil
}

type lister struct {
	entries []*guestpb.Entry
	bytes   int
}

func (l *lister) add(dir string, depth uint32) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	for {
		names, err := d.Readdirnames(256)
		for _, name := range names {
			e, err := entry(path.Join(dir, name))
			if errors.Is(err, fs.ErrNotExist) {
				continue // it went while we looked
			}
			if err != nil {
				return err
			}
			l.entries = append(l.entries, e)
			l.bytes += len(e.Name) + len(e.Path) + len(e.SymlinkTarget) + 48
			if len(l.entries) > maxEntries || l.bytes > maxListing {
				return sandbox.Field("path", "holds too many files for one listing; list its folders one by one")
			}
			if e.Type == guestpb.Entry_DIRECTORY && depth > 1 {
				if err := l.add(path.Join(dir, name), depth-1); err != nil && !errors.Is(err, fs.ErrNotExist) {
					return err
				}
			}
		}
		if err != nil || len(names) == 0 {
			break // io.EOF
		}
	}
	return nil
}

// MakeDir makes a folder; with parents, one that exists is a success.
func (f *Files) MakeDir(name string, mode uint32, parents bool) (*guestpb.Entry, error) {
	p, err := Clean(name)
	if err != nil {
		return nil, err
	}
	if mode == 0 {
		mode = parentMode
	}
	if mode &^= unix.S_IFMT; mode > 0o7777 {
		return nil, sandbox.Field("mode", "must be permission bits")
	}
	if parents {
		if err := os.MkdirAll(path.Dir(p), parentMode); err != nil {
			return nil, f.classify(p, err)
		}
	}
	err = unix.Mkdir(p, mode)
	switch {
	case err == nil:
		err = unix.Chmod(p, mode) // whatever our umask
	case parents && errors.Is(err, unix.EEXIST):
		var st unix.Stat_t
		if unix.Stat(p, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR {
			err = nil
		}
	}
	if err != nil {
		return nil, f.classify(p, err)
	}
	e, err := entry(p)
	return e, f.classify(p, err)
}

// Move renames a file or folder and makes the target's parents. An existing file
// is replaced.
func (f *Files) Move(from, to string) (*guestpb.Entry, error) {
	src, err := Clean(from)
	if err != nil {
		return nil, err
	}
	dst, err := Clean(to)
	if err != nil {
		return nil, err
	}
	if _, err := os.Lstat(src); err != nil {
		return nil, f.classify(src, err)
	}
	if err := os.MkdirAll(path.Dir(dst), parentMode); err != nil {
		return nil, f.classify(dst, err)
	}
	err = unix.Rename(src, dst)
	if errors.Is(err, unix.EXDEV) {
		err = f.moveAcross(src, dst)
	}
	if err != nil {
		return nil, f.classify(dst, err)
	}
	e, err := entry(dst)
	return e, f.classify(dst, err)
}

// moveAcross moves a regular file to another file system.
func (f *Files) moveAcross(src, dst string) error {
	var st unix.Stat_t
	if err := unix.Lstat(src, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return unix.EXDEV
	}
	file, err := os.OpenFile(src, os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer file.Close()
	if _, err := f.Write(dst, st.Mode&0o7777, file); err != nil {
		return err
	}
	if err := os.Chown(dst, int(st.Uid), int(st.Gid)); err != nil {
		return err
	}
	return os.Remove(src)
}

// Remove deletes a file or an empty folder, or with recursive a folder and all
// in it. Symlinks are deleted, not followed.
func (f *Files) Remove(name string, recursive bool) error {
	p, err := Clean(name)
	if err != nil {
		return err
	}
	if p == "/" {
		return sandbox.E(sandbox.Invalid, sandbox.CodeInvalidPath, "the root can't be removed")
	}
	if _, err := os.Lstat(p); err != nil {
		return f.classify(p, err)
	}
	if recursive {
		return f.classify(p, os.RemoveAll(p))
	}
	return f.classify(p, os.Remove(p))
}
