package proc

import (
	"fmt"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// Victim is the process that was ended to free memory.
type Victim struct {
	PID    int // 0: there was none
	Name   string
	Memory int64 // bytes it held
}

// Relieve kills the process that holds the most memory, and its descendants.
// The command it belongs to is told to have run out of memory when it exits for
// that reason.
func (t *Table) Relieve() Victim {
	t.mu.Lock()
	ps := make([]*Process, 0, len(t.groups))
	for _, p := range t.groups {
		ps = append(ps, p)
	}
	t.mu.Unlock()
	var tracked []int
	if !t.cfg.Everyone {
		for _, p := range ps {
			tracked = p.group.members(tracked)
		}
	}

	t.scan.mu.Lock()
	all := t.scan.all()
	me := os.Getpid()
	worst := -1
	for i, e := range all {
		if e.pid == me || e.state == 'Z' || !t.cfg.Everyone && !slices.Contains(tracked, e.pid) {
			continue
		}
		if worst < 0 || e.rss > all[worst].rss {
			worst = i
		}
	}
	if worst < 0 {
		t.scan.mu.Unlock()
		return Victim{}
	}
	v := Victim{PID: all[worst].pid, Memory: all[worst].rss}
	v.Name = t.scan.name(v.PID)
	t.scan.mu.Unlock()

	// Its command must know the reason before it can see the end.
	if owner := ownerOf(ps, v.PID); owner != nil {
		owner.outOfMemory.Store(true)
	}
	t.scan.mu.Lock()
	kill(t.scan.all(), v.PID, me)
	t.scan.mu.Unlock()

	t.report(OutOfMemory, fmt.Sprintf("memory ran out: %q (process %d) held %d MB and was ended", v.Name, v.PID, v.Memory>>20))
	return v
}

// kill ends pid, and then whoever descends from it.
func kill(all []entry, pid, me int) {
	_ = unix.Kill(pid, unix.SIGKILL)
	for i, e := range all {
		if e.parent == pid && e.pid != me && e.pid != pid {
			all[i].parent = 0 // never twice, also in a damaged list
			kill(all, e.pid, me)
		}
	}
}

func ownerOf(ps []*Process, pid int) *Process {
	for _, p := range ps {
		if p.PID == pid {
			return p
		}
	}
	var buf []int
	for _, p := range ps {
		buf = p.group.members(buf[:0])
		if slices.Contains(buf, pid) {
			return p
		}
	}
	return nil
}
