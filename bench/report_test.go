package bench

import (
	"strings"
	"testing"
	"time"
)

func TestMarkdown(t *testing.T) {
	r := Report{
		Begun: time.Date(2026, 11, 21, 10, 0, 0, 0, time.UTC), Took: 90 * time.Second, Quick: true,
		Machine: Machine{CPU: "Some CPU", Cores: 2, Kernel: "6.1", Load: "0.1 0.2 0.3"},
		Sections: []Section{{Title: "Exec", Rows: []Row{{What: "true", Goal: "p50 ≤ 8 ms", Stats: summarise([]time.Duration{4 * time.Millisecond}, 1)}},
			Facts: []Fact{{"speed", "300 MB/s", "≥ 200 MB/s"}}}},
	}
	var b strings.Builder
	if err := r.Markdown(&b); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"21 November 2026", "Some CPU, 2 cores", "0.1 0.2 0.3", "quick run",
		"| true | 1 | 1 | 4.0 ms | 4.0 ms | 4.0 ms | 4.0 ms | p50 ≤ 8 ms |",
		"| speed | 300 MB/s | ≥ 200 MB/s |", "Cited, not measured", "| E2B | create to first command | 491 ms |",
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("the report lacks %q:\n%s", want, b.String())
		}
	}
}
