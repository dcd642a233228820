package engine

import (
	"archive/tar"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/sentry/state/checkpointfiles"

	"silica.dev/silica/internal/guest"
	"silica.dev/silica/internal/guest/guestpb"
	"silica.dev/silica/internal/runtime/gvisor/wire"
	"silica.dev/silica/sandbox"
)

const (
	// maxOrphans is how many bytes of files that have no name any more a kept
	// layer may hold. Each is there for ever: nobody can open or delete it.
	maxOrphans = 4 << 20
	// killWithin bounds the wait for a sandbox's agent to end all else.
	killWithin = 5 * time.Second
	// heldFor is how long an agent may be silent before it is taken for held.
	heldFor = 5 * time.Second
)

// Keep saves the files of a running sandbox to an empty folder. The sandbox
// stands still from then on, until Thaw or Destroy; after an error it runs on.
func (e *Engine) Keep(ctx context.Context, id sandbox.ID, dir string) error {
	err := e.saving(ctx, id, true, func(ctx context.Context, s *slot) error { return e.keep(ctx, s, dir) })
	if err != nil {
		return fmt.Errorf("keep the files of %s: %w", id, err)
	}
	return nil
}

// Save saves memory and files of a running sandbox, as they are at one moment, to
// two empty folders. It stands still from then on if that is asked for; after an
// error it runs on.
func (e *Engine) Save(ctx context.Context, req wire.SaveRequest) error {
	err := e.saving(ctx, req.ID, req.Stand, func(_ context.Context, s *slot) error {
		if err := s.sentry.saveFiles(req.Files); err != nil {
			return err
		}
		return s.sentry.checkpoint(req.Memory)
	})
	if err != nil {
		return fmt.Errorf("save %s: %w", req.ID, err)
	}
	return nil
}

// saving holds a running sandbox while save does its work, and lets it go after
// that unless it is to stand still: then it is stopped as a whole, so that it
// acknowledges nothing that is not saved.
func (e *Engine) saving(ctx context.Context, id sandbox.ID, stand bool, save func(context.Context, *slot) error) error {
	s, err := e.find(id)
	if err != nil {
		return err
	}
	if s.record().Phase != running || s.ended() {
		return sandbox.E(sandbox.Conflict, sandbox.CodeNotRunning, "the sandbox isn't running")
	}
	done := make(chan error, 1)
	e.work.Go(func() {
		err := s.hold()
		if err == nil {
			err = save(ctx, s)
		}
		if err == nil && stand {
			err = s.sentry.proc.signal(unix.SIGSTOP)
		}
		if err != nil || !stand || ctx.Err() != nil { // or nobody will know that it stands still
			err = errors.Join(err, context.Cause(ctx), s.letGo(e.ctx))
		}
		done <- err
	})
	select {
	case err = <-done:
		return err
	case <-ctx.Done():
		return context.Cause(ctx) // the save ends by itself; the folder is the caller's
	}
}

// hold has the kernel hold every process. One that stands still already is woken
// for it as far as its kernel.
func (s *slot) hold() error {
	s.holding.Lock()
	defer s.holding.Unlock()
	if err := s.sentry.proc.signal(unix.SIGCONT); err != nil {
		return fmt.Errorf("let it run for the save: %w", err)
	}
	if s.held {
		return nil
	}
	if s.record().Held { // by an engine that is gone, or maybe not
		return sandbox.E(sandbox.Unavailable, sandbox.CodeUnavailable, "the sandbox stands still: thaw it first")
	}
	if err := s.update(func(r *record) { r.Held = true }); err != nil {
		return err
	}
	if err := s.sentry.pause(); err != nil {
		return err
	}
	s.held = true
	return nil
}

// letGo lets a sandbox run on, whoever held it. Of one that an engine held which
// is gone nobody knows whether its kernel was told; a resume too many would end
// it, so its agent is asked first.
func (s *slot) letGo(ctx context.Context) error {
	s.holding.Lock()
	defer s.holding.Unlock()
	if err := s.sentry.proc.signal(unix.SIGCONT); err != nil {
		return err
	}
	if !s.record().Held || s.ended() {
		return nil
	}
	if s.held || !answers(ctx, s.record().Address) {
		if err := s.sentry.resume(); err != nil && !s.ended() {
			return err
		}
		s.held = false
	}
	return s.update(func(r *record) { r.Held = false })
}

// answers tells whether an agent does anything at all.
func answers(ctx context.Context, address string) bool {
	ctx, cancel := context.WithTimeout(ctx, heldFor)
	defer cancel()
	agent := agentAt(address)
	defer agent.Close()
	_, err := agent.Metrics(ctx)
	return err == nil
}

func agentAt(address string) *guest.Client {
	return guest.NewClient(func(ctx context.Context) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "tcp4", net.JoinHostPort(address, strconv.Itoa(int(guest.Port))))
	})
}

// keep saves, and once more without processes when these hold deleted files open:
// saved, such a file would take disk for ever, and more at every stop.
func (e *Engine) keep(ctx context.Context, s *slot, dir string) error {
	if err := s.sentry.saveFiles(dir); err != nil {
		return err
	}
	n, err := orphans(dir)
	if err != nil || n <= maxOrphans {
		return err
	}
	e.cfg.Log.Info("deleted files are still open: ending what holds them", "sandbox", s.record().ID, "bytes", n)
	if err := s.letGo(ctx); err != nil {
		return err
	}
	if err := endProcesses(ctx, s.record().Address); err != nil {
		e.cfg.Log.Warn("what holds deleted files open could not be ended", "sandbox", s.record().ID, "err", err)
	}
	for _, name := range layerFiles {
		if err := os.Remove(filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	if err := s.hold(); err != nil {
		return err
	}
	return s.sentry.saveFiles(dir)
}

// endProcesses has the agent end all processes but its own.
func endProcesses(ctx context.Context, address string) error {
	ctx, cancel := context.WithTimeout(ctx, killWithin)
	defer cancel()
	agent := agentAt(address)
	defer agent.Close()
	for _, err := range agent.Start(ctx, &guestpb.StartRequest{Args: []string{"/bin/sh", "-c", "kill -KILL -1"}, TimeoutMs: killWithin.Milliseconds()}) {
		if err != nil {
			return err
		}
	}
	return nil
}

// orphans is how many bytes a saved layer has beyond what its named files hold.
func orphans(dir string) (int64, error) {
	pages, err := os.Stat(filepath.Join(dir, checkpointfiles.PagesFileName))
	if err != nil {
		return 0, err
	}
	f, err := os.Open(filepath.Join(dir, checkpointfiles.FSCheckpointMultiTarFileName))
	if err != nil {
		return 0, err
	}
	defer f.Close()
	// A regular file of this tar is its size, then its segments: start and end
	// in the file, and where in the pages.
	const header, segment = 8, 24
	left := pages.Size()
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return max(left, 0), nil
		}
		if err != nil {
			return 0, fmt.Errorf("read saved names: %w", err)
		}
		if h.Typeflag != tar.TypeReg || h.Size <= header {
			continue
		}
		if _, err := io.CopyN(io.Discard, r, header); err != nil {
			return 0, fmt.Errorf("read saved names: %w", err)
		}
		var s [segment]byte
		for n := (h.Size - header) / segment; n > 0; n-- {
			if _, err := io.ReadFull(r, s[:]); err != nil {
				return 0, fmt.Errorf("read saved names: %w", err)
			}
			left -= int64(binary.LittleEndian.Uint64(s[8:]) - binary.LittleEndian.Uint64(s[:]))
		}
	}
}

// Thaw lets a sandbox run on that Keep or Save left standing.
func (e *Engine) Thaw(ctx context.Context, id sandbox.ID) error {
	s, err := e.find(id)
	if err != nil {
		return err
	}
	if s.sentry == nil {
		return nil // it has ended
	}
	return s.letGo(ctx)
}
