package server

import "unicode/utf8"

// What a program writes need not be text. These functions make JSON strings of
// it without holding more than a piece: bytes that are not UTF-8 become U+FFFD,
// one each, and a character cut in two by the pieces stays whole.

const replacement = "\uFFFD"

// cost is how many bytes the character at the start of p takes in a JSON
// string, and how many it takes in p. bad says that it is not UTF-8.
func cost(p []byte) (escaped, width int, bad bool) {
	c := p[0]
	switch {
	case c == '\n', c == '\r', c == '\t', c == '"', c == '\\':
		return 2, 1, false
	case c < 0x20:
		return 6, 1, false
	case c < utf8.RuneSelf:
		return 1, 1, false
	}
	r, width := utf8.DecodeRune(p)
	if r == utf8.RuneError && width == 1 {
		return len(replacement), 1, true
	}
	return width, width, false
}

// fits returns how much of p, in whole characters and at least one, makes a
// JSON string of at most budget bytes.
func fits(p []byte, budget int) int {
	if len(p)*6 <= budget {
		return len(p)
	}
	n := 0
	for n < len(p) {
		escaped, width, _ := cost(p[n:])
		if budget -= escaped; budget < 0 && n > 0 {
			break
		}
		n += width
	}
	return n
}

// escape appends p to dst as the inside of a JSON string.
func escape(dst, p []byte) (out []byte, bad bool) {
	plain := 0 // start of the run that can be copied as it is
	for i := 0; i < len(p); {
		c := p[i]
		if c >= 0x20 && c < utf8.RuneSelf && c != '"' && c != '\\' {
			i++
			continue
		}
		_, width, isBad := cost(p[i:])
		if c >= utf8.RuneSelf && !isBad {
			i += width
			continue
		}
		dst = append(dst, p[plain:i]...)
		const hex = "0123456789abcdef"
		switch {
		case isBad:
			dst, bad = append(dst, replacement...), true
		case c == '"' || c == '\\':
			dst = append(dst, '\\', c)
		case c == '\n':
			dst = append(dst, '\\', 'n')
		case c == '\r':
			dst = append(dst, '\\', 'r')
		case c == '\t':
			dst = append(dst, '\\', 't')
		default:
			dst = append(dst, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		}
		i += width
		plain = i
	}
	return append(dst, p[plain:]...), bad
}

// unfinished returns how many bytes at the end of p begin a character whose
// rest may be in the next piece.
func unfinished(p []byte) int {
	for n := 1; n <= min(len(p), utf8.UTFMax-1); n++ {
		c := p[len(p)-n]
		if utf8.RuneStart(c) {
			if c >= utf8.RuneSelf && !utf8.FullRune(p[len(p)-n:]) {
				return n
			}
			return 0
		}
	}
	return 0
}

// pieces joins pieces at their characters: whole takes the next piece and
// returns what can be shown of it; rest is what is left at the end.
type pieces struct{ held []byte }

func (s *pieces) whole(p []byte) []byte {
	if len(s.held) > 0 {
		p = append(s.held, p...)
		s.held = nil
	}
	n := len(p) - unfinished(p)
	if n < len(p) {
		s.held = append([]byte(nil), p[n:]...)
	}
	return p[:n]
}

func (s *pieces) rest() []byte {
	p := s.held
	s.held = nil
	return p
}
