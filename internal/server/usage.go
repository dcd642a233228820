package server

import (
	"math"
	"net/http"
	"time"

	"silica.dev/silica/api"
	"silica.dev/silica/sandbox"
)

func (s *Server) usage(w http.ResponseWriter, r *http.Request, c sandbox.Caller) error {
	sb, u, err := s.deps.Sandboxes.Usage(r.Context(), c, param(r, "id"))
	if err != nil {
		return err
	}
	writeOne(w, http.StatusOK, api.Usage{
		SandboxID: string(sb.ID), State: string(sb.State), RuntimeSec: seconds(u.Runtime), RuntimeMS: u.Runtime.Milliseconds(),
		ProvisionedVCPUMS: u.CPUTime.Milliseconds(), ProvisionedMemoryMBMS: u.MemoryMiBMilli, CreationCount: 1,
		ActiveCPUMS: u.CPU.Milliseconds(), NetworkIngressBytes: u.NetworkIn, NetworkEgressBytes: u.NetworkOut,
		MeasurementStatus:  api.MeasurementStatus{ActiveCPU: "measured", Network: "measured", ProvisionedResources: "measured"},
		EstimatedCostCents: s.cfg.Prices.Cost(u.CPUTime.Milliseconds()*sandbox.Core, u.MemoryMiBMilli).Whole(),
		TimeoutSec:         seconds(sb.Timeout), TimeoutRemainingMS: timeoutRemaining(sb, time.Now()),
	})
	return nil
}

// Bounds of ?window= of metrics.
const (
	metricsWindow    = time.Hour
	maxMetricsWindow = 24 * time.Hour
)

func (s *Server) sandboxMetrics(w http.ResponseWriter, r *http.Request, c sandbox.Caller) error {
	window := metricsWindow
	if v := r.URL.Query().Get("window"); v != "" {
		var err error
		if window, err = time.ParseDuration(v); err != nil || window <= 0 {
			return sandbox.Field("window", "must be a duration, such as 15m or 1h")
		}
		window = min(window, maxMetricsWindow)
	}
	sb, m, err := s.deps.Sandboxes.Metrics(r.Context(), c, param(r, "id"), window)
	if err != nil {
		return err
	}
	cores := float64(sb.Spec.MilliCPU) / float64(sandbox.Core)
	writeOne(w, http.StatusOK, api.Metrics{
		SandboxID: string(sb.ID), State: string(sb.State), Timestamp: m.At.UTC(), WindowSec: seconds(window),
		CPU: api.CPUMetrics{
			Cores: cores, UsedCores: rounded(m.Cores), UsagePercent: percent(m.Cores, cores), TotalMS: m.CPU.Milliseconds(), Load: rounded(m.Load),
		},
		Memory: api.MemoryMetrics{
			UsedBytes: m.MemoryUsed, LimitBytes: sb.Spec.Memory,
			UsagePercent: percent(float64(m.MemoryUsed), float64(sb.Spec.Memory)), HostBytes: m.Memory,
		},
		Disk: api.DiskMetrics{
			UsedBytes: m.DiskUsed, TotalBytes: m.DiskTotal, UsagePercent: percent(float64(m.DiskUsed), float64(m.DiskTotal)),
		},
		Processes: m.Processes,
		Traffic:   api.TrafficMetrics{IngressBytes: m.NetworkIn, EgressBytes: m.NetworkOut},
		Series:    series(append(m.Past, m.Sample), cores),
	})
	return nil
}

// series turns counters into what went on between two looks at them.
func series(samples []sandbox.Sample, cores float64) []api.MetricsPoint {
	points := []api.MetricsPoint{}
	for i, p := range samples {
		point := api.MetricsPoint{Timestamp: p.At.UTC(), MemoryBytes: p.Memory, IngressBytes: p.NetworkIn, EgressBytes: p.NetworkOut}
		if i > 0 {
			if took := p.At.Sub(samples[i-1].At); took > 0 && p.CPU >= samples[i-1].CPU {
				point.CPUPercent = percent(float64(p.CPU-samples[i-1].CPU)/float64(took), cores)
			}
		}
		points = append(points, point)
	}
	return points
}

func percent(part, whole float64) float64 {
	if whole <= 0 {
		return 0
	}
	return rounded(100 * part / whole)
}

// rounded keeps two digits after the point.
func rounded(v float64) float64 { return math.Round(100*v) / 100 }
