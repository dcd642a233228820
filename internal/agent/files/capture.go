package files

import (
	"archive/tar"
	"context"
	"errors"
	"io"
	"os"
	"path"
	"slices"

	"golang.org/x/sys/unix"
)

// emptied are folders whose content belongs to one run of a sandbox.
var emptied = []string{"/proc", "/sys", "/dev", "/run", "/tmp", "/.silica", "/var/lib/silica"}

// Capture writes the whole root file system as a tar archive, but for what
// belongs to one run. What was not changed since the base image, whose files all have
// the time since as that of their last change, is told by hard links to
// themselves and not read: a copied-up file has a later one, which nobody can
// set, and with it every folder above.
func (f *Files) Capture(ctx context.Context, since int64, w io.Writer) error {
	buf := f.buffer()
	defer f.putBuffer(buf)
	out := tar.NewWriter(w)
	c := &capturing{
		packing: packing{ctx: ctx, to: &tarPacker{out, nil}, from: "/", buf: buf[:]},
		out:     out, since: since, linked: map[inode]string{},
	}
	var st unix.Stat_t
	if err := unix.Lstat("/", &st); err != nil {
		return err
	}
	c.dev = st.Dev
	if err := c.folder("/", ".", &st); err != nil {
		return f.classify("/", err)
	}
	return out.Close()
}

type inode struct{ dev, ino uint64 }

type capturing struct {
	packing
	out    *tar.Writer
	since  int64
	dev    uint64           // of folders that are no mount of their own
	linked map[inode]string // where the first name of a file with several is
}

func (c *capturing) unchanged(st *unix.Stat_t) bool {
	return st.Ctim.Sec == c.since && st.Ctim.Nsec == 0
}

func (c *capturing) tree(p string) error {
	if err := context.Cause(c.ctx); err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Lstat(p, &st); errors.Is(err, unix.ENOENT) {
		return nil // it went while we looked
	} else if err != nil {
		return err
	}
	name := p[1:]
	kind := st.Mode & unix.S_IFMT
	if kind != unix.S_IFREG && kind != unix.S_IFDIR && kind != unix.S_IFLNK {
		return nil
	}
	if c.unchanged(&st) && !slices.Contains(emptied, p) {
		return c.out.WriteHeader(&tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: name, Format: tar.FormatPAX})
	}
	if kind == unix.S_IFDIR {
		return c.folder(p, name, &st)
	}
	if kind == unix.S_IFREG && st.Nlink > 1 {
		id := inode{st.Dev, st.Ino}
		if first := c.linked[id]; first != "" {
			return c.out.WriteHeader(&tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: first, Format: tar.FormatPAX})
		}
		c.linked[id] = name
	}
	return c.packing.tree(p, name)
}

func (c *capturing) folder(p, name string, st *unix.Stat_t) error {
	if _, err := c.to.add(name, st, "", 0); err != nil {
		return err
	}
	if st.Dev != c.dev || slices.Contains(emptied, p) {
		return nil
	}
	d, err := os.Open(p)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	names, err := d.Readdirnames(-1)
	d.Close()
	if err != nil {
		return err
	}
	slices.Sort(names)
	for _, n := range names {
		if IsTemp(n) {
			continue
		}
		if err := c.tree(path.Join(p, n)); err != nil {
			return err
		}
	}
	return nil
}
