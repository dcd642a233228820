package guest

import (
	"testing"
	"unicode/utf8"
)

func TestEveryNameHasOneSpelling(t *testing.T) {
	for name, want := range map[string]string{
		"":                  "",
		"plain ü\n":         "plain ü\n",
		"n\xff":             "n\uefff",
		"\xc3":              "\uefc3",
		"a\xe2\x82/b":       "a\uefe2\uef82/b",
		"icon \uef80":       "icon \uefee\uefbe\uef80",
		"\uefff\xff\uef7f":  "\uefee\uefbf\uefbf\uefff\uef7f",
		"\xed\xa0\x80 half": "\uefed\uefa0\uef80 half", // a surrogate is no UTF-8
		"\uFFFD":            "\uFFFD",
	} {
		got := Spell(name)
		if got != want || !utf8.ValidString(got) {
			t.Errorf("%q: %q, want %q", name, got, want)
		}
		if back := Unspell(got); back != name {
			t.Errorf("%q: came back as %q", name, back)
		}
	}
	if got := Unspell("raw \xff"); got != "raw \xff" {
		t.Errorf("bytes in a query: %q", got)
	}
}

func FuzzSpell(f *testing.F) {
	f.Add("n\xff\uef80")
	f.Fuzz(func(t *testing.T, name string) {
		if text := Spell(name); Unspell(text) != name || !utf8.ValidString(text) {
			t.Errorf("%q: %q", name, text)
		}
	})
}
