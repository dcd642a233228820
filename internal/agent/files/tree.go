package files

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"silica.dev/silica/internal/guest"
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
	e := &guestpb.Entry{Path: guest.Spell(p), Name: guest.Spell(path.Base(p))}
	if err := describe(e, unix.AT_FDCWD, p); err != nil {
		return nil, &fs.PathError{Op: "lstat", Path: p, Err: err}
	}
	return e, nil
}

// describe fills e with what is at p, seen from the folder dir: from there names
// are found sooner than from the root.
func describe(e *guestpb.Entry, dir int, p string) error {
	var st unix.Stat_t
	if err := unix.Fstatat(dir, p, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	e.Size, e.Mode, e.Uid, e.Gid, e.ModifiedUnixNano = st.Size, st.Mode&0o7777, st.Uid, st.Gid, st.Mtim.Nano()
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		e.Type = guestpb.Entry_FILE
	case unix.S_IFDIR:
		e.Type, e.IsDir = guestpb.Entry_DIRECTORY, true
	case unix.S_IFLNK:
		e.Type = guestpb.Entry_SYMLINK
		var target [unix.PathMax]byte
		n, _ := unix.Readlinkat(dir, p, target[:]) // gone meanwhile: no target
		e.SymlinkTarget = guest.Spell(string(target[:max(n, 0)]))
		e.IsDir = unix.Fstatat(dir, p, &st, 0) == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR
	default:
		e.Type = guestpb.Entry_OTHER
	}
	return nil
}

// List names what is in a folder, depth levels deep (0 is 1), sorted by path.
// Symlinks below it are not followed. With a limit the answer may be cut off, but
// for whole levels first; without one too many entries are an error.
func (f *Files) List(ctx context.Context, name string, depth, limit uint32) (entries []*guestpb.Entry, cut bool, err error) {
	p, err := Clean(name)
	if err != nil {
		return nil, false, err
	}
	var st unix.Stat_t
	if err := unix.Stat(p, &st); err != nil {
		return nil, false, f.classify(p, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return nil, false, notDirectory(p)
	}
	l := lister{ctx: ctx, most: maxEntries}
	if limit > 0 {
		l.most = min(l.most, int(limit))
	}
	for folders := []string{p}; len(folders) > 0 && err == nil; depth-- {
		folders, err = l.level(folders, depth > 1)
	}
	if limit > 0 && errors.Is(err, errCut) {
		cut, err = true, nil
	}
	if err != nil {
		return nil, false, f.classify(p, err)
	}
	slices.SortFunc(l.entries, func(a, b *guestpb.Entry) int { return strings.Compare(a.Path, b.Path) })
	return l.entries, cut, nil
}

func notDirectory(p string) error {
	return sandbox.E(sandbox.Conflict, sandbox.CodeNotDirectory, fmt.Sprintf("%q is not a directory", guest.Spell(p)))
}

// lister collects the entries of folders.
type lister struct {
	ctx     context.Context
	most    int
	entries []*guestpb.Entry
	bytes   int
}

var errCut = sandbox.Field("path", "holds too many files for one listing; list its folders one by one")

// level adds what is in some folders, and returns the folders among that if the
// next level is wanted. Only the first listing's own folder, which has nothing
// beside it, must be readable.
func (l *lister) level(folders []string, deeper bool) (next []string, err error) {
	for i, dir := range folders {
		err := l.folder(dir, deeper, &next)
		if errors.Is(err, errCut) || l.ctx.Err() != nil || err != nil && i == 0 && len(l.entries) == 0 {
			return nil, err
		}
	}
	return next, nil
}

func (l *lister) folder(dir string, deeper bool, next *[]string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	fd, at := int(d.Fd()), guest.Spell(strings.TrimSuffix(dir, "/"))
	for {
		names, err := d.Readdirnames(1024)
		if l.ctx.Err() != nil {
			return l.ctx.Err()
		}
		slab := make([]guestpb.Entry, len(names))
		for i, name := range names {
			e := &slab[i]
			if err := describe(e, fd, name); errors.Is(err, fs.ErrNotExist) {
				continue // it went while we looked
			} else if err != nil {
				return err
			}
			e.Name = guest.Spell(name)
			e.Path = at + "/" + e.Name
			l.bytes += len(e.Name) + len(e.Path) + len(e.SymlinkTarget) + 48
			if len(l.entries) >= l.most || l.bytes > maxListing {
				return errCut
			}
			l.entries = append(l.entries, e)
			if e.Type == guestpb.Entry_DIRECTORY && deeper {
				*next = append(*next, path.Join(dir, name))
			}
		}
		if err != nil || len(names) == 0 {
			return nil // io.EOF
		}
	}
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
// is replaced, unless keep is set.
func (f *Files) Move(ctx context.Context, from, to string, keep bool) (*guestpb.Entry, error) {
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
	if below(dst, src) && dst != src {
		return nil, intoItself(src)
	}
	if err := vacant(dst, keep); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(path.Dir(dst), parentMode); err != nil {
		return nil, f.classify(dst, err)
	}
	err = rename(src, dst, keep)
	if errors.Is(err, unix.EXDEV) {
		c := copier{f: f, ctx: ctx}
		if err = c.tree(src, dst); err == nil {
			err = os.RemoveAll(src)
		}
	}
	if err != nil {
		return nil, f.classify(dst, err)
	}
	e, err := entry(dst)
	return e, f.classify(dst, err)
}

func rename(src, dst string, keep bool) error {
	if keep {
		err := unix.Renameat2(unix.AT_FDCWD, src, unix.AT_FDCWD, dst, unix.RENAME_NOREPLACE)
		if !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOSYS) {
			return err
		}
		// This file system can't promise it; vacant has looked.
	}
	return unix.Rename(src, dst)
}

// vacant refuses a target that is there already, if it is to be kept.
func vacant(dst string, keep bool) error {
	if !keep {
		return nil
	}
	if _, err := os.Lstat(dst); err == nil {
		return sandbox.E(sandbox.Conflict, sandbox.CodeFileExists, fmt.Sprintf("%q exists", guest.Spell(dst)))
	}
	return nil
}

func intoItself(p string) error {
	return sandbox.E(sandbox.Invalid, sandbox.CodeInvalidPath, fmt.Sprintf("%q can't go into itself", guest.Spell(p)))
}

// below tells whether p is dir or in it.
func below(p, dir string) bool {
	return p == dir || strings.HasPrefix(p, strings.TrimSuffix(dir, "/")+"/")
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
