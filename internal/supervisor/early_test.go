package supervisor

import (
	"context"
	"errors"
	"testing"
	"time"

	driver "silica.dev/silica/internal/runtime"
	"silica.dev/silica/internal/runtime/runtimetest"
	"silica.dev/silica/sandbox"
)

// Before rows and host agree, what would change a row waits, or says that the
// server is starting: Recover works on rows it has read.
func TestNothingIsEndedBeforeRecovery(t *testing.T) {
	m := newMachine(t, Config{})
	sb := m.create(m.a, sandbox.CreateRequest{})
	m.down()
	m.fake = m.fake.Reopen()
	m.openDB()
	m.cfg.DestroyWait = 20 * time.Millisecond
	m.Supervisor = New(m.cfg, m.deps(m.db))
	if _, err := m.Destroy(m.ctx, m.a, string(sb.ID)); code(err) != sandbox.CodeUnavailable {
		t.Errorf("Destroy before Recover = %v, want UNAVAILABLE", err)
	}
	soon, cancel := context.WithTimeout(m.ctx, 20*time.Millisecond)
	defer cancel()
	if _, _, err := m.Drain(soon, 0); code(err) != sandbox.CodeUnavailable {
		t.Errorf("Drain before Recover = %v, want UNAVAILABLE", err)
	}
	if got := m.get(m.a, sb.ID); got.State != sandbox.Running {
		t.Errorf("it is %s, want it left alone", got.State)
	}
	drained := make(chan int)
	go func() {
		n, _, err := m.Drain(m.ctx, 0)
		if err != nil {
			t.Errorf("Drain: %v", err)
		}
		drained <- n
	}()
	if err := m.Recover(m.ctx); err != nil {
		t.Fatal(err)
	}
	if n := <-drained; n != 1 {
		t.Errorf("%d drained, want what ran before the restart", n)
	}
	m.nothingOnHost()
}

func TestReadyWaitsForRecovery(t *testing.T) {
	m := newMachine(t, Config{CreateWait: time.Millisecond})
	m.fake.Set(runtimetest.Knobs{Start: func(ctx context.Context, _ driver.StartRequest) error { <-ctx.Done(); return ctx.Err() }})
	sb := m.create(m.a, sandbox.CreateRequest{})
	m.fake.Crash()
	m.down()
	m.fake = m.fake.Reopen()
	m.openDB()
	m.Supervisor = New(m.cfg, m.deps(m.db))
	soon, cancel := context.WithTimeout(m.ctx, 20*time.Millisecond)
	defer cancel()
	if got, err := m.Ready(soon, m.a, string(sb.ID)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Ready before Recover = %s, %v; want it to wait", got.State, err)
	}
	if err := m.Recover(m.ctx); err != nil {
		t.Fatal(err)
	}
	if got, err := m.Ready(m.ctx, m.a, string(sb.ID)); err != nil || !got.Ready {
		t.Errorf("Ready = %+v, %v", got, err)
	}
}

// An adopted sandbox is left as it is: what its template says today is not
// what it was started with.
func TestAdoptedSandboxKeepsItsIdentity(t *testing.T) {
	m := newMachine(t, Config{})
	sb := m.create(m.a, sandbox.CreateRequest{})
	m.template("r2")
	tpl, err := m.db.Template(m.ctx, "base")
	if err != nil {
		t.Fatal(err)
	}
	tpl.Env = map[string]string{"FROM": "another"}
	if err := m.db.SaveTemplate(m.ctx, tpl); err != nil {
		t.Fatal(err)
	}
	m.restart()
	if got, err := m.echo(m.a, sb.ID, "echo $FROM"); err != nil || got != "template\n" {
		t.Errorf("inside: %q, %v", got, err)
	}
	if n := len(m.fake.Agent(sb.ID).Inits()); n != 1 {
		t.Errorf("%d identities were given, want 1", n)
	}
}

// dyingStore has the member that a create claims die, and be freed, before the
// create hears of its claim.
type dyingStore struct {
	Store
	claimed func(sandbox.Sandbox)
}

func (d *dyingStore) Create(ctx context.Context, sb sandbox.Sandbox, req sandbox.CreateRequest, limit int) (sandbox.Sandbox, bool, error) {
	got, fresh, err := d.Store.Create(ctx, sb, req, limit)
	if err == nil && got.State == sandbox.Running {
		d.claimed(got)
	}
	return got, fresh, err
}

func TestMemberThatDiesWhileItIsClaimedLeavesNothing(t *testing.T) {
	m := newMachine(t, Config{})
	m.Close()
	m.cfg.WarmPool = 1
	m.Supervisor = New(m.cfg, m.deps(&dyingStore{Store: m.db, claimed: func(sb sandbox.Sandbox) {
		if err := m.fake.Kill(sb.ID, driver.Exit{Reason: "crash"}); err != nil {
			t.Error(err)
		}
		m.eventually("its death is noticed and it is freed", func() bool { return m.lookup(sb.ID) == nil })
	}}))
	if err := m.Recover(m.ctx); err != nil {
		t.Fatal(err)
	}
	m.warm(1)
	sb := m.create(m.a, sandbox.CreateRequest{})
	if sb.State != sandbox.Failed || sb.Reason != "crash" {
		t.Errorf("it is %s (%s), want error", sb.State, sb.Reason)
	}
	member := m.warm(1)[0]
	m.eventually("only the pool is on the host", func() bool {
		ids := m.onHost()
		return len(ids) == 1 && ids[0] == member
	})
	m.eventually("its unit is forgotten", func() bool { return m.lookup(sb.ID) == nil })
}

// An alarm whose row says otherwise by now changes nothing, and is set anew.
func TestDeadlineThatIsNotDueYetStays(t *testing.T) {
	m := newMachine(t, Config{})
	sb := m.create(m.a, sandbox.CreateRequest{})
	m.deadlines.remove(sb.ID) // as its turn does
	m.ring(alarm{id: sb.ID, kind: hardLimit, tenant: sb.Tenant, row: sb.Deadline().Add(-time.Second)})
	m.eventually("its deadline is set again", func() bool { return m.deadlines.has(sb.ID, hardLimit) })
	if got := m.get(m.a, sb.ID); got.State != sandbox.Running {
		t.Errorf("it is %s, want running", got.State)
	}
}
