package supervisor

import (
	"testing"
	"time"

	driver "silica.dev/silica/internal/runtime"
	"silica.dev/silica/sandbox"
)

// used returns what a sandbox has used, once it is being measured.
func (m *machine) used(sb sandbox.Sandbox) sandbox.Usage {
	m.t.Helper()
	m.eventually("it is measured", func() bool {
		u := m.lookup(sb.ID)
		if u == nil {
			return true
		}
		u.mu.Lock()
		defer u.mu.Unlock()
		return u.metered || sb.State != sandbox.Running
	})
	_, u, err := m.Usage(m.ctx, sandbox.Caller{Tenant: sb.Tenant}, string(sb.ID))
	if err != nil {
		m.t.Fatal(err)
	}
	return u
}

func TestUseSurvivesTheDaemonAndCountsOnce(t *testing.T) {
	m := newMachine(t, Config{MeterEvery: 2 * time.Millisecond})
	sb := m.create(m.a, sandbox.CreateRequest{})
	if u := m.used(sb); u.CPU != 0 {
		t.Errorf("its start was counted as its use: %v", u.CPU)
	}
	m.fake.Use(sb.ID, driver.Usage{CPU: 2 * time.Second, NetworkIn: 100, NetworkOut: 7})
	if u := m.used(sb); u.CPU != 2*time.Second || u.NetworkIn != 100 || u.NetworkOut != 7 {
		t.Errorf("live: %+v", u)
	}
	m.eventually("it is written", func() bool {
		u, err := m.db.Usage(m.ctx, sb.ID, time.Now(), nil)
		return err == nil && u.CPU == 2*time.Second
	})
	m.down()
	m.openDB()
	m.fake.Use(sb.ID, driver.Usage{CPU: 3 * time.Second, NetworkIn: 150, NetworkOut: 8})
	m.fake = m.fake.Reopen()
	m.up()
	if u := m.used(sb); u.CPU != 3*time.Second || u.NetworkIn != 150 || u.NetworkOut != 8 {
		t.Errorf("after a restart: %+v", u)
	}
	m.fake.Use(sb.ID, driver.Usage{CPU: 4 * time.Second, NetworkIn: 151, NetworkOut: 9})
	if _, err := m.Destroy(m.ctx, m.a, string(sb.ID)); err != nil {
		t.Fatal(err)
	}
	m.nothingOnHost()
	u := m.used(m.get(m.a, sb.ID))
	if u.CPU != 4*time.Second || u.NetworkIn != 151 || u.NetworkOut != 9 {
		t.Errorf("after its end: %+v", u)
	}
	if again := m.used(m.get(m.a, sb.ID)); again != u {
		t.Errorf("it goes on being used: %+v, then %+v", u, again)
	}
	if _, _, err := m.Usage(m.ctx, m.b, string(sb.ID)); code(err) != sandbox.CodeNotFound {
		t.Errorf("another tenant sees it: %v", err)
	}
}

func TestWarmTimeIsNobodysUse(t *testing.T) {
	m := newMachine(t, Config{WarmPool: 1})
	id := m.warm(1)[0]
	m.fake.Use(id, driver.Usage{CPU: time.Minute, NetworkIn: 1000})
	sb := m.create(m.a, sandbox.CreateRequest{})
	if sb.ID != id {
		t.Fatalf("got %s, want the member %s", sb.ID, id)
	}
	if u := m.used(sb); u.CPU != 0 || u.NetworkIn != 0 {
		t.Errorf("a claimed member begins with %+v", u)
	}
}
