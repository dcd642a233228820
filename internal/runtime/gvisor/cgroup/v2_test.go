package cgroup

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"silica.dev/silica/sandbox"
)

// fakeV2 opens groups on plain folders with the files of a v2 host. A control
// file system fills a new folder by itself: here mkdir does.
func fakeV2(t *testing.T) (*Groups, string) {
	t.Helper()
	root := t.TempDir()
	if err := os.CopyFS(root, os.DirFS("testdata/v2/root")); err != nil {
		t.Fatal(err)
	}
	// Open makes the top folder itself; give it its files first.
	top := filepath.Join(root, "silica")
	if err := os.CopyFS(top, os.DirFS("testdata/v2/group")); err != nil {
		t.Fatal(err)
	}
	g, err := Open(Config{Root: root})
	if err != nil {
		t.Fatal(err)
	}
	g.mkdir = func(dir string, perm os.FileMode) error {
		if err := os.Mkdir(dir, perm); err != nil {
			return err
		}
		return os.CopyFS(dir, os.DirFS("testdata/v2/group"))
	}
	g.rmdir = os.RemoveAll
	return g, top
}

func want(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for name, value := range files {
		if got, err := readString(filepath.Join(dir, name)); err != nil || got != value {
			t.Errorf("%s = %q, %v; want %q", name, got, err, value)
		}
	}
}

func TestV2Writes(t *testing.T) {
	g, top := fakeV2(t)
	want(t, filepath.Dir(top), map[string]string{"cgroup.subtree_control": "+cpu"}) // memory and pids were on
	want(t, top, map[string]string{"cgroup.subtree_control": "+cpu +memory +pids"})

	if err := g.Create("a", Limits{MilliCPU: 500, Memory: 512 * mib, Overhead: 32 * mib}); err != nil {
		t.Fatal(err)
	}
	want(t, filepath.Join(top, "a"), map[string]string{
		"cpu.max": "50000 100000", "cpu.weight": "20",
		"memory.high": "570425344", "memory.max": "771751936", // 544 MiB and 192 more
		"memory.oom.group": "1", "memory.swap.max": "0", "pids.max": "16384",
	})
	if err := g.Update("a", Limits{MilliCPU: 2000}); err != nil {
		t.Fatal(err)
	}
	want(t, filepath.Join(top, "a"), map[string]string{"cpu.max": "200000 100000", "memory.high": "max", "memory.max": "max"})
	if err := g.Add("a", 4711); err != nil {
		t.Fatal(err)
	}
	if pids, err := g.Procs("a"); err != nil || !slices.Equal(pids, []int{4711}) {
		t.Errorf("procs = %v, %v; want [4711]", pids, err)
	}
	if err := g.Create("a", Limits{}); !errors.Is(err, fs.ErrExist) {
		t.Errorf("create of an existing one: %v, want ErrExist", err)
	}
	if err := g.Update("b", Limits{}); sandbox.AsError(err).Kind != sandbox.NotFound {
		t.Errorf("update of an unknown one: %v, want NotFound", err)
	}
	if names, err := g.List(); err != nil || !slices.Equal(names, []string{"a"}) {
		t.Errorf("list = %v, %v; want [a]", names, err)
	}
	if err := g.Remove(t.Context(), "a"); err != nil {
		t.Error(err)
	}
	if names, err := g.List(); err != nil || len(names) > 0 {
		t.Errorf("list after remove = %v, %v", names, err)
	}
}

func TestV2Usage(t *testing.T) {
	g, top := fakeV2(t)
	if err := g.Create("a", Limits{Memory: 512 * mib}); err != nil {
		t.Fatal(err)
	}
	u, err := g.Usage("a")
	if want := (Usage{CPU: 1534211 * time.Microsecond, Memory: 70 * mib, Cache: 20 * mib}); err != nil || u != want {
		t.Errorf("usage = %+v, %v; want %+v", u, err, want)
	}
	if killed, err := g.OOMKilled("a"); err != nil || killed {
		t.Errorf("OOMKilled = %v, %v; want no", killed, err)
	}
	set(t, filepath.Join(top, "a", "memory.events"), "low 0\nhigh 12\nmax 4\noom 1\noom_kill 3\n")
	if killed, err := g.OOMKilled("a"); err != nil || !killed {
		t.Errorf("OOMKilled = %v, %v; want yes", killed, err)
	}
	if err := g.Update("a", Limits{MilliCPU: 1500, Memory: 512 * mib}); err != nil {
		t.Fatal(err)
	}
	if l, err := g.InForce("a"); err != nil || l.MilliCPU != 1500 || l.Memory <= 512*mib || l.Memory > 1024*mib {
		t.Errorf("limits in force = %+v, %v", l, err)
	}
	if err := g.Update("a", Limits{}); err != nil {
		t.Fatal(err)
	}
	if l, err := g.InForce("a"); err != nil || l != (Limits{}) {
		t.Errorf("limits in force of what has none = %+v, %v", l, err)
	}
	if _, err := g.Usage("b"); sandbox.AsError(err).Kind != sandbox.NotFound {
		t.Errorf("usage of an unknown one: %v, want NotFound", err)
	}
}

func TestV2Watch(t *testing.T) {
	g, top := fakeV2(t)
	if err := g.Create("a", Limits{Memory: 128 * mib}); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(top, "a")
	hot := func() {
		replace(t, filepath.Join(dir, "memory.current"), itoa(170*mib)) // 20 MiB of it are cache
		set(t, filepath.Join(dir, "memory.events"), "low 0\nhigh 1\nmax 0\noom 0\noom_kill 0\n")
	}
	calls := make(chan Pressure)
	answer := make(chan Decision)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- g.Watch(ctx, "a", func(_ context.Context, p Pressure) Decision {
			calls <- p
			return <-answer
		})
	}()
	hot()
	next := func() (p Pressure) {
		select {
		case p = <-calls:
		case err := <-done:
			t.Fatalf("Watch = %v", err)
		case <-time.After(10 * time.Second):
			t.Fatal("the guard did not call")
		}
		return p
	}
	if got, want := next(), (Pressure{Used: 150 * mib, Line: 128 * mib, Hard: 320 * mib, Attempt: 1}); got != want {
		t.Errorf("pressure = %+v, want %+v", got, want)
	}
	replace(t, filepath.Join(dir, "memory.max"), "1")
	replace(t, filepath.Join(dir, "memory.current"), itoa(60*mib))
	answer <- Acted

	// Cooled down: the next time counts from one again. Giving up makes the
	// kernel kill at the line.
	waitFor(t, "hard limit back", func() bool {
		s, _ := readString(filepath.Join(dir, "memory.max"))
		return s == itoa(320*mib)
	})
	hot()
	if got := next(); got.Attempt != 1 {
		t.Errorf("attempt = %d, want 1", got.Attempt)
	}
	answer <- GiveUp
	waitFor(t, "hard limit at the line", func() bool {
		s, _ := readString(filepath.Join(dir, "memory.max"))
		return s == itoa(128*mib)
	})
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("Watch = %v, want canceled", err)
	}
}

func TestDetect(t *testing.T) {
	link := func(t *testing.T) string {
		root := t.TempDir()
		for _, dir := range []string{"cpu,cpuacct", "memory", "unified"} {
			if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
				t.Fatal(err)
			}
			set(t, filepath.Join(root, dir, "cgroup.procs"), "")
		}
		for _, c := range []string{"cpu", "cpuacct"} {
			if err := os.Symlink("cpu,cpuacct", filepath.Join(root, c)); err != nil {
				t.Fatal(err)
			}
		}
		return root
	}
	h, err := Detect(link(t))
	if err != nil || h.V2 || h.Mounts["cpu"] != h.Mounts["cpuacct"] || h.Mounts["memory"] == "" {
		t.Errorf("systemd's v1: %+v, %v", h, err)
	}
	if dirs := (v1{h.Mounts, "silica"}).folders("a"); len(dirs) != 2 {
		t.Errorf("folders = %v, want two: cpu and cpuacct share one", dirs)
	}
	if h, err := Detect("testdata/v2/root"); err != nil || !h.V2 {
		t.Errorf("v2: %+v, %v", h, err)
	}
	empty := t.TempDir()
	if _, err := Detect(empty); sandbox.AsError(err).Kind != sandbox.Unavailable {
		t.Errorf("nothing mounted: %v, want Unavailable", err)
	}
	set(t, filepath.Join(empty, "cgroup.controllers"), "hugetlb")
	if _, err := Detect(empty); sandbox.AsError(err).Kind != sandbox.Unavailable {
		t.Errorf("v2 without memory: %v, want Unavailable", err)
	}
}

func TestNames(t *testing.T) {
	g, _ := fakeV2(t)
	for _, name := range []string{"", ".", "..", "a/b", "../x", "cgroup.procs", "a\nb"} {
		if err := g.Create(name, Limits{}); sandbox.AsError(err).Kind != sandbox.Invalid {
			t.Errorf("Create(%q) = %v, want Invalid", name, err)
		}
	}
}

func TestEnter(t *testing.T) {
	dir := t.TempDir()
	procs := filepath.Join(dir, "cgroup.procs")
	set(t, procs, "")
	p := Placement{Join: []string{procs}, Memory: 300 * mib, CPUs: 2, Quota: 50000, Period: 100000}
	if err := p.Save(dir); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name      string
		args, out []string
	}{
		{"boot", []string{"runsc-sandbox", "--root=/r", "boot", "--bundle=" + dir, "--setup-root", "--total-memory", "99", "id"},
			[]string{"runsc-sandbox", "--root=/r", "boot", "--cpu-num=2", "--cpu-quota=50000", "--cpu-period=100000", "--total-memory=314572800", "--bundle=" + dir, "--setup-root", "id"}},
		{"gofer", []string{"runsc-gofer", "gofer", "--bundle", dir, "--x"}, []string{"runsc-gofer", "gofer", "--bundle", dir, "--x"}},
	} {
		set(t, procs, "")
		out, err := Enter(c.args)
		if err != nil || !slices.Equal(out, c.out) {
			t.Errorf("%s: %q, %v; want %q", c.name, out, err, c.out)
		}
		want(t, dir, map[string]string{"cgroup.procs": "0"})
	}
	set(t, procs, "")
	for _, args := range [][]string{
		{"runsc-sandbox", "boot", "--setup-root=false", "--bundle=" + dir, "id"}, {"/proc/self/exe", "umount"}, {"silica-engine"},
	} {
		if out, err := Enter(args); err != nil || !slices.Equal(out, args) {
			t.Errorf("%q became %q, %v", args, out, err)
		}
	}
	want(t, dir, map[string]string{"cgroup.procs": ""})
	if _, err := Enter([]string{"runsc-sandbox", "boot", "--bundle=" + t.TempDir(), "id"}); err == nil {
		t.Error("boot without a placement was let through")
	}
}

func set(t *testing.T, path, value string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(value), 0o600); err != nil {
		t.Fatal(err)
	}
}

// replace is a set that no reader sees half done.
func replace(t *testing.T, path, value string) {
	t.Helper()
	set(t, path+".new", value)
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

// waitFor polls a condition that nothing announces.
func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for: %s", what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}
