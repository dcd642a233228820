package image

import (
	"strings"
	"testing"
	"testing/fstest"
)

const debianSources = `# a comment
Types: deb
# another
URIs: http://mirror.example/debian
Suites: bookworm bookworm-updates bookworm-backports
Components: main contrib
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb deb-src
URIs: http://mirror.example/debian-security
Suites: bookworm-security
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
`

func TestChooseSources(t *testing.T) {
	bookworm := hostRelease{"debian", "bookworm"}
	cases := []struct {
		name  string
		files map[string]string
		host  hostRelease
		want  string // URI: suites, one source a line
	}{
		{"deb822", map[string]string{"sources.list.d/debian.sources": debianSources}, bookworm,
			"http://mirror.example/debian: bookworm bookworm-updates\nhttp://mirror.example/debian-security: bookworm-security"},
		{"one line each", map[string]string{"sources.list": "deb http://a/debian bookworm main contrib # note\n" +
			"deb-src http://a/debian bookworm main\ndeb [arch=amd64 signed-by=" + debianKeyring + "] http://a/sec bookworm-security main\n"}, bookworm,
			"http://a/debian: bookworm\nhttp://a/sec: bookworm-security"},
		{"other vendors stay out", map[string]string{"sources.list": "deb http://a/debian bookworm main\n",
			"sources.list.d/v.list":    "deb [signed-by=/etc/apt/keyrings/v.gpg] http://vendor/apt bookworm main\n",
			"sources.list.d/w.sources": "Types: deb\nURIs: http://vendor/x\nSuites: bookworm\nComponents: stable\n"}, bookworm,
			"http://a/debian: bookworm"},
		{"switched off", map[string]string{"sources.list.d/d.sources": strings.Replace(debianSources, "Types: deb\n", "Types: deb\nEnabled: no\n", 1)}, bookworm, ""},
		{"other files are no sources", map[string]string{"sources.list.d/debian.sources.save": debianSources}, bookworm, ""},
		{"another release lends its mirror", map[string]string{"sources.list": "deb http://a/debian trixie main\ndeb http://a/sec trixie-security main\n"},
			hostRelease{"debian", "trixie"}, "http://a/debian: bookworm\nhttp://a/sec: bookworm-security"},
		{"stable", map[string]string{"sources.list": "deb http://a/debian stable main\n"}, bookworm, "http://a/debian: bookworm"},
		{"another distribution does not", map[string]string{"sources.list": "deb http://archive/ubuntu noble main\n"}, hostRelease{"ubuntu", "noble"}, ""},
		{"nothing", nil, bookworm, ""},
	}
	for _, c := range cases {
		apt := fstest.MapFS{}
		for name, text := range c.files {
			apt[name] = &fstest.MapFile{Data: []byte(text)}
		}
		all, err := readHostSources(apt)
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		var lines []string
		for _, s := range chooseSources(all, "bookworm", c.host) {
			lines = append(lines, strings.Join(s.URIs, " ")+": "+strings.Join(s.Suites, " "))
			if s.SignedBy != debianKeyring || len(s.Components) != 1 {
				t.Errorf("%s: got %+v, want Debian's key and main only", c.name, s)
			}
		}
		if got := strings.Join(lines, "\n"); got != c.want {
			t.Errorf("%s: got\n%s\nwant\n%s", c.name, got, c.want)
		}
	}
}

func TestSourcesSurviveRendering(t *testing.T) {
	inline := "Types: deb\nURIs: http://a/debian\nSuites: bookworm\nComponents: main\nSigned-By: \n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n mQ\n -----END PGP PUBLIC KEY BLOCK-----\n"
	for _, text := range []string{debianSources, inline, "deb [trusted=yes] file:/mirror ./"} {
		once := renderSources(parseSources(text))
		if again := renderSources(parseSources(once)); again != once || once == "" {
			t.Errorf("rendered\n%s\nparsed and rendered again\n%s", once, again)
		}
	}
}

func TestMirrorKeepsSecurityUpdates(t *testing.T) {
	host := chooseSources(parseSources(debianSources), "bookworm", hostRelease{"debian", "bookworm"})
	got := renderSources(withMirror(host, "http://near/debian", "bookworm"))
	if !strings.Contains(got, "URIs: http://near/debian\nSuites: bookworm bookworm-updates\n") ||
		!strings.Contains(got, "URIs: http://mirror.example/debian-security\nSuites: bookworm-security\n") ||
		strings.Contains(got, "URIs: http://mirror.example/debian\n") {
		t.Errorf("got\n%s", got)
	}
}

func TestPasswordsStayOutOfImages(t *testing.T) {
	s := aptSource{URIs: []string{"https://user:secret@mirror.example/debian", "file:/mirror"}}
	if got := strings.Join(s.public().URIs, " "); got != "https://mirror.example/debian file:/mirror" {
		t.Errorf("got %s", got)
	}
	if s.URIs[0] != "https://user:secret@mirror.example/debian" {
		t.Error("the entry for the build itself was changed")
	}
	for _, c := range []Config{{PipIndexURL: "https://u:p@x/simple"}, {NpmRegistry: "https://u:p@x/"}, {AptMirror: "mirror"}, {AptMirror: "http://a b/"}} {
		if c.Validate() == nil {
			t.Errorf("%+v was accepted", c)
		}
	}
	if err := (Config{AptMirror: "http://u:p@mirror/debian", PipIndexURL: "https://x/simple"}).Validate(); err != nil {
		t.Errorf("a usable configuration was refused: %v", err)
	}
}

func TestAptProgress(t *testing.T) {
	lines := []string{
		"I: running apt-get update...", "Get:1 http://mirror bookworm InRelease [151 kB]",
		"0 upgraded, 1 newly installed, 0 to remove and 0 not upgraded.", "Get:1 http://mirror bookworm/main amd64 dash",
		"I: extracting archives...", "Unpacking dash (0.5) ...", "Setting up dash (0.5) ...",
		"0 upgraded, 2 newly installed, 0 to remove and 0 not upgraded.", "Need to get 3 MB of archives.", "Get:1 a", "Get:2 b",
		"Unpacking a (1) ...", "Unpacking b (1) ...", "Setting up a (1) ...", "Setting up b (1) ...", "I: cleaning package lists and apt cache...",
	}
	want := []string{"reading the package index", "fetching packages 1/1", "unpacking the base system", "installing packages 0/1",
		"installing packages 1/1", "fetching packages 1/2", "fetching packages 2/2", "installing packages 0/2",
		"installing packages 1/2", "installing packages 2/2", "cleaning up"}
	var got []string
	p := aptProgress{report: func(p Progress) { got = append(got, p.String()) }}
	for _, l := range lines {
		p.line(l)
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}
