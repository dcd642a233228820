package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

const (
	// period of the CPU quota in microseconds, the kernel's default.
	period = 100_000
	// defaultPids only stops a runaway host process: the host's threads and stubs of
	// a sentry count, and a sentry that gets EAGAIN for one crashes.
	defaultPids = 16384
	mib         = 1 << 20
	// grain is a multiple of every page size: the kernel rounds to pages, and
	// what is read back must equal what was set.
	grain = 64 << 10
)

// Limits bound one sandbox. Zero means no limit, but for Pids.
type Limits struct {
	MilliCPU int64 // thousandths of a core; at least 10 if set
	Memory   int64 // bytes the sandbox is told it has
	Overhead int64 // bytes on top for the sentry itself
	Pids     int64 // host threads; 0 is a high default. Never small: a sentry crashes on it
}

// Line is the memory use in bytes above which the guard acts.
func (l Limits) Line() int64 {
	if l.Memory == 0 {
		return 0
	}
	return (l.Memory + l.Overhead + grain - 1) / grain * grain
}

// Hard is the memory use in bytes the kernel allows.
func (l Limits) Hard() int64 {
	if l.Memory == 0 {
		return 0
	}
	return l.Line() + reserve(l.Line())
}

// reserve is what lies between line and hard limit. It follows from the line
// alone, so that an engine that adopts a group knows it. It is what several
// processes can fill while the guard acts: a sentry that stands at the hard limit
// itself may die of a signal for which the kernel finds no memory.
func reserve(line int64) int64 { return min(max(line/4, 192*mib), 512*mib) / grain * grain }

// quota is the CPU time per period in microseconds; the kernel's minimum is 1 ms.
func (l Limits) quota() int64 { return max(l.MilliCPU*period/1000, 1000) }

// shares is the weight under contention on v1, 1024 for one core.
func (l Limits) shares() int64 { return max(l.MilliCPU*1024/1000, 2) }

// weight is the weight on v2; the conversion is the one OCI runtimes use.
func (l Limits) weight() int64 { return 1 + (min(l.shares(), 262144)-2)*9999/262142 }

func (l Limits) pids() int64 {
	if l.Pids == 0 {
		return defaultPids
	}
	return l.Pids
}

// limit writes limits to a v2 group.
func (t v2) limit(dir string, l Limits) error {
	cpu, weight, high, hard := "max "+itoa(period), "100", "max", "max"
	if l.MilliCPU > 0 {
		cpu, weight = itoa(l.quota())+" "+itoa(period), itoa(l.weight())
	}
	if l.Memory > 0 {
		high, hard = itoa(l.Line()), itoa(l.Hard())
	}
	return errors.Join(
		write(filepath.Join(dir, "cpu.max"), cpu),
		write(filepath.Join(dir, "cpu.weight"), weight),
		// high first: it brings the use down before max could kill.
		write(filepath.Join(dir, "memory.high"), high),
		write(filepath.Join(dir, "memory.max"), hard),
		// A sentry without its stubs, or the reverse, is of no use.
		optional(write(filepath.Join(dir, "memory.oom.group"), "1")),
		optional(write(filepath.Join(dir, "memory.swap.max"), "0")),
		optional(write(filepath.Join(dir, "pids.max"), itoa(l.pids()))),
	)
}

// limit writes limits to the v1 folders of a group.
func (t v1) limit(name string, l Limits) error {
	quota, shares := int64(-1), int64(1024)
	if l.MilliCPU > 0 {
		quota, shares = l.quota(), l.shares()
	}
	line, hard := int64(-1), int64(-1)
	if l.Memory > 0 {
		line, hard = l.Line(), l.Hard()
	}
	err := errors.Join(
		write(t.file("cpu", name, "cpu.cfs_period_us"), itoa(period)),
		write(t.file("cpu", name, "cpu.cfs_quota_us"), itoa(quota)),
		write(t.file("cpu", name, "cpu.shares"), itoa(shares)),
		write(t.file("memory", name, "memory.soft_limit_in_bytes"), itoa(line)),
		t.setHard(name, hard),
		optional(write(t.file("memory", name, "memory.swappiness"), "0")),
	)
	if t.mounts["pids"] != "" {
		err = errors.Join(err, write(t.file("pids", name, "pids.max"), itoa(l.pids())))
	}
	return err
}

// setHard sets memory and memory+swap to the same, -1 for none. The kernel keeps
// memory ≤ memory+swap at every moment, which dictates the order.
func (t v1) setHard(name string, bytes int64) error {
	memory := t.file("memory", name, "memory.limit_in_bytes")
	swap := t.file("memory", name, "memory.memsw.limit_in_bytes")
	now, err := readInt(memory)
	if err != nil {
		return err
	}
	if bytes < 0 || bytes > now {
		return errors.Join(optional(write(swap, itoa(bytes))), write(memory, itoa(bytes)))
	}
	return errors.Join(write(memory, itoa(bytes)), optional(write(swap, itoa(bytes))))
}

func itoa(n int64) string { return strconv.FormatInt(n, 10) }

// write writes value to an existing control file in one call, as the kernel wants.
func write(path, value string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_TRUNC, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	if err != nil {
		err = fmt.Errorf("set %q: %w", value, err)
	}
	return errors.Join(err, f.Close())
}

// optional drops the error of a file that this kernel doesn't have.
func optional(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func readString(path string) (string, error) {
	data, err := os.ReadFile(path)
	return strings.TrimSpace(string(data)), err
}

// readInt reads a number; v2's "max" is the largest one.
func readInt(path string) (int64, error) {
	s, err := readString(path)
	if err != nil {
		return 0, err
	}
	if s == "max" {
		return 1<<63 - 1, nil
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("read %s: %w", path, err)
	}
	return n, nil
}

// readKeys reads a file of "key number" lines.
func readKeys(path string) (map[string]int64, error) {
	s, err := readString(path)
	if err != nil {
		return nil, err
	}
	keys := map[string]int64{}
	for line := range strings.Lines(s) {
		if key, value, ok := strings.Cut(strings.TrimSpace(line), " "); ok {
			if n, err := strconv.ParseInt(value, 10, 64); err == nil {
				keys[key] = n
			}
		}
	}
	return keys, nil
}
