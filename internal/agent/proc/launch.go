package proc

import (
	"fmt"
	"runtime"
	"strconv"

	"golang.org/x/sys/unix"

	"silica.dev/silica/internal/agent/vfork"
)

// kept are the capabilities of users' processes: what container engines give
// by default. Mounting, tracing the agent, modules, clocks and devices are out.
var kept = []uintptr{
	unix.CAP_CHOWN, unix.CAP_DAC_OVERRIDE, unix.CAP_FSETID, unix.CAP_FOWNER, unix.CAP_MKNOD,
	unix.CAP_NET_RAW, unix.CAP_SETGID, unix.CAP_SETUID, unix.CAP_SETFCAP, unix.CAP_SETPCAP,
	unix.CAP_NET_BIND_SERVICE, unix.CAP_SYS_CHROOT, unix.CAP_KILL, unix.CAP_AUDIT_WRITE,
}

// launcher forks from one thread whose bounding set is reduced. The thread keeps
// its own privileges, so that a start succeeds where users' forks are refused;
// they end with exec.
type launcher struct {
	work chan launchRequest
	done chan struct{}
	// openFiles is what programs may have open: few, until they ask for more.
	openFiles unix.Rlimit
}

type launchRequest struct {
	group   group
	command vfork.Command
	reply   chan launched
}

type launched struct {
	pid int
	err error
}

// execError is what the kernel says to starting the command itself.
type execError struct{ error }

func (e *execError) Unwrap() error { return e.error }

func startLauncher() (*launcher, error) {
	l := &launcher{work: make(chan launchRequest), done: make(chan struct{})}
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &l.openFiles); err != nil {
		return nil, fmt.Errorf("read the limit of open files: %w", err)
	}
	l.openFiles.Cur = min(l.openFiles.Max, 1024)
	ready := make(chan error)
	go l.run(ready)
	if err := <-ready; err != nil {
		return nil, fmt.Errorf("reduce privileges: %w", err)
	}
	return l, nil
}

func (l *launcher) run(ready chan<- error) {
	runtime.LockOSThread() // never unlocked: the thread dies with this goroutine
	defer close(l.done)
	err := shed()
	ready <- err
	if err != nil {
		return
	}
	for r := range l.work {
		r.reply <- l.fork(r)
	}
}

func (l *launcher) fork(r launchRequest) launched {
	if err := r.group.enter(); err != nil {
		return launched{err: err}
	}
	pid, err := vfork.Start(r.command)
	if err != nil {
		if pid != 0 {
			// The reaper may be faster.
			_, _ = unix.Wait4(pid, nil, 0, nil)
		}
		err = &execError{err}
	}
	if lerr := r.group.leave(); err == nil && lerr != nil {
		_ = unix.Kill(pid, unix.SIGKILL)
		err = lerr
	}
	return launched{pid, err}
}

func (l *launcher) start(g group, c vfork.Command) (int, error) {
	c.OpenFiles = l.openFiles
	r := launchRequest{g, c, make(chan launched, 1)}
	l.work <- r
	res := <-r.reply
	return res.pid, res.err
}

func (l *launcher) stop() {
	close(l.work)
	<-l.done
}

// shed takes from this thread's bounding and inheritable sets whatever is not
// kept. Someone unprivileged has nothing to shed.
func shed() error {
	var keep [2]uint32
	for _, c := range kept {
		keep[c/32] |= 1 << (c % 32)
	}
	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&head, &data[0]); err != nil {
		return fmt.Errorf("capget: %w", err)
	}
	if data[unix.CAP_SETPCAP/32].Effective&(1<<unix.CAP_SETPCAP) == 0 {
		return nil
	}
	_ = unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) // absent in old kernels: nothing ambient then
	for c := uintptr(0); c <= 63; c++ {
		if keep[c/32]&(1<<(c%32)) != 0 {
			continue
		}
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0); err == unix.EINVAL {
			break // beyond the last one this kernel knows
		} else if err != nil {
			return fmt.Errorf("drop capability %s: %w", strconv.Itoa(int(c)), err)
		}
	}
	for i := range data {
		data[i].Inheritable &= keep[i]
	}
	if err := unix.Capset(&head, &data[0]); err != nil {
		return fmt.Errorf("capset: %w", err)
	}
	return nil
}
