package agent

import (
	"bytes"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"silica.dev/silica/internal/guest/guestpb"
)

// metrics reads what the kernel inside says.
func (a *Agent) metrics() (*guestpb.MetricsResponse, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(a.cfg.Disk, &st); err != nil {
		return nil, fmt.Errorf("statfs: %w", err)
	}
	mem, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return nil, fmt.Errorf("memory: %w", err)
	}
	total := meminfo(mem, "MemTotal:")
	res := &guestpb.MetricsResponse{
		MemoryTotal: total,
		MemoryUsed:  max(0, total-meminfo(mem, "MemAvailable:")),
		DiskTotal:   int64(st.Blocks) * st.Bsize,
		DiskUsed:    int64(st.Blocks-st.Bfree) * st.Bsize,
		Processes:   uint32(a.table.Count()),
	}
	if load, err := os.ReadFile("/proc/loadavg"); err == nil {
		if f := bytes.Fields(load); len(f) > 0 {
			res.Load, _ = strconv.ParseFloat(string(f[0]), 64)
		}
	}
	return res, nil
}

// meminfo returns the bytes of one line.
func meminfo(data []byte, name string) int64 {
	for line := range bytes.Lines(data) {
		if f := bytes.Fields(line); len(f) >= 2 && string(f[0]) == name {
			kb, _ := strconv.ParseInt(string(f[1]), 10, 64)
			return kb << 10
		}
	}
	return 0
}

// signalName is "SIGKILL" for 9; signals without a name are told by number.
func signalName(s unix.Signal) string {
	if name := unix.SignalName(s); name != "" {
		return name
	}
	return "SIG" + strconv.Itoa(int(s))
}
