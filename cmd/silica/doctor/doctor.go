// Package doctor looks at a machine and names what Silica lacks there, what
// that costs, and how to get it, so that nobody has to read logs for it.
package doctor

import (
	"context"
	"net/netip"
	"os"
	"strings"
)

// Level says how much a finding matters.
type Level string

const (
	OK      Level = "ok"
	Info    Level = "info"    // worth knowing, nothing to do
	Warning Level = "warning" // Silica works, but less well
	Failure Level = "failure" // Silica, or a main part of it, will not work
)

// Finding is what one check saw.
type Finding struct {
	Check  string `json:"check"`
	Level  Level  `json:"level"`
	Found  string `json:"found"`
	Effect string `json:"effect,omitempty"` // what does not work because of it
	Fix    string `json:"fix,omitempty"`    // what to do about it
}

// Options is what the checks compare the machine with.
type Options struct {
	Listen        string // host:port the server wants
	Data          string
	NetworkPrefix netip.Prefix
	NetworkName   string
	Nameservers   []netip.Addr
	EgressAllow   []netip.Prefix
	BuiltIn       error // why agent or engine are missing from this build; nil: they are there
}

// machine is where the checks read. root lets tests lay out a recorded one.
type machine struct {
	root string // prefix of /proc, /sys, /etc and /dev
	Options
}

func (m machine) path(p string) string { return m.root + p }

// read returns a file's text, empty when it can't be read.
func (m machine) read(p string) string {
	b, _ := os.ReadFile(m.path(p))
	return string(b)
}

// Run makes every check, in the order a person would fix things. Probes that
// create something on the host do it in a network namespace that is gone when
// they return.
func Run(ctx context.Context, o Options) []Finding {
	m := machine{Options: o}
	return []Finding{
		m.built(),
		m.user(os.Geteuid()),
		m.kernel(),
		m.cgroups(),
		m.systrap(),
		m.network(),
		m.forwarding(),
		m.prefix(),
		m.resolver(),
		m.mmdebstrap(),
		m.erofs(ctx),
		m.data(),
		m.disk(),
		m.memory(),
		m.limits(),
		m.rcu(),
		m.port(ctx),
		m.kvm(),
	}
}

// Worst returns the highest level among findings.
func Worst(findings []Finding) Level {
	rank := map[Level]int{OK: 0, Info: 1, Warning: 2, Failure: 3}
	worst := OK
	for _, f := range findings {
		if rank[f.Level] > rank[worst] {
			worst = f.Level
		}
	}
	return worst
}

func ok(check, found string) Finding { return Finding{Check: check, Level: OK, Found: found} }

func (m machine) built() Finding {
	const check = "build"
	if m.BuiltIn == nil {
		return ok(check, "agent and engine are built in")
	}
	return Finding{check, Failure, strings.ReplaceAll(m.BuiltIn.Error(), "\n", "; "), "\"silica serve\" can't start any sandbox", "run \"make build\" and use bin/silica"}
}
