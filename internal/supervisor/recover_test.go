package supervisor

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"silica.dev/silica/internal/event"
	driver "silica.dev/silica/internal/runtime"
	"silica.dev/silica/internal/runtime/runtimetest"
	"silica.dev/silica/internal/store"
	"silica.dev/silica/sandbox"
)

func TestRunningSandboxesAreAdopted(t *testing.T) {
	m := newMachine(t, Config{WarmPool: 1})
	m.warm(1)
	sb := m.create(m.a, sandbox.CreateRequest{Env: map[string]string{"A": "1"}})
	member := m.warm(1)[0]
	if _, err := m.echo(m.a, sb.ID, "echo kept > /root/f"); err != nil {
		t.Fatal(err)
	}
	m.restart()
	if got := m.get(m.a, sb.ID); got.State != sandbox.Running || !got.Ready || !got.StartedAt.Equal(sb.StartedAt) {
		t.Errorf("after a restart: %+v", got)
	}
	if got, err := m.echo(m.a, sb.ID, "cat /root/f; echo $A"); err != nil || got != "kept\n1\n" {
		t.Errorf("inside: %q, %v", got, err)
	}
	if got := m.warm(1)[0]; got != member {
		t.Errorf("the pool's member is %s, want the adopted %s", got, member)
	}
	if err := m.fake.Kill(sb.ID, driver.Exit{Reason: "crash"}); err != nil {
		t.Fatal(err)
	}
	m.eventually("the death of an adopted one is noticed", func() bool { return m.get(m.a, sb.ID).State == sandbox.Failed })
}

func TestRebootLosesSandboxesWithAReason(t *testing.T) {
	m := newMachine(t, Config{WarmPool: 1})
	m.warm(1)
	sb := m.create(m.a, sandbox.CreateRequest{})
	m.warm(1)
	m.Close()
	m.fake.Reboot()
	m.restart()
	got := m.get(m.a, sb.ID)
	if got.State != sandbox.Failed || got.Reason != lostWhileDown {
		t.Errorf("after a reboot: %+v", got)
	}
	if got := m.history(sb.ID); !slices.Equal(got[len(got)-2:], []string{sandbox.CodeSandboxGone, "error"}) {
		t.Errorf("events: %v", got)
	}
	m.warm(1)
}

func TestWhatWasHalfDoneIsFinished(t *testing.T) {
	onBoth(t, func(t *testing.T, rows store.Config) {
		m := newMachineOn(t, Config{CreateWait: time.Millisecond, DestroyWait: time.Millisecond}, rows)
		gone := make(chan struct{})
		hang := func() error { <-gone; return context.Canceled }
		doomed := m.create(m.a, sandbox.CreateRequest{})
		m.eventually("it runs", func() bool { return m.get(m.a, doomed.ID).State == sandbox.Running })
		m.fake.Set(runtimetest.Knobs{
			Start:   func(context.Context, driver.StartRequest) error { return hang() },
			Destroy: func(context.Context, sandbox.ID) error { return hang() },
		})
		starting := m.create(m.a, sandbox.CreateRequest{})
		m.eventually("the start is under way", func() bool { return slices.Contains(m.onHost(), starting.ID) })
		if _, err := m.Destroy(m.ctx, m.a, string(doomed.ID)); err != nil {
			t.Fatal(err)
		}
		stray := sandbox.NewID()
		m.endLife(errClosing) // nobody hears of what the crash cuts short:
		m.fake.Crash()        // a start half made, a destroy undone
		close(gone)
		m.down()
		m.fake = m.fake.Reopen()
		if err := m.fake.Start(m.ctx, startRequest(stray, "")); err != nil {
			t.Fatal(err)
		}
		m.openDB()
		m.up()
		if got, err := m.Ready(m.ctx, m.a, string(starting.ID)); err != nil || got.State != sandbox.Running || !got.Ready {
			t.Errorf("the start cut short: %+v, %v", got, err)
		}
		m.eventually("only it is on the host", func() bool { return slices.Equal(m.onHost(), []sandbox.ID{starting.ID}) })
	})
}

func TestExpiryWhileDown(t *testing.T) {
	m := newMachine(t, Config{})
	sb := m.create(m.a, sandbox.CreateRequest{Timeout: time.Second})
	m.Close()
	m.eventually("its time passes", func() bool { return time.Now().After(sb.Deadline()) })
	m.restart()
	m.eventually("it is ended", func() bool { return m.get(m.a, sb.ID).State == sandbox.Destroyed })
	if got := m.get(m.a, sb.ID); got.Reason != "timeout" {
		t.Errorf("expired while down: %+v", got)
	}
	m.nothingOnHost()
}

func TestRecoverDoesNotWaitForASilentAgent(t *testing.T) {
	m := newMachine(t, Config{AdoptWait: 20 * time.Millisecond, InitTimeout: 200 * time.Millisecond})
	ok, silent := m.create(m.a, sandbox.CreateRequest{}), m.create(m.a, sandbox.CreateRequest{})
	if _, err := m.echo(m.a, silent.ID, "echo kept > /root/f"); err != nil {
		t.Fatal(err)
	}
	resume := m.fake.Agent(silent.ID).Hang()
	m.cfg.CreateWait = 10 * time.Millisecond
	begin := time.Now()
	m.restart()
	if d := time.Since(begin); d > 2*time.Second {
		t.Errorf("Recover took %v", d)
	}
	m.eventually("the one that answers is adopted", func() bool {
		_, err := m.echo(m.a, ok.ID, "true")
		return err == nil
	})
	// Asked twice in vain by then.
	m.eventually("its agent had time enough", func() bool { return time.Since(begin) > adoptPause+2*m.cfg.InitTimeout })
	if got := m.get(m.a, silent.ID); got.State != sandbox.Running {
		t.Fatalf("silent but alive: %+v", got)
	}
	if _, _, _, err := m.Guest(m.ctx, m.a, string(silent.ID)); code(err) != sandbox.CodeNotRunning {
		t.Errorf("Guest meanwhile = %v, want %s", err, sandbox.CodeNotRunning)
	}
	resume()
	m.eventually("it is adopted when it answers", func() bool {
		got, err := m.echo(m.a, silent.ID, "cat /root/f")
		return err == nil && got == "kept\n"
	})
	if err := m.fake.Kill(silent.ID, driver.Exit{Reason: "crash"}); err != nil {
		t.Fatal(err)
	}
	m.eventually("its death is noticed", func() bool { return m.get(m.a, silent.ID).Reason == "crash" })
}

func TestEndsOfASilentSandbox(t *testing.T) {
	end := map[string]struct {
		req    sandbox.CreateRequest
		by     func(*machine, sandbox.ID) error
		state  sandbox.State
		reason []string // one of them
	}{
		"death": {
			by: func(m *machine, id sandbox.ID) error {
				return m.fake.Kill(id, driver.Exit{Reason: "crash"})
			},
			// The dying agent of the fake may let go of what it held back.
			state: sandbox.Failed, reason: []string{lostWhileDown, "crash"},
		},
		"deadline": {
			req:   sandbox.CreateRequest{Timeout: 2 * time.Second},
			state: sandbox.Destroyed, reason: []string{reasonTimeout},
		},
		"destroy": {
			by: func(m *machine, id sandbox.ID) error {
				_, err := m.Destroy(m.ctx, m.a, string(id))
				return err
			},
			state: sandbox.Destroyed, reason: []string{""},
		},
	}
	for name, tc := range end {
		t.Run(name, func(t *testing.T) {
			// Whether between two questions or waiting for an answer.
			for _, patient := range []time.Duration{20 * time.Millisecond, patience} {
				m := newMachine(t, Config{AdoptWait: 50 * time.Millisecond, InitTimeout: patience})
				sb := m.create(m.a, tc.req)
				m.fake.Agent(sb.ID).Hang()
				m.cfg.InitTimeout = patient
				m.restart()
				if tc.by != nil {
					if got := m.get(m.a, sb.ID); got.State != sandbox.Running {
						t.Errorf("silent but alive: %+v", got)
					}
					if err := tc.by(m, sb.ID); err != nil {
						t.Fatal(err)
					}
				}
				begin := time.Now()
				m.eventually("it has ended", func() bool { return m.get(m.a, sb.ID).State != sandbox.Running })
				if d := time.Since(begin); d > patience/2 {
					t.Errorf("ended after %v only", d)
				}
				if got := m.get(m.a, sb.ID); got.State != tc.state || !slices.Contains(tc.reason, got.Reason) {
					t.Errorf("at its end: %+v", got)
				}
				m.nothingOnHost()
			}
		})
	}
}

func TestRecoverIsQuick(t *testing.T) {
	m := newMachine(t, Config{})
	for range 50 {
		m.create(m.a, sandbox.CreateRequest{})
	}
	m.down()
	m.fake = m.fake.Reopen()
	begin := time.Now()
	m.openDB()
	m.up()
	if d := time.Since(begin); d > 2*time.Second {
		t.Errorf("ready after %v with 50 sandboxes", d)
	}
	list, err := m.List(m.ctx, m.a, sandbox.Filter{States: []sandbox.State{sandbox.Running}})
	if err != nil || list.Total != 50 {
		t.Errorf("%d run, %v", list.Total, err)
	}
}

func TestHostThatCanNotBeListedStopsRecover(t *testing.T) {
	m := newMachine(t, Config{})
	m.Close()
	m.fake.Crash()
	s := New(m.cfg, m.deps(m.db))
	defer s.Close()
	if err := s.Recover(m.ctx); err == nil {
		t.Error("Recover succeeded without a driver")
	}
	if _, err := s.Create(m.ctx, m.a, sandbox.CreateRequest{}); code(err) != sandbox.CodeUnavailable {
		t.Errorf("Create before Recover = %v", err)
	}
}

func TestWritesThatFailAreRepeated(t *testing.T) {
	m := newMachine(t, Config{})
	m.Close()
	full := sandbox.E(sandbox.Unavailable, sandbox.CodeHostFull, "the server's disk is full")
	st := &faultyStore{Store: m.db, moves: runtimetest.Times(2, full)}
	m.Supervisor = New(m.cfg, m.deps(st))
	if err := m.Recover(m.ctx); err != nil {
		t.Fatal(err)
	}
	if sb := m.create(m.a, sandbox.CreateRequest{}); sb.State != sandbox.Running {
		t.Errorf("Create while the disk was full for a moment: %+v", sb)
	}
}

// faultyStore fails some moves before they happen.
type faultyStore struct {
	Store
	moves func() error
}

func (f *faultyStore) Move(ctx context.Context, id sandbox.ID, from, to sandbox.State, change func(*sandbox.Sandbox), events ...event.Event) (sandbox.Sandbox, error) {
	if err := f.moves(); err != nil {
		return sandbox.Sandbox{}, err
	}
	return f.Store.Move(ctx, id, from, to, change, events...)
}

var errPower = errors.New("the power is out")
