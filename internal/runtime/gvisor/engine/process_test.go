package engine

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestOpenProcess(t *testing.T) {
	start, err := startTime(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if p, err := openProcess(os.Getpid(), start); err != nil {
		t.Errorf("openProcess with the true start time: %v", err)
	} else {
		if !p.alive() {
			t.Error("this process is not alive")
		}
		p.close()
	}
	if p, err := openProcess(os.Getpid(), start+1); err == nil {
		p.close()
		t.Error("openProcess takes a process that started at another time")
	}
}

func TestProcessEnds(t *testing.T) {
	cmd := exec.Command("sleep", "60")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p, err := openProcess(cmd.Process.Pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer p.close()

	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	if _, _, err := p.wait(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("wait for a living process = %v", err)
	}
	if err := p.kill(); err != nil {
		t.Fatal(err)
	}
	p.pidfd.SetReadDeadline(time.Time{})
	status, child, err := p.wait(context.Background())
	if err != nil || !child || !status.Signaled() || status.Signal() != unix.SIGKILL {
		t.Errorf("wait = %v, child %t, %v", status, child, err)
	}
	if err := p.kill(); err != nil {
		t.Errorf("kill of the dead = %v", err)
	}
	if _, err := os.Stat("/proc/" + strconv.Itoa(p.pid)); err == nil {
		t.Error("not reaped")
	}
}
