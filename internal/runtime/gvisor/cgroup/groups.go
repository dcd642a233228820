package cgroup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"silica.dev/silica/sandbox"
)

// Config says where groups are made.
type Config struct {
	Root string // mount point; empty: /sys/fs/cgroup
	// Top is the folder below Root that holds every group, "silica" if empty. It
	// may be a path: a service with Delegate=yes names its own subtree.
	Top string
}

// Groups makes, limits, measures and removes groups. It keeps nothing about
// them in memory but who watches: every method works after a restart. Methods
// for different names may overlap; Watch may overlap with all.
type Groups struct {
	tree tree
	// A control file system fills a new folder by itself and removes one with
	// its files; tests on plain folders do it in these.
	mkdir func(dir string, perm os.FileMode) error
	rmdir func(dir string) error

	mu    sync.Mutex
	pokes map[string]chan struct{} // by name: wakes its watcher after an Update
}

// tree is what v1 and v2 do differently.
type tree interface {
	folders(name string) []string // that make up the group, "" for the one holding all
	join(name string) []string    // files to write a pid to
	create(name string, l Limits) error
	update(name string, l Limits) error
	usage(name string) (Usage, error)
	memory(name string) (memory, error)
	oomKills(name string) (int64, error)
	inForce(name string) (Limits, error)

	// For the guard; see DESIGN.md.
	arm(name string) (*alarm, error)    // also makes running out wait for us, where the kernel can
	raise(name string, steps int) error // hard limit plus steps reserves; 0 takes all back
	surrender(name string) error        // let the kernel kill
	disarm(name string) error           // what an orderly end leaves behind
}

type v1 struct {
	mounts map[string]string
	top    string
}

type v2 struct{ top string }

// Open finds the host's hierarchy and makes the top folder.
func Open(cfg Config) (*Groups, error) {
	if cfg.Root == "" {
		cfg.Root = "/sys/fs/cgroup"
	}
	if cfg.Top == "" {
		cfg.Top = "silica"
	}
	h, err := Detect(cfg.Root)
	if err != nil {
		return nil, err
	}
	if err := h.top(cfg.Top); err != nil {
		return nil, err
	}
	g := &Groups{mkdir: os.Mkdir, rmdir: unix.Rmdir, pokes: map[string]chan struct{}{}}
	if h.V2 {
		g.tree = v2{filepath.Join(h.Root, cfg.Top)}
	} else {
		g.tree = v1{h.Mounts, cfg.Top}
	}
	return g, nil
}

// Create makes an empty group with its limits. A group that exists already is an
// error that wraps [fs.ErrExist]: its processes are somebody's. After any other
// error nothing is left.
func (g *Groups) Create(name string, l Limits) error {
	if err := check(name); err != nil {
		return err
	}
	if l.MilliCPU != 0 && l.MilliCPU < 10 {
		return sandbox.Field("cpu", "must be at least 10 millicores")
	}
	for i, dir := range g.tree.folders(name) {
		if err := g.mkdir(dir, 0o755); err != nil {
			for _, made := range g.tree.folders(name)[:i] {
				_ = g.rmdir(made)
			}
			return fmt.Errorf("create cgroup %s: %w", name, err)
		}
	}
	if err := g.tree.create(name, l); err != nil {
		for _, made := range g.tree.folders(name) {
			_ = g.rmdir(made)
		}
		return fmt.Errorf("limit cgroup %s: %w", name, err)
	}
	return nil
}

// Update changes the limits of a group in use. Lowering memory below what can't
// be reclaimed is a Conflict on v1 (on v2 the kernel kills): shrink first.
func (g *Groups) Update(name string, l Limits) error {
	if err := check(name); err != nil {
		return err
	}
	err := g.tree.update(name, l)
	g.mu.Lock()
	poke := g.pokes[name]
	g.mu.Unlock()
	if poke != nil {
		select {
		case poke <- struct{}{}:
		default: // it is awake already
		}
	}
	switch {
	case err == nil:
		return nil
	case errors.Is(err, fs.ErrNotExist):
		return notFound(name, err)
	case errors.Is(err, unix.EBUSY):
		return sandbox.E(sandbox.Conflict, sandbox.CodeConflict, "more memory is in use than the new limit allows").Because(err)
	}
	return fmt.Errorf("update cgroup %s: %w", name, err)
}

// Add moves a process, with all its threads, into a group. The sentry moves
// itself ([Enter]); this is for helpers the engine starts.
func (g *Groups) Add(name string, pid int) error {
	if err := check(name); err != nil {
		return err
	}
	for _, file := range g.tree.join(name) {
		if err := write(file, strconv.Itoa(pid)); err != nil {
			return fmt.Errorf("move %d to cgroup %s: %w", pid, name, err)
		}
	}
	return nil
}

// Procs lists the processes in a group, sorted; none for one that doesn't exist.
func (g *Groups) Procs(name string) ([]int, error) {
	if err := check(name); err != nil {
		return nil, err
	}
	var pids []int
	for _, dir := range g.tree.folders(name) {
		s, err := readString(filepath.Join(dir, "cgroup.procs"))
		if err != nil && !gone(err) {
			return nil, fmt.Errorf("list processes of cgroup %s: %w", name, err)
		}
		for _, field := range strings.Fields(s) {
			if pid, err := strconv.Atoi(field); err == nil {
				pids = append(pids, pid)
			}
		}
	}
	slices.Sort(pids)
	return slices.Compact(pids), nil
}

// KillAll kills every process in a group, forks included, and returns once it
// is empty. SIGKILL also ends processes that stand still for lack of memory.
func (g *Groups) KillAll(ctx context.Context, name string) error {
	return g.until(ctx, func() (bool, error) {
		for _, dir := range g.tree.folders(name) {
			// Kernels before 5.14 and v1 have no such file.
			_ = write(filepath.Join(dir, "cgroup.kill"), "1")
		}
		pids, err := g.Procs(name)
		if err != nil {
			return false, err
		}
		for _, pid := range pids {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
		return len(pids) == 0, nil
	})
}

// Remove removes an empty group, waiting while its last processes leave. The
// error after ctx or five seconds says it is still busy; an unknown name is a
// success.
func (g *Groups) Remove(ctx context.Context, name string) error {
	if err := check(name); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	var last error
	err := g.until(ctx, func() (bool, error) {
		last = nil
		for _, dir := range g.tree.folders(name) {
			if err := g.rmdir(dir); err != nil && err != unix.ENOENT {
				last = err
				if err != unix.EBUSY {
					return false, err
				}
			}
		}
		return last == nil, nil
	})
	if err != nil {
		return fmt.Errorf("remove cgroup %s: %w", name, errors.Join(err, last))
	}
	return nil
}

// until calls done with growing pauses, from 1 to 50 ms, until it says yes.
func (g *Groups) until(ctx context.Context, done func() (bool, error)) error {
	for pause := time.Millisecond; ; pause = min(2*pause, 50*time.Millisecond) {
		if ok, err := done(); ok || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
		}
	}
}

// List names every group there is, complete or not, sorted.
func (g *Groups) List() ([]string, error) {
	var names []string
	for _, top := range g.tree.folders("") {
		entries, err := os.ReadDir(top)
		if err != nil {
			return nil, fmt.Errorf("list cgroups: %w", err)
		}
		for _, e := range entries {
			if e.IsDir() {
				names = append(names, e.Name())
			}
		}
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

// OOMKilled tells whether the kernel killed a process of the group for memory.
// Read it before Remove: the answer goes with the group.
func (g *Groups) OOMKilled(name string) (bool, error) {
	if err := check(name); err != nil {
		return false, err
	}
	n, err := g.tree.oomKills(name)
	if gone(err) {
		return false, notFound(name, err)
	}
	return n > 0, err
}

// check keeps names one folder deep.
func check(name string) error {
	if name == "" || name[0] == '.' || strings.ContainsAny(name, "/\x00\n") || strings.HasPrefix(name, "cgroup.") {
		return sandbox.Field("cgroup", fmt.Sprintf("%q is not a usable name", name))
	}
	return nil
}

func notFound(name string, cause error) error {
	return sandbox.E(sandbox.NotFound, sandbox.CodeNotFound, "no cgroup "+name).Because(cause)
}

// gone tells whether an error means that the group was removed, also while one
// of its files was open.
func gone(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV)
}
