package idle

import (
	"reflect"
	"runtime"
	"strings"
	"testing"
	"time"
)

// The library's state is as we describe it: its first decision is where we look
// for it, and so are the values before it.
func TestLayout(t *testing.T) {
	if !known(&fastpath) {
		t.Fatalf("backoffs are %d and %d, want %d: the library's fastPathState has changed", fastpath.stubBackoff, fastpath.sentryBackoff, firstBackoff)
	}
	f := runtime.FuncForPC(reflect.ValueOf(fastpath.decide).Pointer())
	if f == nil || !strings.HasSuffix(f.Name(), "systrap.sentryOffStubOff") {
		t.Fatalf("where the decision should be is %v: the library's fastPathState has changed", f)
	}
}

// A sentry without work slows down to some wake-ups a second and is quick again at
// the first work.
func TestPace(t *testing.T) {
	p := pace{period: busyPeriod}
	var used, passed time.Duration
	wakes := 0
	for passed < 10*time.Second {
		passed += p.period
		used += 150 * time.Microsecond // a look on a slow machine
		p.next(used)
		wakes++
	}
	if p.period != idlePeriod || wakes > 400 {
		t.Errorf("after 10 s without work: period %s, %d wake-ups", p.period, wakes)
	}
	p.next(used + 20*time.Millisecond)
	if p.period != busyPeriod {
		t.Errorf("after work: period %s, want %s", p.period, busyPeriod)
	}
}
