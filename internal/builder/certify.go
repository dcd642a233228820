package builder

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"silica.dev/silica/internal/runtime"
	"silica.dev/silica/sandbox"
)

// ErrNotCertified says that a snapshot was made but its copies are not what
// they must be.
var ErrNotCertified = errors.New("snapshot failed its test")

// drift is how far the clock of a copy may be off, beyond what asking takes.
const drift = 50 * time.Millisecond

// trial is two copies of one snapshot, alive at the same time.
type trial struct {
	q             seedRequest
	made          candidate
	first, second *member
}

// checks are what copies must be, in the order in which they are tested. A name
// is part of the API: it stands in the details of CERTIFICATION_FAILED.
var checks = []struct {
	name string
	run  func(*trial, context.Context) error
}{
	{"memory", (*trial).memory},
	{"ready_command", (*trial).ready},
	{"clock", (*trial).clock},
	{"randomness", (*trial).randomness},
	{"network", (*trial).network},
	{"limits", (*trial).limits},
	{"file_system", (*trial).fileSystem},
	{"independence", (*trial).independence},
}

// certify proves a snapshot by two copies of it. What fails is classified as
// [sandbox.CodeCertification], with the check's name; a restore that fails is
// the check "restore".
func (b *Builder) certify(ctx context.Context, q seedRequest, made candidate) error {
	b.certifying(q, "testing the snapshot")
	t := &trial{q: q, made: made}
	for i, m := range []**member{&t.first, &t.second} {
		copied, err := b.start(ctx, q, made.ref, "copy-"+strconv.Itoa(i+1))
		if err != nil {
			return uncertified(ctx, "restore", fmt.Errorf("a copy does not start: %w", err))
		}
		defer copied.destroy(ctx)
		*m = copied
	}
	for _, c := range checks {
		if err := c.run(t, ctx); err != nil {
			return uncertified(ctx, c.name, err)
		}
	}
	return nil
}

// uncertified classifies what a check found, unless ctx has ended: then nothing
// is known of the snapshot.
func uncertified(ctx context.Context, check string, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("%w: %s: %w", ErrNotCertified, check, context.Cause(ctx))
	}
	text := "a copy of the snapshot failed its test of " + strings.ReplaceAll(check, "_", " ")
	return sandbox.E(sandbox.Unavailable, sandbox.CodeCertification, text+forUsers(err)).
		With("check", check).Because(fmt.Errorf("%w: %w", ErrNotCertified, err))
}

// finding is what a check says to the user.
type finding string

func (f finding) Error() string { return string(f) }

// forUsers is what of err users may read, as the end of a sentence.
func forUsers(err error) string {
	var f finding
	if errors.As(err, &f) {
		return ": " + string(f)
	}
	var e *sandbox.Error
	if errors.As(err, &e) && e.Kind != sandbox.Internal {
		return ": " + e.Message
	}
	return ""
}

func (t *trial) copies() []*member { return []*member{t.first, t.second} }

// memory: the agent is the one that was stored, and not one that booted.
func (t *trial) memory(context.Context) error {
	for _, m := range t.copies() {
		if m.seed != t.made.seed {
			return finding("the agent's memory is not the one that was stored")
		}
	}
	return nil
}

// ready: what ran when the snapshot was taken runs, and answers.
func (t *trial) ready(ctx context.Context) error {
	if !t.q.template.Built.WarmStart {
		return nil
	}
	for _, m := range t.copies() {
		p, err := m.client.LastApp(ctx)
		if err != nil {
			return err
		}
		if p == nil || !p.Running {
			return finding("the start command does not run in it")
		}
		if err := m.awaitReady(ctx, t.q.template.Built, copyReady); err != nil {
			return err
		}
	}
	return nil
}

// clock: what programs read is the host's time.
func (t *trial) clock(ctx context.Context) error {
	for _, m := range t.copies() {
		before := time.Now()
		out, err := m.output(ctx, "date", "+%s.%N")
		after := time.Now()
		if err != nil {
			return err
		}
		inside, err := parseDate(string(out))
		if err != nil {
			return err
		}
		slack := drift + m.told
		if inside.Before(before.Add(-slack)) || inside.After(after.Add(slack)) {
			return finding(fmt.Sprintf("its clock is off by %v", inside.Sub(after).Round(time.Millisecond)))
		}
	}
	return nil
}

// parseDate reads seconds and nanoseconds since the epoch.
func parseDate(text string) (time.Time, error) {
	sec, nano, _ := strings.Cut(strings.TrimSpace(text), ".")
	s, err := strconv.ParseInt(sec, 10, 64)
	if err != nil {
		return time.Time{}, finding(fmt.Sprintf("date printed %.40q", text))
	}
	n, err := strconv.ParseInt(nano, 10, 64)
	if err != nil {
		return time.Time{}, finding(fmt.Sprintf("date printed %.40q", text))
	}
	return time.Unix(s, n), nil
}

// randomness: no two draw the same bytes, the original included.
func (t *trial) randomness(ctx context.Context) error {
	drawn := [][]byte{t.made.random}
	for _, m := range t.copies() {
		r, err := m.randomness(ctx)
		if err != nil {
			return err
		}
		for _, other := range drawn {
			if bytes.Equal(r, other) {
				return finding("it draws the same random bytes as another")
			}
		}
		drawn = append(drawn, r)
	}
	return nil
}

// network: the agent has answered on the copy's own address already; programs
// find a way out, and whom to ask for names.
func (t *trial) network(ctx context.Context) error {
	for _, m := range t.copies() {
		routes, err := m.output(ctx, "cat", "/proc/net/route")
		if err != nil {
			return err
		}
		if !hasDefaultRoute(string(routes)) {
			return finding("it has no default route")
		}
		if len(m.builder.Nameservers) == 0 {
			continue
		}
		names, err := m.output(ctx, "cat", "/etc/resolv.conf")
		if err != nil {
			return err
		}
		if !strings.Contains(string(names), "nameserver "+m.builder.Nameservers[0]) {
			return finding("it does not know its nameserver")
		}
	}
	return nil
}

// hasDefaultRoute reads the kernel's table, in which a default route has the
// destination 0 and a gateway.
func hasDefaultRoute(table string) bool {
	const destination, gateway = 1, 2
	for line := range strings.Lines(table) {
		if f := strings.Fields(line); len(f) > gateway && f[destination] == "00000000" && f[gateway] != "00000000" {
			return true
		}
	}
	return false
}

// limits: the copy sees its size, and its host holds it to that.
func (t *trial) limits(ctx context.Context) error {
	want := t.q.res
	for _, m := range t.copies() {
		seen, err := m.client.Metrics(ctx)
		if err != nil {
			return err
		}
		if seen.MemoryTotal <= 0 || seen.MemoryTotal > want.Memory {
			return finding(fmt.Sprintf("it sees %d MiB of memory instead of %d", seen.MemoryTotal/sandbox.MiB, want.Memory/sandbox.MiB))
		}
		if seen.DiskTotal <= 0 || seen.DiskTotal > want.Disk {
			return finding(fmt.Sprintf("it sees a disk of %d MiB instead of %d", seen.DiskTotal/sandbox.MiB, want.Disk/sandbox.MiB))
		}
		processes, err := m.output(ctx, "cat", "/proc/self/limits")
		if err != nil {
			return err
		}
		if !limitsProcesses(string(processes)) {
			return finding("it may have any number of processes")
		}
		host, ok := m.builder.Driver.(runtime.Limiter)
		if !ok {
			continue
		}
		held, err := host.Limits(ctx, m.id)
		if err != nil {
			return err
		}
		// Memory is ended from outside a little above the size: what the sandbox's
		// own kernel needs is not the user's.
		if held.MilliCPU <= 0 || held.MilliCPU > want.MilliCPU || held.Memory <= 0 || held.Memory > 2*want.Memory+overhead {
			return finding(fmt.Sprintf("the host lets it have %d millicores and %d MiB instead of %d and %d",
				held.MilliCPU, held.Memory/sandbox.MiB, want.MilliCPU, want.Memory/sandbox.MiB))
		}
	}
	return nil
}

// limitsProcesses reads the kernel's table of what a process may have.
func limitsProcesses(table string) bool {
	for line := range strings.Lines(table) {
		if rest, ok := strings.CutPrefix(line, "Max processes"); ok {
			f := strings.Fields(rest)
			return len(f) > 0 && f[0] != "unlimited"
		}
	}
	return false
}

// overhead is what a host may allow a sandbox beyond its own memory.
const overhead = 1024 * sandbox.MiB

// probe is the file copies write, each its own content.
const probe = "/tmp/.silica-probe"

// fileSystem: what is written is read back.
func (t *trial) fileSystem(ctx context.Context) error {
	dirs := []string{"/tmp"}
	if d := t.q.template.Workdir; d != "" {
		dirs = append(dirs, d)
	}
	for _, m := range t.copies() {
		for _, dir := range dirs {
			script := fmt.Sprintf("echo %s > '%s/.silica-probe' && cat '%s/.silica-probe'", m.id, quoted(dir), quoted(dir))
			out, err := m.output(ctx, "/bin/sh", "-c", script)
			if err != nil {
				return finding("nothing can be written to " + dir)
			}
			if strings.TrimSpace(string(out)) != string(m.id) {
				return finding("what is written to " + dir + " reads back as something else")
			}
		}
	}
	return nil
}

// quoted is for use between single quotes.
func quoted(s string) string { return strings.ReplaceAll(s, "'", `'\''`) }

// independence: each has its own files and its own name.
func (t *trial) independence(ctx context.Context) error {
	for _, m := range t.copies() {
		mine, err := m.output(ctx, "cat", probe)
		if err != nil {
			return err
		}
		if strings.TrimSpace(string(mine)) != string(m.id) {
			return finding("a file written in one copy is in the other")
		}
		name, err := m.output(ctx, "uname", "-n")
		if err != nil {
			return err
		}
		if strings.TrimSpace(string(name)) != m.hostname {
			return finding(fmt.Sprintf("it is called %.64q instead of %q", strings.TrimSpace(string(name)), m.hostname))
		}
	}
	return nil
}
