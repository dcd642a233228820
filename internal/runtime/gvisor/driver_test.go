package gvisor_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"silica.dev/silica/internal/runtime"
	"silica.dev/silica/internal/runtime/runtimetest"
	"silica.dev/silica/sandbox"
)

func TestContract(t *testing.T) {
	runtimetest.Run(t, func(t *testing.T) runtimetest.Fixture {
		h := newHost(t)
		return runtimetest.Fixture{
			Driver: h.driver, Image: h.image, Resources: small,
			Reopen: func() runtime.Driver { return h.reopen() },
			Kill:   h.kill,
			Damage: h.damage,
		}
	})
}

// kill ends a sandbox's sentry.
func (h *host) kill(id sandbox.ID) error {
	pid := h.sentry(id)
	if pid == 0 {
		return fmt.Errorf("no sentry of %s", id)
	}
	return unix.Kill(pid, unix.SIGKILL)
}

// damage flips one byte in the middle of a snapshot's memory.
func (h *host) damage(ref sandbox.Ref) error {
	dir, release, err := h.blobs.Open(context.Background(), ref)
	if err != nil {
		return err
	}
	defer release()
	f, err := os.OpenFile(filepath.Join(dir, "pages.img"), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	b := make([]byte, 1)
	if _, err := f.ReadAt(b, info.Size()/2); err != nil {
		return err
	}
	b[0] ^= 0xff
	_, err = f.WriteAt(b, info.Size()/2)
	return err
}
