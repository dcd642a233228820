package store

import (
	"context"
	"sync"
	"time"

	"github.com/google/uuid"

	"silica.dev/silica/sandbox"
)

// keyCache remembers what keys may do, by their hashes and by their IDs. Only
// known keys get in, so it is never larger than twice the table.
type keyCache struct {
	mu      sync.Mutex
	callers map[string]remembered
	// age rises at every change of keys, tenants or roles: what was read before
	// may not be remembered after.
	age uint64
	// used holds when keys were last used, until that is written.
	used map[string]time.Time
}

type remembered struct {
	caller sandbox.Caller
	noted  time.Time // when its use was last noted
}

// How exactly the last use of a key is known, and how late it is written.
const (
	usedGrain = time.Minute
	usedEvery = 30 * time.Second
)

func (c *keyCache) get(name string, now time.Time) (caller sandbox.Caller, age uint64, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	r, ok := c.callers[name]
	if ok && now.Sub(r.noted) > usedGrain {
		r.noted = now
		c.callers[name] = r
		c.note(r.caller.KeyID, now)
	}
	return r.caller, c.age, ok
}

func (c *keyCache) put(name string, caller sandbox.Caller, age uint64, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.note(caller.KeyID, now)
	if c.age != age {
		return
	}
	if c.callers == nil {
		c.callers = map[string]remembered{}
	}
	c.callers[name] = remembered{caller, now}
}

// note is called with mu held.
func (c *keyCache) note(key string, now time.Time) {
	if c.used == nil {
		c.used = map[string]time.Time{}
	}
	c.used[key] = now
}

func (c *keyCache) forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.age++
	c.callers = nil
}

func (c *keyCache) takeUsed() map[string]time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	used := c.used
	c.used = nil
	return used
}

// writeUsed keeps when keys were last used.
func (s *Store) writeUsed() error {
	used := s.keys.takeUsed()
	if len(used) == 0 {
		return nil
	}
	return s.do(context.Background(), "note use of keys", func(t *tx) error {
		for key, at := range used {
			if _, err := t.exec(`update api_keys set last_used_at = $2 where id = $1 and last_used_at < $2`, key, micros(at)); err != nil {
				return err
			}
		}
		return nil
	})
}

// metaAccounts is the name of a value that differs after every change of what
// keys may do, for other servers on the same database.
const metaAccounts = "accounts_version"

// OnAccounts has fn called after every change of keys, tenants or roles: what
// Authenticate said before may be wrong by then. There is one fn; set it before
// the first request.
func (s *Store) OnAccounts(fn func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.onAccounts = fn
}

// doAccounts is do for what changes the meaning of keys.
func (s *Store) doAccounts(ctx context.Context, what string, run func(*tx) error) error {
	err := s.do(ctx, what, func(t *tx) error {
		if err := run(t); err != nil {
			return err
		}
		_, err := t.exec(`insert into meta (name, value) values ($1, $2) on conflict (name) do update set value = excluded.value`,
			metaAccounts, uuid.NewString())
		return err
	})
	s.accountsChanged() // on an error, too: it may have happened
	return err
}

func (s *Store) accountsChanged() {
	s.keys.forget()
	s.mu.Lock()
	fn := s.onAccounts
	s.mu.Unlock()
	if fn != nil {
		fn()
	}
}

// accountsLoop writes when keys were used, and, where other servers share the
// database, looks every SharedEvery whether one of them has changed an account.
func (s *Store) accountsLoop() {
	write := time.NewTicker(usedEvery)
	defer write.Stop()
	var look <-chan time.Time
	if s.cfg.SharedEvery > 0 {
		t := time.NewTicker(s.cfg.SharedEvery)
		defer t.Stop()
		look = t.C
	}
	var last string
	for {
		select {
		case <-s.quit:
			return
		case <-write.C:
			_ = s.writeUsed() // of no consequence; the next use is noted again
		case <-look:
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
			v, err := s.Meta(ctx, metaAccounts)
			cancel()
			if err == nil && v != last {
				last = v
				s.accountsChanged()
			}
		}
	}
}
