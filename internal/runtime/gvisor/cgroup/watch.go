package cgroup

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"silica.dev/silica/sandbox"
)

const (
	actTimeout  = 3 * time.Second        // for one call of the callback
	settleFor   = 500 * time.Millisecond // to let what it did take effect
	settleMost  = 3 * time.Second        // while it does
	settleStep  = 10 * time.Millisecond
	falling     = 1 << 20 // bytes less that show an effect
	maxAttempts = 8
	maxRaise    = 3 // reserves added while the callback acts
	// recheck is how often a group above its line is looked at where the
	// kernel reports only crossings.
	recheck = 250 * time.Millisecond
	// lookAtMost bounds what a group that swings around its line costs us.
	lookAtMost = 5 * time.Millisecond
)

// Pressure says how near to its end a group's memory is, in bytes.
type Pressure struct {
	Used    int64 // without what the kernel can take back
	Line    int64 // what it may use
	Hard    int64 // where the kernel acts
	Stopped bool  // tasks that need memory stand still (v1)
	Attempt int   // 1, 2, …: calls in a row that have not helped
}

// Decision is what a callback made of it.
type Decision int

const (
	// Acted says something was killed or freed: look again.
	Acted Decision = iota
	// GiveUp says nothing can be done: the kernel shall kill.
	GiveUp
)

// alarm reports that a group's memory deserves a look.
type alarm struct {
	wake  <-chan struct{}
	close func() // stops and waits for what feeds wake
}

// Watch calls act each time a group uses more than its line, at most eight
// times in a row, then leaves the group to the kernel until it is below again. act's
// ctx ends after three seconds; it must obey it. Watch returns nil when the group is
// gone and ctx's error when stopped, leaving the kernel in charge. One Watch a name
// at a time; one started after a crash takes over what the last one left.
func (g *Groups) Watch(ctx context.Context, name string, act func(context.Context, Pressure) Decision) error {
	if err := check(name); err != nil {
		return err
	}
	poke := make(chan struct{}, 1)
	g.mu.Lock()
	if g.pokes[name] != nil {
		g.mu.Unlock()
		return sandbox.E(sandbox.Conflict, sandbox.CodeConflict, "cgroup "+name+" is watched already")
	}
	g.pokes[name] = poke
	g.mu.Unlock()
	defer func() {
		g.mu.Lock()
		delete(g.pokes, name)
		g.mu.Unlock()
	}()

	w := &watcher{tree: g.tree, name: name, act: act, poke: poke}
	err := w.run(ctx)
	if gone(err) {
		return nil
	}
	if err != nil && ctx.Err() == nil {
		err = fmt.Errorf("watch cgroup %s: %w", name, err)
	}
	return err
}

type watcher struct {
	tree tree
	name string
	act  func(context.Context, Pressure) Decision
	poke <-chan struct{}

	alarm    *alarm
	line     int64 // the alarm is set for
	attempts int   // in a row
	raised   int
	gaveUp   bool
}

func (w *watcher) run(ctx context.Context) error {
	defer func() {
		if w.alarm != nil {
			w.alarm.close()
		}
		_ = w.tree.disarm(w.name) // gone, or stays finite
	}()
	for {
		m, err := w.tree.memory(w.name)
		if err != nil {
			return err
		}
		if m.line > 1<<60 {
			return sandbox.Field("memory", "a group without a memory limit can't be watched")
		}
		fresh, err := w.set(m)
		if err != nil {
			return err
		}
		if fresh {
			continue // what happened before the alarm was set rings no bell
		}
		switch {
		case m.over() && !w.gaveUp:
			err = w.relieve(ctx, m)
		case !m.over() && (w.attempts > 0 || w.gaveUp || w.raised > 0):
			err = w.calm(ctx)
		default:
			err = w.wait(ctx, m)
		}
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return err
		}
	}
}

// set arms the alarm, again when the line has moved, and tells whether it did.
func (w *watcher) set(m memory) (bool, error) {
	if w.alarm != nil && w.line == m.line {
		return false, nil
	}
	if w.alarm != nil {
		w.alarm.close()
		w.alarm = nil
	} else if m.limit != m.line+reserve(m.line) {
		// Left by a guard that died; calm takes it back.
		w.raised = max(1, int((m.limit-m.line)/reserve(m.line))-1)
	}
	a, err := w.tree.arm(w.name)
	if err != nil {
		return false, err
	}
	w.alarm, w.line = a, m.line
	return true, nil
}

// relieve makes one attempt to bring the use below the line.
func (w *watcher) relieve(ctx context.Context, m memory) error {
	if w.attempts == maxAttempts {
		return w.giveUp()
	}
	w.attempts++
	if w.near(m) && w.raised < maxRaise {
		// Room for the agent inside to do what act asks of it, ahead of those
		// that go on taking memory meanwhile.
		w.raised++
		if err := w.tree.raise(w.name, w.raised); err != nil && !errors.Is(err, unix.EBUSY) {
			return err // EBUSY: more is charged already than we would allow
		}
	}
	actx, cancel := context.WithTimeout(ctx, actTimeout)
	decision := w.act(actx, Pressure{
		Used: m.used(), Line: m.line, Hard: m.line + reserve(m.line),
		Stopped: m.stopped, Attempt: w.attempts,
	})
	cancel()
	if decision == GiveUp {
		return w.giveUp()
	}
	return w.settle(ctx)
}

// near tells whether the group is about to meet its hard limit, or stands there.
func (w *watcher) near(m memory) bool {
	step := reserve(m.line)
	return m.stopped || m.used() > m.line+int64(1+w.raised)*step-step/2
}

// settle waits until the use is below the line, or has not fallen for a while: a
// process that was ended gives its memory back page by page, and its neighbours
// must not be ended for what it still has.
func (w *watcher) settle(ctx context.Context) error {
	begun := time.Now()
	until, last := begun.Add(settleFor), begun.Add(settleMost)
	lowest := int64(-1)
	for now := begun; now.Before(until) && now.Before(last); now = time.Now() {
		m, err := w.tree.memory(w.name)
		if err != nil || !m.over() {
			return err
		}
		if lowest < 0 {
			lowest = m.used()
		} else if m.used() <= lowest-falling {
			lowest, until = m.used(), now.Add(settleFor)
		}
		if err := sleep(ctx, settleStep); err != nil {
			return err
		}
	}
	return nil
}

func (w *watcher) giveUp() error {
	w.gaveUp = true
	return w.tree.surrender(w.name)
}

// calm puts the limits back after trouble.
func (w *watcher) calm(ctx context.Context) error {
	err := w.tree.raise(w.name, 0)
	if errors.Is(err, unix.EBUSY) {
		return sleep(ctx, recheck) // up again meanwhile: the next look decides
	}
	if err != nil {
		return err
	}
	w.attempts, w.raised, w.gaveUp = 0, 0, false
	w.alarm.close()
	w.alarm = nil
	return nil // set arms again
}

// wait sleeps until something may have changed. Above the line, be it by file
// cache, there are no more crossings to be told of.
func (w *watcher) wait(ctx context.Context, m memory) error {
	var tick <-chan time.Time
	if m.usage > m.line || w.gaveUp {
		t := time.NewTimer(recheck)
		defer t.Stop()
		tick = t.C
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-w.alarm.wake:
	case <-w.poke:
	case <-tick:
	}
	return sleep(ctx, lookAtMost)
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
