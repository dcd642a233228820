package store

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math/big"
	"regexp"
	"strings"
	"sync"
	"time"

	"silica.dev/silica/sandbox"
)

// Secrets begin with secretPrefix; ours go on with the kind of key.
const (
	secretPrefix = "msk_"
	adminPrefix  = "msk_a_"
	userPrefix   = "msk_u_"
	shownPrefix  = 10 // characters of a secret that are kept to recognise it by
)

// metaAdminKey goes before the hashes of the keys that EnsureAdminKey has made,
// in the names of values of the installation.
const metaAdminKey = "admin_key_"

// operatorSlug names the tenant of the first admin key.
const operatorSlug = "default"

var (
	badKey    = sandbox.E(sandbox.Unauthenticated, sandbox.CodeUnauthorized, "the API key is missing or not valid")
	noTenant  = sandbox.E(sandbox.NotFound, sandbox.CodeNotFound, "tenant not found")
	noKey     = sandbox.E(sandbox.NotFound, sandbox.CodeNotFound, "key not found")
	lastAdmin = sandbox.E(sandbox.Conflict, sandbox.CodeConflict, "this would remove the last admin key")
)

var validSlug = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

// NewSecret returns a fresh secret for a key: 256 random bits.
func NewSecret(admin bool) string {
	var b [32]byte
	_, _ = rand.Read(b[:])
	text := new(big.Int).SetBytes(b[:]).Text(62)
	text = strings.Repeat("0", max(0, 43-len(text))) + text
	if admin {
		return adminPrefix + text
	}
	return userPrefix + text
}

func hash(secret string) string {
	sum := sha256.Sum256([]byte(secret))
	return hex.EncodeToString(sum[:])
}

// keyCache remembers whom a hash belongs to. Only known keys get in, so it is
// never larger than the table.
type keyCache struct {
	mu      sync.Mutex
	callers map[string]sandbox.Caller
	// age rises at every change of keys or tenants: what was read before may
	// not be remembered after.
	age uint64
}

func (c *keyCache) get(hash string) (caller sandbox.Caller, age uint64, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	caller, ok = c.callers[hash]
	return caller, c.age, ok
}

func (c *keyCache) put(hash string, caller sandbox.Caller, age uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.age != age {
		return
	}
	if c.callers == nil {
		c.callers = map[string]sandbox.Caller{}
	}
	c.callers[hash] = caller
}

func (c *keyCache) forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.age++
	c.callers = nil
}

// Authenticate tells whose key secret is.
func (s *Store) Authenticate(ctx context.Context, secret string) (sandbox.Caller, error) {
	if !strings.HasPrefix(secret, secretPrefix) {
		return sandbox.Caller{}, badKey
	}
	h := hash(secret)
	caller, age, ok := s.keys.get(h)
	if ok {
		return caller, nil
	}
	err := s.read.QueryRowContext(ctx, `select k.id, k.tenant, k.user_id, k.admin, t.max_sandboxes
		from api_keys k join tenants t on t.id = k.tenant where k.hash = $1`, h).
		Scan(&caller.KeyID, &caller.Tenant, &caller.User, &caller.Admin, &caller.MaxSandboxes)
	if none(err) {
		return sandbox.Caller{}, badKey
	}
	if err != nil {
		return sandbox.Caller{}, wrap(err, "authenticate")
	}
	s.keys.put(h, caller, age)
	return caller, nil
}

// EnsureAdminKey makes secret an admin key of the operator's tenant, unless this
// was done before: a key that was deleted since must not come back by a setting
// nobody removed. The tenant is made with the first one.
func (s *Store) EnsureAdminKey(ctx context.Context, secret string) (created bool, err error) {
	if len(secret) <= len(secretPrefix) || !strings.HasPrefix(secret, secretPrefix) {
		return false, sandbox.Field("key", `must begin with "msk_"`)
	}
	err = s.do(ctx, "ensure admin key", func(t *tx) error {
		created = false
		var n int
		if err := t.row(`select count(*) from api_keys where hash = $1`, hash(secret)).Scan(&n); err != nil {
			return err
		}
		made, err := t.exec(`insert into meta (name, value) values ($1, 'made') on conflict (name) do nothing`, metaAdminKey+hash(secret))
		if err != nil || made == 0 || n > 0 {
			return err
		}
		var tenant sandbox.TenantID
		err = t.row(`select id from tenants where slug = $1`, operatorSlug).Scan(&tenant)
		if none(err) {
			tn := sandbox.Tenant{Slug: operatorSlug, Name: "Default"}
			err = t.addTenant(&tn)
			tenant = tn.ID
		}
		if err != nil {
			return err
		}
		k := sandbox.Key{Tenant: tenant, Name: "first admin key", Admin: true}
		created = true
		return t.addKey(&k, secret)
	})
	return created, err
}

// HasAdminKey tells whether anybody can manage this installation.
func (s *Store) HasAdminKey(ctx context.Context) (bool, error) {
	var n int
	err := s.read.QueryRowContext(ctx, `select count(*) from api_keys where admin = $1`, true).Scan(&n)
	return n > 0, wrap(err, "count admin keys")
}

func (t *tx) addTenant(tn *sandbox.Tenant) error {
	tn.ID, tn.CreatedAt = sandbox.TenantID(sandbox.NewName("tnt_")), time.Now().UTC().Truncate(time.Microsecond)
	_, err := t.exec(`insert into tenants (id, slug, name, max_sandboxes, created_at) values ($1, $2, $3, $4, $5)`,
		string(tn.ID), tn.Slug, tn.Name, tn.MaxSandboxes, micros(tn.CreatedAt))
	if unique(err) {
		return sandbox.E(sandbox.Conflict, sandbox.CodeConflict, fmt.Sprintf("there is a tenant %q already", tn.Slug))
	}
	return err
}

func (t *tx) addKey(k *sandbox.Key, secret string) error {
	k.ID, k.CreatedAt = sandbox.NewName("key_"), time.Now().UTC().Truncate(time.Microsecond)
	k.User = cmp.Or(k.User, sandbox.NewName("usr_"))
	k.Prefix = secret[:min(shownPrefix, len(secret)/2)]
	_, err := t.exec(`insert into api_keys (id, tenant, user_id, name, prefix, admin, hash, created_at) values ($1, $2, $3, $4, $5, $6, $7, $8)`,
		k.ID, string(k.Tenant), k.User, k.Name, k.Prefix, k.Admin, hash(secret), micros(k.CreatedAt))
	return err
}

// CreateTenant makes a tenant and fills in ID and CreatedAt. Without a Slug it
// gets one. A Conflict says that the slug is taken.
func (s *Store) CreateTenant(ctx context.Context, tn sandbox.Tenant) (sandbox.Tenant, error) {
	tn.Slug = cmp.Or(tn.Slug, sandbox.NewSlug())
	tn.Name = cmp.Or(tn.Name, tn.Slug)
	if !validSlug.MatchString(tn.Slug) {
		return sandbox.Tenant{}, sandbox.Field("slug", "must be 1 to 63 lower-case letters, digits and hyphens, with no hyphen at either end")
	}
	if tn.MaxSandboxes < 0 {
		return sandbox.Tenant{}, sandbox.Field("max_sandboxes", "must not be negative")
	}
	err := s.do(ctx, "create tenant", func(t *tx) error { return t.addTenant(&tn) })
	if err != nil {
		return sandbox.Tenant{}, err
	}
	return tn, nil
}

// Tenants returns all tenants, oldest first.
func (s *Store) Tenants(ctx context.Context) ([]sandbox.Tenant, error) {
	rows, err := s.read.QueryContext(ctx, `select id, slug, name, max_sandboxes, created_at from tenants order by created_at, id`)
	if err != nil {
		return nil, wrap(err, "list tenants")
	}
	defer rows.Close()
	var list []sandbox.Tenant
	for rows.Next() {
		var tn sandbox.Tenant
		var created int64
		if err := rows.Scan(&tn.ID, &tn.Slug, &tn.Name, &tn.MaxSandboxes, &created); err != nil {
			return nil, wrap(err, "list tenants")
		}
		tn.CreatedAt = fromMicros(created)
		list = append(list, tn)
	}
	return list, wrap(rows.Err(), "list tenants")
}

// DeleteTenant removes a tenant with its keys, workspaces and projects. It
// refuses with a Conflict while a sandbox of it is neither destroyed nor
// failed, and when it owns the last admin key. Rows of its ended sandboxes stay
// until they are old; nobody can read them.
func (s *Store) DeleteTenant(ctx context.Context, id sandbox.TenantID) error {
	err := s.do(ctx, "delete tenant", func(t *tx) error {
		n, err := t.exec(`update tenants set serial = serial + 1 where id = $1`, string(id))
		if err != nil {
			return err
		}
		if n == 0 {
			return noTenant
		}
		var live int
		if err := t.row(`select count(*) from sandboxes where tenant = $1 and state not in ($2, $3)`,
			string(id), string(sandbox.Destroyed), string(sandbox.Failed)).Scan(&live); err != nil {
			return err
		}
		if live > 0 {
			return sandbox.E(sandbox.Conflict, sandbox.CodeConflict, fmt.Sprintf("the tenant has %d live sandboxes: destroy them first", live))
		}
		for _, table := range []string{"api_keys", "projects", "workspaces", "idempotency"} {
			if _, err := t.exec(`delete from `+table+` where tenant = $1`, string(id)); err != nil {
				return err
			}
		}
		if _, err := t.exec(`delete from tenants where id = $1`, string(id)); err != nil {
			return err
		}
		return t.keepAdmin()
	})
	s.keys.forget()
	return err
}

// keepAdmin fails when no admin key is left.
func (t *tx) keepAdmin() error {
	var n int
	if err := t.row(`select count(*) from api_keys where admin = $1`, true).Scan(&n); err != nil {
		return err
	}
	if n == 0 {
		return lastAdmin
	}
	return nil
}

// CreateKey makes a key for k's tenant and user (a fresh one if empty) and
// returns it with its secret, which is kept nowhere.
func (s *Store) CreateKey(ctx context.Context, k sandbox.Key) (sandbox.Key, string, error) {
	secret := NewSecret(k.Admin)
	err := s.do(ctx, "create key", func(t *tx) error {
		var n int
		if err := t.row(`select count(*) from tenants where id = $1`, string(k.Tenant)).Scan(&n); err != nil {
			return err
		}
		if n == 0 {
			return noTenant
		}
		return t.addKey(&k, secret)
	})
	if err != nil {
		return sandbox.Key{}, "", err
	}
	return k, secret, nil
}

// Keys returns a tenant's keys, or with an empty tenant everybody's, oldest first.
func (s *Store) Keys(ctx context.Context, tenant sandbox.TenantID) ([]sandbox.Key, error) {
	rows, err := s.read.QueryContext(ctx, `select id, tenant, user_id, name, prefix, admin, created_at from api_keys
		where tenant = $1 or $1 = '' order by created_at, id`, string(tenant))
	if err != nil {
		return nil, wrap(err, "list keys")
	}
	defer rows.Close()
	var list []sandbox.Key
	for rows.Next() {
		var k sandbox.Key
		var created int64
		if err := rows.Scan(&k.ID, &k.Tenant, &k.User, &k.Name, &k.Prefix, &k.Admin, &created); err != nil {
			return nil, wrap(err, "list keys")
		}
		k.CreatedAt = fromMicros(created)
		list = append(list, k)
	}
	return list, wrap(rows.Err(), "list keys")
}

// DeleteKey removes a key of a tenant (empty: of any). It works at once. The
// last admin key stays, with a Conflict.
func (s *Store) DeleteKey(ctx context.Context, tenant sandbox.TenantID, id string) error {
	err := s.do(ctx, "delete key", func(t *tx) error {
		var admin bool
		err := t.row(`delete from api_keys where id = $1 and (tenant = $2 or $2 = '') returning admin`, id, string(tenant)).Scan(&admin)
		if none(err) {
			return noKey
		}
		if err != nil || !admin {
			return err
		}
		return t.keepAdmin()
	})
	s.keys.forget()
	return err
}
