package proc

import (
	"cmp"
	"context"
	"encoding/json"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"silica.dev/silica/internal/agent/journal"
	"silica.dev/silica/sandbox"
)

// keptEnded is how many ended processes stay, with their output.
const keptEnded = 256

// Label is what a spawned process is to its owner.
type Label struct {
	Kind    string // "terminal", "process" …
	Name    string
	Command string // as the owner wrote it
}

// spawned are the processes that have ids. Table.mu guards it.
type spawned struct {
	byID  map[uint64]*Process
	ended []uint64 // oldest first
}

// head describes a process to an agent that finds its journal.
type head struct {
	PID     int       `json:"pid"`
	Label   Label     `json:"label"`
	Args    []string  `json:"args"`
	Dir     string    `json:"dir"`
	PTY     bool      `json:"pty,omitempty"`
	Started time.Time `json:"started"`
}

// last is how it ended, at the end of its journal.
type last struct {
	Exit  Exit      `json:"exit"`
	Ended time.Time `json:"ended"`
}

// Spawn starts a process that goes on until it ends or is ended, whoever
// listens; its output is kept. A command that can't be run is an error.
func (t *Table) Spawn(spec Spec, label Label) (Info, error) {
	p := newProcess(spec)
	p.label, p.told = label, make(chan struct{})
	p.journal = t.cfg.Journals.Create()
	p.id = p.journal.ID
	if err := t.spawn(p, spec); err != nil {
		t.cfg.Journals.Remove(p.journal)
		return Info{}, err
	}
	p.journal.Describe(p.head())
	t.mu.Lock()
	t.spawned.byID[p.id] = p
	t.mu.Unlock()
	t.wg.Go(func() {
		_ = t.follow(context.Background(), p, spec, keeper{p.journal}) // a keeper never fails
		p.journal.Close(mustJSON(last{p.exit(), p.ended}))
		close(p.told)
		t.retire(p.id)
	})
	return p.info(), nil
}

// Serve starts a process that writes into its owner's journal, after what is
// there, and calls over when it has ended.
func (t *Table) Serve(spec Spec, label Label, j *journal.Journal, over func(*Process, Exit)) (*Process, error) {
	p := newProcess(spec)
	p.label, p.journal, p.id = label, j, j.ID
	if err := t.spawn(p, spec); err != nil {
		return nil, err
	}
	t.wg.Go(func() {
		_ = t.follow(context.Background(), p, spec, keeper{j})
		over(p, p.exit())
	})
	return p, nil
}

// SignalTree sends a signal to a process and everything it started, as far as
// they live.
func (t *Table) SignalTree(p *Process, sig unix.Signal) {
	_ = t.signal(p, Ref{ID: p.id}, sig, true)
}

// spawn begins a process that has a journal.
func (t *Table) spawn(p *Process, spec Spec) error {
	if err := spec.check(); err != nil {
		return err
	}
	code, text, err := t.begin(p, spec)
	text = spec.Args[0] + ": " + text
	switch code {
	case 0:
		return err
	case exitNoFork:
		return sandbox.E(sandbox.Conflict, sandbox.CodeConflict, text)
	case exitNotRun:
		return sandbox.E(sandbox.Forbidden, sandbox.CodePermissionDenied, text)
	}
	return sandbox.E(sandbox.NotFound, sandbox.CodeFileNotFound, text)
}

// head is small whatever the command: it stands in every segment.
func (p *Process) head() []byte {
	h := head{PID: p.PID, Label: p.label, Args: p.args, Dir: p.dir, PTY: p.pty, Started: p.started}
	const most = 8 << 10
	raw := mustJSON(h)
	if len(raw) > most {
		h.Args, h.Label.Command = nil, cut(h.Label.Command, most/8)
		raw = mustJSON(h)
	}
	return raw
}

func cut(s string, n int) string { return s[:min(len(s), n)] }

func mustJSON(v any) []byte {
	raw, err := json.Marshal(v)
	if err != nil {
		panic("encode a description: " + err.Error()) // only types of our own
	}
	return raw
}

// keeper is the Sink that is always there.
type keeper struct{ j *journal.Journal }

func (k keeper) Started(int) error { return nil }
func (k keeper) Exited(Exit) error { return nil }
func (k keeper) Output(s Stream, data []byte) error {
	k.j.Append(byte(s), data)
	return nil
}

// retire notes that a spawned process has ended, and forgets the oldest.
func (t *Table) retire(id uint64) {
	t.mu.Lock()
	t.spawned.ended = append(t.spawned.ended, id)
	var old *Process
	if len(t.spawned.ended) > keptEnded {
		old = t.spawned.byID[t.spawned.ended[0]]
		delete(t.spawned.byID, t.spawned.ended[0])
		t.spawned.ended = slices.Delete(t.spawned.ended, 0, 1)
	}
	t.mu.Unlock()
	if old != nil {
		t.cfg.Journals.Remove(old.journal)
	}
}

// Remember takes over the journals of processes that ended with the sandbox, or
// before it. The others are returned.
func (t *Table) Remember(loaded []journal.Loaded) (others []journal.Loaded) {
	for _, l := range loaded {
		var h head
		if json.Unmarshal(l.Head, &h) != nil || h.Label.Kind == "" {
			others = append(others, l)
			continue
		}
		end := last{Exit: Exit{Code: 128 + int(unix.SIGKILL), Signal: unix.SIGKILL}, Ended: h.Started}
		if l.Tail != nil {
			_ = json.Unmarshal(l.Tail, &end) // damaged: as if it had been killed
		}
		p := &Process{
			PID: h.PID, args: h.Args, dir: h.Dir, started: h.Started, pty: h.PTY, id: l.ID, label: h.Label, journal: l.Journal,
			done: make(chan struct{}), told: make(chan struct{}), ended: end.Ended, past: &end.Exit,
		}
		close(p.done)
		close(p.told)
		t.mu.Lock()
		t.spawned.byID[p.id] = p
		t.mu.Unlock()
		t.retire(p.id)
	}
	return others
}

// Info describes a process for lists.
type Info struct {
	ID      uint64 // 0: it was not spawned
	PID     int
	Label   Label
	Args    []string
	Dir     string
	PTY     bool
	Started time.Time
	Running bool
	Exit    Exit // this and Ended once it does not run
	Ended   time.Time
	// What is kept of its output.
	First, End uint64
}

func (p *Process) info() Info {
	i := Info{ID: p.id, PID: p.PID, Label: p.label, Args: p.args, Dir: p.dir, PTY: p.pty, Started: p.started, Running: !p.isDone()}
	if !i.Running {
		i.Exit, i.Ended = p.exit(), p.ended
	}
	if p.journal != nil {
		i.First, i.End = p.journal.Range()
	}
	return i
}

// List names what runs and what ended lately, by start. A kind leaves only the
// spawned ones of it.
func (t *Table) List(kind string) []Info {
	t.mu.Lock()
	var all []*Process
	if kind == "" {
		all = append(all, t.ended...)
		for _, p := range t.running {
			if p.id == 0 || t.spawned.byID[p.id] == nil {
				all = append(all, p)
			}
		}
	}
	for _, p := range t.spawned.byID {
		if kind == "" || p.label.Kind == kind {
			all = append(all, p)
		}
	}
	t.mu.Unlock()
	list := make([]Info, len(all))
	for i, p := range all {
		list[i] = p.info()
	}
	slices.SortFunc(list, func(a, b Info) int {
		return cmp.Or(a.Started.Compare(b.Started), cmp.Compare(a.ID, b.ID))
	})
	return list
}

// Get describes a spawned process.
func (t *Table) Get(id uint64) (Info, error) {
	p, err := t.find(Ref{ID: id})
	if err != nil {
		return Info{}, err
	}
	return p.info(), nil
}

// Replay says where Attach begins and whether it goes on.
type Replay struct {
	Offset uint64
	Lines  int  // if not 0, begin so many lines before the end
	Live   bool // begin at the end
	Once   bool // end with what is there
	Quiet  bool // only the exit is wanted
}

// Observer receives what Attach tells: Attached first, Exited last.
type Observer interface {
	Attached(i Info, offset uint64) error
	journal.Visitor
	Exited(Exit) error
}

// Attach tells what a spawned process wrote and writes. A slow observer misses
// some of it and is told so.
func (t *Table) Attach(ctx context.Context, id uint64, r Replay, o Observer) error {
	p, err := t.find(Ref{ID: id})
	if err != nil {
		return err
	}
	from := r.Start(p.journal)
	if err := o.Attached(p.info(), from); err != nil {
		return err
	}
	if r.Quiet {
		select {
		case <-p.told:
			return o.Exited(p.exit())
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	ended, err := p.journal.Read(ctx, from, r.Once, o)
	if err != nil || !ended {
		return err
	}
	return o.Exited(p.exit())
}

// Start finds where to begin in a journal.
func (r Replay) Start(j *journal.Journal) uint64 {
	_, end := j.Range()
	switch {
	case r.Live:
		return end
	case r.Lines > 0:
		return j.Tail(r.Lines)
	}
	return min(r.Offset, end)
}
