package bench

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// memory fills the host with idle sandboxes and adds up what they, the daemon
// and the engine hold proportionally.
func (t target) memory(ctx context.Context) (s Section, err error) {
	s = Section{Title: "Memory of idle sandboxes", Note: "Proportional set size of all processes (sentries and their helpers, daemon, engine), divided by the number of sandboxes. " +
		"Each has run one command. Nothing is kept ready besides."}
	var alive []start
	defer func() { t.endAll(ctx, alive) }()
	for _, n := range []int{10, 50, 200} {
		if t.Quick && n > 10 {
			break
		}
		for len(alive) < n {
			batch := make([]start, min(4, n-len(alive)))
			var wg sync.WaitGroup
			for i := range batch {
				wg.Go(func() { batch[i] = t.begin(ctx) })
			}
			wg.Wait()
			alive = append(alive, batch...)
			for _, b := range batch {
				if b.cause != nil {
					return s, fmt.Errorf("with %d alive: %w", len(alive), b.cause)
				}
			}
		}
		t.Log(fmt.Sprintf("memory of %d", n))
		if err := settle(ctx); err != nil {
			return s, err
		}
		var sum, fixed int64
		for _, p := range t.processes() {
			pss := kilobytes(p.pid, "smaps_rollup", "Pss")
			sum += pss
			if p.pid == t.pid {
				fixed = pss
			}
		}
		goal := ""
		if n == 50 {
			goal = "≤ 20 MiB"
		}
		s.Facts = append(s.Facts, Fact{fmt.Sprintf("%d sandboxes: each", n), fmt.Sprintf("%s (all: %s, of it the daemon %s)", mib(sum/int64(n)), mib(sum), mib(fixed)), goal})
	}
	return s, nil
}

// settle lets garbage collectors and page caches come to rest.
func settle(ctx context.Context) error {
	select {
	case <-time.After(3 * time.Second):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// loop creates and destroys and compares what the host holds before and after.
func (t target) loop(ctx context.Context) (Section, error) {
	n := t.rounds(2000)
	s := Section{Title: fmt.Sprintf("%d times create, run, destroy", n), Note: "Four at a time, after a hundred to warm up. What is held before and after must be the same; memory within noise."}
	churn := func(n int) error {
		var mu sync.Mutex
		var errs []error
		work := make(chan struct{})
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				for range work {
					st := t.begin(ctx)
					t.end(ctx, st.id)
					if st.cause != nil {
						mu.Lock()
						errs = append(errs, st.cause)
						mu.Unlock()
					}
				}
			})
		}
		for range n {
			work <- struct{}{}
		}
		close(work)
		wg.Wait()
		if len(errs) > 0 {
			return fmt.Errorf("%d of %d failed: %w", len(errs), n, errors.Join(errs[:min(3, len(errs))]...))
		}
		return ctx.Err()
	}
	if err := churn(t.rounds(100)); err != nil {
		return s, err
	}
	if err := settle(ctx); err != nil {
		return s, err
	}
	before, begun := t.held(), time.Now()
	if err := churn(n); err != nil {
		return s, err
	}
	took := time.Since(begun)
	if err := settle(ctx); err != nil {
		return s, err
	}
	after := t.held()
	for _, c := range []struct {
		what      string
		from, now int
	}{
		{"processes", before.processes, after.processes}, {"descriptors of daemon and engine", before.descriptors, after.descriptors},
		{"network namespaces", before.namespaces, after.namespaces}, {"mounts", before.mounts, after.mounts},
		{"cgroups", before.cgroups, after.cgroups}, {"files in the data folder", before.files, after.files},
	} {
		s.Facts = append(s.Facts, Fact{c.what, fmt.Sprintf("%d → %d", c.from, c.now), "no growth"})
	}
	s.Facts = append(s.Facts,
		Fact{"resident memory of daemon and engine", mib(before.resident) + " → " + mib(after.resident), "no growth"},
		Fact{"rate", fmt.Sprintf("%.1f sandboxes a second", float64(n)/took.Seconds()), ""})
	return s, nil
}
