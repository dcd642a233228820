package server

import (
	"sync"
	"time"
)

// limiter is one token bucket a key, of n tokens, refilled once in every window.
// A bucket that is full again is
// forgotten, so memory follows the number of active ones.
type limiter struct {
	window time.Duration
	rate   time.Duration // of one token; 0: no limit

	mu      sync.Mutex
	buckets map[string]*bucket
	swept   time.Time
}

// bucket holds, instead of tokens, the time at which it will be full.
type bucket struct{ full time.Time }

// newLimiter gives every key n tokens a window; 0 is no limit.
func newLimiter(n int, window time.Duration) *limiter {
	l := &limiter{window: window, buckets: map[string]*bucket{}}
	if n > 0 {
		l.rate = window / time.Duration(n)
	}
	return l
}

// take takes one token, or tells how long until there is one.
func (l *limiter) take(key string, now time.Time) time.Duration {
	if l.rate == 0 {
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
	if over := next.Sub(now) - l.window; over > 0 {
		return over
	}
	b.full = next
	return 0
}

// wait tells how long until there is a token, and takes none.
func (l *limiter) wait(key string, now time.Time) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.buckets[key]
	if l.rate == 0 || b == nil {
		return 0
	}
	return max(b.full.Add(l.rate).Sub(now)-l.window, 0)
}
