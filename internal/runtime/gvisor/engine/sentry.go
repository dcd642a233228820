package engine

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/sentry/pgalloc"
	"gvisor.dev/gvisor/runsc/boot"
	"gvisor.dev/gvisor/runsc/config"
	"gvisor.dev/gvisor/runsc/flag"
	rsandbox "gvisor.dev/gvisor/runsc/sandbox"
	"gvisor.dev/gvisor/runsc/specutils"

	"silica.dev/silica/internal/runtime"
)

var longAgo = time.Unix(1, 0)

// Guest descriptors of the pipes by which the agent says it is alive: it reads
// one byte here and answers it there, for ever.
const (
	guestReadyIn  = 3
	guestReadyOut = 4
)

// sentry is one gVisor kernel process, empty or with a sandbox in it.
type sentry struct {
	box  *rsandbox.Sandbox
	proc *process

	// The host's ends of the ready pipes; nil once used, and in adopted ones.
	poke   *os.File
	answer *os.File
}

// newConfig makes the library's configuration for a slot folder, which holds
// the control socket.
func newConfig(dir string) (*config.Config, error) {
	fs := flag.NewFlagSet("engine", flag.ContinueOnError)
	config.RegisterFlags(fs)
	args := []string{
		"--root=" + dir,
		"--platform=systrap",
		"--network=sandbox",
		"--directfs=true", // the embedded seccomp program is the one for this
		"--overlay2=none", // the root's overlay is set up by create, by hand
		"--host-settings=ignore",
		"--ignore-cgroups", // the boot process enters its group itself: package cgroup
		"--panic-log=" + filepath.Join(dir, panicLogName),
		"--log=" + os.DevNull,
	}
	if err := fs.Parse(args); err != nil {
		return nil, fmt.Errorf("gvisor flags: %w", err)
	}
	return config.NewFromFlags(fs)
}

const panicLogName = "panic.log"

// creator is locked while a sentry process is started: the library's boot
// process inherits whatever descriptor a concurrent start has open without
// close-on-exec, and needs some fixed numbers free.
type creator struct{ mu sync.Mutex }

// create starts a sentry with nothing in it. dir is the slot's folder, already
// holding whatever placement the boot process reads from it. files is a folder
// with the writable layer to boot with; empty: none.
func (c *creator) create(dir, name, image, files string, spec *specs.Spec, disk int64) (_ *sentry, err error) {
	conf, err := newConfig(dir)
	if err != nil {
		return nil, err
	}
	if err := saveSpec(dir, spec); err != nil {
		return nil, err
	}
	var opened []*os.File
	defer func() {
		for _, f := range opened {
			f.Close()
		}
	}()
	open := func(f *os.File, err error) (*os.File, error) {
		if err == nil {
			opened = append(opened, f)
		}
		return f, err
	}

	in, poke, err := foreverPipe(true)
	if err != nil {
		return nil, err
	}
	opened = append(opened, in)
	out, answer, err := foreverPipe(false)
	if err != nil {
		poke.Close()
		return nil, err
	}
	opened = append(opened, out)
	fail := func(err error) (*sentry, error) {
		poke.Close()
		answer.Close()
		return nil, err
	}

	store, err := open(newFilestore(dir))
	if err != nil {
		return fail(err)
	}
	root, err := open(os.Open(image))
	if err != nil {
		return fail(fmt.Errorf("open image: %w", err))
	}
	hints, err := boot.NewPodMountHints(spec)
	if err != nil {
		return fail(fmt.Errorf("mount hints: %w", err))
	}
	// The socket's path may be too long for its address: name the folder by
	// descriptor. The library would fall back to folders all engines share.
	folder, err := open(os.Open(dir))
	if err != nil {
		return fail(fmt.Errorf("open slot folder: %w", err))
	}

	c.mu.Lock()
	defer c.mu.Unlock()
	create := *conf
	create.RootDir = "/proc/self/fd/" + strconv.Itoa(int(folder.Fd()))
	box, err := rsandbox.New(&create, &rsandbox.Args{
		ID:        name,
		Spec:      mapped(spec),
		BundleDir: dir,
		IOFiles:   []*os.File{root},
		// An overlay on a folder: the library opens no file store without a
		// gofer, so it is handed one. It costs no memory that can't be reclaimed.
		GoferFilestoreFiles: []*os.File{store},
		GoferMountConfs: specutils.GoferMountConfFlags{{
			Lower: specutils.Erofs, Upper: specutils.AnonOverlay, Size: strconv.FormatInt(disk, 10),
		}},
		MountHints: hints,
		// Loaded while the sandbox runs already, from files that are open by then.
		FSRestoreImagePath: files,

		PassFiles: map[int]*os.File{guestReadyIn: in, guestReadyOut: out},
	})
	if err != nil {
		return fail(fmt.Errorf("create sentry: %w%s", err, panicText(dir)))
	}
	box.ControlSocketPath = controlSocket(dir, name)
	// Nobody else reaps it, so the number is still its own.
	proc, err := openProcess(box.Getpid(), 0)
	if err != nil {
		unix.Kill(box.Getpid(), unix.SIGKILL)
		return fail(err)
	}
	return &sentry{box: box, proc: proc, poke: poke, answer: answer}, nil
}

// adopt takes over a sentry that an earlier engine created.
func adopt(dir, name string, pid int, start uint64) (*sentry, error) {
	proc, err := openProcess(pid, start)
	if err != nil {
		return nil, err
	}
	box := &rsandbox.Sandbox{ID: name, ControlSocketPath: controlSocket(dir, name)}
	box.Pid.Store(pid)
	return &sentry{box: box, proc: proc}, nil
}

func controlSocket(dir, name string) string { return filepath.Join(dir, "runsc-"+name+".sock") }

// foreverPipe returns a pipe whose inner end is open both ways, so that the
// agent never meets the end of the file when the engine goes away. The engine's
// own end is the other one. in says which way bytes go.
func foreverPipe(in bool) (inner, outer *os.File, err error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, nil, fmt.Errorf("make pipe: %w", err)
	}
	given := w
	outer = r
	if in {
		given, outer = r, w
	}
	defer given.Close()
	inner, err = os.OpenFile("/proc/self/fd/"+strconv.Itoa(int(given.Fd())), os.O_RDWR, 0)
	if err != nil {
		outer.Close()
		return nil, nil, fmt.Errorf("open pipe both ways: %w", err)
	}
	return inner, outer, nil
}

// newFilestore makes the unnamed file that backs a root's writable layer. It is
// gone with the sentry.
func newFilestore(dir string) (*os.File, error) {
	f, err := os.CreateTemp(dir, "layer-")
	if err != nil {
		return nil, fmt.Errorf("make writable layer: %w", err)
	}
	if err := os.Remove(f.Name()); err != nil {
		f.Close()
		return nil, fmt.Errorf("make writable layer: %w", err)
	}
	pgalloc.IMAWorkAroundForMemFile(f.Fd())
	return f, nil
}

// endedUnwatched is the reason of sandboxes that ended while no engine ran.
const endedUnwatched = "the sandbox ended while nobody watched"

var outOfMemory = runtime.Exit{Reason: "out of memory: the sandbox used more than its limit", OutOfMemory: true}

// exitOf says in a sentence why a sentry ended that nobody killed. The sentence
// is the tenant's to read: what the sentry said is not in it.
func exitOf(status unix.WaitStatus, child bool) runtime.Exit {
	switch {
	case !child:
		return runtime.Exit{Reason: endedUnwatched}
	case status.Signaled():
		return runtime.Exit{Reason: fmt.Sprintf("the sandbox's kernel was killed by signal %d", status.Signal())}
	case status.ExitStatus() == 0:
		return runtime.Exit{Reason: "the sandbox's first process ended"}
	default:
		return runtime.Exit{Reason: fmt.Sprintf("the sandbox's kernel failed with status %d", status.ExitStatus())}
	}
}

// panicText returns the first words of a sentry's panic log, if any, for logs.
func panicText(dir string) string {
	f, err := os.Open(filepath.Join(dir, panicLogName))
	if err != nil {
		return ""
	}
	defer f.Close()
	text, _ := io.ReadAll(io.LimitReader(f, 300))
	if len(text) == 0 {
		return ""
	}
	return ": " + string(text)
}
