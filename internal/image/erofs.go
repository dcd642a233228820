package image

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// The part of EROFS that gVisor reads, of
// https://docs.kernel.org/filesystems/erofs.html: every file's content in
// blocks of its own, no extended attributes, nothing compressed.
const (
	blockSize    = 4096
	superOffset  = 1024
	superSize    = 128
	magic        = 0xe0f5e1e2
	slotSize     = 32 // an inode's number is its offset in these
	compactSize  = 32
	extendedSize = 64
	direntSize   = 12
	// rootSlot is the first after the superblock.
	rootSlot = (superOffset + superSize) / slotSize
	// maxFolders bounds how deep a file system goes that is read or written.
	maxFolders = 2 * maxDepth
)

// volume is the UUID of every image: content is told apart by digest.
var volume = [16]byte{6: 0x40, 8: 0x80}

// fileTypes are what entries of folders say about what they name.
var fileTypes = map[uint32]byte{unix.S_IFREG: 1, unix.S_IFDIR: 2, unix.S_IFLNK: 7}

// position is where a node is written.
type position struct {
	slot    uint64
	block   uint32
	links   uint32
	entries []byte // of a folder: its blocks
	placed  bool
}

// writer writes one file system.
type writer struct {
	out   *bufio.Writer
	at    int64
	nodes []*node // in the order of their slots
	total int64   // bytes of regular files
	done  int64
	buf   []byte
}

// pack writes a tree as an EROFS file system to file. Equal trees give equal bytes.
func pack(ctx context.Context, t *tree, file string, report func(Progress)) (err error) {
	f, err := os.OpenFile(file, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	w := &writer{out: bufio.NewWriterSize(f, 1<<20), buf: make([]byte, 256<<10)}
	next := uint64(rootSlot)
	if err := w.place(t.root, &next, 0); err != nil {
		return err
	}
	if err := w.lay(next); err != nil {
		return err
	}
	fill(t.root, t.root)
	if err := w.meta(next); err != nil {
		return err
	}
	if err := w.bodies(ctx, report); err != nil {
		return err
	}
	return w.out.Flush()
}

// place gives each node its slots, a folder's entries one after the other.
func (w *writer) place(n *node, next *uint64, depth int) error {
	if depth > maxFolders {
		return hostile("", "has folders too deep")
	}
	n.pos = position{slot: w.slots(n, next), placed: true, links: 1}
	if !n.isDir() {
		if n.is(unix.S_IFREG) {
			w.total += n.size
		}
		return nil
	}
	n.pos.links = 2
	for _, name := range n.names() {
		c := n.children[name]
		if c.pos.placed { // another name of it
			c.pos.links++
			continue
		}
		if err := w.place(c, next, depth+1); err != nil {
			return err
		}
		if c.isDir() {
			n.pos.links++
		}
	}
	return nil
}

func (w *writer) slots(n *node, next *uint64) uint64 {
	w.nodes = append(w.nodes, n)
	wide := uint64(1)
	if n.extended() {
		wide = extendedSize / slotSize
		if (*next+1)%(blockSize/slotSize) == 0 {
			*next++ // no inode lies across two blocks
		}
	}
	slot := *next
	*next += wide
	return slot
}

// extended tells whether a node needs the large form of inodes.
func (n *node) extended() bool {
	return n.uid > math.MaxUint16 || n.gid > math.MaxUint16 || n.size > math.MaxUint32 || len(n.children) > math.MaxUint16-2
}

// lay decides where content goes: inodes, folders, links, files.
func (w *writer) lay(slots uint64) error {
	block := blocks(int64(slots) * slotSize)
	for _, kind := range []uint32{unix.S_IFDIR, unix.S_IFLNK, unix.S_IFREG} {
		for _, n := range w.nodes {
			if !n.is(kind) {
				continue
			}
			size := n.size
			if n.isDir() {
				size = folderSize(n)
			}
			if size == 0 {
				continue
			}
			if block > math.MaxUint32 {
				return hostile("", "is larger than any file system")
			}
			n.pos.block = uint32(block)
			block += blocks(size)
		}
	}
	return nil
}

func blocks(size int64) int64 { return (size + blockSize - 1) / blockSize }

// folderSize is the size of a folder's entries: whole blocks but for the last.
func folderSize(n *node) int64 {
	var full, used int64
	for _, e := range entries(n) {
		need := int64(direntSize + len(e))
		if used+need > blockSize {
			full, used = full+blockSize, 0
		}
		used += need
	}
	return full + used
}

// entries are the names in a folder and the two every folder has, as bytes sort.
func entries(n *node) []string {
	names := append(n.names(), ".", "..")
	slices.Sort(names)
	return names
}

// fill writes the entries of all folders.
func fill(n, above *node) {
	names := entries(n)
	for len(names) > 0 {
		used, count := 0, 0
		for count < len(names) && used+direntSize+len(names[count]) <= blockSize {
			used += direntSize + len(names[count])
			count++
		}
		at := direntSize * count
		heads, tails := make([]byte, 0, used), make([]byte, 0, used-at)
		for _, name := range names[:count] {
			to := n.children[name]
			switch name {
			case ".":
				to = n
			case "..":
				to = above
			}
			heads = binary.LittleEndian.AppendUint64(heads, to.pos.slot)
			heads = binary.LittleEndian.AppendUint16(heads, uint16(at+len(tails)))
			heads = append(heads, fileTypes[to.mode&unix.S_IFMT], 0)
			tails = append(tails, name...)
		}
		names = names[count:]
		n.pos.entries = append(append(n.pos.entries, heads...), tails...)
		if len(names) > 0 {
			n.pos.entries = append(n.pos.entries, make([]byte, blockSize-used)...)
		}
	}
	for _, c := range n.children {
		if c.isDir() {
			fill(c, n)
		}
	}
}

// meta writes the superblock and all inodes.
func (w *writer) meta(slots uint64) error {
	var end int64 = blocks(int64(slots) * slotSize)
	for _, n := range w.nodes {
		end = max(end, int64(n.pos.block)+blocks(max(n.size, int64(len(n.pos.entries)))))
	}
	super := make([]byte, superSize)
	le := binary.LittleEndian
	le.PutUint32(super[0:], magic)
	super[12] = 12 // blocks of 1<<12 bytes
	le.PutUint16(super[14:], rootSlot)
	le.PutUint64(super[16:], uint64(len(w.nodes)))
	le.PutUint64(super[24:], uint64(Epoch.Unix()))
	le.PutUint32(super[36:], uint32(end))
	copy(super[48:], volume[:])
	if err := w.write(make([]byte, superOffset)); err != nil {
		return err
	}
	if err := w.write(super); err != nil {
		return err
	}
	for i, n := range w.nodes {
		if err := w.skipTo(int64(n.pos.slot) * slotSize); err != nil {
			return err
		}
		if err := w.write(n.inode(uint32(i + 1))); err != nil {
			return err
		}
	}
	return nil
}

func (n *node) inode(number uint32) []byte {
	le := binary.LittleEndian
	size := n.size
	if n.isDir() {
		size = int64(len(n.pos.entries))
	}
	if !n.extended() {
		b := make([]byte, compactSize)
		le.PutUint16(b[4:], uint16(n.mode))
		le.PutUint16(b[6:], uint16(min(n.pos.links, math.MaxUint16)))
		le.PutUint32(b[8:], uint32(size))
		le.PutUint32(b[16:], n.pos.block)
		le.PutUint32(b[20:], number)
		le.PutUint16(b[24:], uint16(n.uid))
		le.PutUint16(b[26:], uint16(n.gid))
		return b
	}
	b := make([]byte, extendedSize)
	le.PutUint16(b[0:], 1)
	le.PutUint16(b[4:], uint16(n.mode))
	le.PutUint64(b[8:], uint64(size))
	le.PutUint32(b[16:], n.pos.block)
	le.PutUint32(b[20:], number)
	le.PutUint32(b[24:], n.uid)
	le.PutUint32(b[28:], n.gid)
	le.PutUint64(b[32:], uint64(Epoch.Unix()))
	le.PutUint32(b[44:], n.pos.links)
	return b
}

// bodies writes what inodes point to, in the order lay chose.
func (w *writer) bodies(ctx context.Context, report func(Progress)) error {
	for _, n := range w.nodes {
		if n.isDir() {
			if err := w.content(n, text(n.pos.entries), int64(len(n.pos.entries))); err != nil {
				return err
			}
		}
	}
	for _, n := range w.nodes {
		if n.is(unix.S_IFLNK) {
			if err := w.content(n, text(n.target), n.size); err != nil {
				return err
			}
		}
	}
	told := int64(-1)
	for _, n := range w.nodes {
		if !n.is(unix.S_IFREG) || n.size == 0 {
			continue
		}
		if err := context.Cause(ctx); err != nil {
			return err
		}
		if mb := w.done >> 20; mb/16 != told/16 || told < 0 {
			told = mb
			report(Progress{Message: "packing the image, MB", Done: mb, Total: w.total >> 20})
		}
		if err := w.content(n, n.body, n.size); err != nil {
			return err
		}
		w.done += n.size
	}
	return w.skipTo(blocks(w.at) * blockSize)
}

// content writes size bytes of b to where n's blocks are.
func (w *writer) content(n *node, b body, size int64) error {
	if err := w.skipTo(int64(n.pos.block) * blockSize); err != nil {
		return err
	}
	r, err := b.open()
	if err != nil {
		return err
	}
	defer r.Close()
	for left := size; left > 0; {
		some := w.buf[:min(left, int64(len(w.buf)))]
		if _, err := io.ReadFull(r, some); err != nil {
			return fmt.Errorf("a file became shorter: %w", err)
		}
		if n.stamped && left == size {
			restamp(some)
		}
		if err := w.write(some); err != nil {
			return err
		}
		left -= int64(len(some))
	}
	return nil
}

func (w *writer) write(b []byte) error {
	w.at += int64(len(b))
	_, err := w.out.Write(b)
	return err
}

// skipTo fills up with zeros.
func (w *writer) skipTo(at int64) error {
	var zeros [blockSize]byte
	for w.at < at {
		if err := w.write(zeros[:min(at-w.at, blockSize)]); err != nil {
			return err
		}
	}
	if w.at > at {
		return fmt.Errorf("write the image: %d lies behind %d", at, w.at)
	}
	return nil
}

// errForeign is about a file system that this package did not write.
var errForeign = errors.New("not a file system of the form images have")

// reader reads a file system that pack wrote.
type reader struct {
	in    *os.File
	data  []byte // all of in
	base  int64  // of slots
	nodes map[uint64]*node
}

// readTree reads an image's names; their content stays in the file, which must be
// open as long as the tree is used.
func readTree(in *os.File) (*tree, error) {
	st, err := in.Stat()
	if err != nil {
		return nil, err
	}
	if st.Size() < blockSize {
		return nil, errForeign
	}
	data, err := unix.Mmap(int(in.Fd()), 0, int(st.Size()), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("read the image: %w", err)
	}
	defer unix.Munmap(data)
	super := data[superOffset:]
	le := binary.LittleEndian
	if le.Uint32(super) != magic || super[12] != 12 || le.Uint32(super[80:]) != 0 {
		return nil, errForeign
	}
	r := &reader{in: in, data: data, base: int64(le.Uint32(super[40:])) * blockSize, nodes: map[uint64]*node{}}
	t := newTree()
	root, err := r.node(uint64(le.Uint16(super[14:])), 0)
	if err != nil {
		return nil, err
	}
	t.root = root
	return t, nil
}

// bytes returns size bytes at off of the file.
func (r *reader) bytes(off, size int64) ([]byte, error) {
	if off < 0 || size < 0 || off > int64(len(r.data)) || size > int64(len(r.data))-off {
		return nil, errForeign
	}
	return r.data[off : off+size], nil
}

func (r *reader) node(slot uint64, depth int) (*node, error) {
	if n := r.nodes[slot]; n != nil && !n.isDir() {
		return n, nil // another name of it
	} else if n != nil || depth > maxFolders || slot > math.MaxInt64/slotSize/2 {
		return nil, errForeign
	}
	at := r.base + int64(slot)*slotSize
	b, err := r.bytes(at, compactSize)
	if err != nil {
		return nil, err
	}
	le := binary.LittleEndian
	n := &node{mode: uint32(le.Uint16(b[4:])), size: int64(le.Uint32(b[8:])), uid: uint32(le.Uint16(b[24:])), gid: uint32(le.Uint16(b[26:]))}
	switch le.Uint16(b) {
	case 0:
	case 1:
		if b, err = r.bytes(at, extendedSize); err != nil {
			return nil, err
		}
		n.size, n.uid, n.gid = int64(le.Uint64(b[8:])), le.Uint32(b[24:]), le.Uint32(b[28:])
	default:
		return nil, errForeign
	}
	content := int64(le.Uint32(b[16:])) * blockSize
	if n.size == 0 {
		content = 0
	}
	data, err := r.bytes(content, n.size)
	if err != nil {
		return nil, err
	}
	r.nodes[slot] = n
	switch {
	case n.is(unix.S_IFREG):
		n.body = extent{r.in, content, n.size}
	case n.is(unix.S_IFLNK):
		n.target = string(data)
	case n.isDir():
		n.size = 0
		n.children = map[string]*node{}
		err = r.folder(n, data, depth)
	default:
		n.size = 0 // a device
	}
	return n, err
}

// folder reads the entries of n.
func (r *reader) folder(n *node, data []byte, depth int) error {
	le := binary.LittleEndian
	for len(data) > 0 {
		block := data[:min(blockSize, len(data))]
		data = data[len(block):]
		if len(block) < direntSize {
			return errForeign
		}
		count := int(le.Uint16(block[8:])) / direntSize
		if count == 0 || count*direntSize > len(block) {
			return errForeign
		}
		for i := range count {
			head := block[i*direntSize:]
			from, to := int(le.Uint16(head[8:])), len(block)
			if i < count-1 {
				to = int(le.Uint16(head[direntSize+8:]))
			}
			if from > to || to > len(block) {
				return errForeign
			}
			name, _, _ := bytes.Cut(block[from:to], []byte{0})
			if string(name) == "." || string(name) == ".." {
				continue
			}
			if len(name) == 0 || len(name) > maxName || bytes.IndexByte(name, '/') >= 0 {
				return errForeign
			}
			c, err := r.node(le.Uint64(head), depth+1)
			if err != nil {
				return err
			}
			if c.isDir() || c.is(unix.S_IFREG) || c.is(unix.S_IFLNK) {
				n.children[string(name)] = c
			}
		}
	}
	return nil
}
