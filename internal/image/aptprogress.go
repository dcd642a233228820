package image

import (
	"regexp"
	"strconv"
	"strings"
)

// aptProgress turns what mmdebstrap and the apt and dpkg below it print, in the
// C locale, into progress. Unknown lines change nothing.
type aptProgress struct {
	report   func(Progress)
	packages int64 // of the round under way: the essential ones, then the rest
	fetched  int64
	steps    int64 // unpacked and configured; each package does both
	now      Progress
}

var newlyInstalled = regexp.MustCompile(`^\d+ upgraded, (\d+) newly installed`)

func (p *aptProgress) line(text string) {
	switch {
	case strings.HasPrefix(text, "I: running apt-get update"):
		p.tell(Progress{Message: "reading the package index"})
	case newlyInstalled.MatchString(text):
		p.packages, _ = strconv.ParseInt(newlyInstalled.FindStringSubmatch(text)[1], 10, 64)
		p.fetched, p.steps = 0, 0
	case strings.HasPrefix(text, "Get:") && p.packages > 0:
		p.fetched++
		p.tell(Progress{Message: "fetching packages", Done: min(p.fetched, p.packages), Total: p.packages})
	case strings.HasPrefix(text, "I: extracting archives"):
		p.tell(Progress{Message: "unpacking the base system"})
	case strings.HasPrefix(text, "Unpacking "), strings.HasPrefix(text, "Setting up "):
		p.steps++
		p.tell(Progress{Message: "installing packages", Done: min(p.steps/2, p.packages), Total: p.packages})
	case strings.HasPrefix(text, "I: cleaning"):
		p.tell(Progress{Message: "cleaning up"})
	}
}

// tell reports what changed.
func (p *aptProgress) tell(now Progress) {
	if now != p.now {
		p.now = now
		p.report(now)
	}
}
