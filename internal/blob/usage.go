package blob

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"silica.dev/silica/sandbox"
)

// Usage is what one artifact takes on disk.
type Usage struct {
	Ref   sandbox.Ref
	Size  int64     // bytes, without the holes of sparse files
	PutAt time.Time // when it was last put, be it there already
}

// Usage tells what every artifact takes.
func (l *Local) Usage(ctx context.Context) ([]Usage, error) {
	refs, err := l.List(ctx)
	if err != nil {
		return nil, err
	}
	var list []Usage
	for _, ref := range refs {
		path, err := l.path(ref)
		if err != nil {
			return nil, err
		}
		u, err := usageOf(path)
		if errors.Is(err, os.ErrNotExist) {
			continue // deleted in between
		}
		if err != nil {
			return nil, fmt.Errorf("look at %s: %w", ref, err)
		}
		u.Ref = ref
		list = append(list, u)
	}
	return list, nil
}

func usageOf(path string) (u Usage, err error) {
	folder, err := os.Stat(path)
	if err != nil {
		return u, err
	}
	u.PutAt = folder.ModTime()
	entries, err := os.ReadDir(path)
	if err != nil {
		return u, err
	}
	for _, e := range entries {
		var st unix.Stat_t
		if err := unix.Lstat(filepath.Join(path, e.Name()), &st); err != nil {
			return u, err
		}
		u.Size += st.Blocks * 512
	}
	return u, nil
}

// Collect is Delete for what nobody seems to need: it refuses with a Conflict
// what was put since before.
func (l *Local) Collect(ctx context.Context, ref sandbox.Ref, before time.Time) error {
	path, err := l.path(ref)
	if err != nil {
		return nil
	}
	return l.delete(ref, path, func() error {
		st, err := os.Stat(path)
		if err == nil && st.ModTime().After(before) {
			err = errPinned
		}
		return err
	})
}

// touch says that an artifact was put again. Who calls it has it pinned, so that
// it can't be collected before.
func touch(path string) error {
	now := time.Now()
	return os.Chtimes(path, now, now)
}
