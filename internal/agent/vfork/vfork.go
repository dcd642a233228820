// Package vfork starts programs with as few system calls as there can be, for a
// kernel in which each is dear.
//
// The standard library resets some sixty signal handlers in the child, one call
// each, so that none of Go's can run there. In gVisor that is a third of what
// starting a small program costs. Here the child keeps them, with signals
// blocked for all but its last moment, in which nobody knows it yet; exec then
// resets them all at once.
package vfork

import (
	"runtime"
	"syscall"
	"unsafe" // for system calls

	"golang.org/x/sys/unix"
)

// Command says what to start. Every field is used as it is.
type Command struct {
	Path  string
	Args  []string
	Env   []string
	Dir   string
	Files [3]int // become 0, 1 and 2; all at least 3
	// Terminal makes Files[0] the controlling terminal.
	Terminal bool
	// OpenFiles is the limit of open files the program starts with: the
	// runtime has raised this process's own.
	OpenFiles unix.Rlimit
}

// Start runs c in a session of its own and returns once the program has been
// loaded, or the error that kept it from it. Descriptors of this process other
// than the three must be close-on-exec. The caller waits for the child, also for
// one that could not be loaded.
func Start(c Command) (pid int, err error) {
	ch := child{files: c.Files, terminal: c.Terminal, limit: c.OpenFiles}
	if ch.path, err = syscall.BytePtrFromString(c.Path); err != nil {
		return 0, err
	}
	if ch.dir, err = syscall.BytePtrFromString(c.Dir); err != nil {
		return 0, err
	}
	args, err := syscall.SlicePtrFromStrings(c.Args)
	if err != nil {
		return 0, err
	}
	env, err := syscall.SlicePtrFromStrings(c.Env)
	if err != nil {
		return 0, err
	}
	ch.args, ch.env = unsafe.Pointer(&args[0]), unsafe.Pointer(&env[0])

	runtime.LockOSThread() // whose mask is changed
	defer runtime.UnlockOSThread()
	syscall.ForkLock.Lock()
	var old uint64
	mask(&everySignal, &old)
	ch.mask = old
	n, errno := ch.start()
	mask(&old, nil)
	syscall.ForkLock.Unlock()
	runtime.KeepAlive(args)
	runtime.KeepAlive(env)
	if errno == 0 {
		errno = ch.failed
	}
	if errno != 0 {
		return int(n), errno
	}
	return int(n), nil
}

var everySignal = ^uint64(0)

func mask(set, old *uint64) {
	_, _, _ = syscall.RawSyscall6(unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK,
		uintptr(unsafe.Pointer(set)), uintptr(unsafe.Pointer(old)), unsafe.Sizeof(*set), 0, 0)
}

// child is what the child reads, and where it leaves its error: it shares this
// memory until it has become another program.
type child struct {
	path, dir *byte
	args, env unsafe.Pointer
	files     [3]int
	terminal  bool
	limit     unix.Rlimit
	mask      uint64
	failed    syscall.Errno
}

// start forks. Both sides return from the same call, the child first and on the
// same stack, so that nothing here may grow it, allocate, or be interrupted.
//
//go:noinline
//go:norace
//go:nosplit
//go:nocheckptr
func (c *child) start() (pid uintptr, errno syscall.Errno) {
	pid, errno = fork(unix.CLONE_VM | unix.CLONE_VFORK | uintptr(unix.SIGCHLD))
	if pid != 0 || errno != 0 {
		return pid, errno
	}
	c.become()
	for {
		_, _, _ = syscall.RawSyscall(unix.SYS_EXIT_GROUP, 253, 0, 0)
	}
}

// become turns the child into the program. It returns only when it can't.
//
//go:noinline
//go:norace
//go:nosplit
//go:nocheckptr
func (c *child) become() {
	if _, _, e := syscall.RawSyscall(unix.SYS_SETSID, 0, 0, 0); e != 0 {
		c.failed = e
		return
	}
	if c.terminal {
		if _, _, e := syscall.RawSyscall(unix.SYS_IOCTL, uintptr(c.files[0]), unix.TIOCSCTTY, 0); e != 0 {
			c.failed = e
			return
		}
	}
	if _, _, e := syscall.RawSyscall(unix.SYS_CHDIR, uintptr(unsafe.Pointer(c.dir)), 0, 0); e != 0 {
		c.failed = e
		return
	}
	for to := 0; to < len(c.files); to++ {
		if _, _, e := syscall.RawSyscall(unix.SYS_DUP3, uintptr(c.files[to]), uintptr(to), 0); e != 0 {
			c.failed = e
			return
		}
	}
	if _, _, e := syscall.RawSyscall6(unix.SYS_PRLIMIT64, 0, unix.RLIMIT_NOFILE, uintptr(unsafe.Pointer(&c.limit)), 0, 0, 0); e != 0 {
		c.failed = e
		return
	}
	if _, _, e := syscall.RawSyscall6(unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, uintptr(unsafe.Pointer(&c.mask)), 0, unsafe.Sizeof(c.mask), 0, 0); e != 0 {
		c.failed = e
		return
	}
	_, _, c.failed = syscall.RawSyscall(unix.SYS_EXECVE, uintptr(unsafe.Pointer(c.path)), uintptr(c.args), uintptr(c.env))
}
