package journal

import (
	"encoding/binary"
	"time"

	"golang.org/x/sys/unix"
)

// Streams of a journal's own; owners use numbers between the two.
const (
	streamHead = 0
	streamTail = 255
)

// MaxRecord bounds the data of one record.
const MaxRecord = 32 << 10

// header is what precedes every record: offset, time, stream, length.
const header = 8 + 8 + 1 + 3

// Journal is the output of one process, or of one service's processes in turn.
type Journal struct {
	ID    uint64
	store *Store

	// Guarded by store.mu.
	head    []byte
	segs    []*segment // oldest first
	fd      int        // of the last segment's file; -1: none
	end     uint64     // offset of what comes next
	closed  bool
	removed bool
	more    chan struct{} // closed at the next change; nil: nobody waits
	hdr     [header]byte
}

// segment is a file of records, or a piece of memory when there is no room.
type segment struct {
	start uint64
	size  int64  // of its whole records
	mem   []byte // nil: in a file
}

// size is what the journal's files take.
func (j *Journal) size() (n int64) {
	for _, s := range j.segs {
		if s.mem == nil {
			n += max(s.size, block)
		}
	}
	return n
}

// Append adds data, cut into records. It never fails: what finds no room is
// counted, and readers are told of the gap.
func (j *Journal) Append(stream byte, data []byte) {
	now := time.Now()
	j.store.mu.Lock()
	defer j.store.mu.Unlock()
	if j.closed {
		return
	}
	for len(data) > 0 {
		n := min(len(data), MaxRecord)
		j.record(stream, data[:n], now)
		j.end += uint64(n)
		data = data[n:]
	}
	j.wake()
}

// Close ends the journal. tail is for whoever loads it later. Readers get what
// is there and then its end.
func (j *Journal) Close(tail []byte) {
	j.store.mu.Lock()
	defer j.store.mu.Unlock()
	if j.closed {
		return
	}
	j.record(streamTail, tail, time.Now())
	j.seal()
	j.wake()
}

// Describe sets what every segment begins with from now on, for whoever loads the
// folder later. Call it before anything is appended.
func (j *Journal) Describe(head []byte) {
	j.store.mu.Lock()
	defer j.store.mu.Unlock()
	j.head = head
}

// Reopen lets more be appended to a journal that was loaded.
func (j *Journal) Reopen() {
	j.store.mu.Lock()
	defer j.store.mu.Unlock()
	j.closed = j.removed
}

// Range tells which bytes are kept: from first up to end.
func (j *Journal) Range() (first, end uint64) {
	j.store.mu.Lock()
	defer j.store.mu.Unlock()
	return j.first(), j.end
}

func (j *Journal) first() uint64 {
	if len(j.segs) == 0 {
		return j.end
	}
	return j.segs[0].start
}

// seal stops writing. store.mu is held, here and below.
func (j *Journal) seal() {
	j.closed = true
	j.closeFile()
}

func (j *Journal) closeFile() {
	if j.fd >= 0 {
		unix.Close(j.fd)
		j.fd = -1
	}
}

func (j *Journal) wake() {
	if j.more != nil {
		close(j.more)
		j.more = nil
	}
}

// record writes one record to the last segment, or to a new one.
func (j *Journal) record(stream byte, data []byte, now time.Time) {
	size := int64(header + len(data))
	each := j.store.cfg.Journal / segments
	last := j.lastSegment()
	if last == nil || last.mem == nil && (j.fd < 0 || last.size+size > each) || last.mem != nil && last.size+size > inMemory {
		last = j.roll()
	}
	j.encode(stream, len(data), now)
	if last.mem == nil {
		if j.write(last, data) {
			return
		}
		last = j.intoMemory()
	}
	if last != nil {
		last.mem = append(append(last.mem, j.hdr[:]...), data...)
		last.size = int64(len(last.mem))
	}
}

func (j *Journal) lastSegment() *segment {
	if len(j.segs) == 0 {
		return nil
	}
	return j.segs[len(j.segs)-1]
}

func (j *Journal) encode(stream byte, n int, now time.Time) {
	binary.LittleEndian.PutUint64(j.hdr[0:], j.end)
	binary.LittleEndian.PutUint64(j.hdr[8:], uint64(now.UnixNano()))
	binary.LittleEndian.PutUint32(j.hdr[16:], uint32(stream)|uint32(n)<<8)
}

// roll begins a segment, in a file if there is room.
func (j *Journal) roll() *segment {
	s := j.store
	j.closeFile()
	if last := j.lastSegment(); last != nil && last.mem != nil {
		j.drop(len(j.segs) - 1) // what waited in memory: it was shown live, or never
	}
	for len(j.segs) >= segments {
		j.dropOldest()
	}
	seg := &segment{start: j.end}
	if s.open(true) == nil {
		const flags = unix.O_RDWR | unix.O_CREAT | unix.O_TRUNC | unix.O_CLOEXEC | unix.O_NOFOLLOW | unix.O_NONBLOCK
		if last := j.lastSegment(); last != nil && last.start == j.end {
			j.drop(len(j.segs) - 1) // nothing but a head: the same file again
		}
		if fd, err := unix.Openat(s.dir, name(j.ID, seg.start), flags, 0o600); err == nil {
			j.fd = fd
		}
	}
	j.segs = append(j.segs, seg)
	s.used += block
	if j.fd >= 0 {
		j.encode(streamHead, len(j.head), time.Time{})
		j.write(seg, j.head)
	}
	return seg
}

// write appends the encoded header and data to the last segment's file.
func (j *Journal) write(seg *segment, data []byte) bool {
	s := j.store
	size := int64(header + len(data))
	grow := max(seg.size+size, block) - max(seg.size, block)
	if s.used+grow > s.cfg.Total {
		s.evict(grow, j)
		if s.used+grow > s.cfg.Total {
			return false
		}
	}
	if j.fd < 0 {
		return false
	}
	n, err := unix.Pwritev(j.fd, [][]byte{j.hdr[:], data}, seg.size)
	if err != nil || int64(n) != size {
		_ = unix.Ftruncate(j.fd, seg.size) // a part of a record is not read anyway
		return false
	}
	seg.size += size
	s.used += grow
	return true
}

// intoMemory begins a segment in memory; nil: there are too many already.
func (j *Journal) intoMemory() *segment {
	s := j.store
	j.closeFile()
	if last := j.lastSegment(); last.size == 0 {
		j.drop(len(j.segs) - 1)
	}
	if s.homeless >= frugal {
		return nil
	}
	s.homeless++
	seg := &segment{start: j.end, mem: make([]byte, 0, 4<<10)}
	j.segs = append(j.segs, seg)
	return seg
}

func (j *Journal) dropOldest() {
	j.drop(0)
}

func (j *Journal) drop(i int) {
	s, seg := j.store, j.segs[i]
	j.segs = append(j.segs[:i], j.segs[i+1:]...)
	if seg.mem != nil {
		s.homeless--
		return
	}
	if len(j.segs) == i {
		j.closeFile() // it was the last
	}
	s.used -= max(seg.size, block)
	if s.dir >= 0 {
		_ = unix.Unlinkat(s.dir, name(j.ID, seg.start), 0) // a user may have deleted it
	}
}
