package store

import (
	"context"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"silica.dev/silica/internal/event"
	"silica.dev/silica/sandbox"
)

var (
	noSandbox = sandbox.E(sandbox.NotFound, sandbox.CodeNotFound, "sandbox not found")
	ambiguous = sandbox.E(sandbox.Conflict, sandbox.CodeConflict, "several sandboxes have this name: use an id")
	moved     = sandbox.E(sandbox.Conflict, sandbox.CodeConflict, "the sandbox is in another state by now")
)

// Create admits a sandbox for a tenant, in one transaction with its first event:
// it recognises a repeated request (fresh is false), holds the tenant to limit
// live sandboxes (0: no limit), finds or makes workspace and project, and then
// claims a warm member of the same template revision and size, or, when there
// is none, inserts sb. A claimed member keeps its own ID and Slug and comes back
// as Running, not Ready; an inserted one as sb.State.
func (s *Store) Create(ctx context.Context, sb sandbox.Sandbox, req sandbox.CreateRequest, limit int) (got sandbox.Sandbox, fresh bool, err error) {
	err = s.do(ctx, "create sandbox", func(t *tx) error {
		got, fresh = sandbox.Sandbox{}, false
		// Also takes the tenant's row, so that two creates never count at once.
		n, err := t.exec(`update tenants set serial = serial + 1 where id = $1`, string(sb.Tenant))
		if err != nil {
			return err
		}
		if n == 0 {
			return sandbox.E(sandbox.Unauthenticated, sandbox.CodeUnauthorized, "the tenant of this key is no more")
		}
		if got, err = t.repeated(sb, req.Idempotency); err != nil || got.ID != "" {
			return err
		}
		if err := t.admit(sb, limit, s.cfg.Prices, false); err != nil {
			return err
		}
		row := sb
		row.Node = s.cfg.Node
		if row.Workspace, row.Project, err = t.place(sb.Tenant, req.Workspace, req.Project, sb.CreatedAt); err != nil {
			return err
		}
		if got, err = t.claim(row); err != nil {
			return err
		}
		if got.ID == "" {
			if got, err = row, t.insert(row); err != nil {
				return err
			}
		}
		fresh = true
		if err := t.remember(sb.Tenant, req.Idempotency, sb.CreatedAt, string(got.ID)); err != nil {
			return err
		}
		from := sandbox.State("")
		if got.State == sandbox.Running {
			from = sandbox.Provisioning // what came before is nobody's business
		}
		return t.record(stateChanged(got, from))
	})
	return got, fresh, err
}

// claim gives a warm member that fits sb to sb's tenant. The zero Sandbox says
// that there is none.
func (t *tx) claim(sb sandbox.Sandbox) (sandbox.Sandbox, error) {
	if sb.Spec.Revision == "" {
		return sandbox.Sandbox{}, nil
	}
	m, err := scan(t.row(selectSandbox+`where state = $1 and template = $2 and revision = $3
		and milli_cpu = $4 and memory = $5 and disk = $6 and node = $7 order by created_at limit 1`,
		string(sandbox.Warm), sb.Spec.Template, sb.Spec.Revision, sb.Spec.MilliCPU, sb.Spec.Memory, sb.Spec.Disk, sb.Node))
	if none(err) {
		return sandbox.Sandbox{}, nil
	}
	if err != nil {
		return sandbox.Sandbox{}, err
	}
	got := sb
	got.ID, got.Slug, got.Base = m.ID, m.Slug, m.Base
	got.State, got.BootPath, got.StartedAt = sandbox.Running, sandbox.BootPool, sb.CreatedAt
	if !m.State.CanBecome(got.State) {
		return sandbox.Sandbox{}, illegal(m.State, got.State)
	}
	if err := t.update(got, sandbox.Warm); err != nil {
		return sandbox.Sandbox{}, err
	}
	if err := t.label(got); err != nil {
		return sandbox.Sandbox{}, err
	}
	return got, t.track(got, sandbox.Warm)
}

func (t *tx) insert(sb sandbox.Sandbox) error {
	vs, err := values(sb)
	if err != nil {
		return err
	}
	if _, err = t.exec(insertSandbox, vs...); err != nil {
		return err
	}
	return t.label(sb)
}

// update writes all of sb if it is still in the state from.
func (t *tx) update(sb sandbox.Sandbox, from sandbox.State) error {
	vs, err := values(sb)
	if err != nil {
		return err
	}
	n, err := t.exec(updateSandbox, append(vs, string(from))...)
	if err == nil && n == 0 {
		err = moved
	}
	return err
}

// AddMember inserts a sandbox without a tenant, for the warm pool.
func (s *Store) AddMember(ctx context.Context, sb sandbox.Sandbox) error {
	sb.Node = s.cfg.Node
	return s.do(ctx, "add pool member", func(t *tx) error { return t.insert(sb) })
}

// Move changes the state of a sandbox and whatever change sets, in one
// transaction with the events first and then the state_changed. A Conflict says
// that it is not in from any more, and nothing has happened. change may run
// more than once. A sandbox without a tenant moves without events.
func (s *Store) Move(ctx context.Context, id sandbox.ID, from, to sandbox.State, change func(*sandbox.Sandbox), events ...event.Event) (got sandbox.Sandbox, err error) {
	if !from.CanBecome(to) {
		return got, illegal(from, to)
	}
	err = s.do(ctx, fmt.Sprintf("move %s from %s to %s", id, from, to), func(t *tx) error {
		if got, err = t.change(id, from, to, change); err != nil || got.Tenant == "" {
			return err
		}
		for _, e := range events {
			e.Sandbox, e.Tenant, e.At = got.ID, got.Tenant, got.UpdatedAt
			if err := t.record(e); err != nil {
				return err
			}
		}
		return t.record(stateChanged(got, from))
	})
	return got, err
}

// Update changes fields of a sandbox that stays in its state. A Conflict says
// that it has left it.
func (s *Store) Update(ctx context.Context, id sandbox.ID, state sandbox.State, change func(*sandbox.Sandbox)) (got sandbox.Sandbox, err error) {
	err = s.do(ctx, fmt.Sprintf("update %s", id), func(t *tx) error {
		got, err = t.change(id, state, state, change)
		return err
	})
	return got, err
}

func (t *tx) change(id sandbox.ID, from, to sandbox.State, change func(*sandbox.Sandbox)) (sandbox.Sandbox, error) {
	sb, err := scan(t.row(selectSandbox+`where id = $1`, string(id)))
	if none(err) {
		return sandbox.Sandbox{}, noSandbox
	}
	if err != nil {
		return sandbox.Sandbox{}, err
	}
	if sb.Node != t.node {
		return sandbox.Sandbox{}, errNotHere
	}
	if sb.State != from {
		return sandbox.Sandbox{}, moved.With("state", sb.State)
	}
	before := labels(sb)
	if change != nil {
		change(&sb)
	}
	sb.ID, sb.State, sb.UpdatedAt = id, to, time.Now().UTC().Truncate(time.Microsecond)
	if ended(to) { // for ever: nobody needs the secrets in it any more
		sb.Spec.Env = nil
	}
	if err := t.update(sb, from); err != nil {
		return sandbox.Sandbox{}, err
	}
	if err := t.track(sb, from); err != nil {
		return sandbox.Sandbox{}, err
	}
	if err := t.relabel(sb, before); err != nil {
		return sandbox.Sandbox{}, err
	}
	return scan(t.row(selectSandbox+`where id = $1`, string(id))) // as everybody else will read it
}

func ended(s sandbox.State) bool { return s == sandbox.Destroyed || s == sandbox.Failed }

func illegal(from, to sandbox.State) error {
	return sandbox.E(sandbox.Conflict, sandbox.CodeConflict, fmt.Sprintf("a sandbox can't go from %s to %s", from, to))
}

func stateChanged(sb sandbox.Sandbox, from sandbox.State) event.Event {
	data := map[string]any{"state": string(sb.State), "previous_state": nil}
	if from != "" {
		data["previous_state"] = string(from)
	}
	if sb.Reason != "" {
		data["reason"] = sb.Reason
	}
	if sb.State == sandbox.Running && sb.BootPath != "" {
		data["boot_path"] = string(sb.BootPath)
	}
	return event.Event{Sandbox: sb.ID, Tenant: sb.Tenant, Type: event.StateChanged, Data: data, At: sb.UpdatedAt}
}

// Sandbox returns one sandbox of a tenant by its ID, its Slug, or, while it is
// not destroyed, its Name: public clients put any of them where an ID belongs.
// Another tenant's and an unknown one are the same to this query. A Conflict
// says that several live ones have that name.
func (s *Store) Sandbox(ctx context.Context, tenant sandbox.TenantID, id string) (sandbox.Sandbox, error) {
	if !utf8.ValidString(id) || strings.ContainsRune(id, 0) {
		return sandbox.Sandbox{}, noSandbox // PostgreSQL takes no such text
	}
	sb, err := scan(s.read.QueryRowContext(ctx, selectSandbox+`where id = $1 and tenant = $2 and tenant <> ''`, id, string(tenant)))
	if !none(err) {
		return sb, wrap(err, "read sandbox")
	}
	found, err := s.queryAll(ctx, bySlugOrName, string(tenant), id, string(sandbox.Destroyed))
	if err != nil {
		return sandbox.Sandbox{}, err
	}
	for _, sb := range found {
		if sb.Slug == id {
			return sb, nil
		}
	}
	switch len(found) {
	case 0:
		return sandbox.Sandbox{}, noSandbox
	case 1:
		return found[0], nil
	}
	return sandbox.Sandbox{}, ambiguous
}

// bySlugOrName asks in two halves, so that each is found by its index and no
// tenant's rows cost another time.
var bySlugOrName = selectSandbox + `where slug = $2 and tenant = $1 and tenant <> ''
	union all ` + selectSandbox + `where tenant = $1 and name = $2 and name <> '' and tenant <> '' and state <> $3 limit 3`

// Unfreed returns every sandbox that may hold something on this host, whosever
// it is, oldest first.
func (s *Store) Unfreed(ctx context.Context) ([]sandbox.Sandbox, error) {
	return s.query(ctx, `where freed = $1 and node = $2 order by created_at, id`, false, s.cfg.Node)
}

// CountStates counts all sandboxes of this node that are not destroyed,
// whosever they are.
func (s *Store) CountStates(ctx context.Context) (map[sandbox.State]int, error) {
	rows, err := s.read.QueryContext(ctx, `select state, count(*) from sandboxes where state <> $1 and node = $2 group by state`,
		string(sandbox.Destroyed), s.cfg.Node)
	if err != nil {
		return nil, wrap(err, "count sandboxes")
	}
	defer rows.Close()
	counts := map[sandbox.State]int{}
	for rows.Next() {
		var state string
		var n int
		if err := rows.Scan(&state, &n); err != nil {
			return nil, wrap(err, "count sandboxes")
		}
		counts[sandbox.State(state)] = n
	}
	return counts, wrap(rows.Err(), "count sandboxes")
}

// Warm returns the members of this node's warm pool, oldest first.
func (s *Store) Warm(ctx context.Context) ([]sandbox.Sandbox, error) {
	return s.query(ctx, `where state = $1 and node = $2 order by created_at, id`, string(sandbox.Warm), s.cfg.Node)
}

func (s *Store) query(ctx context.Context, rest string, args ...any) ([]sandbox.Sandbox, error) {
	return s.queryAll(ctx, selectSandbox+rest, args...)
}

func (s *Store) queryAll(ctx context.Context, query string, args ...any) ([]sandbox.Sandbox, error) {
	rows, err := s.read.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, wrap(err, "list sandboxes")
	}
	defer rows.Close()
	var list []sandbox.Sandbox
	read := newRowReader()
	for rows.Next() {
		sb, err := read.scan(rows)
		if err != nil {
			return nil, wrap(err, "list sandboxes")
		}
		list = append(list, sb)
	}
	return list, wrap(rows.Err(), "list sandboxes")
}

// MarkFreed notes that the host holds nothing of a sandbox any more, with the
// last readings of its counters, unless it has ended and its row still names
// what was kept of it. It changes nothing else that a tenant sees. An unknown ID is a
// success.
func (s *Store) MarkFreed(ctx context.Context, id sandbox.ID, last ...sandbox.Reading) error {
	return s.do(ctx, "mark freed", func(t *tx) error {
		if err := t.measure(last); err != nil {
			return err
		}
		_, err := t.exec(`update sandboxes set freed = $1 where id = $2 and (files = '' and memory_ref = '' or state not in ($3, $4))`,
			true, string(id), string(sandbox.Destroyed), string(sandbox.Failed))
		return err
	})
}
