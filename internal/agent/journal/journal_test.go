package journal

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// collector puts together what it meets; '?' stands for a lost byte.
type collector struct {
	next uint64
	all  []byte
	gaps int
	lost uint64
	fail func() error
}

func (c *collector) Record(r Record) error {
	if r.Offset != c.next {
		return fmt.Errorf("record at %d, expected %d", r.Offset, c.next)
	}
	c.next += uint64(len(r.Data))
	c.all = append(c.all, r.Data...)
	if c.fail != nil {
		return c.fail()
	}
	return nil
}

func (c *collector) Gap(from, to uint64) error {
	if from != c.next || to <= from {
		return fmt.Errorf("a gap from %d to %d, expected at %d", from, to, c.next)
	}
	c.gaps++
	c.lost += to - from
	c.next = to
	return nil
}

func (c *collector) Keepalive() error { return nil }

// pattern is what a test writes: the byte of every offset is known.
func pattern(from, n uint64) []byte {
	p := make([]byte, n)
	for i := range p {
		p[i] = byte((from + uint64(i)) * 31 % 251)
	}
	return p
}

func small(t *testing.T) *Store {
	return NewStore(Config{Dir: filepath.Join(t.TempDir(), "a", "b"), Journal: 256 << 10, Total: 1 << 20})
}

func replay(t *testing.T, j *Journal, from uint64) *collector {
	t.Helper()
	c := &collector{next: from}
	if _, err := j.Read(t.Context(), from, true, c); err != nil {
		t.Fatal(err)
	}
	return c
}

// tree is what the folder takes.
func tree(t *testing.T, dir string) (files int, bytes int64) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	for _, e := range entries {
		i, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		files, bytes = files+1, bytes+i.Size()
	}
	return files, bytes
}

func TestEverythingIsKeptUpToTheBound(t *testing.T) {
	s := small(t)
	j := s.Create()
	j.Describe([]byte("a description longer than the first output"))
	if n, _ := tree(t, s.cfg.Dir); n != 0 {
		t.Errorf("%d files before any output", n)
	}
	j.Append(1, pattern(0, 5))
	if c := replay(t, j, 0); string(c.all) != string(pattern(0, 5)) {
		t.Errorf("got %q", c.all)
	}
	rnd := rand.New(rand.NewPCG(1, 2))
	at := uint64(5)
	for at < 10<<20 {
		n := uint64(rnd.IntN(50_000))
		j.Append(byte(1+rnd.IntN(2)), pattern(at, n))
		at += n
		if _, size := tree(t, s.cfg.Dir); size > s.cfg.Journal {
			t.Fatalf("%d bytes in files", size)
		}
		first, end := j.Range()
		if end != at || at-first > uint64(s.cfg.Journal) || at > uint64(s.cfg.Journal) && at-first < uint64(s.cfg.Journal)/2 {
			t.Fatalf("kept %d to %d of %d", first, end, at)
		}
	}
	first, _ := j.Range()
	for _, from := range []uint64{0, first - 1, first, first + 1, first + 12345, at - 1, at} {
		c := replay(t, j, from)
		begin := max(from, first)
		if c.next != at || c.lost != begin-from || !bytes.Equal(c.all, pattern(begin, at-begin)) {
			t.Errorf("from %d: %d bytes, %d lost, end %d; want from %d to %d", from, len(c.all), c.lost, c.next, begin, at)
		}
	}
	s.Remove(j)
	if n, _ := tree(t, s.cfg.Dir); n != 0 || s.used != 0 {
		t.Errorf("%d files and %d bytes after the end", n, s.used)
	}
}

func TestFollowersSeeAllOrAreTold(t *testing.T) {
	s := small(t)
	j := s.Create()
	const total = 8 << 20
	type result struct {
		c     *collector
		ended bool
		err   error
	}
	results := make(chan result, 4)
	release := make(chan struct{})
	for i := range 4 {
		c := &collector{}
		if i == 0 { // holds its first record until everything is written
			c.fail = func() error { <-release; return nil }
		}
		go func() {
			ended, err := j.Read(context.Background(), 0, false, c)
			results <- result{c, ended, err}
		}()
	}
	for at := uint64(0); at < total; at += 10_000 {
		j.Append(1, pattern(at, min(10_000, total-at)))
	}
	j.Close([]byte("end"))
	close(release)
	for range 4 {
		r := <-results
		if r.err != nil || !r.ended || r.c.next != total || uint64(len(r.c.all))+r.c.lost != total {
			t.Errorf("ended %v, err %v, %d bytes and %d lost of %d", r.ended, r.err, len(r.c.all), r.c.lost, total)
		}
	}
}

func TestReadEndsWithItsContextAndItsVisitor(t *testing.T) {
	j := small(t).Create()
	j.Append(1, []byte("x"))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := j.Read(ctx, 0, false, &collector{}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	gone := errors.New("gone")
	if _, err := j.Read(t.Context(), 0, false, &collector{fail: func() error { return gone }}); !errors.Is(err, gone) {
		t.Errorf("got %v", err)
	}
}

func TestTail(t *testing.T) {
	for _, tt := range []struct {
		name   string
		writes []string
		lines  int
		want   string
	}{
		{"nothing", nil, 3, ""},
		{"fewer", []string{"a\nb\n"}, 3, "a\nb\n"},
		{"as many", []string{"a\nb\nc\n"}, 3, "a\nb\nc\n"},
		{"more", []string{"a\nb", "b\nc\nd\n"}, 2, "c\nd\n"},
		{"a last one without an end", []string{"a\nb\nc"}, 2, "b\nc"},
		{"one over many pieces", []string{"a\nb", "b", "b", "b\n"}, 1, "bbbb\n"},
		{"empty ones", []string{"\n\n\n"}, 2, "\n\n"},
		{"none", []string{"a\n"}, 0, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			j := small(t).Create()
			for _, w := range tt.writes {
				j.Append(1, []byte(w))
			}
			if got := string(replay(t, j, j.Tail(tt.lines)).all); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func TestTotalIsBounded(t *testing.T) {
	s := small(t)
	var all []*Journal
	for range 20 { // 20 × 256 KiB want to be kept, 1 MiB may
		j := s.Create()
		all = append(all, j)
		for at := uint64(0); at < 300_000; at += 10_000 {
			j.Append(1, pattern(at, 10_000))
		}
		if len(all)%2 == 0 {
			j.Close(nil)
		}
		if _, size := tree(t, s.cfg.Dir); size > s.cfg.Total {
			t.Fatalf("%d bytes in files", size)
		}
	}
	last := all[len(all)-1]
	if first, end := last.Range(); end != 300_000 || end-first < 100_000 {
		t.Errorf("of the newest %d to %d are kept", first, end)
	}
	for _, j := range all {
		s.Remove(j)
	}
	if n, _ := tree(t, s.cfg.Dir); n != 0 || s.used != 0 || s.homeless != 0 {
		t.Errorf("%d files, %d bytes, %d in memory after the end", n, s.used, s.homeless)
	}
}

func TestDiskFull(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("mounts a small disk, and so needs root")
	}
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Skip("no small disk:", err)
	}
	defer unix.Unmount(dir, unix.MNT_DETACH)
	s := NewStore(Config{Dir: filepath.Join(dir, "j")})
	defer func() { unix.Close(s.dir) }()
	j := s.Create()
	j.Append(1, pattern(0, 1000))
	filler, err := os.Create(filepath.Join(dir, "filler"))
	if err != nil {
		t.Fatal(err)
	}
	for err == nil {
		_, err = filler.Write(make([]byte, 4096))
	}
	filler.Close()

	live := &collector{}
	end := make(chan error)
	go func() { _, err := j.Read(context.Background(), 0, false, live); end <- err }()
	at := uint64(1000)
	for at < 500_000 {
		j.Append(1, pattern(at, 777))
		at += 777
	}
	c := replay(t, j, 0)
	if c.next != at || c.gaps == 0 || len(c.all) < 1000+700 || len(c.all) > 100_000 {
		t.Errorf("while full: %d bytes, %d gaps, up to %d of %d", len(c.all), c.gaps, c.next, at)
	}
	if tail := c.all[len(c.all)-700:]; !bytes.Equal(tail, pattern(at-700, 700)) {
		t.Error("the last output is not there")
	}
	os.Remove(filler.Name())
	for range 200 {
		j.Append(1, pattern(at, 1000))
		at += 1000
	}
	c = replay(t, j, at-100_000)
	if c.gaps != 0 || !bytes.Equal(c.all, pattern(at-100_000, 100_000)) {
		t.Errorf("with room again: %d bytes, %d gaps", len(c.all), c.gaps)
	}
	j.Close(nil)
	if err := <-end; err != nil || live.next != at {
		t.Errorf("live: %v, up to %d of %d", err, live.next, at)
	}
	if s.homeless != 0 {
		t.Errorf("%d in memory", s.homeless)
	}
}

func TestLoad(t *testing.T) {
	s := small(t)
	a, b := s.Create(), s.Create()
	a.Describe([]byte("head a"))
	b.Describe([]byte("head b"))
	for at := uint64(0); at < 600_000; at += 10_000 {
		a.Append(1, pattern(at, 10_000))
	}
	a.Close([]byte("tail a"))
	b.Append(2, []byte("hello\n"))
	first, _ := a.Range()

	again := NewStore(s.cfg)
	early := again.Create() // before the files came back: its number is taken, and kept
	list, err := again.Load()
	if err != nil || len(list) != 1 || early.ID != a.ID {
		t.Fatalf("%d loaded, %v", len(list), err)
	}
	if l := list[0]; l.ID != b.ID || string(l.Head) != "head b" || l.Tail != nil || string(replay(t, l.Journal, 0).all) != "hello\n" {
		t.Errorf("got %d %q %q", l.ID, l.Head, l.Tail)
	}
	if next := again.Create(); next.ID <= b.ID {
		t.Errorf("number %d was given before", next.ID)
	}
	list[0].Reopen()
	list[0].Append(1, []byte("more\n"))
	if got := string(replay(t, list[0].Journal, 0).all); got != "hello\nmore\n" {
		t.Errorf("reopened: %q", got)
	}

	list, err = NewStore(s.cfg).Load()
	if err != nil || len(list) != 2 {
		t.Fatalf("%d loaded, %v", len(list), err)
	}
	if l := list[0]; string(l.Head) != "head a" || string(l.Tail) != "tail a" || !bytes.Equal(replay(t, l.Journal, first).all, pattern(first, 600_000-first)) {
		t.Errorf("got %q %q", l.Head, l.Tail)
	}
}

// What users do to the files costs them their output, no more.
func TestDamage(t *testing.T) {
	damages := map[string]func(path string) error{
		"deleted":   os.Remove,
		"truncated": func(p string) error { return os.Truncate(p, 10_001) },
		"emptied":   func(p string) error { return os.Truncate(p, 0) },
		"overwritten": func(p string) error {
			return os.WriteFile(p, bytes.Repeat([]byte{0xff}, 30_000), 0o600)
		},
		"a FIFO": func(p string) error {
			return errors.Join(os.Remove(p), unix.Mkfifo(p, 0o600))
		},
		"a link": func(p string) error {
			return errors.Join(os.Remove(p), os.Symlink("/dev/zero", p))
		},
		"a record from far ahead": func(p string) error {
			raw, err := os.ReadFile(p)
			raw[header+7] = 0x3f
			return errors.Join(err, os.WriteFile(p, raw, 0o600))
		},
	}
	for name, damage := range damages {
		t.Run(name, func(t *testing.T) {
			s := small(t)
			j := s.Create()
			for at := uint64(0); at < 200_000; at += 10_000 {
				j.Append(1, pattern(at, 10_000))
			}
			files, err := filepath.Glob(s.cfg.Dir + "/*")
			if err != nil || len(files) < 3 {
				t.Fatal(files, err)
			}
			for _, f := range files {
				if err := damage(f); err != nil {
					t.Fatal(err)
				}
			}
			j.Append(1, pattern(200_000, 100_000))
			c := replay(t, j, 0)
			if c.next != 300_000 {
				t.Errorf("read up to %d", c.next)
			}
			j.Tail(5)
			if _, err := NewStore(s.cfg).Load(); err != nil {
				t.Error(err)
			}
		})
	}
}

func BenchmarkAppend(b *testing.B) {
	s := NewStore(Config{Dir: b.TempDir()})
	j := s.Create()
	line := []byte("a line of output as programs write them, of eighty characters or thereabouts..\n")
	b.SetBytes(int64(len(line)))
	for b.Loop() {
		j.Append(1, line)
	}
}
