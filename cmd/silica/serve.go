package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"runtime/debug"
	"time"

	"github.com/mattn/go-isatty"
	"golang.org/x/sys/unix"

	"silica.dev/silica/cmd/silica/embedded"
	"silica.dev/silica/internal/blob"
	"silica.dev/silica/internal/builder"
	"silica.dev/silica/internal/event"
	"silica.dev/silica/internal/network"
	"silica.dev/silica/internal/runtime/gvisor"
	"silica.dev/silica/internal/server"
	"silica.dev/silica/internal/storage"
	"silica.dev/silica/internal/store"
	"silica.dev/silica/internal/supervisor"
	"silica.dev/silica/internal/telemetry"
	"silica.dev/silica/sandbox"
	"silica.dev/silica/templates"
)

const (
	defaultTemplate = "miosa-sandbox"
	// shutdownGrace is how long commands and files may take to end by themselves.
	shutdownGrace = 10 * time.Second
	traceGrace    = 2 * time.Second
)

// runServe builds everything from the bottom up and serves until ctx ends.
// What it made ends in the opposite order; sandboxes go on.
func runServe(ctx context.Context, c Config) (err error) {
	log := newLogger(c)
	if os.Geteuid() != 0 {
		return errors.New("silica serve makes network namespaces and cgroups and must run as root")
	}
	if err := os.MkdirAll(c.Data, 0o700); err != nil {
		return fmt.Errorf("make the data folder: %w", err)
	}
	spareUs(log)
	unlock, err := lockData(c.Data)
	if err != nil {
		return err
	}
	defer unlock()

	// The port first: when it is taken, nothing else should have begun.
	listener, err := net.Listen("tcp", c.Listen)
	if err != nil {
		return fmt.Errorf("listen on %s: %w", c.Listen, err)
	}
	defer listener.Close()

	metrics := telemetry.New(version)
	tracing, err := telemetry.NewTracing(ctx, c.OTLPEndpoint, version, log)
	if err != nil {
		return err
	}
	defer func() {
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), traceGrace)
		defer cancel()
		if err := tracing.Close(grace); err != nil {
			log.Warn("the last spans were not sent", "err", err)
		}
	}()

	rows, err := openStore(ctx, c, listener.Addr(), metrics, log)
	if err != nil {
		return err
	}
	defer rows.Close()
	if err := adminKey(ctx, rows, c, log); err != nil {
		return err
	}
	events := event.NewLog(rows)
	rows.Announce(func(e event.Event) {
		events.Announce(e)
		metrics.Announced(e.At)
	})

	blobs, err := blob.NewLocal(filepath.Join(c.Data, "blobs"))
	if err != nil {
		return err
	}
	defer blobs.Close()

	agent, agentProgram, err := program(embedded.Agent)
	if err != nil {
		return err
	}
	gvisor, err := newDriver(ctx, c, blobs, log)
	if err != nil {
		return err
	}
	defer gvisor.Close()
	driver := observedDriver{gvisor, metrics, tracing.Tracer()}
	debug.FreeOSMemory() // the engine was unpacked, and is on disk now

	outside, err := outside(c)
	if err != nil {
		return err
	}
	images := newImages(c, outside, blobs, agentProgram)
	build := builder.New(builder.Config{
		Driver:  driver,
		Images:  images,
		Blobs:   neededBlobs{blobs, rows},
		Store:   rows,
		Log:     log,
		Setting: fmt.Sprintf("%s %+v", agent.Digest, outside),
		Report:  func(s builder.Status) { log.Info(s.String()) },
		Making:  newMaking(c, outside),

		Nameservers: nameservers(c),
	})
	recipes, err := builder.LoadCatalogue(templates.Files)
	if err != nil {
		return err
	}
	var super *supervisor.Supervisor // who wants to hear of what was built
	catalogue := builder.NewCatalogue(build, func() { super.TemplateChanged() })
	defer catalogue.Close()
	if err := catalogue.Define(ctx, recipes); err != nil {
		return err
	}

	super = supervisor.New(supervisor.Config{
		Template: defaultTemplate, MaxSandboxes: c.MaxSandboxes, WarmPool: c.WarmPool, EmptySlots: c.EmptySlots,
		MaxTimeout: c.MaxTimeout, ForbidAlwaysOn: !c.AllowAlwaysOn, CreateWait: max(c.CreateWait, 1), Nameservers: nameservers(c),
		// The largest named size; sizes in numbers have narrower caps on their wire.
		Max: largest,
	}, supervisor.Deps{Store: rows, Templates: catalogue, Driver: driver, Events: events, Builds: catalogue, Capacity: newCapacity(c.Data), Kept: blobs, Observer: metrics, Log: log})
	defer super.Close()

	metrics.Watch(telemetry.Look{
		States: rows.CountStates, PoolSize: c.WarmPool,
		Held: func(ctx context.Context) (int, error) {
			ids, err := gvisor.List(ctx)
			return len(ids), err
		},
		Ready:    func() bool { return build.Status(defaultTemplate).Ready },
		Building: func() bool { return catalogue.Building(defaultTemplate) },
	})

	signing, err := rows.NodeSecret(ctx)
	if err != nil {
		return err
	}
	nodes, secret, err := neighbours(ctx, c, rows)
	if err != nil {
		return err
	}
	ready := make(chan struct{})
	api := server.New(server.Config{
		NodeSecret: secret, SigningKey: signing,
		Version: version, DefaultTemplate: defaultTemplate, PublicURL: c.PublicURL, RateLimit: c.RateLimit,
		MaxSandboxes: c.MaxSandboxes, Prices: c.prices(),
	}, server.Deps{
		Sandboxes: tracedSandboxes{super, tracing.Tracer()}, Snapshots: super, Storage: storage.Ledger{Rows: rows, Blobs: blobs}, Parcels: newCarrier(c, rows, blobs), Registry: metrics.Registry, Tracer: tracing.Tracer(), Events: events, Accounts: rows,
		Directory: rows, Books: rows, Audit: rows, Templates: catalogue, Log: log,
		Ready: func(context.Context) error { return readiness(ready, build) },
		Nodes: nodes,
	})
	served := make(chan error, 2)
	go func() { served <- api.Serve(listener) }()
	log.Info("listening", "address", listener.Addr().String(), "version", version)
	if c.MetricsListen != "" {
		stop, err := serveMetrics(c.MetricsListen, api.MetricsHandler(), served)
		if err != nil {
			return err
		}
		defer stop()
	}

	// Commands and files are given their time first; then everything below ends.
	defer func() {
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownGrace)
		defer cancel()
		log.Info("stopping; sandboxes go on running")
		err = errors.Join(err, api.Shutdown(grace))
		events.Close(sandbox.E(sandbox.Unavailable, sandbox.CodeUnavailable, "the server is shutting down"))
	}()

	// Nothing may be under way when artifacts no row names are deleted; what
	// recovery goes on with may wait for the template; and the builder's own
	// sandboxes, which no row owns, must come after recovery.
	needed, err := rows.Kept(ctx)
	if err != nil {
		return err
	}
	if err := build.Sweep(ctx, needed...); err != nil {
		return err
	}
	catalogue.Expect(defaultTemplate)
	if err := super.Recover(ctx); err != nil {
		return err
	}
	close(ready)
	catalogue.Start()
	for _, r := range recipes {
		if r.Slug == defaultTemplate {
			catalogue.Build(r)
		}
	}

	select {
	case err := <-served:
		return err
	case <-ctx.Done():
		return nil
	}
}

// ownOOMScore makes the kernel end sandboxes before the server when memory runs
// out. The engine inherits it, and gives its sandboxes a high one.
const ownOOMScore = "-900"

// spareUs sets ownOOMScore. A server that may not runs as well without.
func spareUs(log *slog.Logger) {
	if err := os.WriteFile("/proc/self/oom_score_adj", []byte(ownOOMScore), 0); err != nil {
		log.Warn("when memory runs out the kernel may end the server before sandboxes", "err", err)
	}
}

func newLogger(c Config) *slog.Logger {
	opts := &slog.HandlerOptions{Level: c.LogLevel}
	var h slog.Handler = slog.NewTextHandler(os.Stderr, opts)
	if c.LogFormat == "json" {
		h = slog.NewJSONHandler(os.Stderr, opts)
	}
	return slog.New(telemetry.Contextual(h))
}

// lockData keeps a second server off the same data. It ends with the process.
func lockData(dir string) (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(dir, "silica.lock"), os.O_CREATE|os.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the data folder: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, fmt.Errorf("another silica serve uses %s: stop it, or choose another folder with --data", dir)
	}
	return func() { f.Close() }, nil
}

// adminKey sees to it that somebody can manage the installation. The file is
// durable before the key is one, so that a crash can't leave a key nobody knows.
func adminKey(ctx context.Context, rows *store.Store, c Config, log *slog.Logger) error {
	if c.BootstrapKey != "" {
		_, err := rows.EnsureAdminKey(ctx, c.BootstrapKey)
		return err
	}
	if has, err := rows.HasAdminKey(ctx); err != nil || has {
		return err
	}
	secret := store.NewSecret(true)
	path := filepath.Join(c.Data, "admin.key")
	if err := writeDurably(path, secret+"\n"); err != nil {
		return fmt.Errorf("keep the first admin key: %w", err)
	}
	if _, err := rows.EnsureAdminKey(ctx, secret); err != nil {
		return err
	}
	log.Info("made the first admin key", "kept_in", path)
	if isatty.IsTerminal(os.Stderr.Fd()) { // a log file must not hold it
		fmt.Fprintf(os.Stderr, "\n  The first admin key, shown this once:\n\n    %s\n\n", secret)
	}
	return nil
}

func writeDurably(path, text string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	err = errors.Join(err, f.Sync(), f.Close())
	if err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// program unpacks an executable this one carries.
func program(name string) (embedded.Artifact, []byte, error) {
	a, err := embedded.Find(name)
	if err != nil {
		return a, nil, err
	}
	r, err := a.Open()
	if err != nil {
		return a, nil, fmt.Errorf("unpack %s: %w", name, err)
	}
	defer r.Close()
	bytes, err := io.ReadAll(r)
	if err != nil {
		return a, nil, fmt.Errorf("unpack %s: %w", name, err)
	}
	return a, bytes, nil
}

func newDriver(ctx context.Context, c Config, blobs blob.Store, log *slog.Logger) (*gvisor.Driver, error) {
	_, engine, err := program(embedded.Engine)
	if err != nil {
		return nil, err
	}
	return gvisor.New(ctx, gvisor.Config{
		DataDir: c.Data, Program: engine, Blobs: blobs, CgroupTop: c.NetworkName,
		Network:     gvisor.Network{Name: c.NetworkName, Prefix: c.NetworkPrefix, Allow: c.EgressAllow, Resolvers: c.Nameservers},
		ExpediteRCU: true, Log: log,
	})
}

// nameservers are the resolvers sandboxes use: the operator's, else the host's.
// Only those the operator names are also let through to where the policy says no.
func nameservers(c Config) []string {
	list := c.Nameservers
	if len(list) == 0 {
		list = network.Nameservers(publicResolvers...)
	}
	var names []string
	for _, a := range list {
		names = append(names, a.String())
	}
	return names
}

// publicResolvers serve machines that resolve names only for themselves.
var publicResolvers = []netip.Addr{netip.MustParseAddr("9.9.9.9"), netip.MustParseAddr("1.1.1.1")}

// readiness says what is still missing before sandboxes can be had.
func readiness(recovered <-chan struct{}, b *builder.Builder) error {
	select {
	case <-recovered:
	default:
		return sandbox.E(sandbox.Unavailable, sandbox.CodeUnavailable, "taking over what ran before")
	}
	if s := b.Status(defaultTemplate); !s.Ready {
		return sandbox.E(sandbox.Unavailable, sandbox.CodeTemplateNotReady, s.String())
	}
	return nil
}

// serveMetrics answers /metrics without a key on an address of its own.
func serveMetrics(address string, h http.Handler, failed chan<- error) (stop func(), err error) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("listen on %s for metrics: %w", address, err)
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", h)
	s := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	go func() {
		if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			failed <- err
		}
	}()
	return func() { _ = s.Close() }, nil
}
