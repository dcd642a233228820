// Package gvisor runs sandboxes in gVisor on this host, by way of an engine
// process that it starts and talks to, so that nothing of gVisor is linked into
// the daemon.
//
// See DESIGN.md for what belongs to whom and what survives what.
package gvisor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	goruntime "runtime"
	"slices"
	"strconv"
	"sync"
	"time"

	"silica.dev/silica/internal/blob"
	"silica.dev/silica/internal/network"
	"silica.dev/silica/internal/runtime"
	"silica.dev/silica/internal/runtime/gvisor/wire"
	"silica.dev/silica/sandbox"
)

// Config is what the driver needs. Two drivers on one machine need different
// DataDir, CgroupTop and Network.
type Config struct {
	DataDir   string // the engine's things go below DataDir/engine
	Program   []byte // silica-engine
	Blobs     blob.Store
	CgroupTop string // cgroup above all sandboxes'; empty: "silica"
	Network   Network
	MaxStarts int // at once; 0: the engine's default
	// ExpediteRCU lets the engine speed up the host's RCU grace periods while
	// it runs: starts take half the time, at the cost of more interrupts.
	ExpediteRCU bool
	Log         *slog.Logger // nil: none
}

// Network says which addresses and names sandboxes get, and what they reach; see
// [network.Config]. Zero fields take its defaults.
type Network struct {
	Name      string
	Prefix    netip.Prefix
	Allow     []netip.Prefix
	Resolvers []netip.Addr
}

// Driver runs sandboxes in gVisor. It implements [runtime.Driver],
// [runtime.Snapshotter], [runtime.Suspender], [runtime.Meter] and [runtime.Pooler].
type Driver struct {
	cfg     Config
	log     *slog.Logger
	network *network.Network
	current *engine

	ctx  context.Context // ends with Close
	stop context.CancelFunc
	work sync.WaitGroup

	mu       sync.Mutex
	older    map[string]*engine   // by ID: engines of earlier programs that hold sandboxes
	lives    map[sandbox.ID]*live // those met
	verified map[sandbox.Ref]bool // snapshots read back whole since this process began
	pinned   func()               // releases the pool's image
}

var (
	_ runtime.Driver      = (*Driver)(nil)
	_ runtime.Snapshotter = (*Driver)(nil)
	_ runtime.Suspender   = (*Driver)(nil)
	_ runtime.Meter       = (*Driver)(nil)
	_ runtime.Pooler      = (*Driver)(nil)
)

// New extracts the engine, connects to it or starts it, and finds engines of
// earlier programs that still hold sandboxes.
func New(ctx context.Context, cfg Config) (*Driver, error) {
	if len(cfg.Program) == 0 {
		return nil, errors.New("gvisor: no engine program")
	}
	var err error
	if cfg.DataDir, err = filepath.Abs(cfg.DataDir); err != nil {
		return nil, fmt.Errorf("gvisor: %w", err)
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	d := &Driver{
		cfg: cfg, log: cfg.Log,
		older: map[string]*engine{}, lives: map[sandbox.ID]*live{}, verified: map[sandbox.Ref]bool{},
	}
	id := engineID(cfg.Program)
	if err := extract(d.engineDir(id), cfg.Program); err != nil {
		return nil, err
	}
	d.cfg.Program, cfg.Program = nil, nil // 80 MB that are on disk now
	// The policy is the daemon's: it follows the configuration of today, also
	// for sandboxes that run already. No sandbox runs before it is in place.
	if d.network, err = cfg.Network.open(cfg.Log); err != nil {
		return nil, fmt.Errorf("gvisor: %w", err)
	}
	if err := d.network.Setup(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("gvisor: %w", err), d.network.Close())
	}
	d.current = d.engine(id)
	if err := d.current.up(ctx); err != nil {
		return nil, fmt.Errorf("gvisor: %w", err)
	}
	if err := d.findOlder(ctx); err != nil {
		return nil, errors.Join(err, d.network.Close())
	}
	d.ctx, d.stop = context.WithCancel(context.Background())
	return d, nil
}

func (d *Driver) root() string               { return filepath.Join(d.cfg.DataDir, "engine") }
func (d *Driver) engineDir(id string) string { return filepath.Join(d.root(), id) }

// engine makes the client of an engine, with the command line to start it by.
func (d *Driver) engine(id string) *engine {
	dir := d.engineDir(id)
	args := []string{
		"serve", "--id=" + id, "--dir=" + d.root(), "--socket=" + filepath.Join(dir, socketName),
		"--max-starts=" + strconv.Itoa(d.cfg.MaxStarts), "--rcu-expedited=" + strconv.FormatBool(d.cfg.ExpediteRCU),
	}
	if d.cfg.CgroupTop != "" {
		args = append(args, "--cgroup="+d.cfg.CgroupTop)
	}
	return newEngine(id, dir, append(args, d.cfg.Network.args()...))
}

func (n Network) args() []string {
	var args []string
	if n.Name != "" {
		args = append(args, "--net-name="+n.Name)
	}
	if n.Prefix.IsValid() {
		args = append(args, "--net-prefix="+n.Prefix.String())
	}
	return args
}

// open gives access to the host's side of it.
func (n Network) open(log *slog.Logger) (*network.Network, error) {
	return network.New(network.Config{NamePrefix: n.Name, Prefix: n.Prefix, Allow: n.Allow, Resolvers: n.Resolvers, Log: log})
}

// findOlder reads the slots' records for sandboxes of other engines.
func (d *Driver) findOlder(ctx context.Context) error {
	records, err := filepath.Glob(filepath.Join(d.root(), "slots", "*", "slot.json"))
	if err != nil {
		return err
	}
	for _, path := range records {
		var rec struct {
			Engine string
			ID     sandbox.ID
		}
		data, err := os.ReadFile(path)
		if err != nil || json.Unmarshal(data, &rec) != nil || rec.ID == "" {
			continue // being freed; or its own engine's to complain about
		}
		if rec.Engine == d.current.id || d.older[rec.Engine] != nil {
			continue
		}
		e := d.engine(rec.Engine)
		// Without it its sandboxes would pass for lost while they run.
		if err := d.insist(ctx, e); err != nil {
			return fmt.Errorf("gvisor: engine %s of an earlier version, which holds sandboxes, does not start: %w", rec.Engine, err)
		}
		// Only the current engine's empty slots are of use.
		if err := e.call(ctx, wire.PathPrepare, wire.PrepareRequest{}, nil, true); err != nil {
			return fmt.Errorf("gvisor: %w", err)
		}
		d.older[rec.Engine] = e
	}
	return nil
}

// upTries is how often an engine of an earlier program is tried to start.
const upTries = 3

// insist makes sure that an engine answers, trying more than once.
func (d *Driver) insist(ctx context.Context, e *engine) error {
	for try, wait := 1, 200*time.Millisecond; ; try, wait = try+1, 2*wait {
		err := e.up(ctx)
		if err == nil || try == upTries {
			return err
		}
		d.log.Warn("an earlier engine that holds sandboxes does not start; trying again", "engine", e.id, "err", err)
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return errors.Join(context.Cause(ctx), err)
		}
	}
}

// Close lets go of the engine. Engine and sandboxes go on; connections end.
func (d *Driver) Close() error {
	d.stop()
	d.work.Wait()
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, l := range d.lives {
		l.mu.Lock()
		conns := l.conns
		l.conns = map[*guestConn]struct{}{}
		l.mu.Unlock()
		for c := range conns {
			_ = c.TCPConn.Close()
		}
	}
	if d.pinned != nil {
		d.pinned()
		d.pinned = nil
	}
	d.current.http.CloseIdleConnections()
	return d.network.Close()
}

// Shutdown ends the engine process, if it holds no sandbox; a Conflict otherwise.
// It returns once everything the engine had on the host is gone.
func (d *Driver) Shutdown(ctx context.Context) error {
	if err := d.current.call(ctx, wire.PathShutdown, wire.ShutdownRequest{IfIdle: true}, nil, false); err != nil {
		return fmt.Errorf("shut down engine: %w", err)
	}
	if err := d.current.ended(ctx); err != nil {
		return fmt.Errorf("shut down engine: %w", err)
	}
	// Without sandboxes the policy has nothing to say.
	return d.network.Teardown(ctx)
}

// Start implements [runtime.Driver].
func (d *Driver) Start(ctx context.Context, req runtime.StartRequest) error {
	wreq := wire.StartRequest{ID: req.ID, Resources: req.Resources, ImageRef: req.Image}
	on := d.current
	path, release, err := d.image(ctx, req.Image)
	if err != nil {
		return fmt.Errorf("start %s: %w", req.ID, err)
	}
	defer release() // the sentry keeps it open
	wreq.Image = path
	if req.Snapshot != "" {
		dir, release, err := d.snapshotDir(ctx, req.Snapshot)
		if err != nil {
			return fmt.Errorf("start %s: %w", req.ID, err)
		}
		defer release()
		if on, err = d.restorer(ctx, dir, req.Image); err != nil {
			return fmt.Errorf("start %s: %w", req.ID, err)
		}
		wreq.Snapshot = dir
	}
	if req.Files != "" {
		kept, release, err := d.keptFiles(ctx, req)
		if err != nil {
			return fmt.Errorf("start %s: %w", req.ID, err)
		}
		defer release() // the sentry keeps them open, and reads on
		wreq.Files, on = kept.dir, kept.engine
	}
	var res wire.StartResponse
	err = on.call(ctx, wire.PathStart, wreq, &res, false)
	if err != nil {
		if full := hostFull(d.root(), errors.New(err.Error())); sandbox.HasCode(full, sandbox.CodeHostFull) && !errors.Is(err, lost) {
			err = full // whatever else failed, and not the snapshot's fault
		}
		// An answer that never came, or came too late, may hide a sandbox.
		if ctx.Err() != nil || errors.Is(err, lost) {
			err = errors.Join(err, d.Destroy(context.WithoutCancel(ctx), req.ID))
		}
		return fmt.Errorf("start %s: %w", req.ID, err)
	}
	d.log.Debug("started", "sandbox", req.ID, "timing", res.Timing)
	d.meet(req.ID, on, res.Address)
	return nil
}

// image opens an image's one file.
func (d *Driver) image(ctx context.Context, ref sandbox.Ref) (path string, release func(), err error) {
	dir, release, err := d.cfg.Blobs.Open(ctx, ref)
	if err != nil {
		return "", nil, fmt.Errorf("open image: %w", err)
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.erofs"))
	if err == nil && len(files) != 1 {
		err = fmt.Errorf("image %s holds %d EROFS files, not one", ref, len(files))
	}
	if err != nil {
		release()
		return "", nil, err
	}
	return files[0], release, nil
}

// snapshotDir opens a snapshot, reading it back once: gVisor would take wrong
// bytes of memory for right ones.
func (d *Driver) snapshotDir(ctx context.Context, ref sandbox.Ref) (dir string, release func(), err error) {
	d.mu.Lock()
	known := d.verified[ref]
	d.mu.Unlock()
	if !known {
		if err := d.cfg.Blobs.Verify(ctx, ref); err != nil {
			if ctx.Err() != nil {
				return "", nil, ctx.Err()
			}
			return "", nil, errors.Join(runtime.ErrSnapshotUnusable, err)
		}
		d.trust(ref)
	}
	dir, release, err = d.cfg.Blobs.Open(ctx, ref)
	if err != nil {
		return "", nil, errors.Join(runtime.ErrSnapshotUnusable, err)
	}
	return dir, release, nil
}

// meet notes a sandbox and follows it to its end.
func (d *Driver) meet(id sandbox.ID, e *engine, address string) *live {
	d.mu.Lock()
	defer d.mu.Unlock()
	if l := d.lives[id]; l != nil {
		return l
	}
	l := &live{id: id, engine: e, address: address, gone: make(chan struct{}), conns: map[*guestConn]struct{}{}}
	d.lives[id] = l
	d.work.Go(func() {
		l.follow(d.ctx, func(err error) { d.log.Error("wait for a sandbox", "sandbox", id, "err", err) })
	})
	return l
}

// find returns what is known of a sandbox, asking the engines if need be.
func (d *Driver) find(ctx context.Context, id sandbox.ID) (*live, error) {
	d.mu.Lock()
	l := d.lives[id]
	d.mu.Unlock()
	if l != nil {
		return l, nil
	}
	// NotFound lets the caller give the sandbox up, so it takes the word of all: an
	// engine that can't answer may be the one that has it.
	failed := error(sandbox.E(sandbox.NotFound, sandbox.CodeNotFound, "no such sandbox"))
	for _, e := range d.engines() {
		var found wire.Found
		err := e.call(ctx, wire.PathLookup, wire.IDRequest{ID: id}, &found, true)
		if err == nil {
			return d.meet(id, e, found.Address), nil
		}
		var classified *sandbox.Error
		if !errors.As(err, &classified) || classified.Kind != sandbox.NotFound {
			failed = fmt.Errorf("ask engine %s: %w", e.id, err)
		}
	}
	return nil, failed
}

func (d *Driver) engines() []*engine {
	d.mu.Lock()
	defer d.mu.Unlock()
	all := []*engine{d.current}
	for _, e := range d.older {
		all = append(all, e)
	}
	return all
}

// Destroy implements [runtime.Driver].
func (d *Driver) Destroy(ctx context.Context, id sandbox.ID) error {
	for _, e := range d.engines() {
		if err := e.call(ctx, wire.PathDestroy, wire.IDRequest{ID: id}, nil, true); err != nil {
			return fmt.Errorf("destroy %s: %w", id, err)
		}
		if e != d.current {
			d.retire(ctx, e)
		}
	}
	d.mu.Lock()
	l := d.lives[id]
	delete(d.lives, id)
	d.mu.Unlock()
	if l != nil {
		l.end(runtime.Exit{Reason: "the sandbox was destroyed"})
	}
	return nil
}

// retire ends an earlier engine once it holds nothing any more.
func (d *Driver) retire(ctx context.Context, e *engine) {
	if err := e.once(ctx, wire.PathShutdown, wire.ShutdownRequest{IfIdle: true}, nil); err != nil {
		return // it still has some
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.older, e.id)
}

// Dial implements [runtime.Driver].
func (d *Driver) Dial(ctx context.Context, id sandbox.ID, port uint16) (net.Conn, error) {
	l, err := d.find(ctx, id)
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", id, err)
	}
	c, err := l.dial(ctx, port)
	if err != nil {
		if ctx.Err() == nil {
			err = sandbox.E(sandbox.Unavailable, sandbox.CodeUnavailable, "nothing answers on port "+strconv.Itoa(int(port))).Because(err)
		}
		return nil, fmt.Errorf("dial %s: %w", id, err)
	}
	return c, nil
}

// Wait implements [runtime.Driver].
func (d *Driver) Wait(ctx context.Context, id sandbox.ID) (runtime.Exit, error) {
	l, err := d.find(ctx, id)
	if err != nil {
		return runtime.Exit{}, fmt.Errorf("wait for %s: %w", id, err)
	}
	select {
	case <-l.gone:
		return l.exit, nil
	case <-ctx.Done():
		return runtime.Exit{}, ctx.Err()
	case <-d.ctx.Done():
		return runtime.Exit{}, fmt.Errorf("wait for %s: the driver is closed: %w", id, d.ctx.Err())
	}
}

// List implements [runtime.Driver].
func (d *Driver) List(ctx context.Context) ([]sandbox.ID, error) {
	var ids []sandbox.ID
	for _, e := range d.engines() {
		var res wire.ListResponse
		if err := e.call(ctx, wire.PathList, struct{}{}, &res, true); err != nil {
			return nil, fmt.Errorf("list: %w", err)
		}
		ids = append(ids, res.IDs...)
	}
	slices.Sort(ids)
	return ids, nil
}

// Snapshot implements [runtime.Snapshotter].
func (d *Driver) Snapshot(ctx context.Context, id sandbox.ID) (sandbox.Ref, error) {
	l, err := d.find(ctx, id)
	if err != nil {
		return "", fmt.Errorf("snapshot %s: %w", id, err)
	}
	if l.engine != d.current {
		return "", sandbox.E(sandbox.Conflict, sandbox.CodeConflict, "the sandbox runs under an earlier version of the runtime")
	}
	dir, err := d.cfg.Blobs.TempDir(ctx)
	if err != nil {
		return "", fmt.Errorf("snapshot %s: %w", id, err)
	}
	if err := l.engine.call(ctx, wire.PathSnapshot, wire.SnapshotRequest{ID: id, Dir: dir}, nil, false); err != nil {
		return "", errors.Join(fmt.Errorf("snapshot %s: %w", id, err), os.RemoveAll(dir))
	}
	ref, err := d.cfg.Blobs.Put(ctx, dir)
	if err != nil {
		return "", errors.Join(fmt.Errorf("snapshot %s: %w", id, err), os.RemoveAll(dir))
	}
	return ref, nil
}

// SnapshotKey implements [runtime.Snapshotter]. The engine's version and the
// disk's size are part of a checkpoint, and so is the number of CPUs.
func (d *Driver) SnapshotKey(res sandbox.Resources) string {
	cpus := min(goruntime.NumCPU(), max(2, int((res.MilliCPU+sandbox.Core-1)/sandbox.Core)))
	return fmt.Sprintf("gvisor-%s-cpus%d-disk%d", d.current.version, cpus, res.Disk)
}

// Usage implements [runtime.Meter].
func (d *Driver) Usage(ctx context.Context, id sandbox.ID) (runtime.Usage, error) {
	l, err := d.find(ctx, id)
	if err != nil {
		return runtime.Usage{}, fmt.Errorf("usage of %s: %w", id, err)
	}
	var u runtime.Usage
	if err := l.engine.call(ctx, wire.PathUsage, wire.IDRequest{ID: id}, &u, true); err != nil {
		return runtime.Usage{}, fmt.Errorf("usage of %s: %w", id, err)
	}
	return u, nil
}

// Limits implements [runtime.Limiter].
func (d *Driver) Limits(ctx context.Context, id sandbox.ID) (sandbox.Resources, error) {
	l, err := d.find(ctx, id)
	if err != nil {
		return sandbox.Resources{}, fmt.Errorf("limits of %s: %w", id, err)
	}
	var res sandbox.Resources
	if err := l.engine.call(ctx, wire.PathLimits, wire.IDRequest{ID: id}, &res, true); err != nil {
		return sandbox.Resources{}, fmt.Errorf("limits of %s: %w", id, err)
	}
	return res, nil
}

// Prepare implements [runtime.Pooler].
func (d *Driver) Prepare(ctx context.Context, image sandbox.Ref, res sandbox.Resources, n int) error {
	req := wire.PrepareRequest{ImageRef: image, Resources: res, N: n}
	var release func()
	if n > 0 {
		var err error
		if req.Image, release, err = d.image(ctx, image); err != nil {
			return fmt.Errorf("prepare: %w", err)
		}
	}
	if err := d.current.call(ctx, wire.PathPrepare, req, nil, true); err != nil {
		if release != nil {
			release()
		}
		return fmt.Errorf("prepare: %w", err)
	}
	// The engine opens the image whenever it makes a slot.
	d.mu.Lock()
	old := d.pinned
	d.pinned = release
	d.mu.Unlock()
	if old != nil {
		old()
	}
	return nil
}
