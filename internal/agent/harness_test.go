package agent_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"silica.dev/silica/internal/agent"
	"silica.dev/silica/internal/guest"
	"silica.dev/silica/internal/guest/guestpb"
)

// The tests talk to a real agent: this executable again, as process 1 of
// namespaces of its own. With SILICA_TEST_ADDR set they talk to one that is there
// already, which is how they run inside a real sandbox.
const (
	envRole   = "SILICA_TEST_ROLE"
	envAddr   = "SILICA_TEST_ADDR"
	envCgroup = "SILICA_TEST_CGROUP"
	envRoot   = "SILICA_TEST_ROOT"
	envDisk   = "SILICA_TEST_DISK"
)

func TestMain(m *testing.M) {
	switch os.Getenv(envRole) {
	case "agent":
		if err := beAgent(); err != nil {
			fmt.Fprintln(os.Stderr, "test agent:", err)
			os.Exit(1)
		}
	case "hog":
		beHog()
	default:
		os.Exit(m.Run())
	}
}

// beAgent is process 1. Files 3 and 4 are the ready pipes, 5 takes the port.
func beAgent() error {
	ready := agent.HasReadyPipes()
	agent.Deafen()
	unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0)
	unix.CloseOnExec(5)
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("private mounts: %w", err)
	}
	if err := unix.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		return fmt.Errorf("mount proc: %w", err)
	}
	cfg := agent.Config{Version: "test", Init: true, Root: os.Getenv(envRoot), Disk: os.Getenv(envDisk),
		Log: slog.New(slog.NewTextHandler(os.Stderr, nil))}
	if err := unix.Mount("tmpfs", cfg.Disk, "tmpfs", 0, "size=4m"); err != nil {
		return fmt.Errorf("mount the small disk: %w", err)
	}
	if dir := os.Getenv(envCgroup); dir != "" {
		f, err := os.Open(dir)
		if err != nil {
			return err
		}
		cfg.Cgroup = f
	}
	a, err := agent.New(cfg)
	if err != nil {
		return err
	}
	l, err := agent.Listen(context.Background(), "127.0.0.1:0")
	if err != nil {
		return err
	}
	port := os.NewFile(5, "port")
	fmt.Fprintln(port, l.Addr())
	port.Close()
	if ready {
		go agent.AnswerReady()
	}
	return a.Serve(context.Background(), l)
}

// beHog holds 64 MiB and says so.
func beHog() {
	b := make([]byte, 64<<20)
	for i := 0; i < len(b); i += 4096 {
		b[i] = 1
	}
	fmt.Println("full")
	time.Sleep(time.Hour)
	fmt.Println(b[0])
}

// guestAgent is one agent under test.
type guestAgent struct {
	*guest.Client
	addr  string
	dials func() int
	root  string   // what Init's files are put below
	disk  string   // a file system of 4 MiB
	ready *os.File // our ends of the ready pipes
	told  *os.File
	stop  func() // at once, and all it runs
}

// trackers are the ways to know a process's tree.
func trackers() []string {
	if os.Getenv(envAddr) != "" {
		return []string{"remote"}
	}
	list := []string{"walk"}
	if _, err := os.Stat("/sys/fs/cgroup/pids/tasks"); err == nil {
		list = append(list, "cgroup")
	}
	return list
}

// eachTracker runs a test with every kind of tree.
func eachTracker(t *testing.T, f func(t *testing.T, a *guestAgent)) {
	for _, kind := range trackers() {
		t.Run(kind, func(t *testing.T) { f(t, start(t, kind)) })
	}
}

// one starts an agent of the best kind there is.
func one(t testing.TB) *guestAgent {
	list := trackers()
	return start(t, list[len(list)-1])
}

func start(t testing.TB, tracker string) *guestAgent {
	t.Helper()
	return boot(t, tracker, t.TempDir())
}

// another ends an agent and starts one that finds its files.
func another(t testing.TB, a *guestAgent) *guestAgent {
	t.Helper()
	a.stop()
	return boot(t, "walk", a.root)
}

func boot(t testing.TB, tracker, root string) *guestAgent {
	t.Helper()
	a := &guestAgent{root: root, disk: t.TempDir(), stop: func() {}}
	if addr := os.Getenv(envAddr); addr != "" {
		a.addr = addr
		a.connect(t)
		return a
	}
	if os.Getuid() != 0 {
		t.Skip("an agent needs namespaces, and so root")
	}
	os.Mkdir(filepath.Join(a.root, "etc"), 0o755)
	var pipes [3][2]*os.File
	for i := range pipes {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		pipes[i] = [2]*os.File{r, w}
		t.Cleanup(func() { r.Close(); w.Close() })
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), envRole+"=agent", envRoot+"="+a.root, envDisk+"="+a.disk)
	if tracker == "cgroup" {
		cmd.Env = append(cmd.Env, envCgroup+"="+testCgroup(t))
	}
	cmd.ExtraFiles = []*os.File{pipes[0][0], pipes[1][1], pipes[2][1]}
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS | unix.CLONE_NEWUTS, Pdeathsig: unix.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	a.stop = sync.OnceFunc(func() { cmd.Process.Kill(); cmd.Wait() })
	t.Cleanup(a.stop)
	for _, f := range cmd.ExtraFiles {
		f.Close()
	}
	line, err := bufio.NewReader(pipes[2][0]).ReadString('\n')
	if err != nil {
		t.Fatal("the agent did not come up:", err)
	}
	a.addr, a.ready, a.told = strings.TrimSpace(line), pipes[0][1], pipes[1][0]
	a.connect(t)
	return a
}

func (a *guestAgent) connect(t testing.TB) {
	var mu sync.Mutex
	n := 0
	a.dials = func() int { mu.Lock(); defer mu.Unlock(); return n }
	a.Client = guest.NewClient(func(ctx context.Context) (net.Conn, error) {
		mu.Lock()
		n++
		mu.Unlock()
		return (&net.Dialer{}).DialContext(ctx, "tcp", a.addr)
	})
	t.Cleanup(a.Client.Close)
}

// testCgroup makes a folder in the machine's pids hierarchy, gone after the test.
func testCgroup(t testing.TB) string {
	dir := fmt.Sprintf("/sys/fs/cgroup/pids/silica-agent-test-%d-%d", os.Getpid(), time.Now().UnixNano())
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Skip("no cgroup for the test:", err)
	}
	t.Cleanup(func() { // runs after the agent was killed
		until(t, "the test's cgroup is gone", func() bool {
			subs, _ := filepath.Glob(dir + "/e*")
			for _, s := range subs {
				os.Remove(s)
			}
			return os.Remove(dir) == nil
		})
	})
	return dir
}

// until waits for a condition.
func until(t testing.TB, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !cond(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Errorf("waited in vain until %s", what)
			return
		}
	}
}

// result is what one command did.
type result struct {
	pid                uint32
	out, err, terminal string
	exit               *guestpb.ProcessEvent_Exited
	events             []string
	took               time.Duration
}

func (a *guestAgent) run(t *testing.T, req *guestpb.StartRequest) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	res, err := a.try(ctx, req)
	if err != nil {
		t.Fatalf("%q: %v", req.Args, err)
	}
	return res
}

func (a *guestAgent) try(ctx context.Context, req *guestpb.StartRequest) (r result, err error) {
	begin := time.Now()
	defer func() { r.took = time.Since(begin) }()
	for ev, err := range a.Start(ctx, req) {
		if err != nil {
			return r, err
		}
		switch e := ev.Event.(type) {
		case *guestpb.ProcessEvent_Started_:
			r.pid = e.Started.Pid
			r.events = append(r.events, "started")
		case *guestpb.ProcessEvent_Output_:
			if n := len(e.Output.Data); n == 0 || n > 32<<10 {
				return r, fmt.Errorf("a chunk of %d bytes", n)
			}
			switch e.Output.Stream {
			case guestpb.ProcessEvent_STDOUT:
				r.out += string(e.Output.Data)
			case guestpb.ProcessEvent_STDERR:
				r.err += string(e.Output.Data)
			case guestpb.ProcessEvent_TERMINAL:
				r.terminal += string(e.Output.Data)
			}
		case *guestpb.ProcessEvent_Exited_:
			r.exit = e.Exited
			r.events = append(r.events, "exited")
		}
	}
	if r.exit == nil {
		return r, errors.New("the stream ended without an exit")
	}
	return r, nil
}

func (a *guestAgent) sh(t *testing.T, script string) result {
	t.Helper()
	return a.run(t, shell(script))
}

func shell(script string) *guestpb.StartRequest {
	return &guestpb.StartRequest{Args: []string{"sh", "-c", script}, Cwd: "/"}
}

// alive counts processes whose command line holds text, seen from inside.
func (a *guestAgent) alive(t *testing.T, text string) int {
	t.Helper()
	// The bracket keeps the search from finding itself.
	r := a.sh(t, `n=0; for f in /proc/[0-9]*/cmdline; do case "$(tr '\0' ' ' 2>/dev/null <$f)" in *"`+text[:1]+`""`+text[1:]+`"*) n=$((n+1));; esac; done; echo $n`)
	n, err := strconv.Atoi(strings.TrimSpace(r.out))
	if err != nil {
		t.Fatalf("count %q: %q %q", text, r.out, r.err)
	}
	return n
}

// background follows a command's stream in the background.
func (a *guestAgent) background(t *testing.T, ctx context.Context, req *guestpb.StartRequest) (pid uint32, done <-chan result) {
	t.Helper()
	started, ended := make(chan uint32, 1), make(chan result, 1)
	go func() {
		var r result
		for ev, err := range a.Start(ctx, req) {
			if err != nil {
				break
			}
			if s := ev.GetStarted(); s != nil {
				started <- s.Pid
			}
			if o := ev.GetOutput(); o != nil {
				r.out += string(o.Data)
			}
			if e := ev.GetExited(); e != nil {
				r.exit = e
			}
		}
		ended <- r
	}()
	select {
	case pid = <-started:
	case <-time.After(10 * time.Second):
		t.Fatal("not started")
	}
	return pid, ended
}
