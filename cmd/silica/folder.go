package main

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/dustin/go-humanize"

	"silica.dev/silica/client"
)

// contents tells whether a source stands for what is in the folder, "FOLDER/.",
// and not for the folder.
func contents(source string) bool {
	return source == "." || strings.HasSuffix(source, "/.")
}

// copyFolderIn streams a local folder into a sandbox.
func copyFolderIn(ctx context.Context, t *terminal, c *client.Client, local, id, remote string) error {
	target := remote
	if !contents(local) {
		abs, err := filepath.Abs(local)
		if err != nil {
			return err
		}
		if e, err := c.Stat(ctx, id, remote); strings.HasSuffix(remote, "/") || err == nil && e.IsDir {
			target = path.Join(remote, filepath.Base(abs))
		}
	}
	r, w := io.Pipe()
	defer r.Close() // the packing ends with the sending
	packed := make(chan error, 1)
	go func() {
		err := packFolder(w, local)
		w.CloseWithError(err)
		packed <- err
	}()
	count := &counter{Reader: r}
	done := t.progress(func() string { return "copied " + humanize.IBytes(uint64(count.n.Load())) })
	unpacked, err := c.Unpack(ctx, id, target, count, false)
	done()
	r.Close()
	if perr := <-packed; perr != nil && !errors.Is(perr, io.ErrClosedPipe) {
		return fmt.Errorf("read %s: %w", local, perr) // and not what the server made of it
	}
	if err != nil {
		return err
	}
	if t.json {
		return t.print(unpacked, nil)
	}
	return nil
}

// packFolder writes a tar archive of what is in a folder. Sockets, pipes and
// devices are left out.
func packFolder(w io.Writer, folder string) error {
	root, err := os.OpenRoot(folder)
	if err != nil {
		return err
	}
	defer root.Close()
	tw := tar.NewWriter(w)
	err = fs.WalkDir(root.FS(), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || name == "." {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		return packOne(tw, root, name, info)
	})
	if err != nil {
		return err
	}
	return tw.Close()
}

func packOne(tw *tar.Writer, root *os.Root, name string, info fs.FileInfo) (err error) {
	link := ""
	switch {
	case info.Mode()&fs.ModeSymlink != 0:
		if link, err = root.Readlink(name); err != nil {
			return err
		}
	case !info.IsDir() && !info.Mode().IsRegular():
		return nil
	}
	h, err := tar.FileInfoHeader(info, link)
	if err != nil {
		return err
	}
	h.Name = name
	if info.IsDir() {
		h.Name += "/"
	}
	if err := tw.WriteHeader(h); err != nil || !info.Mode().IsRegular() {
		return err
	}
	f, err := root.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	// A file that grows meanwhile is cut; one that shrinks is an error of tw.
	_, err = io.Copy(tw, io.LimitReader(f, h.Size))
	return err
}

// copyFolderOut streams a folder out of a sandbox.
func copyFolderOut(ctx context.Context, t *terminal, c *client.Client, id, remote, local string) error {
	f, err := c.Pack(ctx, id, remote, "tar")
	if err != nil {
		return err
	}
	defer f.Close()
	count := &counter{Reader: f}
	done := t.progress(func() string { return "copied " + humanize.IBytes(uint64(count.n.Load())) })
	defer done()
	if local == "-" {
		_, err := io.Copy(t.out, count)
		return err
	}
	if st, err := os.Stat(local); !contents(remote) && (err == nil && st.IsDir() || strings.HasSuffix(local, "/")) {
		local = filepath.Join(local, path.Base(path.Clean(remote)))
	}
	entries, err := unpackFolder(local, count)
	done()
	if err != nil {
		return fmt.Errorf("%s: %w", local, err)
	}
	if t.json {
		return t.print(map[string]any{"path": local, "entries": entries, "bytes": count.n.Load()}, nil)
	}
	return nil
}

// unpackFolder writes what an archive holds into a folder, and nothing anywhere
// else: the archive comes out of a sandbox, so os.Root guards every name.
func unpackFolder(folder string, r io.Reader) (entries int, err error) {
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return 0, err
	}
	root, err := os.OpenRoot(folder)
	if err != nil {
		return 0, err
	}
	defer root.Close()
	tr := tar.NewReader(r)
	for {
		h, err := tr.Next()
		if err == io.EOF {
			// Reading on to the very end tells whether the archive was cut off.
			_, err := io.Copy(io.Discard, r)
			return entries, err
		}
		if err != nil {
			return entries, fmt.Errorf("read the archive: %w", err)
		}
		name := path.Clean(h.Name)
		if name == "." {
			continue
		}
		if err := unpackOne(root, name, h, tr); err != nil {
			return entries, err
		}
		entries++
	}
}

func unpackOne(root *os.Root, name string, h *tar.Header, r io.Reader) error {
	if err := root.MkdirAll(path.Dir(name), 0o755); err != nil {
		return err
	}
	mode := fs.FileMode(h.Mode).Perm()
	switch h.Typeflag {
	case tar.TypeDir:
		// Its owner can always write what comes next into it.
		if err := root.MkdirAll(name, mode|0o700); err != nil {
			return err
		}
		return nil
	case tar.TypeSymlink:
		_ = root.Remove(name)
		return root.Symlink(h.Linkname, name)
	case tar.TypeLink:
		_ = root.Remove(name)
		return root.Link(path.Clean(h.Linkname), name)
	case tar.TypeReg:
		_ = root.Remove(name) // what is there may be a link to somewhere else
		f, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
		if err != nil {
			return err
		}
		if _, err := io.Copy(f, r); err != nil {
			f.Close()
			return err
		}
		if err := f.Close(); err != nil {
			return err
		}
		return root.Chtimes(name, h.ModTime, h.ModTime)
	}
	return nil // devices and the like
}
