package image

import (
	"encoding/binary"
	"strings"

	"golang.org/x/sys/unix"
)

// mountPoints must be in the image: its file system is read-only.
var mountPoints = []struct {
	path string
	mode uint32
}{
	{"proc", 0o555}, {"sys", 0o555}, {"dev", 0o755}, {"dev/pts", 0o755}, {"dev/shm", unix.S_ISVTX | 0o777},
	{"run", 0o755}, {"tmp", unix.S_ISVTX | 0o777}, {"root", 0o700}, {"workspace", 0o755}, {".silica", 0o755},
}

// plainFiles replace what the base image or the machine that fetched it left:
// nothing in an image tells one host from another.
var plainFiles = map[string]string{
	"etc/hostname":    "sandbox\n",
	"etc/hosts":       "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n127.0.1.1 sandbox\n",
	"etc/resolv.conf": "", // the agent writes it; a symlink would lead to a resolver that does not run
	"etc/machine-id":  "",
	// runsc mounts a tmpfs of its own, which counts as memory, over a folder
	// /tmp that is empty.
	"tmp/.silica": "",
}

// leftovers are files that builds leave behind and nobody inside needs.
var leftovers = []string{
	"etc/ssh/ssh_host_*", "var/lib/dbus/machine-id", "var/lib/systemd/random-seed",
	"etc/passwd-", "etc/group-", "etc/shadow-", "etc/gshadow-", "etc/subuid-", "etc/subgid-", "etc/.pwd.lock",
	"var/lib/dpkg/*-old", "var/lib/dpkg/lock*", "var/lib/dpkg/triggers/Lock", "var/cache/debconf/*-old",
	"var/backups/*", "var/lib/apt/lists/*", "var/cache/apt/*", "var/cache/ldconfig/*", "var/cache/man/*",
	"dev/*", "run/*", "tmp/*", "tmp/.[!.]*", "root/.cache",
}

// finish turns a base image's files into those of a sandbox.
func finish(t *tree, agent []byte) error {
	for _, pattern := range leftovers {
		for _, name := range t.matches(pattern) {
			t.remove(name)
		}
	}
	emptyLogs(t)
	for _, m := range mountPoints {
		// A link, or a file, would lead elsewhere than everybody expects.
		if n := t.find(m.path, false); n != nil && !n.isDir() {
			t.remove(m.path)
		}
		if err := t.put(m.path, newFolder(m.mode)); err != nil {
			return err
		}
	}
	for name, content := range plainFiles {
		if err := t.write(name, []byte(content), 0o644); err != nil {
			return err
		}
	}
	return t.write(strings.TrimPrefix(AgentPath, "/"), agent, 0o755)
}

// emptyLogs keeps the files, because programs expect some of them to be there.
func emptyLogs(t *tree) {
	if logs := t.find("var/log", true); logs != nil && logs.isDir() {
		eachBelow("", logs, func(_ string, n *node) {
			if n.is(unix.S_IFREG) {
				n.size, n.body = 0, nil
			}
		})
	}
}

func isBytecode(name string) bool { return strings.HasSuffix(name, ".pyc") }

// restamp makes a compiled Python file, of which it is given the beginning,
// belong to a source changed at [Epoch]. Python compares that time with its
// source's: otherwise it would compile every module again at each start.
func restamp(head []byte) {
	// PEP 552: magic, flags, then for flags 0 the source's time and size.
	if len(head) >= 16 && binary.LittleEndian.Uint32(head[4:]) == 0 {
		binary.LittleEndian.PutUint32(head[8:], uint32(Epoch.Unix()))
	}
}
