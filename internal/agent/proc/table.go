// Package proc runs processes and knows everything that lives because of them,
// so that nothing else in the agent need fork, wait or kill.
//
// One goroutine waits for every child (the agent is process 1 and inherits the
// orphans), one locked thread starts them. What a process leaves behind stays in
// its group, whatever it does to its session or parents, until the last member
// is gone.
package proc

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"silica.dev/silica/internal/agent/journal"
	"silica.dev/silica/sandbox"
)

const (
	// DefaultLimit is how many tasks users may have at once.
	DefaultLimit = 1024
	// ownTasks is room under RLIMIT_NPROC for the agent's own threads, which
	// count for the same user.
	ownTasks = 16
	// tick is how often limits are looked at while anything runs.
	tick = time.Second
	// remembered is how many ended processes stay listed.
	remembered = 32
)

// Trouble is something the host should hear about.
type Trouble int

// The troubles.
const (
	ProcessLimit Trouble = iota + 1
	TreeKilled
	DiskFull
	OutOfMemory
)

// Config says how a Table behaves. Its functions must not block.
type Config struct {
	// Cgroup is an open folder of a pids hierarchy of version 1 in which groups
	// are made; nil falls back to walking /proc.
	Cgroup *os.File
	// Rlimit makes the process limit an RLIMIT_NPROC of the whole process. It is
	// what binds in gVisor, where root is no exception unless privileged, and
	// where a fork is charged to an arbitrary hierarchy, not always to pids.
	Rlimit bool
	// Everyone says that whatever runs here belongs to the sandbox, tracked or
	// not: the agent is process 1.
	Everyone bool
	// Disk is the folder whose file system is watched for being full.
	Disk string
	// Journals keeps what spawned processes write; nil: there are none.
	Journals *journal.Store
	// Report is told about troubles.
	Report func(Trouble, string)
}

// Table holds the processes.
type Table struct {
	cfg      Config
	launcher *launcher
	tracker  tracker
	null     *os.File
	scan     scanner
	bufs     sync.Pool // *[chunk]byte
	wg       sync.WaitGroup
	forked   chan struct{} // wakes the reaper that found no children
	closing  chan struct{}

	// launching is held from before a fork until its pid is in running, so that
	// the reaper can't meet a child that is unknown only because it is too new.
	launching sync.Mutex

	mu      sync.Mutex
	running map[int]*Process   // by pid, until reaped
	groups  map[group]*Process // that have or may have members
	ended   []*Process         // the last few that Run started, oldest first
	spawned spawned
	limit   int
	ticker  *time.Timer
	ticking bool
	full    bool // the disk; noticed once
	crowded bool // the process limit; noticed once
}

// NewTable starts the launcher and the reaper. Close ends both.
func NewTable(cfg Config) (*Table, error) {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("open the null device: %w", err)
	}
	t := &Table{
		cfg:     cfg,
		null:    null,
		bufs:    sync.Pool{New: func() any { return new([chunk]byte) }},
		forked:  make(chan struct{}, 1),
		closing: make(chan struct{}),
		running: map[int]*Process{},
		groups:  map[group]*Process{},
		spawned: spawned{byID: map[uint64]*Process{}},
	}
	if err := t.scan.open(); err != nil {
		return nil, err
	}
	if cfg.Cgroup != nil {
		t.tracker = newCgroupTracker(cfg.Cgroup)
	} else {
		t.tracker = &walkTracker{scan: &t.scan}
	}
	t.ticker = time.AfterFunc(time.Hour, t.look)
	t.ticker.Stop()
	t.SetLimit(DefaultLimit)
	if t.launcher, err = startLauncher(); err != nil {
		return nil, err
	}
	t.wg.Go(t.reap)
	return t, nil
}

// Close kills everything and waits until it is gone.
func (t *Table) Close() {
	close(t.closing)
	t.mu.Lock()
	all := make([]*Process, 0, len(t.groups))
	for _, p := range t.groups {
		all = append(all, p)
	}
	t.mu.Unlock()
	for _, p := range all {
		t.killTree(p)
		p.closeInput()
	}
	t.launcher.stop()
	t.signalForked()
	t.wg.Wait()
	t.ticker.Stop()
	t.null.Close()
}

// SetLimit changes how many tasks users may have; n <= 0 is the default. What
// runs already keeps the limit it was started under.
func (t *Table) SetLimit(n int) {
	if n <= 0 {
		n = DefaultLimit
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if n == t.limit {
		return
	}
	t.limit = n
	t.tracker.setLimit(n)
	if t.cfg.Rlimit {
		max := uint64(n + ownTasks)
		// Fails only without CAP_SYS_RESOURCE; the tick still guards then.
		_ = unix.Setrlimit(unix.RLIMIT_NPROC, &unix.Rlimit{Cur: max, Max: max})
	}
}

// reap waits for every child there is and hands each its status.
func (t *Table) reap() {
	for {
		var ws unix.WaitStatus
		pid, err := unix.Wait4(-1, &ws, 0, nil)
		switch {
		case err == nil:
			t.reaped(pid, ws)
		case errors.Is(err, unix.EINTR):
		default: // ECHILD: nobody, and so no orphans either
			select {
			case <-t.forked:
			case <-t.closing:
				// A launch may have been under way.
				if _, err := unix.Wait4(-1, &ws, unix.WNOHANG, nil); err != nil {
					return
				}
			}
		}
	}
}

func (t *Table) signalForked() {
	select {
	case t.forked <- struct{}{}:
	default:
	}
}

func (t *Table) reaped(pid int, ws unix.WaitStatus) {
	p := t.take(pid)
	if p == nil {
		t.launching.Lock() // a launch under way registers first
		p = t.take(pid)
		t.launching.Unlock()
		if p == nil {
			return // an orphan
		}
	}
	p.finish(ws)
	t.settle(p)
}

func (t *Table) take(pid int) *Process {
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.running[pid]
	if p == nil {
		return nil
	}
	delete(t.running, pid)
	if p.id != 0 {
		return p
	}
	if len(t.ended) == remembered {
		t.ended = slices.Delete(t.ended, 0, 1)
	}
	t.ended = append(t.ended, p)
	return p
}

// settle frees the group of an ended process if nobody is left in it; the tick
// comes back to those that have members.
func (t *Table) settle(p *Process) (gone bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.groups[p.group] != p {
		return true
	}
	if !p.isDone() {
		return false
	}
	if n := p.group.count(); n > 0 {
		if n >= crowdedAt(t.limit) && !t.crowded {
			t.ticker.Reset(0) // its end may have been a refused fork
		}
		return false
	}
	delete(t.groups, p.group)
	t.tracker.release(p.group, !p.killing)
	return true
}

// Ref names a process: by the id it was spawned under or, if that is 0, by its
// number, which may be another's one day.
type Ref struct {
	ID  uint64
	PID int
}

func (r Ref) String() string {
	if r.PID != 0 {
		return fmt.Sprintf("process %d", r.PID)
	}
	return fmt.Sprintf("process of id %d", r.ID)
}

// find returns a process while it or anything it started lives; a spawned one
// also later.
func (t *Table) find(ref Ref) (*Process, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if ref.ID != 0 {
		if p := t.spawned.byID[ref.ID]; p != nil {
			return p, nil
		}
	} else if p := t.running[ref.PID]; p != nil {
		return p, nil
	} else {
		for _, p := range t.groups {
			if p.PID == ref.PID {
				return p, nil
			}
		}
	}
	return nil, sandbox.E(sandbox.NotFound, sandbox.CodeNotFound, "no "+ref.String()+" was started here, or it has ended")
}

func errEnded(ref Ref) error {
	return sandbox.E(sandbox.NotFound, sandbox.CodeNotFound, ref.String()+" has ended")
}

// Signal sends a signal to a process or to everything in its tree. A tree can
// be signalled after its first process has ended.
func (t *Table) Signal(ref Ref, signal int, tree bool) error {
	if signal < 0 || signal > 64 {
		return sandbox.Field("signal", "must be between 0 and 64")
	}
	p, err := t.find(ref)
	if err != nil {
		return err
	}
	return t.signal(p, ref, unix.Signal(signal), tree)
}

func (t *Table) signal(p *Process, ref Ref, sig unix.Signal, tree bool) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if tree {
		if t.groups[p.group] != p { // the group may be another's by now
			return errEnded(ref)
		}
		if sig == unix.SIGKILL {
			t.killTreeLocked(p)
			return nil
		}
		for _, m := range p.group.members(nil) {
			_ = unix.Kill(m, sig) // it may have ended meanwhile
		}
		return nil
	}
	if t.running[p.PID] != p { // never signal a number that may be another's by now
		return errEnded(ref)
	}
	if err := unix.Kill(p.PID, sig); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("signal %d: %w", p.PID, err)
	}
	return nil
}

// killTree begins to kill everything in p's group and returns at once.
func (t *Table) killTree(p *Process) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.killTreeLocked(p)
}

func (t *Table) killTreeLocked(p *Process) {
	if p.killing || t.groups[p.group] != p {
		return
	}
	p.killing = true
	t.wg.Go(func() {
		killGroup(p.group)
		t.settle(p)
	})
}

// unkillable is how long the same processes may stay before killGroup gives up.
const unkillable = 10 * time.Second

// killGroup kills until nobody is left.
func killGroup(g group) {
	var buf, before []int
	deadline := time.Now().Add(unkillable)
	for pause := time.Millisecond; ; pause = min(2*pause, 20*time.Millisecond) {
		if buf = hold(g, buf); len(buf) == 0 {
			return
		}
		for _, pid := range buf {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
		switch now := time.Now(); {
		case !slices.Equal(buf, before): // on a busy machine a fork bomb takes its time to end
			before, deadline = slices.Clone(buf), now.Add(unkillable)
		case now.After(deadline):
			return
		}
		time.Sleep(pause) // the dead need a moment to leave
	}
}

// hold stops everybody in a group, or nearly, and returns them. A fork bomb that is
// killed one by one has room to fork at once; the stopped go on taking up the limit.
func hold(g group, buf []int) []int {
	stopped := map[int]bool{}
	for range 4 { // who is not met yet is in the next round of killing
		buf = g.members(buf[:0])
		known := len(stopped)
		for _, pid := range buf {
			if !stopped[pid] {
				stopped[pid] = true
				_ = unix.Kill(pid, unix.SIGSTOP)
			}
		}
		if len(stopped) == known {
			break
		}
	}
	return buf
}

// Count tells how many processes there are besides the agent.
func (t *Table) Count() int { return t.scan.count() }

// watchLimits makes sure that the tick runs. It is armed at most once a period,
// so that a quick command does not pay for it, and runs out when nothing lives:
// an idle agent never wakes.
func (t *Table) watchLimitsLocked() {
	if !t.ticking {
		t.ticking = true
		t.ticker.Reset(tick)
	}
}

// look is the tick.
func (t *Table) look() {
	t.mu.Lock()
	ps := make([]*Process, 0, len(t.groups))
	for _, p := range t.groups {
		ps = append(ps, p)
	}
	t.mu.Unlock()

	total := 0
	var largest *Process
	most := 0
	for _, p := range ps {
		if t.settle(p) {
			continue
		}
		n := p.group.count()
		total += n
		if n > most {
			largest, most = p, n
		}
	}
	t.lookAtDisk()
	if t.cfg.Everyone {
		total = max(total, t.scan.count()) // also those who got out of their group
	}
	t.lookAtCrowd(total, largest, most)

	t.mu.Lock()
	defer t.mu.Unlock()
	t.ticking = len(t.groups) > 0
	select {
	case <-t.closing:
		t.ticking = false
	default:
	}
	if t.ticking {
		t.ticker.Reset(tick)
	}
}

// crowdedAt is how many tasks mean that forks are being refused: who is refused
// often ends, so that the limit itself is rarely seen.
func crowdedAt(limit int) int { return limit - limit/50 - 1 }

// lookAtCrowd reports that the limit is reached. Whoever got around it, by
// changing users, is killed: too many tasks end the whole sandbox otherwise.
func (t *Table) lookAtCrowd(total int, largest *Process, most int) {
	t.mu.Lock()
	limit, was := t.limit, t.crowded
	if total >= crowdedAt(limit) {
		t.crowded = true
	} else if total < limit-limit/10 {
		t.crowded = false
	}
	now := t.crowded
	t.mu.Unlock()
	if now && !was {
		t.report(ProcessLimit, fmt.Sprintf("%d processes are running; forks beyond the limit of %d are refused", total, limit))
	}
	switch {
	case total <= limit+limit/4+ownTasks:
	case largest != nil && most >= total/2:
		t.report(ProcessLimit, fmt.Sprintf("%d processes got past the limit of %d; %q and all it started were ended", total, limit, largest.name()))
		t.killTree(largest)
	case t.cfg.Everyone: // they hide from their groups
		t.report(ProcessLimit, fmt.Sprintf("%d processes got past the limit of %d; all were ended", total, limit))
		_ = unix.Kill(-1, unix.SIGKILL) // nobody left is fine
	}
}

// almost is how little free space counts as none.
const almost = 64 << 10

func (t *Table) lookAtDisk() {
	if t.cfg.Disk == "" {
		return
	}
	var st unix.Statfs_t
	if err := unix.Statfs(t.cfg.Disk, &st); err != nil || st.Blocks == 0 {
		return
	}
	free := st.Bavail * uint64(st.Bsize)
	t.mu.Lock()
	was := t.full
	if free < almost {
		t.full = true
	} else if st.Bavail > st.Blocks/100 {
		t.full = false
	}
	now := t.full
	t.mu.Unlock()
	if now && !was {
		t.report(DiskFull, fmt.Sprintf("the disk is full: %d MB are used", (st.Blocks-st.Bfree)*uint64(st.Bsize)>>20))
	}
}

// CheckDisk looks at the disk now, after a write that found no room.
func (t *Table) CheckDisk() { t.lookAtDisk() }

func (t *Table) report(what Trouble, text string) {
	if t.cfg.Report != nil {
		t.cfg.Report(what, text)
	}
}

// Run starts a process and hands its events to sink until it has exited.
// Everything it started is killed when ctx ends first.
//
// A command that can't be found or executed is not an error: it exits 127 or 126
// with a line on standard error, as in a shell.
func (t *Table) Run(ctx context.Context, spec Spec, sink Sink) error {
	if err := spec.check(); err != nil {
		return err
	}
	p := newProcess(spec)
	code, text, err := t.begin(p, spec)
	switch {
	case err != nil:
		return err
	case code != 0:
		return refuse(sink, spec, code, text)
	}
	return t.follow(ctx, p, spec, sink)
}

// begin starts a process, or tells as which exit code and line a shell would
// show that it can't.
func (t *Table) begin(p *Process, spec Spec) (code int, text string, err error) {
	path, code, text := lookup(spec)
	if code != 0 {
		return code, text, nil
	}
	if err = t.start(p, spec, path); err == nil {
		return 0, "", nil
	}
	code, text, ok := refusal(spec.Args[0], err)
	if !ok {
		return 0, "", err
	}
	if code == exitNoFork {
		t.report(ProcessLimit, fmt.Sprintf("%q could not be started: %s", spec.Args[0], err))
	}
	return code, text, nil
}
