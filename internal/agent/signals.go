package agent

import (
	"os"
	"os/signal"

	"golang.org/x/sys/unix"
)

// Deafen keeps signals from users' programs from ending the sandbox: as process 1
// only those we have handlers for arrive (but gVisor's kernel delivers SIGKILL).
// Not ignored, because that would be inherited by what we start.
func Deafen() {
	nobody := make(chan os.Signal, 1)
	signal.Notify(nobody, unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGABRT, unix.SIGUSR1, unix.SIGUSR2,
		unix.SIGPIPE, unix.SIGALRM, unix.SIGTERM, unix.SIGTSTP, unix.SIGTTIN, unix.SIGTTOU, unix.SIGXCPU, unix.SIGVTALRM, unix.SIGIO)
}
