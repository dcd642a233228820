package server

import (
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"strconv"
	"strings"

	"silica.dev/silica/api"
	"silica.dev/silica/internal/guest"
	"silica.dev/silica/internal/guest/guestpb"
	"silica.dev/silica/sandbox"
)

const (
	// maxFound is how many files or lines one search answers at most, foundFew
	// how many it does if nobody says.
	maxFound = 10_000
	foundFew = 1000
	// maxAround is how many lines of context a match has on either side.
	maxAround = 20
	maxGlob   = 1 << 10 // bytes of one pattern for names
	maxGlobs  = 64
	maxRegexp = 4<<10 - 64 // bytes of a pattern for lines; what is put around it must fit too
)

var entryTypes = map[string]guestpb.Entry_Type{
	"": guestpb.Entry_TYPE_UNSPECIFIED, "file": guestpb.Entry_FILE, "directory": guestpb.Entry_DIRECTORY,
	"dir": guestpb.Entry_DIRECTORY, "symlink": guestpb.Entry_SYMLINK,
}

// globFiles finds files by a pattern for their paths, or for their names alone.
func (s *Server) globFiles(w http.ResponseWriter, r *http.Request, c sandbox.Caller) error {
	path, _, err := folder(r, treeDir, 0)
	if err != nil {
		return err
	}
	q := r.URL.Query()
	req := &guestpb.GlobRequest{Path: path, Pattern: q.Get("pattern"), Limit: foundFew}
	if name := q.Get("name"); req.Pattern == "" && name != "" {
		if strings.Contains(name, "/") {
			return sandbox.Field("name", "must not contain a slash: use pattern")
		}
		req.Pattern = "**/" + name
	}
	if req.Pattern == "" || len(req.Pattern) > maxGlob {
		return sandbox.Field("pattern", fmt.Sprintf("must have 1 to %d bytes", maxGlob))
	}
	req.Pattern = guest.Spell(guest.Unspell(req.Pattern)) // in a query it may be any bytes
	for _, name := range []string{"max_results", "limit"} {
		if v := q.Get(name); v != "" {
			n, err := strconv.ParseUint(v, 10, 32)
			if err != nil || n < 1 || n > maxFound {
				return sandbox.Field(name, fmt.Sprintf("must be from 1 to %d", maxFound))
			}
			req.Limit = uint32(n)
		}
	}
	if v := q.Get("all"); v != "" {
		if req.All, err = strconv.ParseBool(v); err != nil {
			return sandbox.Field("all", "must be true or false")
		}
	}
	kind, ok := entryTypes[q.Get("type")]
	if !ok {
		return sandbox.Field("type", "must be file, directory or symlink")
	}
	req.Type = kind
	ctx, g, sb, err := s.deps.Sandboxes.Guest(r.Context(), c, param(r, "id"))
	if err != nil {
		return err
	}
	ctx, _, cancel := s.patient(ctx)
	defer cancel()
	res, err := g.Glob(ctx, req)
	if err != nil {
		return err
	}
	found := api.FilesFound{
		SandboxID: string(sb.ID), Path: path, Pattern: req.Pattern, Entries: []api.FileEntry{},
		Truncated: res.GetTruncated() || len(res.GetEntries()) > int(req.Limit), TimedOut: res.GetTimedOut(),
	}
	for _, e := range res.GetEntries()[:min(len(res.GetEntries()), int(req.Limit))] {
		found.Entries = append(found.Entries, wireEntry(e))
	}
	writeOne(w, http.StatusOK, found)
	return nil
}

// globs reads patterns for names: one, or several.
func (f *fields) globs(name string) []string {
	list, _ := read(f, "an array of patterns", func(raw json.RawMessage) ([]string, bool) {
		if one, ok := decodeAs[string](raw); ok {
			return []string{one}, true
		}
		return decodeAs[[]string](raw)
	}, name)
	if len(list) > maxGlobs {
		f.reject(name, "must not be more than %d", maxGlobs)
	}
	for i, p := range list {
		if p == "" || len(p) > maxGlob {
			f.reject(fmt.Sprintf("%s[%d]", name, i), "must have 1 to %d bytes", maxGlob)
		}
	}
	return list
}

// scopeOf reads which files to look into, and what for.
func (f *fields) scopeOf() (sc *guestpb.Scope, pattern string, literal bool) {
	sc = &guestpb.Scope{Path: treeDir, All: f.flag(false, "all"), Include: f.globs("include"), Exclude: f.globs("exclude")}
	if _, named := f.m["path"]; named {
		sc.Path = f.place("path")
	}
	pattern = f.text(maxRegexp, "query")
	isPattern := pattern == ""
	if isPattern {
		pattern = f.text(maxRegexp, "pattern")
	}
	if pattern == "" {
		f.reject("query", "or pattern is missing")
	}
	literal = !f.flag(isPattern, "regex")
	if literal {
		pattern = regexp.QuoteMeta(pattern)
	} else if _, err := regexp.Compile(pattern); err != nil {
		f.reject("pattern", "is no regular expression (RE2): %s", err)
	}
	if !f.flag(true, "case_sensitive") {
		pattern = "(?i)" + pattern
	}
	if len(pattern) > maxRegexp {
		f.reject("query", "must not be longer than %d bytes", maxRegexp/2)
	}
	return sc, pattern, literal
}

func (f *fields) count(standard, most int64, names ...string) uint32 {
	if n, ok := f.integer(0, most, names...); ok {
		return uint32(n)
	}
	return uint32(standard)
}

func (s *Server) searchFiles(w http.ResponseWriter, r *http.Request, c sandbox.Caller) error {
	f, err := readFields(r)
	if err != nil {
		return err
	}
	sc, pattern, _ := f.scopeOf()
	req := &guestpb.SearchRequest{
		Scope: sc, Pattern: pattern, Limit: max(f.count(foundFew, maxFound, "max_results", "limit"), 1),
		Context: f.count(0, maxAround, "context", "context_lines"),
	}
	if f.err != nil {
		return f.err
	}
	ctx, g, _, err := s.deps.Sandboxes.Guest(r.Context(), c, param(r, "id"))
	if err != nil {
		return err
	}
	ctx, _, cancel := s.patient(ctx)
	defer cancel()
	res, err := g.Search(ctx, req)
	if err != nil {
		return err
	}
	out := api.SearchResult{
		Path: sc.Path, Matches: []api.SearchMatch{}, FilesSearched: res.GetFiles(),
		Truncated: res.GetTruncated() || len(res.GetMatches()) > int(req.Limit), TimedOut: res.GetTimedOut(),
	}
	for _, m := range res.GetMatches()[:min(len(res.GetMatches()), int(req.Limit))] {
		out.Matches = append(out.Matches, api.SearchMatch{
			Path: m.GetPath(), Line: m.GetLine(), Column: m.GetColumn(), Text: m.GetText(), Cut: m.GetCut(),
			Before: lines(m.GetHasBefore(), m.GetBefore(), req.Context), After: lines(m.GetHasAfter(), m.GetAfter(), req.Context),
		})
	}
	writeOne(w, http.StatusOK, out)
	return nil
}

// lines splits what came joined, into as many lines as were asked for.
func lines(has bool, joined string, most uint32) []string {
	if !has || most == 0 {
		return []string{}
	}
	return strings.SplitN(joined, "\n", int(most))
}

func (s *Server) replaceInFiles(w http.ResponseWriter, r *http.Request, c sandbox.Caller) error {
	f, err := readFields(r)
	if err != nil {
		return err
	}
	sc, pattern, literal := f.scopeOf()
	by := f.text(maxBody, "replacement")
	if _, given := f.m["replacement"]; !given {
		f.reject("replacement", "is missing")
	}
	if literal {
		by = strings.ReplaceAll(by, "$", "$$")
	}
	req := &guestpb.ReplaceRequest{
		Scope: sc, Pattern: pattern, Replacement: by, Limit: max(f.count(foundFew, maxFound, "max_files"), 1), DryRun: f.flag(false, "dry_run"),
	}
	if f.err != nil {
		return f.err
	}
	ctx, g, _, err := s.deps.Sandboxes.Guest(r.Context(), c, param(r, "id"))
	if err != nil {
		return err
	}
	ctx, _, cancel := s.patient(ctx)
	defer cancel()
	res, err := g.Replace(ctx, req)
	if err != nil {
		return err
	}
	out := api.ReplaceResult{
		Path: sc.Path, Files: []api.ReplacedFile{}, TimedOut: res.GetTimedOut(),
		Truncated: res.GetTruncated() || len(res.GetFiles()) > int(req.Limit),
	}
	for _, m := range res.GetFiles()[:min(len(res.GetFiles()), int(req.Limit))] {
		out.Files = append(out.Files, api.ReplacedFile{Path: m.GetPath(), Replacements: m.GetReplacements(), Error: orNull(m.GetError())})
		out.Replacements += int64(m.GetReplacements())
	}
	writeOne(w, http.StatusOK, out)
	return nil
}
