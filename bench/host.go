package bench

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
)

// Machine is where a report was made.
type Machine struct {
	CPU     string `json:"cpu"`
	Cores   int    `json:"cores"`
	Memory  string `json:"memory"`
	Kernel  string `json:"kernel"`
	System  string `json:"system"`
	Cgroup  string `json:"cgroup"`
	Load    string `json:"load"` // averages over 1, 5 and 15 minutes, before
	Go      string `json:"go"`
	Version string `json:"silica,omitempty"`
}

func thisMachine() Machine {
	m := Machine{Cores: runtime.NumCPU(), Go: runtime.Version(), CPU: "unknown", System: "unknown", Cgroup: "v2"}
	read := func(name string) string { b, _ := os.ReadFile(name); return string(b) }
	m.Kernel = strings.TrimSpace(read("/proc/sys/kernel/osrelease"))
	m.Load = strings.Join(strings.Fields(read("/proc/loadavg"))[:3], " ")
	m.CPU = field(read("/proc/cpuinfo"), "model name", ":")
	m.System = strings.Trim(field(read("/etc/os-release"), "PRETTY_NAME", "="), `"`)
	kB, _ := strconv.ParseInt(strings.TrimSuffix(field(read("/proc/meminfo"), "MemTotal", ":"), " kB"), 10, 64)
	m.Memory = mib(kB << 10)
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err != nil {
		m.Cgroup = "v1"
	}
	return m
}

// field returns the value of the first "key SEP value" line.
func field(text, key, sep string) string {
	for line := range strings.Lines(text) {
		k, v, ok := strings.Cut(line, sep)
		if ok && strings.TrimSpace(k) == key {
			return strings.TrimSpace(v)
		}
	}
	return ""
}

func mib(bytes int64) string { return fmt.Sprintf("%.1f MiB", float64(bytes)/(1<<20)) }

// kilobytes reads one "Key: N kB" line of a file below /proc, in bytes.
func kilobytes(pid int, file, key string) int64 {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, file))
	n, _ := strconv.ParseInt(strings.TrimSuffix(field(string(b), key, ":"), " kB"), 10, 64)
	return n << 10
}

// peak starts watching the daemon's highest resident memory. What it returns
// tells how far that rose above where it stood.
func (t target) peak() func() (int64, bool) {
	if t.pid == 0 {
		return func() (int64, bool) { return 0, false }
	}
	before := kilobytes(t.pid, "status", "VmRSS")
	// 5 sets the highest mark back to where it is now (proc(5)).
	err := os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", t.pid), []byte("5"), 0)
	return func() (int64, bool) {
		return kilobytes(t.pid, "status", "VmHWM") - before, err == nil && before > 0
	}
}

// process is one process of an own server.
type process struct {
	pid, parent int
	exe, name   string
}

// processes lists daemon, engine, sentries and whatever they started.
func (t target) processes() []process {
	all := map[int]process{}
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		pid, _ := strconv.Atoi(filepath.Base(dir))
		stat, err := os.ReadFile(dir + "/stat")
		if err != nil {
			continue
		}
		// The name is in brackets and may hold anything, brackets too.
		shut := strings.LastIndexByte(string(stat), ')')
		rest := strings.Fields(string(stat[shut+1:]))
		parent, _ := strconv.Atoi(rest[1])
		exe, _ := os.Readlink(dir + "/exe")
		cmdline, _ := os.ReadFile(dir + "/cmdline")
		first, _, _ := strings.Cut(string(cmdline), "\x00")
		all[pid] = process{pid, parent, exe, first}
	}
	var ours []process
	for _, p := range all {
		if t.owns(all, p) {
			ours = append(ours, p)
		}
	}
	return ours
}

// owns follows the parents up to a process that is surely of this server.
func (t target) owns(all map[int]process, p process) bool {
	for range 16 {
		if p.pid == t.pid || strings.HasPrefix(p.exe, t.data+"/") {
			return true
		}
		parent, ok := all[p.parent]
		if !ok || parent.pid == os.Getpid() {
			return false
		}
		p = parent
	}
	return false
}

// sentries counts the running sandboxes on the host, by their processes.
func (t target) sentries() int {
	n := 0
	if t.data == "" {
		return n
	}
	for _, p := range t.processes() {
		if strings.Contains(p.name, "runsc-sandbox") {
			n++
		}
	}
	return n
}

// held is what a server holds on the host: what must not grow.
type held struct {
	processes, descriptors, namespaces, mounts, cgroups, files int
	resident                                                   int64 // daemon and engine
}

func (t target) held() held {
	var h held
	for _, p := range t.processes() {
		h.processes++
		if strings.Contains(p.name, "runsc-") {
			continue
		}
		fds, _ := os.ReadDir(fmt.Sprintf("/proc/%d/fd", p.pid))
		h.descriptors += len(fds)
		h.resident += kilobytes(p.pid, "status", "VmRSS")
	}
	count := func(dir string, only func(fs.DirEntry) bool) (n int) {
		_ = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
			if err == nil && only(d) {
				n++
			}
			return nil
		})
		return n
	}
	h.namespaces = count("/run/netns", func(d fs.DirEntry) bool { return !d.IsDir() })
	h.cgroups = count("/sys/fs/cgroup", fs.DirEntry.IsDir)
	h.files = count(t.data, func(fs.DirEntry) bool { return true })
	mounts, _ := os.ReadFile("/proc/mounts")
	h.mounts = strings.Count(string(mounts), "\n")
	return h
}
