package engine

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// process is a sentry as the host sees it: a handle that can't be mistaken for
// a later process with the same number.
type process struct {
	pid   int
	start uint64 // clock ticks since boot, from /proc/PID/stat
	pidfd *os.File
}

// openProcess takes a handle of pid. With start not 0, only the process that
// started then will do: numbers are used again.
func openProcess(pid int, start uint64) (*process, error) {
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("open process %d: %w", pid, err)
	}
	p := &process{pid: pid, pidfd: os.NewFile(uintptr(fd), "pidfd")}
	// Read after the handle is taken: if the time fits, the handle fits too.
	p.start, err = startTime(pid)
	if err == nil && start != 0 && p.start != start {
		err = fmt.Errorf("process %d started at %d, not at %d: another one", pid, p.start, start)
	}
	if err != nil {
		p.pidfd.Close()
		return nil, err
	}
	return p, nil
}

// startTime reads field 22 of /proc/PID/stat. The name, field 2, may hold
// anything, so fields are counted from its closing parenthesis.
func startTime(pid int) (uint64, error) {
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, fmt.Errorf("start time of %d: %w", pid, err)
	}
	_, rest, ok := bytes.Cut(stat[bytes.LastIndexByte(stat, ')')+1:], []byte(" "))
	fields := bytes.Fields(rest)
	if !ok || len(fields) < 20 {
		return 0, fmt.Errorf("start time of %d: unknown format", pid)
	}
	return strconv.ParseUint(string(fields[19]), 10, 64)
}

// kill ends the process. Its pid namespace, and so every stub, goes with it.
func (p *process) kill() error { return p.signal(unix.SIGKILL) }

// signal sends a signal; a process that has ended does not mind.
func (p *process) signal(sig unix.Signal) error {
	var err error
	cerr := p.control(func(fd int) { err = unix.PidfdSendSignal(fd, sig, nil, 0) })
	if cerr != nil || err == unix.ESRCH {
		return cerr
	}
	return err
}

// alive tells whether the process still runs.
func (p *process) alive() bool {
	var n int
	err := p.control(func(fd int) { n, _ = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0) })
	return err == nil && n == 0
}

// wait returns when the process has ended, and reaps it if it is a child of
// ours; status is only meaningful then.
func (p *process) wait(ctx context.Context) (status unix.WaitStatus, child bool, err error) {
	rc, err := p.pidfd.SyscallConn()
	if err != nil {
		return 0, false, err
	}
	stop := context.AfterFunc(ctx, func() { p.pidfd.SetReadDeadline(longAgo) })
	defer stop()
	err = rc.Read(func(fd uintptr) bool {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
		return n > 0 || (err != nil && err != unix.EINTR)
	})
	if err != nil {
		if ctx.Err() != nil {
			return 0, false, ctx.Err()
		}
		return 0, false, fmt.Errorf("wait for process %d: %w", p.pid, err)
	}
	got, err := unix.Wait4(p.pid, &status, unix.WNOHANG, nil)
	return status, err == nil && got == p.pid, nil
}

func (p *process) control(f func(fd int)) error {
	rc, err := p.pidfd.SyscallConn()
	if err != nil {
		return err
	}
	return rc.Control(func(fd uintptr) { f(int(fd)) })
}

func (p *process) close() { p.pidfd.Close() }
