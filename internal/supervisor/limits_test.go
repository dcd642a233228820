package supervisor

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"silica.dev/silica/internal/event"
	"silica.dev/silica/sandbox"
)

func ptr[T any](v T) *T { return &v }

func TestIdleTimeout(t *testing.T) {
	m := newMachine(t, Config{})
	idle := m.create(m.a, sandbox.CreateRequest{Idle: time.Second, Timeout: time.Hour})
	keep := m.create(m.a, sandbox.CreateRequest{Idle: time.Second, Timeout: time.Hour, Persist: true})
	always := m.create(m.a, sandbox.CreateRequest{Idle: time.Second, AlwaysOn: true})
	busy := m.create(m.a, sandbox.CreateRequest{Idle: time.Second, Timeout: time.Hour})
	work, finish := context.WithCancel(m.ctx)
	if _, _, _, err := m.Guest(work, m.a, string(busy.ID)); err != nil {
		t.Fatal(err)
	}
	m.eventually("the idle one ends", func() bool { return m.get(m.a, idle.ID).State == sandbox.Destroyed })
	m.eventually("the persistent one is paused", func() bool { return m.get(m.a, keep.ID).State == sandbox.Paused })
	if got := m.get(m.a, idle.ID); got.Reason != reasonIdle || got.DestroyedAt.Sub(got.StartedAt) < time.Second {
		t.Errorf("the idle one: %s after %v", got.Reason, got.DestroyedAt.Sub(got.StartedAt))
	}
	// Its alarm has gone off, or would have been set for the same moment.
	m.eventually("the busy one's alarm went off", func() bool { return !m.deadlines.has(busy.ID, idleLimit) })
	for _, id := range []sandbox.ID{always.ID, busy.ID} {
		if got := m.get(m.a, id); got.State != sandbox.Running {
			t.Errorf("%s is %s, want running", id, got.State)
		}
	}
	finish()
	m.eventually("the busy one ends when it is idle", func() bool { return m.get(m.a, busy.ID).State == sandbox.Destroyed })
}

func TestPatchOfLimitsCounts(t *testing.T) {
	m := newMachine(t, Config{})
	for name, ch := range map[string]sandbox.Change{
		"timeout": {Timeout: ptr(time.Second)}, "idle": {Idle: ptr(time.Second)},
	} {
		sb := m.create(m.a, sandbox.CreateRequest{Timeout: time.Hour})
		if _, err := m.Update(m.ctx, m.a, string(sb.ID), ch); err != nil {
			t.Fatal(err)
		}
		m.eventually(name+" acts", func() bool { return m.get(m.a, sb.ID).State == sandbox.Destroyed })
	}
	sb := m.create(m.a, sandbox.CreateRequest{Timeout: 1500 * time.Millisecond, Idle: time.Hour})
	if _, err := m.Update(m.ctx, m.a, string(sb.ID), sandbox.Change{AlwaysOn: ptr(true)}); err != nil {
		t.Fatal(err)
	}
	if m.deadlines.has(sb.ID, hardLimit) || m.deadlines.has(sb.ID, idleLimit) {
		t.Error("a sandbox that is always on has a deadline")
	}
}

func TestExtend(t *testing.T) {
	m := newMachine(t, Config{MaxTimeout: 2 * time.Hour})
	sb := m.create(m.a, sandbox.CreateRequest{Timeout: time.Hour})
	got, err := m.Extend(m.ctx, m.a, string(sb.ID), 0)
	if err != nil || got.Timeout != time.Hour || !got.Deadline().After(sb.Deadline()) {
		t.Errorf("extend with nothing: %v until %v (was %v), %v", got.Timeout, got.Deadline(), sb.Deadline(), err)
	}
	if got, err = m.Extend(m.ctx, m.a, string(sb.ID), 2*time.Hour); err != nil || got.Timeout != 2*time.Hour || time.Until(got.Deadline()) < 119*time.Minute {
		t.Errorf("extend by 2 h: %v until %v, %v", got.Timeout, got.Deadline(), err)
	}
	if _, err = m.Extend(m.ctx, m.a, string(sb.ID), 3*time.Hour); code(err) != sandbox.CodeValidation {
		t.Errorf("extend beyond the bound: %v", err)
	}
	m.stop(sb)
	if _, err = m.Extend(m.ctx, m.a, string(sb.ID), 0); code(err) != sandbox.CodeNotRunning {
		t.Errorf("extend of a destroyed one: %v", err)
	}
	if _, err = m.Extend(m.ctx, m.b, string(sb.ID), 0); code(err) != sandbox.CodeNotFound {
		t.Errorf("extend of another's: %v", err)
	}
}

// "two PATCHes at once"
func TestPatchesAtOnceLoseNothing(t *testing.T) {
	m := newMachine(t, Config{})
	sb := m.create(m.a, sandbox.CreateRequest{Timeout: time.Hour})
	changes := []sandbox.Change{
		{Name: ptr("n")}, {Slug: ptr("my-slug")}, {Tags: &[]string{"t"}}, {Metadata: &map[string]any{"k": "v"}},
		{AlwaysOn: ptr(true)}, {Timeout: ptr(time.Minute)}, {Idle: ptr(time.Minute)},
	}
	var all sync.WaitGroup
	for _, ch := range changes {
		all.Go(func() {
			if _, err := m.Update(m.ctx, m.a, string(sb.ID), ch); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	got := m.get(m.a, sb.ID)
	if got.Name != "n" || got.Slug != "my-slug" || !slices.Equal(got.Tags, []string{"t"}) || got.Metadata["k"] != "v" ||
		!got.AlwaysOn || got.Timeout != time.Minute || got.Idle != time.Minute {
		t.Errorf("after all: %+v", got)
	}
	events, err := m.db.EventsAfter(m.ctx, sb.ID, 0, 100)
	if err != nil {
		t.Fatal(err)
	}
	updates := 0
	for _, e := range events {
		if e.Type == event.Updated {
			updates++
		}
	}
	if updates != len(changes) {
		t.Errorf("%d events of changes, want %d", updates, len(changes))
	}
}

func TestPatchRefuses(t *testing.T) {
	m := newMachine(t, Config{MaxTimeout: time.Hour, ForbidAlwaysOn: true})
	sb := m.create(m.a, sandbox.CreateRequest{})
	other := m.create(m.a, sandbox.CreateRequest{Name: "other"})
	foreign := m.create(m.b, sandbox.CreateRequest{Name: "free"})
	for _, c := range []struct {
		ch   sandbox.Change
		want string
	}{
		{sandbox.Change{Slug: ptr("")}, sandbox.CodeValidation},
		{sandbox.Change{Slug: ptr("Big")}, sandbox.CodeValidation},
		{sandbox.Change{Slug: ptr("-a")}, sandbox.CodeValidation},
		{sandbox.Change{Slug: ptr("a.b")}, sandbox.CodeValidation},
		{sandbox.Change{Slug: ptr("8080-a")}, sandbox.CodeValidation},
		{sandbox.Change{Slug: ptr(other.Slug)}, sandbox.CodeConflict},
		{sandbox.Change{Slug: ptr(foreign.Slug)}, sandbox.CodeConflict},
		{sandbox.Change{Slug: ptr("other")}, sandbox.CodeConflict}, // a name that would be hidden
		{sandbox.Change{Name: ptr("other")}, sandbox.CodeConflict},
		{sandbox.Change{Name: ptr(other.Slug)}, sandbox.CodeConflict},
		{sandbox.Change{Name: ptr(string(other.ID))}, sandbox.CodeConflict},
		{sandbox.Change{Timeout: ptr(2 * time.Hour)}, sandbox.CodeValidation},
		{sandbox.Change{AlwaysOn: ptr(true)}, sandbox.CodeValidation},
		{sandbox.Change{Name: ptr("free"), Slug: ptr("a8080-1")}, ""},
		{sandbox.Change{Name: ptr("")}, ""},
	} {
		if _, err := m.Update(m.ctx, m.a, string(sb.ID), c.ch); code(err) != c.want {
			t.Errorf("%s: got %v, want %q", describe(c.ch), err, c.want)
		}
	}
	m.stop(other)
	if _, err := m.Update(m.ctx, m.a, string(other.ID), sandbox.Change{Name: ptr("x")}); code(err) != sandbox.CodeNotRunning {
		t.Errorf("PATCH of a destroyed one: %v", err)
	}
	// Its name is free again.
	if _, err := m.Update(m.ctx, m.a, string(sb.ID), sandbox.Change{Name: ptr("other")}); err != nil {
		t.Errorf("the name of a destroyed one: %v", err)
	}
}

func describe(ch sandbox.Change) string {
	s := fmt.Sprint(ch.Fields())
	if ch.Name != nil {
		s += " name " + *ch.Name
	}
	if ch.Slug != nil {
		s += " slug " + *ch.Slug
	}
	return s
}

// "clock jumps": an alarm counts by the monotonic clock, and follows the row by
// as much as the row's own deadline moves.
func TestClockJumps(t *testing.T) {
	d := newDeadlines()
	sb := sandbox.Sandbox{ID: sandbox.NewID(), StartedAt: time.Now(), Timeout: time.Minute}
	armed := func(sb sandbox.Sandbox, jump time.Duration) time.Duration {
		// What arm does, with a wall clock that has jumped.
		d.move(alarm{id: sb.ID, kind: hardLimit, row: sb.Deadline(), since: sb.LimitSince()}, min(time.Until(sb.Deadline())-jump, sb.Timeout))
		return time.Until(d.byKey[alarmKey{sb.ID, hardLimit}].at).Round(time.Second)
	}
	if got := armed(sb, 0); got != time.Minute {
		t.Errorf("at first: %v", got)
	}
	for _, jump := range []time.Duration{time.Hour, -time.Hour} {
		if got := armed(sb, jump); got != time.Minute {
			t.Errorf("after a jump of %v: %v, want a minute", jump, got)
		}
		longer := sb
		longer.Timeout = 2 * time.Minute
		if got := armed(longer, jump); got != 2*time.Minute {
			t.Errorf("a longer timeout after a jump of %v: %v, want 2 minutes", jump, got)
		}
		if got := armed(sb, jump); got != time.Minute {
			t.Errorf("back after a jump of %v: %v, want a minute", jump, got)
		}
	}
	// A daemon that begins after the clock was set back an hour.
	d = newDeadlines()
	if got := armed(sb, -time.Hour); got != time.Minute {
		t.Errorf("a new daemon: %v, want no more than the timeout", got)
	}
}
