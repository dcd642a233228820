package agent

import (
	"errors"
	"time"

	"golang.org/x/sys/unix"
)

// The pipes a host driver may hand us: what comes in on the one is answered on the other.
const (
	readyIn  = 3
	readyOut = 4
)

// retry is how long to wait after the end of the ready pipe, at most.
const retry = 15 * time.Second

// HasReadyPipes tells whether the host handed us the ready pipes, and keeps them
// from our children. Call it before anything else may have opened a file.
func HasReadyPipes() bool {
	for _, fd := range []int{readyIn, readyOut} {
		var st unix.Stat_t
		if unix.Fstat(fd, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFIFO {
			return false
		}
	}
	unix.CloseOnExec(readyIn)
	unix.CloseOnExec(readyOut)
	return true
}

// AnswerReady answers each byte on the ready pipe with one, for as long as the
// process lives; call it once the agent listens.
//
// The read blocks its thread on purpose: a restored copy has new pipes under the
// same numbers, and only a read, begun anew, finds them. At the end of a pipe
// (the host's side has gone) it looks again now and then. Time spent in a snapshot
// counts, so such a wait is over at once in a copy restored later.
func AnswerReady() {
	var b [1]byte
	wait := 10 * time.Millisecond
	for {
		n, err := unix.Read(readyIn, b[:])
		switch {
		case n == 1:
			wait = 10 * time.Millisecond
			_, _ = unix.Write(readyOut, b[:]) // the host may have stopped waiting
		case errors.Is(err, unix.EINTR):
		default:
			time.Sleep(wait)
			wait = min(2*wait, retry)
		}
	}
}
