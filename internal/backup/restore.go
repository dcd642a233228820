package backup

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/klauspost/compress/zstd"

	"silica.dev/silica/internal/blob"
)

// ErrNotEmpty says that a backup may not be restored over what is there.
var ErrNotEmpty = errors.New("the folder is not empty")

// ErrDamaged says that a file is no backup, or not a whole one.
var ErrDamaged = errors.New("the backup is damaged")

// Restore makes the data folder of a backup, whole or not at all. The folder
// must be empty or absent. Every artifact must have the digest it had.
func Restore(ctx context.Context, path, data string) (rep Report, err error) {
	if entries, err := os.ReadDir(data); err == nil && len(entries) > 0 {
		return rep, fmt.Errorf("restore to %s: %w", data, ErrNotEmpty)
	} else if err != nil && !errors.Is(err, os.ErrNotExist) {
		return rep, fmt.Errorf("restore: %w", err)
	}
	in, err := os.Open(path)
	if err != nil {
		return rep, fmt.Errorf("restore: %w", err)
	}
	defer in.Close()
	data, err = filepath.Abs(data)
	if err != nil {
		return rep, err
	}
	if err := os.MkdirAll(filepath.Dir(data), 0o755); err != nil {
		return rep, err
	}
	// Beside the folder, so that a rename puts all of it there at once.
	dir, err := os.MkdirTemp(filepath.Dir(data), "."+filepath.Base(data)+".restore-")
	if err != nil {
		return rep, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(dir))
		}
	}()
	if rep, err = extract(ctx, in, dir); err != nil {
		return rep, fmt.Errorf("restore %s: %w", path, err)
	}
	if err = syncFolder(dir); err != nil {
		return rep, err
	}
	if err = os.Rename(dir, data); err != nil { // over an empty folder, or none
		return rep, err
	}
	return rep, syncFolder(filepath.Dir(data))
}

func extract(ctx context.Context, in io.Reader, dir string) (rep Report, err error) {
	z, err := zstd.NewReader(in, zstd.WithDecoderConcurrency(1))
	if err != nil {
		return rep, err
	}
	defer z.Close()
	blobs, err := blob.NewLocal(filepath.Join(dir, "blobs"))
	if err != nil {
		return rep, err
	}
	defer func() { err = errors.Join(err, blobs.Close()) }()
	x := &extractor{dir: dir, blobs: blobs}
	t := tar.NewReader(cancellable{ctx, z})
	for {
		h, err := t.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return rep, fmt.Errorf("%w: %w", ErrDamaged, err)
		}
		if err := x.entry(ctx, h, t); err != nil {
			return rep, err
		}
	}
	if err := x.finish(ctx); err != nil {
		return rep, err
	}
	if x.rep.Format == 0 || x.rep.Database == "sqlite" && !x.rows {
		return rep, fmt.Errorf("%w: it ends early", ErrDamaged)
	}
	return x.rep, nil
}

// extractor takes a backup apart, entry by entry.
type extractor struct {
	dir   string
	blobs *blob.Local
	rep   Report
	rows  bool

	folder string // of the artifact under way
	temp   string // where its files are
}

func (x *extractor) entry(ctx context.Context, h *tar.Header, r io.Reader) error {
	x.rep.Bytes += h.Size
	first := x.rep.Format == 0
	switch folder, name := filepath.Split(h.Name); {
	case h.Typeflag != tar.TypeReg:
		return fmt.Errorf("%w: %q is no file", ErrDamaged, h.Name)
	case first != (h.Name == headerName):
		return fmt.Errorf("%w: it does not begin with %s", ErrDamaged, headerName)
	case first:
		raw, err := io.ReadAll(io.LimitReader(r, maxSmall))
		if err != nil {
			return fmt.Errorf("%w: %w", ErrDamaged, err)
		}
		if err := json.Unmarshal(raw, &x.rep.Header); err != nil || x.rep.Format != format {
			return fmt.Errorf("this backup has format %d, and this program reads %d: restore it with silica %q", x.rep.Format, format, x.rep.Version)
		}
		return nil
	case name == "" || strings.HasPrefix(name, "."):
		return fmt.Errorf("%w: %q", ErrDamaged, h.Name)
	case h.Name == databaseName:
		x.rows = true
		return x.file(filepath.Join(x.dir, databaseName), r)
	case folder == dataPrefix:
		return x.file(filepath.Join(x.dir, name), r)
	case strings.HasPrefix(folder, blobPrefix):
		return x.piece(ctx, strings.TrimSuffix(strings.TrimPrefix(folder, blobPrefix), "/"), name, r)
	default:
		return fmt.Errorf("%w: %q", ErrDamaged, h.Name)
	}
}

// piece is one file of an artifact; those of one follow each other.
func (x *extractor) piece(ctx context.Context, folder, name string, r io.Reader) error {
	if folder != x.folder {
		if err := x.finish(ctx); err != nil {
			return err
		}
		temp, err := x.blobs.TempDir(ctx)
		if err != nil {
			return err
		}
		x.folder, x.temp = folder, temp
	}
	return x.file(filepath.Join(x.temp, name), r)
}

// finish puts the artifact under way where it belongs.
func (x *extractor) finish(ctx context.Context) error {
	if x.folder == "" {
		return nil
	}
	ref, err := x.blobs.Put(ctx, x.temp)
	if err != nil {
		return err
	}
	if ref != refOf(x.folder) {
		return fmt.Errorf("%w: %s has another content", ErrDamaged, x.folder)
	}
	x.folder = ""
	x.rep.Artifacts++
	return nil
}

// file writes a new file. Pages of zeros become holes, as they were.
func (x *extractor) file(path string, r io.Reader) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	var size int64
	buf := make([]byte, 64<<10)
	for {
		n, err := io.ReadFull(r, buf)
		if n > 0 && !bytes.Equal(buf[:n], zeros[:n]) {
			if _, err := f.WriteAt(buf[:n], size); err != nil {
				return err
			}
		}
		size += int64(n)
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			break // where the archive itself breaks off, its next entry fails
		}
		if err != nil {
			return fmt.Errorf("%w: %w", ErrDamaged, err)
		}
	}
	return errors.Join(f.Truncate(size), f.Sync())
}

var zeros [64 << 10]byte
