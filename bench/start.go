package bench

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"silica.dev/silica/api"
)

// start is one sandbox from the request to its first command's answer.
type start struct {
	id    string
	took  time.Duration
	path  string // boot_path
	cause error
}

// begin creates a sandbox and runs one command in it.
func (t target) begin(ctx context.Context) start {
	begun := time.Now()
	sb, err := t.client.Create(ctx, api.CreateSandbox{TimeoutSec: 900})
	if err != nil {
		return start{cause: fmt.Errorf("create: %w", err)}
	}
	s := start{id: sb.ID}
	if !sb.Ready {
		if sb, err = t.client.WaitUntilReady(ctx, s.id); err != nil {
			s.cause = err
			return s
		}
	}
	res, err := t.client.Exec(ctx, s.id, api.ExecRequest{Command: "true"})
	s.took = time.Since(begun)
	switch {
	case err != nil:
		s.cause = fmt.Errorf("exec: %w", err)
	case res.ExitCode != 0:
		s.cause = fmt.Errorf("exec: exit code %d", res.ExitCode)
	case sb.BootPath != nil:
		s.path = *sb.BootPath
	}
	return s
}

func (t target) end(ctx context.Context, id string) {
	if id != "" {
		_, _ = t.client.Delete(context.WithoutCancel(ctx), id)
	}
}

// oneByOne starts n sandboxes, the next when the last is gone. The pause lets
// whatever the server keeps ready be made anew, as it would be between the
// requests of one caller.
func (t target) oneByOne(ctx context.Context, n int, pause time.Duration) []start {
	var all []start
	for i := 0; i < n && ctx.Err() == nil; i++ {
		s := t.begin(ctx)
		t.end(ctx, s.id)
		all = append(all, s)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
	}
	return all
}

// atOnce starts n sandboxes together and ends them when all have answered.
func (t target) atOnce(ctx context.Context, n, times int, pause time.Duration) []start {
	var all []start
	for i := 0; i < times && ctx.Err() == nil; i++ {
		batch := make([]start, n)
		var wg sync.WaitGroup
		for i := range batch {
			wg.Go(func() { batch[i] = t.begin(ctx) })
		}
		wg.Wait()
		t.endAll(ctx, batch)
		all = append(all, batch...)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
	}
	return all
}

func (t target) endAll(ctx context.Context, batch []start) {
	var wg sync.WaitGroup
	for _, s := range batch {
		wg.Go(func() { t.end(ctx, s.id) })
	}
	wg.Wait()
}

// row sums up starts and says which paths they took.
func row(what, goal string, all []start) (Row, error) {
	var took []time.Duration
	paths := map[string]int{}
	var causes []error
	for _, s := range all {
		if s.cause != nil {
			causes = append(causes, s.cause)
			continue
		}
		took = append(took, s.took)
		paths[s.path]++
	}
	if len(took) == 0 {
		return Row{}, fmt.Errorf("%s: every start failed: %w", what, errors.Join(causes[:min(3, len(causes))]...))
	}
	var said []string
	for _, p := range slices.Sorted(maps.Keys(paths)) {
		said = append(said, fmt.Sprintf("%d %s", paths[p], p))
	}
	return Row{What: what + " (" + strings.Join(said, ", ") + ")", Goal: goal, Stats: summarise(took, len(causes))}, nil
}

func (t target) startsFromPool(ctx context.Context) (Section, error) {
	return t.starts(ctx, "Create to first command: warm pool", "p50 ≤ 15 ms, p95 ≤ 30 ms", t.Refill)
}

func (t target) startsFromSlots(ctx context.Context) (Section, error) {
	return t.starts(ctx, "Create to first command: no warm pool, empty sentries ready", "p50 ≤ 55 ms, p95 ≤ 100 ms", t.Refill)
}

func (t target) startsFromNothing(ctx context.Context) (Section, error) {
	return t.starts(ctx, "Create to first command: nothing ready", "", 0)
}

func (t target) startsAsConfigured(ctx context.Context) (Section, error) {
	return t.starts(ctx, "Create to first command: as this server is configured", "", t.Refill)
}

func (t target) starts(ctx context.Context, title, goal string, pause time.Duration) (Section, error) {
	s := Section{Title: title, Note: "From the create request to the answer of its first command (true), over HTTP. In brackets: boot_path and how often."}
	if pause > 0 {
		s.Note += fmt.Sprintf(" %s between two, for what is kept ready to be made anew.", pause)
	}
	t.oneByOne(ctx, 3, pause) // connections, caches
	for _, m := range []struct {
		what, goal string
		all        func() []start
	}{
		{"one at a time", goal, func() []start { return t.oneByOne(ctx, t.rounds(100), pause) }},
		{"10 at once", "all succeed; p95 ≤ 10 × single p50", func() []start { return t.atOnce(ctx, 10, t.rounds(20), 10*pause) }},
		{"50 at once", "all succeed", func() []start { return t.atOnce(ctx, 50, t.rounds(20)/5+1, 10*pause) }},
	} {
		r, err := row(m.what, m.goal, m.all())
		if err != nil {
			return s, err
		}
		s.Rows = append(s.Rows, r)
	}
	return s, ctx.Err()
}
