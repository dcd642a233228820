package server

import (
	"slices"
	"testing"
)

func TestPlainWords(t *testing.T) {
	plain := map[string][]string{
		"true":                        {"true"},
		"python3 -m http.server 8000": {"python3", "-m", "http.server", "8000"},
		"  ls  -la /tmp ":             {"ls", "-la", "/tmp"},
		"dd if=/dev/zero bs=1 of=x":   {"dd", "if=/dev/zero", "bs=1", "of=x"},
		"./run a@b c:d e,f g+h":       {"./run", "a@b", "c:d", "e,f", "g+h"},
	}
	for command, want := range plain {
		if got, ok := plainWords(command); !ok || !slices.Equal(got, want) {
			t.Errorf("plainWords(%q) = %q, %t, want %q", command, got, ok, want)
		}
	}
	for _, command := range []string{
		"", " ", "echo hi", "cd /tmp", "A=1 env", "A=1", "ls *", "ls ~", "ls $HOME", "a | b", "a; b", "a && b", "a &", "a > b",
		"a < b", "'a b'", `"a"`, `a\ b`, "`a`", "ls # all", "ls {a,b}", "ls [a]", "ls a?", "a\nb", "a\tb", "! true", "%1", "time ls",
		"(ls)", "[ a ]", "caf\u00e9", "exit 3", ". x", "kill 1", "ls\x00",
	} {
		if got, ok := plainWords(command); ok {
			t.Errorf("plainWords(%q) = %q, want a shell", command, got)
		}
	}
	if !bashIsTold(map[string]string{"BASH_ENV": "x"}) || !bashIsTold(map[string]string{"BASH_FUNC_ls%%": "() { :; }"}) || bashIsTold(map[string]string{"A": "b"}) {
		t.Error("bashIsTold is wrong about BASH_ENV, an exported function, or an ordinary variable")
	}
}
