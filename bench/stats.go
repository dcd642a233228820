package bench

import (
	"math"
	"slices"
	"time"
)

// Stats sums up one series of durations.
type Stats struct {
	N      int           `json:"n"`      // that succeeded
	Failed int           `json:"failed"` // and are in no other number
	Min    time.Duration `json:"min_ns"`
	P50    time.Duration `json:"p50_ns"`
	P95    time.Duration `json:"p95_ns"`
	P99    time.Duration `json:"p99_ns"`
	Max    time.Duration `json:"max_ns"`
}

// summarise computes nearest-rank percentiles: each is a value that was seen.
func summarise(series []time.Duration, failed int) Stats {
	s := Stats{N: len(series), Failed: failed}
	if s.N == 0 {
		return s
	}
	sorted := slices.Sorted(slices.Values(series))
	rank := func(p float64) time.Duration {
		return sorted[max(0, int(math.Ceil(p*float64(s.N)))-1)]
	}
	s.Min, s.Max = sorted[0], sorted[s.N-1]
	s.P50, s.P95, s.P99 = rank(0.50), rank(0.95), rank(0.99)
	return s
}
