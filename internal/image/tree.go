package image

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"silica.dev/silica/sandbox"
)

// Limits of what is made into an image. Names and links are held in memory.
const (
	maxEntries = 500_000
	maxBytes   = 16 << 30 // unpacked, also of what later layers replace
	maxName    = 255
	maxPath    = 4095
	maxDepth   = 256
	maxLinks   = 40 // symlinks followed on the way to one name
)

// node is a file of any type. Hard links are one node under several names.
type node struct {
	mode     uint32 // type and permissions, as stat(2) has them
	uid, gid uint32
	size     int64
	body     body             // of a regular file; nil: empty
	target   string           // of a symlink
	children map[string]*node // of a folder
	layer    int              // the one that put it here
	taken    bool             // a folder that another tree holds, too
	stamped  bool             // perhaps compiled Python; see restamp
	pos      position
}

func (n *node) is(kind uint32) bool { return n.mode&unix.S_IFMT == kind }
func (n *node) isDir() bool         { return n.is(unix.S_IFDIR) }

// names lists a folder's entries, sorted.
func (n *node) names() []string { return slices.Sorted(maps.Keys(n.children)) }

// body is a regular file's content, read when the image is written.
type body interface {
	open() (io.ReadCloser, error)
}

// text is a body in memory.
type text []byte

func (t text) open() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(t)), nil }

// extent is a body within a file.
type extent struct {
	in        io.ReaderAt
	off, size int64
}

func (e extent) open() (io.ReadCloser, error) {
	return io.NopCloser(io.NewSectionReader(e.in, e.off, e.size)), nil
}

// tree is a root file system that is nowhere but here: names that mean harm
// meet no file system of the host's.
type tree struct {
	root    *node
	entries int64
	most    int64
	bytes   int64
	layer   int          // the one being added
	close   func() error // of what bodies are read from; may be nil
}

func newTree() *tree { return &tree{root: newFolder(0o755), most: maxEntries} }

func newFolder(mode uint32) *node {
	return &node{mode: unix.S_IFDIR | mode, children: map[string]*node{}}
}

// hostile is what an archive is told that asks for what no image holds.
func hostile(name, why string) error {
	const most = 200 // bytes of a name in a message
	if len(name) > most {
		name = name[:most] + "…"
	}
	return sandbox.E(sandbox.Invalid, sandbox.CodeInvalidImage, fmt.Sprintf("the image can't be used: %q %s", name, why))
}

// split checks a name and cuts it into its parts. "/" at the beginning means
// the image's root, as it does for every other unpacker.
func split(name string) ([]string, error) {
	if len(name) > maxPath {
		return nil, hostile(name, "is too long a name")
	}
	if strings.ContainsRune(name, 0) {
		return nil, hostile(name, "holds a zero byte")
	}
	var parts []string
	for p := range strings.SplitSeq(name, "/") {
		switch {
		case p == "" || p == ".":
		case p == "..":
			return nil, hostile(name, "leads out of the image")
		case len(p) > maxName:
			return nil, hostile(name, "is too long a name")
		default:
			parts = append(parts, p)
		}
	}
	if len(parts) > maxDepth {
		return nil, hostile(name, "lies too deep")
	}
	return parts, nil
}

// find follows name, symlinks too if last says so, and nil if nothing is there.
func (t *tree) find(name string, last bool) *node {
	hops := 0
	at, _ := t.walk(t.root, nil, strings.Split(name, "/"), last, &hops)
	return at
}

// walk follows parts from a folder whose ancestors are above. ".." at the root is
// the root. It returns the ancestors of what it found, too.
func (t *tree) walk(at *node, above []*node, parts []string, last bool, hops *int) (*node, []*node) {
	for i, p := range parts {
		if !at.isDir() {
			return nil, nil
		}
		switch p {
		case "", ".":
			continue
		case "..":
			if n := len(above); n > 0 {
				at, above = above[n-1], above[:n-1]
			}
			continue
		}
		next := at.children[p]
		if next == nil {
			return nil, nil
		}
		if next.is(unix.S_IFLNK) && (last || i < len(parts)-1) {
			if *hops++; *hops > maxLinks {
				return nil, nil
			}
			to := strings.Split(next.target, "/")
			if path.IsAbs(next.target) {
				at, above = t.root, nil
			}
			if at, above = t.walk(at, above, to, true, hops); at == nil {
				return nil, nil
			}
			continue
		}
		above = append(slices.Clip(above), at)
		at = next
	}
	return at, above
}

// parent returns the folder that holds parts' last, following symlinks within the
// image and making what is missing.
func (t *tree) parent(parts []string) (*node, error) {
	at := t.root
	for i := range parts[:len(parts)-1] {
		hops := 0
		next, above := t.walk(t.root, nil, parts[:i+1], true, &hops)
		switch have := at.children[parts[i]]; {
		case len(above) > maxFolders:
			return nil, hostile(strings.Join(parts, "/"), "lies too deep")
		case next != nil && next.isDir():
		case next == nil && have != nil:
			return nil, hostile(strings.Join(parts, "/"), "lies behind a link that leads nowhere")
		case have != nil && have.layer == t.layer:
			return nil, hostile(strings.Join(parts, "/"), "lies below a file")
		default:
			next = newFolder(0o755)
			next.layer = t.layer
			if err := t.count(0); err != nil {
				return nil, err
			}
			at.children[parts[i]] = next
		}
		at = next
	}
	return at, nil
}

// count takes one more entry of size bytes into account.
func (t *tree) count(size int64) error {
	if t.entries++; t.entries > t.most {
		return sandbox.E(sandbox.TooLarge, sandbox.CodeImageTooLarge, fmt.Sprintf("the image has more than %d files", t.most))
	}
	if t.bytes += size; size > maxBytes || t.bytes > maxBytes {
		return sandbox.E(sandbox.TooLarge, sandbox.CodeImageTooLarge, fmt.Sprintf("the image has more than %d GiB of files", int64(maxBytes)>>30))
	}
	return nil
}

// put places n at name and replaces what is there. A folder over a folder
// changes only what it is, not what it holds.
func (t *tree) put(name string, n *node) error {
	parts, err := split(name)
	if err != nil {
		return err
	}
	n.layer = t.layer
	if len(parts) == 0 {
		if !n.isDir() {
			return hostile(name, "replaces the root folder")
		}
		t.root.mode, t.root.uid, t.root.gid = n.mode, n.uid, n.gid
		return nil
	}
	dir, err := t.parent(parts)
	if err != nil {
		return err
	}
	last := parts[len(parts)-1]
	if have := dir.children[last]; have != nil && have.isDir() && n.isDir() {
		have.mode, have.uid, have.gid, have.layer = n.mode, n.uid, n.gid, n.layer
		return nil
	}
	dir.children[last] = n
	return nil
}

// link places what is at target at name, too.
func (t *tree) link(name, target string) error {
	parts, err := split(target)
	if err != nil {
		return err
	}
	to := t.find(strings.Join(parts, "/"), false)
	if to == nil || len(parts) == 0 || to.isDir() {
		return hostile(name, "is a hard link to what is not there")
	}
	if parts, err = split(name); err != nil {
		return err
	}
	if len(parts) == 0 {
		return hostile(name, "replaces the root folder")
	}
	dir, err := t.parent(parts)
	if err != nil {
		return err
	}
	dir.children[parts[len(parts)-1]] = to
	return nil
}

// remove takes away what is at name, if anything is.
func (t *tree) remove(name string) {
	dir, last := path.Split(name)
	if d := t.find(dir, true); d != nil && d.isDir() {
		delete(d.children, last)
	}
}

// hide takes away what earlier layers put at name, or below it if below is set.
func (t *tree) hide(name string, below bool) error {
	parts, err := split(name)
	if err != nil {
		return err
	}
	if len(parts) == 0 {
		if below {
			t.clear(t.root)
		}
		return nil
	}
	dir := t.find(strings.Join(parts[:len(parts)-1], "/"), true)
	if dir == nil || !dir.isDir() {
		return nil
	}
	last := parts[len(parts)-1]
	n := dir.children[last]
	switch {
	case n == nil:
	case n.isDir() && (below || n.layer == t.layer):
		t.clear(n)
	case n.layer != t.layer && !below:
		delete(dir.children, last)
	}
	return nil
}

// clear takes away what earlier layers put below n, and tells whether all is gone.
func (t *tree) clear(n *node) (empty bool) {
	for name, c := range n.children {
		if (!c.isDir() || t.clear(c)) && c.layer != t.layer {
			delete(n.children, name)
		}
	}
	return len(n.children) == 0
}

// matches lists the names that a pattern of path.Match's form means.
func (t *tree) matches(pattern string) []string {
	found := []string{""}
	for p := range strings.SplitSeq(pattern, "/") {
		var next []string
		for _, dir := range found {
			d := t.find(dir, true)
			if d == nil || !d.isDir() {
				continue
			}
			for _, name := range d.names() {
				if ok, _ := path.Match(p, name); ok {
					next = append(next, path.Join(dir, name))
				}
			}
		}
		found = next
	}
	return found
}

// each calls f for every name below dir, parents first, sorted.
func (t *tree) each(f func(name string, n *node)) { eachBelow("", t.root, f) }

func eachBelow(at string, dir *node, f func(string, *node)) {
	for _, name := range dir.names() {
		n := dir.children[name]
		p := path.Join(at, name)
		f(p, n)
		if n.isDir() {
			eachBelow(p, n, f)
		}
	}
}

// read returns the content of a small file.
func (t *tree) read(name string) (string, bool) {
	const most = 64 << 10
	n := t.find(name, true)
	if n == nil || !n.is(unix.S_IFREG) || n.size > most {
		return "", false
	}
	if n.body == nil {
		return "", true
	}
	r, err := n.body.open()
	if err != nil {
		return "", false
	}
	defer r.Close()
	b, err := io.ReadAll(io.LimitReader(r, most))
	return string(b), err == nil
}

// write puts a regular file of root's at name, whatever is there.
func (t *tree) write(name string, content []byte, mode uint32) error {
	t.remove(name)
	return t.put(name, &node{mode: unix.S_IFREG | mode, size: int64(len(content)), body: text(content)})
}
