package gvisor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"silica.dev/silica/internal/runtime"
	"silica.dev/silica/internal/runtime/gvisor/wire"
	"silica.dev/silica/sandbox"
)

// Suspend implements [runtime.Suspender].
func (d *Driver) Suspend(ctx context.Context, id sandbox.ID) (runtime.State, error) {
	st, err := d.save(ctx, id, true)
	if err != nil {
		// It may stand still already, and whoever asked does not know.
		if terr := d.Thaw(context.WithoutCancel(ctx), id); terr != nil && !isGone(terr) {
			err = errors.Join(err, terr)
		}
		return runtime.State{}, fmt.Errorf("suspend %s: %w", id, err)
	}
	return st, nil
}

// Capture implements [runtime.Suspender].
func (d *Driver) Capture(ctx context.Context, id sandbox.ID) (runtime.State, error) {
	st, err := d.save(ctx, id, false)
	if err != nil {
		return runtime.State{}, fmt.Errorf("capture %s: %w", id, err)
	}
	return st, nil
}

func (d *Driver) save(ctx context.Context, id sandbox.ID, stand bool) (_ runtime.State, err error) {
	l, err := d.find(ctx, id)
	if err != nil {
		return runtime.State{}, err
	}
	var found wire.Found
	if err := l.engine.call(ctx, wire.PathLookup, wire.IDRequest{ID: id}, &found, true); err != nil {
		return runtime.State{}, err
	}
	var dirs [2]string // of memory and files
	defer func() {
		if err != nil {
			for _, dir := range dirs {
				err = errors.Join(err, os.RemoveAll(dir))
			}
		}
	}()
	for i := range dirs {
		if dirs[i], err = d.cfg.Blobs.TempDir(ctx); err != nil {
			return runtime.State{}, err
		}
	}
	if full := anyRoom(dirs[0]); full != nil {
		return runtime.State{}, full
	}
	began := time.Now()
	req := wire.SaveRequest{ID: id, Memory: dirs[0], Files: dirs[1], Stand: stand}
	if err := l.engine.call(ctx, wire.PathSave, req, nil, false); err != nil {
		return runtime.State{}, hostFull(dirs[0], err)
	}
	saved := time.Now()
	st := runtime.State{Key: l.engine.version}
	refs := [2]*sandbox.Ref{&st.Memory, &st.Files}
	both, putting := errgroup.WithContext(ctx)
	for i, dir := range dirs {
		note := keptNote{Sandbox: id, Image: found.Image, Format: l.engine.files, Engine: l.engine.id, Version: l.engine.version}
		size, err := sign(dir, note)
		if err != nil {
			return runtime.State{}, hostFull(dir, err)
		}
		st.Size += size
		both.Go(func() (err error) {
			*refs[i], err = d.cfg.Blobs.Put(putting, dir)
			return err
		})
	}
	if err := both.Wait(); err != nil {
		for _, ref := range refs {
			if *ref != "" { // nobody will ever name it
				err = errors.Join(err, d.cfg.Blobs.Delete(context.WithoutCancel(ctx), *ref))
			}
		}
		return runtime.State{}, err
	}
	d.trust(st.Memory)
	d.log.Debug("saved", "sandbox", id, "stood", saved.Sub(began), "kept", time.Since(saved), "bytes", st.Size)
	return st, nil
}

// sign adds to a folder what says whose it is, and returns the size of all in it.
func sign(dir string, note keptNote) (size int64, err error) {
	note.Name = sandbox.NewName("kept_")
	data, err := json.Marshal(note)
	if err != nil {
		return 0, err
	}
	if err := os.WriteFile(filepath.Join(dir, keptName), data, 0o644); err != nil {
		return 0, err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return 0, err
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			return 0, err
		}
		size += info.Size()
	}
	return size, nil
}

// maxNote bounds what is read of a note, which may come from another machine.
const maxNote = 64 << 10

// readNote reads what sign wrote. A seed has none.
func readNote(dir string) (note keptNote, err error) {
	f, err := os.Open(filepath.Join(dir, keptName))
	if err != nil {
		return note, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxNote))
	if err != nil {
		return note, err
	}
	if err := json.Unmarshal(data, &note); err != nil {
		return note, fmt.Errorf("%s: %w", keptName, err)
	}
	return note, nil
}

// maxTrusted bounds what is remembered of snapshots that were read back. One that
// is forgotten is read once more.
const maxTrusted = 10_000

// trust notes that this process has seen every byte of a snapshot.
func (d *Driver) trust(ref sandbox.Ref) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.verified) >= maxTrusted {
		clear(d.verified)
	}
	d.verified[ref] = true
}

// restorer returns the engine that restores a snapshot: the current one, unless
// another version took it whose program is still here.
func (d *Driver) restorer(ctx context.Context, dir string, image sandbox.Ref) (*engine, error) {
	note, err := readNote(dir)
	if errors.Is(err, os.ErrNotExist) {
		return d.current, nil // a seed, found by its key
	}
	if err != nil {
		return nil, errors.Join(runtime.ErrSnapshotUnusable, err)
	}
	if note.Image != image {
		return nil, fmt.Errorf("the snapshot was taken over %s, not over %s", note.Image, image)
	}
	if note.Version == d.current.version {
		return d.current, nil
	}
	e, err := d.earlier(ctx, note.Engine)
	if err != nil && ctx.Err() == nil {
		err = errors.Join(runtime.ErrSnapshotUnusable, err)
	}
	return e, err
}
