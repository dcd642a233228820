package store

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math/big"
	"strings"
	"time"

	"silica.dev/silica/sandbox"
)

// Secrets begin with secretPrefix; ours go on with the type of key.
const (
	secretPrefix = "msk_"
	ticketPrefix = "sset_"
	shownPrefix  = 10 // characters of a secret that are kept to recognise it by
)

var prefixOf = map[sandbox.KeyType]string{
	sandbox.UserKey: "msk_u_", sandbox.AdminKey: "msk_a_", sandbox.PlatformKey: "msk_p_", sandbox.ScopedKey: "msk_s_",
}

var (
	badKey          = sandbox.E(sandbox.Unauthenticated, sandbox.CodeUnauthorized, "the API key is missing or not valid")
	expiredKey      = sandbox.E(sandbox.Unauthenticated, sandbox.CodeUnauthorized, "the API key has expired")
	badTicket       = sandbox.E(sandbox.Unauthenticated, sandbox.CodeUnauthorized, "the ticket was used, has expired, or never was")
	noSuchUser      = sandbox.Field("user_id", "no such user")
	noSuchWorkspace = sandbox.Field("workspace_id", "no such workspace")
	noKey           = sandbox.E(sandbox.NotFound, sandbox.CodeNotFound, "key not found")
)

// NewSecret returns a fresh secret for a key: 256 random bits.
func NewSecret(admin bool) string {
	if admin {
		return newSecret(prefixOf[sandbox.AdminKey])
	}
	return newSecret(prefixOf[sandbox.UserKey])
}

func newSecret(prefix string) string {
	var b [32]byte
	_, _ = rand.Read(b[:])
	text := new(big.Int).SetBytes(b[:]).Text(62)
	return prefix + strings.Repeat("0", max(0, 43-len(text))) + text
}

func hash(secret string) string {
	sum := sha256.Sum256([]byte(secret))
	return hex.EncodeToString(sum[:])
}

// selectCaller reads a key with all that decides what it may.
const selectCaller = `select k.id, k.tenant, k.user_id, k.admin, k.type, k.scopes, k.workspace, k.expires_at, t.max_sandboxes,
	coalesce(u.role, ''), coalesce(m.role, '')
	from api_keys k join tenants t on t.id = k.tenant
	left join users u on u.id = k.user_id and u.tenant = k.tenant
	left join members m on m.workspace = k.workspace and m.user_id = k.user_id and k.workspace <> '' `

func scanCaller(row scanner) (c sandbox.Caller, err error) {
	var kind sandbox.KeyType
	var scopes string
	var role, member sandbox.Role
	var expires int64
	err = row.Scan(&c.KeyID, &c.Tenant, &c.User, &c.Admin, &kind, &scopes, &c.Workspace, &expires, &c.MaxSandboxes, &role, &member)
	if err != nil {
		return sandbox.Caller{}, err
	}
	c.Derived, c.ExpiresAt = kind == sandbox.ScopedKey, fromMicros(expires)
	c.Role = role.Higher(member)
	c.Scopes = scopesFrom(scopes)
	if c.Admin {
		c.Role = sandbox.Owner
	} else {
		c.Scopes &= c.Role.May()
	}
	return c, nil
}

func scopesFrom(text string) sandbox.Scopes {
	var set sandbox.Scopes
	for _, name := range strings.Fields(text) { // one that a later version wrote means nothing here
		s, _ := sandbox.ParseScopes([]string{name})
		set |= s
	}
	return set
}

// Authenticate tells whose key secret is. Unauthenticated says nobody's.
func (s *Store) Authenticate(ctx context.Context, secret string) (sandbox.Caller, error) {
	if !strings.HasPrefix(secret, secretPrefix) {
		return sandbox.Caller{}, badKey
	}
	return s.caller(ctx, hash(secret), `where k.hash = $1`)
}

// Caller tells what the key with an ID may do by now.
func (s *Store) Caller(ctx context.Context, key string) (sandbox.Caller, error) {
	return s.caller(ctx, key, `where k.id = $1`)
}

func (s *Store) caller(ctx context.Context, name, where string) (sandbox.Caller, error) {
	now := time.Now()
	caller, age, ok := s.keys.get(name, now)
	if !ok {
		var err error
		caller, err = scanCaller(s.read.QueryRowContext(ctx, selectCaller+where, name))
		if none(err) {
			return sandbox.Caller{}, badKey
		}
		if err != nil {
			return sandbox.Caller{}, wrap(err, "authenticate")
		}
		s.keys.put(name, caller, age, now)
	}
	if !caller.ExpiresAt.IsZero() && !now.Before(caller.ExpiresAt) {
		return sandbox.Caller{}, expiredKey
	}
	return caller, nil
}

// complete fills in what a key that does not say is.
func complete(k *sandbox.Key) {
	if k.Admin {
		k.Type = sandbox.AdminKey
	}
	k.Type = cmp.Or(k.Type, sandbox.UserKey)
	k.Scopes = cmp.Or(k.Scopes, sandbox.AllScopes)
}

func (t *tx) addKey(k *sandbox.Key, secret string) error {
	k.ID, k.CreatedAt = sandbox.NewName("key_"), time.Now().UTC().Truncate(time.Microsecond)
	complete(k)
	if k.User == "" {
		u := sandbox.User{Tenant: k.Tenant, Name: k.Name, Role: sandbox.Owner}
		if err := t.addUser(&u); err != nil {
			return err
		}
		k.User = u.ID
	}
	k.Prefix = secret[:min(shownPrefix, len(secret)/2)]
	_, err := t.exec(`insert into api_keys (id, tenant, user_id, name, type, prefix, admin, scopes, workspace, parent, expires_at, hash, created_at)
		values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)`,
		k.ID, string(k.Tenant), k.User, k.Name, string(k.Type), k.Prefix, k.Admin, strings.Join(k.Scopes.Names(), " "), k.Workspace, k.Parent,
		micros(k.ExpiresAt), hash(secret), micros(k.CreatedAt))
	return err
}

// CreateKey makes a key for k's tenant and returns it with its secret, which is
// kept nowhere. Without a user it belongs to a fresh one, an owner. A key for a
// workspace, or of a user, that the tenant does not have is refused, as is one
// more than the tenant may have.
func (s *Store) CreateKey(ctx context.Context, k sandbox.Key) (sandbox.Key, string, error) {
	complete(&k)
	secret := newSecret(prefixOf[k.Type])
	asked := k
	err := s.do(ctx, "create key", func(t *tx) error {
		k = asked // it may run twice
		if err := t.lockTenant(k.Tenant); err != nil {
			return err
		}
		if k.User != "" {
			if err := t.need(noSuchUser, `select count(*) from users where id = $1 and tenant = $2`, k.User, string(k.Tenant)); err != nil {
				return err
			}
		}
		if k.Workspace != "" {
			if err := t.need(noSuchWorkspace, `select count(*) from workspaces where id = $1 and tenant = $2`, k.Workspace, string(k.Tenant)); err != nil {
				return err
			}
		}
		if k.Parent != "" { // it may have been revoked a moment ago
			if err := t.need(badKey, `select count(*) from api_keys where id = $1 and tenant = $2`, k.Parent, string(k.Tenant)); err != nil {
				return err
			}
		}
		if err := t.roomForKey(k); err != nil {
			return err
		}
		return t.addKey(&k, secret)
	})
	if err != nil {
		return sandbox.Key{}, "", err
	}
	return k, secret, nil
}

// maxScoped bounds the derived keys one key has at a moment.
const maxScoped = 10_000

func (t *tx) roomForKey(k sandbox.Key) error {
	var most, n int
	if k.Type == sandbox.ScopedKey {
		most = maxScoped
		if _, err := t.exec(`delete from api_keys where parent = $1 and expires_at > 0 and expires_at <= $2`, k.Parent, micros(time.Now())); err != nil {
			return err
		}
		if err := t.row(`select count(*) from api_keys where parent = $1`, k.Parent).Scan(&n); err != nil {
			return err
		}
	} else {
		if err := t.row(`select max_keys from tenants where id = $1`, string(k.Tenant)).Scan(&most); err != nil || most == 0 {
			return err
		}
		if err := t.row(`select count(*) from api_keys where tenant = $1 and type <> $2`, string(k.Tenant), string(sandbox.ScopedKey)).Scan(&n); err != nil {
			return err
		}
	}
	if n >= most {
		return quotaExceeded("keys", int64(most), int64(n), "the limit of %d API keys is reached: delete one first", most)
	}
	return nil
}

func quotaExceeded(quota string, limit, used int64, format string, args ...any) error {
	return sandbox.E(sandbox.Conflict, sandbox.CodeQuota, fmt.Sprintf(format, args...)).
		With("quota", quota).With("limit", limit).With("used", used)
}

// Keys returns a tenant's keys, or with an empty tenant everybody's, oldest
// first. Derived ones are left out.
func (s *Store) Keys(ctx context.Context, tenant sandbox.TenantID) ([]sandbox.Key, error) {
	return queryList(ctx, s, "list keys", scanKey, selectKey+`where (tenant = $1 or $1 = '') and type <> $2 order by created_at, id`,
		string(tenant), string(sandbox.ScopedKey))
}

const selectKey = `select id, tenant, user_id, name, type, prefix, admin, scopes, workspace, parent, expires_at, last_used_at, created_at from api_keys `

func scanKey(row scanner) (k sandbox.Key, err error) {
	var scopes string
	var expires, used, created int64
	err = row.Scan(&k.ID, &k.Tenant, &k.User, &k.Name, &k.Type, &k.Prefix, &k.Admin, &scopes, &k.Workspace, &k.Parent, &expires, &used, &created)
	k.Scopes, k.ExpiresAt, k.LastUsedAt, k.CreatedAt = scopesFrom(scopes), fromMicros(expires), fromMicros(used), fromMicros(created)
	return k, err
}

// Key returns one key of a tenant (empty: of any).
func (s *Store) Key(ctx context.Context, tenant sandbox.TenantID, id string) (sandbox.Key, error) {
	k, err := scanKey(s.read.QueryRowContext(ctx, selectKey+`where id = $1 and (tenant = $2 or $2 = '')`, id, string(tenant)))
	if none(err) {
		return sandbox.Key{}, noKey
	}
	return k, wrap(err, "key")
}

// DeleteKey removes a key of a tenant (empty: of any) and those derived from
// it. It works at once. The last admin key stays, with a Conflict.
func (s *Store) DeleteKey(ctx context.Context, tenant sandbox.TenantID, id string) error {
	return s.doAccounts(ctx, "delete key", func(t *tx) error {
		var admin bool
		err := t.row(`delete from api_keys where id = $1 and (tenant = $2 or $2 = '') returning admin`, id, string(tenant)).Scan(&admin)
		if none(err) {
			return noKey
		}
		if err != nil {
			return err
		}
		if _, err := t.exec(`delete from api_keys where parent = $1`, id); err != nil || !admin {
			return err
		}
		return t.keepAdmin()
	})
}

// TicketLife is how long a ticket is good.
const TicketLife = time.Minute

// NewTicket returns what stands for a key once, within TicketLife.
func (s *Store) NewTicket(ctx context.Context, key string) (ticket string, err error) {
	ticket = newSecret(ticketPrefix)
	now := time.Now()
	err = s.do(ctx, "make ticket", func(t *tx) error {
		if _, err := t.exec(`delete from tickets where expires_at < $1`, micros(now)); err != nil {
			return err
		}
		_, err := t.exec(`insert into tickets (hash, api_key, expires_at) values ($1, $2, $3)`, hash(ticket), key, micros(now.Add(TicketLife)))
		return err
	})
	return ticket, err
}

// Redeem takes a ticket, for ever, and tells whose key it stands for.
func (s *Store) Redeem(ctx context.Context, ticket string) (sandbox.Caller, error) {
	if !strings.HasPrefix(ticket, ticketPrefix) {
		return sandbox.Caller{}, badTicket
	}
	// Guesses must not reach the writer.
	var n int
	if err := s.read.QueryRowContext(ctx, `select count(*) from tickets where hash = $1`, hash(ticket)).Scan(&n); err != nil {
		return sandbox.Caller{}, wrap(err, "redeem")
	}
	if n == 0 {
		return sandbox.Caller{}, badTicket
	}
	var key string
	var expires int64
	err := s.do(ctx, "redeem", func(t *tx) error {
		err := t.row(`delete from tickets where hash = $1 returning api_key, expires_at`, hash(ticket)).Scan(&key, &expires)
		if none(err) {
			return badTicket
		}
		return err
	})
	if err != nil {
		return sandbox.Caller{}, err
	}
	if !time.Now().Before(fromMicros(expires)) {
		return sandbox.Caller{}, badTicket
	}
	return s.Caller(ctx, key)
}

// need refuses when a count is 0.
func (t *tx) need(refusal error, count string, args ...any) error {
	var n int
	err := t.row(count, args...).Scan(&n)
	if err == nil && n == 0 {
		err = refusal
	}
	return err
}
