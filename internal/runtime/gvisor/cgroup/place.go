package cgroup

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
)

// placementFile lies in a bundle folder and tells the boot process its group.
const placementFile = "cgroup.json"

// Placement is what a starting sentry needs to enter its group and to show the
// program inside its true size. See DESIGN.md for why it enters by itself.
type Placement struct {
	Join   []string `json:"join"`   // files to write "0" to
	Memory int64    `json:"memory"` // bytes to show inside, 0: the host's
	CPUs   int      `json:"cpus"`   // to show inside
	Quota  int64    `json:"quota"`  // microseconds per period, 0: none
	Period int64    `json:"period"` // microseconds
	// OOMScore is written to oom_score_adj; 0 leaves it as inherited. It is set
	// here so that every process of the sandbox inherits it.
	OOMScore int `json:"oom_score,omitempty"`
}

// oomScore makes the kernel end sandboxes before the engine and the daemon, which
// have a negative one, and before what else the machine runs.
const oomScore = 500

// Placement describes a group with these limits.
func (g *Groups) Placement(name string, l Limits) Placement {
	p := Placement{Join: g.tree.join(name), Memory: l.Memory, CPUs: runtime.NumCPU(), OOMScore: oomScore}
	if l.MilliCPU > 0 {
		p.Quota, p.Period = l.quota(), period
		// Below two, programs leave out locks that a sentry needs them to
		// take; runsc draws the same line.
		p.CPUs = min(p.CPUs, max(2, int((l.MilliCPU+999)/1000)))
	}
	return p
}

// Save writes the placement into a bundle folder.
func (p Placement) Save(bundle string) error {
	data, err := json.Marshal(p)
	if err == nil {
		err = os.WriteFile(filepath.Join(bundle, placementFile), data, 0o600)
	}
	if err != nil {
		return fmt.Errorf("save cgroup placement: %w", err)
	}
	return nil
}

// Enter moves the calling process into the group that its bundle names and
// returns the command line with the group's size in it. Call it first thing in
// main, with [os.Args], in every process runsc starts. Command lines other than
// a first start of boot or gofer come back as they are; for these a missing
// placement is an error, so that nothing runs without limits.
func Enter(args []string) ([]string, error) {
	at := slices.IndexFunc(args, func(a string) bool { return a == "boot" || a == "gofer" })
	if at < 0 || at+1 == len(args) {
		return args, nil
	}
	flags := args[at+1:]
	// The second start of the same process, without capabilities in an empty
	// root: it is in its group already.
	if v, ok := flagValue(flags, "setup-root"); ok && v == "false" {
		return args, nil
	}
	bundle, ok := flagValue(flags, "bundle")
	if !ok {
		return nil, fmt.Errorf("enter cgroup: no bundle in the command line")
	}
	data, err := os.ReadFile(filepath.Join(bundle, placementFile))
	if err != nil {
		return nil, fmt.Errorf("enter cgroup: %w", err)
	}
	var p Placement
	if err := json.Unmarshal(data, &p); err != nil {
		return nil, fmt.Errorf("enter cgroup: %w", err)
	}
	for _, file := range p.Join {
		// "0" is the writer, in whatever pid namespace it lives.
		if err := write(file, "0"); err != nil {
			return nil, fmt.Errorf("enter cgroup: %w", err)
		}
	}
	if p.OOMScore != 0 {
		if err := write("/proc/self/oom_score_adj", strconv.Itoa(p.OOMScore)); err != nil {
			return nil, fmt.Errorf("enter cgroup: %w", err)
		}
	}
	if args[at] != "boot" {
		return args, nil
	}
	return p.resize(args[:at+1], flags), nil
}

// resize puts the flags that carry a size in front of the others.
func (p Placement) resize(head, flags []string) []string {
	size := map[string]int64{"cpu-num": int64(p.CPUs), "cpu-quota": p.Quota, "cpu-period": p.Period, "total-memory": p.Memory}
	out := slices.Clone(head)
	for _, name := range []string{"cpu-num", "cpu-quota", "cpu-period", "total-memory"} {
		if size[name] > 0 {
			out = append(out, "--"+name+"="+itoa(size[name]))
		}
	}
	for i := 0; i < len(flags); i++ {
		name, _, inOne := strings.Cut(strings.TrimLeft(flags[i], "-"), "=")
		if strings.HasPrefix(flags[i], "-") && size[name] > 0 {
			if !inOne {
				i++ // its value follows
			}
			continue
		}
		out = append(out, flags[i])
	}
	return out
}

// flagValue finds a flag in any spelling of package flag. A flag without a value
// is followed by the next argument's text.
func flagValue(flags []string, name string) (string, bool) {
	for i, f := range flags {
		if !strings.HasPrefix(f, "-") {
			continue
		}
		key, value, inOne := strings.Cut(strings.TrimLeft(f, "-"), "=")
		if key != name {
			continue
		}
		if !inOne && i+1 < len(flags) {
			value = flags[i+1]
		}
		return value, true
	}
	return "", false
}
