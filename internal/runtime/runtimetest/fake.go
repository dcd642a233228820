package runtimetest

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"silica.dev/silica/internal/guest"
	"silica.dev/silica/internal/runtime"
	"silica.dev/silica/sandbox"
)

// Fake is a driver whose sandboxes are agents in this process. It does
// everything a driver does, but isolate. A fresh one knows every image.
type Fake struct {
	host *host
	// dead is closed by Crash.
	dead chan struct{}

	mu    sync.Mutex
	knobs Knobs
}

// Knobs are the faults a test can ask for. Each is called before the fake does
// the work, outside of its locks; an error takes the place of the work.
type Knobs struct {
	Start    func(ctx context.Context, req runtime.StartRequest) error
	Destroy  func(ctx context.Context, id sandbox.ID) error
	Dial     func(ctx context.Context, id sandbox.ID) error
	Snapshot func(ctx context.Context, id sandbox.ID) error
	Keep     func(ctx context.Context, id sandbox.ID) error // of Suspend, too
	Capture  func(ctx context.Context, id sandbox.ID) error
	Kept     func() // after a save is durable, before anybody is told
	// Faults says what is wrong with a sandbox from its start on.
	Faults func(req runtime.StartRequest) Faults
}

// host is what outlives a driver.
type host struct {
	mu        sync.Mutex
	sandboxes map[sandbox.ID]*fakeSandbox
	snapshots map[sandbox.Ref]*memory
	captured  map[sandbox.Ref]bool // of the snapshots: by Suspend or Capture
	kept      map[sandbox.Ref]keptFiles
	lost      map[sandbox.Ref]bool
	starts    []runtime.StartRequest
	prepared  []int
	busy      map[sandbox.ID]string // the Start, Destroy or Snapshot under way
	overlaps  []string
}

// enter notes a call that must be alone with its sandbox. A crashed driver's
// calls end at once, so the note never outlives the driver.
func (h *host) enter(id sandbox.ID, call string) (leave func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if other, ok := h.busy[id]; ok {
		h.overlaps = append(h.overlaps, fmt.Sprintf("%s of %s during %s", call, id, other))
		return func() {}
	}
	h.busy[id] = call
	return func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		delete(h.busy, id)
	}
}

// fakeSandbox is one sandbox on the fake host.
type fakeSandbox struct {
	agent  *Agent // nil while half-started
	image  sandbox.Ref
	res    sandbox.Resources
	frozen bool
	done   chan struct{}
	exit   runtime.Exit // set before done is closed
	used   runtime.Usage
}

var errCrashed = errors.New("the fake driver's daemon is gone")

// NewFake returns a fake driver on an empty host.
func NewFake() *Fake {
	return &Fake{
		host: &host{sandboxes: map[sandbox.ID]*fakeSandbox{}, snapshots: map[sandbox.Ref]*memory{}, captured: map[sandbox.Ref]bool{}, lost: map[sandbox.Ref]bool{}, kept: map[sandbox.Ref]keptFiles{}, busy: map[sandbox.ID]string{}},
		dead: make(chan struct{}),
	}
}

// Set replaces the knobs.
func (f *Fake) Set(k Knobs) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.knobs = k
}

func (f *Fake) knob() Knobs {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.knobs
}

// Times returns a function that fails n times with err and succeeds after.
func Times(n int, err error) func() error {
	var mu sync.Mutex
	return func() error {
		mu.Lock()
		defer mu.Unlock()
		if n <= 0 {
			return nil
		}
		n--
		return err
	}
}

// Crash ends the driver in the middle of whatever it does, leaving half-made
// things on its host. Every call fails from then on.
func (f *Fake) Crash() {
	f.mu.Lock()
	defer f.mu.Unlock()
	select {
	case <-f.dead:
	default:
		close(f.dead)
	}
}

// Reopen crashes f and returns a new driver on the same host, without knobs.
func (f *Fake) Reopen() *Fake {
	f.Crash()
	return &Fake{host: f.host, dead: make(chan struct{})}
}

func (f *Fake) crashed() bool {
	select {
	case <-f.dead:
		return true
	default:
		return false
	}
}

// Kill ends a sandbox as if its kernel had died.
func (f *Fake) Kill(id sandbox.ID, exit runtime.Exit) error {
	f.host.mu.Lock()
	defer f.host.mu.Unlock()
	s, ok := f.host.sandboxes[id]
	if !ok || s.agent == nil {
		return notFound(id)
	}
	s.end(exit)
	return nil
}

// Reboot ends every sandbox and forgets it, as a reboot of the host does.
func (f *Fake) Reboot() {
	f.host.mu.Lock()
	defer f.host.mu.Unlock()
	for _, s := range f.host.sandboxes {
		s.end(runtime.Exit{Reason: "the host was rebooted"})
	}
	f.host.sandboxes = map[sandbox.ID]*fakeSandbox{}
}

// Agent returns the fake agent of a running sandbox, or nil.
func (f *Fake) Agent(id sandbox.ID) *Agent {
	f.host.mu.Lock()
	defer f.host.mu.Unlock()
	if s := f.host.sandboxes[id]; s != nil && s.agent != nil {
		return s.agent
	}
	return nil
}

// Damage spoils a snapshot.
func (f *Fake) Damage(ref sandbox.Ref) error {
	f.host.mu.Lock()
	defer f.host.mu.Unlock()
	delete(f.host.snapshots, ref)
	return nil
}

// Starts lists every start that was asked for, in order.
func (f *Fake) Starts() []runtime.StartRequest {
	f.host.mu.Lock()
	defer f.host.mu.Unlock()
	return slices.Clone(f.host.starts)
}

// Overlaps lists calls that broke the contract: Start, Destroy and Snapshot of
// one sandbox never overlap.
func (f *Fake) Overlaps() []string {
	f.host.mu.Lock()
	defer f.host.mu.Unlock()
	return slices.Clone(f.host.overlaps)
}

// Prepared lists the numbers of slots that were asked for, in order.
func (f *Fake) Prepared() []int {
	f.host.mu.Lock()
	defer f.host.mu.Unlock()
	return slices.Clone(f.host.prepared)
}

func notFound(id sandbox.ID) error {
	return sandbox.E(sandbox.NotFound, sandbox.CodeNotFound, "no sandbox "+string(id))
}

// Start implements [runtime.Driver].
func (f *Fake) Start(ctx context.Context, req runtime.StartRequest) error {
	if f.crashed() {
		return errCrashed
	}
	defer f.host.enter(req.ID, "Start")()
	f.host.mu.Lock()
	f.host.starts = append(f.host.starts, req)
	if _, ok := f.host.sandboxes[req.ID]; ok {
		f.host.mu.Unlock()
		return fmt.Errorf("start %s: it is there already", req.ID)
	}
	s := &fakeSandbox{done: make(chan struct{})}
	f.host.sandboxes[req.ID] = s
	f.host.mu.Unlock()

	if err := f.bring(ctx, req, s); err != nil {
		if f.crashed() {
			return errCrashed // and leave what is half made
		}
		f.host.mu.Lock()
		delete(f.host.sandboxes, req.ID)
		f.host.mu.Unlock()
		return fmt.Errorf("start %s: %w", req.ID, err)
	}
	return nil
}

func (f *Fake) bring(ctx context.Context, req runtime.StartRequest, s *fakeSandbox) error {
	if err := f.call(ctx, func(ctx context.Context) error {
		if k := f.knob().Start; k != nil {
			return k(ctx, req)
		}
		return nil
	}); err != nil {
		return err
	}
	k := f.knob().Faults
	f.host.mu.Lock()
	defer f.host.mu.Unlock()
	if f.host.sandboxes[req.ID] != s {
		return errors.New("it was destroyed while it started")
	}
	var faults Faults
	if k != nil {
		faults = k(req)
	}
	mem := newMemory()
	if req.Snapshot != "" {
		kept, ok := f.host.snapshots[req.Snapshot]
		if !ok {
			return fmt.Errorf("%w: %s is missing", runtime.ErrSnapshotUnusable, req.Snapshot)
		}
		if mem = kept; !faults.Shared {
			mem = kept.clone()
		}
	}
	if req.Files != "" {
		kept, ok := f.host.kept[req.Files]
		if !ok {
			return fmt.Errorf("the kept files %s are missing", req.Files)
		}
		if kept.image != req.Image || req.Snapshot != "" {
			return errors.New("kept files fit only the image they were kept with, and no snapshot")
		}
		mem.nodes = kept.memory.clone().nodes
	}
	s.agent, s.image, s.res = newAgent(mem, req.Resources), req.Image, req.Resources
	s.agent.fault(faults)
	return nil
}

// call runs a knob until it returns, ctx ends or the driver crashes.
func (f *Fake) call(ctx context.Context, knob func(context.Context) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- knob(ctx) }()
	select {
	case <-f.dead:
		return errCrashed
	case err := <-done:
		if f.crashed() {
			return errCrashed
		}
		if err == nil {
			err = ctx.Err()
		}
		return err
	}
}

// Destroy implements [runtime.Driver].
func (f *Fake) Destroy(ctx context.Context, id sandbox.ID) error {
	if f.crashed() {
		return errCrashed
	}
	defer f.host.enter(id, "Destroy")()
	if err := f.call(ctx, func(ctx context.Context) error {
		if k := f.knob().Destroy; k != nil {
			return k(ctx, id)
		}
		return nil
	}); err != nil {
		return fmt.Errorf("destroy %s: %w", id, err)
	}
	f.host.mu.Lock()
	defer f.host.mu.Unlock()
	if s, ok := f.host.sandboxes[id]; ok {
		s.end(runtime.Exit{Reason: "destroyed"})
		delete(f.host.sandboxes, id)
	}
	return nil
}

// end is called with the host's lock held.
func (s *fakeSandbox) end(exit runtime.Exit) {
	select {
	case <-s.done:
		return
	default:
	}
	s.exit = exit
	close(s.done)
	if s.agent != nil {
		s.agent.stop()
	}
}

// Dial implements [runtime.Driver].
func (f *Fake) Dial(ctx context.Context, id sandbox.ID, port uint16) (net.Conn, error) {
	if f.crashed() {
		return nil, errCrashed
	}
	if k := f.knob().Dial; k != nil {
		if err := f.call(ctx, func(ctx context.Context) error { return k(ctx, id) }); err != nil {
			return nil, fmt.Errorf("dial %s: %w", id, err)
		}
	}
	a := f.Agent(id)
	if a == nil {
		return nil, notFound(id)
	}
	if port != guest.Port {
		return nil, fmt.Errorf("dial %s: nobody listens on port %d", id, port)
	}
	return a.dial(ctx)
}

// Wait implements [runtime.Driver].
func (f *Fake) Wait(ctx context.Context, id sandbox.ID) (runtime.Exit, error) {
	f.host.mu.Lock()
	s, ok := f.host.sandboxes[id]
	ok = ok && s.agent != nil
	f.host.mu.Unlock()
	if !ok {
		return runtime.Exit{}, notFound(id)
	}
	select {
	case <-s.done:
		return s.exit, nil
	case <-f.dead:
		return runtime.Exit{}, errCrashed
	case <-ctx.Done():
		return runtime.Exit{}, context.Cause(ctx)
	}
}

// List implements [runtime.Driver].
func (f *Fake) List(context.Context) ([]sandbox.ID, error) {
	if f.crashed() {
		return nil, errCrashed
	}
	f.host.mu.Lock()
	defer f.host.mu.Unlock()
	return slices.Sorted(maps.Keys(f.host.sandboxes)), nil
}

// Snapshot implements [runtime.Snapshotter].
func (f *Fake) Snapshot(ctx context.Context, id sandbox.ID) (sandbox.Ref, error) {
	defer f.host.enter(id, "Snapshot")()
	if err := f.call(ctx, func(ctx context.Context) error {
		if k := f.knob().Snapshot; k != nil {
			return k(ctx, id)
		}
		return nil
	}); err != nil {
		return "", fmt.Errorf("snapshot %s: %w", id, err)
	}
	f.host.mu.Lock()
	defer f.host.mu.Unlock()
	s, ok := f.host.sandboxes[id]
	if !ok || s.agent == nil {
		return "", notFound(id)
	}
	ref := sandbox.Ref(fmt.Sprintf("sha256:%x", sha256.Sum256([]byte(sandbox.NewName("snap")))))
	f.host.snapshots[ref] = s.agent.memory.clone()
	return ref, nil
}

// keptFiles is what KeepFiles stores.
type keptFiles struct {
	image  sandbox.Ref
	memory *memory
}

// KeepFiles implements [runtime.FileKeeper].
func (f *Fake) KeepFiles(ctx context.Context, id sandbox.ID) (sandbox.Ref, error) {
	defer f.host.enter(id, "KeepFiles")()
	st, err := f.save(ctx, id, f.knob().Keep, true)
	if err != nil {
		return "", fmt.Errorf("keep the files of %s: %w", id, err)
	}
	f.host.mu.Lock()
	defer f.host.mu.Unlock()
	f.host.forget(st.Memory)
	return st.Files, nil
}

// Suspend implements [runtime.Suspender].
func (f *Fake) Suspend(ctx context.Context, id sandbox.ID) (runtime.State, error) {
	defer f.host.enter(id, "Suspend")()
	st, err := f.save(ctx, id, f.knob().Keep, true)
	if err != nil {
		return runtime.State{}, fmt.Errorf("suspend %s: %w", id, err)
	}
	return st, nil
}

// Capture implements [runtime.Suspender].
func (f *Fake) Capture(ctx context.Context, id sandbox.ID) (runtime.State, error) {
	defer f.host.enter(id, "Capture")()
	st, err := f.save(ctx, id, f.knob().Capture, false)
	if err != nil {
		return runtime.State{}, fmt.Errorf("capture %s: %w", id, err)
	}
	return st, nil
}

// fakeSize is what every saved state is said to take.
const fakeSize = 10 * sandbox.MiB

func (f *Fake) save(ctx context.Context, id sandbox.ID, knob func(context.Context, sandbox.ID) error, stand bool) (runtime.State, error) {
	if err := f.call(ctx, func(ctx context.Context) error {
		if knob != nil {
			return knob(ctx, id)
		}
		return nil
	}); err != nil {
		return runtime.State{}, err
	}
	st, err := f.host.save(id, stand)
	if told := f.knob().Kept; err == nil && told != nil {
		told()
	}
	if f.crashed() {
		return runtime.State{}, errCrashed
	}
	return st, err
}

func (h *host) save(id sandbox.ID, stand bool) (runtime.State, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	s, ok := h.sandboxes[id]
	if !ok || s.agent == nil {
		return runtime.State{}, notFound(id)
	}
	s.frozen = stand
	ref := func(of string) sandbox.Ref {
		return sandbox.Ref(fmt.Sprintf("sha256:%x", sha256.Sum256([]byte(sandbox.NewName(of)))))
	}
	st := runtime.State{Memory: ref("memory"), Files: ref("files"), Key: "fake", Size: fakeSize}
	h.snapshots[st.Memory], h.captured[st.Memory] = s.agent.memory.clone(), true
	h.kept[st.Files] = keptFiles{s.image, s.agent.memory.clone()}
	return st, nil
}

// forget removes an artifact. The caller holds the lock.
func (h *host) forget(ref sandbox.Ref) {
	delete(h.kept, ref)
	delete(h.snapshots, ref)
	delete(h.captured, ref)
}

// Thaw implements [runtime.FileKeeper].
func (f *Fake) Thaw(_ context.Context, id sandbox.ID) error {
	f.host.mu.Lock()
	defer f.host.mu.Unlock()
	s, ok := f.host.sandboxes[id]
	if !ok {
		return notFound(id)
	}
	s.frozen = false
	return nil
}

// Frozen tells whether a sandbox stands still.
func (f *Fake) Frozen(id sandbox.ID) bool {
	f.host.mu.Lock()
	defer f.host.mu.Unlock()
	s, ok := f.host.sandboxes[id]
	return ok && s.frozen
}

// Delete removes what was kept, as a blob store would.
func (f *Fake) Delete(_ context.Context, ref sandbox.Ref) error {
	f.host.mu.Lock()
	defer f.host.mu.Unlock()
	f.host.forget(ref)
	return nil
}

// Open fails for what was spoiled with Lose, as a blob store would; the fake knows
// every image.
func (f *Fake) Open(_ context.Context, ref sandbox.Ref) (dir string, release func(), err error) {
	f.host.mu.Lock()
	defer f.host.mu.Unlock()
	if f.host.lost[ref] {
		return "", nil, sandbox.E(sandbox.NotFound, sandbox.CodeNotFound, "no artifact "+string(ref))
	}
	return "", func() {}, nil
}

// Verify fails for kept files that are gone.
func (f *Fake) Verify(_ context.Context, ref sandbox.Ref) error {
	f.host.mu.Lock()
	defer f.host.mu.Unlock()
	if _, ok := f.host.kept[ref]; !ok {
		return sandbox.E(sandbox.NotFound, sandbox.CodeNotFound, "no artifact "+string(ref))
	}
	return nil
}

// Lose spoils kept files or an image.
func (f *Fake) Lose(ref sandbox.Ref) {
	f.host.mu.Lock()
	defer f.host.mu.Unlock()
	f.host.lost[ref] = true
	f.host.forget(ref)
}

// Kept lists the files that were kept, and the memory, and nobody deleted, sorted.
func (f *Fake) Kept() []sandbox.Ref {
	f.host.mu.Lock()
	defer f.host.mu.Unlock()
	return slices.Sorted(func(yield func(sandbox.Ref) bool) {
		for ref := range f.host.kept {
			if !yield(ref) {
				return
			}
		}
		for ref := range f.host.captured {
			if !yield(ref) {
				return
			}
		}
	})
}

// SnapshotKey implements [runtime.Snapshotter]: the fake fixes the disk's size.
func (f *Fake) SnapshotKey(res sandbox.Resources) string { return fmt.Sprintf("fake/%d", res.Disk) }

// Usage implements [runtime.Meter].
func (f *Fake) Usage(_ context.Context, id sandbox.ID) (runtime.Usage, error) {
	f.host.mu.Lock()
	defer f.host.mu.Unlock()
	s, ok := f.host.sandboxes[id]
	if !ok || f.crashed() {
		return runtime.Usage{}, notFound(id)
	}
	u := s.used
	u.CPU += time.Millisecond // for its start
	u.Memory += 20 * sandbox.MiB
	return u, nil
}

// Limits implements [runtime.Limiter].
func (f *Fake) Limits(_ context.Context, id sandbox.ID) (sandbox.Resources, error) {
	f.host.mu.Lock()
	defer f.host.mu.Unlock()
	s, ok := f.host.sandboxes[id]
	if !ok || s.agent == nil || f.crashed() {
		return sandbox.Resources{}, notFound(id)
	}
	res := sandbox.Resources{MilliCPU: s.res.MilliCPU, Memory: s.res.Memory}
	if s.agent.faults().Unlimited {
		res = sandbox.Resources{}
	}
	return res, nil
}

// Use says what a sandbox has used since its start.
func (f *Fake) Use(id sandbox.ID, u runtime.Usage) {
	f.host.mu.Lock()
	defer f.host.mu.Unlock()
	if s, ok := f.host.sandboxes[id]; ok {
		s.used = u
	}
}

// Prepare implements [runtime.Pooler].
func (f *Fake) Prepare(_ context.Context, _ sandbox.Ref, _ sandbox.Resources, n int) error {
	f.host.mu.Lock()
	defer f.host.mu.Unlock()
	f.host.prepared = append(f.host.prepared, n)
	return nil
}

// Image returns a reference of an image's form, for drivers that look at no
// image.
func Image(name string) sandbox.Ref {
	return sandbox.Ref(fmt.Sprintf("sha256:%x", sha256.Sum256([]byte(strings.ToLower(name)))))
}

var (
	_ runtime.Driver      = (*Fake)(nil)
	_ runtime.Snapshotter = (*Fake)(nil)
	_ runtime.Suspender   = (*Fake)(nil)
	_ runtime.Meter       = (*Fake)(nil)
	_ runtime.Pooler      = (*Fake)(nil)
	_ runtime.Limiter     = (*Fake)(nil)
)
