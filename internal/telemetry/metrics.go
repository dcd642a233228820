// Package telemetry measures and traces what the daemon does, so that the rules
// need not know who watches, nor how.
package telemetry

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"silica.dev/silica/sandbox"
)

// Metrics is what operators see at /metrics. No label is ever a tenant, an id or
// anything else that callers make up.
type Metrics struct {
	Registry *prometheus.Registry

	boots         *prometheus.HistogramVec // by boot_path
	startFailures prometheus.Counter
	refills       *prometheus.HistogramVec // by result
	badSnapshots  prometheus.Counter
	driver        *prometheus.HistogramVec // by operation and result
	commits       prometheus.Histogram
	commitErrors  prometheus.Counter
	commitJobs    prometheus.Counter
	eventLag      prometheus.Histogram
}

// fast are buckets, in seconds, for what takes milliseconds and should.
var fast = []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 15, 60}

// New returns metrics of the program of this version.
func New(version string) *Metrics {
	histogram := func(name, help string, labels ...string) *prometheus.HistogramVec {
		return prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: name, Help: help, Buckets: fast}, labels)
	}
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
	}
	m := &Metrics{
		Registry:      prometheus.NewRegistry(),
		boots:         histogram("silica_sandbox_create_duration_seconds", "From the request for a sandbox to its agent taking work.", "boot_path"),
		startFailures: counter("silica_sandbox_start_failures_total", "Sandboxes that never came to run."),
		refills:       histogram("silica_pool_refill_duration_seconds", "Time to make one member of the warm pool.", "result"),
		badSnapshots:  counter("silica_snapshot_restore_failures_total", "Snapshots that could not be restored, so that the sandbox booted cold."),
		driver:        histogram("silica_driver_duration_seconds", "Calls to the isolation driver.", "operation", "result"),
		commits:       prometheus.NewHistogram(prometheus.HistogramOpts{Name: "silica_store_commit_duration_seconds", Help: "Time of one durable transaction, which several writers may share.", Buckets: fast}),
		commitErrors:  counter("silica_store_commit_failures_total", "Transactions that were not committed."),
		commitJobs:    counter("silica_store_writes_total", "Writes made durable by commits."),
		eventLag:      prometheus.NewHistogram(prometheus.HistogramOpts{Name: "silica_event_lag_seconds", Help: "From what happened to its event being durable and shown to readers.", Buckets: fast}),
	}
	build := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "silica_build_info", Help: "1; the version is the label."}, []string{"version"})
	build.WithLabelValues(version).Set(1)
	m.Registry.MustRegister(m.boots, m.startFailures, m.refills, m.badSnapshots, m.driver, m.commits, m.commitErrors, m.commitJobs, m.eventLag, build,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	// Series that exist from the start can be alerted on before they first move.
	for _, path := range []sandbox.BootPath{sandbox.BootPool, sandbox.BootSnapshot, sandbox.BootCold} {
		m.boots.WithLabelValues(string(path))
	}
	for _, r := range []string{ok, failed} {
		m.refills.WithLabelValues(r)
		for _, op := range []string{"start", "destroy", "dial", "snapshot"} {
			m.driver.WithLabelValues(op, r)
		}
	}
	return m
}

// The values of the label "result".
const ok, failed = "ok", "error"

func result(err error) string {
	if err != nil {
		return failed
	}
	return ok
}

// Started implements the supervisor's observer.
func (m *Metrics) Started(path sandbox.BootPath, took time.Duration) {
	m.boots.WithLabelValues(string(path)).Observe(took.Seconds())
}

// StartFailed implements the supervisor's observer.
func (m *Metrics) StartFailed() { m.startFailures.Inc() }

// Refilled implements the supervisor's observer.
func (m *Metrics) Refilled(took time.Duration, err error) {
	m.refills.WithLabelValues(result(err)).Observe(took.Seconds())
}

// RestoreFailed implements the supervisor's observer.
func (m *Metrics) RestoreFailed() { m.badSnapshots.Inc() }

// Driver notes one call to the isolation driver.
func (m *Metrics) Driver(operation string, took time.Duration, err error) {
	m.driver.WithLabelValues(operation, result(err)).Observe(took.Seconds())
}

// Committed notes a transaction that carried so many writes.
func (m *Metrics) Committed(took time.Duration, writes int, err error) {
	m.commits.Observe(took.Seconds())
	m.commitJobs.Add(float64(writes))
	if err != nil {
		m.commitErrors.Inc()
	}
}

// Announced notes an event that has just been shown.
func (m *Metrics) Announced(at time.Time) { m.eventLag.Observe(max(time.Since(at), 0).Seconds()) }

// Look is what is asked when somebody reads the metrics.
type Look struct {
	// States counts the sandboxes that hold something or could again, by state.
	States func(context.Context) (map[sandbox.State]int, error)
	// Held counts what the engine has on the host; its error means that no
	// engine answers.
	Held func(context.Context) (int, error)
	// Ready tells whether the default template can be used.
	Ready func() bool
	// Building tells whether a template or snapshot is being made.
	Building func() bool
	PoolSize int // wanted members
}

// patience bounds what one reading may wait for.
const patience = 2 * time.Second

// Watch adds the gauges that are asked for at every reading.
func (m *Metrics) Watch(l Look) { m.Registry.MustRegister(&gauges{l}) }

type gauges struct{ Look }

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(name, help, labels, nil)
}

var (
	sandboxesDesc = desc("silica_sandboxes", "Sandboxes by state; warm ones are the pool's.", "state")
	poolDesc      = desc("silica_pool_size", "Members of the warm pool that are wanted.")
	engineDesc    = desc("silica_engine_up", "1 when the process that holds the sandboxes answers.")
	heldDesc      = desc("silica_engine_sandboxes", "Sandboxes that hold something on the host.")
	readyDesc     = desc("silica_template_ready", "1 when the default template can be used.")
	buildingDesc  = desc("silica_builder_busy", "1 while a template is being built.")
	storeDesc     = desc("silica_store_up", "1 when the database answers.")
)

func (g *gauges) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{sandboxesDesc, poolDesc, engineDesc, heldDesc, readyDesc, buildingDesc, storeDesc} {
		ch <- d
	}
}

// states are always all reported: a series that vanishes looks like a gap.
var states = []sandbox.State{sandbox.Provisioning, sandbox.Warm, sandbox.Running, sandbox.Paused, sandbox.Failed}

func (g *gauges) Collect(ch chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	counts, err := g.States(ctx)
	gauge(storeDesc, truth(err == nil))
	if err == nil {
		for _, s := range states {
			gauge(sandboxesDesc, float64(counts[s]), string(s))
		}
	}
	gauge(poolDesc, float64(g.PoolSize))
	held, err := g.Held(ctx)
	gauge(engineDesc, truth(err == nil))
	if err == nil {
		gauge(heldDesc, float64(held))
	}
	gauge(readyDesc, truth(g.Ready()))
	gauge(buildingDesc, truth(g.Building()))
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
