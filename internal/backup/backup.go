// Package backup puts all that a data folder must not lose into one file, and
// makes a data folder of such a file, so that operators need not know what lies
// where.
//
// The file is a tar, compressed by zstd:
//
//	backup.json               what this is: a [Header]
//	silica.db                 a consistent copy of the rows; not with PostgreSQL
//	data/NAME                 small files of the data folder: keys, the node's id
//	blobs/sha256-HEX/NAME     the artifacts the rows name
//
// What sandboxes hold in memory, and the files of running ones, is not in it.
package backup

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"

	"silica.dev/silica/internal/blob"
	"silica.dev/silica/internal/store"
	"silica.dev/silica/sandbox"
)

// format is the version of the file's layout.
const format = 1

// Header is the first thing in a backup.
type Header struct {
	Format   int       `json:"format"`
	Version  string    `json:"version"` // of the program that wrote it
	At       time.Time `json:"at"`
	Database string    `json:"database"` // sqlite, or postgres: then the rows are elsewhere
}

// Report says what was put in or taken out.
type Report struct {
	Header
	Artifacts int
	Bytes     int64 // uncompressed
	// Missing are artifacts that rows name and the folder lacks: with a shared
	// database they are other servers'.
	Missing []sandbox.Ref
}

const (
	databaseName = "silica.db"
	headerName   = "backup.json"
	dataPrefix   = "data/"
	blobPrefix   = "blobs/"
	// maxSmall bounds the files of the data folder that are taken along.
	maxSmall = 1 << 20
)

// left are files of the data folder that mean nothing elsewhere.
var left = map[string]bool{"silica.db": true, "silica.db-wal": true, "silica.db-shm": true, "silica.lock": true}

// Source is a data folder, which a server may be using.
type Source struct {
	Data     string
	Database string // a postgres:// URL; empty: SQLite in Data
	Version  string
}

// Write makes a backup at path, whole or not at all. Every artifact's content is
// held against its digest on the way.
func Write(ctx context.Context, src Source, path string) (rep Report, err error) {
	out, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*") // mode 0600: there are keys in it
	if err != nil {
		return rep, fmt.Errorf("make the backup: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(out.Name()))
		}
	}()
	defer out.Close()
	blobs, err := blob.NewLocal(filepath.Join(src.Data, "blobs"))
	if err != nil {
		return rep, err
	}
	defer blobs.Close()
	// A server goes on while we read, and may delete an artifact that our copy of
	// the rows still names. Then they are read again.
	for try := 1; ; try++ {
		if _, err = out.Seek(0, io.SeekStart); err == nil {
			err = out.Truncate(0)
		}
		if err != nil {
			return rep, err
		}
		rep, err = write(ctx, src, blobs, out)
		if err == nil || try == 3 || sandbox.AsError(err).Kind != sandbox.NotFound {
			break
		}
	}
	if err != nil {
		return rep, fmt.Errorf("back up %s: %w", src.Data, err)
	}
	if err = errors.Join(out.Sync(), out.Close()); err != nil {
		return rep, err
	}
	if err = os.Rename(out.Name(), path); err != nil {
		return rep, err
	}
	return rep, syncFolder(filepath.Dir(path))
}

func write(ctx context.Context, src Source, blobs *blob.Local, to io.Writer) (rep Report, err error) {
	z, err := zstd.NewWriter(to, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1))
	if err != nil {
		return rep, err
	}
	w := &writer{tar: tar.NewWriter(z)}
	rep.Header = Header{Format: format, Version: src.Version, At: time.Now().UTC(), Database: "sqlite"}
	if src.Database != "" {
		rep.Database = "postgres"
	}
	head, err := json.Marshal(rep.Header)
	if err != nil {
		return rep, err
	}
	if err := w.bytes(headerName, head); err != nil {
		return rep, err
	}
	from := store.Config{URL: src.Database}
	if src.Database == "" {
		scratch, err := os.MkdirTemp(src.Data, ".backup-")
		if err != nil {
			return rep, err
		}
		defer os.RemoveAll(scratch)
		from.Path = filepath.Join(scratch, databaseName)
		if err := store.CopySQLite(ctx, filepath.Join(src.Data, databaseName), from.Path); err != nil {
			return rep, err
		}
		if err := w.file(ctx, databaseName, from.Path); err != nil {
			return rep, err
		}
	}
	if err := w.small(ctx, src.Data); err != nil {
		return rep, err
	}
	refs, err := store.Artifacts(ctx, from)
	if err != nil {
		return rep, err
	}
	for _, ref := range refs {
		err := w.artifact(ctx, blobs, ref)
		if sandbox.AsError(err).Kind == sandbox.NotFound && err != nil && src.Database != "" {
			rep.Missing = append(rep.Missing, ref)
			continue
		}
		if err != nil {
			return rep, fmt.Errorf("artifact %s: %w", ref, err)
		}
		rep.Artifacts++
	}
	rep.Bytes = w.n
	return rep, errors.Join(w.tar.Close(), z.Close())
}

type writer struct {
	tar *tar.Writer
	n   int64
}

func (w *writer) bytes(name string, b []byte) error {
	if err := w.tar.WriteHeader(&tar.Header{Name: name, Mode: 0o600, Size: int64(len(b)), Format: tar.FormatPAX}); err != nil {
		return err
	}
	n, err := w.tar.Write(b)
	w.n += int64(n)
	return err
}

func (w *writer) file(ctx context.Context, name, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	if err := w.tar.WriteHeader(&tar.Header{Name: name, Mode: 0o600, Size: st.Size(), Format: tar.FormatPAX}); err != nil {
		return err
	}
	n, err := io.Copy(w.tar, io.LimitReader(cancellable{ctx, f}, st.Size()))
	w.n += n
	return err
}

// small takes the files along that lie in the data folder itself.
func (w *writer) small(ctx context.Context, data string) error {
	entries, err := os.ReadDir(data)
	if err != nil {
		return err
	}
	for _, e := range entries {
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) || err == nil && (!info.Mode().IsRegular() || left[e.Name()] || strings.HasPrefix(e.Name(), ".") || info.Size() > maxSmall) {
			continue
		}
		if err != nil {
			return err
		}
		if err := w.file(ctx, dataPrefix+e.Name(), filepath.Join(data, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

// artifact takes one along. It is pinned meanwhile, which no server deletes.
func (w *writer) artifact(ctx context.Context, blobs *blob.Local, ref sandbox.Ref) error {
	dir, release, err := blobs.Open(ctx, ref)
	if err != nil {
		return err
	}
	defer release()
	if err := blobs.Verify(ctx, ref); err != nil {
		return err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") {
			continue // the manifest, which is made anew
		}
		name := blobPrefix + folderOf(ref) + "/" + e.Name()
		if err := w.file(ctx, name, filepath.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

// folderOf spells a ref as a file name, and refOf reads it.
func folderOf(ref sandbox.Ref) string { return strings.Replace(string(ref), ":", "-", 1) }
func refOf(folder string) sandbox.Ref { return sandbox.Ref(strings.Replace(folder, "-", ":", 1)) }

// cancellable reads until ctx ends.
type cancellable struct {
	ctx context.Context
	r   io.Reader
}

func (c cancellable) Read(p []byte) (int, error) {
	if err := context.Cause(c.ctx); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}

func syncFolder(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
