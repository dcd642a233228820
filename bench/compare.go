package bench

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// busybox is the static one: a whole root file system in one file.
const busybox = "/bin/busybox"

// compare times other runtimes on this machine, in this run, while the server
// and its kernel settings are there for them too.
func (t target) compare(ctx context.Context) (s Section, err error) {
	s = Section{Title: "Beside it, on the same machine in the same run", Note: "Whole commands, as a caller without a server would start them. " +
		"The root file system is one static busybox; runsc runs without network and cgroups, which makes it faster. " +
		"A machine that has rested is slower at everything, so what stands above with a pause between two is to be compared with what has one here."}
	dir, err := os.MkdirTemp("", "silica-bench-*")
	if err != nil {
		return s, err
	}
	defer os.RemoveAll(dir)
	// add measures back to back and with pauses.
	add := func(what string, n int, once func(int) (time.Duration, error)) error {
		for _, pause := range []time.Duration{0, t.Refill} {
			took, err := measure(ctx, t.rounds(n), pause, once)
			if err != nil {
				return fmt.Errorf("%s: %w", what, err)
			}
			s.Rows = append(s.Rows, Row{What: what + apart(pause), Stats: summarise(took, 0)})
		}
		return nil
	}
	if err := add("sh -c true on the host", 50, func(int) (time.Duration, error) {
		begun := time.Now()
		err := exec.CommandContext(ctx, "sh", "-c", "true").Run()
		return time.Since(begun), err
	}); err != nil {
		return s, err
	}
	if t.Runc == "" {
		s.Facts = append(s.Facts, Fact{"runc", "not installed: left out", ""})
	} else {
		c := container{tool: []string{t.Runc, "--root", filepath.Join(dir, "runc")}, bundle: filepath.Join(dir, "runc-bundle")}
		if err := c.prepare(busybox, "true"); err != nil {
			return s, err
		}
		if err := add("runc run … true", 50, func(i int) (time.Duration, error) {
			return c.command(ctx, "run", fmt.Sprintf("bench-%d-%d", os.Getpid(), i))
		}); err != nil {
			return s, err
		}
		if err := c.prepare(busybox, "sleep", "3600"); err != nil {
			return s, err
		}
		id := fmt.Sprintf("bench-%d-exec", os.Getpid())
		if _, err := c.command(ctx, "run", "--detach", id); err != nil {
			return s, err
		}
		defer c.remove(ctx, id)
		if err := add("runc exec … true", 50, func(int) (time.Duration, error) {
			return c.command(ctx, "exec", id, busybox, "true")
		}); err != nil {
			return s, err
		}
	}
	if t.Runsc == "" {
		s.Facts = append(s.Facts, Fact{"runsc", "not built: left out", ""})
		return s, nil
	}
	c := t.runsc(dir)
	image, err := c.checkpoint(ctx, dir)
	if err != nil {
		return s, err
	}
	return s, add("runsc restore + exec … true", 20, func(i int) (time.Duration, error) {
		return c.restoreOnce(ctx, image, fmt.Sprintf("bench-%d-%d", os.Getpid(), i))
	})
}

// measure takes n times what once says it took, after two that fill caches, with a
// pause before each.
func measure(ctx context.Context, n int, pause time.Duration, once func(i int) (time.Duration, error)) ([]time.Duration, error) {
	var took []time.Duration
	for i := range n + 2 {
		rest(ctx, pause)
		d, err := once(i)
		if err != nil {
			return nil, err
		}
		if i >= 2 {
			took = append(took, d)
		}
	}
	return took, nil
}

// apart names a series by its pause.
func apart(pause time.Duration) string {
	if pause == 0 {
		return ""
	}
	return fmt.Sprintf(", %s apart", pause)
}

// runsc is one with its things in dir.
func (t target) runsc(dir string) container {
	return container{bundle: filepath.Join(dir, "runsc-bundle"),
		tool: []string{t.Runsc, "--root", filepath.Join(dir, "runsc"), "--network=none", "--ignore-cgroups", "--host-settings=ignore"}}
}

// container drives one OCI runtime's command line.
type container struct {
	tool   []string
	bundle string
}

// command runs the tool and returns its wall time. Output goes to nowhere, and
// not into a pipe, which a container left behind would hold open.
func (c container) command(ctx context.Context, args ...string) (time.Duration, error) {
	cmd := exec.CommandContext(ctx, c.tool[0], append(append([]string{}, c.tool[1:]...), args...)...)
	cmd.Dir = c.bundle
	errors, err := os.CreateTemp(c.bundle, "stderr-*")
	if err != nil {
		return 0, err
	}
	defer os.Remove(errors.Name())
	defer errors.Close()
	cmd.Stderr = errors
	begun := time.Now()
	if err := cmd.Run(); err != nil {
		said := make([]byte, 300)
		n, _ := errors.ReadAt(said, 0)
		return 0, fmt.Errorf("%s %v: %w: %s", filepath.Base(c.tool[0]), args, err, said[:n])
	}
	return time.Since(begun), nil
}

// prepare makes a bundle that runs argv.
func (c container) prepare(argv ...string) error {
	bin := filepath.Join(c.bundle, "rootfs", "bin")
	if err := os.MkdirAll(bin, 0o755); err != nil {
		return err
	}
	for _, dir := range []string{"proc", "dev", "sys", "tmp"} {
		if err := os.MkdirAll(filepath.Join(c.bundle, "rootfs", dir), 0o755); err != nil {
			return err
		}
	}
	if err := copyFile(filepath.Join(bin, "busybox"), busybox); err != nil {
		return fmt.Errorf("%w (Debian: apt-get install busybox-static)", err)
	}
	spec := map[string]any{
		"ociVersion": "1.0.2",
		"process": map[string]any{"args": argv, "cwd": "/", "env": []string{"PATH=/bin"}, "user": map[string]int{"uid": 0, "gid": 0},
			"noNewPrivileges": true},
		"root": map[string]any{"path": "rootfs", "readonly": true},
		"mounts": []map[string]any{
			{"destination": "/proc", "type": "proc", "source": "proc"},
			{"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": []string{"nosuid", "mode=755"}},
		},
		"linux": map[string]any{"namespaces": []map[string]string{{"type": "pid"}, {"type": "network"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}}},
	}
	b, err := json.Marshal(spec)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(c.bundle, "config.json"), b, 0o644)
}

func copyFile(to, from string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, in); err != nil {
		out.Close()
		return err
	}
	return out.Close()
}

// checkpoint takes one to restore from, in dir.
func (c container) checkpoint(ctx context.Context, dir string) (image string, err error) {
	if err := c.prepare(busybox, "sleep", "3600"); err != nil {
		return "", err
	}
	image = filepath.Join(dir, "checkpoint")
	if err := os.Mkdir(image, 0o755); err != nil {
		return "", err
	}
	seed := fmt.Sprintf("bench-%d-seed", os.Getpid())
	defer c.remove(ctx, seed)
	if _, err := c.command(ctx, "run", "--detach", seed); err != nil {
		return "", err
	}
	_, err = c.command(ctx, "checkpoint", "--image-path", image, "--compression", "none", seed)
	return image, err
}

// restoreOnce times what a script does to get a command's answer from a checkpoint.
func (c container) restoreOnce(ctx context.Context, image, id string) (time.Duration, error) {
	defer c.remove(ctx, id)
	restored, err := c.command(ctx, "restore", "--detach", "--image-path", image, id)
	if err != nil {
		return 0, err
	}
	ran, err := c.command(ctx, "exec", id, busybox, "true")
	return restored + ran, err
}

func (c container) remove(ctx context.Context, id string) {
	_, _ = c.command(context.WithoutCancel(ctx), "delete", "--force", id)
}
