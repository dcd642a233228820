package supervisor

import (
	"context"
	"testing"
	"time"

	"golang.org/x/time/rate"
)

// TestFloodOfNoticesIsReadSlowly: an agent may send as many as it likes.
func TestFloodOfNoticesIsReadSlowly(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	flood := func(yield func(int, error) bool) {
		for n := 0; yield(n, nil); n++ {
		}
	}
	read := 0
	for n, err := range paced(ctx, rate.NewLimiter(10, 5), flood) {
		if err != nil || n != read {
			t.Fatalf("got %d, %v after %d", n, err, read)
		}
		read++
	}
	if read < 5 || read > 7 {
		t.Errorf("%d were read in 100 ms, want the burst of 5 and what 10 a second give", read)
	}
}
