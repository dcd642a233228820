package files

import (
	"fmt"
	"regexp"
	"strings"

	"silica.dev/silica/sandbox"
)

// maxGlob is how many bytes a pattern may have.
const maxGlob = 1 << 10

// compileGlob makes a pattern one for paths without a leading slash: * and ? do
// not match a slash, ** matches any number of folders, [] and {a,b} are as in
// shells. A pattern without a slash is for names, wherever they are, if anywhere is
// set.
func compileGlob(field, pattern string, anywhere bool) (*regexp.Regexp, error) {
	bad := func(why string) (*regexp.Regexp, error) {
		return nil, sandbox.Field(field, fmt.Sprintf("is no pattern: %s", why))
	}
	if pattern == "" {
		return bad("it is empty")
	}
	if len(pattern) > maxGlob {
		return bad(fmt.Sprintf("it has more than %d bytes", maxGlob))
	}
	pattern = strings.TrimPrefix(strings.TrimPrefix(pattern, "./"), "/")
	var b strings.Builder
	b.WriteString(`(?s)^`)
	if anywhere && !strings.Contains(strings.TrimSuffix(pattern, "/"), "/") {
		b.WriteString(`(?:.*/)?`)
	}
	pattern = strings.TrimSuffix(pattern, "/")
	braces := 0
	for i := 0; i < len(pattern); i++ {
		switch c := pattern[i]; {
		case strings.HasPrefix(pattern[i:], "**/") && (i == 0 || pattern[i-1] == '/'):
			b.WriteString(`(?:.*/)?`)
			i += 2
		case pattern[i:] == "**" && (i == 0 || pattern[i-1] == '/'):
			b.WriteString(`.*`)
			i++
		case c == '*':
			b.WriteString(`[^/]*`)
		case c == '?':
			b.WriteString(`[^/]`)
		case c == '[':
			end := strings.IndexByte(pattern[i+1:], ']')
			if end == 0 || end == 1 && (pattern[i+1] == '!' || pattern[i+1] == '^') { // a bracket that comes first is meant
				if more := strings.IndexByte(pattern[i+2+end:], ']'); more >= 0 {
					end += more + 1
				} else {
					end = -1
				}
			}
			if end < 0 {
				return bad("a [ has no ]")
			}
			class := pattern[i+1 : i+1+end]
			not := ""
			if class[0] == '!' || class[0] == '^' {
				not, class = "^/", class[1:]
			}
			b.WriteString("[" + not + strings.NewReplacer(`\`, `\\`, `[`, `\[`, `]`, `\]`, `^`, `\^`).Replace(class) + "]")
			i += end + 1
		case c == '{':
			braces++
			b.WriteString(`(?:`)
		case c == ',' && braces > 0:
			b.WriteByte('|')
		case c == '}' && braces > 0:
			braces--
			b.WriteByte(')')
		case c == '\\' && i+1 < len(pattern):
			i++
			b.WriteString(regexp.QuoteMeta(pattern[i : i+1]))
		default:
			b.WriteString(regexp.QuoteMeta(pattern[i : i+1]))
		}
	}
	if braces > 0 {
		return bad("a { has no }")
	}
	b.WriteByte('$')
	re, err := regexp.Compile(b.String())
	if err != nil {
		return bad("a part of it can't be understood")
	}
	return re, nil
}

// compileGlobs makes one of several; nil if there are none.
func compileGlobs(field string, patterns []string) (match func(path string) bool, err error) {
	const most = 64
	if len(patterns) > most {
		return nil, sandbox.Field(field, fmt.Sprintf("must not be more than %d", most))
	}
	all := make([]*regexp.Regexp, len(patterns))
	for i, p := range patterns {
		if all[i], err = compileGlob(field, p, true); err != nil {
			return nil, err
		}
	}
	return func(path string) bool {
		for _, re := range all {
			if re.MatchString(path) {
				return true
			}
		}
		return false
	}, nil
}
