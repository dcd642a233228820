package contracttest

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
)

// oddStrings are what a string field must bear, whatever it means.
var oddStrings = []string{
	"", " ", "null", "0", "-1", "..", "/", "../../etc/passwd", "/root", "a\x00b", "a\nb\r\nc: d", "\u202eevil", "e\u0301\u200d👩‍👩‍👧", "\ufeffx", "\uffff",
	"'; DROP TABLE sandboxes; --", "%s%n%d", "${HOME}$(id)`id`", "<script>alert(1)</script>", "{{.}}", "%2e%2e%2f", strings.Repeat("x", 300), strings.Repeat("é", 5000),
	"true", "NaN", "9223372036854775808", "2026-99-99T99:99:99Z", "/proc/self/mem", "/dev/zero",
}

// oddValues are JSON texts that stand for wrong types and odd values in place of
// any member.
var oddValues = []string{
	`null`, `true`, `false`, `0`, `-1`, `1`, `0.5`, `1e3`, `1e400`, `-1e400`, `9007199254740993`, `9223372036854775807`, `18446744073709551616`,
	`123456789012345678901234567890`, `-0`, `""`, `"x"`, `"\u0000"`, `"\ud800"`, `"\n"`, `[]`, `[null]`, `[[]]`, `{}`, `{"a":null}`, `{"":""}`,
	`[1,"2",null,{}]`, `{"a":{"b":[{"c":1}]}}`, `"` + strings.Repeat("x", 64<<10) + `"`,
	strings.Repeat("[", 200) + strings.Repeat("]", 200), strings.Repeat(`{"a":`, 200) + "1" + strings.Repeat("}", 200),
}

// oddBodies are whole bodies.
func oddBodies() []string {
	return []string{
		``, ` `, `null`, `true`, `1`, `"x"`, `[]`, `[{}]`, `{}`, `{`, `}`, `{"a"}`, `{"a":1,}`, `{'a':1}`, `{}{}`, `{} x`, "\xff\xfe", "\ufeff{}", "{\"\xff\":1}",
		`{"a":1,"a":2}`, `{"__proto__":{"x":1},"constructor":{}}`,
		strings.Repeat("[", 100_000), strings.Repeat(`{"a":`, 100_000), `{"x":"` + strings.Repeat("x", 2<<20) + `"}`, `[` + strings.Repeat(`0,`, 200_000) + `0]`,
	}
}

// maker makes values from schemas.
type maker struct {
	d    *Document
	rand *rand.Rand
}

func pick[T any](r *rand.Rand, list []T) T { return list[r.IntN(len(list))] }

// value makes one that the schema allows. hint is the member's name.
func (m *maker) value(schema any, hint string, depth int) any {
	s, _ := m.d.resolve(schema, "")
	if enum, ok := s["enum"].([]any); ok && len(enum) > 0 {
		return pick(m.rand, enum)
	}
	for _, name := range []string{"oneOf", "anyOf", "allOf"} {
		if list, ok := s[name].([]any); ok && len(list) > 0 {
			return m.value(pick(m.rand, list), hint, depth)
		}
	}
	if v, ok := s["const"]; ok {
		return v
	}
	if v, ok := s["default"]; ok && m.rand.IntN(3) == 0 {
		return v
	}
	if list, ok := s["examples"].([]any); ok && len(list) > 0 && m.rand.IntN(2) == 0 {
		return pick(m.rand, list)
	}
	types := typesOf(s)
	if len(types) == 0 {
		types = []string{"string"}
	}
	switch pick(m.rand, types) {
	case "object":
		return m.object(s, depth)
	case "array":
		list := []any{}
		for range m.rand.IntN(3) {
			if depth < 4 {
				list = append(list, m.value(s["items"], hint, depth+1))
			}
		}
		return list
	case "integer":
		low, high := bounds(s)
		return low + m.rand.Int64N(max(high-low+1, 1))
	case "number":
		low, high := bounds(s)
		return float64(low) + m.rand.Float64()*float64(high-low)
	case "boolean":
		return m.rand.IntN(2) == 0
	case "null":
		return nil
	}
	return m.text(s, hint)
}

// bounds keeps numbers small where the schema does not: many are seconds.
func bounds(s object) (low, high int64) {
	low, high = 0, 3
	if v, ok := s["minimum"].(float64); ok {
		low = int64(v)
	}
	if v, ok := s["maximum"].(float64); ok {
		return low, max(low, min(int64(v), low+1000))
	}
	return low, low + high
}

func (m *maker) text(s object, hint string) string {
	switch s["format"] {
	case "uuid":
		return fmt.Sprintf("550e8400-e29b-41d4-a716-%012x", m.rand.Int64N(1<<48))
	case "date-time":
		return "2026-04-25T10:00:00Z"
	}
	if s["contentEncoding"] == "base64" {
		return "aGVsbG8="
	}
	switch {
	case strings.Contains(hint, "path") || strings.Contains(hint, "dir") || hint == "cwd":
		return pick(m.rand, []string{"/root", "/root/a", "/tmp/b/c", "/root/n\nl", "/root/é", "relative", "/missing"})
	case strings.Contains(hint, "command"):
		return pick(m.rand, []string{"true", "echo hi", "exit 3", "printf '\\377\\000'", "no-such-command"})
	}
	if m.rand.IntN(2) == 0 {
		return pick(m.rand, oddStrings)
	}
	return fmt.Sprintf("f%d", m.rand.IntN(1000))
}

// object makes all required members and some of the others.
func (m *maker) object(s object, depth int) object {
	o := object{}
	props, _ := s["properties"].(object)
	required, _ := s["required"].([]any)
	for _, name := range slices.Sorted(maps.Keys(props)) {
		if slices.Contains(required, any(name)) || depth < 4 && m.rand.IntN(3) == 0 {
			o[name] = m.value(props[name], name, depth+1)
		}
	}
	if more, ok := s["additionalProperties"].(object); ok && m.rand.IntN(2) == 0 {
		o[pick(m.rand, []string{"A", "k", "ключ", ""})] = m.value(more, "", depth+1)
	}
	return o
}

// with returns o as JSON with one member replaced by a JSON text, which need not
// be a value that Go knows.
func with(o object, name, text string) string {
	var b strings.Builder
	b.WriteByte('{')
	for _, other := range slices.Sorted(maps.Keys(o)) {
		if other != name {
			b.WriteString(encode(other) + ":" + encode(o[other]) + ",")
		}
	}
	b.WriteString(encode(name) + ":" + text + "}")
	return b.String()
}

func encode(v any) string {
	raw, err := json.Marshal(v)
	if err != nil {
		panic(err) // only what maker made comes here
	}
	return string(raw)
}
