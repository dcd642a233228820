package files

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"silica.dev/silica/internal/guest"
	"silica.dev/silica/internal/guest/guestpb"
	"silica.dev/silica/sandbox"
)

const (
	// maxLine is how much of one line a search shows.
	maxLine = 2 << 10
	// longLine is where a line is cut for searching: what is longer is several.
	longLine = 256 << 10
	// maxContext is how many lines before and after a match are shown.
	maxContext = 20
	// sniff is how much of a file is looked at for a NUL, which text has none of.
	sniff = 8 << 10
	// maxPattern is how many bytes a pattern may have.
	maxPattern = 4 << 10
)

// selection walks the files a search looks into.
type selection struct {
	root             string
	all              bool
	include, exclude func(string) bool
}

func selectFiles(s *guestpb.Scope) (*selection, error) {
	root, err := Clean(s.GetPath())
	if err != nil {
		return nil, err
	}
	sel := &selection{root: root, all: s.GetAll(), include: func(string) bool { return true }}
	if len(s.GetInclude()) > 0 {
		if sel.include, err = compileGlobs("include", s.GetInclude()); err != nil {
			return nil, err
		}
	}
	sel.exclude, err = compileGlobs("exclude", s.GetExclude())
	return sel, err
}

// each calls do with every regular file.
func (s *selection) each(ctx context.Context, do func(p string) error) error {
	info, err := os.Stat(s.root)
	if err != nil {
		return err
	}
	if info.Mode().IsRegular() {
		real, err := follow(s.root)
		if err != nil {
			return err
		}
		return do(real)
	}
	if !info.IsDir() {
		return notRegular(s.root)
	}
	return walk(ctx, s.root, s.all, 0, func(p, name string, d fs.DirEntry) error {
		if !d.Type().IsRegular() || IsTemp(d.Name()) || !s.include(guest.Spell(name)) || s.excluded(guest.Spell(name)) {
			return nil
		}
		return do(p)
	})
}

// excluded tells whether a file or a folder it is in is not wanted.
func (s *selection) excluded(name string) bool {
	for ; name != "."; name = path.Dir(name) {
		if s.exclude(name) {
			return true
		}
	}
	return false
}

func compilePattern(pattern string) (*regexp.Regexp, error) {
	if pattern == "" || len(pattern) > maxPattern {
		return nil, sandbox.Field("pattern", fmt.Sprintf("must have 1 to %d bytes", maxPattern))
	}
	re, err := regexp.Compile(pattern)
	if err != nil {
		return nil, sandbox.Field("pattern", err.Error())
	}
	return re, nil
}

// Search finds the lines that match a pattern, sorted by path. Of too many it
// shows those it came upon first.
func (f *Files) Search(ctx context.Context, q *guestpb.SearchRequest) (*guestpb.SearchResponse, error) {
	sel, err := selectFiles(q.GetScope())
	if err != nil {
		return nil, err
	}
	re, err := compilePattern(q.GetPattern())
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, findTime, errTimeout)
	defer cancel()
	s := &searching{ctx: ctx, re: re, limit: maxFound, around: int(min(q.GetContext(), maxContext)), all: sel.all, res: &guestpb.SearchResponse{}}
	if q.GetLimit() > 0 {
		s.limit = min(s.limit, int(q.GetLimit()))
	}
	s.in = bufio.NewReaderSize(nil, longLine)
	err = sel.each(ctx, s.file)
	s.res.Truncated, s.res.TimedOut = errors.Is(err, errEnough), errors.Is(err, errTimeout)
	if err != nil && !s.res.Truncated && !s.res.TimedOut {
		return nil, f.classify(sel.root, err)
	}
	slices.SortStableFunc(s.res.Matches, func(a, b *guestpb.SearchResponse_Match) int { return strings.Compare(a.Path, b.Path) })
	return s.res, nil
}

type searching struct {
	ctx    context.Context
	re     *regexp.Regexp
	limit  int
	around int
	all    bool
	in     *bufio.Reader
	res    *guestpb.SearchResponse
	bytes  int
}

// file searches one file. What can't be read is passed over.
func (s *searching) file(p string) error {
	file, err := openRegular(p)
	if err != nil {
		return nil
	}
	defer file.Close()
	s.in.Reset(file)
	if head, _ := s.in.Peek(sniff); !s.all && bytes.IndexByte(head, 0) >= 0 {
		return nil
	}
	s.res.Files++
	spelled := guest.Spell(p)
	var before []string // the last lines, as they would be shown
	var open []*guestpb.SearchResponse_Match
	for number := uint32(1); ; number++ {
		if s.ctx.Err() != nil {
			return context.Cause(s.ctx)
		}
		line, err := s.in.ReadSlice('\n')
		if len(line) == 0 && err != nil {
			return nil // its end, or it can't be read any more
		}
		whole := !errors.Is(err, bufio.ErrBufferFull)
		line = bytes.TrimSuffix(bytes.TrimSuffix(line, []byte("\n")), []byte("\r"))
		at := s.re.FindIndex(line)
		if at == nil && s.around == 0 {
			if !whole {
				number--
			}
			continue
		}
		shown := ""
		if s.around > 0 {
			shown, _ = cutLine(line, 0)
			for _, m := range open {
				if m.HasAfter {
					m.After += "\n"
				}
				m.After, m.HasAfter = m.After+shown, true
				s.bytes += len(shown) + 1
			}
			for len(open) > 0 && number >= open[0].Line+uint32(s.around) {
				open = open[1:]
			}
		}
		if at != nil {
			m := &guestpb.SearchResponse_Match{Path: spelled, Line: number, Column: uint32(at[0]) + 1}
			m.Text, m.Cut = cutLine(line, at[0])
			m.Before, m.HasBefore = strings.Join(before, "\n"), len(before) > 0
			s.bytes += len(m.Path) + len(m.Text) + len(m.Before) + 64
			if len(s.res.Matches) == s.limit || s.bytes > maxListing {
				return errEnough
			}
			s.res.Matches = append(s.res.Matches, m)
			if s.around > 0 {
				open = append(open, m)
			}
		}
		if s.around > 0 {
			if before = append(before, shown); len(before) > s.around {
				before = before[1:]
			}
		}
		if !whole {
			number--
		}
	}
}

// cutLine makes text of a line, or of the part of it around byte at.
func cutLine(line []byte, at int) (text string, cut bool) {
	if len(line) > maxLine {
		from := max(0, min(at-maxLine/4, len(line)-maxLine))
		for from > 0 && !utf8.RuneStart(line[from]) {
			from--
		}
		line, cut = line[from:min(from+maxLine, len(line))], true
	}
	return strings.ToValidUTF8(string(line), "\uFFFD"), cut
}

// maxReplace is how large a file may be in which something is replaced, in bytes.
const maxReplace = 16 << 20

// Replace replaces what a pattern matches, in the whole of each file, and each file
// whole or not at all. Files that are binary or too large stay as they are.
func (f *Files) Replace(ctx context.Context, q *guestpb.ReplaceRequest) (*guestpb.ReplaceResponse, error) {
	sel, err := selectFiles(q.GetScope())
	if err != nil {
		return nil, err
	}
	re, err := compilePattern(q.GetPattern())
	if err != nil {
		return nil, err
	}
	limit := maxFound
	if q.GetLimit() > 0 {
		limit = min(limit, int(q.GetLimit()))
	}
	res := &guestpb.ReplaceResponse{}
	ctx, cancel := context.WithTimeoutCause(ctx, findTime, errTimeout)
	defer cancel()
	err = sel.each(ctx, func(p string) error {
		n, err := f.replaceIn(p, re, q.GetReplacement(), sel.all, q.GetDryRun(), len(res.Files) < limit)
		if errors.Is(err, errEnough) {
			return err
		}
		one := &guestpb.ReplaceResponse_File{Path: guest.Spell(p), Replacements: uint32(n)}
		if err != nil {
			one.Replacements, one.Error = 0, sandbox.AsError(f.classify(p, err)).Message
		}
		if n > 0 || err != nil {
			res.Files = append(res.Files, one)
		}
		return nil
	})
	res.Truncated, res.TimedOut = errors.Is(err, errEnough), errors.Is(err, errTimeout)
	if err != nil && !res.Truncated && !res.TimedOut {
		return nil, f.classify(sel.root, err)
	}
	return res, nil
}

// replaceIn does so in one file and counts how often. room says that there may be
// one more in the answer.
func (f *Files) replaceIn(p string, re *regexp.Regexp, by string, all, dry, room bool) (int, error) {
	in, err := openRegular(p)
	if err != nil {
		return 0, nil // gone, or not ours to read
	}
	defer in.Close()
	old, err := io.ReadAll(io.LimitReader(in, maxReplace+1))
	if err != nil || !all && bytes.IndexByte(old[:min(len(old), sniff)], 0) >= 0 {
		return 0, nil
	}
	n := len(re.FindAllIndex(old, -1))
	if n == 0 {
		return 0, nil
	}
	if !room {
		return 0, errEnough
	}
	if len(old) > maxReplace {
		return n, sandbox.Field("path", fmt.Sprintf("has more than %d MiB", maxReplace>>20))
	}
	if dry {
		return n, nil
	}
	_, err = f.Write(guest.Spell(p), keepMode, bytes.NewReader(re.ReplaceAll(old, []byte(by))))
	return n, err
}
