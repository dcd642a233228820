package proc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"silica.dev/silica/internal/agent/journal"
	"silica.dev/silica/internal/agent/vfork"
	"silica.dev/silica/sandbox"
)

const (
	// chunk bounds one Output and, with the pipe, what is held of a slow
	// reader's process.
	chunk = 32 << 10
	// quiet and patience bound how long an ended process's exit is held back
	// for what its children are still writing.
	quiet    = 5 * time.Millisecond
	patience = 50 * time.Millisecond
	// keepalive is how long a stream may be silent.
	keepalive = 30 * time.Second
)

// Process is one that Run or Spawn started.
type Process struct {
	PID     int
	args    []string
	dir     string
	started time.Time
	group   group
	pty     bool

	// Of those that Spawn started.
	id      uint64 // 0: Run did
	label   Label
	journal *journal.Journal

	outs  []output // what it writes to us
	done  chan struct{}
	ws    unix.WaitStatus // this and ended are valid once done is closed
	ended time.Time
	told  chan struct{} // closed when all it wrote is in its journal
	past  *Exit         // of one that another agent ran

	timer       atomic.Pointer[time.Timer] // of its timeout
	timedOut    atomic.Bool
	outOfMemory atomic.Bool
	killing     bool // under Table.mu: its tree is being killed

	inMu sync.Mutex
	in   *os.File // nil: none, or closed
}

type output struct {
	f      *os.File
	stream Stream
}

func (p *Process) name() string { return p.args[0] }

func (p *Process) isDone() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

func newProcess(spec Spec) *Process {
	return &Process{args: spec.Args, dir: spec.Dir, started: time.Now(), done: make(chan struct{}), pty: spec.PTY != nil}
}

// start makes the plumbing and the process.
func (t *Table) start(p *Process, spec Spec, path string) (err error) {
	var child [3]int
	opened := make([]int, 0, 3) // the child's ends, closed here in any case
	defer func() {
		for _, fd := range opened {
			unix.Close(fd)
		}
		if err != nil {
			p.closeInput()
			for _, o := range p.outs {
				o.f.Close()
			}
		}
	}()

	if spec.PTY != nil {
		master, slave, err := openPTY(*spec.PTY)
		if err != nil {
			return err
		}
		opened = append(opened, slave)
		child = [3]int{slave, slave, slave}
		p.outs, p.in = []output{{master, Terminal}}, master
	} else {
		for i, s := range []Stream{Stdout, Stderr} {
			r, w, err := outPipe()
			if err != nil {
				return err
			}
			opened = append(opened, w)
			child[i+1] = w
			p.outs = append(p.outs, output{r, s})
		}
		child[0] = int(t.null.Fd())
		if spec.Stdin {
			w, r, err := inPipe()
			if err != nil {
				return err
			}
			opened = append(opened, r)
			child[0], p.in = r, w
		}
	}
	return t.launch(p, spec, path, child)
}

// launch forks in a group of its own and registers the process.
func (t *Table) launch(p *Process, spec Spec, path string, child [3]int) error {
	t.launching.Lock()
	defer t.launching.Unlock()
	t.mu.Lock()
	g, err := t.tracker.group()
	t.mu.Unlock()
	if err != nil {
		return err
	}
	command := vfork.Command{
		Path: path, Args: spec.Args, Dir: spec.Dir, Files: child, Terminal: p.pty,
		Env: append(spec.Env[:len(spec.Env):len(spec.Env)], g.env()...),
	}
	pid, err := t.launcher.start(g, command)
	if errors.Is(err, unix.ENOEXEC) { // a script without a first line: as execvp
		command.Path, command.Args = "/bin/sh", append([]string{"sh", path}, spec.Args[1:]...)
		pid, err = t.launcher.start(g, command)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if err != nil {
		t.tracker.release(g, true)
		return err
	}
	g.attach(pid)
	p.PID, p.group = pid, g
	t.running[pid] = p
	t.groups[g] = p
	t.watchLimitsLocked()
	t.signalForked()
	return nil
}

// finish notes the status and wakes whoever reads its output.
func (p *Process) finish(ws unix.WaitStatus) {
	p.ws, p.ended = ws, time.Now()
	close(p.done)
	p.wake()
	if timer := p.timer.Load(); timer != nil {
		timer.Stop()
	}
	if !p.pty {
		p.closeInput()
	}
}

// wake interrupts the reads of p's output.
func (p *Process) wake() {
	for _, o := range p.outs {
		_ = o.f.SetReadDeadline(past) // closed already: nothing to wake
	}
}

var past = time.Unix(1, 0)

// exit tells how it ended, once done is closed.
func (p *Process) exit() Exit {
	if p.past != nil {
		return *p.past
	}
	e := Exit{Code: p.ws.ExitStatus()}
	if p.ws.Signaled() {
		e.Signal = p.ws.Signal()
		e.Code = 128 + int(e.Signal)
	}
	e.TimedOut = p.timedOut.Load()
	e.OutOfMemory = p.outOfMemory.Load() && e.Code != 0
	return e
}

// follow carries a started process's events to sink until it has exited.
func (t *Table) follow(ctx context.Context, p *Process, spec Spec, sink Sink) error {
	f := &follower{table: t, p: p, sink: sink, last: p.started}
	stop := context.AfterFunc(ctx, f.hangUp)
	defer stop()
	if spec.Timeout > 0 {
		timer := time.AfterFunc(spec.Timeout, func() {
			if !p.isDone() {
				p.timedOut.Store(true)
				t.killTree(p)
			}
		})
		p.timer.Store(timer)
		if p.isDone() { // before it could see the timer
			timer.Stop()
		}
	}
	if k, ok := sink.(Keepaliver); ok {
		beat := time.AfterFunc(keepalive, func() { f.beat(k) })
		f.beatTimer.Store(beat)
		defer beat.Stop()
	}

	f.tell(func() error { return sink.Started(p.PID) })
	var pumps sync.WaitGroup
	for _, o := range p.outs[1:] {
		pumps.Go(func() { f.pump(o) })
	}
	f.pump(p.outs[0])
	pumps.Wait()
	<-p.done

	exit := p.exit()
	if exit.TimedOut {
		t.report(TreeKilled, fmt.Sprintf("%q ran longer than %s; it and all it started were killed", p.name(), spec.Timeout))
	}
	f.tell(func() error { return sink.Exited(exit) })
	return ctx.Err()
}

// follower is one stream's hold on a process.
type follower struct {
	table *Table
	p     *Process
	gone  atomic.Bool // nobody listens any more

	beatTimer atomic.Pointer[time.Timer]

	mu   sync.Mutex // orders the calls of sink
	sink Sink
	last time.Time
}

// hangUp is what the end of the client's connection means: the tree dies with it.
func (f *follower) hangUp() {
	if f.gone.CompareAndSwap(false, true) {
		f.table.killTree(f.p)
	}
}

func (f *follower) tell(event func() error) {
	if f.gone.Load() {
		return
	}
	f.mu.Lock()
	err := event()
	f.last = time.Now()
	f.mu.Unlock()
	if err != nil {
		f.hangUp()
	}
}

func (f *follower) beat(k Keepaliver) {
	f.mu.Lock()
	rest := keepalive - time.Since(f.last)
	f.mu.Unlock()
	if rest <= 0 {
		f.tell(k.Keepalive)
		rest = keepalive
	}
	if t := f.beatTimer.Load(); t != nil && !f.gone.Load() && !f.p.isDone() {
		t.Reset(rest)
	}
}

// pump carries one output until its end, or until the process has exited and
// what it wrote has been told. What remains open then is read to nowhere, so
// that those who still write neither block nor get SIGPIPE.
func (f *follower) pump(o output) {
	send := func(data []byte) {
		f.tell(func() error { return f.sink.Output(o.stream, data) })
	}
	for {
		_, err := f.table.readOnce(o.f, send)
		if err == nil {
			continue
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			o.f.Close() // the end of the pipe, EIO of a terminal without users
			return
		}
		break // finish woke us
	}
	if !f.drain(o, send) {
		f.table.wg.Go(func() { f.table.discard(o.f) })
		return
	}
	o.f.Close()
}

// drain tells what is in the pipe of an exited process now, and what its
// children add at once. It reports whether the pipe has ended.
func (f *follower) drain(o output, send func([]byte)) (ended bool) {
	start, rest := time.Now(), pending(o.f)
	for {
		n, err := f.table.readNow(o.f, send)
		late := time.Since(start) > patience
		switch {
		case n > 0:
			rest -= n
			if rest <= 0 && late {
				return false // all the process wrote, and its children don't stop
			}
		case !errors.Is(err, unix.EAGAIN):
			return true
		case late || f.gone.Load():
			return false
		default:
			_ = o.f.SetReadDeadline(time.Now().Add(quiet))
			if waitReadable(o.f) == nil {
				continue
			}
			if n, err = f.table.readNow(o.f, send); n == 0 {
				return !errors.Is(err, unix.EAGAIN)
			}
		}
	}
}

// pending is how many bytes a pipe holds.
func pending(file *os.File) (n int) {
	rc, err := file.SyscallConn()
	if err != nil {
		return 0
	}
	_ = rc.Control(func(fd uintptr) {
		if n, err = unix.IoctlGetInt(int(fd), unix.TIOCINQ); err != nil {
			n = 0
		}
	})
	return n
}

// waitReadable returns nil when there is something to read, an end included.
func waitReadable(file *os.File) error {
	rc, err := file.SyscallConn()
	if err != nil {
		return err
	}
	asked := false
	return rc.Read(func(uintptr) bool {
		was := asked
		asked = true
		return was
	})
}

// readNow reads once without waiting, whatever the deadline: EAGAIN when there
// is nothing, [io.EOF] at the end.
func (t *Table) readNow(file *os.File, use func([]byte)) (n int, err error) {
	rc, err := file.SyscallConn()
	if err != nil {
		return 0, err
	}
	buf := t.bufs.Get().(*[chunk]byte)
	defer t.bufs.Put(buf)
	var errno error
	if err := rc.Control(func(fd uintptr) { n, errno = read(fd, buf[:]) }); err != nil {
		return 0, err
	}
	switch {
	case errno != nil:
		return 0, errno
	case n <= 0:
		return 0, io.EOF
	}
	use(buf[:n])
	return n, nil
}

func read(fd uintptr, buf []byte) (n int, err error) {
	for {
		if n, err = unix.Read(int(fd), buf); err != unix.EINTR {
			return n, err
		}
	}
}

// readOnce waits for data, borrows a buffer only then, and hands on what one
// read gave. io.EOF at the end.
func (t *Table) readOnce(file *os.File, use func([]byte)) (n int, err error) {
	rc, err := file.SyscallConn()
	if err != nil {
		return 0, err
	}
	var buf *[chunk]byte
	var errno error
	err = rc.Read(func(fd uintptr) bool {
		if buf == nil {
			buf = t.bufs.Get().(*[chunk]byte)
		}
		n, errno = read(fd, buf[:])
		if errno == unix.EAGAIN {
			t.bufs.Put(buf)
			buf = nil
			return false
		}
		return true
	})
	if buf != nil {
		defer t.bufs.Put(buf)
	}
	if err == nil {
		err = errno
	}
	if err != nil {
		return 0, err
	}
	if n <= 0 {
		return 0, io.EOF
	}
	use(buf[:n])
	return n, nil
}

// discard reads to nowhere until nobody writes any more, or the table closes.
func (t *Table) discard(file *os.File) {
	defer file.Close()
	for {
		_, err := t.readOnce(file, func([]byte) {})
		if errors.Is(err, os.ErrDeadlineExceeded) { // the process has exited meanwhile
			err = file.SetReadDeadline(time.Time{})
		}
		if err != nil {
			return
		}
	}
}

// Input writes to a process's standard input or terminal. It blocks while the
// process does not read, until ctx ends.
func (t *Table) Input(ctx context.Context, ref Ref, data []byte, end bool) error {
	p, err := t.find(ref)
	if err != nil {
		return err
	}
	p.inMu.Lock()
	in := p.in
	p.inMu.Unlock()
	if in == nil {
		return errNoInput
	}
	if len(data) > 0 {
		stop := context.AfterFunc(ctx, func() { _ = in.SetWriteDeadline(past) })
		_, err := in.Write(data)
		if !stop() {
			_ = in.SetWriteDeadline(time.Time{})
		}
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			return errNoInput.Because(err)
		}
	}
	if end {
		if p.pty {
			_, _ = in.Write([]byte{4}) // a terminal has no other end than ^D
			return nil
		}
		p.closeInput()
	}
	return nil
}

var errNoInput = sandbox.E(sandbox.Conflict, sandbox.CodeConflict, "the process does not read standard input")

// closeInput closes the pipe to standard input; a terminal is closed by its reader.
func (p *Process) closeInput() {
	p.inMu.Lock()
	defer p.inMu.Unlock()
	if p.in != nil && !p.pty {
		p.in.Close()
	}
	p.in = nil
}

// Resize changes a terminal's size.
func (t *Table) Resize(ref Ref, size Size) error {
	p, err := t.find(ref)
	if err != nil {
		return err
	}
	if !p.pty || p.past != nil {
		return sandbox.E(sandbox.Conflict, sandbox.CodeConflict, "the process has no terminal")
	}
	changed, err := setSize(p.outs[0].f, size)
	if err != nil && p.isDone() { // and so closed
		return errEnded(ref)
	}
	if changed {
		// gVisor's terminals tell nobody, and do not say who is in the
		// foreground; to the others, and a second time, the signal does no harm.
		_ = t.signal(p, ref, unix.SIGWINCH, true) // it may have ended meanwhile
	}
	return err
}
