package api

import "time"

// Usage is the answer of GET /sandboxes/{id}/usage: what a sandbox has used in
// all the time that it ran. Time in which it was paused or stopped is none of it.
type Usage struct {
	SandboxID             string            `json:"sandbox_id"`
	State                 string            `json:"state"`
	RuntimeSec            int64             `json:"runtime_sec"`
	RuntimeMS             int64             `json:"runtime_ms"`
	ProvisionedVCPUMS     int64             `json:"provisioned_vcpu_ms"`
	ProvisionedMemoryMBMS int64             `json:"provisioned_memory_mb_ms"`
	CreationCount         int64             `json:"creation_count"`
	ActiveCPUMS           int64             `json:"active_cpu_ms"`
	NetworkIngressBytes   int64             `json:"network_ingress_bytes"` // received by the sandbox
	NetworkEgressBytes    int64             `json:"network_egress_bytes"`
	MeasurementStatus     MeasurementStatus `json:"measurement_status"`
	EstimatedCostCents    int64             `json:"estimated_cost_cents"`
	TimeoutSec            int64             `json:"timeout_sec"`
	TimeoutRemainingMS    *int64            `json:"timeout_remaining_ms"`
}

// MeasurementStatus tells where the numbers of a Usage are from: "measured".
type MeasurementStatus struct {
	ActiveCPU            string `json:"active_cpu"`
	Network              string `json:"network"`
	ProvisionedResources string `json:"provisioned_resources"`
}

// Metrics is the answer of GET /sandboxes/{id}/metrics: how a sandbox is doing
// just now, zero where it does not run, and how it was in the window.
type Metrics struct {
	SandboxID string         `json:"sandbox_id"`
	State     string         `json:"state"`
	Timestamp time.Time      `json:"timestamp"`
	WindowSec int64          `json:"window_sec"`
	CPU       CPUMetrics     `json:"cpu"`
	Memory    MemoryMetrics  `json:"memory"`
	Disk      DiskMetrics    `json:"disk"`
	Processes int64          `json:"processes"`
	Traffic   TrafficMetrics `json:"traffic"`
	Series    []MetricsPoint `json:"series"` // oldest first
}

// CPUMetrics are of the cores that a sandbox may use.
type CPUMetrics struct {
	Cores        float64 `json:"cores"`
	UsedCores    float64 `json:"used_cores"` // just now
	UsagePercent float64 `json:"usage_percent"`
	TotalMS      int64   `json:"total_ms"` // since it was started
	Load         float64 `json:"load"`
}

// MemoryMetrics are bytes. host_bytes is what it takes on the host.
type MemoryMetrics struct {
	UsedBytes    int64   `json:"used_bytes"`
	LimitBytes   int64   `json:"limit_bytes"`
	UsagePercent float64 `json:"usage_percent"`
	HostBytes    int64   `json:"host_bytes"`
}

// DiskMetrics are bytes.
type DiskMetrics struct {
	UsedBytes    int64   `json:"used_bytes"`
	TotalBytes   int64   `json:"total_bytes"`
	UsagePercent float64 `json:"usage_percent"`
}

// TrafficMetrics are bytes since the sandbox was started.
type TrafficMetrics struct {
	IngressBytes int64 `json:"ingress_bytes"`
	EgressBytes  int64 `json:"egress_bytes"`
}

// MetricsPoint is one moment of a window.
type MetricsPoint struct {
	Timestamp    time.Time `json:"timestamp"`
	CPUPercent   float64   `json:"cpu_percent"` // since the point before
	MemoryBytes  int64     `json:"memory_bytes"`
	IngressBytes int64     `json:"ingress_bytes"`
	EgressBytes  int64     `json:"egress_bytes"`
}
