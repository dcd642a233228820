// Silica-agent is process 1 of a sandbox: see package agent.
package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"

	"golang.org/x/sys/unix"

	"silica.dev/silica/internal/agent"
	"silica.dev/silica/internal/agent/proc"
	"silica.dev/silica/internal/guest"
)

// version is set by the build.
var version = "dev"

func main() {
	ready := agent.HasReadyPipes() // before anything opens a file
	if err := run(context.Background(), ready); err != nil {
		fmt.Fprintln(os.Stderr, "silica-agent:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, ready bool) error {
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	lean()
	agent.Deafen()
	unix.Umask(0o022)
	// Its memory and descriptors are nobody's business; a kernel without the
	// option shows them to root only all the same.
	_ = unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0)

	cfg := agent.Config{Version: version, Init: os.Getpid() == 1, Log: log}
	if cfg.Init {
		dir, err := proc.MountCgroup()
		if err != nil {
			log.Warn("no process groups in the kernel; process trees are told by session and environment", "err", err)
		}
		cfg.Cgroup = dir
	} else if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("become the parent of orphans: %w", err)
	}
	a, err := agent.New(cfg)
	if err != nil {
		return err
	}
	l, err := agent.Listen(ctx, ":"+strconv.Itoa(int(guest.Port)))
	if err != nil {
		return err
	}
	debug.FreeOSMemory() // what starting took is not to be in every snapshot
	if ready {
		go agent.AnswerReady()
	}
	return a.Serve(ctx, l)
}

// lean keeps the process small: there is one in every sandbox.
func lean() {
	debug.SetGCPercent(50)
	debug.SetMemoryLimit(64 << 20)
	// Two: with one, an agent whose only thread waits for a page of memory can't
	// end the process that has taken all of it.
	runtime.GOMAXPROCS(min(2, runtime.NumCPU()))
}
