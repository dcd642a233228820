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
	"silica.dev/silica/sandbox"
)

const (
	// maxOrphans is how many bytes of files that have no name any more a kept
	// layer may hold. Each is there for ever: nobody can open or delete it.
	maxOrphans = 4 << 20
	// killWithin bounds the wait for a sandbox's agent to end all else.
	killWithin = 5 * time.Second
)

// Keep saves the files of a running sandbox to an empty folder. The sandbox
// stands still from then on, until Thaw or Destroy; after an error it runs on.
func (e *Engine) Keep(ctx context.Context, id sandbox.ID, dir string) error {
	s, err := e.find(id)
	if err != nil {
		return err
	}
	if s.record().Phase != running || s.ended() {
		return sandbox.E(sandbox.Conflict, sandbox.CodeNotRunning, "the sandbox isn't running")
	}
	done := make(chan error, 1)
	e.work.Go(func() {
		err := e.keep(ctx, s, dir)
		if err != nil || ctx.Err() != nil { // or nobody will know that it stands still
			err = errors.Join(err, context.Cause(ctx), s.sentry.proc.signal(unix.SIGCONT))
		}
		done <- err
	})
	select {
	case err = <-done:
	case <-ctx.Done():
		err = context.Cause(ctx) // the save ends by itself; the folder is the caller's
	}
	if err != nil {
		return fmt.Errorf("keep the files of %s: %w", id, err)
	}
	return nil
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
	if err := s.sentry.proc.signal(unix.SIGCONT); err != nil {
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
	return s.sentry.saveFiles(dir)
}

// endProcesses has the agent end all processes but its own.
func endProcesses(ctx context.Context, address string) error {
	ctx, cancel := context.WithTimeout(ctx, killWithin)
	defer cancel()
	agent := guest.NewClient(func(ctx context.Context) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "tcp4", net.JoinHostPort(address, strconv.Itoa(int(guest.Port))))
	})
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

// Thaw lets a sandbox run on that Keep left standing.
func (e *Engine) Thaw(id sandbox.ID) error {
	s, err := e.find(id)
	if err != nil {
		return err
	}
	if s.sentry == nil {
		return nil // it has ended
	}
	return s.sentry.proc.signal(unix.SIGCONT)
}
