package cgroup

import (
	"fmt"
)

// InForce tells what the kernel holds a group to: CPU and memory, 0 for what it
// doesn't limit.
func (g *Groups) InForce(name string) (Limits, error) {
	if err := check(name); err != nil {
		return Limits{}, err
	}
	l, err := g.tree.inForce(name)
	if gone(err) {
		return Limits{}, notFound(name, err)
	}
	return l, err
}

// unlimited is above what kernels write for no limit: v1 rounds its largest
// number down to pages.
const unlimited = 1 << 60

func bounded(bytes int64) int64 {
	if bytes >= unlimited {
		return 0
	}
	return bytes
}

func milliCPU(quota, per int64) int64 {
	if quota <= 0 || per <= 0 {
		return 0
	}
	return (quota*1000 + per - 1) / per
}

func (t v1) inForce(name string) (l Limits, err error) {
	quota, err := readInt(t.file("cpu", name, "cpu.cfs_quota_us"))
	if err != nil {
		return l, err
	}
	per, err := readInt(t.file("cpu", name, "cpu.cfs_period_us"))
	if err != nil {
		return l, err
	}
	hard, err := readInt(t.file("memory", name, "memory.limit_in_bytes"))
	return Limits{MilliCPU: milliCPU(quota, per), Memory: bounded(hard)}, err
}

func (t v2) inForce(name string) (l Limits, err error) {
	text, err := readString(t.file(name, "cpu.max"))
	if err != nil {
		return l, err
	}
	var quota, per int64
	if _, err := fmt.Sscan(text, &quota, &per); err != nil { // "max 100000"
		quota = 0
	}
	hard, err := readInt(t.file(name, "memory.max"))
	return Limits{MilliCPU: milliCPU(quota, per), Memory: bounded(hard)}, err
}
