package gvisor_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"silica.dev/silica/internal/blob"
	"silica.dev/silica/internal/runtime"
	"silica.dev/silica/internal/runtime/gvisor"
	"silica.dev/silica/sandbox"
)

// small is the size the tests use.
var small = sandbox.Resources{MilliCPU: 1000, Memory: 256 << 20, Disk: 128 << 20}

// built is what all tests of this run share: programs and the image's file.
var built = sync.OnceValues(func() (artifacts, error) {
	dir, err := cacheDir()
	if err != nil {
		return artifacts{}, err
	}
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return artifacts{}, err
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return artifacts{}, err
	}
	if err := noteSources(); err != nil {
		return artifacts{}, err
	}
	return build(dir)
})

type artifacts struct {
	engine []byte
	image  string // an EROFS file
}

func cacheDir() (string, error) {
	dir := os.Getenv("SILICA_TEST_CACHE")
	if dir == "" {
		user, err := os.UserCacheDir()
		if err != nil {
			return "", err
		}
		dir = filepath.Join(user, "silica-test")
	}
	dir = filepath.Join(dir, "gvisor")
	return dir, os.MkdirAll(dir, 0o755)
}

// noteSources lists the folders of everything build compiles, so that go test
// knows a result is stale when one of these changes.
func noteSources() error {
	for _, top := range []string{".", "../../network", "../../guest", "../../agent", "../../../cmd/silica-engine", "../../../cmd/silica-agent"} {
		err := filepath.WalkDir(top, func(_ string, _ fs.DirEntry, err error) error { return err })
		if err != nil {
			return err
		}
	}
	_, err := os.Stat("../../../go.sum")
	return err
}

// build makes what is not in the cache. The root file system is made once, the
// image again when the test's agent has changed.
func build(dir string) (a artifacts, err error) {
	engine, agent := filepath.Join(dir, "silica-engine"), filepath.Join(dir, "agent")
	for out, pkg := range map[string]string{engine: "silica.dev/silica/cmd/silica-engine", agent: "silica.dev/silica/cmd/silica-agent"} {
		cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", out, pkg)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if err := run(cmd); err != nil {
			return a, err
		}
	}
	root := filepath.Join(dir, "root")
	if _, err := os.Stat(root); err != nil {
		tmp := root + ".new"
		cmd := exec.Command("mmdebstrap", "--variant=minbase", "--include=python3-minimal,procps,iproute2,curl", "bookworm", tmp)
		if err := errors.Join(os.RemoveAll(tmp), run(cmd), os.Rename(tmp, root)); err != nil {
			return a, err
		}
	}
	if a.engine, err = os.ReadFile(engine); err != nil {
		return a, err
	}
	a.image = filepath.Join(dir, "root.erofs")
	was, _ := os.ReadFile(filepath.Join(root, ".silica", "agent"))
	is, err := os.ReadFile(agent)
	if err != nil {
		return a, err
	}
	if _, err := os.Stat(a.image); err == nil && string(was) == string(is) {
		return a, nil
	}
	err = errors.Join(
		os.MkdirAll(filepath.Join(root, ".silica"), 0o755),
		os.WriteFile(filepath.Join(root, ".silica", "agent"), is, 0o755),
		// A file in /tmp keeps the runtime from mounting its own there.
		os.WriteFile(filepath.Join(root, "tmp", ".keep"), nil, 0o644),
		os.RemoveAll(a.image),
		run(exec.Command("mkfs.erofs", "--quiet", "-E", "noinline_data", a.image, root)),
	)
	return a, err
}

func run(cmd *exec.Cmd) error {
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), err, out[max(0, len(out)-2000):])
	}
	return nil
}

// host is a data folder with names of its own, and the drivers a test opens on it.
type host struct {
	t      *testing.T
	dir    string
	name   string
	number int
	blobs  blob.Store
	image  sandbox.Ref
	engine []byte
	driver *gvisor.Driver
}

var hosts atomic.Int32

func newHost(t *testing.T) *host { return newHostIn(t, t.TempDir()) }

func newHostIn(t *testing.T, dir string) *host {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	if testing.Short() {
		t.Skip("starts sandboxes")
	}
	a, err := built()
	if err != nil {
		t.Fatalf("build what the tests need: %v", err)
	}
	h := &host{t: t, dir: dir, engine: a.engine,
		number: int(hosts.Add(1))}
	// Names and addresses that no other test on this machine has.
	h.name = "t" + strconv.FormatInt(int64(os.Getpid()%(1<<15)), 36) + "x" + strconv.FormatInt(int64(h.number), 36)
	store, err := blob.NewLocal(filepath.Join(h.dir, "blobs"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	h.blobs = store
	h.image = h.put(a.image)
	h.open()
	t.Cleanup(h.close)
	return h
}

// put stores the image. A link would do, but the store owns what it is given.
func (h *host) put(image string) sandbox.Ref {
	h.t.Helper()
	tmp, err := h.blobs.TempDir(context.Background())
	if err != nil {
		h.t.Fatal(err)
	}
	in, err := os.Open(image)
	if err != nil {
		h.t.Fatal(err)
	}
	defer in.Close()
	out, err := os.Create(filepath.Join(tmp, "root.erofs"))
	if err != nil {
		h.t.Fatal(err)
	}
	if _, err := io.Copy(out, in); err != nil {
		h.t.Fatal(err)
	}
	if err := out.Close(); err != nil {
		h.t.Fatal(err)
	}
	ref, err := h.blobs.Put(context.Background(), tmp)
	if err != nil {
		h.t.Fatal(err)
	}
	return ref
}

func (h *host) config() gvisor.Config {
	return gvisor.Config{
		DataDir: h.dir, Program: h.engine, Blobs: h.blobs, CgroupTop: h.name,
		Network: gvisor.Network{Name: h.name, Prefix: h.prefix()}, ExpediteRCU: true,
		Log: slog.New(slog.NewTextHandler(h.t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
}

func (h *host) prefix() netip.Prefix {
	x := os.Getpid()*31 + h.number
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(128 + x>>8%64), byte(x), 0}), 24)
}

func (h *host) open() *gvisor.Driver {
	h.t.Helper()
	d, err := gvisor.New(context.Background(), h.config())
	if err != nil {
		h.t.Fatalf("open driver: %v", err)
	}
	h.driver = d
	return d
}

// reopen lets go of the driver as a crash of the daemon would.
func (h *host) reopen() runtime.Driver {
	h.driver.Close()
	return h.open()
}

// close frees all and holds the host to be clean.
func (h *host) close() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	d := h.driver
	ids, err := d.List(ctx)
	if err != nil {
		h.t.Errorf("List at the end: %v", err)
	}
	for _, id := range ids {
		if err := d.Destroy(ctx, id); err != nil {
			h.t.Errorf("Destroy(%s) at the end: %v", id, err)
		}
	}
	if err := d.Shutdown(ctx); err != nil {
		h.t.Errorf("Shutdown: %v", err)
	}
	d.Close()
	for _, left := range h.leftovers() {
		h.t.Errorf("left behind: %s", left)
	}
	_ = exec.Command("sh", "-c", "rmdir /sys/fs/cgroup/*/"+h.name+" /sys/fs/cgroup/"+h.name).Run()
	if h.t.Failed() {
		logs, _ := filepath.Glob(filepath.Join(h.dir, "engine", "*", "engine.log"))
		for _, l := range logs {
			text, _ := os.ReadFile(l)
			h.t.Logf("%s:\n%s", l, text[max(0, len(text)-4000):])
		}
	}
}

// leftovers names what this host's sandboxes still hold: processes, devices,
// namespaces, cgroups, slot folders.
func (h *host) leftovers() []string {
	var left []string
	for _, pid := range h.processes() {
		cmdline, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		left = append(left, fmt.Sprintf("process %d: %s", pid, strings.ReplaceAll(string(cmdline), "\x00", " ")))
	}
	for _, pattern := range []string{
		"/sys/class/net/" + h.name + "-*", "/run/netns/" + h.name + "-*",
		"/sys/fs/cgroup/*/" + h.name + "/*/", filepath.Join(h.dir, "engine", "slots", "*"),
	} {
		found, _ := filepath.Glob(pattern)
		left = append(left, found...)
	}
	return left
}

// processes lists the live ones whose program is this host's engine.
func (h *host) processes() []int {
	var pids []int
	exes, _ := filepath.Glob("/proc/[0-9]*/exe")
	for _, exe := range exes {
		if target, err := os.Readlink(exe); err == nil && strings.HasPrefix(target, h.dir+"/") {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(exe)))
			pids = append(pids, pid)
		}
	}
	return pids
}

// enginePid finds the engine process among the host's; sentries are named
// otherwise.
func (h *host) enginePid() int {
	for _, pid := range h.processes() {
		cmdline, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if strings.Contains(string(cmdline), "\x00serve\x00") {
			return pid
		}
	}
	return 0
}

// sentries lists the sentry processes, by slot name.
func (h *host) sentries() map[string]int {
	found := map[string]int{}
	for _, pid := range h.processes() {
		cmdline, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		args := strings.Split(strings.TrimRight(string(cmdline), "\x00"), "\x00")
		if args[0] == "runsc-sandbox" {
			found[args[len(args)-1]] = pid
		}
	}
	return found
}

// slotRecord is the part of a slot's record that tests look at.
type slotRecord struct {
	ID    sandbox.ID
	Phase string
	Pid   int
}

func (h *host) records() []slotRecord {
	var all []slotRecord
	paths, _ := filepath.Glob(filepath.Join(h.dir, "engine", "slots", "*", "slot.json"))
	for _, path := range paths {
		var rec slotRecord
		data, err := os.ReadFile(path)
		if err == nil && json.Unmarshal(data, &rec) == nil {
			all = append(all, rec)
		}
	}
	return all
}

// sentry finds a sandbox's sentry process, 0 for none.
func (h *host) sentry(id sandbox.ID) int {
	for _, rec := range h.records() {
		if rec.ID == id {
			return rec.Pid
		}
	}
	return 0
}

// panicked leaves the words of a sentry that panicked.
func (h *host) panicked(id sandbox.ID, words string) {
	h.t.Helper()
	paths, _ := filepath.Glob(filepath.Join(h.dir, "engine", "slots", "*", "slot.json"))
	for _, path := range paths {
		var rec slotRecord
		data, err := os.ReadFile(path)
		if err != nil || json.Unmarshal(data, &rec) != nil || rec.ID != id {
			continue
		}
		if err := os.WriteFile(filepath.Join(filepath.Dir(path), "panic.log"), []byte(words), 0o600); err != nil {
			h.t.Fatal(err)
		}
		return
	}
	h.t.Fatalf("no slot of %s", id)
}

// settled tells whether n empty slots are ready and nothing is made or freed.
func (h *host) settled(n int) bool {
	all := h.records()
	for _, rec := range all {
		if rec.Phase != "empty" {
			return false
		}
	}
	return len(all) == n
}
