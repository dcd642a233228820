package supervisor

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	driver "silica.dev/silica/internal/runtime"
	"silica.dev/silica/internal/runtime/runtimetest"
	"silica.dev/silica/internal/store"
	"silica.dev/silica/sandbox"
)

func TestPoolMemberIsClaimedAndReplaced(t *testing.T) {
	m := newMachine(t, Config{WarmPool: 2, EmptySlots: 3})
	members := m.warm(2)
	if list, err := m.List(m.ctx, m.a, sandbox.Filter{}); err != nil || list.Total != 0 {
		t.Errorf("a tenant sees the pool: %v, %v", list, err)
	}
	sb := m.create(m.a, sandbox.CreateRequest{Env: map[string]string{"A": "1"}})
	if !slices.Contains(members, sb.ID) || sb.BootPath != sandbox.BootPool || !sb.Ready || sb.State != sandbox.Running {
		t.Fatalf("Create = %+v, members %v", sb, members)
	}
	if got, err := m.echo(m.a, sb.ID, "echo $A; hostname"); err != nil || got != "1\n"+sb.Slug+"\n" {
		t.Errorf("inside: %q, %v", got, err)
	}
	if got := m.history(sb.ID); !slices.Equal(got, []string{"running"}) {
		t.Errorf("events: %v", got)
	}
	if next := m.warm(2); slices.Contains(next, sb.ID) {
		t.Errorf("the claimed one is still in the pool: %v", next)
	}
	other := m.create(m.a, sandbox.CreateRequest{Resources: sandbox.Resources{MilliCPU: 2000}})
	if other.BootPath == sandbox.BootPool {
		t.Errorf("a member of another size was claimed")
	}
	if got := m.fake.Prepared(); !slices.Equal(got, []int{3}) {
		t.Errorf("slots asked for: %v", got)
	}
}

func TestSilentMemberIsStartedAnewUnderItsClaim(t *testing.T) {
	m := newMachine(t, Config{WarmPool: 1, InitTimeout: 50 * time.Millisecond})
	id := m.warm(1)[0]
	m.fake.Agent(id).Hang()
	sb := m.create(m.a, sandbox.CreateRequest{})
	if sb.ID != id || sb.State != sandbox.Running || !sb.Ready || sb.BootPath != sandbox.BootSnapshot {
		t.Errorf("Create = %+v, want the claim of %s to stand", sb, id)
	}
	if got, err := m.echo(m.a, id, "echo on"); err != nil || got != "on\n" {
		t.Errorf("inside: %q, %v", got, err)
	}
	// Its new life is watched, too.
	if err := m.fake.Kill(id, driver.Exit{Reason: "crash"}); err != nil {
		t.Fatal(err)
	}
	m.eventually("its death is noticed", func() bool { return m.get(m.a, id).State == sandbox.Failed })
}

func TestDeadMemberIsReplaced(t *testing.T) {
	m := newMachine(t, Config{WarmPool: 1})
	id := m.warm(1)[0]
	if err := m.fake.Kill(id, driver.Exit{Reason: "crash"}); err != nil {
		t.Fatal(err)
	}
	m.eventually("another member", func() bool {
		rows, err := m.db.Warm(m.ctx)
		return err == nil && len(rows) == 1 && rows[0].ID != id && !slices.Contains(m.onHost(), id)
	})
}

func TestMembersOfAnOldRevisionGo(t *testing.T) {
	m := newMachine(t, Config{WarmPool: 2})
	old := m.warm(2)
	m.template("r2")
	m.TemplateChanged()
	m.eventually("only new members", func() bool {
		rows, err := m.db.Warm(m.ctx)
		return err == nil && len(rows) == 2 && rows[0].Spec.Revision == "r2" && rows[1].Spec.Revision == "r2"
	})
	m.eventually("the old ones are gone", func() bool {
		return !slices.ContainsFunc(m.onHost(), func(id sandbox.ID) bool { return slices.Contains(old, id) })
	})
}

func TestPoolWaitsForASnapshot(t *testing.T) {
	m := bareMachine(t, Config{WarmPool: 1})
	m.a = m.tenant("a")
	tpl := sandbox.Template{Slug: "base", Revision: "r0", Image: runtimetest.Image("r0")}
	if err := m.db.SaveTemplate(m.ctx, tpl); err != nil {
		t.Fatal(err)
	}
	m.up()
	m.eventually("a snapshot is asked for", func() bool { return m.builds.asked() > 0 })
	if ids := m.onHost(); len(ids) != 0 {
		t.Errorf("the pool was filled without a snapshot: %v", ids)
	}
	m.template("r1")
	m.TemplateChanged()
	m.warm(1)
}

func TestFullHostTakesNoSandboxAndFillsNoPool(t *testing.T) {
	m := bareMachine(t, Config{WarmPool: 1, EmptySlots: 2})
	m.a = m.tenant("a")
	m.template("r1")
	m.host.full.Store(true)
	starts := len(m.fake.Starts())
	m.up()
	m.eventually("the pool's keeper asks for room", m.host.asked.Load)
	if _, err := m.Create(m.ctx, m.a, sandbox.CreateRequest{}); code(err) != sandbox.CodeHostFull || !isKind(err, sandbox.Unavailable) {
		t.Errorf("Create on a full host = %v", err)
	}
	if rows, err := m.db.Unfreed(m.ctx); err != nil || len(rows) != 0 || len(m.fake.Starts()) != starts || len(m.fake.Prepared()) != 0 {
		t.Errorf("a full host took %v, starts %v, slots %v (%v)", rows, m.fake.Starts(), m.fake.Prepared(), err)
	}
	m.host.full.Store(false)
	m.wakePool()
	m.warm(1)
	m.create(m.a, sandbox.CreateRequest{})
}

func TestPoolFailureDoesNotStopIt(t *testing.T) {
	m := bareMachine(t, Config{WarmPool: 1})
	m.template("r1")
	fails := runtimetest.Times(1, errors.New("no slot"))
	m.fake.Set(runtimetest.Knobs{Start: func(context.Context, driver.StartRequest) error { return fails() }})
	m.up()
	m.warm(1)
	if ids := m.onHost(); len(ids) != 1 {
		t.Errorf("on the host: %v", ids)
	}
}

func TestTwoTenantsNeverGetOneMember(t *testing.T) {
	onBoth(t, func(t *testing.T, rows store.Config) {
		m := newMachineOn(t, Config{WarmPool: 3}, rows)
		m.warm(3)
		var mu sync.Mutex
		owner := map[sandbox.ID]sandbox.TenantID{}
		var wg sync.WaitGroup
		for i := range 20 {
			c := []sandbox.Caller{m.a, m.b}[i%2]
			wg.Go(func() {
				sb, err := m.Create(m.ctx, c, sandbox.CreateRequest{})
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				defer mu.Unlock()
				if owner[sb.ID] != "" || sb.Tenant != c.Tenant {
					t.Errorf("%s went to %s and %s", sb.ID, owner[sb.ID], c.Tenant)
				}
				owner[sb.ID] = c.Tenant
			})
		}
		wg.Wait()
	})
}

func TestDrain(t *testing.T) {
	m := newMachine(t, Config{WarmPool: 2})
	m.warm(2)
	sb := m.create(m.a, sandbox.CreateRequest{})
	if _, _, err := m.Drain(m.ctx, 0); err != nil {
		t.Fatal(err)
	}
	m.nothingOnHost()
	if got := m.get(m.a, sb.ID); got.State != sandbox.Destroyed || got.Reason != "drained" {
		t.Errorf("after Drain: %+v", got)
	}
	if _, err := m.Create(m.ctx, m.a, sandbox.CreateRequest{}); code(err) != sandbox.CodeDraining {
		t.Errorf("Create while draining = %v", err)
	}
}

func TestDrainGivesGrace(t *testing.T) {
	m := newMachine(t, Config{})
	sb := m.create(m.a, sandbox.CreateRequest{})
	drained := make(chan error, 1)
	go func() {
		_, _, err := m.Drain(m.ctx, patience)
		drained <- err
	}()
	m.eventually("it drains", func() bool { return code(m.open()) == sandbox.CodeDraining })
	if _, err := m.Destroy(m.ctx, m.a, string(sb.ID)); err != nil {
		t.Fatal(err)
	}
	if err := <-drained; err != nil {
		t.Errorf("Drain = %v", err)
	}
	if got := m.get(m.a, sb.ID); got.Reason != "" {
		t.Errorf("it was destroyed for us: %+v", got)
	}
}

func TestQueueIsFairAndTellsWhenIdle(t *testing.T) {
	q := newQueue(1)
	ctx := context.Background()
	leave, err := q.enter(ctx)
	if err != nil {
		t.Fatal(err)
	}
	select {
	case <-q.quiet():
		t.Error("it is quiet while one is in")
	default:
	}
	cancelled, cancel := context.WithCancel(ctx)
	gaveUp := make(chan error, 1)
	inLine := func(n int) {
		for {
			q.mu.Lock()
			l := len(q.line)
			q.mu.Unlock()
			if l == n {
				return
			}
			time.Sleep(time.Millisecond)
		}
	}
	go func() { _, err := q.enter(cancelled); gaveUp <- err }()
	inLine(1)
	order := make(chan int, 3)
	var wg sync.WaitGroup
	for i := range 3 {
		wg.Go(func() {
			leave, err := q.enter(ctx)
			if err != nil {
				t.Error(err)
				return
			}
			order <- i
			leave()
		})
		inLine(2 + i)
	}
	cancel()
	if err := <-gaveUp; !errors.Is(err, context.Canceled) {
		t.Errorf("who gave up got %v", err)
	}
	leave()
	wg.Wait()
	for want := range 3 {
		if got := <-order; got != want {
			t.Errorf("place %d went to %d", want, got)
		}
	}
	<-q.quiet()
}
