package files

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"silica.dev/silica/internal/guest/guestpb"
	"silica.dev/silica/sandbox"
)

// Change is what to make of a file's permissions and owner; nil is no change.
type Change struct {
	Mode, UID, GID *uint32
	Recursive      bool
}

// Change changes what is at name, of a symlink what it points to. With Recursive
// everything below changes too, but for symlinks there. It ends early when ctx does.
func (f *Files) Change(ctx context.Context, name string, c Change) (*guestpb.Entry, error) {
	p, err := Clean(name)
	if err != nil {
		return nil, err
	}
	if c.Mode != nil && *c.Mode > 0o7777 {
		return nil, sandbox.Field("mode", "must be permission bits")
	}
	real, err := filepath.EvalSymlinks(p)
	if err != nil {
		return nil, f.classify(p, err)
	}
	if !c.Recursive {
		err = c.apply(real)
	} else {
		err = filepath.WalkDir(real, func(p string, d fs.DirEntry, err error) error {
			switch {
			case ctx.Err() != nil:
				return context.Cause(ctx)
			case err != nil:
				return err
			case d.Type()&fs.ModeSymlink != 0:
				return nil
			}
			if err := c.apply(p); p != real && errors.Is(err, fs.ErrNotExist) {
				return nil // it went while we looked
			} else if err != nil {
				return err
			}
			return nil
		})
	}
	if err != nil {
		return nil, f.classify(p, err)
	}
	e, err := entry(p)
	return e, f.classify(p, err)
}

func (c Change) apply(p string) error {
	if c.UID != nil || c.GID != nil {
		id := func(v *uint32) int {
			if v == nil {
				return -1
			}
			return int(*v)
		}
		if err := os.Lchown(p, id(c.UID), id(c.GID)); err != nil {
			return err
		}
	}
	if c.Mode != nil {
		return unix.Chmod(p, *c.Mode)
	}
	return nil
}
