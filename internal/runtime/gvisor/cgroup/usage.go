package cgroup

import (
	"path/filepath"
	"time"
)

// Usage is what a group uses.
type Usage struct {
	CPU time.Duration // since it was made
	// Memory is what can't be given back, in bytes; Cache what the kernel
	// takes back when it needs it (file pages).
	Memory, Cache int64
}

// Usage measures a group; NotFound for an unknown name.
func (g *Groups) Usage(name string) (Usage, error) {
	if err := check(name); err != nil {
		return Usage{}, err
	}
	u, err := g.tree.usage(name)
	if gone(err) {
		return Usage{}, notFound(name, err)
	}
	return u, err
}

// memory is the state the guard decides on, in bytes.
type memory struct {
	usage, cache int64
	line, limit  int64
	stopped      bool // tasks stand still until memory comes free
}

func (m memory) used() int64 { return max(m.usage-m.cache, 0) }

func (m memory) over() bool { return m.stopped || m.used() > m.line }

func (t v1) folders(name string) []string {
	var dirs []string
	seen := map[string]bool{}
	for _, c := range v1Controllers {
		if mount := t.mounts[c]; mount != "" && !seen[mount] {
			seen[mount] = true
			dirs = append(dirs, filepath.Join(mount, t.top, name))
		}
	}
	return dirs
}

func (t v1) join(name string) []string {
	files := t.folders(name)
	for i := range files {
		files[i] = filepath.Join(files[i], "cgroup.procs")
	}
	return files
}

func (t v1) file(controller, name, file string) string {
	return filepath.Join(t.mounts[controller], t.top, name, file)
}

func (t v1) create(name string, l Limits) error { return t.limit(name, l) }
func (t v1) update(name string, l Limits) error { return t.limit(name, l) }

func (t v1) usage(name string) (Usage, error) {
	m, err := t.memory(name)
	if err != nil {
		return Usage{}, err
	}
	u := Usage{Memory: m.used(), Cache: m.cache}
	if t.mounts["cpuacct"] != "" {
		ns, err := readInt(t.file("cpuacct", name, "cpuacct.usage"))
		if err != nil {
			return Usage{}, err
		}
		u.CPU = time.Duration(ns)
	}
	return u, nil
}

func (t v1) memory(name string) (m memory, err error) {
	if m.usage, err = readInt(t.file("memory", name, "memory.usage_in_bytes")); err != nil {
		return m, err
	}
	if m.line, err = readInt(t.file("memory", name, "memory.soft_limit_in_bytes")); err != nil {
		return m, err
	}
	if m.limit, err = readInt(t.file("memory", name, "memory.limit_in_bytes")); err != nil {
		return m, err
	}
	stat, err := readKeys(t.file("memory", name, "memory.stat"))
	if err != nil {
		return m, err
	}
	m.cache = stat["total_inactive_file"] + stat["total_active_file"]
	oom, err := readKeys(t.file("memory", name, "memory.oom_control"))
	m.stopped = oom["under_oom"] == 1
	return m, err
}

func (t v1) oomKills(name string) (int64, error) {
	oom, err := readKeys(t.file("memory", name, "memory.oom_control"))
	return oom["oom_kill"], err
}

func (t v2) folders(name string) []string { return []string{filepath.Join(t.top, name)} }

func (t v2) join(name string) []string { return []string{t.file(name, "cgroup.procs")} }

func (t v2) file(name, file string) string { return filepath.Join(t.top, name, file) }

func (t v2) create(name string, l Limits) error { return t.limit(filepath.Join(t.top, name), l) }
func (t v2) update(name string, l Limits) error { return t.limit(filepath.Join(t.top, name), l) }

func (t v2) usage(name string) (Usage, error) {
	m, err := t.memory(name)
	if err != nil {
		return Usage{}, err
	}
	cpu, err := readKeys(t.file(name, "cpu.stat"))
	return Usage{
		CPU:    time.Duration(cpu["usage_usec"]) * time.Microsecond,
		Memory: m.used(), Cache: m.cache,
	}, err
}

func (t v2) memory(name string) (m memory, err error) {
	if m.usage, err = readInt(t.file(name, "memory.current")); err != nil {
		return m, err
	}
	if m.line, err = readInt(t.file(name, "memory.high")); err != nil {
		return m, err
	}
	if m.limit, err = readInt(t.file(name, "memory.max")); err != nil {
		return m, err
	}
	stat, err := readKeys(t.file(name, "memory.stat"))
	m.cache = stat["inactive_file"] + stat["active_file"]
	return m, err
}

func (t v2) oomKills(name string) (int64, error) {
	events, err := readKeys(t.file(name, "memory.events"))
	return events["oom_kill"], err
}
