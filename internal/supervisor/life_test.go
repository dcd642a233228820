package supervisor

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"silica.dev/silica/internal/guest/guestpb"
	driver "silica.dev/silica/internal/runtime"
	"silica.dev/silica/internal/runtime/runtimetest"
	"silica.dev/silica/internal/store"
	"silica.dev/silica/sandbox"
)

func startRequest(id sandbox.ID, image sandbox.Ref) driver.StartRequest {
	return driver.StartRequest{ID: id, Image: image, Resources: size}
}

// echo runs a command through Guest.
func (m *machine) echo(c sandbox.Caller, id sandbox.ID, script string) (string, error) {
	ctx, cl, _, err := m.Guest(m.ctx, c, string(id))
	if err != nil {
		return "", err
	}
	var out bytes.Buffer
	for ev, err := range cl.Start(ctx, &guestpb.StartRequest{Args: []string{"sh", "-c", script}}) {
		if err != nil {
			return out.String(), err
		}
		if o := ev.GetOutput(); o != nil {
			out.Write(o.Data)
		}
	}
	return out.String(), nil
}

func TestCreateRestoresAndRuns(t *testing.T) {
	onBoth(t, func(t *testing.T, rows store.Config) {
		m := newMachineOn(t, Config{Nameservers: []string{"192.0.2.53"}, MaxProcesses: 99}, rows)
		sb := m.create(m.a, sandbox.CreateRequest{Name: "n", Env: map[string]string{"BOTH": "caller"}})
		if sb.State != sandbox.Running || !sb.Ready || sb.BootPath != sandbox.BootSnapshot || sb.Boot <= 0 || sb.StartedAt.IsZero() || sb.ReadyAt.IsZero() {
			t.Fatalf("Create = %+v", sb)
		}
		if sb.Spec.Resources != size || sb.Timeout != 300*time.Second || sb.Spec.Template != "base" || sb.Spec.Revision != "r1" {
			t.Errorf("defaults: %+v", sb)
		}
		if d := cmp.Diff(sb, m.get(m.a, sb.ID)); d != "" {
			t.Errorf("Get differs from Create:\n%s", d)
		}
		if got, err := m.echo(m.a, sb.ID, "echo $FROM $BOTH; hostname"); err != nil || got != "template caller\n"+sb.Slug+"\n" {
			t.Errorf("inside: %q, %v", got, err)
		}
		in := m.fake.Agent(sb.ID).Inits()[0]
		if in.MaxProcesses != 99 || !slices.Equal(in.Nameservers, []string{"192.0.2.53"}) || len(in.Entropy) != 32 || time.Since(time.Unix(0, in.UnixNano)).Abs() > time.Minute {
			t.Errorf("identity: %v", in)
		}
		if got := m.history(sb.ID); !slices.Equal(got, []string{"provisioning", "running"}) {
			t.Errorf("events: %v", got)
		}

		gone, err := m.Destroy(m.ctx, m.a, string(sb.ID))
		if err != nil || gone.State != sandbox.Destroyed || gone.Ready || gone.DestroyedAt.IsZero() {
			t.Fatalf("Destroy = %+v, %v", gone, err)
		}
		if ids := m.onHost(); len(ids) != 0 {
			t.Errorf("after Destroy the host holds %v", ids)
		}
		m.nothingOnHost()
		again, err := m.Destroy(m.ctx, m.a, string(sb.ID))
		again.Freed = gone.Freed // not a part of any answer
		if d := cmp.Diff(gone, again); err != nil || d != "" {
			t.Errorf("Destroy twice differs: %v\n%s", err, d)
		}
		if _, err := m.echo(m.a, sb.ID, "true"); code(err) != sandbox.CodeNotRunning {
			t.Errorf("Guest of a destroyed one = %v", err)
		}
		if got := m.history(sb.ID); !slices.Equal(got, []string{"provisioning", "running", "destroyed"}) {
			t.Errorf("events: %v", got)
		}
	})
}

func TestBadRequestsCreateNothing(t *testing.T) {
	m := newMachine(t, Config{MaxTimeout: time.Hour, ForbidAlwaysOn: true})
	cases := map[string]struct {
		req  sandbox.CreateRequest
		code string
	}{
		"too many CPUs":       {sandbox.CreateRequest{Resources: sandbox.Resources{MilliCPU: 5000}}, sandbox.CodeValidation},
		"negative memory":     {sandbox.CreateRequest{Resources: sandbox.Resources{Memory: -1}}, sandbox.CodeValidation},
		"too large a disk":    {sandbox.CreateRequest{Resources: sandbox.Resources{Disk: 1 << 50}}, sandbox.CodeValidation},
		"too long":            {sandbox.CreateRequest{Timeout: 2 * time.Hour}, sandbox.CodeValidation},
		"always on":           {sandbox.CreateRequest{AlwaysOn: true}, sandbox.CodeValidation},
		"bad variable":        {sandbox.CreateRequest{Env: map[string]string{"A=B": "c"}}, sandbox.CodeValidation},
		"bad slug":            {sandbox.CreateRequest{Project: sandbox.Place{Slug: "../x"}}, sandbox.CodeValidation},
		"unknown template":    {sandbox.CreateRequest{Template: "nope"}, sandbox.CodeInvalidTemplate},
		"unknown workspace":   {sandbox.CreateRequest{Workspace: sandbox.Place{ID: "550e8400-e29b-41d4-a716-446655440000"}}, sandbox.CodeValidation},
		"somebody's template": {sandbox.CreateRequest{Template: "' or 1=1 --"}, sandbox.CodeInvalidTemplate},
	}
	for name, c := range cases {
		if sb, err := m.Create(m.ctx, m.a, c.req); code(err) != c.code {
			t.Errorf("%s: %+v, %v; want %s", name, sb, err, c.code)
		}
	}
	if list, err := m.List(m.ctx, m.a, sandbox.Filter{}); err != nil || list.Total != 0 {
		t.Errorf("List = %v, %v", list, err)
	}
	m.nothingOnHost()
	if len(m.units) != 0 {
		t.Errorf("units of refused creates: %v", m.units)
	}
}

func TestTenantsDoNotSeeEachOther(t *testing.T) {
	m := newMachine(t, Config{})
	sb := m.create(m.a, sandbox.CreateRequest{})
	for name, call := range map[string]func(id string) error{
		"Get":     func(id string) error { _, err := m.Get(m.ctx, m.b, id); return err },
		"Destroy": func(id string) error { _, err := m.Destroy(m.ctx, m.b, id); return err },
		"Guest":   func(id string) error { _, _, _, err := m.Guest(m.ctx, m.b, id); return err },
		"Ready":   func(id string) error { _, err := m.Ready(m.ctx, m.b, id); return err },
	} {
		foreign, unknown := call(string(sb.ID)), call(string(sandbox.NewID()))
		if code(foreign) != sandbox.CodeNotFound || foreign.Error() != unknown.Error() {
			t.Errorf("%s: foreign %v, unknown %v; want the same", name, foreign, unknown)
		}
	}
	if got := m.get(m.a, sb.ID); got.State != sandbox.Running {
		t.Errorf("another tenant's calls changed it: %+v", got)
	}
}

func TestLimitCountsLiveOnes(t *testing.T) {
	m := newMachine(t, Config{MaxSandboxes: 2})
	one := m.create(m.a, sandbox.CreateRequest{})
	m.create(m.a, sandbox.CreateRequest{})
	if _, err := m.Create(m.ctx, m.a, sandbox.CreateRequest{}); code(err) != sandbox.CodeSandboxLimit {
		t.Errorf("a third = %v", err)
	}
	m.create(m.b, sandbox.CreateRequest{}) // the other tenant has its own count
	wide := m.a
	wide.MaxSandboxes = 3
	m.create(wide, sandbox.CreateRequest{})
	if _, err := m.Destroy(m.ctx, m.a, string(one.ID)); err != nil {
		t.Fatal(err)
	}
}

func TestUnusableSnapshotBootsColdAndIsRemade(t *testing.T) {
	m := newMachine(t, Config{})
	ref := m.template("r1")
	if err := m.fake.Damage(ref); err != nil {
		t.Fatal(err)
	}
	sb := m.create(m.a, sandbox.CreateRequest{})
	if sb.State != sandbox.Running || sb.BootPath != sandbox.BootCold {
		t.Errorf("Create = %+v", sb)
	}
	if m.builds.asked() != 1 {
		t.Errorf("the snapshot was asked for %d times, want once", m.builds.asked())
	}
	other := m.create(m.a, sandbox.CreateRequest{Resources: sandbox.Resources{Disk: 2048 * sandbox.MiB}})
	if other.BootPath != sandbox.BootCold || m.builds.asked() != 2 {
		t.Errorf("a size without a snapshot: %s, asked %d times", other.BootPath, m.builds.asked())
	}
}

func TestStartFailureIsSaidAndFreed(t *testing.T) {
	m := newMachine(t, Config{})
	m.fake.Set(runtimetest.Knobs{Start: func(context.Context, driver.StartRequest) error {
		return sandbox.E(sandbox.Exhausted, sandbox.CodeHostFull, "no memory left on the server")
	}})
	sb := m.create(m.a, sandbox.CreateRequest{})
	if sb.State != sandbox.Failed || sb.Ready || sb.Reason != "the sandbox could not be started: no memory left on the server" {
		t.Errorf("Create = %+v", sb)
	}
	if got := m.history(sb.ID); !slices.Equal(got, []string{"provisioning", sandbox.CodeStartFailed, "error"}) {
		t.Errorf("events: %v", got)
	}
	m.nothingOnHost()
	if got, err := m.Destroy(m.ctx, m.a, string(sb.ID)); err != nil || got.State != sandbox.Destroyed {
		t.Errorf("Destroy of a failed one = %+v, %v", got, err)
	}
}

func TestSlowCreateAnswersProvisioning(t *testing.T) {
	m := newMachine(t, Config{CreateWait: time.Millisecond})
	held := make(chan struct{})
	m.fake.Set(runtimetest.Knobs{Start: func(ctx context.Context, _ driver.StartRequest) error {
		select {
		case <-held:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}})
	ctx, cancel := context.WithCancel(m.ctx)
	req := sandbox.CreateRequest{Idempotency: sandbox.Idempotency{Key: "k"}}
	sb, err := m.Create(ctx, m.a, req)
	if err != nil || sb.State != sandbox.Provisioning {
		t.Fatalf("Create = %+v, %v", sb, err)
	}
	cancel() // the client leaves: the work goes on
	if _, err := m.echo(m.a, sb.ID, "true"); code(err) != sandbox.CodeNotRunning {
		t.Errorf("Guest of a provisioning one = %v", err)
	}
	again := m.create(m.a, req)
	if again.ID != sb.ID {
		t.Errorf("the same key made %s and %s", sb.ID, again.ID)
	}
	close(held)
	if got, err := m.Ready(m.ctx, m.a, string(sb.ID)); err != nil || !got.Ready || got.State != sandbox.Running {
		t.Errorf("Ready = %+v, %v", got, err)
	}
}

func TestReadyEndsWithItsContext(t *testing.T) {
	m := newMachine(t, Config{CreateWait: time.Millisecond})
	m.fake.Set(runtimetest.Knobs{Start: func(ctx context.Context, _ driver.StartRequest) error { <-ctx.Done(); return ctx.Err() }})
	sb := m.create(m.a, sandbox.CreateRequest{})
	ctx, cancel := context.WithTimeout(m.ctx, 5*time.Millisecond)
	defer cancel()
	if got, err := m.Ready(ctx, m.a, string(sb.ID)); !errors.Is(err, context.DeadlineExceeded) || got.ID != sb.ID {
		t.Errorf("Ready = %+v, %v", got, err)
	}
	// Destroy undoes the start under way.
	if got, err := m.Destroy(m.ctx, m.a, string(sb.ID)); err != nil || got.State != sandbox.Destroyed {
		t.Errorf("Destroy while starting = %+v, %v", got, err)
	}
	if got, err := m.Ready(m.ctx, m.a, string(sb.ID)); err != nil || got.State != sandbox.Destroyed {
		t.Errorf("Ready of a destroyed one = %+v, %v", got, err)
	}
	m.nothingOnHost()
	if got := m.history(sb.ID); !slices.Equal(got, []string{"provisioning", "destroyed"}) {
		t.Errorf("events: %v", got)
	}
}

func TestTemplateInTheMakingIsWaitedFor(t *testing.T) {
	m := newMachine(t, Config{CreateWait: time.Millisecond})
	soon := make(chan sandbox.Template, 1)
	never := make(chan sandbox.Template)
	m.builds.building = map[string]chan sandbox.Template{"soon": soon, "never": never}
	sb := m.create(m.a, sandbox.CreateRequest{Template: "soon"})
	bad := m.create(m.a, sandbox.CreateRequest{Template: "never"})
	if sb.State != sandbox.Provisioning || bad.State != sandbox.Provisioning {
		t.Fatalf("Create = %+v, %+v", sb, bad)
	}
	soon <- sandbox.Template{Slug: "soon", Revision: "x", Image: runtimetest.Image("x")}
	close(never)
	if got, err := m.Ready(m.ctx, m.a, string(sb.ID)); err != nil || !got.Ready || got.Spec.Revision != "x" {
		t.Errorf("Ready = %+v, %v", got, err)
	}
	if got, err := m.Ready(m.ctx, m.a, string(bad.ID)); err != nil || got.State != sandbox.Failed {
		t.Errorf("Ready = %+v, %v", got, err)
	}
}

func TestDeathIsSaid(t *testing.T) {
	cases := map[string]struct {
		exit driver.Exit
		code string
	}{
		"out of memory": {driver.Exit{Reason: "out of memory: 512 MiB were not enough", OutOfMemory: true}, sandbox.CodeOutOfMemory},
		"crash":         {driver.Exit{Reason: "the kernel crashed"}, sandbox.CodeSandboxGone},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t, Config{})
			sb := m.create(m.a, sandbox.CreateRequest{})
			ctx, _, _, err := m.Guest(m.ctx, m.a, string(sb.ID))
			if err != nil {
				t.Fatal(err)
			}
			if err := m.fake.Kill(sb.ID, c.exit); err != nil {
				t.Fatal(err)
			}
			<-ctx.Done()
			if got := code(context.Cause(ctx)); got != sandbox.CodeSandboxGone {
				t.Errorf("work on it ends with %v", context.Cause(ctx))
			}
			if got := m.get(m.a, sb.ID); got.State != sandbox.Failed || got.Reason != c.exit.Reason || got.Ready {
				t.Errorf("the row: %+v", got)
			}
			if got := m.history(sb.ID); !slices.Equal(got, []string{"provisioning", "running", c.code, "error"}) {
				t.Errorf("events: %v", got)
			}
			m.nothingOnHost()
		})
	}
}

func TestDestroyEndsWorkAndIsRetried(t *testing.T) {
	m := newMachine(t, Config{DestroyWait: time.Millisecond})
	sb := m.create(m.a, sandbox.CreateRequest{})
	fails := runtimetest.Times(2, errors.New("busy"))
	m.fake.Set(runtimetest.Knobs{Destroy: func(context.Context, sandbox.ID) error { return fails() }})
	ctx, _, _, err := m.Guest(m.ctx, m.a, string(sb.ID))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := m.Destroy(m.ctx, m.a, string(sb.ID)); err != nil || got.State != sandbox.Destroyed {
		t.Fatalf("Destroy = %+v, %v", got, err)
	}
	if <-ctx.Done(); code(context.Cause(ctx)) != sandbox.CodeNotRunning {
		t.Errorf("work on it ends with %v", context.Cause(ctx))
	}
	m.nothingOnHost()
}

func TestHardTimeout(t *testing.T) {
	m := newMachine(t, Config{})
	sb := m.create(m.a, sandbox.CreateRequest{Timeout: time.Second})
	forever := m.create(m.a, sandbox.CreateRequest{Timeout: time.Second, AlwaysOn: true})
	late := m.create(m.a, sandbox.CreateRequest{Timeout: time.Hour})
	m.eventually("its time is up", func() bool { return m.get(m.a, sb.ID).State == sandbox.Destroyed })
	if got := m.get(m.a, sb.ID); got.Reason != "timeout" || got.DestroyedAt.Sub(got.StartedAt) < time.Second {
		t.Errorf("expired: %+v", got)
	}
	for _, id := range []sandbox.ID{forever.ID, late.ID} {
		if got := m.get(m.a, id); got.State != sandbox.Running {
			t.Errorf("%s is %s", id, got.State)
		}
	}
}

func TestNoticesBecomeEventsBounded(t *testing.T) {
	m := newMachine(t, Config{})
	sb := m.create(m.a, sandbox.CreateRequest{})
	a := m.fake.Agent(sb.ID)
	for range 50 {
		a.Notify(guestpb.Notice_DISK_FULL, string(bytes.Repeat([]byte("x"), 4000)))
	}
	a.Notify(guestpb.Notice_TREE_KILLED, "a command ran out of time")
	a.Notify(guestpb.Notice_OUT_OF_MEMORY, "python was ended")
	m.eventually("the last notice is an event", func() bool { return slices.Contains(m.history(sb.ID), sandbox.CodeOutOfMemory) })
	got := map[string]int{}
	for _, h := range m.history(sb.ID) {
		got[h]++
	}
	if got[sandbox.CodeDiskFull] != noticeBurst || got[sandbox.CodeExecTimeout] != 1 || got[sandbox.CodeOutOfMemory] != 1 {
		t.Errorf("events: %v", got)
	}
	events, _ := m.db.EventsAfter(m.ctx, sb.ID, 2, 1)
	if msg, _ := events[0].Data["message"].(string); len(msg) > maxNotice {
		t.Errorf("a message of %d bytes was kept", len(msg))
	}
}

func TestManyCreatesAtOnce(t *testing.T) {
	onBoth(t, func(t *testing.T, rows store.Config) {
		m := newMachineOn(t, Config{Starts: 2, WarmPool: 2}, rows)
		errs := make(chan error, 50)
		for range cap(errs) {
			go func() {
				sb, err := m.Create(m.ctx, m.a, sandbox.CreateRequest{})
				if err == nil && (sb.State != sandbox.Running || !sb.Ready) {
					err = errors.New(string(sb.State))
				}
				errs <- err
			}()
		}
		for range cap(errs) {
			if err := <-errs; err != nil {
				t.Error(err)
			}
		}
	})
}
