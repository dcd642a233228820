// Package cgroup holds one sandbox's processes to its CPU and memory limits and
// tells when memory runs out, on cgroup v1 and v2 alike, so that the engine
// need not know which of the two the host has.
package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"silica.dev/silica/sandbox"
)

// Hierarchy says where the host's controllers are mounted.
type Hierarchy struct {
	// V2 is set for the unified hierarchy, mounted at Root.
	V2   bool
	Root string
	// Mounts maps each v1 controller to its folder, links resolved: several
	// controllers may share one. Nil for v2.
	Mounts map[string]string
}

// v1Controllers are joined where they exist. The others limit nothing we limit,
// and each one joined costs another move.
var v1Controllers = []string{"memory", "cpu", "cpuacct", "pids"}

// Detect finds the hierarchy below root, usually /sys/fs/cgroup. A hybrid host
// (v1 controllers and an empty v2) counts as v1. The error is Unavailable and
// says what is missing.
func Detect(root string) (Hierarchy, error) {
	data, err := os.ReadFile(filepath.Join(root, "cgroup.controllers"))
	if err == nil {
		have := strings.Fields(string(data))
		for _, need := range []string{"cpu", "memory"} {
			if !slices.Contains(have, need) {
				return Hierarchy{}, unavailable("cgroup v2 at "+root+" has no "+need+" controller", nil)
			}
		}
		return Hierarchy{V2: true, Root: root}, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return Hierarchy{}, unavailable("can't read "+root, err)
	}
	mounts := map[string]string{}
	for _, c := range v1Controllers {
		dir, err := filepath.EvalSymlinks(filepath.Join(root, c))
		if err != nil {
			continue
		}
		if _, err := os.Stat(filepath.Join(dir, "cgroup.procs")); err == nil {
			mounts[c] = dir
		}
	}
	for _, need := range []string{"cpu", "memory"} {
		if mounts[need] == "" {
			return Hierarchy{}, unavailable("no cgroup "+need+" controller is mounted below "+root, nil)
		}
	}
	return Hierarchy{Root: root, Mounts: mounts}, nil
}

func unavailable(message string, cause error) error {
	e := sandbox.E(sandbox.Unavailable, sandbox.CodeUnavailable, message)
	if cause != nil {
		return e.Because(cause)
	}
	return e
}

// top makes the folder that holds all groups, with its controllers switched on
// for children. parts is its path below the root.
func (h Hierarchy) top(parts string) error {
	if !h.V2 {
		for _, mount := range h.Mounts {
			if err := os.MkdirAll(filepath.Join(mount, parts), 0o755); err != nil {
				return fmt.Errorf("make cgroup folder: %w", err)
			}
		}
		// Old kernels start with flat accounting, where a parent doesn't see
		// its children; new ones know nothing else and refuse no "1".
		flag := filepath.Join(h.Mounts["memory"], parts, "memory.use_hierarchy")
		if v, err := readString(flag); err == nil && v == "0" {
			return write(flag, "1")
		}
		return nil
	}
	dir := h.Root
	for _, part := range append([]string{""}, strings.Split(parts, "/")...) {
		dir = filepath.Join(dir, part)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("make cgroup folder: %w", err)
		}
		if err := enableControllers(dir); err != nil {
			return err
		}
	}
	return nil
}

// enableControllers switches the controllers on for the children of dir. It
// writes only what is missing: systemd watches its own folders.
func enableControllers(dir string) error {
	file := filepath.Join(dir, "cgroup.subtree_control")
	on, err := readString(file)
	if err != nil {
		return fmt.Errorf("read controllers: %w", err)
	}
	have, err := readString(filepath.Join(dir, "cgroup.controllers"))
	if err != nil {
		return fmt.Errorf("read controllers: %w", err)
	}
	var missing []string
	for _, c := range []string{"cpu", "memory", "pids"} {
		if !slices.Contains(strings.Fields(on), c) && (c != "pids" || slices.Contains(strings.Fields(have), c)) {
			missing = append(missing, "+"+c)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	if err := write(file, strings.Join(missing, " ")); err != nil {
		// EBUSY: processes live directly in dir (a container's own root);
		// v2 allows processes only in leaves.
		return unavailable("can't switch on the cgroup controllers "+strings.Join(missing, " ")+" below "+dir+
			"; if processes run directly in it, move them to a subfolder", err)
	}
	return nil
}
