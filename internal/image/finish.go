package image

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
)

// mountPoints must be in the image: its file system is read-only.
var mountPoints = []struct {
	path string
	mode fs.FileMode
}{
	{"proc", 0o555}, {"sys", 0o555}, {"dev", 0o755}, {"dev/pts", 0o755}, {"dev/shm", fs.ModeSticky | 0o777},
	{"run", 0o755}, {"tmp", fs.ModeSticky | 0o777}, {"root", 0o700}, {"workspace", 0o755}, {".silica", 0o755},
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

// finish turns a base image's files into those of a sandbox. Everything goes
// through an [os.Root]: a base image may hold links that lead out of it.
func finish(dir string, agent []byte) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	if err := removeMatches(root, leftovers); err != nil {
		return err
	}
	if err := emptyLogs(root); err != nil {
		return err
	}
	for _, m := range mountPoints {
		if err := makeFolder(root, m.path, m.mode); err != nil {
			return err
		}
	}
	for name, text := range plainFiles {
		if err := replace(root, name, []byte(text), 0o644); err != nil {
			return err
		}
	}
	if err := replace(root, strings.TrimPrefix(AgentPath, "/"), agent, 0o755); err != nil {
		return err
	}
	return stampBytecode(root)
}

func removeMatches(root *os.Root, patterns []string) error {
	for _, p := range patterns {
		names, err := fs.Glob(root.FS(), p)
		if err != nil {
			return fmt.Errorf("%s: %w", p, err)
		}
		for _, name := range names {
			if err := root.RemoveAll(name); err != nil {
				return err
			}
		}
	}
	return nil
}

// emptyLogs keeps the files, because programs expect some of them to be there.
func emptyLogs(root *os.Root) error {
	err := fs.WalkDir(root.FS(), "var/log", func(name string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		f, err := root.OpenFile(name, os.O_WRONLY|os.O_TRUNC, 0)
		if err != nil {
			return err
		}
		return f.Close()
	})
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// makeFolder makes sure that name is a folder and no link to one.
func makeFolder(root *os.Root, name string, mode fs.FileMode) error {
	if st, err := root.Lstat(name); err == nil && !st.IsDir() {
		if err := root.Remove(name); err != nil {
			return err
		}
	}
	if err := root.MkdirAll(name, 0o755); err != nil {
		return err
	}
	return root.Chmod(name, mode)
}

// replace puts a regular file at name, whatever is there.
func replace(root *os.Root, name string, text []byte, mode fs.FileMode) error {
	if err := root.RemoveAll(name); err != nil {
		return err
	}
	if err := root.MkdirAll(path.Dir(name), 0o755); err != nil {
		return err
	}
	if err := root.WriteFile(name, text, mode); err != nil {
		return err
	}
	return root.Chmod(name, mode) // not lessened by the umask
}

// stampBytecode makes compiled Python files belong to sources changed at
// [epoch]. Python compares that time with its source's: otherwise it would
// compile every module again at each start.
func stampBytecode(root *os.Root) error {
	return fs.WalkDir(root.FS(), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || !strings.HasSuffix(name, ".pyc") {
			return err
		}
		f, err := root.OpenFile(name, os.O_RDWR, 0)
		if err != nil {
			return err
		}
		defer f.Close()
		// PEP 552: magic, flags, then for flags 0 the source's time and size.
		var header [16]byte
		if _, err := io.ReadFull(f, header[:]); err != nil || binary.LittleEndian.Uint32(header[4:]) != 0 {
			return nil // not of this form
		}
		var stamp [4]byte
		binary.LittleEndian.PutUint32(stamp[:], uint32(epoch.Unix()))
		_, err = f.WriteAt(stamp[:], 8)
		return err
	})
}
