package server

import (
	"sync"
	"time"
)

// limiter is one token bucket a workspace. A bucket that is full again is
// forgotten, so memory follows the number of active ones.
type limiter struct {
	perMinute int // 0: no limit
	rate      time.Duration

	mu      sync.Mutex
	buckets map[string]*bucket
	swept   time.Time
}

// bucket holds, instead of tokens, the time at which it will be full.
type bucket struct{ full time.Time }

func newLimiter(perMinute int) *limiter {
	l := &limiter{perMinute: perMinute, buckets: map[string]*bucket{}}
	if perMinute > 0 {
		l.rate = time.Minute / time.Duration(perMinute)
	}
	return l
}

// take takes one token, or tells how long until there is one.
func (l *limiter) take(key string, now time.Time) time.Duration {
	if l.perMinute <= 0 {
		return 0
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if now.Sub(l.swept) > time.Minute {
		for k, b := range l.buckets {
			if !b.full.After(now) {
				delete(l.buckets, k)
			}
		}
		l.swept = now
	}
	b := l.buckets[key]
	if b == nil {
		b = &bucket{}
		l.buckets[key] = b
	}
	if b.full.Before(now) {
		b.full = now
	}
	next := b.full.Add(l.rate)
	if over := next.Sub(now) - time.Minute; over > 0 {
		return over
	}
	b.full = next
	return 0
}
