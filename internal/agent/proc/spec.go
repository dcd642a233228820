package proc

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"silica.dev/silica/sandbox"
)

// Size is a terminal's, in characters.
type Size struct{ Cols, Rows uint16 }

// Spec says what to run.
type Spec struct {
	Args    []string // Args[0] is looked up in Env's PATH
	Dir     string
	Env     []string
	PTY     *Size // nil: pipes
	Stdin   bool  // false: the null device
	Timeout time.Duration
}

// Stream names where output came from.
type Stream int

// The streams.
const (
	Stdout Stream = iota + 1
	Stderr
	Terminal
	System // a remark about the process, not of its own
)

// Exit says how a process ended.
type Exit struct {
	Code        int         // 128 + Signal when killed by one
	Signal      unix.Signal // 0 when it exited by itself
	TimedOut    bool
	OutOfMemory bool
}

// Sink receives what one process does: Started first, Exited last. Calls never
// overlap. A call that blocks slows the process down; an error means that nobody
// listens any more.
type Sink interface {
	Started(pid int) error
	Output(s Stream, data []byte) error
	Exited(Exit) error
}

// Keepaliver is a Sink that must hear something now and then.
type Keepaliver interface {
	Keepalive() error
}

// Exit codes of commands that never ran, as shells give them.
const (
	exitNotFound = 127
	exitNotRun   = 126
	exitNoFork   = 254 // only inside this package; told as exitNotRun
)

func (s Spec) check() error {
	if len(s.Args) == 0 || s.Args[0] == "" {
		return sandbox.Field("args", "must name a command")
	}
	for _, a := range s.Args {
		if strings.IndexByte(a, 0) >= 0 {
			return sandbox.Field("args", "must not hold a NUL byte")
		}
	}
	for _, e := range s.Env {
		if i := strings.IndexByte(e, '='); i <= 0 || strings.IndexByte(e, 0) >= 0 {
			return sandbox.Field("env", "names must not be empty, and nothing may hold a NUL byte")
		}
	}
	if s.Timeout < 0 {
		return sandbox.Field("timeout_ms", "must not be negative")
	}
	var st unix.Stat_t
	if strings.IndexByte(s.Dir, 0) >= 0 || s.Dir == "" || s.Dir[0] != '/' {
		return sandbox.E(sandbox.Invalid, sandbox.CodeWorkdirNotFound, fmt.Sprintf("the working directory %q is not an absolute path", s.Dir))
	}
	if err := unix.Stat(s.Dir, &st); err != nil {
		return sandbox.E(sandbox.Invalid, sandbox.CodeWorkdirNotFound, fmt.Sprintf("the working directory %q does not exist", s.Dir)).Because(err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return sandbox.E(sandbox.Invalid, sandbox.CodeWorkdirNotFound, fmt.Sprintf("the working directory %q is not a directory", s.Dir))
	}
	return nil
}

// lookup finds the program as execvp does. A code other than 0 is the exit code
// of a command that can't be found, with the reason.
func lookup(s Spec) (path string, code int, text string) {
	name := s.Args[0]
	if strings.Contains(name, "/") {
		return name, 0, ""
	}
	code, text = exitNotFound, "command not found"
	for dir := range strings.SplitSeq(searchPath(s.Env), ":") {
		if dir == "" {
			dir = "."
		}
		full := dir + "/" + name
		at := full
		if full[0] != '/' {
			at = s.Dir + "/" + full
		}
		var st unix.Stat_t
		if unix.Stat(at, &st) != nil || st.Mode&unix.S_IFMT == unix.S_IFDIR {
			continue
		}
		if st.Mode&0o111 == 0 {
			code, text = exitNotRun, "permission denied"
			continue
		}
		return full, 0, ""
	}
	return "", code, text
}

func searchPath(env []string) string {
	path := ""
	for _, e := range env { // the last one counts
		if v, ok := strings.CutPrefix(e, "PATH="); ok {
			path = v
		}
	}
	return path
}

// refusal tells whether err of a start is the command's fault or the limits',
// to be shown as a shell would.
func refusal(name string, err error) (code int, text string, ok bool) {
	var mine *execError
	switch {
	case !errors.As(err, &mine):
		return 0, "", false
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR):
		return exitNotFound, "no such file or directory", true
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		return exitNotRun, "permission denied", true
	case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.ENOMEM):
		return exitNoFork, "cannot fork: resource temporarily unavailable", true
	}
	return exitNotRun, mine.Error(), true // ENOEXEC, E2BIG, ELOOP, ETXTBSY …
}

// refuse plays the short life of a command that never ran.
func refuse(sink Sink, s Spec, code int, text string) error {
	if code == exitNoFork {
		code = exitNotRun
	}
	stream, end := Stderr, "\n"
	if s.PTY != nil {
		stream, end = Terminal, "\r\n"
	}
	if err := sink.Started(0); err != nil {
		return nil
	}
	if err := sink.Output(stream, []byte(s.Args[0]+": "+text+end)); err != nil {
		return nil
	}
	_ = sink.Exited(Exit{Code: code}) // nobody listens: nothing to tell
	return nil
}

// outPipe makes a pipe from a child: what we read, pollable, and the number of
// what it writes.
func outPipe() (r *os.File, child int, err error) {
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		return nil, -1, fmt.Errorf("make a pipe: %w", err)
	}
	nonblock(fds[0]) // our end only
	return os.NewFile(uintptr(fds[0]), "output"), fds[1], nil
}

// inPipe is the other way round.
func inPipe() (w *os.File, child int, err error) {
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		return nil, -1, fmt.Errorf("make a pipe: %w", err)
	}
	nonblock(fds[1])
	return os.NewFile(uintptr(fds[1]), "input"), fds[0], nil
}

// nonblock is SetNonblock for a file known to have no other flags: one call, not two.
func nonblock(fd int) {
	_, _ = unix.FcntlInt(uintptr(fd), unix.F_SETFL, unix.O_NONBLOCK) // can't fail on a pipe
}
