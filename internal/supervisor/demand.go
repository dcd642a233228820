package supervisor

import (
	"maps"
	"math"
	"sync"
	"time"
)

// demandFades is how fast it is forgotten that a template was asked for: after
// this time e times less of it is left.
const demandFades = 30 * time.Second

// demand counts how often sandboxes of each template were asked for of late.
type demand struct {
	mu    sync.Mutex
	asked map[string]fading // by the template's key
}

// fading is a count as it was at a time.
type fading struct {
	n  float64
	at time.Time
}

func (f fading) left(now time.Time) float64 {
	return f.n * math.Exp(-now.Sub(f.at).Seconds()/demandFades.Seconds())
}

func newDemand() *demand { return &demand{asked: map[string]fading{}} }

func (d *demand) note(template string, now time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.asked[template] = fading{d.asked[template].left(now) + 1, now}
}

// recent is the count, rounded; what has faded is forgotten.
func (d *demand) recent(template string, now time.Time) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	maps.DeleteFunc(d.asked, func(_ string, f fading) bool { return f.left(now) < 0.01 })
	return int(math.Round(d.asked[template].left(now)))
}
