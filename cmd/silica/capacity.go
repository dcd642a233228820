package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"silica.dev/silica/sandbox"
)

// What a host keeps for itself before it takes another sandbox.
const (
	diskReserve     = 1 << 30   // bytes, or diskPercent of the file system, whichever is less
	diskPercent     = 5         //
	memoryReserve   = 512 << 20 // bytes, or memoryPercent of all memory
	memoryPercent   = 5         //
	sandboxOverhead = 64 << 20  // bytes that a sandbox takes before it does anything
	// capacityAge is how long a look is good for: creates come in bursts.
	capacityAge = 200 * time.Millisecond
)

// measure is an amount of something that a host has, in bytes.
type measure struct{ free, all uint64 }

// capacity answers whether the host can take another sandbox. It looks at what
// is free now, not at what was promised: sandboxes overcommit memory and disk
// by design, for most use little of either.
type capacity struct {
	disk, memory func() (measure, error)

	mu     sync.Mutex
	looked time.Time
	answer error
}

// newCapacity measures this host, and the file system that dir is in.
func newCapacity(dir string) *capacity {
	return &capacity{disk: func() (measure, error) { return diskOf(dir) }, memory: memoryOfHost}
}

// Room implements [supervisor.Capacity]. How large the sandbox may become does
// not matter.
func (c *capacity) Room(context.Context, sandbox.Resources) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if time.Since(c.looked) >= capacityAge {
		c.answer, c.looked = c.look(), time.Now()
	}
	return c.answer
}

func (c *capacity) look() error {
	full := func(what string, err error) error {
		return sandbox.E(sandbox.Unavailable, sandbox.CodeHostFull, "the server has too little "+what+" left for another sandbox").Because(err)
	}
	disk, err := c.disk()
	if err != nil {
		return full("disk", err)
	}
	if need := min(diskReserve, disk.all/100*diskPercent); disk.free < need {
		return full("disk", fmt.Errorf("%d of %d bytes are free, %d must stay so", disk.free, disk.all, need))
	}
	memory, err := c.memory()
	if err != nil {
		return full("memory", err)
	}
	if need := max(memoryReserve, memory.all/100*memoryPercent) + sandboxOverhead; memory.free < need {
		return full("memory", fmt.Errorf("%d of %d bytes are available, a start needs %d", memory.free, memory.all, need))
	}
	return nil
}

// roomFor tells whether a disk has room for so many bytes, beside its reserve.
func roomFor(look func() (measure, error), size int64) error {
	full := sandbox.E(sandbox.Unavailable, sandbox.CodeHostFull, "the server has too little disk left for this")
	disk, err := look()
	if err != nil {
		return full.Because(err)
	}
	if need := min(diskReserve, disk.all/100*diskPercent) + uint64(size); disk.free < need {
		return full.Because(fmt.Errorf("%d of %d bytes are free, %d are needed", disk.free, disk.all, need))
	}
	return nil
}

func diskOf(dir string) (measure, error) {
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return measure{}, fmt.Errorf("free disk of %s: %w", dir, err)
	}
	return measure{free: fs.Bavail * uint64(fs.Bsize), all: fs.Blocks * uint64(fs.Bsize)}, nil
}

func memoryOfHost() (measure, error) {
	text, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return measure{}, err
	}
	return parseMeminfo(text)
}

func parseMeminfo(text []byte) (measure, error) {
	found := map[string]uint64{}
	for lines := bufio.NewScanner(bytes.NewReader(text)); lines.Scan(); {
		name, rest, _ := bytes.Cut(lines.Bytes(), []byte(":"))
		if f := bytes.Fields(rest); len(f) > 0 {
			if kib, err := strconv.ParseUint(string(f[0]), 10, 64); err == nil {
				found[string(name)] = kib << 10
			}
		}
	}
	m := measure{free: found["MemAvailable"], all: found["MemTotal"]}
	if m.all == 0 || m.free == 0 {
		return m, errors.New("/proc/meminfo says nothing of memory")
	}
	return m, nil
}
