package builder

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"silica.dev/silica/sandbox"
)

// kept is an artifact that a later build can begin from, and under which name.
// It may be gone: then it is made again.
type kept struct {
	Key  string
	Ref  sandbox.Ref
	Size int64
	Made time.Time
	Used time.Time

	// Of a base image.
	Digest  string            `json:",omitempty"`
	Env     map[string]string `json:",omitempty"`
	Workdir string            `json:",omitempty"`
	User    string            `json:",omitempty"`
}

// keyOf names by content.
func keyOf(parts ...any) string {
	text, err := json.Marshal(parts)
	if err != nil {
		panic(err) // strings, numbers and maps of them always have a JSON form
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])
}

// makeCache lists what there is. It is as large as CacheBytes says; what was
// used longest ago goes first.
type makeCache struct {
	b *Builder

	mu      sync.Mutex
	entries map[string]kept
}

// cache reads the list at the first call. A list that makes no sense is empty.
func (b *Builder) cache() *makeCache {
	b.making.once.Do(func() {
		c := &b.making.cache
		c.b, c.entries = b, map[string]kept{}
		if b.Making.Cache == "" {
			return
		}
		text, err := os.ReadFile(b.Making.Cache)
		if err == nil {
			var list []kept
			err = json.Unmarshal(text, &list)
			for _, k := range list {
				c.entries[k.Key] = k
			}
		}
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			b.Log.Warn("the list of the build cache can't be read; beginning anew", "err", err)
		}
	})
	return &b.making.cache
}

// makeState is the builder's own of this file.
type makeState struct {
	once  sync.Once
	cache makeCache
}

// open finds an artifact and holds it until release is called.
func (c *makeCache) open(ctx context.Context, key string) (_ kept, release func(), ok bool) {
	c.mu.Lock()
	k, ok := c.entries[key]
	c.mu.Unlock()
	if !ok {
		return kept{}, nil, false
	}
	_, release, err := c.b.Blobs.Open(ctx, k.Ref)
	if err != nil {
		c.b.Log.Info("an artifact of the build cache is gone", "ref", k.Ref, "err", err)
		c.drop(ctx, key)
		return kept{}, nil, false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.entries[key]; ok {
		k.Used = c.b.now()
		c.entries[key] = k
		c.save()
	}
	return k, release, true
}

// add lists an artifact, and frees others to make room. It is held until release
// is called.
func (c *makeCache) add(ctx context.Context, k kept) (_ kept, release func(), err error) {
	dir, release, err := c.b.Blobs.Open(ctx, k.Ref)
	if err != nil {
		return kept{}, nil, fmt.Errorf("list an artifact: %w", err)
	}
	k.Made, k.Used, k.Size = c.b.now(), c.b.now(), sizeOf(dir)
	c.mu.Lock()
	old, had := c.entries[k.Key]
	c.entries[k.Key] = k
	gone := c.overflow(k.Key)
	if had && old.Ref != k.Ref {
		gone = append(gone, old)
	}
	c.save()
	c.mu.Unlock()
	c.discard(ctx, gone)
	return k, release, nil
}

// sizeOf adds up an artifact's files.
func sizeOf(dir string) (n int64) {
	files, _ := os.ReadDir(dir) // what can't be seen takes no room
	for _, f := range files {
		if st, err := f.Info(); err == nil {
			n += st.Size()
		}
	}
	return n
}

// overflow takes entries off the list until the rest fits, but never the one just
// added. mu is held.
func (c *makeCache) overflow(newest string) (gone []kept) {
	if c.b.Making.CacheBytes == 0 {
		return nil
	}
	var total int64
	seen := map[sandbox.Ref]bool{}
	all := slices.SortedFunc(maps.Values(c.entries), func(a, b kept) int { return b.Used.Compare(a.Used) })
	for _, k := range all {
		if !seen[k.Ref] {
			seen[k.Ref] = true
			total += k.Size
		}
		if total > c.b.Making.CacheBytes && k.Key != newest {
			delete(c.entries, k.Key)
			gone = append(gone, k)
		}
	}
	return gone
}

// drop takes one entry off the list.
func (c *makeCache) drop(ctx context.Context, key string) {
	c.mu.Lock()
	k, ok := c.entries[key]
	delete(c.entries, key)
	c.save()
	c.mu.Unlock()
	if ok {
		c.discard(ctx, []kept{k})
	}
}

// discard frees what was taken off the list, unless something else needs it. mu
// is not held.
func (c *makeCache) discard(ctx context.Context, gone []kept) {
	for _, k := range gone {
		c.b.discard(ctx, k.Ref)
	}
}

// names adds what is on the list.
func (c *makeCache) names(to map[sandbox.Ref]bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, k := range c.entries {
		to[k.Ref] = true
	}
}

// save writes the list. Losing the newest version of it loses time, so nothing
// waits for the disk. mu is held.
func (c *makeCache) save() {
	if c.b.Making.Cache == "" {
		return
	}
	list := slices.SortedFunc(maps.Values(c.entries), func(a, b kept) int { return a.Made.Compare(b.Made) })
	text, err := json.Marshal(list)
	if err == nil {
		temp := filepath.Join(filepath.Dir(c.b.Making.Cache), "."+filepath.Base(c.b.Making.Cache)+".new")
		if err = os.WriteFile(temp, text, 0o600); err == nil {
			err = os.Rename(temp, c.b.Making.Cache)
		}
	}
	if err != nil {
		c.b.Log.Warn("the list of the build cache is not saved", "err", err)
	}
}
