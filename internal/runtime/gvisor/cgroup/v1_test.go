package cgroup

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestMain plays the processes that the tests put into groups.
func TestMain(m *testing.M) {
	switch os.Getenv("CGROUP_TEST") {
	case "":
		os.Exit(m.Run())
	case "sleep": // until stdin closes
		_, _ = io.Copy(io.Discard, os.Stdin)
	case "eat": // one GiB, once told to
		_, _ = bufio.NewReader(os.Stdin).ReadString('\n')
		var held [][]byte
		for range 1024 {
			chunk, err := unix.Mmap(-1, 0, mib, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
			if err != nil {
				os.Exit(1)
			}
			for i := 0; i < len(chunk); i += 4096 {
				chunk[i] = 1
			}
			held = append(held, chunk)
		}
		fmt.Println("full", len(held))
		_, _ = io.Copy(io.Discard, os.Stdin)
	case "burn": // for a second, then tell the CPU time in ms
		_, _ = bufio.NewReader(os.Stdin).ReadString('\n')
		for start := time.Now(); time.Since(start) < time.Second; {
		}
		var ru syscall.Rusage
		_ = syscall.Getrusage(syscall.RUSAGE_SELF, &ru)
		fmt.Println((ru.Utime.Nano() + ru.Stime.Nano()) / 1e6)
	case "enter":
		args, err := Enter(os.Args)
		data, _ := os.ReadFile("/proc/self/cgroup")
		fmt.Println(args, err)
		fmt.Print(string(data))
	}
}

// realV1 opens groups of the host's own v1 controllers.
func realV1(t *testing.T) *Groups {
	t.Helper()
	h, err := Detect("/sys/fs/cgroup")
	if err != nil || h.V2 || os.Getuid() != 0 {
		t.Skip("needs root and cgroup v1")
	}
	top := fmt.Sprintf("siltest-%d", os.Getpid())
	g, err := Open(Config{Top: top})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		names, err := g.List()
		if err != nil {
			t.Error(err)
		}
		for _, name := range names {
			if err := g.KillAll(context.Background(), name); err != nil {
				t.Error(err)
			}
			if err := g.Remove(context.Background(), name); err != nil {
				t.Error(err)
			}
		}
		for _, dir := range g.tree.folders("") {
			if err := unix.Rmdir(dir); err != nil {
				t.Errorf("leftover %s: %v", dir, err)
			}
		}
	})
	return g
}

type proc struct {
	*exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

// start runs a helper of TestMain inside a group.
func start(t *testing.T, g *Groups, name, what string) *proc {
	t.Helper()
	p := &proc{Cmd: exec.Command("/proc/self/exe")}
	p.Env = append(os.Environ(), "CGROUP_TEST="+what, "GOMAXPROCS=2")
	p.in, _ = p.StdinPipe()
	out, _ := p.StdoutPipe()
	p.out = bufio.NewReader(out)
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Process.Kill(); _ = p.Wait() })
	if err := g.Add(name, p.Process.Pid); err != nil {
		t.Fatal(err)
	}
	return p
}

func (p *proc) goOn(t *testing.T) {
	t.Helper()
	if _, err := io.WriteString(p.in, "\n"); err != nil {
		t.Fatal(err)
	}
}

func create(t *testing.T, g *Groups, name string, l Limits) {
	t.Helper()
	if err := g.Create(name, l); err != nil {
		t.Fatal(err)
	}
}

func (p *proc) running() bool { return unix.Kill(p.Process.Pid, 0) == nil && !zombie(p.Process.Pid) }

func zombie(pid int) bool {
	data, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	_, rest, _ := strings.Cut(string(data), ") ")
	return strings.HasPrefix(rest, "Z")
}

func TestV1CPU(t *testing.T) {
	g := realV1(t)
	create(t, g, "a", Limits{MilliCPU: 300})
	p := start(t, g, "a", "burn")
	p.goOn(t)
	line, err := p.out.ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	if ms, _ := strconv.Atoi(strings.TrimSpace(line)); ms > 480 {
		t.Errorf("300 millicores gave %d ms of CPU in a second", ms)
	}
	u, err := g.Usage("a")
	if err != nil || u.CPU < 50*time.Millisecond || u.CPU > 600*time.Millisecond {
		t.Errorf("usage = %+v, %v", u, err)
	}
	if err := g.Update("a", Limits{MilliCPU: 1500}); err != nil {
		t.Fatal(err)
	}
	want(t, g.tree.(v1).file("cpu", "a", ""), map[string]string{"cpu.cfs_quota_us": "150000", "cpu.shares": "1536"})
}

func TestV1MemoryUpdate(t *testing.T) {
	g := realV1(t)
	create(t, g, "a", Limits{Memory: 64 * mib})
	dir := g.tree.(v1).file("memory", "a", "")
	for _, size := range []int64{64, 512, 32} {
		if err := g.Update("a", Limits{Memory: size * mib}); err != nil {
			t.Fatal(err)
		}
		want(t, dir, map[string]string{
			"memory.limit_in_bytes":      itoa(Limits{Memory: size * mib}.Hard()),
			"memory.soft_limit_in_bytes": itoa(size * mib),
		})
	}
}

// watch runs a guard and reports its calls; act decides.
func watch(t *testing.T, g *Groups, name string, act func(Pressure) Decision) (calls *[]Pressure, stop func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	calls = new([]Pressure)
	go func() {
		done <- g.Watch(ctx, name, func(_ context.Context, p Pressure) Decision {
			*calls = append(*calls, p)
			return act(p)
		})
	}()
	var once bool
	stop = func() error {
		cancel()
		if once {
			return nil
		}
		once = true
		return <-done
	}
	t.Cleanup(func() {
		if err := stop(); err != nil {
			t.Log("Watch:", err)
		}
	})
	waitFor(t, "guard to be armed", func() bool {
		oom, _ := readKeys(g.tree.(v1).file("memory", name, "memory.oom_control"))
		return oom["oom_kill_disable"] == 1
	})
	return calls, stop
}

func TestV1GuardSavesTheOthers(t *testing.T) {
	g := realV1(t)
	l := Limits{Memory: 96 * mib}
	create(t, g, "a", l)
	other, eater := start(t, g, "a", "sleep"), start(t, g, "a", "eat")
	calls, stop := watch(t, g, "a", func(Pressure) Decision {
		_ = eater.Process.Kill()
		return Acted
	})
	eater.goOn(t)
	if err := eater.Wait(); err == nil {
		t.Error("the eater was not killed")
	}
	waitFor(t, "limit to be taken back", func() bool {
		n, _ := readInt(g.tree.(v1).file("memory", "a", "memory.limit_in_bytes"))
		return n == l.Hard()
	})
	if !other.running() {
		t.Error("the other process died too")
	}
	if killed, err := g.OOMKilled("a"); err != nil || killed {
		t.Errorf("OOMKilled = %v, %v; want no", killed, err)
	}
	if err := stop(); !errors.Is(err, context.Canceled) {
		t.Errorf("Watch = %v, want canceled", err)
	}
	if len(*calls) == 0 || (*calls)[0].Used <= l.Line() && !(*calls)[0].Stopped {
		t.Errorf("calls = %+v, want a first one above the line", *calls)
	}
	want(t, g.tree.(v1).file("memory", "a", ""), map[string]string{"memory.soft_limit_in_bytes": itoa(l.Line())})
}

// TestV1GuardGivesUp: without help the kernel kills, whether the callback says
// so or never gets anywhere.
func TestV1GuardGivesUp(t *testing.T) {
	for name, decision := range map[string]Decision{"asked": GiveUp, "helpless": Acted} {
		t.Run(name, func(t *testing.T) {
			g := realV1(t)
			create(t, g, "a", Limits{Memory: 64 * mib})
			eater := start(t, g, "a", "eat")
			calls, stop := watch(t, g, "a", func(Pressure) Decision { return decision })
			eater.goOn(t)
			if err := eater.Wait(); err == nil {
				t.Error("the eater was not killed")
			}
			if killed, err := g.OOMKilled("a"); err != nil || !killed {
				t.Errorf("OOMKilled = %v, %v; want yes", killed, err)
			}
			if err := stop(); !errors.Is(err, context.Canceled) {
				t.Errorf("Watch = %v, want canceled", err)
			}
			if n := len(*calls); n > maxAttempts {
				t.Errorf("%d calls, want at most %d", n, maxAttempts)
			}
		})
	}
}

// TestV1Adoption: a guard died at the worst moment; tasks stand still until the
// next one comes.
func TestV1Adoption(t *testing.T) {
	g := realV1(t)
	l := Limits{Memory: 64 * mib}
	create(t, g, "a", l)
	if err := write(g.tree.(v1).file("memory", "a", "memory.oom_control"), "1"); err != nil {
		t.Fatal(err)
	}
	if err := g.tree.raise("a", 2); err != nil {
		t.Fatal(err)
	}
	eater := start(t, g, "a", "eat")
	eater.goOn(t)
	waitFor(t, "the eater to stand still", func() bool {
		m, _ := g.tree.memory("a")
		return m.stopped
	})
	calls, stop := watch(t, g, "a", func(Pressure) Decision {
		_ = eater.Process.Kill()
		return Acted
	})
	if err := eater.Wait(); err == nil {
		t.Error("the eater was not killed")
	}
	waitFor(t, "limit to be taken back", func() bool {
		n, _ := readInt(g.tree.(v1).file("memory", "a", "memory.limit_in_bytes"))
		return n == l.Hard()
	})
	if err := stop(); !errors.Is(err, context.Canceled) {
		t.Errorf("Watch = %v, want canceled", err)
	}
	if len(*calls) == 0 || !(*calls)[0].Stopped {
		t.Errorf("calls = %+v, want a first one that says stopped", *calls)
	}
}

// TestV1KillStopped: what stands still can still be destroyed, without a guard.
func TestV1KillStopped(t *testing.T) {
	g := realV1(t)
	create(t, g, "a", Limits{Memory: 64 * mib})
	if err := write(g.tree.(v1).file("memory", "a", "memory.oom_control"), "1"); err != nil {
		t.Fatal(err)
	}
	eater := start(t, g, "a", "eat")
	eater.goOn(t)
	waitFor(t, "the eater to stand still", func() bool {
		m, _ := g.tree.memory("a")
		return m.stopped
	})
	if err := g.KillAll(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	if err := g.Remove(t.Context(), "a"); err != nil { // its zombie is not reaped yet
		t.Fatal(err)
	}
}

func TestV1Lifecycle(t *testing.T) {
	g := realV1(t)
	create(t, g, "a", Limits{MilliCPU: 1000, Memory: 64 * mib})
	p := start(t, g, "a", "sleep")
	if pids, err := g.Procs("a"); err != nil || !slices.Equal(pids, []int{p.Process.Pid}) {
		t.Errorf("procs = %v, %v; want [%d]", pids, err, p.Process.Pid)
	}
	// A watcher ends by itself when its group goes.
	done := make(chan error)
	go func() {
		done <- g.Watch(context.Background(), "a", func(context.Context, Pressure) Decision { return Acted })
	}()
	waitFor(t, "guard to be armed", func() bool {
		oom, _ := readKeys(g.tree.(v1).file("memory", "a", "memory.oom_control"))
		return oom["oom_kill_disable"] == 1
	})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := g.Remove(ctx, "a"); err == nil {
		t.Error("a group with a process in it was removed")
	}
	if names, err := g.List(); err != nil || !slices.Equal(names, []string{"a"}) {
		t.Errorf("list = %v, %v; want [a]", names, err)
	}
	if err := g.KillAll(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := g.Remove(t.Context(), "a"); err != nil {
			t.Fatal(err)
		}
	}
	if err := <-done; err != nil {
		t.Errorf("Watch of a removed group = %v, want nil", err)
	}
	if pids, err := g.Procs("a"); err != nil || len(pids) > 0 {
		t.Errorf("procs of nothing = %v, %v", pids, err)
	}
}

func TestV1Enter(t *testing.T) {
	g := realV1(t)
	l := Limits{MilliCPU: 500, Memory: 256 * mib}
	create(t, g, "a", l)
	bundle := t.TempDir()
	if err := g.Placement("a", l).Save(bundle); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/proc/self/exe", "boot", "--bundle="+bundle, "--total-memory=1", "id")
	cmd.Env = append(os.Environ(), "CGROUP_TEST=enter")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatal(err, string(out))
	}
	in := filepath.Join("/", g.tree.(v1).top, "a")
	for _, line := range []string{"memory:" + in, "cpu:" + in, "--total-memory=268435456", "--cpu-quota=50000"} {
		if !strings.Contains(string(out), line) {
			t.Errorf("%q is not in:\n%s", line, out)
		}
	}
}
