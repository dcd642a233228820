package engine

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// AgentPath is the first program of every sandbox; the image holds it.
const AgentPath = "/.silica/agent"

// shmSize bounds /dev/shm, whose contents are the sentry's memory.
const shmSize = 64 << 20

// A restore refuses a spec that differs from its checkpoint's in args, cwd,
// user, capabilities, rlimits or mounts: these are constants here, and so a
// snapshot fits every slot. It compares annotations too, so image is a name for
// the content, with a leading slash, and not where the content lies on this
// host: the sentry is handed the file itself.
func newSpec(image, root, netns string, disk int64) *specs.Spec {
	return &specs.Spec{
		Version:  specs.Version,
		Hostname: "sandbox",
		Root:     &specs.Root{Path: root},
		Process: &specs.Process{
			Args:         []string{AgentPath},
			Cwd:          "/",
			Env:          []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root"},
			Capabilities: allCapabilities(),
			Rlimits:      []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 1024, Hard: 1 << 20}},
		},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc"},
			{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"ro", "nosuid", "noexec", "nodev"}},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs"},
			{Destination: "/dev/pts", Type: "devpts", Source: "devpts"},
			{Destination: "/dev/shm", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "nodev", "mode=1777", "size=" + strconv.Itoa(shmSize)}},
		},
		Linux: &specs.Linux{Namespaces: []specs.LinuxNamespace{
			{Type: specs.PIDNamespace}, {Type: specs.IPCNamespace}, {Type: specs.UTSNamespace}, {Type: specs.MountNamespace},
			{Type: specs.NetworkNamespace, Path: netns},
		}},
		Annotations: map[string]string{
			"dev.gvisor.spec.rootfs.source":  image,
			"dev.gvisor.spec.rootfs.type":    "erofs",
			"dev.gvisor.spec.rootfs.overlay": "dir=/",
			"dev.gvisor.spec.rootfs.options": "size=" + strconv.FormatInt(disk, 10),
		},
	}
}

// mapped returns spec as the boot process is started with it: in a user
// namespace that maps every number to itself. The bundle's file stays without,
// as the library's own create leaves it.
func mapped(spec *specs.Spec) *specs.Spec {
	s, l := *spec, *spec.Linux
	all := []specs.LinuxIDMapping{{ContainerID: 0, HostID: 0, Size: 4294967295}}
	l.UIDMappings, l.GIDMappings = all, all
	l.Namespaces = append(append([]specs.LinuxNamespace(nil), l.Namespaces...), specs.LinuxNamespace{Type: specs.UserNamespace})
	s.Linux = &l
	return &s
}

func saveSpec(dir string, spec *specs.Spec) error {
	data, err := json.Marshal(spec)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "config.json"), data, 0o600); err != nil {
		return fmt.Errorf("write spec: %w", err)
	}
	return nil
}

// allCapabilities gives the agent every capability of the sandbox's own kernel.
// None of them means anything to the host.
func allCapabilities() *specs.LinuxCapabilities {
	caps := []string{
		"CAP_AUDIT_CONTROL", "CAP_AUDIT_READ", "CAP_AUDIT_WRITE", "CAP_BLOCK_SUSPEND", "CAP_CHOWN", "CAP_DAC_OVERRIDE",
		"CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID", "CAP_IPC_LOCK", "CAP_IPC_OWNER", "CAP_KILL", "CAP_LEASE",
		"CAP_LINUX_IMMUTABLE", "CAP_MAC_ADMIN", "CAP_MAC_OVERRIDE", "CAP_MKNOD", "CAP_NET_ADMIN", "CAP_NET_BIND_SERVICE",
		"CAP_NET_BROADCAST", "CAP_NET_RAW", "CAP_SETFCAP", "CAP_SETGID", "CAP_SETPCAP", "CAP_SETUID", "CAP_SYSLOG",
		"CAP_SYS_ADMIN", "CAP_SYS_BOOT", "CAP_SYS_CHROOT", "CAP_SYS_MODULE", "CAP_SYS_NICE", "CAP_SYS_PACCT",
		"CAP_SYS_PTRACE", "CAP_SYS_RAWIO", "CAP_SYS_RESOURCE", "CAP_SYS_TIME", "CAP_SYS_TTY_CONFIG", "CAP_WAKE_ALARM",
	}
	return &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Inheritable: caps, Permitted: caps}
}
