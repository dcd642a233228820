package runtimetest

import (
	"bytes"
	"maps"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"silica.dev/silica/internal/guest/guestpb"
	"silica.dev/silica/sandbox"
)

// memory is what a fake snapshot keeps: the agent's seed and the files.
type memory struct {
	seed string

	mu       sync.Mutex
	hostname string
	env      map[string]string
	workdir  string
	nodes    map[string]*node // by clean absolute path
	apps     []*guestpb.Process
}

type node struct {
	dir      bool
	data     []byte // never changed in place
	mode     uint32
	modified time.Time
}

func newMemory() *memory {
	m := &memory{seed: sandbox.NewName("seed_"), workdir: "/root", nodes: map[string]*node{}}
	for _, d := range []string{"/", "/root", "/tmp", "/etc", "/workspace", "/home"} {
		m.nodes[d] = &node{dir: true, mode: 0o755, modified: time.Now()}
	}
	m.nodes["/etc/os-release"] = &node{data: []byte("ID=fake\n"), mode: 0o644, modified: time.Now()}
	return m
}

func (m *memory) clone() *memory {
	m.mu.Lock()
	defer m.mu.Unlock()
	return &memory{seed: m.seed, hostname: m.hostname, env: maps.Clone(m.env), workdir: m.workdir, nodes: maps.Clone(m.nodes), apps: slices.Clone(m.apps)}
}

// spawn gives a process its numbers, and keeps it.
func (m *memory) spawn(p *guestpb.Process) *guestpb.Process {
	m.mu.Lock()
	defer m.mu.Unlock()
	p.Id, p.Pid = uint64(len(m.apps)+1), uint32(len(m.apps)+1001)
	m.apps = append(m.apps, p)
	return p
}

func (m *memory) spawned(id uint64) *guestpb.Process {
	m.mu.Lock()
	defer m.mu.Unlock()
	if id < 1 || id > uint64(len(m.apps)) {
		return nil
	}
	return m.apps[id-1]
}

func (m *memory) identify(r *guestpb.InitRequest) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.hostname, m.env, m.workdir = r.Hostname, maps.Clone(r.Env), "/root"
	if r.Workdir != "" {
		m.workdir = r.Workdir
		m.mkdirLocked(r.Workdir)
	}
}

// identity returns hostname, environment and working folder.
func (m *memory) identity() (hostname string, env map[string]string, workdir string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.hostname, maps.Clone(m.env), m.workdir
}

func noFile(p string) error {
	return sandbox.E(sandbox.NotFound, sandbox.CodeFileNotFound, p+": no such file")
}

// clean refuses what an agent refuses: relative paths and NUL.
func clean(p string) (string, error) {
	if !strings.HasPrefix(p, "/") || strings.ContainsRune(p, 0) {
		return "", sandbox.E(sandbox.Invalid, sandbox.CodeInvalidPath, "the path is not absolute")
	}
	return path.Clean(p), nil
}

func (m *memory) stat(p string) (*guestpb.Entry, error) {
	p, err := clean(p)
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	n, ok := m.nodes[p]
	if !ok {
		return nil, noFile(p)
	}
	return n.entry(p), nil
}

func (n *node) entry(p string) *guestpb.Entry {
	e := &guestpb.Entry{
		Name: path.Base(p), Path: p, Type: guestpb.Entry_FILE, Size: int64(len(n.data)), Mode: n.mode,
		ModifiedUnixNano: n.modified.UnixNano(), IsDir: n.dir,
	}
	if n.dir {
		e.Type = guestpb.Entry_DIRECTORY
	}
	return e
}

func (m *memory) list(p string, depth int) ([]*guestpb.Entry, error) {
	p, err := clean(p)
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if n, ok := m.nodes[p]; !ok {
		return nil, noFile(p)
	} else if !n.dir {
		return nil, sandbox.E(sandbox.Conflict, sandbox.CodeNotDirectory, p+" is not a folder")
	}
	var es []*guestpb.Entry
	for _, q := range slices.Sorted(maps.Keys(m.nodes)) {
		rest, ok := strings.CutPrefix(q, strings.TrimSuffix(p, "/")+"/")
		if ok && rest != "" && strings.Count(rest, "/") < depth {
			es = append(es, m.nodes[q].entry(q))
		}
	}
	return es, nil
}

func (m *memory) mkdir(p string) error {
	p, err := clean(p)
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if n, ok := m.nodes[p]; ok && !n.dir {
		return sandbox.E(sandbox.Conflict, sandbox.CodeFileExists, p+" exists")
	}
	m.mkdirLocked(p)
	return nil
}

func (m *memory) mkdirLocked(p string) {
	for p = path.Clean(p); m.nodes[p] == nil; p = path.Dir(p) {
		m.nodes[p] = &node{dir: true, mode: 0o755, modified: time.Now()}
	}
}

func (m *memory) read(p string) ([]byte, time.Time, error) {
	p, err := clean(p)
	if err != nil {
		return nil, time.Time{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	n, ok := m.nodes[p]
	switch {
	case !ok:
		return nil, time.Time{}, noFile(p)
	case n.dir:
		return nil, time.Time{}, sandbox.E(sandbox.Conflict, sandbox.CodeIsDirectory, p+" is a folder")
	}
	return n.data, n.modified, nil
}

func (m *memory) write(p string, data []byte, mode uint32) error {
	p, err := clean(p)
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.writeLocked(p, data, mode)
}

func (m *memory) writeLocked(p string, data []byte, mode uint32) error {
	old, ok := m.nodes[p]
	if ok && old.dir {
		return sandbox.E(sandbox.Conflict, sandbox.CodeIsDirectory, p+" is a folder")
	}
	if mode == 0 {
		mode = 0o644
		if ok {
			mode = old.mode
		}
	}
	m.mkdirLocked(path.Dir(p))
	m.nodes[p] = &node{data: data, mode: mode, modified: time.Now()}
	return nil
}

// append adds to a file for the shell's >>.
func (m *memory) append(p string, data []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if n, ok := m.nodes[p]; ok && !n.dir {
		data = bytes.Join([][]byte{n.data, data}, nil)
	}
	return m.writeLocked(p, data, 0)
}

func (m *memory) rename(from, to string) error {
	from, err := clean(from)
	if err != nil {
		return err
	}
	if to, err = clean(to); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	n, ok := m.nodes[from]
	if !ok {
		return noFile(from)
	}
	if old, ok := m.nodes[to]; ok && old.dir {
		return sandbox.E(sandbox.Conflict, sandbox.CodeIsDirectory, to+" is a folder")
	}
	m.mkdirLocked(path.Dir(to))
	delete(m.nodes, from)
	m.nodes[to] = n
	return nil
}

func (m *memory) remove(p string, recursive bool) error {
	p, err := clean(p)
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.nodes[p]; !ok {
		return noFile(p)
	}
	for q := range m.nodes {
		if strings.HasPrefix(q, p+"/") {
			if !recursive {
				return sandbox.E(sandbox.Conflict, sandbox.CodeConflict, p+" is not empty")
			}
			delete(m.nodes, q)
		}
	}
	delete(m.nodes, p)
	return nil
}

func (m *memory) isDir(p string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, ok := m.nodes[path.Clean(p)]
	return ok && n.dir
}
