package supervisor

import (
	"context"
	"slices"
	"time"

	driver "silica.dev/silica/internal/runtime"
	"silica.dev/silica/sandbox"
)

const (
	// meterEvery is how often what runs is measured, and its runs written: what
	// a crash of the machine can lose.
	meterEvery = 15 * time.Second
	// meterRest is how long a run that used nothing goes unwritten. One that is
	// lost ended at most so much later than is noted.
	meterRest = time.Minute
	// meterWait bounds one look at the host's counters.
	meterWait = 2 * time.Second
)

// Usage returns what a sandbox has used until now.
func (s *Supervisor) Usage(ctx context.Context, c sandbox.Caller, id string) (sandbox.Sandbox, sandbox.Usage, error) {
	sb, err := s.store.Sandbox(ctx, c.Tenant, id)
	if err != nil {
		return sb, sandbox.Usage{}, err
	}
	var live *sandbox.Reading
	if u := s.lookup(sb.ID); u != nil {
		if r, ok := s.read(ctx, u); ok {
			live = &r
		} else {
			live = u.lastRead() // it was stopped, and that is being written
		}
	}
	used, err := s.store.Usage(ctx, sb.ID, now(), live)
	return sb, used, err
}

// Metrics tells how a sandbox is doing, and how it was in the last window.
func (s *Supervisor) Metrics(ctx context.Context, c sandbox.Caller, id string, window time.Duration) (sandbox.Sandbox, sandbox.Metrics, error) {
	sb, err := s.store.Sandbox(ctx, c.Tenant, id)
	m := sandbox.Metrics{Sample: sandbox.Sample{At: now()}}
	u := s.lookup(sb.ID)
	if err != nil || sb.State != sandbox.Running || u == nil || !u.usable() {
		return sb, m, err
	}
	m.Counters, m.Sample.Memory, _ = s.gauge(ctx, u.id)
	u.mu.Lock()
	m.Past = slices.Clone(u.samples)
	before := sandbox.Sample{At: sb.StartedAt, Counters: u.base}
	u.mu.Unlock()
	for _, p := range slices.Backward(m.Past) {
		if m.At.Sub(p.At) >= time.Second {
			before = p
			break
		}
	}
	if took := m.At.Sub(before.At); took > 0 && m.Counters.CPU >= before.Counters.CPU {
		m.Cores = float64(m.Counters.CPU-before.Counters.CPU) / float64(took)
	}
	m.Past = slices.DeleteFunc(m.Past, func(p sandbox.Sample) bool { return m.At.Sub(p.At) > window })

	inside, cancel := context.WithTimeout(ctx, meterWait)
	defer cancel()
	got, err := u.agent(s.driver).Metrics(inside)
	if err != nil {
		s.log.Debug("a sandbox does not say how it is doing", "sandbox", u.id, "err", err)
		return sb, m, nil
	}
	within := func(v, most int64) int64 { return min(max(v, 0), most) } // it may say anything
	m.MemoryUsed = within(got.MemoryUsed, sb.Spec.Memory)
	m.DiskTotal = within(got.DiskTotal, sb.Spec.Disk)
	m.DiskUsed = within(got.DiskUsed, m.DiskTotal)
	m.Processes = int64(got.Processes)
	if got.Load >= 0 && got.Load < 1e6 {
		m.Load = got.Load
	}
	return sb, m, nil
}

// beginMeter has a sandbox measured from now on. The counters of one that came
// to run just now are looked at first: what they show is not its tenant's.
func (s *Supervisor) beginMeter(u *unit, fresh bool) {
	if _, ok := s.driver.(driver.Meter); !ok {
		return
	}
	s.spawn(func() {
		var base sandbox.Counters
		if fresh {
			base, _ = s.counters(u.life, u.id)
		}
		u.mu.Lock()
		defer u.mu.Unlock()
		u.metered, u.base, u.written = true, base, sandbox.Reading{}
	})
}

// counters asks the driver. false says that it has no answer.
func (s *Supervisor) counters(ctx context.Context, id sandbox.ID) (sandbox.Counters, bool) {
	c, _, ok := s.gauge(ctx, id)
	return c, ok
}

// gauge is counters, and the bytes of memory in use.
func (s *Supervisor) gauge(ctx context.Context, id sandbox.ID) (c sandbox.Counters, memory int64, ok bool) {
	m, ok := s.driver.(driver.Meter)
	if !ok {
		return c, 0, false
	}
	ctx, cancel := context.WithTimeout(ctx, meterWait)
	defer cancel()
	got, err := m.Usage(ctx, id)
	if err != nil {
		s.log.Debug("a sandbox could not be measured", "sandbox", id, "err", err)
		return c, 0, false
	}
	return sandbox.Counters{CPU: got.CPU, NetworkIn: got.NetworkIn, NetworkOut: got.NetworkOut}, got.Memory, true
}

// read measures a sandbox that is being metered.
func (s *Supervisor) read(ctx context.Context, u *unit) (sandbox.Reading, bool) {
	u.mu.Lock()
	metered, base := u.metered, u.base
	u.mu.Unlock()
	if !metered {
		return sandbox.Reading{}, false
	}
	at := now()
	counted, memory, ok := s.gauge(ctx, u.id)
	if ok {
		u.remember(sandbox.Sample{At: at, Counters: counted, Memory: memory})
	}
	return sandbox.Reading{Sandbox: u.id, At: at, Now: counted, Base: base}, ok
}

// lastReading measures a sandbox before its end on the host, and no more after
// that.
func (s *Supervisor) lastReading(ctx context.Context, u *unit) []sandbox.Reading {
	r, ok := s.read(ctx, u)
	u.mu.Lock()
	defer u.mu.Unlock()
	u.metered = false
	if !ok {
		return nil
	}
	u.last = &r
	return []sandbox.Reading{r}
}

// lastRead is what lastReading found; nil before that.
func (u *unit) lastRead() *sandbox.Reading {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.last
}

// keepMeter writes what is used until the supervisor closes, and once more then.
func (s *Supervisor) keepMeter() {
	t := time.NewTicker(s.cfg.MeterEvery)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			s.measure(s.life)
		case <-s.life.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(s.life), meterWait)
			s.measure(last)
			cancel()
			return
		}
	}
}

// measure writes what every sandbox has used, in one transaction.
func (s *Supervisor) measure(ctx context.Context) {
	s.mu.Lock()
	units := make([]*unit, 0, len(s.units))
	for _, u := range s.units {
		units = append(units, u)
	}
	s.mu.Unlock()
	var readings []sandbox.Reading
	var of []*unit
	for _, u := range units {
		r, ok := s.read(ctx, u)
		if !ok {
			continue
		}
		u.mu.Lock()
		before := u.written
		u.mu.Unlock()
		if r.Now == before.Now && r.At.Sub(before.At) < meterRest {
			continue
		}
		readings, of = append(readings, r), append(of, u)
	}
	if len(readings) == 0 {
		return
	}
	if err := s.store.Measure(ctx, readings); err != nil {
		s.log.Warn("what sandboxes use could not be written; trying again later", "err", err)
		return
	}
	for i, u := range of {
		u.mu.Lock()
		u.written = readings[i]
		u.mu.Unlock()
	}
}

const (
	sampleEvery = 10 * time.Second // at least between two samples that are kept
	maxSamples  = 240
)

// remember keeps a sample for those who ask how it was.
func (u *unit) remember(s sandbox.Sample) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if n := len(u.samples); n > 0 && s.At.Sub(u.samples[n-1].At) < sampleEvery {
		return
	}
	if len(u.samples) >= maxSamples {
		u.samples = append(u.samples[:0], u.samples[1:]...)
	}
	u.samples = append(u.samples, s)
}
