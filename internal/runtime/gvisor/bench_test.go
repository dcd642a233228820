package gvisor_test

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"silica.dev/silica/internal/runtime"
	"silica.dev/silica/sandbox"
)

// TestSpeed measures a start from ready slots, without any, cold, and many at
// once; it fails only where something is out of all proportion.
func TestSpeed(t *testing.T) {
	h := newHost(t)
	origin := h.start("")
	ref := h.snapshot(origin)
	h.destroy(origin)
	const n = 20
	for _, c := range []struct {
		name     string
		snapshot sandbox.Ref
		ready    int
	}{{"restored into a ready slot", ref, 3}, {"restored", ref, 0}, {"cold", "", 0}} {
		if err := h.driver.Prepare(t.Context(), h.image, small, c.ready); err != nil {
			t.Fatal(err)
		}
		var starts, destroys times
		for range n {
			eventually(t, "ready slots", func() bool { return h.settled(c.ready) })
			id := sandbox.NewID()
			starts.add(func() error {
				return h.driver.Start(t.Context(), runtime.StartRequest{ID: id, Image: h.image, Snapshot: c.snapshot, Resources: small})
			}, t)
			destroys.add(func() error { return h.driver.Destroy(t.Context(), id) }, t)
		}
		t.Logf("%s: start %v, destroy %v", c.name, &starts, &destroys)
		if starts.at(0.5) > time.Second || destroys.at(0.5) > 200*time.Millisecond {
			t.Errorf("%s is slow", c.name)
		}
	}
	const many = 10
	var starts times
	ids := make([]sandbox.ID, many)
	began := time.Now()
	var wg sync.WaitGroup
	for i := range ids {
		ids[i] = sandbox.NewID()
		wg.Go(func() {
			starts.add(func() error {
				return h.driver.Start(t.Context(), runtime.StartRequest{ID: ids[i], Image: h.image, Snapshot: ref, Resources: small})
			}, t)
		})
	}
	wg.Wait()
	t.Logf("%d at once: %v, all after %v", many, &starts, time.Since(began).Round(time.Millisecond))
}

type times struct {
	mu  sync.Mutex
	all []time.Duration
}

func (m *times) add(f func() error, t *testing.T) {
	began := time.Now()
	err := f()
	took := time.Since(began)
	if err != nil {
		t.Error(err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.all = append(m.all, took)
}

func (m *times) at(q float64) time.Duration {
	slices.Sort(m.all)
	return m.all[int(q*float64(len(m.all)-1))]
}

func (m *times) String() string {
	ms := func(q float64) float64 { return float64(m.at(q).Microseconds()) / 1000 }
	return fmt.Sprintf("p50 %.1f p95 %.1f max %.1f ms", ms(0.5), ms(0.95), ms(1))
}
