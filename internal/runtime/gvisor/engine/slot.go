package engine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/sentry/state/checkpointfiles"

	"silica.dev/silica/internal/network"
	"silica.dev/silica/internal/runtime/gvisor/cgroup"
	"silica.dev/silica/sandbox"
)

// key is what an empty slot can't change any more: it serves exactly the starts
// with the same.
type key struct {
	image     string
	ref       sandbox.Ref
	resources sandbox.Resources
	files     string // folder with the writable layer to boot with; empty: none
}

func (k key) limits() cgroup.Limits {
	return cgroup.Limits{MilliCPU: k.resources.MilliCPU, Memory: k.resources.Memory, Overhead: Overhead + k.reading()}
}

// reading is what a sentry needs for once to read the names of a writable layer,
// which it does all together. It made them in the memory it had then, so it
// should be let read them: at most it gets that much again.
func (k key) reading() int64 {
	if k.files == "" {
		return 0
	}
	info, err := os.Stat(filepath.Join(k.files, checkpointfiles.FSCheckpointMultiTarFileName))
	if err != nil {
		return 0 // opening it will fail
	}
	return min(3*info.Size(), k.resources.Memory)
}

// slot is everything that one sandbox has on the host. Its resources carry its
// number, so that they are found without it.
type slot struct {
	number int
	dir    string
	net    *network.Namespace // nil in adopted ones
	sentry *sentry            // nil until created
	gone   chan struct{}      // closed when the sentry has ended
	short  atomic.Int64       // Unix nanoseconds when its guard last saw it short of memory

	mu  sync.Mutex
	rec record

	// holding is locked while the kernel is told to hold or let go its processes.
	holding sync.Mutex
	held    bool // this engine told it to hold them
}

// name is the slot's name in cgroups and in gVisor.
func (s *slot) name() string { return slotName(s.number) }

func slotName(n int) string { return "s" + strconv.Itoa(n) }

func (s *slot) record() record {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.rec
}

// update changes the record on disk, then in memory.
func (s *slot) update(change func(*record)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	next := s.rec
	change(&next)
	if err := next.save(s.dir); err != nil {
		return err
	}
	s.rec = next
	return nil
}

func (s *slot) ended() bool {
	select {
	case <-s.gone:
		return true
	default:
		return false
	}
}

// release gives up the engine's handles and leaves the host's side alone.
func (s *slot) release() {
	if s.sentry != nil {
		s.sentry.closePipes()
		s.sentry.proc.close()
	}
}

// claimNumber makes the folder of a free slot with its first record in it. The
// rename is the claim: other engines take numbers from the same
// folder, and nobody sees a slot without a record.
func (e *Engine) claimNumber(rec record) (*slot, error) {
	tmp, err := os.MkdirTemp(e.slotsDir(), ".new-")
	if err != nil {
		return nil, fmt.Errorf("make slot folder: %w", err)
	}
	taken := e.takenNumbers()
	for n := 0; n < e.cfg.Network.Slots(); n++ {
		if taken[n] {
			continue
		}
		rec.Slot = n
		if err := rec.save(tmp); err != nil {
			return nil, errors.Join(err, os.RemoveAll(tmp))
		}
		dir := filepath.Join(e.slotsDir(), strconv.Itoa(n))
		err := os.Rename(tmp, dir)
		if err == nil {
			s := &slot{number: n, dir: dir, gone: make(chan struct{}), rec: rec}
			e.mu.Lock()
			e.slots[n] = s
			e.mu.Unlock()
			return s, nil
		}
		if !errors.Is(err, fs.ErrExist) {
			return nil, errors.Join(fmt.Errorf("claim slot %d: %w", n, err), os.RemoveAll(tmp))
		}
	}
	return nil, errors.Join(sandbox.E(sandbox.Exhausted, sandbox.CodeHostFull, "the host has no room for another sandbox"), os.RemoveAll(tmp))
}

func (e *Engine) takenNumbers() map[int]bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	taken := make(map[int]bool, len(e.slots))
	for n := range e.slots {
		taken[n] = true
	}
	return taken
}

// newSlot makes a slot with an empty sentry. On an error nothing is left.
func (e *Engine) newSlot(ctx context.Context, k key, id sandbox.ID) (_ *slot, err error) {
	rec := record{Engine: e.cfg.ID, Phase: making, ID: id, ImageRef: k.ref, Image: k.image, Resources: k.resources, Boot: e.boot}
	s, err := e.claimNumber(rec)
	if err != nil {
		return nil, err
	}
	if id != "" {
		e.mu.Lock()
		e.byID[id] = s
		e.mu.Unlock()
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, e.free(context.WithoutCancel(ctx), s))
		}
	}()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if s.net, err = e.newNamespace(ctx, s.number); err != nil {
		return nil, err
	}
	if err := e.newGroup(ctx, s.name(), k.limits()); err != nil {
		return nil, fmt.Errorf("slot %d: %w", s.number, err)
	}
	if err := e.cfg.Groups.Placement(s.name(), k.limits()).Save(s.dir); err != nil {
		return nil, fmt.Errorf("slot %d: %w", s.number, err)
	}
	spec := newSpec("/"+string(k.ref), e.emptyRoot(), s.net.Path, k.resources.Disk)
	if s.sentry, err = e.creator.create(s.dir, s.name(), k.image, k.files, spec, k.resources.Disk); err != nil {
		return nil, fmt.Errorf("slot %d: %w", s.number, err)
	}
	err = s.update(func(r *record) {
		r.Phase, r.Pid, r.StartTime = empty, s.sentry.proc.pid, s.sentry.proc.start
		r.Address = s.net.GuestAddr.Addr().String()
	})
	e.work.Go(func() { e.watch(s) })
	return s, err
}

// newGroup makes a slot's cgroup anew. The slot is ours, so whatever is in an
// old one is a leftover.
func (e *Engine) newGroup(ctx context.Context, name string, l cgroup.Limits) error {
	err := e.cfg.Groups.Create(name, l)
	if !errors.Is(err, fs.ErrExist) {
		return err
	}
	if err := errors.Join(e.cfg.Groups.KillAll(ctx, name), e.cfg.Groups.Remove(ctx, name)); err != nil {
		return err
	}
	return e.cfg.Groups.Create(name, l)
}

// watch waits for the slot's sentry to end, and says why it did if nobody asked.
func (e *Engine) watch(s *slot) {
	status, child, err := s.sentry.proc.wait(e.ctx)
	if err != nil {
		return // the engine ends, not the sentry
	}
	rec := s.record()
	log := e.cfg.Log.With("slot", s.number, "sandbox", rec.ID)
	if rec.Phase != dying && rec.Exit == nil {
		exit := exitOf(status, child)
		// Read while the group is there: the answer goes with it.
		oom, err := e.cfg.Groups.OOMKilled(s.name())
		if err == nil && oom || status.Signaled() && s.wasShort() {
			exit = outOfMemory
		}
		log.Warn("sentry ended by itself", "reason", exit.Reason, "panic", panicText(s.dir))
		if err := s.update(func(r *record) { r.Exit = &exit }); err != nil {
			log.Error("record of an ended sentry", "err", err)
		}
	}
	close(s.gone)
	if rec.Phase == empty && e.pool.remove(s) {
		e.freeLater(s)
	}
}

// end kills the sentry and waits until it is gone.
func (s *slot) end(ctx context.Context) error {
	if err := s.sentry.proc.kill(); err != nil {
		return fmt.Errorf("kill sentry of slot %d: %w", s.number, err)
	}
	ctx, cancel := context.WithTimeout(ctx, killPatience)
	defer cancel()
	select {
	case <-s.gone:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("sentry of slot %d does not end: %w", s.number, ctx.Err())
	}
}

// killPatience bounds the wait for a killed process, which only a stuck kernel
// call makes long.
const killPatience = 10 * time.Second

// free gives back everything a slot has on the host, from nothing but names, and
// forgets it. It may be repeated after an error.
func (e *Engine) free(ctx context.Context, s *slot) error {
	err := s.update(func(r *record) { r.Phase = dying })
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if s.sentry != nil {
		if err := s.end(ctx); err != nil {
			return err
		}
	}
	// KillAll is for what was started and not yet recorded.
	errs := []error{
		e.cfg.Groups.KillAll(ctx, s.name()),
		e.cfg.Network.Destroy(ctx, s.number),
		e.cfg.Groups.Remove(ctx, s.name()),
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("free slot %d: %w", s.number, err)
	}
	if err := os.RemoveAll(s.dir); err != nil {
		return fmt.Errorf("free slot %d: %w", s.number, err)
	}
	s.release()
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.slots, s.number)
	if id := s.record().ID; id != "" && e.byID[id] == s {
		delete(e.byID, id)
	}
	return nil
}
