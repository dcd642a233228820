package proc

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"
)

// scanner reads /proc without allocating: it must work when memory is nearly
// gone. What it returns is valid while mu is held.
type scanner struct {
	mu   sync.Mutex
	proc int
	list []entry
	// Large enough for all there may be: what is listed in pieces while
	// processes come and go is counted twice.
	ents [64 << 10]byte
	buf  [4 << 10]byte
	page int64
}

type entry struct {
	pid, parent, session int
	state                byte
	rss                  int64 // bytes
}

func (s *scanner) open() error {
	fd, err := unix.Open("/proc", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open /proc: %w", err)
	}
	s.proc = fd
	s.page = int64(os.Getpagesize())
	s.list = make([]entry, 0, 256)
	return nil
}

// pids calls f with the number of every process.
func (s *scanner) pids(f func(pid int)) {
	if _, err := unix.Seek(s.proc, 0, 0); err != nil {
		return
	}
	for {
		n, err := unix.Getdents(s.proc, s.ents[:])
		if err != nil || n <= 0 {
			return
		}
		for b := s.ents[:n]; len(b) > 19; {
			size := int(b[16]) | int(b[17])<<8 // linux_dirent64.d_reclen
			if size < 19 || size > len(b) {
				return
			}
			if pid, ok := number(b[19:size]); ok {
				f(pid)
			}
			b = b[size:]
		}
	}
}

// number reads a NUL-terminated positive number.
func number(b []byte) (n int, ok bool) {
	for i, c := range b {
		switch {
		case c == 0:
			return n, i > 0
		case c < '0' || c > '9' || n > 1<<30:
			return 0, false
		}
		n = n*10 + int(c-'0')
	}
	return 0, false
}

func (s *scanner) all() []entry {
	s.list = s.list[:0]
	s.pids(func(pid int) {
		if e, ok := s.stat(pid); ok {
			s.list = append(s.list, e)
		}
	})
	return s.list
}

func (s *scanner) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	me, n := os.Getpid(), 0
	s.pids(func(pid int) {
		if pid != me {
			n++
		}
	})
	return n
}

// read reads a small file of a process into buf.
func (s *scanner) read(pid int, file string) []byte {
	var name [32]byte
	path := append(strconv.AppendInt(name[:0], int64(pid), 10), file...)
	fd, err := unix.Openat(s.proc, string(path), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil
	}
	defer unix.Close(fd)
	n, err := unix.Read(fd, s.buf[:])
	if err != nil {
		return nil
	}
	return s.buf[:n]
}

func (s *scanner) stat(pid int) (entry, bool) {
	e := entry{pid: pid}
	b := s.read(pid, "/stat")
	// The name may hold anything, also ") R 1": only the last one counts.
	i := bytes.LastIndexByte(b, ')')
	if i < 0 {
		return e, false
	}
	field := 3
	for f := range bytes.FieldsSeq(b[i+1:]) {
		switch field {
		case 3:
			e.state = f[0]
		case 4:
			e.parent, _ = strconv.Atoi(string(f))
		case 6:
			e.session, _ = strconv.Atoi(string(f))
		case 24:
			pages, _ := strconv.ParseInt(string(f), 10, 64)
			e.rss = pages * s.page
			return e, true
		}
		field++
	}
	return e, true
}

// name returns what a process is called.
func (s *scanner) name(pid int) string {
	return string(bytes.TrimSpace(s.read(pid, "/comm")))
}

// hasEnv tells whether a process was started with this variable.
func (s *scanner) hasEnv(pid int, kv string) bool {
	var name [32]byte
	path := append(strconv.AppendInt(name[:0], int64(pid), 10), "/environ"...)
	data, err := os.ReadFile("/proc/" + string(path)) // may be long; only the fallback asks
	if err != nil {
		return false
	}
	for v := range bytes.SplitSeq(data, []byte{0}) {
		if string(v) == kv {
			return true
		}
	}
	return false
}
