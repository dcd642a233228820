// Package dockerfile reads Dockerfiles as build specs, so that who has one need
// not write the other. What a spec can't say is an error with its line.
package dockerfile

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"

	"silica.dev/silica/sandbox"
)

// Files that COPY names travel within the spec, as steps that write them.
const (
	maxFile  = 64 << 10
	maxFiles = 512 << 10 // all together
	maxCount = 200
)

// defaults are the size of a sandbox, which a Dockerfile does not tell.
const (
	defaultVCPU      = 2
	defaultMemoryMiB = 2048
	defaultDiskMiB   = 8192
)

// Read translates a Dockerfile. COPY reads from files, the folder it lies in.
func Read(r io.Reader, files fs.FS) (sandbox.BuildSpec, error) {
	text, err := io.ReadAll(io.LimitReader(r, sandbox.MiB+1))
	if err != nil {
		return sandbox.BuildSpec{}, fmt.Errorf("read the Dockerfile: %w", err)
	}
	if len(text) > int(sandbox.MiB) {
		return sandbox.BuildSpec{}, fail(1, "is larger than 1 MiB")
	}
	all, err := instructions(string(text))
	if err != nil {
		return sandbox.BuildSpec{}, err
	}
	t := &translation{files: files, env: map[string]string{}, workdir: "/", left: maxFiles}
	t.spec = sandbox.BuildSpec{VCPU: defaultVCPU, MemoryMiB: defaultMemoryMiB, DiskMiB: defaultDiskMiB,
		Steps: []sandbox.Step{}, Env: map[string]string{}, ArtifactPaths: []string{}}
	for _, in := range all {
		if err := t.instruction(in); err != nil {
			return sandbox.BuildSpec{}, err
		}
	}
	if t.spec.From == "" {
		return sandbox.BuildSpec{}, fail(1, "has no FROM")
	}
	t.spec.Workdir = t.workdir
	if t.spec.Workdir == "/" {
		t.spec.Workdir = ""
	}
	return t.spec, nil
}

// fail is what is wrong with a line.
func fail(line int, format string, args ...any) error {
	why := fmt.Sprintf(format, args...)
	return sandbox.E(sandbox.Malformed, sandbox.CodeInvalidTemplate, fmt.Sprintf("Dockerfile line %d: %s", line, why)).
		With("line", line).With("reason", why)
}

// instruction is one, with its continued lines joined.
type instruction struct {
	line int
	name string // upper case
	args string
}

// instructions cuts a Dockerfile up.
func instructions(text string) ([]instruction, error) {
	var all []instruction
	var now strings.Builder
	begun, number := 0, 0
	for line := range strings.Lines(text) {
		number++
		line = strings.TrimRight(line, "\r\n")
		trimmed := strings.TrimSpace(line)
		if strings.HasPrefix(trimmed, "#") {
			if key, value, ok := strings.Cut(strings.ToLower(trimmed[1:]), "="); ok && len(all) == 0 && begun == 0 && strings.TrimSpace(key) == "escape" && strings.TrimSpace(value) != `\` {
				return nil, fail(number, "another escape character than \\ is not understood")
			}
			continue
		}
		if trimmed == "" {
			continue // also between continued lines, as Docker has it
		}
		if begun == 0 {
			begun = number
		}
		if more, ok := strings.CutSuffix(strings.TrimRight(line, " \t"), `\`); ok {
			now.WriteString(more)
			continue
		}
		now.WriteString(line)
		in := parse(begun, now.String())
		if heredoc(in) {
			return nil, fail(begun, "here-documents (<<) are not understood: use RUN with && instead")
		}
		all = append(all, in)
		now.Reset()
		begun = 0
	}
	if begun != 0 {
		all = append(all, parse(begun, now.String()))
	}
	return all, nil
}

func parse(line int, text string) instruction {
	name, args, _ := strings.Cut(strings.TrimSpace(text), " ")
	if i := strings.IndexByte(name, '\t'); i >= 0 {
		name, args = name[:i], name[i+1:]+" "+args
	}
	return instruction{line, strings.ToUpper(name), strings.TrimSpace(args)}
}

// heredoc tells whether an instruction goes on in the lines that follow.
func heredoc(in instruction) bool {
	if in.name != "RUN" && in.name != "COPY" {
		return false
	}
	for _, w := range strings.Fields(in.args) {
		if rest, ok := strings.CutPrefix(w, "<<"); ok && rest != "" && !strings.HasPrefix(rest, "<") {
			return true
		}
	}
	return false
}

// translation is a spec under way.
type translation struct {
	files   fs.FS
	spec    sandbox.BuildSpec
	env     map[string]string // for $NAME
	workdir string
	user    bool // one other than root is set
	left    int  // bytes of files that still fit
	count   int
}

func (t *translation) instruction(in instruction) error {
	if t.spec.From == "" && in.name != "FROM" {
		return fail(in.line, "%s comes before FROM", in.name)
	}
	if in.args == "" {
		return fail(in.line, "%s says nothing", in.name)
	}
	switch in.name {
	case "FROM":
		return t.from(in)
	case "RUN":
		return t.run(in)
	case "COPY":
		return t.copy(in)
	case "WORKDIR":
		dir, err := t.expand(in, unquote(in.args))
		if err != nil {
			return err
		}
		t.workdir = path.Join("/", t.workdir, dir)
		if path.IsAbs(dir) {
			t.workdir = path.Clean(dir)
		}
		t.spec.Steps = append(t.spec.Steps, sandbox.Step{Workdir: t.workdir})
	case "ENV":
		return t.setEnv(in)
	case "USER":
		user, err := t.expand(in, in.args)
		if err != nil {
			return err
		}
		t.spec.User = user
		t.user = user != "root" && user != "0" && user != "root:root" && user != "0:0"
	case "CMD":
		cmd, err := command(in)
		if err != nil {
			return err
		}
		t.spec.StartCmd = cmd
	case "EXPOSE":
		return t.expose(in)
	default:
		return fail(in.line, "%s is not understood; FROM, RUN, COPY, WORKDIR, ENV, USER, CMD and EXPOSE are%s", in.name, advice[in.name])
	}
	return nil
}

// advice says what to write instead.
var advice = map[string]string{
	"ADD":         ". Use COPY, or RUN with curl and tar",
	"ENTRYPOINT":  ". Put the whole command into CMD",
	"ARG":         ". Use ENV",
	"HEALTHCHECK": ". The spec's readyCmd says when the app is ready",
	"MAINTAINER":  ". Leave it out",
	"LABEL":       ". The template's metadata can hold it",
}

func (t *translation) from(in instruction) error {
	words := strings.Fields(in.args)
	switch {
	case t.spec.From != "":
		return fail(in.line, "a second FROM: builds in stages are not understood")
	case strings.HasPrefix(words[0], "--"):
		return fail(in.line, "FROM does not know %s", words[0])
	case len(words) != 1 && (len(words) != 3 || !strings.EqualFold(words[1], "as")):
		return fail(in.line, "FROM takes one image")
	case strings.Contains(words[0], "$"):
		return fail(in.line, "FROM can't use variables")
	}
	t.spec.From = words[0]
	return nil
}

func (t *translation) run(in instruction) error {
	if strings.HasPrefix(in.args, "--") {
		return fail(in.line, "RUN does not know %s", strings.Fields(in.args)[0])
	}
	if t.user {
		return fail(in.line, "RUN after USER %s: steps run as root. Move USER to the end, or use RUN runuser -u %s -- …", t.spec.User, t.spec.User)
	}
	cmd, err := command(in)
	if err == nil {
		t.spec.Steps = append(t.spec.Steps, sandbox.Step{Run: cmd})
	}
	return err
}

// command is the shell's form of one that may be a JSON list of words.
func command(in instruction) (string, error) {
	if !strings.HasPrefix(in.args, "[") {
		return in.args, nil
	}
	var words []string
	if json.Unmarshal([]byte(in.args), &words) != nil {
		return in.args, nil // a shell's test, as Docker has it
	}
	if len(words) == 0 {
		return "", fail(in.line, "%s says nothing", in.name)
	}
	for i, w := range words {
		words[i] = quote(w)
	}
	return strings.Join(words, " "), nil
}

// quote makes one word of a shell's.
func quote(w string) string {
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("_-./:=,@%+", r)
	}
	if w != "" && strings.IndexFunc(w, func(r rune) bool { return !plain(r) }) < 0 {
		return w
	}
	return "'" + strings.ReplaceAll(w, "'", `'\''`) + "'"
}

func (t *translation) setEnv(in instruction) error {
	pairs, err := assignments(in)
	if err != nil {
		return err
	}
	set := map[string]string{}
	for _, p := range pairs {
		value, err := t.expand(in, p[1])
		if err != nil {
			return err
		}
		set[p[0]] = value
	}
	for k, v := range set {
		t.env[k] = v
	}
	t.spec.Steps = append(t.spec.Steps, sandbox.Step{Env: set})
	return nil
}

// assignments reads "A=1 B='two words'", or the old form "A the rest".
func assignments(in instruction) (pairs [][2]string, err error) {
	first, rest, _ := strings.Cut(in.args, " ")
	if !strings.Contains(first, "=") {
		if rest = strings.TrimSpace(rest); rest == "" {
			return nil, fail(in.line, "ENV %s has no value", first)
		}
		return [][2]string{{first, rest}}, nil
	}
	words, err := split(in)
	if err != nil {
		return nil, err
	}
	for _, w := range words {
		name, value, ok := strings.Cut(w, "=")
		if !ok || name == "" {
			return nil, fail(in.line, "%q is not NAME=value", w)
		}
		pairs = append(pairs, [2]string{name, value})
	}
	return pairs, nil
}

// split cuts at spaces outside quotes, and takes quotes and escapes away.
func split(in instruction) (words []string, err error) {
	var now strings.Builder
	var quoted rune
	begun, escaped := false, false
	for _, r := range in.args {
		switch {
		case escaped:
			if quoted == '"' && r != '"' && r != '\\' && r != '$' {
				now.WriteByte('\\')
			}
			now.WriteRune(r)
			escaped = false
		case r == '\\' && quoted != '\'':
			escaped, begun = true, true
		case quoted != 0 && r == quoted:
			quoted = 0
		case quoted == 0 && (r == '"' || r == '\''):
			quoted, begun = r, true
		case quoted == 0 && (r == ' ' || r == '\t'):
			if begun {
				words = append(words, now.String())
				now.Reset()
			}
			begun = false
		default:
			now.WriteRune(r)
			begun = true
		}
	}
	if quoted != 0 {
		return nil, fail(in.line, "a quote is not closed")
	}
	if begun {
		words = append(words, now.String())
	}
	return words, nil
}

func unquote(s string) string {
	if len(s) > 1 && (s[0] == '"' || s[0] == '\'') && s[len(s)-1] == s[0] {
		return s[1 : len(s)-1]
	}
	return s
}

// expand replaces $NAME and ${NAME} by what ENV set before. Those of the base image
// are not known here, but for PATH, which nobody sets without it.
func (t *translation) expand(in instruction, s string) (string, error) {
	var out strings.Builder
	for {
		before, rest, found := strings.Cut(s, "$")
		out.WriteString(before)
		if !found {
			return out.String(), nil
		}
		name := ""
		if strings.HasPrefix(rest, "{") {
			end := strings.IndexByte(rest, '}')
			if end < 0 {
				return "", fail(in.line, "${ is not closed")
			}
			name, s = rest[1:end], rest[end+1:]
		} else {
			end := strings.IndexFunc(rest, func(r rune) bool {
				return r != '_' && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9')
			})
			if end < 0 {
				end = len(rest)
			}
			name, s = rest[:end], rest[end:]
		}
		value, ok := t.env[name]
		if !ok && name == "PATH" {
			value, ok = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", true
		}
		if !ok {
			return "", fail(in.line, "$%s is not set by an ENV before it", name)
		}
		out.WriteString(value)
	}
}

func (t *translation) expose(in instruction) error {
	for _, w := range strings.Fields(in.args) {
		w, err := t.expand(in, w)
		if err != nil {
			return err
		}
		number, protocol, _ := strings.Cut(w, "/")
		n, err := strconv.Atoi(number)
		if err != nil || n < 1 || n > 65535 || protocol != "" && protocol != "tcp" {
			return fail(in.line, "EXPOSE takes TCP ports, not %q", w)
		}
		if t.spec.PreviewPort == 0 {
			t.spec.PreviewPort = n // the first is shown
		}
	}
	return nil
}

// copy makes steps that write the files it names.
func (t *translation) copy(in instruction) error {
	args, err := split(in)
	if err != nil {
		return err
	}
	if strings.HasPrefix(in.args, "[") {
		if args = nil; json.Unmarshal([]byte(in.args), &args) != nil {
			return fail(in.line, "COPY's list is no JSON")
		}
	}
	if len(args) > 0 && strings.HasPrefix(args[0], "--") {
		return fail(in.line, "COPY does not know %s", args[0])
	}
	if len(args) < 2 {
		return fail(in.line, "COPY takes what to copy and where to")
	}
	to, err := t.expand(in, args[len(args)-1])
	if err != nil {
		return err
	}
	into := strings.HasSuffix(to, "/") || to == "." || len(args) > 2
	if !path.IsAbs(to) {
		to = path.Join(t.workdir, to)
	}
	var script []string
	for _, pattern := range args[:len(args)-1] {
		from, err := t.matching(in, pattern)
		if err != nil {
			return err
		}
		for _, f := range from {
			lines, err := t.copyTree(in, f, to, into || len(from) > 1)
			if err != nil {
				return err
			}
			script = append(script, lines...)
		}
	}
	t.spec.Steps = append(t.spec.Steps, sandbox.Step{Run: strings.Join(script, " && \\\n")})
	return nil
}

// matching lists the files a pattern means.
func (t *translation) matching(in instruction, pattern string) ([]string, error) {
	clean := path.Join("/", pattern)[1:]
	if strings.Contains(pattern, "..") && path.Clean(pattern) != clean {
		return nil, fail(in.line, "COPY %s leads out of the Dockerfile's folder", pattern)
	}
	if clean == "" {
		clean = "."
	}
	found, err := fs.Glob(t.files, clean)
	if err != nil || len(found) == 0 {
		return nil, fail(in.line, "COPY finds no file %s", pattern)
	}
	return found, nil
}

// copyTree writes one file, or what is in a folder. into says that to is the folder
// a file goes into.
func (t *translation) copyTree(in instruction, from, to string, into bool) (script []string, err error) {
	err = fs.WalkDir(t.files, from, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return fail(in.line, "COPY can't read %s", name)
		}
		if d.IsDir() {
			if slices.Contains([]string{".git", "node_modules"}, d.Name()) && name != from {
				return fs.SkipDir // never meant, and large
			}
			return nil
		}
		if !d.Type().IsRegular() {
			return fail(in.line, "COPY takes files and folders, which %s is not", name)
		}
		target := path.Join(to, strings.TrimPrefix(strings.TrimPrefix(name, from), "/"))
		switch {
		case from == ".":
			target = path.Join(to, name)
		case name == from && into:
			target = path.Join(to, path.Base(name))
		case name == from:
			target = to
		}
		line, err := t.file(in, name, target)
		script = append(script, line)
		return err
	})
	return script, err
}

// file is a command that writes one.
func (t *translation) file(in instruction, name, target string) (string, error) {
	info, err := fs.Stat(t.files, name)
	if err != nil {
		return "", fail(in.line, "COPY can't read %s", name)
	}
	if t.count++; info.Size() > maxFile || int(info.Size()) > t.left || t.count > maxCount {
		return "", fail(in.line, "COPY %s: files of at most %d KiB each, %d KiB and %d of them together, travel with a template. "+
			"Fetch larger ones by RUN (git clone, curl), or upload them to a sandbox", name, maxFile>>10, maxFiles>>10, maxCount)
	}
	content, err := fs.ReadFile(t.files, name)
	if err != nil {
		return "", fail(in.line, "COPY can't read %s", name)
	}
	t.left -= len(content)
	mode := "0644"
	if info.Mode()&0o111 != 0 {
		mode = "0755"
	}
	at := quote(target)
	return fmt.Sprintf("mkdir -p %s && echo %s | base64 -d > %s && chmod %s %s",
		quote(path.Dir(target)), base64.StdEncoding.EncodeToString(content), at, mode, at), nil
}
