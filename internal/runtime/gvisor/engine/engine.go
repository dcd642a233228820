// Package engine drives gVisor through its Go packages in a process of its own,
// so that the API daemon keeps clear of their process-wide side effects.
//
// Everything on the host belongs to a numbered slot: a folder with a state
// file, a network namespace, a cgroup and a sentry. A sandbox is a slot whose
// state file carries its ID. See DESIGN.md.
package engine

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"

	"silica.dev/silica/internal/network"
	"silica.dev/silica/internal/runtime"
	"silica.dev/silica/internal/runtime/gvisor/cgroup"
	"silica.dev/silica/internal/runtime/gvisor/wire"
	"silica.dev/silica/sandbox"
)

// Config is what an engine needs.
type Config struct {
	Dir     string // holds the slots; shared by engines of all IDs
	ID      string // whose slots are ours: those of the same program
	Version string // what snapshots depend on
	Groups  *cgroup.Groups
	Network *network.Network
	Log     *slog.Logger
	// MaxStarts bounds how many restores run at once, the others wait in line.
	// More than two a core only makes everybody late.
	MaxStarts int
	// ReadyTimeout bounds the wait for an agent after a restore or boot.
	ReadyTimeout time.Duration
}

// Overhead is what a sentry itself may need on top of the sandbox's memory:
// measured 20–45 MB after a restore, more with many files and threads.
const Overhead = 96 << 20

// Engine holds the slots of one ID. Calls for one ID never overlap, but for
// Wait, Lookup and Usage.
type Engine struct {
	cfg     Config
	boot    string // boot id of the machine
	creator creator
	line    *semaphore.Weighted // FIFO

	ctx   context.Context // ends with Close, last
	stop  context.CancelFunc
	work  sync.WaitGroup // everything in the background but
	frees sync.WaitGroup // what gives back slots, and
	fill  filler         // what makes empty ones
	pool  pool

	mu    sync.Mutex
	slots map[int]*slot
	byID  map[sandbox.ID]*slot
	// starts are the IDs being started, also before they have a slot.
	starts map[sandbox.ID]*start
}

// start is a Start under way.
type start struct {
	cancel context.CancelFunc
	done   chan struct{}
}

// Open adopts the slots of its ID that an earlier engine left, and frees
// what is of no use.
func Open(cfg Config) (*Engine, error) {
	boot, err := bootID()
	if err != nil {
		return nil, err
	}
	if cfg.MaxStarts <= 0 {
		cfg.MaxStarts = 3
	}
	if cfg.ReadyTimeout <= 0 {
		cfg.ReadyTimeout = 30 * time.Second
	}
	e := &Engine{
		cfg: cfg, boot: boot, line: semaphore.NewWeighted(int64(cfg.MaxStarts)),
		slots: map[int]*slot{}, byID: map[sandbox.ID]*slot{}, starts: map[sandbox.ID]*start{},
	}
	e.pool.wake = make(chan struct{}, 1)
	e.ctx, e.stop = context.WithCancel(context.Background())
	for _, dir := range []string{e.slotsDir(), e.emptyRoot()} {
		if err := os.MkdirAll(dir, 0o711); err != nil {
			return nil, fmt.Errorf("make engine folder: %w", err)
		}
	}
	if err := e.recover(); err != nil {
		e.stop()
		e.work.Wait()
		e.frees.Wait()
		return nil, err
	}
	e.fill.start(e.refill)
	return e, nil
}

func (e *Engine) slotsDir() string  { return filepath.Join(e.cfg.Dir, "slots") }
func (e *Engine) emptyRoot() string { return filepath.Join(e.cfg.Dir, "root") }

// Close stops what the engine does in the background. Empty slots are freed,
// sandboxes go on.
func (e *Engine) Close(ctx context.Context) error {
	e.fill.end()
	for _, s := range e.pool.set(nil) {
		e.freeLater(s)
	}
	freed := make(chan struct{})
	go func() { e.frees.Wait(); close(freed) }()
	var err error
	select {
	case <-freed:
	case <-ctx.Done():
		err = fmt.Errorf("close engine: slots are still being freed: %w", ctx.Err())
	}
	e.stop() // ends the frees too
	e.work.Wait()
	e.frees.Wait()
	for _, s := range e.all() {
		s.release()
	}
	return err
}

func (e *Engine) all() []*slot {
	e.mu.Lock()
	defer e.mu.Unlock()
	all := make([]*slot, 0, len(e.slots))
	for _, s := range e.slots {
		all = append(all, s)
	}
	return all
}

var notFound = sandbox.E(sandbox.NotFound, sandbox.CodeNotFound, "no such sandbox")

// find returns the slot of a sandbox that has one.
func (e *Engine) find(id sandbox.ID) (*slot, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if s := e.byID[id]; s != nil {
		return s, nil
	}
	return nil, notFound
}

// List names every sandbox with a slot, or about to get one.
func (e *Engine) List() []sandbox.ID {
	e.mu.Lock()
	defer e.mu.Unlock()
	ids := make([]sandbox.ID, 0, len(e.byID))
	for id := range e.byID {
		ids = append(ids, id)
	}
	for id := range e.starts {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return slices.Compact(ids)
}

// Lookup says where a sandbox is.
func (e *Engine) Lookup(id sandbox.ID) (wire.Found, error) {
	s, err := e.find(id)
	if err != nil {
		return wire.Found{}, err
	}
	rec := s.record()
	return wire.Found{Address: rec.Address, Pid: rec.Pid, Slot: s.number, Image: rec.ImageRef}, nil
}

// Wait returns when the sandbox has ended, by itself or destroyed.
func (e *Engine) Wait(ctx context.Context, id sandbox.ID) (runtime.Exit, error) {
	s, err := e.find(id)
	if err != nil {
		return runtime.Exit{}, err
	}
	select {
	case <-s.gone:
	case <-ctx.Done():
		return runtime.Exit{}, ctx.Err()
	}
	if exit := s.record().Exit; exit != nil {
		return *exit, nil
	}
	return runtime.Exit{Reason: "the sandbox was destroyed"}, nil
}

// Usage measures a sandbox.
func (e *Engine) Usage(ctx context.Context, id sandbox.ID) (runtime.Usage, error) {
	s, err := e.find(id)
	if err != nil {
		return runtime.Usage{}, err
	}
	g, err := e.cfg.Groups.Usage(s.name())
	if err != nil {
		return runtime.Usage{}, fmt.Errorf("usage of %s: %w", id, err)
	}
	in, out, err := e.cfg.Network.Usage(s.number)
	if err != nil {
		return runtime.Usage{}, fmt.Errorf("usage of %s: %w", id, err)
	}
	return runtime.Usage{CPU: g.CPU, Memory: g.Memory, NetworkIn: in, NetworkOut: out}, nil
}

// Limits tells what the kernel holds a sandbox to.
func (e *Engine) Limits(id sandbox.ID) (sandbox.Resources, error) {
	s, err := e.find(id)
	if err != nil {
		return sandbox.Resources{}, err
	}
	l, err := e.cfg.Groups.InForce(s.name())
	if err != nil {
		return sandbox.Resources{}, fmt.Errorf("limits of %s: %w", id, err)
	}
	return sandbox.Resources{MilliCPU: l.MilliCPU, Memory: l.Memory}, nil
}

// Snapshot saves memory and files of a running sandbox to an empty folder.
func (e *Engine) Snapshot(ctx context.Context, id sandbox.ID, dir string) error {
	s, err := e.find(id)
	if err != nil {
		return err
	}
	if s.record().Phase != running || s.ended() {
		return sandbox.E(sandbox.Conflict, sandbox.CodeNotRunning, "the sandbox isn't running")
	}
	done := make(chan error, 1)
	e.work.Go(func() { done <- s.sentry.checkpoint(dir) })
	select {
	case err = <-done:
	case <-ctx.Done():
		// The save can't be stopped, but it ends by itself; the folder is the caller's.
		err = ctx.Err()
	}
	if err != nil {
		return fmt.Errorf("snapshot %s: %w", id, err)
	}
	return nil
}
