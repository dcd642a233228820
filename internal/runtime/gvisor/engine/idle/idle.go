// Package idle keeps a sentry in which nothing runs from using a CPU all the same.
//
// The systrap platform has a goroutine that wakes 2,500 times a second, for ever,
// to decide whether sentry and stubs may spin for each other instead of
// sleeping. Under load that is worth a factor of ten on small system calls; in
// a sandbox that waits for its next command it costs 2 % of a core. Here the
// same decisions are taken by a goroutine that slows down while there is nothing
// to decide.
package idle

import (
	"sync"
	"sync/atomic"
	"time"
	"unsafe" // for linkname

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/atomicbitops"
	"gvisor.dev/gvisor/pkg/hostarch"
	_ "gvisor.dev/gvisor/pkg/sentry/platform/systrap" // holds what is linked here
)

// What is linked below is the library's own. A name that changes there fails
// the link; a layout that changes fails the test, and known at run time.
//
//go:linkname latencyMonitoring gvisor.dev/gvisor/pkg/sentry/platform/systrap.latencyMonitoring
var latencyMonitoring sync.Once // guards the start of the library's goroutine

//go:linkname fastpath gvisor.dev/gvisor/pkg/sentry/platform/systrap.fastpath
var fastpath state

//go:linkname fastPathContextLimit gvisor.dev/gvisor/pkg/sentry/platform/systrap.fastPathContextLimit
var fastPathContextLimit uint32

//go:linkname maxSysmsgThreads gvisor.dev/gvisor/pkg/sentry/platform/systrap.maxSysmsgThreads
var maxSysmsgThreads int // 0 until the platform is set up

// state has the layout of the library's fastPathState.
type state struct {
	_                          [2][80]atomicbitops.Uint64 // latencies
	stubBackoff, sentryBackoff int
	_                          [4]int // failures
	_                          [hostarch.CacheLineSize]byte
	_                          atomicbitops.Bool // stubs may spin
	_                          [hostarch.CacheLineSize]byte
	_                          atomicbitops.Bool // the sentry may
	_                          [hostarch.CacheLineSize]byte
	_                          atomicbitops.Uint32 // stubs awake
	_                          [hostarch.CacheLineSize]byte
	usedStub                   atomicbitops.Bool
	_                          [hostarch.CacheLineSize]byte
	usedSentry                 atomicbitops.Bool
	_                          [hostarch.CacheLineSize]byte
	decide                     func(*state)
}

// firstBackoff is what the library sets both backoffs to; anything else means
// that the layout is another.
const firstBackoff = 2

// known tells whether an untouched s has the layout we think it has.
func known(s *state) bool {
	return s.stubBackoff == firstBackoff && s.sentryBackoff == firstBackoff && s.decide != nil
}

// Quiet takes the decisions over from the library. Call it in main of a boot
// process, before the library's own main. It does nothing when the library is
// not the one it knows.
func Quiet() {
	if !known(&fastpath) {
		return
	}
	latencyMonitoring.Do(func() { go control(&fastpath) })
}

const (
	busyPeriod = 400 * time.Microsecond // the library's
	idlePeriod = 102400 * time.Microsecond
	// looking is more than a look costs by itself, the timer and the runtime's own
	// threads included: 100 microseconds were seen on a slow virtual machine.
	// Taken for work, its own looks would keep the loop awake for ever.
	looking = 250 * time.Microsecond
	// patience is how many periods without work it takes to double the next.
	patience = 25
)

func control(s *state) {
	for atomic.LoadInt64((*int64)(unsafe.Pointer(&maxSysmsgThreads))) == 0 {
		time.Sleep(busyPeriod)
	}
	atomic.StoreUint32(&fastPathContextLimit, uint32(2*maxSysmsgThreads))
	p := pace{period: busyPeriod}
	for {
		time.Sleep(p.period)
		s.decide(s)
		s.usedStub.Store(false)
		s.usedSentry.Store(false)
		p.next(processorTime())
	}
}

// pace is how long to sleep between decisions.
type pace struct {
	period time.Duration
	calm   int           // periods without work in a row
	used   time.Duration // CPU time at the last decision
}

// next takes the CPU time this process has used in all.
func (p *pace) next(used time.Duration) {
	worked := used-p.used > max(p.period/20, looking)
	p.used = used
	switch p.calm++; {
	case worked:
		p.period, p.calm = busyPeriod, 0
	case p.calm >= patience:
		p.period, p.calm = min(2*p.period, idlePeriod), 0
	}
}

// processorTime is what the sentry has used. What runs inside makes system calls,
// and so shows here too.
func processorTime() time.Duration {
	var t unix.Timespec
	if unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &t) != nil {
		return 0
	}
	return time.Duration(t.Nano())
}
