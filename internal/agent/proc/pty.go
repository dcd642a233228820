package proc

import (
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// openPTY makes a terminal: our end, pollable, and the number of the other.
func openPTY(size Size) (master *os.File, slave int, err error) {
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, -1, fmt.Errorf("open a terminal: %w", err)
	}
	master = os.NewFile(uintptr(fd), "terminal")
	defer func() {
		if err != nil {
			master.Close()
		}
	}()
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		return nil, -1, fmt.Errorf("number of the terminal: %w", err)
	}
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		return nil, -1, fmt.Errorf("unlock the terminal: %w", err)
	}
	slave, err = unix.Open("/dev/pts/"+strconv.Itoa(n), unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, -1, fmt.Errorf("open the terminal's other side: %w", err)
	}
	if _, err := setSize(master, size); err != nil {
		unix.Close(slave)
		return nil, -1, err
	}
	return master, slave, nil
}

// setSize changes the size and tells whether it was another.
func setSize(master *os.File, size Size) (changed bool, err error) {
	if size.Cols == 0 || size.Rows == 0 {
		size = Size{Cols: 80, Rows: 24}
	}
	rc, err := master.SyscallConn()
	if err != nil {
		return false, err
	}
	var ioctl error
	err = rc.Control(func(fd uintptr) {
		was, err := unix.IoctlGetWinsize(int(fd), unix.TIOCGWINSZ)
		changed = err != nil || was.Col != size.Cols || was.Row != size.Rows
		ioctl = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Col: size.Cols, Row: size.Rows})
	})
	if err == nil {
		err = ioctl
	}
	if err != nil {
		return false, fmt.Errorf("size of the terminal: %w", err)
	}
	return changed, nil
}
