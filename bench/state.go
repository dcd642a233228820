package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"silica.dev/silica/api"
)

// dirt is how much memory a process has written, and how often that is measured.
var dirt = []struct{ mb, rounds int }{{0, 30}, {64, 10}, {256, 6}, {1024, 4}}

// fill has a process write memory and keep it, and waits until it has.
func (t target) fill(ctx context.Context, id string, mb int) error {
	if mb == 0 {
		return nil
	}
	return t.run(ctx, id, fmt.Sprintf(`nohup python3 -c 'import os, time
b, u = bytearray(%d << 20), os.urandom(1 << 20)
for i in range(%d): b[i << 20:(i + 1) << 20] = u
open("/tmp/filled", "w").close()
time.sleep(1e6)' >/dev/null 2>&1 & while [ ! -e /tmp/filled ]; do sleep 0.05; done`, mb, mb))
}

// watch has a process look at the clock all the time; stood says, in
// milliseconds, for how long it could not since it was last asked.
const (
	watch = `nohup python3 -c 'import os, signal, time
worst = 0
def tell(*_):
    global worst
    open("/tmp/w", "w").write("%.1f" % (worst * 1000)); os.rename("/tmp/w", "/tmp/worst"); worst = 0
signal.signal(signal.SIGUSR1, tell)
open("/tmp/watch", "w").write(str(os.getpid()))
last = time.monotonic()
while True:
    time.sleep(0.002)
    now = time.monotonic(); worst = max(worst, now - last); last = now' >/dev/null 2>&1 & while [ ! -s /tmp/watch ]; do sleep 0.01; done`
	stood = `rm -f /tmp/worst; kill -USR1 $(cat /tmp/watch); while [ ! -e /tmp/worst ]; do sleep 0.01; done; cat /tmp/worst`
)

func (t target) run(ctx context.Context, id, command string) error {
	_, err := t.output(ctx, id, command)
	return err
}

func (t target) output(ctx context.Context, id, command string) (string, error) {
	res, err := t.client.Exec(ctx, id, api.ExecRequest{Command: command})
	if err == nil && res.ExitCode != 0 {
		err = fmt.Errorf("exit code %d: %s", res.ExitCode, res.Stderr)
	}
	if err != nil {
		return "", err
	}
	return strings.TrimSpace(res.Stdout), nil
}

// stoodFor asks the watching process.
func (t target) stoodFor(ctx context.Context, id string) (time.Duration, error) {
	out, err := t.output(ctx, id, stood)
	if err != nil {
		return 0, err
	}
	ms, err := strconv.ParseFloat(out, 64)
	return time.Duration(ms * float64(time.Millisecond)), err
}

// series are durations by name, in the order of the first of each.
type series struct {
	names []string
	took  map[string][]time.Duration
}

func (s *series) add(what string, d time.Duration) {
	if s.took == nil {
		s.took = map[string][]time.Duration{}
	}
	if s.took[what] == nil {
		s.names = append(s.names, what)
	}
	s.took[what] = append(s.took[what], d)
}

func (s *series) rows(suffix string, goals map[string]string) (rows []Row) {
	for _, what := range s.names {
		rows = append(rows, Row{What: what + suffix, Goal: goals[what], Stats: summarise(s.took[what], 0)})
	}
	return rows
}

// pauses measures pause, resume and snapshot, and what a runsc beside it takes.
func (t target) pauses(ctx context.Context) (s Section, err error) {
	s = Section{Title: "Pause, resume, snapshot", Note: "By megabytes that a process has written. Pause: until its answer, memory and files being durable then. Resume: from the request to the answer of the first " +
		"command. Stands still: the longest time that a process inside did not see the clock move, which without a snapshot is some milliseconds, too. runsc: its command line, " +
		"checkpoint without compression or durability, restore and one exec, of a busybox with as much in a tmpfs."}
	for _, d := range dirt {
		m, err := t.pausesOf(ctx, d.mb, t.rounds(d.rounds))
		if err != nil {
			return s, fmt.Errorf("%d MB: %w", d.mb, err)
		}
		goals := map[string]string{"stands still for a snapshot": fmt.Sprintf("≤ %d ms", 50+35*d.mb/100)}
		if d.mb == 0 {
			goals["pause"], goals["resume"] = "p50 ≤ 80 ms", "p50 ≤ 60 ms"
		}
		s.Rows = append(s.Rows, m.rows(fmt.Sprintf(", %d MB", d.mb), goals)...)
		if t.Runsc == "" {
			continue
		}
		beside, err := t.runscPauses(ctx, d.mb, t.rounds(d.rounds))
		if err != nil {
			return s, fmt.Errorf("runsc with %d MB: %w", d.mb, err)
		}
		s.Rows = append(s.Rows, beside.rows(fmt.Sprintf(", %d MB", d.mb), nil)...)
	}
	return s, ctx.Err()
}

func (t target) pausesOf(ctx context.Context, mb, n int) (m series, err error) {
	req := api.CreateSandbox{TimeoutSec: 3600}
	if mb > 512 {
		req.MemoryMB = 2048
	}
	sb, err := t.client.Create(ctx, req)
	if err != nil {
		return m, err
	}
	defer t.end(ctx, sb.ID)
	if _, err := t.client.WaitUntilReady(ctx, sb.ID); err != nil {
		return m, err
	}
	if err := t.fill(ctx, sb.ID, mb); err != nil {
		return m, err
	}
	for i := range n + 1 {
		begun := time.Now()
		if _, err := t.client.Pause(ctx, sb.ID); err != nil {
			return m, fmt.Errorf("pause: %w", err)
		}
		paused := time.Since(begun)
		rest(ctx, t.Refill)
		begun = time.Now()
		if _, err := t.client.Start(ctx, sb.ID); err != nil {
			return m, fmt.Errorf("resume: %w", err)
		}
		if err := t.run(ctx, sb.ID, "true"); err != nil {
			return m, fmt.Errorf("resume: %w", err)
		}
		if i > 0 { // the first has what the start left
			m.add("pause", paused)
			m.add("resume", time.Since(begun))
		}
		rest(ctx, t.Refill)
	}
	if err := t.run(ctx, sb.ID, watch); err != nil {
		return m, err
	}
	for range n {
		rest(ctx, t.Refill)
		if _, err := t.stoodFor(ctx, sb.ID); err != nil {
			return m, err
		}
		begun := time.Now()
		snap, err := t.client.TakeSnapshot(ctx, sb.ID, api.CreateSnapshot{})
		if err == nil {
			snap, err = t.client.WaitForSnapshot(ctx, snap)
		}
		if err != nil || snap.Status != api.SnapshotReady {
			return m, fmt.Errorf("snapshot: %+v, %w", snap, err)
		}
		m.add("snapshot, until durable", time.Since(begun))
		still, err := t.stoodFor(ctx, sb.ID)
		if err != nil {
			return m, err
		}
		m.add("stands still for a snapshot", still)
		if _, err := t.client.DeleteSnapshot(ctx, snap.ID); err != nil {
			return m, err
		}
	}
	return m, nil
}

// rest lets the server make anew what it keeps ready.
func rest(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

// forks measures from the request for copies to the first command's answer in the
// last of them.
func (t target) forks(ctx context.Context) (s Section, err error) {
	s = Section{Title: "Fork of a running sandbox", Note: "From the request to the answer of a command in every copy."}
	id, end, err := t.one(ctx)
	if err != nil {
		return s, err
	}
	defer end()
	for _, f := range []struct {
		copies, rounds int
		what, goal     string
	}{{1, 30, "1 copy", "p50 ≤ 120 ms"}, {16, 10, "16 copies", "≤ 1 s"}} {
		var took []time.Duration
		for range t.rounds(f.rounds) {
			rest(ctx, time.Duration(f.copies)*t.Refill)
			begun := time.Now()
			copies, err := t.client.Fork(ctx, id, api.ForkSandbox{Count: int64(f.copies), TimeoutSec: 600})
			if err != nil {
				return s, fmt.Errorf("fork: %w", err)
			}
			failed := make([]error, len(copies))
			var wg sync.WaitGroup
			for i, c := range copies {
				wg.Go(func() {
					_, failed[i] = t.client.WaitUntilReady(ctx, c.ID)
					if failed[i] == nil {
						failed[i] = t.run(ctx, c.ID, "true")
					}
				})
			}
			wg.Wait()
			took = append(took, time.Since(begun))
			for _, c := range copies {
				wg.Go(func() { t.end(ctx, c.ID) })
			}
			wg.Wait()
			if err := errors.Join(failed...); err != nil {
				return s, err
			}
		}
		s.Rows = append(s.Rows, Row{What: f.what, Goal: f.goal, Stats: summarise(took, 0)})
	}
	return s, ctx.Err()
}

// pausedOnes pauses a hundred and looks what is left of them on the host.
func (t target) pausedOnes(ctx context.Context) (s Section, err error) {
	n := t.rounds(100)
	s = Section{Title: fmt.Sprintf("%d paused sandboxes", n), Note: "Processes and proportional memory of daemon, engine and sentries, before the first and with all of them paused. The daemon's own grows with everything that it has done."}
	var all []start
	defer func() { t.endAll(ctx, all) }()
	look := func() (sentries int, memory int64) {
		for _, p := range t.processes() {
			if p.pid != t.pid {
				memory += kilobytes(p.pid, "smaps_rollup", "Pss")
			}
		}
		return t.sentries(), memory
	}
	if err := settle(ctx); err != nil {
		return s, err
	}
	sentries, memory := look()
	for range n {
		b := t.begin(ctx)
		if b.cause != nil {
			return s, b.cause
		}
		all = append(all, b)
		if _, err := t.client.Pause(ctx, b.id); err != nil {
			return s, fmt.Errorf("pause: %w", err)
		}
	}
	if err := settle(ctx); err != nil {
		return s, err
	}
	sentriesNow, memoryNow := look()
	s.Facts = []Fact{
		{"sentries", fmt.Sprintf("%d → %d", sentries, sentriesNow), "no more than before"},
		{"memory of all but the daemon", mib(memory) + " → " + mib(memoryNow), "no more than before"},
	}
	return s, ctx.Err()
}

// runscPauses does with runsc's command line what a script would.
func (t target) runscPauses(ctx context.Context, mb, n int) (m series, err error) {
	dir, err := os.MkdirTemp(t.Data, "runsc-*") // the same disk
	if err != nil {
		return m, err
	}
	defer os.RemoveAll(dir)
	c := t.runsc(dir)
	if err := c.prepare(busybox, "sh", "-c", fmt.Sprintf("busybox dd if=/dev/urandom of=/dev/fill bs=1M count=%d 2>/dev/null; busybox touch /dev/filled; exec busybox sleep 1000000", mb)); err != nil {
		return m, err
	}
	id := func(i int) string { return fmt.Sprintf("bench-%d-state-%d", os.Getpid(), i) }
	alive := id(0)
	defer func() { c.remove(ctx, alive) }()
	if _, err := c.command(ctx, "run", "--detach", alive); err != nil {
		return m, err
	}
	if _, err := c.command(ctx, "exec", alive, busybox, "sh", "-c", "while [ ! -e /dev/filled ]; do busybox sleep 0.05; done"); err != nil {
		return m, err
	}
	image := filepath.Join(dir, "image")
	for i := range n + 1 {
		if err := errors.Join(os.RemoveAll(image), os.Mkdir(image, 0o755)); err != nil {
			return m, err
		}
		saved, err := c.command(ctx, "checkpoint", "--image-path", image, "--compression", "none", alive)
		if err != nil {
			return m, err
		}
		c.remove(ctx, alive)
		alive = id(i + 1)
		restored, err := c.command(ctx, "restore", "--detach", "--image-path", image, alive)
		if err != nil {
			return m, err
		}
		ran, err := c.command(ctx, "exec", alive, busybox, "true")
		if err != nil {
			return m, err
		}
		if i > 0 {
			m.add("runsc checkpoint", saved)
			m.add("runsc restore and exec", restored+ran)
		}
	}
	return m, nil
}
