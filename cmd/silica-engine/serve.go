package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"os/signal"
	"time"

	"golang.org/x/sys/unix"

	"silica.dev/silica/internal/network"
	"silica.dev/silica/internal/runtime/gvisor/cgroup"
	"silica.dev/silica/internal/runtime/gvisor/engine"
	"silica.dev/silica/internal/runtime/gvisor/wire"
)

// serve runs the engine until the daemon or a signal ends it. Sandboxes go on.
func serve(args []string) error {
	fs := flag.NewFlagSet("serve", flag.ContinueOnError)
	id := fs.String("id", "", "whose slots are this engine's; empty: the program's digest")
	dir := fs.String("dir", "", "folder of the slots, shared by engines of all ids")
	socket := fs.String("socket", "", "unix socket to answer on")
	top := fs.String("cgroup", "silica", "cgroup that holds the slots'")
	netName := fs.String("net-name", "", "prefix of devices and namespaces; empty: the default")
	var netPrefix netip.Prefix
	fs.TextVar(&netPrefix, "net-prefix", netPrefix, "IPv4 `range` of the sandboxes' networks; invalid: the default")
	maxStarts := fs.Int("max-starts", 0, "starts at once; 0: the default")
	rcu := fs.Bool("rcu-expedited", true, "expedite RCU grace periods on the host while the engine runs")
	if err := fs.Parse(args); err != nil {
		return err
	}
	if *dir == "" || *socket == "" {
		return errors.New("serve needs --dir and --socket")
	}
	log := slog.New(slog.NewTextHandler(logFile(), nil))
	if err := reserve(); err != nil {
		return err
	}
	if *id == "" {
		var err error
		if *id, err = selfDigest(); err != nil {
			return err
		}
	}
	if version == "" {
		version = *id
	}
	unlock, err := lock(*socket + ".lock")
	if err != nil {
		return err
	}
	defer unlock()
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT)
	defer stop()

	if *rcu {
		restore := hostRCU.expedite(log)
		defer restore()
	}
	groups, err := cgroup.Open(cgroup.Config{Top: *top})
	if err != nil {
		return err
	}
	net, err := network.New(network.Config{Prefix: netPrefix, NamePrefix: *netName})
	if err != nil {
		return err
	}
	defer net.Close()
	e, err := engine.Open(engine.Config{
		Dir: *dir, ID: *id, Version: version, Groups: groups, Network: net, Log: log, MaxStarts: *maxStarts,
	})
	if err != nil {
		return err
	}
	l, err := wire.Listen(*socket)
	if err == nil {
		err = e.Serve(ctx, l)
	}
	closing, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return errors.Join(err, e.Close(closing))
}

// lock keeps a second engine off the same slots. It ends with the process.
func lock(path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock engine: %w", err)
	}
	// The last engine may be on its way out.
	for tries := 0; ; tries++ {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { f.Close() }, nil
		}
		if tries == 100 {
			f.Close()
			return nil, fmt.Errorf("another engine runs: %w", err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// logFile moves standard error to a descriptor of its own and points the first
// three at the null device: the library hands these to every sandbox.
func logFile() io.Writer {
	fd, err := unix.FcntlInt(2, unix.F_DUPFD_CLOEXEC, 10)
	if err != nil {
		return io.Discard
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return io.Discard
	}
	defer null.Close()
	for std := range 3 {
		_ = unix.Dup3(int(null.Fd()), std, 0)
	}
	return os.NewFile(uintptr(fd), "log")
}

// reserve occupies the numbers a sentry wants for the sandbox's own stdin, stdout
// and stderr. The library opens descriptors without close-on-exec while it
// starts a sentry; one that had such a number here would have it there too, and the
// sentry would refuse: met with some fifty sandboxes.
func reserve() error {
	const first, last = 256, 258
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("reserve descriptors: %w", err)
	}
	defer null.Close()
	for fd := first; fd <= last; fd++ {
		if err := unix.Dup3(int(null.Fd()), fd, unix.O_CLOEXEC); err != nil {
			return fmt.Errorf("reserve descriptor %d: %w", fd, err)
		}
	}
	return nil
}

// selfDigest names this program by its content.
func selfDigest() (string, error) {
	f, err := os.Open("/proc/self/exe")
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", fmt.Errorf("digest of the engine: %w", err)
	}
	return hex.EncodeToString(h.Sum(nil)[:16]), nil
}
