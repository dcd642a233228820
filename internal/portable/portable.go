// Package portable puts a snapshot into one file, and makes a snapshot of such a
// file that nobody vouches for, so that neither the rules nor HTTP need know its
// form.
//
// The file is a tar, compressed by zstd:
//
//	snapshot.json   what it is, and every part with its digest: a [Manifest]
//	base/NAME       the root file system that the sandbox was started from
//	files/NAME      its writable layer
//	memory/NAME     its memory, if the snapshot has it
//
// Parts and files come in the manifest's order, and nothing else comes.
package portable

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/klauspost/compress/zstd"

	"silica.dev/silica/internal/blob"
	"silica.dev/silica/sandbox"
)

const (
	format       = 1 // of the file's layout
	manifestName = "snapshot.json"
	// maxManifest bounds the manifest, in bytes: a sandbox's environment is in it.
	maxManifest = 4 << 20
)

// Kinds of parts.
const (
	base   = "base"
	files  = "files"
	memory = "memory"
)

// Manifest is the first thing in the file.
type Manifest struct {
	Format  int       `json:"format"`
	Version string    `json:"version"` // of the program that wrote it
	At      time.Time `json:"at"`

	Snapshot  string         `json:"snapshot"` // its id where it was taken
	Sandbox   sandbox.ID     `json:"sandbox"`  // there
	Comment   string         `json:"comment,omitempty"`
	CreatedAt time.Time      `json:"created_at"`
	Spec      sandbox.Spec   `json:"spec"` // with the template's identity
	Parent    sandbox.Parent `json:"parent"`
	Key       string         `json:"key"` // what a restore of its memory needs
	Parts     []Part         `json:"parts"`
}

// Part is one artifact.
type Part struct {
	Kind  string      `json:"kind"`
	Ref   sandbox.Ref `json:"digest"` // of names, sizes and contents of all its files
	Files []File      `json:"files"`
}

// File is one file of a part.
type File struct {
	Name string `json:"name"`
	Size int64  `json:"size"`
}

// Blobs is where artifacts are.
type Blobs interface {
	TempDir(ctx context.Context) (string, error)
	Open(ctx context.Context, ref sandbox.Ref) (dir string, release func(), err error)
	Verify(ctx context.Context, ref sandbox.Ref) error
	// Seal and Publish are the halves of [blob.Store.Put].
	Seal(ctx context.Context, dir string) (sandbox.Ref, error)
	Publish(ctx context.Context, dir string, ref sandbox.Ref) error
}

// Rows is the database.
type Rows interface {
	// RoomToImport is QUOTA_EXCEEDED when a tenant may not save so many bytes more.
	RoomToImport(ctx context.Context, tenant sandbox.TenantID, size int64) error
	// ImportSnapshot writes the row of a snapshot whose artifacts are there.
	ImportSnapshot(ctx context.Context, n sandbox.Snapshot) (sandbox.Snapshot, error)
}

// Carrier takes snapshots from one machine to another.
type Carrier struct {
	Rows    Rows
	Blobs   Blobs
	Room    func(size int64) error // nil error: the host has room for so many bytes
	Max     sandbox.Resources      // of a sandbox here
	Version string                 // of this program
}

var (
	errNotReady = sandbox.E(sandbox.Conflict, sandbox.CodeSnapshotNotReady, "the snapshot is not ready")
	errUnusable = sandbox.E(sandbox.Conflict, sandbox.CodeSnapshotUnusable, "the snapshot's files, or what they were written over, are missing or damaged")
)

// Export writes a snapshot to what begin returns. It begins once every byte was
// held against its digest, so that only the way there can fail after that.
func (c Carrier) Export(ctx context.Context, n sandbox.Snapshot, begin func() io.Writer) error {
	if n.Status != sandbox.SnapshotReady {
		return errNotReady.With("status", n.Status)
	}
	m := Manifest{
		Format: format, Version: c.Version, At: time.Now().UTC(), Snapshot: n.ID, Sandbox: n.Sandbox, Comment: n.Comment, CreatedAt: n.CreatedAt,
		Spec: n.Spec, Parent: n.Parent, Key: n.Key,
	}
	m.Parent.Project = "" // means nothing elsewhere
	var dirs []string
	for _, p := range []Part{{Kind: base, Ref: n.Base}, {Kind: files, Ref: n.Files}, {Kind: memory, Ref: n.Memory}} {
		if p.Ref == "" && p.Kind == memory {
			continue
		}
		dir, release, err := c.Blobs.Open(ctx, p.Ref)
		if err == nil {
			defer release()
			err = c.Blobs.Verify(ctx, p.Ref)
		}
		if err == nil {
			p.Files, err = listed(dir)
		}
		switch {
		case err == nil:
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case p.Kind == memory: // it boots with its files
			continue
		default:
			return errUnusable.Because(fmt.Errorf("%s of %s: %w", p.Kind, n.ID, err))
		}
		m.Parts, dirs = append(m.Parts, p), append(dirs, dir)
	}
	head, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("export %s: %w", n.ID, err)
	}
	return m.write(ctx, head, dirs, begin())
}

// listed lists the files of an artifact.
func listed(dir string) (list []File, err error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		if !nameable(e.Name()) {
			continue // what the store wrote of it, which is made anew
		}
		info, err := e.Info()
		if err != nil {
			return nil, err
		}
		list = append(list, File{e.Name(), info.Size()})
	}
	return list, nil
}

func (m Manifest) write(ctx context.Context, head []byte, dirs []string, to io.Writer) error {
	z, err := zstd.NewWriter(to, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(window))
	if err != nil {
		return err
	}
	t := tar.NewWriter(z)
	if err := t.WriteHeader(&tar.Header{Name: manifestName, Mode: 0o600, Size: int64(len(head)), Format: tar.FormatPAX}); err != nil {
		return err
	}
	if _, err := t.Write(head); err != nil {
		return err
	}
	for i, p := range m.Parts {
		for _, f := range p.Files {
			if err := add(ctx, t, p.Kind+"/"+f.Name, filepath.Join(dirs[i], f.Name), f.Size); err != nil {
				return fmt.Errorf("export %s of %s: %w", p.Kind, m.Snapshot, err)
			}
		}
	}
	return errors.Join(t.Close(), z.Close())
}

func add(ctx context.Context, t *tar.Writer, name, path string, size int64) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := t.WriteHeader(&tar.Header{Name: name, Mode: 0o600, Size: size, Format: tar.FormatPAX}); err != nil {
		return err
	}
	_, err = io.Copy(t, io.LimitReader(cancellable{ctx, f}, size))
	return err
}

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

var _ Blobs = (*blob.Local)(nil)
