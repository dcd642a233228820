package supervisor

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
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

// "evict idle pool members when the host is full": what stands ready is no reason to
// refuse a tenant, and a member that fits is taken though nothing else would fit.
func TestPoolMakesWay(t *testing.T) {
	m := newMachine(t, Config{WarmPool: 2})
	members := m.warm(2)
	m.host.full.Store(true)
	sb := m.create(m.a, sandbox.CreateRequest{})
	if sb.BootPath != sandbox.BootPool {
		t.Errorf("the member that was ready was not taken: %s", sb.BootPath)
	}
	other := members[slices.IndexFunc(members, func(id sandbox.ID) bool { return id != sb.ID })]
	stop := make(chan struct{})
	var host sync.WaitGroup
	host.Go(func() {
		for slices.Contains(m.onHost(), other) {
			select {
			case <-stop:
				return
			case <-time.After(time.Millisecond):
			}
		}
		m.host.full.Store(false)
	})
	sb, err := m.Create(m.ctx, m.a, sandbox.CreateRequest{Resources: sandbox.Resources{Memory: 2 * sb.Spec.Memory}})
	close(stop)
	host.Wait()
	if err != nil || sb.State != sandbox.Running || sb.BootPath == sandbox.BootPool {
		t.Errorf("another size, once the other member has made way: %s by %s, %v", sb.State, sb.BootPath, err)
	}
}

// sized gives the pools of templates their sizes, by slug.
func sized(sizes map[string]sandbox.PoolSize) func(*sandbox.Template) {
	return func(t *sandbox.Template) { t.Pool = sizes[t.Slug] }
}

// pooled counts the members of each template.
func (m *machine) pooled() map[string]int {
	m.t.Helper()
	rows, err := m.db.Warm(m.ctx)
	if err != nil {
		m.t.Fatal(err)
	}
	n := map[string]int{}
	for _, sb := range rows {
		n[sb.Spec.Template]++
	}
	return n
}

func TestEveryTemplateHasItsPool(t *testing.T) {
	m := bareMachine(t, Config{WarmPool: 1})
	m.a = m.tenant("a")
	m.template("r1")
	m.templateOf("web", "r7")
	m.templateOf("none", "r8")
	m.describe = sized(map[string]sandbox.PoolSize{"web": {MinIdle: 2, MaxIdle: 2}})
	m.up()
	m.eventually("each has its members", func() bool { return maps.Equal(m.pooled(), map[string]int{"base": 1, "web": 2}) })
	sb := m.create(m.a, sandbox.CreateRequest{Template: "web"})
	if sb.BootPath != sandbox.BootPool || sb.Spec.Template != "web" || sb.Spec.Revision != "r7" {
		t.Errorf("got %+v", sb)
	}
	if sb := m.create(m.a, sandbox.CreateRequest{Template: "none"}); sb.BootPath == sandbox.BootPool {
		t.Errorf("%s was claimed for a template without a pool", sb.ID)
	}
	m.eventually("the claimed one is replaced", func() bool { return m.pooled()["web"] == 2 })
	m.templateOf("web", "r9")
	m.TemplateChanged()
	m.eventually("members of the new revision only", func() bool {
		rows, err := m.db.Warm(m.ctx)
		return err == nil && len(rows) == 3 && !slices.ContainsFunc(rows, func(sb sandbox.Sandbox) bool { return sb.Spec.Revision == "r7" })
	})
	if got := m.get(m.a, sb.ID); got.State != sandbox.Running {
		t.Errorf("a claimed one is %s by a new revision", got.State)
	}
	if _, _, err := m.Drain(m.ctx, 0); err != nil {
		t.Fatal(err)
	}
	m.nothingOnHost()
}

func TestPoolGoesWithItsTemplate(t *testing.T) {
	m := bareMachine(t, Config{WarmPool: 1})
	m.template("r1")
	m.templateOf("web", "r1")
	var gone atomic.Bool
	m.describe = func(t *sandbox.Template) {
		if t.Slug == "web" {
			t.Pool = sandbox.PoolSize{MinIdle: 2, MaxIdle: 4}
			if gone.Load() {
				t.DeletedAt = now()
			}
		}
	}
	m.up()
	m.eventually("each has its members", func() bool { return maps.Equal(m.pooled(), map[string]int{"base": 1, "web": 2}) })
	gone.Store(true)
	m.TemplateChanged()
	m.eventually("the pool is drained", func() bool { return maps.Equal(m.pooled(), map[string]int{"base": 1}) && len(m.onHost()) == 1 })
}

func TestPoolGrowsWithDemandAndShrinksBack(t *testing.T) {
	m := bareMachine(t, Config{})
	m.a = m.tenant("a")
	m.template("r1")
	m.describe = sized(map[string]sandbox.PoolSize{"base": {MinIdle: 1, MaxIdle: 3}})
	m.up()
	m.warm(1)
	for range 5 {
		m.create(m.a, sandbox.CreateRequest{})
	}
	m.warm(3)
	m.create(m.a, sandbox.CreateRequest{Resources: sandbox.Resources{MilliCPU: 2000}}) // no claim for this pool
	m.demand.mu.Lock()
	if n := m.demand.asked["base"].n; n > 5 {
		t.Errorf("another size counts as demand: %v", n)
	}
	m.demand.asked["base"] = fading{5, time.Now().Add(-10 * demandFades)} // a while later
	m.demand.mu.Unlock()
	m.wakePool()
	m.warm(1)
	m.eventually("the others are gone", func() bool { return len(m.onHost()) == 7 })
}

func TestDemandFades(t *testing.T) {
	d, at := newDemand(), time.Unix(1e9, 0)
	for range 10 {
		d.note("t", at)
	}
	for _, c := range []struct {
		after time.Duration
		want  int
	}{{0, 10}, {demandFades, 4}, {3 * demandFades, 0}, {10 * demandFades, 0}} {
		if got := d.recent("t", at.Add(c.after)); got != c.want {
			t.Errorf("after %v: %d, want %d", c.after, got, c.want)
		}
	}
	if len(d.asked) != 0 {
		t.Errorf("still held: %v", d.asked)
	}
}

func TestFailingTemplateDoesNotStopOthers(t *testing.T) {
	m := bareMachine(t, Config{WarmPool: 2})
	m.template("r1")
	m.templateOf("bad", "rb")
	m.describe = sized(map[string]sandbox.PoolSize{"bad": {MinIdle: 2, MaxIdle: 2}})
	var tries atomic.Int32
	bad := runtimetest.Image("rb")
	m.fake.Set(runtimetest.Knobs{Start: func(_ context.Context, r driver.StartRequest) error {
		if r.Image == bad {
			tries.Add(1)
			return errors.New("it never starts")
		}
		return nil
	}})
	m.up()
	m.eventually("the other's pool is full", func() bool { return m.pooled()["base"] == 2 })
	for range 5 { // whoever wakes the keeper does not make it try sooner
		m.TemplateChanged()
		m.eventually("it has looked", func() bool { return len(m.refill) == 0 })
	}
	if n := tries.Load(); n > 2 {
		t.Errorf("%d tries at once", n)
	}
	m.fake.Set(runtimetest.Knobs{})
	m.eventually("it gets another chance", func() bool { return m.pooled()["bad"] == 2 })
}

func TestNeediestPoolComesFirst(t *testing.T) {
	long, short := time.Unix(1, 0), time.Unix(2, 0)
	pool := func(name string, have, want int, made time.Time) *wanted {
		return &wanted{template: sandbox.Template{Slug: name}, pool: &pool{lastMade: made}, have: have, want: want}
	}
	var got []string
	for _, w := range neediest([]*wanted{
		pool("half", 2, 4, long), pool("full", 1, 1, long), pool("empty", 0, 8, short), pool("waits", 0, 1, long), pool("most", 3, 4, long),
	}) {
		got = append(got, w.template.Slug)
	}
	if want := []string{"waits", "empty", "half", "most"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
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
	made := m.create(m.a, sandbox.CreateRequest{Idempotency: sandbox.Idempotency{Key: "k", Digest: [32]byte{1}}})
	// Who lost that answer gets it, whatever the host has room for by then.
	m.host.full.Store(true)
	again, err := m.Create(m.ctx, m.a, sandbox.CreateRequest{Idempotency: sandbox.Idempotency{Key: "k", Digest: [32]byte{1}}})
	if err != nil || again.ID != made.ID {
		t.Errorf("the same request on a full host: %s, %v, want %s", again.ID, err, made.ID)
	}
	if _, err := m.Create(m.ctx, m.a, sandbox.CreateRequest{Idempotency: sandbox.Idempotency{Key: "k", Digest: [32]byte{2}}}); code(err) != sandbox.CodeIdempotency {
		t.Errorf("another request with its key: %v", err)
	}
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
