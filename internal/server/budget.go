package server

import (
	"context"
	"sync"
	"time"

	"silica.dev/silica/sandbox"
)

// budget is the memory that the outputs of blocking commands share, in bytes.
// No tenant gets more than a quarter of it.
type budget struct {
	most int64

	mu      sync.Mutex
	used    int64
	tenants map[sandbox.TenantID]int64
}

func newBudget(most int64) *budget {
	return &budget{most: most, tenants: map[sandbox.TenantID]int64{}}
}

// take tells whether n more bytes may be used for a tenant; always, if due.
func (b *budget) take(tenant sandbox.TenantID, n int64, due bool) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !due && (b.used+n > b.most || b.tenants[tenant]+n > b.most/4) {
		return false
	}
	b.used += n
	b.tenants[tenant] += n
	return true
}

func (b *budget) give(tenant sandbox.TenantID, n int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.used -= n
	if b.tenants[tenant] -= n; b.tenants[tenant] == 0 {
		delete(b.tenants, tenant)
	}
}

// dropRate is how many bytes a second are read of output that is thrown away:
// a command that never stops writing must not keep a core of the host busy.
const dropRate = 16 << 20

// brake holds back who reads too fast. What was read slowly is no credit.
type brake struct{ due time.Time }

// hold returns when n bytes more are due, or ctx ends.
func (b *brake) hold(ctx context.Context, n int) {
	now := time.Now()
	if b.due.Before(now) {
		b.due = now
	}
	b.due = b.due.Add(time.Duration(n) * time.Second / dropRate)
	ahead := b.due.Sub(now)
	if ahead < 20*time.Millisecond { // many small waits would cost more than they save
		return
	}
	t := time.NewTimer(ahead)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
