package image

import (
	"cmp"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path"
	"slices"
	"strings"
)

// aptSource is one entry of apt's sources, in the terms of sources.list(5).
type aptSource struct {
	URIs       []string
	Suites     []string
	Components []string
	SignedBy   string // path, or a key's text with its line breaks; may be empty
	Trusted    string // "yes", or empty
}

// debianKeyring is the key every Debian system has at the same place.
const debianKeyring = "/usr/share/keyrings/debian-archive-keyring.gpg"

// String renders the entry in the deb822 form.
func (s aptSource) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "Types: deb\nURIs: %s\nSuites: %s\n", strings.Join(s.URIs, " "), strings.Join(s.Suites, " "))
	if len(s.Components) > 0 {
		fmt.Fprintf(&b, "Components: %s\n", strings.Join(s.Components, " "))
	}
	if s.SignedBy != "" {
		fmt.Fprintf(&b, "Signed-By: %s\n", s.SignedBy)
	}
	if s.Trusted != "" {
		fmt.Fprintf(&b, "Trusted: %s\n", s.Trusted)
	}
	return b.String()
}

func renderSources(sources []aptSource) string {
	parts := make([]string, len(sources))
	for i, s := range sources {
		parts[i] = s.String()
	}
	return strings.Join(parts, "\n")
}

// public is the entry without what only the operator may know.
func (s aptSource) public() aptSource {
	s.URIs = slices.Clone(s.URIs)
	for i, uri := range s.URIs {
		if u, err := url.Parse(uri); err == nil {
			u.User = nil
			s.URIs[i] = u.String()
		}
	}
	return s
}

// readHostSources reads all entries of an /etc/apt folder.
func readHostSources(apt fs.FS) ([]aptSource, error) {
	var all []aptSource
	names := []string{"sources.list"}
	for _, pattern := range []string{"sources.list.d/*.list", "sources.list.d/*.sources"} {
		more, err := fs.Glob(apt, pattern)
		if err != nil {
			return nil, err
		}
		names = append(names, more...)
	}
	for _, name := range names {
		text, err := fs.ReadFile(apt, name)
		if os.IsNotExist(err) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read apt sources: %w", err)
		}
		all = append(all, parseSources(string(text))...)
	}
	return all, nil
}

// parseSources reads either form. What apt would not take is left out: apt
// itself complains about it on the host.
func parseSources(text string) []aptSource {
	var all []aptSource
	for _, stanza := range stanzas(text) {
		if isList(stanza) {
			for _, line := range stanza {
				if s, ok := parseLine(line); ok {
					all = append(all, s)
				}
			}
			continue
		}
		if s, ok := parseStanza(stanza); ok {
			all = append(all, s)
		}
	}
	return all
}

// stanzas splits text at empty lines and drops comments.
func stanzas(text string) [][]string {
	var all [][]string
	var now []string
	for line := range strings.Lines(text + "\n\n") {
		line = strings.TrimRight(line, " \t\r\n")
		switch {
		case strings.HasPrefix(strings.TrimSpace(line), "#"):
		case line != "":
			now = append(now, line)
		case len(now) > 0:
			all = append(all, now)
			now = nil
		}
	}
	return all
}

func isList(stanza []string) bool {
	return slices.ContainsFunc(stanza, func(l string) bool {
		word, _, _ := strings.Cut(strings.TrimSpace(l), " ")
		return word == "deb" || word == "deb-src"
	})
}

// parseLine reads "deb [option=value …] URI suite component …".
func parseLine(line string) (aptSource, bool) {
	line, _, _ = strings.Cut(line, "#")
	rest, ok := strings.CutPrefix(strings.TrimSpace(line), "deb ")
	if !ok {
		return aptSource{}, false
	}
	var s aptSource
	rest = strings.TrimSpace(rest)
	if options, after, ok := strings.Cut(rest, "]"); ok && strings.HasPrefix(options, "[") {
		for _, o := range strings.Fields(options[1:]) {
			key, value, _ := strings.Cut(o, "=")
			switch strings.ToLower(key) {
			case "signed-by":
				s.SignedBy = strings.Trim(value, `"`)
			case "trusted":
				s.Trusted = value
			}
		}
		rest = after
	}
	fields := strings.Fields(rest)
	if len(fields) < 2 {
		return aptSource{}, false
	}
	s.URIs, s.Suites, s.Components = fields[:1], fields[1:2], fields[2:]
	return s, true
}

func parseStanza(lines []string) (aptSource, bool) {
	fields := map[string]string{}
	key := ""
	for _, l := range lines {
		if l[0] == ' ' || l[0] == '\t' { // goes on from the line before
			fields[key] += "\n" + l
			continue
		}
		k, v, ok := strings.Cut(l, ":")
		if !ok {
			return aptSource{}, false
		}
		key = strings.ToLower(k)
		fields[key] = strings.TrimSpace(v)
	}
	s := aptSource{
		URIs: strings.Fields(fields["uris"]), Suites: strings.Fields(fields["suites"]),
		Components: strings.Fields(fields["components"]), SignedBy: fields["signed-by"], Trusted: fields["trusted"],
	}
	enabled := strings.ToLower(fields["enabled"])
	ok := slices.Contains(strings.Fields(fields["types"]), "deb") && enabled != "no" && enabled != "false"
	return s, ok && len(s.URIs) > 0 && len(s.Suites) > 0
}

// hostRelease is what /etc/os-release tells: "debian", "bookworm".
type hostRelease struct{ ID, Codename string }

func readRelease(text string) hostRelease {
	var r hostRelease
	for line := range strings.Lines(text) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		value = strings.Trim(value, `"'`)
		switch key {
		case "ID":
			r.ID = value
		case "VERSION_CODENAME":
			r.Codename = value
		}
	}
	return r
}

// chooseSources picks from a host's entries those that Debian's own packages
// of a suite come from. Other vendors' are not ours to hand to users. A host of
// another Debian release lends its mirror.
func chooseSources(all []aptSource, suite string, host hostRelease) []aptSource {
	for _, name := range []string{suite, host.Codename, "stable"} {
		if name == "" || name != suite && host.ID != "debian" {
			continue
		}
		var chosen []aptSource
		for _, s := range all {
			s.SignedBy = cmp.Or(s.SignedBy, debianKeyring)
			if s.SignedBy != debianKeyring || !slices.Contains(s.Components, "main") {
				continue
			}
			s.Components = []string{"main"}
			var suites []string
			for _, have := range s.Suites {
				for _, pocket := range []string{"", "-updates", "-security"} {
					if have == name+pocket {
						suites = append(suites, suite+pocket)
					}
				}
			}
			if s.Suites = suites; len(suites) > 0 {
				chosen = append(chosen, s)
			}
		}
		if slices.ContainsFunc(chosen, func(s aptSource) bool { return slices.Contains(s.Suites, suite) }) {
			return chosen
		}
	}
	return nil
}

// withMirror replaces the entries that are not for security updates, which
// mirrors keep elsewhere or not at all.
func withMirror(host []aptSource, mirror, suite string) []aptSource {
	sources := []aptSource{{URIs: []string{mirror}, Suites: []string{suite, suite + "-updates"},
		Components: []string{"main"}, SignedBy: debianKeyring}}
	for _, s := range host {
		s.Suites = slices.DeleteFunc(slices.Clone(s.Suites), func(x string) bool { return x != suite+"-security" })
		if len(s.Suites) > 0 {
			sources = append(sources, s)
		}
	}
	return sources
}

// keyFile is the path of the key an entry is signed by, if it is a path.
func (s aptSource) keyFile() (string, bool) {
	return s.SignedBy, path.IsAbs(s.SignedBy) && !strings.Contains(s.SignedBy, "\n")
}
