package journal

import (
	"bytes"
	"context"
	"encoding/binary"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// batch is how much is read at once: at least two of the largest records.
const batch = 2 * (header + MaxRecord)

var batches = sync.Pool{New: func() any { return new([batch]byte) }}

// Record is a piece of a journal. Its data is valid until the next call.
type Record struct {
	Offset uint64
	Time   time.Time
	Stream byte
	Data   []byte
}

// Visitor is told what a reader meets. An error ends the reading.
type Visitor interface {
	Record(Record) error
	// Gap says that the bytes in between are lost.
	Gap(from, to uint64) error
	// Keepalive is called when there was nothing for long.
	Keepalive() error
}

// keepalive is how long a reader may hear nothing.
const keepalive = 30 * time.Second

// Read visits everything from pos on, and then, unless once, whatever comes,
// until the journal ends, ctx does, or a visit fails. It holds no lock while
// visiting: a slow visitor misses some. ended tells whether the journal is at
// its end.
func (j *Journal) Read(ctx context.Context, pos uint64, once bool, v Visitor) (ended bool, err error) {
	c := cursor{j: j, pos: pos}
	var until uint64
	if once {
		_, until = j.Range()
	}
	var timer *time.Timer
	for {
		if once && c.pos >= until {
			j.store.mu.Lock()
			defer j.store.mu.Unlock()
			return j.closed, nil
		}
		wait, err := c.step(v)
		switch {
		case ctx.Err() != nil:
			return false, context.Cause(ctx)
		case err != nil:
			return false, err
		case wait == nil:
			continue
		case wait == over:
			return true, nil
		}
		if timer == nil {
			timer = time.NewTimer(keepalive)
			defer timer.Stop()
		} else {
			timer.Reset(keepalive)
		}
		select {
		case <-wait:
		case <-timer.C:
			if err := v.Keepalive(); err != nil {
				return false, err
			}
		case <-ctx.Done():
			return false, context.Cause(ctx)
		}
	}
}

// over stands for the end of a journal.
var over <-chan struct{} = make(chan struct{})

// cursor is a reader's place.
type cursor struct {
	j   *Journal
	pos uint64 // the next byte wanted
	seg *segment
	at  int64 // in seg, the next record
}

// step visits some of what there is, or returns what to wait for.
func (c *cursor) step(v Visitor) (wait <-chan struct{}, err error) {
	buf := batches.Get().(*[batch]byte)
	defer batches.Put(buf)
	j := c.j
	j.store.mu.Lock()
	from, n := c.pos, 0
	if wait = c.seek(); wait == nil && c.pos == from {
		n = j.readAt(c.seg, buf[:], c.at)
	}
	to, end := c.pos, j.end
	j.store.mu.Unlock()
	switch {
	case to > from:
		return nil, v.Gap(from, to)
	case wait != nil:
		return wait, nil
	}
	return nil, c.visit(buf[:n], end, v)
}

// seek finds what to read next, moving pos over what is lost. It returns what to
// wait for if there is nothing. store.mu is held.
func (c *cursor) seek() <-chan struct{} {
	j := c.j
	next := slices.Index(j.segs, c.seg) + 1
	if next > 0 && c.at < c.seg.size {
		return nil
	}
	if next == 0 { // a beginning, or its segment was dropped meanwhile
		for next+1 < len(j.segs) && j.segs[next+1].start <= c.pos {
			next++
		}
	}
	for _, s := range j.segs[min(next, len(j.segs)):] {
		c.seg, c.at, c.pos = s, 0, max(c.pos, s.start)
		if s.size > 0 {
			return nil
		}
	}
	if c.pos < j.end { // written, but nowhere to be read
		c.pos = j.end
		return nil
	}
	if j.closed {
		return over
	}
	if j.more == nil {
		j.more = make(chan struct{})
	}
	return j.more
}

// readAt reads from a segment. store.mu is held: files are small, and nothing
// is removed meanwhile.
func (j *Journal) readAt(seg *segment, buf []byte, at int64) int {
	if seg.mem != nil {
		return copy(buf, seg.mem[at:])
	}
	buf = buf[:min(int64(len(buf)), seg.size-at)]
	fd := j.fd
	if fd < 0 || seg != j.lastSegment() {
		var err error
		fd, err = unix.Openat(j.store.dir, name(j.ID, seg.start), unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
		if err != nil {
			return 0
		}
		defer unix.Close(fd)
	}
	n, _ := unix.Pread(fd, buf, at) // as good as damaged
	return max(n, 0)
}

// visit shows the whole records at the start of buf from c.pos on. Files are
// the users' to damage: the rest of a segment that makes no sense is passed over.
func (c *cursor) visit(buf []byte, most uint64, v Visitor) error {
	whole := false
	for {
		r, size := parse(buf)
		if size == 0 {
			break
		}
		end := r.Offset + uint64(len(r.Data))
		content := r.Stream != streamHead && r.Stream != streamTail
		if content && end > most {
			whole = false
			break
		}
		whole = true
		buf = buf[size:]
		c.at += int64(size)
		if !content || end <= c.pos {
			continue
		}
		if r.Offset > c.pos {
			if err := v.Gap(c.pos, r.Offset); err != nil {
				return err
			}
		} else {
			r.Data = r.Data[c.pos-r.Offset:]
			r.Offset = c.pos
		}
		c.pos = end
		if err := v.Record(r); err != nil {
			return err
		}
	}
	if !whole {
		c.at = 1 << 62 // nothing more in here
	}
	return nil
}

// parse reads the record at the start of buf; size 0: it is not whole, or none.
func parse(buf []byte) (r Record, size int) {
	if len(buf) < header {
		return r, 0
	}
	tag := binary.LittleEndian.Uint32(buf[16:])
	n := int(tag >> 8)
	if n > MaxRecord || len(buf) < header+n {
		return r, 0
	}
	r = Record{
		Offset: binary.LittleEndian.Uint64(buf),
		Time:   time.Unix(0, int64(binary.LittleEndian.Uint64(buf[8:]))),
		Stream: byte(tag),
		Data:   buf[header : header+n],
	}
	if r.Offset >= 1<<62 {
		return r, 0
	}
	return r, header + n
}

// examine reads a segment found in the folder: its description, its end, and how
// much of it is whole. store.mu is held.
func (j *Journal) examine(seg *segment, l *Loaded) (size int64) {
	buf := batches.Get().(*[batch]byte)
	defer batches.Put(buf)
	for size < seg.size {
		b := buf[:j.readAt(seg, buf[:], size)]
		whole := false
		for {
			r, n := parse(b)
			if n == 0 {
				break
			}
			whole = true
			b = b[n:]
			size += int64(n)
			switch r.Stream {
			case streamHead:
				l.Head = bytes.Clone(r.Data)
			case streamTail:
				l.Tail = bytes.Clone(r.Data)
			default:
				j.end = max(j.end, r.Offset+uint64(len(r.Data)))
			}
		}
		if !whole {
			break
		}
	}
	return size
}

// Tail returns where the last lines begin, as far as they are kept. Lines are
// counted as they were written, both streams together; a last one without an
// end counts.
func (j *Journal) Tail(lines int) uint64 {
	first, end := j.Range()
	if lines <= 0 {
		return end
	}
	t := tail{starts: make([]uint64, 0, min(lines, 1<<10)), most: lines, next: first}
	_, _ = j.Read(context.Background(), first, true, &t) // its visits don't fail
	if t.next < end {
		t.line(t.next)
	}
	if len(t.starts) == 0 {
		return end
	}
	return t.starts[t.at%len(t.starts)]
}

// tail keeps where the last lines begin.
type tail struct {
	starts []uint64 // a ring once it is full
	at     int
	most   int
	next   uint64 // where the line begins whose end was not seen yet
}

func (t *tail) line(start uint64) {
	if len(t.starts) < t.most {
		t.starts = append(t.starts, start)
		return
	}
	t.starts[t.at%t.most] = start
	t.at++
}

func (t *tail) Record(r Record) error {
	for i := 0; ; {
		n := bytes.IndexByte(r.Data[i:], '\n')
		if n < 0 {
			return nil
		}
		i += n + 1
		t.line(t.next)
		t.next = r.Offset + uint64(i)
	}
}

func (t *tail) Gap(_, to uint64) error { return nil }
func (t *tail) Keepalive() error       { return nil }
