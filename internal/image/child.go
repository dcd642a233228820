package image

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"syscall"

	"silica.dev/silica/sandbox"
)

// haveTool tells where to get a program that is missing.
func haveTool(name, pkg string) error {
	if _, err := exec.LookPath(name); err != nil {
		return sandbox.E(sandbox.Unavailable, sandbox.CodeUnavailable,
			fmt.Sprintf("%s is missing on the host: install the package %s (apt-get install %s)", name, pkg, pkg)).Because(err)
	}
	return nil
}

// lastLines is how much of a failed program's output goes into the log.
const lastLines = 20

// run runs a program and gives each line it prints to line. The program has
// process and mount namespaces of its own: whichever way it ends, by ctx, by
// itself or with the daemon, everything it started ends with it, and nothing
// it mounted stays or was ever seen by the host. Needs root.
func run(ctx context.Context, env []string, line func(string), name string, args ...string) error {
	// The death signal comes when the THREAD that started the child ends.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	// Killing the first process of a process namespace kills all of it.
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env, cmd.Stdout, cmd.Stderr, cmd.Dir = env, w, w, "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:   syscall.CLONE_NEWPID | syscall.CLONE_NEWIPC,
		Unshareflags: syscall.CLONE_NEWNS,
		Pdeathsig:    syscall.SIGKILL,
	}
	err = cmd.Start()
	w.Close()
	if err != nil {
		return fmt.Errorf("start %s: %w", name, err)
	}
	var last []string
	lines := bufio.NewReader(r)
	for {
		text, err := lines.ReadString('\n')
		if text = strings.TrimSpace(text); text != "" {
			line(text)
			if last = append(last, text); len(last) > lastLines {
				last = slices.Delete(last, 0, 1)
			}
		}
		if err != nil {
			break // every writer has ended
		}
	}
	err = cmd.Wait()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		return fmt.Errorf("%s: %w:\n%s", name, err, strings.Join(last, "\n"))
	}
	return nil
}
