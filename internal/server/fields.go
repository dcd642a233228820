package server

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"reflect"
	"strconv"
	"strings"
	"time"
	"unicode"

	"silica.dev/silica/sandbox"
)

// fields reads the members of a JSON object one by one, under all their names,
// and remembers the first that is wrong. Unknown members are ignored and null
// is as good as absent.
type fields struct {
	m   map[string]json.RawMessage
	err error
}

// readFields reads the body of a request as a JSON object. An empty body is an
// empty object.
func readFields(r *http.Request) (*fields, error) {
	raw, err := readBody(r)
	if err != nil {
		return nil, err
	}
	f := &fields{}
	if len(bytes.TrimSpace(raw)) == 0 {
		return f, nil
	}
	if err := json.Unmarshal(raw, &f.m); err != nil {
		if json.Valid(raw) {
			return nil, sandbox.Field("body", "must be a JSON object")
		}
		return nil, broken(err)
	}
	return f, nil
}

func readBody(r *http.Request) ([]byte, error) {
	raw, err := io.ReadAll(io.LimitReader(r.Body, maxBody+1))
	if err != nil {
		return nil, bodyError(err)
	}
	if len(raw) > maxBody {
		return nil, sandbox.E(sandbox.TooLarge, sandbox.CodeBodyTooLarge, "the body is larger than 1 MiB")
	}
	return raw, nil
}

// bodyError classifies what reading a body failed with.
func bodyError(err error) error {
	if e := (*sandbox.Error)(nil); errors.As(err, &e) {
		return err
	}
	return sandbox.E(sandbox.Malformed, sandbox.CodeBadRequest, "the request's body broke off").Because(err)
}

func broken(err error) error {
	message := "the body is not JSON"
	if e := (*json.SyntaxError)(nil); errors.As(err, &e) {
		message = fmt.Sprintf("the body is not JSON: %s, at byte %d", e, e.Offset)
	}
	return sandbox.E(sandbox.Malformed, sandbox.CodeBadRequest, message).Because(err)
}

func (f *fields) reject(name, format string, args ...any) {
	if f.err == nil {
		f.err = sandbox.Field(name, fmt.Sprintf(format, args...))
	}
}

// read decodes the first name that is present into out, and holds the others
// against it.
func read[T any](f *fields, what string, decode func(json.RawMessage) (T, bool), names ...string) (v T, ok bool) {
	var from string
	for _, name := range names {
		raw, present := f.m[name]
		if !present || string(bytes.TrimSpace(raw)) == "null" {
			continue
		}
		got, fine := decode(raw)
		switch {
		case !fine:
			f.reject(name, "must be %s", what)
		case !ok:
			v, ok, from = got, true, name
		case !reflect.DeepEqual(got, v):
			f.reject(name, "says otherwise than %s, which means the same", from)
		}
	}
	return v, ok
}

func decodeAs[T any](raw json.RawMessage) (v T, ok bool) {
	return v, json.Unmarshal(raw, &v) == nil
}

// text reads a string of at most most bytes.
func (f *fields) text(most int, names ...string) string {
	s, ok := read(f, "a string", decodeAs[string], names...)
	if ok {
		f.check(names[0], s, most)
	}
	return s
}

func (f *fields) check(name, s string, most int) {
	if len(s) > most {
		f.reject(name, "must not be longer than %d bytes", most)
	}
	if strings.ContainsRune(s, 0) {
		f.reject(name, "must not contain a null character")
	}
}

// label reads a short string for people: one line, no control characters.
func (f *fields) label(most int, names ...string) string {
	s := f.text(most, names...)
	if strings.IndexFunc(s, unicode.IsControl) >= 0 {
		f.reject(names[0], "must not contain control characters")
	}
	return s
}

// integer reads a whole number from least to most.
func (f *fields) integer(least, most int64, names ...string) (int64, bool) {
	n, ok := read(f, "an integer", decodeInteger, names...)
	if ok && (n < least || n > most) {
		f.reject(names[0], "must be from %d to %d", least, most)
	}
	return n, ok
}

// decodeInteger also takes 2.0 and 1e3, which some languages write.
func decodeInteger(raw json.RawMessage) (int64, bool) {
	s := string(bytes.TrimSpace(raw))
	if n, err := strconv.ParseInt(s, 10, 64); err == nil {
		return n, true
	}
	if s == "" || s[0] == '"' {
		return 0, false
	}
	x, err := strconv.ParseFloat(s, 64)
	if err != nil || x != math.Trunc(x) || math.Abs(x) > 1<<53 {
		return 0, false
	}
	return int64(x), true
}

func (f *fields) boolean(names ...string) (v, ok bool) {
	return read(f, "true or false", decodeAs[bool], names...)
}

// Bounds of the free-form parts of a request, in bytes and entries.
const (
	maxMetadata   = 16 << 10
	maxEnvValue   = 128<<10 - 1 // with its name, what one string of exec may be
	maxTags       = 64
	maxTag        = 128
	maxLabel      = 255
	maxCommand    = 128<<10 - 1
	maxPath       = 4096
	maxIdempotent = 255
)

// given tells whether a member is there, and not null.
func (f *fields) given(name string) bool {
	raw, ok := f.m[name]
	return ok && string(bytes.TrimSpace(raw)) != "null"
}

// name reads what may stand for an id in a path.
func (f *fields) name(field string) string {
	s := f.label(maxLabel, field)
	if strings.Contains(s, "/") {
		f.reject(field, "must not contain a slash: it can stand in a path instead of the id")
	}
	return s
}

// seconds reads a duration; nil when there is none.
func (f *fields) seconds(name string) *time.Duration {
	n, ok := f.integer(0, maxSeconds, name)
	if !ok {
		return nil
	}
	d := time.Duration(n) * time.Second
	return &d
}

// command reads what is to be run.
func (f *fields) command() string {
	command := f.text(maxCommand, "command")
	if command == "" {
		f.reject("command", "must not be empty")
	}
	return command
}

// workdir reads where it is to be run.
func (f *fields) workdir() string { return f.text(maxPath, "working_dir", "cwd", "dir") }

// env reads environment variables.
func (f *fields) env(name string) map[string]string {
	m, ok := read(f, "an object", decodeAs[map[string]json.RawMessage], name)
	if !ok {
		return nil
	}
	env := make(map[string]string, len(m))
	for k, raw := range m {
		v, isText := decodeAs[string](raw)
		switch {
		case k == "" || strings.ContainsAny(k, "=\x00"):
			f.reject(name, "a variable's name must not be empty or contain '=' or a null character")
		case !isText || string(raw) == "null":
			f.reject(name+"."+k, "must be a string")
		case strings.ContainsRune(v, 0):
			f.reject(name+"."+k, "must not contain a null character")
		case len(k)+len(v)+1 > maxEnvValue:
			f.reject(name+"."+cutText(k, 64), "must not be longer than %d bytes", maxEnvValue)
		}
		env[k] = v
	}
	return env
}

// object reads a free-form object. Numbers keep their digits.
func (f *fields) object(name string, most int) map[string]any {
	m, _ := read(f, "an object", func(raw json.RawMessage) (map[string]any, bool) {
		if len(raw) > most {
			f.reject(name, "must not be larger than %d bytes", most)
			return nil, true
		}
		var m map[string]any
		d := json.NewDecoder(bytes.NewReader(raw))
		d.UseNumber()
		return m, d.Decode(&m) == nil
	}, name)
	return m
}

// tags reads a list of short strings.
func (f *fields) tags(name string) []string {
	tags, _ := read(f, "an array of strings", decodeAs[[]string], name)
	if len(tags) > maxTags {
		f.reject(name, "must not be more than %d", maxTags)
	}
	for i, t := range tags {
		if t == "" || len(t) > maxTag || strings.IndexFunc(t, unicode.IsControl) >= 0 {
			f.reject(fmt.Sprintf("%s[%d]", name, i), "must be 1 to %d bytes without control characters", maxTag)
		}
	}
	return tags
}
