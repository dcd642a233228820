package proc

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// group is the set of processes that one start brought about, however they
// daemonised.
type group interface {
	// enter moves the calling thread in, so that what it forks belongs; leave
	// moves it out.
	enter() error
	leave() error
	// attach names the first process; env is what it needs in its environment.
	attach(pid int)
	env() []string
	// members appends the processes alive to buf.
	members(buf []int) []int
	// count tells how many tasks there are.
	count() int
}

// tracker makes groups. Table.mu is held during its calls.
type tracker interface {
	group() (group, error)
	// release ends a group without members. A group that may be reused must not
	// be known to anybody.
	release(g group, reusable bool)
	setLimit(n int)
}

// spare is how many empty groups are kept, so that a command needs no mkdir.
const spare = 8

// cgroupTracker uses a folder of a version 1 pids hierarchy; in gVisor that is
// the one its kernel has inside itself. Membership is inherited by fork and
// can't be left without the privilege to mount. A program can get that in a user
// namespace of its own, and so out of its group and its command's tree; Relieve
// and the process limit find it all the same.
type cgroupTracker struct {
	dir   *os.File
	tasks *os.File // of dir: where the launcher's thread rests
	made  int
	limit int
	free  []*cgroup
}

type cgroup struct {
	name    string
	home    *os.File // cgroupTracker.tasks
	tasks   *os.File
	procs   *os.File
	current *os.File
	max     int
}

func newCgroupTracker(dir *os.File) *cgroupTracker { return &cgroupTracker{dir: dir} }

func (c *cgroupTracker) setLimit(n int) { c.limit = n }

func (c *cgroupTracker) group() (group, error) {
	if c.tasks == nil {
		f, err := openAt(c.dir, "tasks", unix.O_WRONLY)
		if err != nil {
			return nil, err
		}
		c.tasks = f
	}
	var g *cgroup
	if n := len(c.free); n > 0 {
		g, c.free = c.free[n-1], c.free[:n-1]
	} else {
		var err error
		if g, err = c.make(); err != nil {
			return nil, err
		}
	}
	if g.max != c.limit {
		f, err := openAt(c.dir, g.name+"/pids.max", unix.O_WRONLY)
		if err == nil {
			_, err = f.WriteString(strconv.Itoa(c.limit))
			f.Close()
		}
		if err != nil {
			c.release(g, false)
			return nil, fmt.Errorf("limit a group: %w", err)
		}
		g.max = c.limit
	}
	return g, nil
}

func (c *cgroupTracker) make() (*cgroup, error) {
	g := &cgroup{home: c.tasks}
	for {
		c.made++
		g.name = "e" + strconv.Itoa(c.made)
		err := unix.Mkdirat(int(c.dir.Fd()), g.name, 0o700)
		if err == nil {
			break
		}
		if !errors.Is(err, unix.EEXIST) { // else of a table before us
			return nil, fmt.Errorf("make a group: %w", err)
		}
	}
	for _, f := range []struct {
		to   **os.File
		name string
		flag int
	}{{&g.tasks, "tasks", unix.O_WRONLY}, {&g.procs, "cgroup.procs", unix.O_RDONLY}, {&g.current, "pids.current", unix.O_RDONLY}} {
		file, err := openAt(c.dir, g.name+"/"+f.name, f.flag)
		if err != nil {
			c.release(g, false)
			return nil, err
		}
		*f.to = file
	}
	return g, nil
}

func (c *cgroupTracker) release(gr group, reusable bool) {
	g := gr.(*cgroup)
	if reusable && len(c.free) < spare {
		c.free = append(c.free, g)
		return
	}
	for _, f := range []*os.File{g.tasks, g.procs, g.current} {
		if f != nil {
			f.Close()
		}
	}
	// Someone may just be leaving; an empty folder too many does no harm.
	_ = unix.Unlinkat(int(c.dir.Fd()), g.name, unix.AT_REMOVEDIR)
}

func openAt(dir *os.File, name string, flag int) (*os.File, error) {
	fd, err := unix.Openat(int(dir.Fd()), name, flag|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s of a cgroup: %w", name, err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

var self = []byte("0")

func (g *cgroup) enter() error {
	if _, err := g.tasks.Write(self); err != nil {
		return fmt.Errorf("enter a group: %w", err)
	}
	return nil
}

func (g *cgroup) leave() error {
	if _, err := g.home.Write(self); err != nil {
		return fmt.Errorf("leave a group: %w", err)
	}
	return nil
}

func (g *cgroup) attach(int)    {}
func (g *cgroup) env() []string { return nil }

func (g *cgroup) members(buf []int) []int {
	data := make([]byte, 0, 1024)
	var b [1024]byte
	for off := int64(0); ; {
		n, err := g.procs.ReadAt(b[:], off)
		data = append(data, b[:n]...)
		off += int64(n)
		if err != nil || n == 0 {
			break
		}
	}
	me := os.Getpid()
	pid := 0
	for _, c := range data {
		if c >= '0' && c <= '9' {
			pid = pid*10 + int(c-'0')
			continue
		}
		if pid > 0 && pid != me {
			buf = append(buf, pid)
		}
		pid = 0
	}
	return buf
}

// count reads once: what is read here is on the path of every command.
func (g *cgroup) count() int {
	var b [16]byte
	n, err := unix.Pread(int(g.current.Fd()), b[:], 0)
	if n <= 0 || err != nil {
		return 0
	}
	v, _ := strconv.Atoi(strings.TrimSpace(string(b[:n])))
	return v
}

// MountCgroup opens a fresh folder in the kernel's own pids hierarchy. The mount
// is taken off its path at once: it lives by the open folder alone, and
// processes without the privilege to mount can't reach it.
func MountCgroup() (_ *os.File, err error) {
	var at string
	for _, dir := range []string{"/run", "/tmp", "/var/tmp", "/"} {
		at = filepath.Join(dir, ".silica-"+rand.Text())
		if err = os.Mkdir(at, 0o700); err == nil {
			break
		}
	}
	if err != nil {
		return nil, fmt.Errorf("find a place for a mount: %w", err)
	}
	defer os.Remove(at)
	if err := unix.Mount("none", at, "cgroup", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "pids"); err != nil {
		return nil, fmt.Errorf("mount the pids hierarchy: %w", err)
	}
	defer func() { _ = unix.Unmount(at, unix.MNT_DETACH) }()
	root := filepath.Join(at, "silica")
	if err := os.Mkdir(root, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return nil, fmt.Errorf("make our folder: %w", err)
	}
	return os.Open(root)
}

// walkTracker is for kernels without such a hierarchy: a group is whoever
// shares the first process's session, descends from one of it, or carries its
// mark in the environment. A daemon that cleans its environment and double-forks
// gets away.
type walkTracker struct {
	scan *scanner
	made atomic.Int64
}

const mark = "SILICA_TREE="

type walkGroup struct {
	scan  *scanner
	mark  string
	first atomic.Int64
}

func (w *walkTracker) setLimit(int) {}

func (w *walkTracker) group() (group, error) {
	return &walkGroup{scan: w.scan, mark: mark + strconv.FormatInt(w.made.Add(1), 10)}, nil
}

func (w *walkTracker) release(group, bool) {}

func (g *walkGroup) enter() error   { return nil }
func (g *walkGroup) leave() error   { return nil }
func (g *walkGroup) attach(pid int) { g.first.Store(int64(pid)) }
func (g *walkGroup) env() []string  { return []string{g.mark} }
func (g *walkGroup) count() int     { return len(g.members(nil)) }

func (g *walkGroup) members(buf []int) []int {
	first := int(g.first.Load())
	g.scan.mu.Lock()
	defer g.scan.mu.Unlock()
	in := map[int]bool{first: true}
	all := g.scan.all()
	me := os.Getpid()
	for _, e := range all {
		if e.pid != me && (e.session == first || g.scan.hasEnv(e.pid, g.mark)) {
			in[e.pid] = true
		}
	}
	for grown := true; grown; {
		grown = false
		for _, e := range all {
			if !in[e.pid] && in[e.parent] && e.pid != me {
				in[e.pid] = true
				grown = true
			}
		}
	}
	for _, e := range all {
		if in[e.pid] && e.state != 'Z' {
			buf = append(buf, e.pid)
		}
	}
	return buf
}
