package blob

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"silica.dev/silica/sandbox"
)

// ErrDamaged says that an artifact is there but no longer what was put.
var ErrDamaged = errors.New("artifact is damaged")

// errPinned is what Delete answers for an artifact in use.
var errPinned = sandbox.E(sandbox.Conflict, sandbox.CodeConflict, "the artifact is in use")

// errFull is what writers get when the file system has no room.
var errFull = sandbox.E(sandbox.Exhausted, sandbox.CodeHostFull, "the host's disk is full")

// parallelHashes bounds how many files of one artifact are read at once.
const parallelHashes = 2

// Local is a [Store] in a folder of this host:
//
//	DIR/sha256-<hex>/        one artifact: its files, and .manifest
//	DIR/tmp/<session>/       what one Local is writing or removing
//
// Several processes may have the same folder open. Pins and sessions are file
// locks on the folders themselves, so that they end with their process however
// it ends, and a start removes the sessions of the dead only.
type Local struct {
	dir     string
	session *os.File // locked as long as this Local lives

	mu   sync.Mutex
	pins map[sandbox.Ref]*pin
}

// pin is a shared lock on an artifact's folder.
type pin struct {
	folder *os.File
	users  int
}

// NewLocal opens the store at dir, makes it if absent, and removes what dead
// processes left unfinished.
func NewLocal(dir string) (*Local, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("open blob store: %w", err)
	}
	l := &Local{dir: dir, pins: map[sandbox.Ref]*pin{}}
	if err := os.MkdirAll(l.tmp(), 0o700); err != nil {
		return nil, fmt.Errorf("open blob store: %w", full(err))
	}
	if err := l.sweep(); err != nil {
		return nil, fmt.Errorf("clean blob store: %w", err)
	}
	for l.session == nil {
		path, err := os.MkdirTemp(l.tmp(), "s")
		if err != nil {
			return nil, fmt.Errorf("open blob store: %w", full(err))
		}
		// Another process may sweep the folder before it is locked: make one more.
		l.session, err = lockFolder(path, unix.LOCK_EX)
		if err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("open blob store: %w", err)
		}
	}
	return l, nil
}

// Close removes what is unfinished. Artifacts pinned through l are no longer.
func (l *Local) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for ref, p := range l.pins {
		p.folder.Close()
		delete(l.pins, ref)
	}
	err := os.RemoveAll(l.session.Name())
	return errors.Join(err, l.session.Close())
}

func (l *Local) tmp() string { return filepath.Join(l.dir, "tmp") }

// path is where ref's folder is. A Ref of another form is not in any store.
func (l *Local) path(ref sandbox.Ref) (string, error) {
	digest, ok := strings.CutPrefix(string(ref), "sha256:")
	if b, err := hex.DecodeString(digest); !ok || err != nil || len(b) != 32 || strings.ToLower(digest) != digest {
		return "", missing(ref)
	}
	return filepath.Join(l.dir, "sha256-"+digest), nil
}

func missing(ref sandbox.Ref) error {
	return sandbox.E(sandbox.NotFound, sandbox.CodeNotFound, "no artifact "+string(ref))
}

// sweep removes sessions whose process is gone.
func (l *Local) sweep() error {
	entries, err := os.ReadDir(l.tmp())
	if err != nil {
		return err
	}
	for _, e := range entries {
		path := filepath.Join(l.tmp(), e.Name())
		if e.IsDir() {
			f, err := lockFolder(path, unix.LOCK_EX)
			if errors.Is(err, syscall.EWOULDBLOCK) || f == nil && err == nil {
				continue // its owner lives, or somebody else removed it
			}
			if err != nil {
				return err
			}
			defer f.Close()
		}
		if err := os.RemoveAll(path); err != nil {
			return err
		}
	}
	return nil
}

// TempDir implements [Store].
func (l *Local) TempDir(context.Context) (string, error) {
	dir, err := os.MkdirTemp(l.session.Name(), "t")
	if err != nil {
		return "", fmt.Errorf("make temporary folder: %w", full(err))
	}
	return dir, nil
}

// Put implements [Store]. dir is removed on failure, too.
func (l *Local) Put(ctx context.Context, dir string) (sandbox.Ref, error) {
	ref, err := l.Seal(ctx, dir)
	if err != nil {
		return "", errors.Join(err, os.RemoveAll(dir))
	}
	if err := l.Publish(ctx, dir, ref); err != nil {
		return "", err
	}
	return ref, nil
}

// Seal is the first half of Put: everything in dir is durable, and has a name, under
// which it is not found yet.
func (l *Local) Seal(ctx context.Context, dir string) (sandbox.Ref, error) {
	manifest, err := seal(ctx, dir)
	if err != nil {
		return "", fmt.Errorf("put: %w", full(err))
	}
	return refOf(manifest), nil
}

// Publish is the second half, for the name that Seal returned.
func (l *Local) Publish(ctx context.Context, dir string, ref sandbox.Ref) (err error) {
	defer func() {
		if err != nil {
			err = errors.Join(full(err), os.RemoveAll(dir))
		}
	}()
	path, err := l.path(ref)
	if err != nil {
		return err
	}
	for {
		err := unix.Renameat2(unix.AT_FDCWD, dir, unix.AT_FDCWD, path, unix.RENAME_NOREPLACE)
		if err == nil {
			return syncFolder(l.dir)
		}
		if !errors.Is(err, syscall.EEXIST) {
			return fmt.Errorf("put %s: %w", ref, err)
		}
		// Believing a damaged artifact would make it impossible to repair:
		// building again gives the same name.
		err = l.confirm(ctx, ref, path)
		if sandbox.HasCode(err, sandbox.CodeNotFound) {
			continue // deleted in between
		}
		if errors.Is(err, ErrDamaged) {
			err = l.replace(dir, path)
		}
		if err != nil {
			return fmt.Errorf("put %s: %w", ref, err)
		}
		return os.RemoveAll(dir)
	}
}

// confirm verifies an artifact that is put once more, and has it count as new.
func (l *Local) confirm(ctx context.Context, ref sandbox.Ref, path string) error {
	release, err := l.pin(ref, path)
	if err != nil {
		return err
	}
	defer release()
	if err := l.Verify(ctx, ref); err != nil {
		return err
	}
	return touch(path)
}

// replace swaps a damaged artifact for a good one without a moment of absence.
// Who has the old one open keeps it.
func (l *Local) replace(dir, path string) error {
	if err := unix.Renameat2(unix.AT_FDCWD, dir, unix.AT_FDCWD, path, unix.RENAME_EXCHANGE); err != nil {
		return err
	}
	return syncFolder(l.dir)
}

// seal writes dir's manifest and returns it when everything in dir is durable.
func seal(ctx context.Context, dir string) ([]byte, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		if !e.Type().IsRegular() || !validName(e.Name()) {
			return nil, fmt.Errorf("%q can't be part of an artifact", e.Name())
		}
	}
	files := make([]file, len(entries))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(2 * parallelHashes)
	for i, e := range entries {
		path := filepath.Join(dir, e.Name())
		// The disk writes while the processor hashes what is still in memory.
		g.Go(func() error { return syncPath(path) })
		g.Go(func() error {
			f, err := os.Open(path)
			if err != nil {
				return err
			}
			defer f.Close()
			files[i].Name = e.Name()
			files[i].Size, files[i].Sum, err = hash(ctx, f)
			if err != nil {
				return err
			}
			return f.Chmod(0o444)
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	manifest := encode(files)
	path := filepath.Join(dir, manifestName)
	if err := os.WriteFile(path, manifest, 0o444); err != nil {
		return nil, err
	}
	return manifest, errors.Join(syncPath(path), os.Chmod(dir, 0o755), syncFolder(dir))
}

// Open implements [Store]. It compares names and sizes, not content: that is
// what Verify is for. [ErrDamaged] when they differ.
func (l *Local) Open(_ context.Context, ref sandbox.Ref) (string, func(), error) {
	path, err := l.path(ref)
	if err != nil {
		return "", nil, err
	}
	release, err := l.pin(ref, path)
	if err != nil {
		return "", nil, err
	}
	if err := checkSizes(path, ref); err != nil {
		release()
		return "", nil, err
	}
	return path, release, nil
}

func checkSizes(path string, ref sandbox.Ref) error {
	files, err := readManifest(path, ref)
	if err != nil {
		return err
	}
	for _, f := range files {
		st, err := os.Lstat(filepath.Join(path, f.Name))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("open %s: %w", ref, err)
		}
		if err != nil || !st.Mode().IsRegular() || st.Size() != f.Size {
			return fmt.Errorf("%w: %s of %s is missing or cut off", ErrDamaged, f.Name, ref)
		}
	}
	return nil
}

// pin holds ref's folder until the returned function is called (once or more).
func (l *Local) pin(ref sandbox.Ref, path string) (func(), error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	p := l.pins[ref]
	if p == nil {
		folder, err := lockFolder(path, unix.LOCK_SH)
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.EWOULDBLOCK) || folder == nil && err == nil {
			return nil, missing(ref) // absent, or being deleted
		}
		if err != nil {
			return nil, fmt.Errorf("open %s: %w", ref, err)
		}
		p = &pin{folder: folder}
		l.pins[ref] = p
	}
	p.users++
	return sync.OnceFunc(func() { l.unpin(ref, p) }), nil
}

func (l *Local) unpin(ref sandbox.Ref, p *pin) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if p.users--; p.users == 0 && l.pins[ref] == p {
		delete(l.pins, ref)
		p.folder.Close()
	}
}

// Verify implements [Store]; [ErrDamaged] when anything differs.
func (l *Local) Verify(ctx context.Context, ref sandbox.Ref) error {
	path, err := l.path(ref)
	if err != nil {
		return err
	}
	release, err := l.pin(ref, path)
	if err != nil {
		return err
	}
	defer release()
	if err := checkSizes(path, ref); err != nil {
		return err
	}
	files, err := readManifest(path, ref)
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(parallelHashes)
	for _, want := range files {
		g.Go(func() error {
			f, err := os.Open(filepath.Join(path, want.Name))
			if err != nil {
				return fmt.Errorf("verify %s: %w", ref, err)
			}
			defer f.Close()
			_, sum, err := hash(ctx, f)
			if err != nil {
				return fmt.Errorf("verify %s: %w", ref, err)
			}
			if !bytes.Equal(sum[:], want.Sum[:]) {
				return fmt.Errorf("%w: %s of %s was changed", ErrDamaged, want.Name, ref)
			}
			return nil
		})
	}
	return g.Wait()
}

// Delete implements [Store]. It renames first, so that a crash never leaves
// half an artifact under its name.
func (l *Local) Delete(_ context.Context, ref sandbox.Ref) error {
	path, err := l.path(ref)
	if err != nil {
		return nil
	}
	return l.delete(ref, path, func() error { return nil })
}

// delete removes an artifact that nobody has open, if allow says so once it is
// locked.
func (l *Local) delete(ref sandbox.Ref, path string, allow func() error) error {
	l.mu.Lock()
	pinned := l.pins[ref] != nil // the lock alone misses the pins of a replaced artifact
	l.mu.Unlock()
	if pinned {
		return errPinned
	}
	folder, err := lockFolder(path, unix.LOCK_EX)
	switch {
	case errors.Is(err, os.ErrNotExist) || folder == nil && err == nil:
		return nil
	case errors.Is(err, syscall.EWOULDBLOCK):
		return errPinned
	case err != nil:
		return fmt.Errorf("delete %s: %w", ref, err)
	}
	defer folder.Close()
	if err := allow(); err != nil {
		return err
	}
	grave := filepath.Join(l.session.Name(), sandbox.NewName("d"))
	if err := os.Rename(path, grave); err != nil {
		return fmt.Errorf("delete %s: %w", ref, err)
	}
	if err := syncFolder(l.dir); err != nil {
		return fmt.Errorf("delete %s: %w", ref, err)
	}
	return os.RemoveAll(grave)
}

// List implements [Store]; sorted.
func (l *Local) List(context.Context) ([]sandbox.Ref, error) {
	entries, err := os.ReadDir(l.dir)
	if err != nil {
		return nil, fmt.Errorf("list artifacts: %w", err)
	}
	var refs []sandbox.Ref
	for _, e := range entries {
		digest, ok := strings.CutPrefix(e.Name(), "sha256-")
		ref := sandbox.Ref("sha256:" + digest)
		if _, err := l.path(ref); ok && err == nil {
			refs = append(refs, ref)
		}
	}
	slices.Sort(refs)
	return refs, nil
}

// lockFolder opens and locks the folder at path without waiting:
// EWOULDBLOCK when another holder is in the way, nil and no error when the
// folder was moved away before the lock was ours.
func lockFolder(path string, how int) (*os.File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), how|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, err
	}
	opened, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, err
	}
	if now, err := os.Lstat(path); err != nil || !os.SameFile(now, opened) {
		f.Close()
		return nil, nil
	}
	return f, nil
}

func syncPath(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}

// syncFolder makes the names in a folder durable.
func syncFolder(path string) error { return syncPath(path) }

// Full classifies an error of who writes to a folder of [Store.TempDir].
func Full(err error) error { return full(err) }

// full classifies an error of a file system without room.
func full(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return errFull.Because(err)
	}
	return err
}
