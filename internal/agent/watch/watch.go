// Package watch tells what changes below a folder, so that nobody need poll.
package watch

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"silica.dev/silica/internal/agent/files"
	"silica.dev/silica/internal/guest"
	"silica.dev/silica/internal/guest/guestpb"
	"silica.dev/silica/sandbox"
)

const (
	// maxFolders bounds one recursive watch; the kernel has memory for each.
	maxFolders = 8192
	// pairing is how long a move waits for its second half.
	pairing = 10 * time.Millisecond

	interest = unix.IN_CREATE | unix.IN_DELETE | unix.IN_MODIFY | unix.IN_ATTRIB | unix.IN_MOVED_FROM |
		unix.IN_MOVED_TO | unix.IN_DELETE_SELF | unix.IN_MOVE_SELF | unix.IN_ONLYDIR | unix.IN_EXCL_UNLINK
)

// Watch tells emit what happens in dir until ctx ends, the folder is gone, or
// emit fails. WATCHING comes first. While emit blocks the kernel queues; what
// does not fit is an OVERFLOW.
func Watch(ctx context.Context, dir string, recursive bool, emit func(*guestpb.WatchEvent) error) error {
	dir, err := files.Clean(dir)
	if err != nil {
		return err
	}
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return fmt.Errorf("start watching: %w", err)
	}
	w := &watcher{
		fd: fd, file: os.NewFile(uintptr(fd), "inotify"), root: dir, recursive: recursive, emit: emit,
		paths: map[int]string{}, ids: map[string]int{},
	}
	defer w.file.Close()
	if err := w.add(dir); err != nil {
		return classify(dir, err)
	}
	if recursive {
		if err := w.descend(dir, nil); err != nil {
			return err
		}
	}
	stop := context.AfterFunc(ctx, func() { _ = w.file.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	if err := emit(&guestpb.WatchEvent{Kind: guestpb.WatchEvent_WATCHING, Path: guest.Spell(dir), IsDir: true}); err != nil {
		return err
	}
	return w.run(ctx)
}

func classify(dir string, err error) error {
	switch {
	case errors.Is(err, unix.ENOENT):
		return sandbox.E(sandbox.NotFound, sandbox.CodeFileNotFound, fmt.Sprintf("%q does not exist", guest.Spell(dir))).Because(err)
	case errors.Is(err, unix.ENOTDIR):
		return sandbox.E(sandbox.Conflict, sandbox.CodeNotDirectory, fmt.Sprintf("%q is not a directory", guest.Spell(dir))).Because(err)
	case errors.Is(err, unix.EACCES):
		return sandbox.E(sandbox.Forbidden, sandbox.CodePermissionDenied, fmt.Sprintf("access to %q is denied", guest.Spell(dir))).Because(err)
	case errors.Is(err, unix.ENOSPC):
		return errTooMany.Because(err)
	}
	return fmt.Errorf("watch %q: %w", dir, err)
}

var errTooMany = sandbox.E(sandbox.Invalid, sandbox.CodeValidation, fmt.Sprintf("more than %d folders can't be watched at once", maxFolders))

type watcher struct {
	fd        int
	file      *os.File
	root      string
	recursive bool
	emit      func(*guestpb.WatchEvent) error

	paths map[int]string // watch descriptor → folder
	ids   map[string]int

	moved *guestpb.WatchEvent // a move's first half, waiting for the second
	from  string              // its path, as it is
	ck    uint32              // its cookie
	last  *guestpb.WatchEvent // of this batch, to leave out repetitions
	buf   [16 << 10]byte
}

var errGone = errors.New("the watched folder is gone")

func (w *watcher) add(dir string) error {
	if len(w.paths) >= maxFolders {
		return errTooMany
	}
	wd, err := unix.InotifyAddWatch(w.fd, dir, interest)
	if err != nil {
		return err
	}
	if old, ok := w.paths[wd]; ok {
		delete(w.ids, old) // moved while we looked
	}
	w.paths[wd] = dir
	w.ids[dir] = wd
	return nil
}

// descend watches every folder below dir. found, if not nil, is told what is
// there already: it may have come before the watch.
func (w *watcher) descend(dir string, found func(path string, d fs.DirEntry) error) error {
	return filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || p == dir {
			return nil // gone again, or not ours to read: nothing to watch
		}
		if found != nil {
			if err := found(p, d); err != nil {
				return err
			}
		}
		if !d.IsDir() {
			return nil
		}
		switch err := w.add(p); {
		case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.EACCES):
			return fs.SkipDir
		case err != nil:
			return classify(p, err)
		}
		return nil
	})
}

func (w *watcher) run(ctx context.Context) error {
	for {
		// The end of ctx sets a deadline; looked at after we may have set ours.
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := w.file.Read(w.buf[:])
		if errors.Is(err, os.ErrDeadlineExceeded) {
			_ = w.file.SetReadDeadline(time.Time{})
			if err := w.unpaired(); err != nil {
				return err
			}
			continue
		}
		if err != nil {
			return fmt.Errorf("read changes: %w", err)
		}
		w.last = nil
		for b := w.buf[:n]; len(b) >= unix.SizeofInotifyEvent; {
			ev := (*unix.InotifyEvent)(unsafe.Pointer(&b[0]))
			end := unix.SizeofInotifyEvent + int(ev.Len)
			if end > len(b) {
				break
			}
			name := strings.TrimRight(string(b[unix.SizeofInotifyEvent:end]), "\x00")
			b = b[end:]
			err := w.event(ev, name)
			if errors.Is(err, errGone) {
				return w.send(&guestpb.WatchEvent{Kind: guestpb.WatchEvent_GONE, Path: guest.Spell(w.root), IsDir: true})
			}
			if err != nil {
				return err
			}
		}
		if w.moved != nil {
			_ = w.file.SetReadDeadline(time.Now().Add(pairing))
		}
	}
}

// event translates one change.
func (w *watcher) event(ev *unix.InotifyEvent, name string) error {
	if ev.Mask&unix.IN_Q_OVERFLOW != 0 {
		return w.overflow()
	}
	dir, ok := w.paths[int(ev.Wd)]
	if !ok {
		return nil // of a watch that ended meanwhile
	}
	second := ev.Mask&unix.IN_MOVED_TO != 0 && w.moved != nil && w.ck == ev.Cookie
	if w.moved != nil && !second {
		if err := w.unpaired(); err != nil {
			return err
		}
	}
	if name == "" {
		return w.self(ev, dir)
	}
	p := filepath.Join(dir, name)
	isDir := ev.Mask&unix.IN_ISDIR != 0
	temp := files.IsTemp(name)
	if temp && ev.Mask&unix.IN_MOVED_FROM == 0 {
		return nil // one of our own writes under way
	}
	out := &guestpb.WatchEvent{Path: guest.Spell(p), IsDir: isDir}
	switch {
	case ev.Mask&unix.IN_CREATE != 0:
		out.Kind = guestpb.WatchEvent_CREATED
		if isDir && w.recursive {
			return w.newFolder(p, out)
		}
	case ev.Mask&unix.IN_MODIFY != 0:
		out.Kind = guestpb.WatchEvent_MODIFIED
	case ev.Mask&unix.IN_ATTRIB != 0:
		out.Kind = guestpb.WatchEvent_CHMOD
	case ev.Mask&unix.IN_DELETE != 0:
		out.Kind = guestpb.WatchEvent_DELETED
		w.forget(p)
	case ev.Mask&unix.IN_MOVED_FROM != 0:
		out.Kind = guestpb.WatchEvent_DELETED // unless its second half comes
		w.moved, w.from, w.ck = out, p, ev.Cookie
		return nil
	case ev.Mask&unix.IN_MOVED_TO != 0:
		return w.movedTo(p, out, second)
	default:
		return nil
	}
	return w.send(out)
}

// self is about a watched folder as such: only the root's matters, the others'
// are told by their parents.
func (w *watcher) self(ev *unix.InotifyEvent, dir string) error {
	if ev.Mask&unix.IN_IGNORED != 0 {
		delete(w.paths, int(ev.Wd))
		if w.ids[dir] == int(ev.Wd) {
			delete(w.ids, dir)
		}
	}
	if dir != w.root {
		return nil
	}
	switch {
	case ev.Mask&(unix.IN_DELETE_SELF|unix.IN_MOVE_SELF|unix.IN_UNMOUNT|unix.IN_IGNORED) != 0:
		return errGone
	case ev.Mask&unix.IN_ATTRIB != 0:
		if _, err := os.Lstat(w.root); errors.Is(err, fs.ErrNotExist) {
			return errGone
		}
	}
	return nil
}

// newFolder watches a folder that came, and tells what came into it before.
func (w *watcher) newFolder(p string, out *guestpb.WatchEvent) error {
	if err := w.send(out); err != nil {
		return err
	}
	switch err := w.add(p); {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.EACCES):
		return nil
	case err != nil:
		return classify(p, err)
	}
	return w.descend(p, func(p string, d fs.DirEntry) error {
		return w.send(&guestpb.WatchEvent{Kind: guestpb.WatchEvent_CREATED, Path: guest.Spell(p), IsDir: d.IsDir()})
	})
}

func (w *watcher) movedTo(p string, out *guestpb.WatchEvent, second bool) error {
	from := w.from
	w.moved = nil
	switch {
	case second && files.IsTemp(filepath.Base(from)):
		out.Kind = guestpb.WatchEvent_CREATED // a write of ours that is complete
	case second:
		out.Kind, out.OldPath = guestpb.WatchEvent_RENAMED, guest.Spell(from)
		if out.IsDir {
			w.rename(from, p)
		}
	default:
		out.Kind = guestpb.WatchEvent_CREATED
		if out.IsDir && w.recursive {
			return w.newFolder(p, out)
		}
	}
	return w.send(out)
}

// unpaired tells a move out of the watched folders as what it is from inside.
func (w *watcher) unpaired() error {
	if w.moved == nil {
		return nil
	}
	out, from := w.moved, w.from
	w.moved = nil
	if out.IsDir {
		w.forget(from)
	}
	if files.IsTemp(filepath.Base(from)) {
		return nil
	}
	return w.send(out)
}

// below tells whether p is dir or in it.
func below(p, dir string) bool { return p == dir || strings.HasPrefix(p, dir+"/") }

func (w *watcher) rename(from, to string) {
	for p, wd := range w.ids {
		if below(p, from) {
			delete(w.ids, p)
			w.paths[wd] = to + p[len(from):]
		}
	}
	for wd, p := range w.paths {
		w.ids[p] = wd
	}
}

// forget ends the watches of a folder that left.
func (w *watcher) forget(dir string) {
	for p, wd := range w.ids {
		if p != w.root && below(p, dir) {
			_, _ = unix.InotifyRmWatch(w.fd, uint32(wd)) // ended already when it was deleted
			delete(w.ids, p)
			delete(w.paths, wd)
		}
	}
}

// overflow says that changes were lost, and watches folders that came unseen.
func (w *watcher) overflow() error {
	w.moved = nil
	if err := w.send(&guestpb.WatchEvent{Kind: guestpb.WatchEvent_OVERFLOW, Path: guest.Spell(w.root), IsDir: true}); err != nil {
		return err
	}
	if !w.recursive {
		return nil
	}
	return w.descend(w.root, nil)
}

func (w *watcher) send(ev *guestpb.WatchEvent) error {
	if l := w.last; l != nil && l.Kind == ev.Kind && l.Path == ev.Path && ev.Kind == guestpb.WatchEvent_MODIFIED {
		return nil
	}
	w.last = ev
	if ev.Kind == guestpb.WatchEvent_CREATED || ev.Kind == guestpb.WatchEvent_MODIFIED || ev.Kind == guestpb.WatchEvent_RENAMED {
		if info, err := os.Lstat(guest.Unspell(ev.Path)); err == nil && !ev.IsDir {
			ev.Size = info.Size()
		}
	}
	return w.emit(ev)
}
