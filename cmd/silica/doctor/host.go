package doctor

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// The oldest kernel with what the engine uses: pidfd_open and pidfd polling.
const minMajor, minMinor = 5, 4

func (m machine) user(euid int) Finding {
	const check = "root"
	if euid == 0 {
		return ok(check, "running as root")
	}
	return Finding{check, Failure, fmt.Sprintf("running as user %d", euid),
		"network namespaces, cgroups and sentries can't be made; checks below may fail for the same reason",
		"run \"silica serve\" (and this check) as root: sudo silica doctor"}
}

func (m machine) kernel() Finding {
	const check = "kernel"
	release := strings.TrimSpace(m.read("/proc/sys/kernel/osrelease"))
	var major, minor int
	if _, err := fmt.Sscanf(release, "%d.%d", &major, &minor); err != nil {
		return Finding{check, Warning, "unknown release " + strconv.Quote(release), "can't tell whether the kernel is new enough", ""}
	}
	if major < minMajor || major == minMajor && minor < minMinor {
		return Finding{check, Failure, "Linux " + release, "the engine can't watch its sandboxes",
			fmt.Sprintf("use Linux %d.%d or newer (Debian 11 and later have it)", minMajor, minMinor)}
	}
	return ok(check, "Linux "+release)
}

// cgroups finds the controllers that hold a sandbox to its size.
func (m machine) cgroups() Finding {
	const check = "cgroups"
	want := []string{"cpu", "memory", "pids"}
	version, have := "v2", strings.Fields(m.read("/sys/fs/cgroup/cgroup.controllers"))
	if len(have) == 0 {
		version = "v1"
		for line := range strings.Lines(m.read("/proc/mounts")) {
			f := strings.Fields(line)
			if len(f) < 4 || f[2] != "cgroup" || strings.HasPrefix(f[3], "ro,") {
				continue
			}
			have = append(have, strings.Split(f[3], ",")...)
		}
	}
	missing := slices.DeleteFunc(want, func(c string) bool { return slices.Contains(have, c) })
	if len(missing) == 0 {
		return ok(check, version+", with cpu, memory and pids")
	}
	fix := "mount the controllers writable; inside a container, give it a writable cgroup file system"
	if slices.Contains(missing, "memory") {
		fix += "; on small boards the kernel command line needs cgroup_enable=memory"
	}
	return Finding{check, Failure, version + " without " + strings.Join(missing, ", "),
		"a sandbox can't be held to its CPU, memory and process limits", fix}
}

// systrap checks what the platform asks of the kernel; only a start proves it.
func (m machine) systrap() Finding {
	const check = "systrap"
	actions := strings.Fields(m.read("/proc/sys/kernel/seccomp/actions_avail"))
	if !slices.Contains(actions, "trap") || !slices.Contains(actions, "errno") {
		return Finding{check, Failure, "no seccomp filters with trap", "the sentry can't intercept system calls",
			"use a kernel with CONFIG_SECCOMP_FILTER, and no container profile that forbids seccomp"}
	}
	if scope := strings.TrimSpace(m.read("/proc/sys/kernel/yama/ptrace_scope")); scope == "3" {
		return Finding{check, Failure, "kernel.yama.ptrace_scope is 3", "the sentry can't attach to the processes it runs",
			"set it to 2 or less in /etc/sysctl.d and reboot: 3 can't be lowered at run time"}
	}
	return ok(check, "seccomp trap and ptrace are available")
}

func (m machine) mmdebstrap() Finding {
	const check = "mmdebstrap"
	if p, err := exec.LookPath("mmdebstrap"); err == nil {
		return ok(check, p)
	}
	return Finding{check, Failure, "not installed", "the root file system of the default template can't be made", "apt-get install mmdebstrap"}
}

func (m machine) memory() Finding {
	const check, want = "memory", 1 << 10
	var available, kB int64
	for line := range strings.Lines(m.read("/proc/meminfo")) {
		if n, _ := fmt.Sscanf(line, "MemAvailable: %d kB", &kB); n == 1 {
			available = kB >> 10
		}
	}
	found := fmt.Sprintf("%d MiB available", available)
	if available < want {
		return Finding{check, Warning, found, "few sandboxes fit: each takes about 20 MiB idle, and up to its memory_mb when busy",
			"free memory, or lower --warm-pool and --empty-slots"}
	}
	return ok(check, found)
}

func (m machine) limits() Finding {
	const check = "limits"
	var low []string // hard limits: the server raises the soft ones itself
	for line := range strings.Lines(m.read("/proc/self/limits")) {
		if rest, is := strings.CutPrefix(line, "Max open files"); is {
			if f := strings.Fields(rest); len(f) > 1 && below(f[1], 8192) {
				low = append(low, "open files "+f[1])
			}
		}
		if rest, is := strings.CutPrefix(line, "Max processes"); is {
			if f := strings.Fields(rest); len(f) > 1 && below(f[1], 8192) {
				low = append(low, "processes "+f[1])
			}
		}
	}
	for _, s := range []struct {
		file string
		min  int
	}{{"/proc/sys/kernel/pid_max", 32768}, {"/proc/sys/kernel/threads-max", 8192}} {
		if v := strings.TrimSpace(m.read(s.file)); below(v, s.min) {
			low = append(low, filepath.Base(s.file)+" "+v)
		}
	}
	if len(low) == 0 {
		return ok(check, "open files and processes suffice")
	}
	return Finding{check, Warning, "low: " + strings.Join(low, ", "), "creates fail once some tens of sandboxes run",
		"raise LimitNOFILE and LimitNPROC of the service (or ulimit -n, -u), and kernel.pid_max by sysctl"}
}

func below(s string, min int) bool {
	n, err := strconv.Atoi(s)
	return err == nil && n < min // "unlimited" is not
}

func (m machine) rcu() Finding {
	const check, file = "rcu_expedited", "/sys/kernel/rcu_expedited"
	f, err := os.OpenFile(m.path(file), os.O_WRONLY, 0)
	if err != nil {
		return Finding{check, Warning, "can't be set", "a create takes about 30 ms longer, a destroy up to 100 ms",
			"run on a host (or in a container) where " + file + " is writable"}
	}
	f.Close()
	return ok(check, "can be set; \"silica serve\" sets it while it runs")
}

func (m machine) kvm() Finding {
	const check = "kvm"
	if _, err := os.Stat(m.path("/dev/kvm")); err == nil {
		return Finding{Check: check, Level: Info, Found: "/dev/kvm is there; sandboxes run without it"}
	}
	return Finding{Check: check, Level: Info, Found: "no /dev/kvm; sandboxes do not need it"}
}
