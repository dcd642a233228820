package bench

import (
	"testing"
	"time"
)

func TestSummarise(t *testing.T) {
	var hundred []time.Duration
	for i := range 100 {
		hundred = append(hundred, time.Duration(100-i)*time.Millisecond)
	}
	ms := func(n int) time.Duration { return time.Duration(n) * time.Millisecond }
	for _, c := range []struct {
		name   string
		series []time.Duration
		want   Stats
	}{
		{"none", nil, Stats{Failed: 1}},
		{"one", hundred[:1], Stats{N: 1, Failed: 1, Min: ms(100), P50: ms(100), P95: ms(100), P99: ms(100), Max: ms(100)}},
		{"hundred", hundred, Stats{N: 100, Failed: 1, Min: ms(1), P50: ms(50), P95: ms(95), P99: ms(99), Max: ms(100)}},
	} {
		if got := summarise(c.series, 1); got != c.want {
			t.Errorf("%s: got %+v, want %+v", c.name, got, c.want)
		}
	}
}
