package gvisor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"silica.dev/silica/internal/runtime"
	"silica.dev/silica/internal/runtime/gvisor/wire"
	"silica.dev/silica/sandbox"
)

// keptName is the file of kept files that says whose they are.
const keptName = "silica.json"

// keptNote is its content.
type keptNote struct {
	Sandbox sandbox.ID  // of which they were saved
	Image   sandbox.Ref // what the files were written over
	Format  string      // of files: an engine reads its own only
	Version string      // of the engine: it restores memory of its own only
	Engine  string      // ID of one that does
	Name    string      // makes every keep another blob: deleting one deletes no other
}

// KeepFiles implements [runtime.FileKeeper].
func (d *Driver) KeepFiles(ctx context.Context, id sandbox.ID) (sandbox.Ref, error) {
	l, err := d.find(ctx, id)
	if err != nil {
		return "", fmt.Errorf("keep the files of %s: %w", id, err)
	}
	ref, err := d.keepFiles(ctx, l)
	if err != nil {
		// It may stand still already, and whoever asked does not know.
		if terr := d.Thaw(context.WithoutCancel(ctx), id); terr != nil && !isGone(terr) {
			err = errors.Join(err, terr)
		}
		return "", fmt.Errorf("keep the files of %s: %w", id, err)
	}
	return ref, nil
}

func isGone(err error) bool {
	var e *sandbox.Error
	return errors.As(err, &e) && e.Kind == sandbox.NotFound
}

func (d *Driver) keepFiles(ctx context.Context, l *live) (_ sandbox.Ref, err error) {
	var found wire.Found
	if err := l.engine.call(ctx, wire.PathLookup, wire.IDRequest{ID: l.id}, &found, true); err != nil {
		return "", err
	}
	dir, err := d.cfg.Blobs.TempDir(ctx)
	if err != nil {
		return "", err
	}
	if full := anyRoom(dir); full != nil {
		return "", errors.Join(full, os.RemoveAll(dir))
	}
	if err := l.engine.call(ctx, wire.PathKeep, wire.KeepRequest{ID: l.id, Dir: dir}, nil, false); err != nil {
		return "", errors.Join(hostFull(dir, err), os.RemoveAll(dir))
	}
	note := keptNote{Sandbox: l.id, Image: found.Image, Format: l.engine.files, Engine: l.engine.id, Version: l.engine.version}
	if _, err := sign(dir, note); err != nil {
		return "", errors.Join(hostFull(dir, err), os.RemoveAll(dir))
	}
	return d.cfg.Blobs.Put(ctx, dir)
}

// hostFull classifies a failed save: a sentry's word for why it can't write is a
// text, but the folder tells whether it has room.
func hostFull(dir string, err error) error {
	if full := anyRoom(dir); full != nil {
		return full.Because(err)
	}
	return err
}

// anyRoom is a Host full where a folder has next to no room. It is asked before a
// sentry saves, too: looking through its layer, a sentry touches pages that have no
// room on the disk yet, and where they get none (a tmpfs) it is killed for that.
func anyRoom(dir string) *sandbox.Error {
	const least = 8 << 20 // bytes
	var fs unix.Statfs_t
	if unix.Statfs(dir, &fs) == nil && int64(fs.Bavail)*fs.Bsize < least {
		return sandbox.E(sandbox.Exhausted, sandbox.CodeHostFull, "the host's disk is full")
	}
	return nil
}

// Thaw implements [runtime.FileKeeper].
func (d *Driver) Thaw(ctx context.Context, id sandbox.ID) error {
	l, err := d.find(ctx, id)
	if err == nil {
		err = l.engine.call(ctx, wire.PathThaw, wire.IDRequest{ID: id}, nil, true)
	}
	if err != nil {
		return fmt.Errorf("thaw %s: %w", id, err)
	}
	return nil
}

// kept is where kept files are, and the engine that reads them.
type kept struct {
	dir    string
	engine *engine
}

// keptFiles opens kept files. Those of another format than the current engine's
// are for the engine that made them, whose program is still here.
func (d *Driver) keptFiles(ctx context.Context, req runtime.StartRequest) (_ kept, release func(), err error) {
	dir, unpin, err := d.cfg.Blobs.Open(ctx, req.Files)
	if err != nil {
		return kept{}, nil, fmt.Errorf("open kept files: %w", err)
	}
	defer func() {
		if err != nil {
			unpin()
		}
	}()
	note, err := readNote(dir)
	if err != nil {
		return kept{}, nil, fmt.Errorf("kept files %s: %w", req.Files, err)
	}
	if note.Image != req.Image {
		return kept{}, nil, fmt.Errorf("kept files %s are over %s, not over %s", req.Files, note.Image, req.Image)
	}
	if note.Format == d.current.files {
		return kept{dir, d.current}, unpin, nil
	}
	e, err := d.earlier(ctx, note.Engine)
	if err != nil {
		return kept{}, nil, err
	}
	return kept{dir, e}, unpin, nil
}

// earlier returns the engine of an earlier program, running.
func (d *Driver) earlier(ctx context.Context, id string) (*engine, error) {
	if !filepath.IsLocal(id) || filepath.Base(id) != id { // a note may come from elsewhere
		return nil, fmt.Errorf("%q is no engine's id", id)
	}
	d.mu.Lock()
	e := d.older[id]
	d.mu.Unlock()
	if e == nil {
		if _, err := os.Stat(filepath.Join(d.engineDir(id), programName)); err != nil {
			return nil, sandbox.E(sandbox.Conflict, sandbox.CodeConflict,
				"its files were kept by an earlier version of the runtime that is not on this machine any more").Because(err)
		}
		e = d.engine(id)
	}
	if err := d.insist(ctx, e); err != nil {
		return nil, fmt.Errorf("engine %s of an earlier version does not start: %w", id, err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.older[id] != nil {
		return d.older[id], nil
	}
	d.older[id] = e
	return e, nil
}
