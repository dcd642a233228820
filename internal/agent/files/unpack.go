package files

import (
	"archive/tar"
	"bufio"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"silica.dev/silica/internal/guest"
	"silica.dev/silica/sandbox"
)

// Bounds on one archive that is unpacked.
const (
	maxUnpackEntries = 500_000
	maxUnpackBytes   = 16 << 30
	// maxTrailer is what may follow the archive's end: padding.
	maxTrailer = 16 << 20
)

// Unpacked counts what came out of an archive.
type Unpacked struct {
	Entries int   `json:"entries"`
	Files   int   `json:"files"`
	Bytes   int64 `json:"bytes"`
	Skipped int   `json:"skipped"` // devices, FIFOs and the like
}

// Unpack puts what is in a tar archive, compressed with gzip or not, into the
// folder name, which is made. Nothing is ever written outside it, whatever the
// archive's names and links say: a name that leads out ends it, a link may point
// anywhere but is not followed out. Files are replaced one by one, each whole or
// not at all; folders are merged. Permissions and times of files are the
// archive's, and the owners too if owners is set.
func (f *Files) Unpack(ctx context.Context, r io.Reader, name string, owners bool) (n Unpacked, err error) {
	dir, err := Clean(name)
	if err != nil {
		return n, err
	}
	if err := os.MkdirAll(dir, parentMode); err != nil {
		return n, f.classify(dir, err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return n, f.classify(dir, err)
	}
	defer root.Close()
	br := bufio.NewReaderSize(r, 64<<10)
	var in io.Reader = br
	if magic, err := br.Peek(2); err == nil && magic[0] == 0x1f && magic[1] == 0x8b {
		if in, err = gzip.NewReader(br); err != nil {
			return n, broken(err)
		}
	}
	u := &unpacking{f: f, ctx: ctx, root: root, dir: dir, owners: owners, n: &n}
	tr := tar.NewReader(in)
	for {
		if err := context.Cause(ctx); err != nil {
			return n, err
		}
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return n, broken(err)
		}
		if err := u.entry(h, tr); err != nil {
			return n, u.refused(h, err)
		}
	}
	// The sender reads the answer only once all has been taken.
	if _, err := io.CopyN(io.Discard, in, maxTrailer); err == nil {
		return n, broken(errors.New("too much behind the end"))
	} else if !errors.Is(err, io.EOF) {
		return n, broken(err)
	}
	return n, nil
}

func broken(err error) error {
	return sandbox.Field("body", "is no tar archive, or broke off").Because(err)
}

type unpacking struct {
	f      *Files
	ctx    context.Context
	root   *os.Root
	dir    string
	owners bool
	n      *Unpacked
	parent string // made or found already
}

var errLeadsOut = errors.New("the name leads out of the folder")

// inside cleans a name of the archive; "." is its root.
func inside(name string) (string, error) {
	clean := path.Clean(name)
	if name == "" || path.IsAbs(name) || clean == ".." || strings.HasPrefix(clean, "../") || strings.IndexByte(name, 0) >= 0 {
		return "", errLeadsOut
	}
	for part := range strings.SplitSeq(name, "/") {
		if part == ".." { // also where it would come back in: it might pass a link
			return "", errLeadsOut
		}
	}
	return clean, nil
}

// refused classifies what stopped an entry. What is no error of the kernel is
// the root's own: that a link leads out.
func (u *unpacking) refused(h *tar.Header, err error) error {
	var errno unix.Errno
	var mine *sandbox.Error
	switch {
	case errors.As(err, &mine), u.ctx.Err() != nil:
		return err
	case errors.As(err, &errno):
		return u.f.classify(path.Join(u.dir, h.Name), err)
	case errors.Is(err, tar.ErrHeader), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, gzip.ErrChecksum), errors.Is(err, gzip.ErrHeader):
		return broken(err)
	}
	var pe *fs.PathError
	var le *os.LinkError
	if errors.Is(err, errLeadsOut) || errors.As(err, &pe) || errors.As(err, &le) {
		return sandbox.E(sandbox.Invalid, sandbox.CodeInvalidPath, fmt.Sprintf("%q leads out of the folder", guest.Spell(h.Name))).Because(err)
	}
	return broken(err)
}

func (u *unpacking) entry(h *tar.Header, body io.Reader) error {
	if h.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	name, err := inside(h.Name)
	if err != nil {
		return err
	}
	if u.n.Entries++; u.n.Entries > maxUnpackEntries {
		return sandbox.Field("body", fmt.Sprintf("has more than %d entries", maxUnpackEntries))
	}
	if u.n.Bytes += max(h.Size, 0); u.n.Bytes > maxUnpackBytes {
		return sandbox.Field("body", fmt.Sprintf("holds more than %d GiB", maxUnpackBytes>>30))
	}
	if name == "." {
		return nil
	}
	if p := path.Dir(name); p != u.parent {
		if err := u.root.MkdirAll(p, parentMode); err != nil {
			return err
		}
		u.parent = p
	}
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeGNUSparse:
		u.n.Files++
		return u.file(name, h, body)
	case tar.TypeDir:
		return u.folder(name, h)
	case tar.TypeSymlink:
		return u.place(name, func(temp string) error {
			if err := u.root.Symlink(h.Linkname, temp); err != nil {
				return err
			}
			if u.owners {
				return u.root.Lchown(temp, h.Uid, h.Gid)
			}
			return nil
		})
	case tar.TypeLink:
		target, err := inside(h.Linkname)
		if err != nil || target == name {
			return err
		}
		return u.place(name, func(temp string) error { return u.root.Link(target, temp) })
	}
	u.n.Skipped++
	return nil
}

// place makes something under a fresh name and moves it to its own.
func (u *unpacking) place(name string, do func(temp string) error) error {
	temp := tempName(path.Dir(name))
	err := do(temp)
	if err == nil {
		err = u.root.Rename(temp, name)
	}
	if err != nil {
		_ = u.root.Remove(temp)
	}
	return err
}

func (u *unpacking) folder(name string, h *tar.Header) error {
	u.parent = ""
	err := u.root.Mkdir(name, 0o700)
	if errors.Is(err, fs.ErrExist) {
		info, serr := u.root.Lstat(name)
		if serr == nil && !info.IsDir() {
			// A link or file in the way is not gone through, but replaced, as tar does.
			if err = u.root.Remove(name); err == nil {
				err = u.root.Mkdir(name, 0o700)
			}
		} else {
			err = serr
		}
	}
	if err == nil && u.owners {
		err = u.root.Lchown(name, h.Uid, h.Gid)
	}
	if err != nil {
		return err
	}
	return u.root.Chmod(name, u.mode(h))
}

// mode is what an entry's permissions become: without its owner, a set-id bit
// would make a program somebody else's.
func (u *unpacking) mode(h *tar.Header) fs.FileMode {
	mode := h.FileInfo().Mode() & (fs.ModePerm | fs.ModeSetuid | fs.ModeSetgid | fs.ModeSticky)
	if !u.owners {
		mode &^= fs.ModeSetuid | fs.ModeSetgid
	}
	return mode
}

func (u *unpacking) file(name string, h *tar.Header, body io.Reader) error {
	return u.place(name, func(temp string) error {
		out, err := u.root.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return err
		}
		err = u.f.sparse(u.ctx, out, body)
		if err == nil && u.owners {
			err = out.Chown(h.Uid, h.Gid)
		}
		if err == nil {
			err = out.Chmod(u.mode(h)) // after chown, which clears set-id bits
		}
		if cerr := out.Close(); err == nil {
			err = cerr
		}
		if err == nil && !h.ModTime.IsZero() {
			err = u.root.Chtimes(temp, h.ModTime, h.ModTime)
		}
		return err
	})
}
