package engine

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"silica.dev/silica/internal/runtime"
)

// recover goes through what is on the host: running sandboxes are adopted, what
// was half done is undone, and what belongs to no slot is freed.
func (e *Engine) recover() error {
	// What the host has is listed before the folders, and a slot's folder is
	// made first and removed last: what has none then is nobody's.
	hostSlots, err := e.hostSlots()
	if err != nil {
		return err
	}
	entries, err := os.ReadDir(e.slotsDir())
	if err != nil {
		return fmt.Errorf("read slots: %w", err)
	}
	owned := map[int]bool{}
	for _, entry := range entries {
		n, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue // a claim that was not finished, maybe another engine's now
		}
		owned[n] = true
		dir := filepath.Join(e.slotsDir(), entry.Name())
		rec, err := loadRecord(dir)
		if errors.Is(err, os.ErrNotExist) {
			// Freed up to the folder itself; only its own engine would do that.
			rec, err = record{Engine: e.cfg.ID, Phase: dying}, nil
		}
		if err != nil {
			e.cfg.Log.Error("a slot is not understood and left alone", "dir", dir, "err", err)
			continue
		}
		if rec.Engine == e.cfg.ID {
			e.recoverSlot(n, dir, rec)
		}
	}
	for _, n := range hostSlots {
		if !owned[n] {
			e.cfg.Log.Warn("freeing what no slot owns", "slot", n)
			e.freeLater(e.deadSlot(n, filepath.Join(e.slotsDir(), strconv.Itoa(n)), record{Slot: n}))
		}
	}
	return nil
}

// hostSlots lists the numbers that have a namespace or a cgroup.
func (e *Engine) hostSlots() ([]int, error) {
	found, err := e.cfg.Network.List()
	if err != nil {
		return nil, fmt.Errorf("list networks: %w", err)
	}
	groups, err := e.cfg.Groups.List()
	if err != nil {
		return nil, err
	}
	for _, name := range groups {
		if n, err := strconv.Atoi(name[1:]); err == nil && slotName(n) == name {
			found = append(found, n)
		}
	}
	return found, nil
}

func (e *Engine) recoverSlot(n int, dir string, rec record) {
	log := e.cfg.Log.With("slot", n, "sandbox", rec.ID)
	if rec.Phase != running || rec.ID == "" {
		// Empty sentries go too: their ready pipes ended with the last engine.
		log.Info("freeing what was half done", "phase", rec.Phase)
		e.freeLater(e.deadSlot(n, dir, rec))
		return
	}
	if rec.Exit == nil {
		if err := e.adoptSlot(n, dir, rec); err == nil {
			log.Info("adopted")
			return
		} else {
			log.Warn("a sandbox ended while no engine watched", "err", err, "panic", panicText(dir))
		}
		exit := runtime.Exit{Reason: endedUnwatched}
		if rec.Boot != e.boot {
			exit.Reason = "the machine was restarted"
		} else if oom, err := e.cfg.Groups.OOMKilled(slotName(n)); err == nil && oom {
			exit = outOfMemory
		}
		rec.Exit = &exit
	}
	s := e.deadSlot(n, dir, rec)
	if err := s.update(func(*record) {}); err != nil {
		log.Error("record of an ended sandbox", "err", err)
	}
}

func (e *Engine) adoptSlot(n int, dir string, rec record) error {
	if rec.Boot != e.boot {
		return errors.New("the machine was restarted")
	}
	sen, err := adopt(dir, slotName(n), rec.Pid, rec.StartTime)
	if err != nil {
		return err
	}
	if !sen.proc.alive() { // a zombie that nobody reaps
		sen.proc.close()
		return fmt.Errorf("process %d has ended", rec.Pid)
	}
	s := &slot{number: n, dir: dir, sentry: sen, gone: make(chan struct{}), rec: rec}
	e.register(s)
	e.work.Go(func() { e.watch(s) })
	e.work.Go(func() { e.guard(s) })
	return nil
}

// deadSlot makes a slot without a sentry. What may still run in it is in its
// cgroup.
func (e *Engine) deadSlot(n int, dir string, rec record) *slot {
	s := &slot{number: n, dir: dir, gone: make(chan struct{}), rec: rec}
	close(s.gone)
	if rec.Phase != running {
		s.rec.ID = "" // never ready, so nobody was told of it
	}
	e.register(s)
	return s
}

func (e *Engine) register(s *slot) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.slots[s.number] = s
	if s.rec.ID != "" {
		e.byID[s.rec.ID] = s
	}
}
