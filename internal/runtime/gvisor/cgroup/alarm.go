package cgroup

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"
)

// feed turns every successful read of files into a wake-up, until closed. A
// group's removal wakes too.
func feed(files ...*os.File) *alarm {
	wake := make(chan struct{}, 1)
	var readers sync.WaitGroup
	for _, f := range files {
		readers.Go(func() {
			buf := make([]byte, 4096)
			for {
				if _, err := f.Read(buf); err != nil {
					return
				}
				select {
				case wake <- struct{}{}:
				default: // a look is due anyhow
				}
			}
		})
	}
	return &alarm{wake: wake, close: func() {
		for _, f := range files {
			_ = f.Close()
		}
		readers.Wait()
	}}
}

// arm makes running out of memory wait for the guard, and reports it and each
// crossing of the line. The kernel drops a registration when its eventfd closes.
func (t v1) arm(name string) (*alarm, error) {
	line, err := readInt(t.file("memory", name, "memory.soft_limit_in_bytes"))
	if err != nil {
		return nil, err
	}
	oom, err := t.event(name, "memory.oom_control", "")
	if err != nil {
		return nil, err
	}
	crossed, err := t.event(name, "memory.usage_in_bytes", itoa(line))
	if err != nil {
		_ = oom.Close()
		return nil, err
	}
	a := feed(oom, crossed)
	// Last: nobody may stand still with no one told.
	if err := write(t.file("memory", name, "memory.oom_control"), "1"); err != nil {
		a.close()
		return nil, err
	}
	return a, nil
}

// event registers an eventfd for a control file.
func (t v1) event(name, file, arg string) (*os.File, error) {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("eventfd: %w", err)
	}
	event := os.NewFile(uintptr(fd), file)
	control, err := os.Open(t.file("memory", name, file))
	if err != nil {
		_ = event.Close()
		return nil, err
	}
	defer control.Close()
	err = write(t.file("memory", name, "cgroup.event_control"), fmt.Sprintf("%d %d %s", fd, control.Fd(), arg))
	if err != nil {
		_ = event.Close()
		return nil, err
	}
	return event, nil
}

func (t v1) raise(name string, steps int) error {
	line, err := readInt(t.file("memory", name, "memory.soft_limit_in_bytes"))
	if err != nil {
		return err
	}
	return t.setHard(name, line+int64(1+steps)*reserve(line))
}

func (t v1) surrender(name string) error {
	return write(t.file("memory", name, "memory.oom_control"), "0")
}

func (t v1) disarm(name string) error { return t.surrender(name) }

// arm watches the counters of memory.high and memory.max being hit.
func (t v2) arm(name string) (*alarm, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("inotify: %w", err)
	}
	notify := os.NewFile(uintptr(fd), "inotify")
	if _, err := unix.InotifyAddWatch(fd, t.file(name, "memory.events"), unix.IN_MODIFY|unix.IN_DELETE_SELF); err != nil {
		_ = notify.Close()
		return nil, err
	}
	// The group's folder tells of its removal.
	if _, err := unix.InotifyAddWatch(fd, filepath.Join(t.top, name), unix.IN_DELETE_SELF); err != nil {
		_ = notify.Close()
		return nil, err
	}
	return feed(notify), nil
}

// raise only takes back what surrender did: on v2 the line itself slows the
// group down, and the reserve is there already.
func (t v2) raise(name string, _ int) error {
	line, err := readInt(t.file(name, "memory.high"))
	if err != nil {
		return err
	}
	return write(t.file(name, "memory.max"), itoa(line+reserve(line)))
}

// surrender brings the hard limit down to the line, where the kernel kills
// unless it can reclaim.
func (t v2) surrender(name string) error {
	line, err := readInt(t.file(name, "memory.high"))
	if err != nil {
		return err
	}
	return write(t.file(name, "memory.max"), itoa(line))
}

func (t v2) disarm(string) error { return nil }
