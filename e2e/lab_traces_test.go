package e2e

import (
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// traces finds what a server has on the host, from outside: by the name it gives
// to interfaces, namespaces, tables and cgroups, and by its data folder in
// command lines and mounts.
type traces struct {
	name, data string
}

// process is one process of a server.
type process struct {
	pid  int
	args string
}

// processes lists what runs with the data folder in its command line.
func (tr traces) processes() []process {
	var found []process
	dirs, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, file := range dirs {
		cmdline, err := os.ReadFile(file)
		if err != nil || !bytes.Contains(cmdline, []byte(tr.data)) {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		if err != nil || pid == os.Getpid() {
			continue
		}
		found = append(found, process{pid, strings.TrimSpace(string(bytes.ReplaceAll(cmdline, []byte{0}, []byte{' '})))})
	}
	return found
}

func (tr traces) processesLike(word string) []process {
	return slices.DeleteFunc(tr.processes(), func(p process) bool { return !strings.Contains(strings.SplitN(p.args, " ", 2)[0], word) })
}

func (tr traces) engines() []process  { return tr.processesLike("silica-engine") }
func (tr traces) sentries() []process { return tr.processesLike("runsc-sandbox") }

// links lists interfaces in the host's own namespace.
func (tr traces) links() []string {
	var names []string
	interfaces, _ := net.Interfaces()
	for _, i := range interfaces {
		if strings.HasPrefix(i.Name, tr.name) {
			names = append(names, i.Name)
		}
	}
	return names
}

// mounts lists mount points below the data folder, and those of named
// namespaces.
func (tr traces) mounts() []string {
	var points []string
	table, _ := os.ReadFile("/proc/self/mountinfo")
	for line := range strings.Lines(string(table)) {
		fields := strings.Fields(line)
		if len(fields) < 5 {
			continue
		}
		point := fields[4]
		if point == tr.data || strings.HasPrefix(point, tr.data+"/") ||
			(strings.Contains(line, " nsfs ") && strings.Contains(point, tr.name)) {
			points = append(points, point)
		}
	}
	return points
}

func (tr traces) namespaces() []string {
	var names []string
	for _, dir := range []string{"/run/netns", "/var/run/netns"} {
		entries, _ := os.ReadDir(dir)
		for _, e := range entries {
			if strings.HasPrefix(e.Name(), tr.name) {
				names = append(names, filepath.Join(dir, e.Name()))
			}
		}
	}
	return names
}

func (tr traces) tables() []*nftables.Table {
	c, err := nftables.New()
	if err != nil {
		return nil
	}
	all, _ := c.ListTables()
	return slices.DeleteFunc(all, func(t *nftables.Table) bool { return !strings.Contains(t.Name, tr.name) })
}

// cgroups lists the groups of sandboxes in every hierarchy, deepest first.
func (tr traces) cgroups() []string {
	return slices.DeleteFunc(tr.allCgroups(), func(dir string) bool { return strings.HasSuffix(dir, "/"+tr.name) })
}

// allCgroups has also the groups that hold the others: they stay for the next
// start, like the table of network rules.
func (tr traces) allCgroups() []string {
	var dirs []string
	_ = filepath.WalkDir("/sys/fs/cgroup", func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && strings.Contains(path, "/"+tr.name) {
			dirs = append(dirs, path)
		}
		return nil
	})
	slices.Reverse(dirs)
	return dirs
}

// all lists everything, one line each.
func (tr traces) all() []string {
	var out []string
	add := func(kind string, names ...string) {
		for _, n := range names {
			out = append(out, kind+" "+n)
		}
	}
	for _, p := range tr.processes() {
		add("process", fmt.Sprintf("%d %.300s", p.pid, p.args))
	}
	add("interface", tr.links()...)
	add("namespace", tr.namespaces()...)
	add("mount", tr.mounts()...)
	add("cgroup", tr.cgroups()...)
	add("file", tr.files()...)
	return out
}

// settled waits until nothing is left, and lists what is when the time is up.
func (tr traces) settled(within time.Duration) (left []string) {
	soon(within, func() bool {
		left = tr.all()
		return len(left) == 0
	})
	return left
}

// endEngines ends the engine processes, which outlive their server by design.
func (tr traces) endEngines() {
	for _, p := range tr.engines() {
		_ = unix.Kill(p.pid, unix.SIGTERM)
	}
	if soon(5*time.Second, func() bool { return len(tr.engines()) == 0 }) {
		return
	}
	for _, p := range tr.engines() {
		_ = unix.Kill(p.pid, unix.SIGKILL)
	}
}

// erase frees by force what leaked, so that it fails no later run, and what a
// server leaves for its next start.
func (tr traces) erase() {
	for _, p := range tr.processes() {
		_ = unix.Kill(p.pid, unix.SIGKILL)
	}
	soon(5*time.Second, func() bool { return len(tr.processes()) == 0 })
	for _, m := range tr.mounts() {
		_ = unix.Unmount(m, unix.MNT_DETACH)
	}
	for _, ns := range tr.namespaces() {
		_ = unix.Unmount(ns, unix.MNT_DETACH)
		_ = os.Remove(ns)
	}
	for _, name := range tr.links() {
		if link, err := netlink.LinkByName(name); err == nil {
			_ = netlink.LinkDel(link)
		}
	}
	if c, err := nftables.New(); err == nil {
		for _, t := range tr.tables() {
			c.DelTable(t)
		}
		_ = c.Flush()
	}
	for _, dir := range tr.allCgroups() {
		_ = unix.Rmdir(dir)
	}
}

// logFile is a server's log.
type logFile struct{ path string }

func (l *logFile) open() (*os.File, error) {
	return os.OpenFile(l.path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
}

func (l *logFile) size() int64 {
	info, err := os.Stat(l.path)
	if err != nil {
		return 0
	}
	return info.Size()
}

// since returns what was logged after offset.
func (l *logFile) since(offset int64) string {
	f, err := os.Open(l.path)
	if err != nil {
		return ""
	}
	defer f.Close()
	b, _ := io.ReadAll(io.NewSectionReader(f, offset, 64<<20))
	return string(b)
}

// tail returns the last lines after offset.
func (l *logFile) tail(offset int64, lines int) string {
	all := strings.Split(strings.TrimRight(l.since(offset), "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// contains waits for a line with all the words.
func (l *logFile) contains(offset int64, within time.Duration, words ...string) bool {
	return soon(within, func() bool {
		for line := range strings.Lines(l.since(offset)) {
			if !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(line, w) }) {
				return true
			}
		}
		return false
	})
}

// files lists what stands below the data folder for single sandboxes or slots,
// and unfinished files. What a server keeps between starts is not listed.
func (tr traces) files() []string {
	var left []string
	_ = filepath.WalkDir(tr.data, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil
		}
		rel, _ := filepath.Rel(tr.data, path)
		name := d.Name()
		switch {
		case strings.Contains(rel, "sbx_"), strings.HasSuffix(name, ".tmp"), strings.HasPrefix(rel, "blobs/tmp/"),
			name == "slot.json":
			left = append(left, rel)
		}
		return nil
	})
	return left
}
