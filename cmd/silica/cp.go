package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync/atomic"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"silica.dev/silica/client"
)

func newSandboxCp(t *terminal) *cobra.Command {
	return &cobra.Command{
		Use:   "cp SOURCE TARGET",
		Short: "Copy files and folders into or out of a sandbox",
		Long: `Copy a file or a folder into or out of a sandbox: one side is SANDBOX:PATH, the
other a local path, or - for standard input or output. A target that is a folder
gets the source under its own name; FOLDER/. copies what is in a folder instead.
Folders that are there are merged, files in them replaced.`,
		Example: `  silica sandbox cp data.csv $id:/root/data.csv
  silica sandbox cp $id:/root/plot.png .
  silica sandbox cp src $id:/workspace
  silica sandbox cp $id:/workspace/out/. results`,
		Args: args(2, 2),
		RunE: func(cmd *cobra.Command, given []string) error {
			fromID, from, fromRemote := remotePath(given[0])
			toID, to, toRemote := remotePath(given[1])
			if fromRemote == toRemote {
				return usageError{errors.New("one of the two must be SANDBOX:PATH and the other a local path (./a:b for a local name with a colon)")}
			}
			c, err := connect()
			if err != nil {
				return err
			}
			defer c.Close()
			if toRemote {
				if st, err := os.Stat(from); err == nil && st.IsDir() {
					return copyFolderIn(cmd.Context(), t, c, from, toID, to)
				}
				return copyIn(cmd.Context(), t, c, from, toID, to)
			}
			return copyOut(cmd.Context(), t, c, fromID, from, to)
		},
	}
}

// remotePath splits SANDBOX:PATH. What begins with / or . is always local.
func remotePath(s string) (id, file string, ok bool) {
	id, file, ok = strings.Cut(s, ":")
	if !ok || id == "" || file == "" || strings.ContainsAny(id, "/\\") || strings.HasPrefix(id, ".") {
		return "", s, false
	}
	return id, file, true
}

// counter counts what passes, for the progress line.
type counter struct {
	io.Reader
	n atomic.Int64
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.n.Add(int64(n))
	return n, err
}

// sized keeps the length of a file visible to the client behind a counter.
type sized struct {
	*counter
	length int
}

func (s sized) Len() int { return s.length }

func copyIn(ctx context.Context, t *terminal, c *client.Client, local, id, remote string) error {
	src, length, err := openLocal(t, local)
	if err != nil {
		return err
	}
	defer src.Close()
	target := remote
	if strings.HasSuffix(remote, "/") {
		target = path.Join(remote, filepath.Base(local))
	} else if e, err := c.Stat(ctx, id, remote); err == nil && e.IsDir {
		target = path.Join(remote, filepath.Base(local))
	}
	if local == "-" && target != remote {
		return usageError{fmt.Errorf("%s is a folder: standard input has no name, so give the file one", remote)}
	}
	count := &counter{Reader: src}
	var body io.Reader = count
	total := ""
	if length >= 0 {
		body = sized{count, int(length)}
		total = " of " + humanize.IBytes(uint64(length))
	}
	done := t.progress(func() string { return "copied " + humanize.IBytes(uint64(count.n.Load())) + total })
	w, err := c.Upload(ctx, id, target, body)
	done()
	if err != nil {
		return err
	}
	if t.json {
		return t.print(w, nil)
	}
	return nil
}

// openLocal opens the source of an upload; length is -1 when unknown.
func openLocal(t *terminal, name string) (io.ReadCloser, int64, error) {
	if name == "-" {
		return io.NopCloser(t.in), -1, nil
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, 0, err
	}
	st, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, 0, err
	}
	if !st.Mode().IsRegular() {
		return f, -1, nil
	}
	return f, st.Size(), nil
}

func copyOut(ctx context.Context, t *terminal, c *client.Client, id, remote, local string) error {
	f, err := c.Download(ctx, id, remote)
	if client.HasCode(err, "IS_A_DIRECTORY") {
		return copyFolderOut(ctx, t, c, id, remote, local)
	}
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
	if st, err := os.Stat(local); err == nil && st.IsDir() || strings.HasSuffix(local, "/") {
		local = filepath.Join(local, path.Base(remote))
	}
	if err := writeWhole(local, count); err != nil {
		return fmt.Errorf("%s: %w", local, err)
	}
	done()
	if t.json {
		return t.print(map[string]any{"path": local, "size": count.n.Load()}, nil)
	}
	return nil
}

// writeWhole puts all of r at name, or leaves what was there. A target that is
// no regular file (a pipe, the null device) is written as it is.
func writeWhole(name string, r io.Reader) error { return writeWholeAs(name, r, 0o644) }

// writeWholeAs says who may read a file that was not there.
func writeWholeAs(name string, r io.Reader, mode os.FileMode) (err error) {
	if st, err := os.Stat(name); err == nil {
		if !st.Mode().IsRegular() {
			f, err := os.OpenFile(name, os.O_WRONLY, 0)
			if err != nil {
				return err
			}
			_, err = io.Copy(f, r)
			return errors.Join(err, f.Close())
		}
		mode = st.Mode().Perm()
	}
	tmp, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+".*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			tmp.Close()
			os.Remove(tmp.Name())
		}
	}()
	if _, err := io.Copy(tmp, r); err != nil {
		return err
	}
	if err := tmp.Chmod(mode); err != nil {
		return err
	}
	if err := tmp.Close(); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), name)
}
