package supervisor

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"silica.dev/silica/internal/event"
	driver "silica.dev/silica/internal/runtime"
	"silica.dev/silica/internal/runtime/runtimetest"
	"silica.dev/silica/internal/store"
	"silica.dev/silica/sandbox"
)

// mortalStore is the database of a daemon that ends at its n-th write, before or
// just after it is durable. Nothing gets through from then on.
type mortalStore struct {
	Store
	left  atomic.Int64
	after bool // the last write is durable, but nobody is told
	crash func()
}

func (m *mortalStore) write(do func() error) error {
	switch left := m.left.Add(-1); {
	case left > 0:
		return do()
	case left == 0 && m.after:
		_ = do()
	case left < 0:
		return errPower
	}
	m.crash()
	return errPower
}

func (m *mortalStore) Create(ctx context.Context, sb sandbox.Sandbox, req sandbox.CreateRequest, limit int) (got sandbox.Sandbox, fresh bool, err error) {
	err = m.write(func() error { got, fresh, err = m.Store.Create(ctx, sb, req, limit); return err })
	return got, fresh, err
}

func (m *mortalStore) AddMember(ctx context.Context, sb sandbox.Sandbox) error {
	return m.write(func() error { return m.Store.AddMember(ctx, sb) })
}

func (m *mortalStore) Move(ctx context.Context, id sandbox.ID, from, to sandbox.State, change func(*sandbox.Sandbox), events ...event.Event) (got sandbox.Sandbox, err error) {
	err = m.write(func() error { got, err = m.Store.Move(ctx, id, from, to, change, events...); return err })
	return got, err
}

func (m *mortalStore) Update(ctx context.Context, id sandbox.ID, state sandbox.State, change func(*sandbox.Sandbox)) (got sandbox.Sandbox, err error) {
	err = m.write(func() error { got, err = m.Store.Update(ctx, id, state, change); return err })
	return got, err
}

func (m *mortalStore) MarkFreed(ctx context.Context, id sandbox.ID, last ...sandbox.Reading) error {
	return m.write(func() error { return m.Store.MarkFreed(ctx, id, last...) })
}

func (m *mortalStore) Readmit(ctx context.Context, id sandbox.ID, limit int, change func(*sandbox.Sandbox)) (got sandbox.Sandbox, err error) {
	err = m.write(func() error { got, err = m.Store.Readmit(ctx, id, limit, change); return err })
	return got, err
}

func (m *mortalStore) AddSnapshot(ctx context.Context, n sandbox.Snapshot, k sandbox.Idempotency) (got sandbox.Snapshot, fresh bool, err error) {
	err = m.write(func() error { got, fresh, err = m.Store.AddSnapshot(ctx, n, k); return err })
	return got, fresh, err
}

func (m *mortalStore) EndSnapshot(ctx context.Context, n sandbox.Snapshot) (got sandbox.Snapshot, err error) {
	err = m.write(func() error { got, err = m.Store.EndSnapshot(ctx, n); return err })
	return got, err
}

func (m *mortalStore) DeleteSnapshot(ctx context.Context, tenant sandbox.TenantID, id string) (got sandbox.Snapshot, err error) {
	err = m.write(func() error { got, err = m.Store.DeleteSnapshot(ctx, tenant, id); return err })
	return got, err
}

func (m *mortalStore) Fork(ctx context.Context, tenant sandbox.TenantID, req sandbox.ForkRequest, copies []sandbox.Sandbox, limit int) (got []sandbox.Sandbox, fresh bool, err error) {
	err = m.write(func() error { got, fresh, err = m.Store.Fork(ctx, tenant, req, copies, limit); return err })
	return got, fresh, err
}

func (m *mortalStore) Revert(ctx context.Context, id sandbox.ID, from sandbox.State, snapshot string, change func(*sandbox.Sandbox)) (got, old sandbox.Sandbox, err error) {
	err = m.write(func() error { got, old, err = m.Store.Revert(ctx, id, from, snapshot, change); return err })
	return got, old, err
}

// TestCrashAtAnyMoment ends the daemon at random moments under load, with
// nothing said and nothing cleaned up, starts the next one, and looks for what
// is stuck, leaked or lost. SILICA_CRASH_SEED repeats a run.
func TestCrashAtAnyMoment(t *testing.T) {
	onBoth(t, func(t *testing.T, rows store.Config) {
		rounds := 15
		if testing.Short() {
			rounds = 5
		}
		seed := uint64(time.Now().UnixNano())
		if v, err := strconv.ParseUint(os.Getenv("SILICA_CRASH_SEED"), 10, 64); err == nil {
			seed = v
		}
		t.Logf("SILICA_CRASH_SEED=%d", seed)
		rnd := rand.New(rand.NewPCG(seed, 0))

		m := newMachineOn(t, Config{WarmPool: 2, InitTimeout: patience}, rows)
		m.Close()
		book := &ledger{created: map[sandbox.ID]sandbox.Caller{}, destroyed: map[sandbox.ID]bool{}}
		for round := range rounds {
			st := &mortalStore{Store: m.db, after: rnd.IntN(2) == 0}
			st.left.Store(int64(1 + rnd.IntN(60)))
			m.fake.Set(slowly(rnd.Uint64()))
			m.Supervisor = New(m.cfg, m.deps(st))
			s, fake := m.Supervisor, m.fake
			st.crash = func() { // cut off from rows and host, it can only stop
				fake.Crash()
				go s.Close()
			}
			begin := time.Now()
			m.load(book, rnd)
			loaded := time.Now()
			m.down()

			m.fake = m.fake.Reopen()
			m.openDB()
			m.sweep()
			m.up()
			m.check(book)
			t.Logf("round %d: load %v, restart and check %v", round, loaded.Sub(begin), time.Since(loaded))
			m.Close()
			if t.Failed() {
				return
			}
		}
		if len(book.created) == 0 || len(book.destroyed) == 0 {
			t.Errorf("the load did nothing: %d created, %d destroyed", len(book.created), len(book.destroyed))
		}
		t.Logf("%d crashes, %d acknowledged creates, %d acknowledged destroys", rounds, len(book.created), len(book.destroyed))
	})
}

// slowly stretches the driver's calls, so that crashes find them half done.
func slowly(seed uint64) runtimetest.Knobs {
	var mu sync.Mutex
	rnd := rand.New(rand.NewPCG(seed, 1))
	nap := func(ctx context.Context) error {
		mu.Lock()
		d := time.Duration(rnd.IntN(4000)) * time.Microsecond
		mu.Unlock()
		if !pause(ctx, d) {
			return ctx.Err()
		}
		return nil
	}
	return runtimetest.Knobs{
		Start:   func(ctx context.Context, _ driver.StartRequest) error { return nap(ctx) },
		Destroy: func(ctx context.Context, _ sandbox.ID) error { return nap(ctx) },
		Keep:    func(ctx context.Context, _ sandbox.ID) error { return nap(ctx) },
		Capture: func(ctx context.Context, _ sandbox.ID) error { return nap(ctx) },
	}
}

// ledger holds what callers were told.
type ledger struct {
	mu        sync.Mutex
	created   map[sandbox.ID]sandbox.Caller
	destroyed map[sandbox.ID]bool
}

func (l *ledger) note(c sandbox.Caller, list ...sandbox.Sandbox) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, sb := range list {
		l.created[sb.ID] = c
	}
}

func (l *ledger) some(rnd *rand.Rand, c sandbox.Caller) (id sandbox.ID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for id, owner := range l.created {
		if owner == c && !l.destroyed[id] && (rnd.IntN(3) == 0) {
			return id
		}
	}
	return ""
}

// change does one thing to a sandbox that others may have changed at the same time;
// false says that the daemon has ended.
func (m *machine) change(book *ledger, rnd *rand.Rand, c sandbox.Caller, id sandbox.ID) bool {
	var err error
	switch rnd.IntN(5) {
	case 0:
		_, err = m.Pause(m.ctx, c, string(id))
	case 1:
		_, err = m.Start(m.ctx, c, string(id))
	case 2:
		var n sandbox.Snapshot
		if n, err = m.TakeSnapshot(m.ctx, c, string(id), sandbox.SnapshotRequest{}); err == nil && rnd.IntN(2) == 0 {
			_, err = m.DeleteSnapshot(m.ctx, c, n.ID)
		}
	case 3:
		var copies []sandbox.Sandbox
		copies, err = m.Fork(m.ctx, c, string(id), sandbox.ForkRequest{Count: 1 + rnd.IntN(2)})
		book.note(c, copies...)
	case 4:
		var list []sandbox.Snapshot
		if list, err = m.Snapshots(m.ctx, c, string(id)); err == nil && len(list) > 0 {
			_, err = m.Restore(m.ctx, c, string(id), list[0].ID)
		}
	}
	return err == nil || isKind(err, sandbox.Conflict) || isKind(err, sandbox.NotFound)
}

// sweep deletes what no row names, as every start of a server does.
func (m *machine) sweep() {
	m.t.Helper()
	named, err := m.db.Kept(m.ctx)
	if err != nil {
		m.t.Fatal(err)
	}
	for _, ref := range m.fake.Kept() {
		if !slices.Contains(named, ref) {
			_ = m.fake.Delete(m.ctx, ref)
		}
	}
}

// load creates, destroys and changes sandboxes until the daemon ends.
func (m *machine) load(book *ledger, rnd *rand.Rand) {
	if err := m.Recover(m.ctx); err != nil {
		return // it ended that early
	}
	var wg sync.WaitGroup
	for i := range 4 {
		c := []sandbox.Caller{m.a, m.b}[i%2]
		rnd := rand.New(rand.NewPCG(rnd.Uint64(), 2))
		wg.Go(func() {
			for {
				if rnd.IntN(3) == 0 {
					sb, err := m.Create(m.ctx, c, sandbox.CreateRequest{Timeout: time.Hour})
					if err != nil {
						return
					}
					book.note(c, sb)
				} else if id := book.some(rnd, c); id != "" && rnd.IntN(2) == 0 {
					if !m.change(book, rnd, c, id) {
						return
					}
				} else if id := book.some(rnd, c); id != "" {
					if _, err := m.Destroy(m.ctx, c, string(id)); err != nil {
						return
					}
					book.mu.Lock()
					book.destroyed[id] = true
					book.mu.Unlock()
				}
			}
		})
	}
	wg.Wait()
}

// check holds the machine to what its callers were told.
func (m *machine) check(book *ledger) {
	m.t.Helper()
	m.warm(2) // whose making also means that the pool is at rest
	m.eventually("nothing is in a passing state", func() bool {
		for _, c := range []sandbox.Caller{m.a, m.b} {
			list, err := m.List(m.ctx, c, sandbox.Filter{})
			if err != nil || slices.ContainsFunc(list.Sandboxes, func(sb sandbox.Sandbox) bool { return !decided(sb) }) {
				return false
			}
		}
		return true
	})
	for id, c := range book.created {
		sb, err := m.Get(m.ctx, c, string(id))
		if err != nil {
			m.t.Errorf("an acknowledged create is lost: %s: %v", id, err)
			continue
		}
		want := sandbox.Running
		if book.destroyed[id] {
			want = sandbox.Destroyed
		}
		if sb.State == sandbox.Paused && !book.destroyed[id] {
			if sb, err = m.Start(m.ctx, c, string(id)); err != nil {
				m.t.Errorf("%s is paused and does not start: %v", id, err)
				continue
			}
		}
		// A destroy that was cut off may have happened without being told.
		if sb.State != want && sb.State != sandbox.Destroyed {
			m.t.Errorf("%s is %s (%s), want %s", id, sb.State, sb.Reason, want)
		}
		if sb.State == sandbox.Running {
			if got, err := m.echo(c, id, "echo on"); err != nil || got != "on\n" {
				m.t.Errorf("%s does not work: %q, %v", id, got, err)
			}
		}
	}
	m.eventually("what rows name is there, and nothing else", func() bool {
		named, err := m.db.Kept(m.ctx)
		kept := m.fake.Kept()
		for _, ref := range kept {
			if !slices.Contains(named, ref) {
				return false
			}
		}
		for _, c := range []sandbox.Caller{m.a, m.b} {
			list, lerr := m.Snapshots(m.ctx, c, "")
			for _, n := range list {
				if n.Status == sandbox.SnapshotReady && (!slices.Contains(kept, n.Files) || n.Memory != "" && !slices.Contains(kept, n.Memory)) {
					m.t.Errorf("the snapshot %s lacks its artifacts", n.ID)
				}
				if n.Status != sandbox.SnapshotReady && n.Status != sandbox.SnapshotFailed {
					m.t.Errorf("the snapshot %s is %s", n.ID, n.Status)
				}
			}
			err = errors.Join(err, lerr)
		}
		return err == nil
	})
	m.eventually("the host holds exactly what rows say", func() bool {
		var want []sandbox.ID
		rows, err := m.db.Unfreed(m.ctx)
		for _, sb := range rows {
			if sb.State != sandbox.Running && sb.State != sandbox.Warm {
				return false
			}
			want = append(want, sb.ID)
		}
		slices.Sort(want)
		return err == nil && slices.Equal(m.onHost(), want)
	})
}

// TestStorm has everything happen at once: creates, destroys (twice), deaths and
// commands, by two tenants. The invariants hold all the same.
func TestStorm(t *testing.T) {
	onBoth(t, func(t *testing.T, rows store.Config) {
		m := newMachineOn(t, Config{WarmPool: 3, Starts: 4}, rows)
		m.fake.Set(slowly(7))
		ctx, cancel := context.WithTimeout(m.ctx, 1500*time.Millisecond)
		defer cancel()
		var wg sync.WaitGroup
		for i := range 8 {
			c := []sandbox.Caller{m.a, m.b}[i%2]
			wg.Go(func() {
				for n := 0; ctx.Err() == nil; n++ {
					sb, err := m.Create(m.ctx, c, sandbox.CreateRequest{})
					if err != nil {
						t.Errorf("Create: %v", err)
						return
					}
					var ends sync.WaitGroup
					if n%3 == 0 {
						ends.Go(func() { _ = m.fake.Kill(sb.ID, driver.Exit{Reason: "crash"}) })
					}
					ends.Go(func() { _, _ = m.echo(c, sb.ID, "echo x") })
					for range 2 {
						ends.Go(func() {
							if got, err := m.Destroy(m.ctx, c, string(sb.ID)); err != nil || got.State != sandbox.Destroyed {
								t.Errorf("Destroy = %+v, %v", got, err)
							}
						})
					}
					ends.Wait()
				}
			})
		}
		wg.Go(func() { // the pool's members die, too
			for ctx.Err() == nil {
				if rows, err := m.db.Warm(m.ctx); err == nil && len(rows) > 0 {
					_ = m.fake.Kill(rows[0].ID, driver.Exit{Reason: "crash"})
				}
				pause(ctx, 10*time.Millisecond)
			}
		})
		wg.Wait()
		if _, _, err := m.Drain(m.ctx, 0); err != nil {
			t.Fatal(err)
		}
		m.nothingOnHost()
	})
}
