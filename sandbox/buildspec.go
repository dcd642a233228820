package sandbox

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

// Problem is one thing that is wrong with a BuildSpec.
type Problem struct {
	Code    string `json:"code"` // stable: CodeRequired and those below it
	Field   string `json:"field"`
	Message string `json:"message"`
}

// DetailProblems is the detail of an error under which all that is wrong with a
// BuildSpec is, as []Problem.
const DetailProblems = "errors"

// Bounds of what a BuildSpec may hold.
const (
	MinBuildMemoryMiB = 128
	MinBuildDiskMiB   = 64
	MaxSteps          = 200
	maxSpecCommand    = 64 << 10
	maxSpecEnv        = 128 << 10 // what the kernel takes for a process
	maxSpecPath       = 4096
	maxSpecPackages   = 1000
	maxArtifactPaths  = 64
	maxBaseName       = 512
)

// specDefaults are the values of what a BuildSpec leaves open.
var specDefaults = BuildSpec{VCPU: 1, MemoryMiB: 1024, DiskMiB: 3072, Workdir: "/workspace", User: "root"}

var (
	packageForm = regexp.MustCompile(`^[a-z0-9][a-z0-9+.:~=-]*$`)
	userForm    = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]*(:[A-Za-z0-9_][A-Za-z0-9_.-]*)?$`)
	envForm     = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_.-]*$`)
)

// foreignBases are base images whose programs and packages are not Debian's, by
// the last part of their name. "alpine" in it says so, too, as does "distroless".
var foreignBases = []string{"scratch", "busybox", "fedora", "centos", "rockylinux", "almalinux", "amazonlinux", "archlinux", "opensuse", "oraclelinux"}

// ParseBuildSpec reads a BuildSpec's JSON, within the sizes of most, and fills in
// its defaults. The error tells all that is wrong at once, under
// [DetailProblems], with the code of the first. Unknown fields are wrong: a spec
// that asks for what is not done must not seem to work.
func ParseBuildSpec(raw []byte, most Resources) (BuildSpec, error) {
	r := specReader{}
	var members map[string]json.RawMessage
	if err := json.Unmarshal(raw, &members); err != nil || members == nil {
		r.wrong(CodeRequired, "build_spec", "must be an object")
		return BuildSpec{}, r.err()
	}
	r.members = members
	b := BuildSpec{
		From:          r.base("from"),
		VCPU:          r.size("vcpu", specDefaults.VCPU, 1, most.MilliCPU/Core),
		MemoryMiB:     r.size("memoryMib", specDefaults.MemoryMiB, MinBuildMemoryMiB, most.Memory/MiB),
		DiskMiB:       r.size("diskMib", specDefaults.DiskMiB, MinBuildDiskMiB, most.Disk/MiB),
		Steps:         r.steps("steps"),
		Env:           r.env(CodeValidation, "env", r.take("env")),
		Workdir:       r.folder("workdir", r.take("workdir"), specDefaults.Workdir),
		User:          r.user("user"),
		StartCmd:      r.command("startCmd"),
		ReadyCmd:      r.command("readyCmd"),
		PreviewPort:   r.port("previewPort"),
		ArtifactPaths: r.artifactPaths("artifactPaths"),
		Packages:      r.packages("packages"),
		InstallCmd:    r.command("installCmd"),
		WarmStart:     r.flag("warm_start"),
	}
	if b.WarmStart && b.StartCmd == "" && !r.bad("startCmd") {
		r.wrong(CodeRequired, "startCmd", "is what warm_start starts, and missing")
	}
	r.take("size") // one public client sends it beside the numbers it stands for
	for _, name := range slices.Sorted(maps.Keys(r.members)) {
		r.wrong(CodeValidation, name, "is no field of a BuildSpec")
	}
	return b, r.err()
}

// specReader takes the members of a BuildSpec one by one and collects what is
// wrong with them.
type specReader struct {
	members  map[string]json.RawMessage
	problems []Problem
}

func (r *specReader) wrong(code, field, format string, args ...any) {
	r.problems = append(r.problems, Problem{code, field, fmt.Sprintf(format, args...)})
}

func (r *specReader) bad(field string) bool {
	return slices.ContainsFunc(r.problems, func(p Problem) bool { return p.Field == field })
}

func (r *specReader) err() error {
	if len(r.problems) == 0 {
		return nil
	}
	first := r.problems[0]
	e := E(Invalid, first.Code, first.Field+": "+first.Message)
	e.Details = map[string]any{DetailProblems: r.problems, "field": first.Field, "reason": first.Message}
	return e
}

// take returns a member, nil when it is absent or null, and marks it as known.
func (r *specReader) take(name string) json.RawMessage {
	raw := bytes.TrimSpace(r.members[name])
	delete(r.members, name)
	if len(raw) == 0 || string(raw) == "null" {
		return nil
	}
	return raw
}

// text reads a string without characters that no file, command or variable can
// hold.
func (r *specReader) text(code, field string, raw json.RawMessage, most int) (s string, ok bool) {
	switch {
	case json.Unmarshal(raw, &s) != nil:
		r.wrong(code, field, "must be a string")
	case len(s) > most:
		r.wrong(code, field, "must not be longer than %d bytes", most)
	case strings.ContainsRune(s, 0):
		r.wrong(code, field, "must not contain a null character")
	default:
		return s, true
	}
	return "", false
}

func (r *specReader) base(field string) string {
	raw := r.take(field)
	if raw == nil {
		r.wrong(CodeRequired, field, "is missing: the base image, such as debian:bookworm")
		return ""
	}
	s, ok := r.text(CodeRequired, field, raw, maxBaseName)
	s = strings.TrimSpace(s)
	switch {
	case !ok:
	case s == "":
		r.wrong(CodeRequired, field, "is missing: the base image, such as debian:bookworm")
	case strings.IndexFunc(s, func(c rune) bool { return unicode.IsSpace(c) || unicode.IsControl(c) }) >= 0:
		r.wrong(CodeUnsupportedBase, field, "is no name of an image")
	case foreign(s):
		r.wrong(CodeUnsupportedBase, field, "must be of the Debian or Ubuntu family")
	}
	return s
}

func foreign(from string) bool {
	lower := strings.ToLower(from)
	if strings.HasPrefix(lower, "template:") || strings.HasPrefix(lower, capturedBase) || strings.HasPrefix(lower, "oci-") { // looked at when they are opened
		return false
	}
	last := lower[strings.LastIndexByte(lower, '/')+1:]
	if strings.Contains(last, "alpine") || strings.Contains(lower, "distroless") {
		return true
	}
	name, _, _ := strings.Cut(last, ":")
	name, _, _ = strings.Cut(name, "@")
	return slices.Contains(foreignBases, name)
}

// size reads a whole number, of which 2.0 is one, too.
func (r *specReader) size(field string, standard, least, most int64) int64 {
	raw := r.take(field)
	if raw == nil {
		return min(standard, most)
	}
	n, ok := wholeNumber(raw)
	switch {
	case !ok:
		r.wrong(CodeInvalidInteger, field, "must be an integer")
	case n < least || n > most:
		r.wrong(CodeOutOfRange, field, "must be from %d to %d", least, most)
	}
	return n
}

func wholeNumber(raw json.RawMessage) (int64, bool) {
	s := string(raw)
	if n, err := strconv.ParseInt(s, 10, 64); err == nil {
		return n, true
	}
	x, err := strconv.ParseFloat(s, 64)
	if err != nil || x != math.Trunc(x) || math.Abs(x) > 1<<53 {
		return 0, false
	}
	return int64(x), true
}

func (r *specReader) port(field string) int {
	raw := r.take(field)
	if raw == nil {
		return 0
	}
	n, ok := wholeNumber(raw)
	switch {
	case !ok:
		r.wrong(CodeInvalidInteger, field, "must be an integer")
	case n < 1 || n > 65535:
		r.wrong(CodeInvalidPort, field, "must be from 1 to 65535")
	default:
		return int(n)
	}
	return 0
}

func (r *specReader) steps(field string) []Step {
	raw := r.take(field)
	steps := []Step{}
	if raw == nil {
		return steps
	}
	var list []json.RawMessage
	if json.Unmarshal(raw, &list) != nil {
		r.wrong(CodeInvalidStep, field, "must be an array of objects")
		return steps
	}
	if len(list) > MaxSteps {
		r.wrong(CodeInvalidStep, field, "must not be more than %d", MaxSteps)
		return steps
	}
	for i, one := range list {
		steps = append(steps, r.step(fmt.Sprintf("%s[%d]", field, i), one))
	}
	return steps
}

func (r *specReader) step(field string, raw json.RawMessage) (s Step) {
	in := specReader{}
	if json.Unmarshal(raw, &in.members) != nil || in.members == nil {
		r.wrong(CodeInvalidStep, field, "must be an object with run, workdir or env")
		return s
	}
	run, workdir, env := in.take("run"), in.take("workdir"), in.take("env")
	for _, name := range slices.Sorted(maps.Keys(in.members)) {
		in.wrong(CodeInvalidStep, field+"."+name, "is no part of a step: those are run, workdir and env")
	}
	if run == nil && workdir == nil && env == nil && len(in.problems) == 0 {
		in.wrong(CodeInvalidStep, field, "must have run, workdir or env")
	}
	if run != nil {
		var ok bool
		if s.Run, ok = in.text(CodeInvalidStep, field+".run", run, maxSpecCommand); ok && strings.TrimSpace(s.Run) == "" {
			in.wrong(CodeInvalidStep, field+".run", "must not be empty")
		}
	}
	if workdir != nil {
		s.Workdir = in.folder(field+".workdir", workdir, "")
	}
	if env != nil {
		s.Env = in.env(CodeInvalidStep, field+".env", env)
	}
	r.problems = append(r.problems, in.problems...)
	return s
}

// env reads variables. Numbers and booleans, which YAML makes of bare words, are
// their own spelling.
func (r *specReader) env(code, field string, raw json.RawMessage) map[string]string {
	env := map[string]string{}
	if raw == nil {
		return env
	}
	var members map[string]json.RawMessage
	if json.Unmarshal(raw, &members) != nil {
		r.wrong(code, field, "must be an object of strings")
		return env
	}
	total := 0
	for _, name := range slices.Sorted(maps.Keys(members)) {
		one := bytes.TrimSpace(members[name])
		value := string(one)
		if one[0] == '"' {
			var ok bool
			if value, ok = r.text(code, field+"."+name, json.RawMessage(one), maxSpecEnv); !ok {
				continue
			}
		} else if one[0] == '{' || one[0] == '[' || value == "null" {
			r.wrong(code, field+"."+name, "must be a string")
		}
		if !envForm.MatchString(name) {
			r.wrong(code, field, "%.64q is not a name for a variable", name)
		}
		total += len(name) + len(value) + 2
		env[name] = value
	}
	if total > maxSpecEnv {
		r.wrong(code, field, "must be at most %d bytes together", maxSpecEnv)
	}
	return env
}

// folder reads an absolute path.
func (r *specReader) folder(field string, raw json.RawMessage, standard string) string {
	if raw == nil {
		return standard
	}
	s, ok := r.text(CodeInvalidPath, field, raw, maxSpecPath)
	if ok && !path.IsAbs(s) {
		r.wrong(CodeInvalidPath, field, "must be an absolute path")
		ok = false
	}
	if !ok {
		return standard
	}
	return path.Clean(s)
}

func (r *specReader) artifactPaths(field string) []string {
	paths := []string{}
	for i, raw := range r.list(CodeInvalidPath, field, maxArtifactPaths) {
		if p := r.folder(fmt.Sprintf("%s[%d]", field, i), raw, ""); !slices.Contains(paths, p) {
			paths = append(paths, p)
		}
	}
	return paths
}

func (r *specReader) packages(field string) []string {
	var names []string
	for i, raw := range r.list(CodeValidation, field, maxSpecPackages) {
		at := fmt.Sprintf("%s[%d]", field, i)
		name, ok := r.text(CodeValidation, at, raw, 200)
		if ok && !packageForm.MatchString(name) {
			r.wrong(CodeValidation, at, "is no name of a package")
		}
		if ok && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
}

func (r *specReader) list(code, field string, most int) []json.RawMessage {
	raw := r.take(field)
	if raw == nil {
		return nil
	}
	var list []json.RawMessage
	if json.Unmarshal(raw, &list) != nil {
		r.wrong(code, field, "must be an array of strings")
		return nil
	}
	if len(list) > most {
		r.wrong(code, field, "must not be more than %d", most)
		return nil
	}
	return list
}

func (r *specReader) user(field string) string {
	raw := r.take(field)
	if raw == nil {
		return specDefaults.User
	}
	s, ok := r.text(CodeValidation, field, raw, 128)
	if ok && !userForm.MatchString(s) {
		r.wrong(CodeValidation, field, "must be a user's name or number")
	}
	return s
}

func (r *specReader) command(field string) string {
	raw := r.take(field)
	if raw == nil {
		return ""
	}
	s, _ := r.text(CodeValidation, field, raw, maxSpecCommand)
	return strings.TrimSpace(s)
}

func (r *specReader) flag(field string) (v bool) {
	if raw := r.take(field); raw != nil && json.Unmarshal(raw, &v) != nil {
		r.wrong(CodeValidation, field, "must be true or false")
	}
	return v
}
