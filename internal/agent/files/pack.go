package files

import (
	"archive/tar"
	"archive/zip"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"silica.dev/silica/sandbox"
)

// Forms in which trees are packed.
const (
	FormatTar   = "tar"
	FormatTarGz = "tar.gz"
	FormatZip   = "zip"
)

// Pack says what to put into an archive.
type Pack struct {
	Paths  []string
	From   string // the folder that names in the archive start from; "": the only path
	Format string
}

// Archive is a Pack that was checked.
type Archive struct {
	f      *Files
	paths  []string
	from   string
	format string
}

// Archive checks p. What it names must be there, and below From.
func (f *Files) Archive(p Pack) (*Archive, error) {
	a := &Archive{f: f, format: p.Format}
	if !slices.Contains([]string{FormatTar, FormatTarGz, FormatZip}, p.Format) {
		return nil, sandbox.Field("format", "must be tar, tar.gz or zip")
	}
	if len(p.Paths) == 0 {
		return nil, sandbox.Field("path", "is missing")
	}
	if p.From == "" {
		p.From = p.Paths[0]
	}
	var err error
	if a.from, err = Clean(p.From); err != nil {
		return nil, err
	}
	for _, name := range p.Paths {
		clean, err := Clean(name)
		if err != nil {
			return nil, err
		}
		info, err := os.Stat(clean) // also of what a symlink named here points to
		switch {
		case err != nil:
			return nil, f.classify(clean, err)
		case !info.IsDir() && !info.Mode().IsRegular():
			return nil, notRegular(clean)
		case !info.IsDir() && clean == a.from:
			a.from = path.Dir(clean)
		case !below(clean, a.from):
			return nil, sandbox.Field("path", "is not below the folder that names start from")
		}
		a.paths = append(a.paths, clean)
	}
	return a, nil
}

// packer writes one form of archive. size bytes of body follow for files.
type packer interface {
	add(name string, st *unix.Stat_t, target string, size int64) (io.Writer, error)
	Close() error
}

// Write writes the archive while it is read. Sockets, FIFOs, devices and what
// is in /proc and /sys are left out. A file that grows meanwhile is cut off at
// the size it had, one that shrinks is filled up with zeros: an archive that is
// written into the tree it holds ends all the same.
func (a *Archive) Write(ctx context.Context, w io.Writer) error {
	var to packer
	switch a.format {
	case FormatZip:
		to = &zipPacker{zip.NewWriter(w)}
	case FormatTarGz:
		z, err := gzip.NewWriterLevel(w, gzip.BestSpeed)
		if err != nil {
			return err
		}
		to = &tarPacker{tar.NewWriter(z), z}
	default:
		to = &tarPacker{tar.NewWriter(w), nil}
	}
	buf := a.f.buffer()
	defer a.f.putBuffer(buf)
	t := &packing{ctx: ctx, to: to, from: a.from, buf: buf[:]}
	for _, p := range a.paths {
		real, err := follow(p)
		if err == nil {
			err = t.tree(real, strings.TrimPrefix(strings.TrimPrefix(p, strings.TrimSuffix(a.from, "/")), "/"))
		}
		if err != nil {
			return a.f.classify(p, err)
		}
	}
	return to.Close()
}

// packing is one archive being written.
type packing struct {
	ctx  context.Context
	to   packer
	from string
	buf  []byte
}

// tree adds what is at p as name; "" is the archive's root, which needs no entry.
func (t *packing) tree(p, name string) error {
	if err := context.Cause(t.ctx); err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Lstat(p, &st); errors.Is(err, unix.ENOENT) {
		return nil // it went while we looked
	} else if err != nil {
		return err
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		return t.file(p, name, &st)
	case unix.S_IFLNK:
		target, err := os.Readlink(p)
		if err != nil {
			return err
		}
		_, err = t.to.add(name, &st, target, 0)
		return err
	case unix.S_IFDIR:
		if name != "" {
			if _, err := t.to.add(name, &st, "", 0); err != nil {
				return err
			}
		}
		return t.folder(p, name)
	}
	return nil
}

func (t *packing) folder(p, name string) error {
	if name != "" && notStored(p) {
		return nil
	}
	d, err := os.Open(p)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer d.Close()
	for {
		names, err := d.Readdirnames(256)
		for _, n := range names {
			if IsTemp(n) {
				continue // a write under way
			}
			if err := t.tree(path.Join(p, n), path.Join(name, n)); err != nil {
				return err
			}
		}
		if err != nil || len(names) == 0 {
			return nil // io.EOF
		}
	}
}

// notStored tells whether a folder's content is made up by the kernel.
func notStored(p string) bool {
	var st unix.Statfs_t
	if unix.Statfs(p, &st) != nil {
		return false
	}
	switch st.Type {
	case unix.PROC_SUPER_MAGIC, unix.SYSFS_MAGIC, unix.DEVPTS_SUPER_MAGIC, unix.CGROUP_SUPER_MAGIC, unix.CGROUP2_SUPER_MAGIC:
		return true
	}
	return false
}

func (t *packing) file(p, name string, st *unix.Stat_t) error {
	in, err := openRegular(p)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer in.Close()
	// A small file is read before its size is told, and so is always whole.
	n, err := io.ReadFull(in, t.buf)
	size := int64(n)
	switch {
	case err == nil:
		size = max(size, st.Size)
	case !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF):
		return err
	}
	w, err := t.to.add(name, st, "", size)
	if err != nil {
		return err
	}
	if _, err := w.Write(t.buf[:n]); err != nil {
		return err
	}
	for left := size - int64(n); left > 0; {
		if err := context.Cause(t.ctx); err != nil {
			return err
		}
		n, err := in.Read(t.buf[:min(left, int64(len(t.buf)))])
		if n == 0 && err != nil { // it shrank
			n = int(min(left, int64(len(t.buf))))
			clear(t.buf[:n])
		}
		if _, err := w.Write(t.buf[:n]); err != nil {
			return err
		}
		left -= int64(n)
	}
	return nil
}

type tarPacker struct {
	*tar.Writer
	z *gzip.Writer // nil: not compressed
}

func (t *tarPacker) add(name string, st *unix.Stat_t, target string, size int64) (io.Writer, error) {
	h := &tar.Header{
		Typeflag: tar.TypeReg, Name: name, Linkname: target, Size: size, Mode: int64(st.Mode & 0o7777),
		Uid: int(st.Uid), Gid: int(st.Gid), ModTime: time.Unix(st.Mtim.Sec, 0), // as it is, not rounded up
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		h.Typeflag, h.Name = tar.TypeDir, name+"/"
	case unix.S_IFLNK:
		h.Typeflag = tar.TypeSymlink
	}
	if err := t.WriteHeader(h); err != nil {
		return nil, fmt.Errorf("%q: %w", name, err)
	}
	return t.Writer, nil
}

func (t *tarPacker) Close() error {
	err := t.Writer.Close()
	if t.z != nil {
		err = errors.Join(err, t.z.Close())
	}
	return err
}

type zipPacker struct{ *zip.Writer }

func (z *zipPacker) add(name string, st *unix.Stat_t, target string, _ int64) (io.Writer, error) {
	h := &zip.FileHeader{Name: name, Method: zip.Deflate, Modified: time.Unix(st.Mtim.Unix())}
	mode := fs.FileMode(st.Mode & 0o777)
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		mode |= fs.ModeDir
		h.Name, h.Method = name+"/", zip.Store
	case unix.S_IFLNK:
		mode |= fs.ModeSymlink
	}
	h.SetMode(mode)
	w, err := z.CreateHeader(h)
	if err == nil && target != "" {
		_, err = io.WriteString(w, target)
	}
	return w, err
}
