package files

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"silica.dev/silica/internal/guest"
	"silica.dev/silica/internal/guest/guestpb"
)

const (
	// findTime is how long one search may take: less than the host waits.
	findTime = 20 * time.Second
	// maxFound is how many files, or lines, one search finds at most.
	maxFound = 10_000
)

// Find says what to look for in a tree.
type Find struct {
	Path, Pattern string
	Limit         int // 0: as many as may be
	All           bool
	Type          guestpb.Entry_Type // unspecified: any
}

// Found is the part of what there is that fits into one answer.
type Found struct {
	Entries             []*guestpb.Entry // sorted by path
	Truncated, TimedOut bool
}

var (
	errEnough  = errors.New("enough")
	errTimeout = errors.New("out of time")
)

// Glob finds what matches a pattern below a folder. Symlinks are not followed.
func (f *Files) Glob(ctx context.Context, q Find) (found Found, err error) {
	root, err := Clean(q.Path)
	if err != nil {
		return found, err
	}
	re, err := compileGlob("pattern", q.Pattern, false)
	if err != nil {
		return found, err
	}
	limit := maxFound
	if q.Limit > 0 {
		limit = min(limit, q.Limit)
	}
	bytes := 0
	ctx, cancel := context.WithTimeoutCause(ctx, findTime, errTimeout)
	defer cancel()
	err = walk(ctx, root, q.All, depthOf(q.Pattern), func(p, name string, d fs.DirEntry) error {
		if !re.MatchString(guest.Spell(name)) || IsTemp(d.Name()) {
			return nil
		}
		e, err := entry(p)
		if err != nil {
			return nil // gone meanwhile
		}
		if q.Type != guestpb.Entry_TYPE_UNSPECIFIED && e.Type != q.Type {
			return nil
		}
		if bytes += len(e.Path) + len(e.Name) + len(e.SymlinkTarget) + 48; len(found.Entries) == limit || bytes > maxListing {
			return errEnough
		}
		found.Entries = append(found.Entries, e)
		return nil
	})
	found.Truncated, found.TimedOut = errors.Is(err, errEnough), errors.Is(err, errTimeout)
	if err != nil && !found.Truncated && !found.TimedOut {
		return Found{}, f.classify(root, err)
	}
	slices.SortFunc(found.Entries, func(a, b *guestpb.Entry) int { return strings.Compare(a.Path, b.Path) })
	return found, nil
}

// depthOf is how deep what a pattern matches can lie; 0: anywhere.
func depthOf(pattern string) int {
	if strings.Contains(pattern, "**") || strings.Contains(pattern, "{") {
		return 0
	}
	return strings.Count(strings.Trim(strings.TrimPrefix(pattern, "./"), "/"), "/") + 1
}

// walk calls visit with everything below root, with its path and its name from
// there, in no order. It does not go into symlinks, what the kernel makes up, and
// .git unless all is set. depth 0 is no limit. Folders that can't be read are
// passed over.
func walk(ctx context.Context, root string, all bool, depth int, visit func(p, name string, d fs.DirEntry) error) error {
	d, err := os.Open(root)
	if err != nil {
		return err
	}
	if info, err := d.Stat(); err != nil || !info.IsDir() {
		d.Close()
		return errors.Join(err, notDirectory(root))
	}
	type folder struct{ path, name string }
	var descend func(at folder, d *os.File, level int) error
	descend = func(at folder, d *os.File, level int) error {
		var below []string
		defer d.Close() // twice is fine; it is not kept open on the way down
		for {
			entries, err := d.ReadDir(256)
			for _, e := range entries {
				if ctx.Err() != nil {
					return context.Cause(ctx)
				}
				if err := visit(path.Join(at.path, e.Name()), path.Join(at.name, e.Name()), e); err != nil {
					return err
				}
				if e.IsDir() && (all || e.Name() != ".git") && (depth == 0 || level < depth) {
					below = append(below, e.Name())
				}
			}
			if err != nil || len(entries) == 0 {
				break // io.EOF
			}
		}
		d.Close()
		for _, name := range below {
			next := folder{path.Join(at.path, name), path.Join(at.name, name)}
			if notStored(next.path) {
				continue
			}
			d, err := os.Open(next.path)
			if err != nil {
				continue
			}
			if err := descend(next, d, level+1); err != nil {
				return err
			}
		}
		return nil
	}
	return descend(folder{root, ""}, d, 1)
}
