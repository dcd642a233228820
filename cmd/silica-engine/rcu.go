package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"

	"golang.org/x/sys/unix"
)

// rcu is the host's setting that makes process starts and exits three times
// faster: each registers for, or waits for, a grace period. Engines of one host share it.
type rcu struct {
	setting string // the kernel's file
	shared  string // locked by whoever wants it; holds the value from before
}

var hostRCU = rcu{setting: "/sys/kernel/rcu_expedited", shared: "/run/silica-rcu-expedited"}

// expedite switches it on. The returned func puts back what was there before,
// unless another engine still wants it.
func (r rcu) expedite(log *slog.Logger) (restore func()) {
	f, err := r.acquire()
	if err != nil {
		log.Info("RCU grace periods stay as they are", "err", err)
		return func() {}
	}
	return func() {
		defer f.Close()
		if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil {
			return // the other one will
		}
		before, err := os.ReadFile(r.shared)
		if err == nil {
			err = errors.Join(os.WriteFile(r.setting, before, 0), f.Truncate(0))
		}
		if err != nil {
			log.Warn("RCU grace periods stay expedited", "err", err)
		}
	}
}

func (r rcu) acquire() (*os.File, error) {
	now, err := os.ReadFile(r.setting)
	if err != nil {
		return nil, err
	}
	f, err := os.OpenFile(r.shared, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_SH); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", r.shared, err)
	}
	// Not empty: another engine runs, or one was killed that had set it.
	before, err := io.ReadAll(f)
	if err == nil && len(before) == 0 {
		_, err = f.WriteAt(now, 0)
	}
	if err == nil {
		err = os.WriteFile(r.setting, []byte("1"), 0)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}
