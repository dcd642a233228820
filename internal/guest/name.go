package guest

import (
	"strings"
	"unicode/utf8"
)

// File names are bytes, JSON and protobuf carry characters. On every wire a name
// is therefore spelled so: what is UTF-8 stands for itself, and a byte that is
// not, 0x80 to 0xFF, is the character U+EF80 to U+EFFF. A name that holds one of
// these characters itself has its bytes spelled one by one, so that every name has
// one spelling and every spelling one name.
const (
	spelledBase  = 0xEF00
	spelledFirst = spelledBase + 0x80
	spelledLast  = spelledBase + 0xFF
)

func spelled(r rune) bool { return r >= spelledFirst && r <= spelledLast }

// Spell makes text of a name.
func Spell(name string) string {
	if utf8.ValidString(name) && strings.IndexFunc(name, spelled) < 0 {
		return name
	}
	var b strings.Builder
	for i := 0; i < len(name); {
		r, width := utf8.DecodeRuneInString(name[i:])
		if r == utf8.RuneError && width == 1 || spelled(r) {
			for ; width > 0; width-- {
				b.WriteRune(spelledBase + rune(name[i]))
				i++
			}
			continue
		}
		b.WriteString(name[i : i+width])
		i += width
	}
	return b.String()
}

// Unspell makes a name of text. Bytes that are not UTF-8 stay what they are.
func Unspell(text string) string {
	if strings.IndexFunc(text, spelled) < 0 {
		return text
	}
	b := make([]byte, 0, len(text))
	for i := 0; i < len(text); {
		r, width := utf8.DecodeRuneInString(text[i:])
		if spelled(r) {
			b = append(b, byte(r-spelledBase))
		} else {
			b = append(b, text[i:i+width]...)
		}
		i += width
	}
	return string(b)
}
