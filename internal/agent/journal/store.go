// Package journal keeps what processes write in bounded files, so that a
// process never waits for a reader nor fills the disk, and readers may come
// late, come back, or be slow.
//
// A journal is a sequence of bytes counted from its first, kept in segments:
// files of records, each with its offset, time and stream. When the newest is
// full the oldest goes. Every segment begins with the owner's description of the
// journal, so that a folder of them can be read by an agent that knows nothing.
package journal

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// Config bounds a Store. Zero values take the defaults named.
type Config struct {
	Dir     string // root's only; made when first needed
	Journal int64  // bytes of one journal; 4 MiB
	Total   int64  // bytes of all of them; 64 MiB
}

const (
	// segments is how many parts a full journal has: one of them is what is
	// lost at a time.
	segments = 8
	// inMemory is how much is kept of a journal for which the disk has no room,
	// so that those who follow it live still see it; frugal bounds how many.
	inMemory = 64 << 10
	frugal   = 32
	// block is what the smallest file takes.
	block = 4 << 10
)

// Store is a folder of journals.
type Store struct {
	cfg Config

	mu       sync.Mutex // guards everything below, in the journals too
	dir      int        // open folder; -1: not yet
	last     uint64     // id given
	used     int64      // bytes in files
	homeless int        // journals in memory
	journals map[uint64]*Journal
	loaded   bool
}

// NewStore touches nothing yet.
func NewStore(cfg Config) *Store {
	cfg.Journal = cmp.Or(cfg.Journal, 4<<20)
	cfg.Total = cmp.Or(cfg.Total, 64<<20)
	return &Store{cfg: cfg, dir: -1, journals: map[uint64]*Journal{}}
}

// open opens the folder, and makes it if asked. s.mu is held.
func (s *Store) open(make bool) error {
	if s.dir >= 0 {
		return nil
	}
	if make {
		if err := os.MkdirAll(s.cfg.Dir, 0o700); err != nil {
			return err
		}
	}
	fd, err := unix.Open(s.cfg.Dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return fmt.Errorf("open the folder of journals: %w", err)
	}
	s.dir = fd
	return nil
}

// Create begins a journal.
func (s *Store) Create() *Journal {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last++
	j := &Journal{ID: s.last, store: s, fd: -1}
	s.journals[j.ID] = j
	return j
}

// Get finds a journal.
func (s *Store) Get(id uint64) *Journal {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.journals[id]
}

// Remove deletes a journal and its files. Who reads it is told that it ended.
func (s *Store) Remove(j *Journal) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.journals[j.ID] != j {
		return
	}
	delete(s.journals, j.ID)
	j.seal()
	j.removed = true
	for len(j.segs) > 0 {
		j.dropOldest()
	}
	j.wake()
}

// evict makes room for n bytes within the bound of all journals: first from the
// oldest that are closed, then from the largest. s.mu is held.
func (s *Store) evict(n int64, asking *Journal) {
	for s.used+n > s.cfg.Total {
		var victim *Journal
		for _, j := range s.journals {
			if j.size() == 0 || j == asking && len(j.segs) < 2 {
				continue
			}
			if !j.closed && len(j.segs) < 2 {
				continue // what is being written
			}
			switch {
			case victim == nil, j.closed && !victim.closed, j.closed == victim.closed && worse(j, victim):
				victim = j
			}
		}
		if victim == nil {
			return
		}
		victim.dropOldest()
	}
}

func worse(a, b *Journal) bool {
	if a.closed {
		return a.ID < b.ID
	}
	return a.size() > b.size()
}

// name is a segment's file: the journal's id and the offset of the first byte.
func name(id, start uint64) string { return fmt.Sprintf("%016x-%016x", id, start) }

func parseName(s string) (id, start uint64, ok bool) {
	a, b, found := strings.Cut(s, "-")
	if !found || len(a) != 16 || len(b) != 16 {
		return 0, 0, false
	}
	id, err1 := strconv.ParseUint(a, 16, 64)
	start, err2 := strconv.ParseUint(b, 16, 64)
	return id, start, err1 == nil && err2 == nil && id > 0 && id < 1<<62 && start < 1<<62
}

// Loaded is a journal found in the folder, closed.
type Loaded struct {
	*Journal
	Head []byte // as Describe was given it
	Tail []byte // as Close was given it; nil: it was never closed
}

// maxLoaded bounds what is loaded; a folder that holds more is not ours.
const maxLoaded = 4096

// Load reads the folder another agent has left, once: the sandbox was stopped
// and its files came back. What is no journal is not touched. It returns the
// journals by age.
func (s *Store) Load() ([]Loaded, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.loaded {
		return nil, nil
	}
	if err := s.open(false); err != nil {
		if errors.Is(err, os.ErrNotExist) {
			return nil, nil // it may still come
		}
		return nil, err
	}
	s.loaded = true
	entries, err := os.ReadDir(filepath.Join("/proc/self/fd", strconv.Itoa(s.dir)))
	if err != nil {
		return nil, fmt.Errorf("list the journals: %w", err)
	}
	found := map[uint64]*Journal{}
	for _, e := range entries { // sorted, and so by offset
		id, start, ok := parseName(e.Name())
		if !ok || s.journals[id] != nil {
			continue
		}
		j := found[id]
		if j == nil {
			if len(found) == maxLoaded {
				break
			}
			j = &Journal{ID: id, store: s, fd: -1, closed: true, end: start}
			found[id] = j
		}
		info, err := e.Info()
		if err != nil || !info.Mode().IsRegular() {
			continue
		}
		j.segs = append(j.segs, &segment{start: start, size: info.Size()})
		s.used += max(info.Size(), block)
	}
	list := make([]Loaded, 0, len(found))
	for id, j := range found {
		s.last = max(s.last, id)
		s.journals[id] = j
		l := Loaded{Journal: j}
		for _, seg := range j.segs {
			seg.size = j.examine(seg, &l)
		}
		list = append(list, l)
	}
	slices.SortFunc(list, func(a, b Loaded) int { return cmp.Compare(a.ID, b.ID) })
	return list, nil
}
