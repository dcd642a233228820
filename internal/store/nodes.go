package store

import (
	"context"
	"crypto/rand"
	"database/sql"
	"database/sql/driver"
	"fmt"
	"sync"
	"time"

	"silica.dev/silica/sandbox"
)

const (
	// nodeBeat is how often a node says that it lives, and looks who else does.
	nodeBeat = time.Second
	// nodeSilence is how long a node may say nothing until requests for what it
	// has are no longer sent there.
	nodeSilence = 10 * time.Second
	// joinWait is how long a node waits for its own id: the connection of a
	// daemon that was killed a moment ago may still hold it.
	joinWait = 10 * time.Second
)

// others are the nodes on the same database, as this one has seen them.
type others struct {
	mu   sync.Mutex
	seen map[string]neighbour
}

type neighbour struct {
	url  string
	beat int64     // its last_seen, by its clock
	at   time.Time // when that changed, by ours: clocks may differ
}

// join makes rows without a node this one's: they are from a time when there was
// one only; of SQLite all rows, as there is never another. On PostgreSQL it then
// makes this node known to the others, and itself the only one with its id,
// until Close.
func (s *Store) join(ctx context.Context) error {
	if s.cfg.Node == "" {
		return nil
	}
	ours := "node = ''"
	if s.cfg.URL == "" {
		ours = "node <> $1"
	}
	err := s.do(ctx, "take over rows", func(t *tx) error {
		for _, table := range []string{"sandboxes", "templates", "revisions", "seeds", "builds"} {
			if _, err := t.exec(`update `+table+` set node = $1 where `+ours, s.cfg.Node); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil || s.cfg.URL == "" {
		return err
	}
	conn, err := s.holdID(ctx)
	if err != nil {
		return err
	}
	if err := s.beat(ctx, conn); err != nil {
		return errOf(err, conn)
	}
	s.done.Go(func() { s.beatLoop(conn) })
	return nil
}

func errOf(err error, conn *sql.Conn) error {
	_ = conn.Close()
	return wrap(err, "join the database's servers")
}

// holdID returns a connection that holds this node's id.
func (s *Store) holdID(ctx context.Context) (*sql.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, joinWait)
	defer cancel()
	for {
		conn, err := s.read.Conn(ctx)
		if err != nil {
			return nil, wrap(err, "join the database's servers")
		}
		var mine bool
		err = conn.QueryRowContext(ctx, `select pg_try_advisory_lock(hashtextextended('silica node ' || $1, 0))`, s.cfg.Node).Scan(&mine)
		if err == nil && mine {
			return conn, nil
		}
		if err != nil {
			return nil, errOf(err, conn)
		}
		_ = conn.Close()
		select {
		case <-time.After(nodeBeat / 4):
		case <-ctx.Done():
			return nil, fmt.Errorf("another silica serve uses this database as node %s: two servers must not share a data folder; "+
				"in a copy of one, remove the file node.id", s.cfg.Node)
		}
	}
}

// beatLoop ends with the store. A connection that breaks is replaced.
func (s *Store) beatLoop(conn *sql.Conn) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	stop := make(chan struct{})
	defer close(stop)
	go func() {
		select {
		case <-s.quit:
			cancel()
		case <-stop:
		}
	}()
	t := time.NewTicker(nodeBeat)
	defer t.Stop()
	defer func() {
		if conn != nil { // the pool must not keep one that holds a lock
			_ = conn.Raw(func(any) error { return driver.ErrBadConn })
			_ = conn.Close()
		}
	}()
	for {
		select {
		case <-s.quit:
			return
		case <-t.C:
		}
		if conn == nil {
			var err error
			if conn, err = s.holdID(ctx); err != nil {
				conn = nil
				continue
			}
		}
		once, done := context.WithTimeout(ctx, nodeSilence/2)
		err := s.beat(once, conn)
		done()
		if err != nil {
			_ = conn.Raw(func(any) error { return driver.ErrBadConn })
			_ = conn.Close()
			conn = nil
		}
	}
}

// beat says that this node lives, and looks at the others.
func (s *Store) beat(ctx context.Context, conn *sql.Conn) error {
	_, err := conn.ExecContext(ctx, `insert into nodes (id, url, version, last_seen) values ($1, $2, $3, $4)
		on conflict (id) do update set url = excluded.url, version = excluded.version, last_seen = excluded.last_seen`,
		s.cfg.Node, s.cfg.NodeURL, s.cfg.Version, micros(time.Now()))
	if err != nil {
		return err
	}
	nodes, err := s.nodes(ctx, conn)
	if err != nil {
		return err
	}
	s.others.mu.Lock()
	defer s.others.mu.Unlock()
	now := time.Now()
	seen := make(map[string]neighbour, len(nodes))
	for _, n := range nodes {
		one := neighbour{url: n.URL, beat: micros(n.LastSeen), at: now}
		if was, known := s.others.seen[n.ID]; known && was.beat == one.beat {
			one.at = was.at
		} else if !known && now.Sub(n.LastSeen).Abs() > time.Hour {
			one.at = time.Time{} // gone long ago; of others we'll see
		}
		seen[n.ID] = one
	}
	s.others.seen = seen
	return nil
}

func (s *Store) nodes(ctx context.Context, conn *sql.Conn) ([]sandbox.Node, error) {
	rows, err := conn.QueryContext(ctx, `select id, url, version, last_seen from nodes order by id`)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var list []sandbox.Node
	for rows.Next() {
		var n sandbox.Node
		var seen int64
		if err := rows.Scan(&n.ID, &n.URL, &n.Version, &seen); err != nil {
			return nil, err
		}
		n.LastSeen = fromMicros(seen)
		list = append(list, n)
	}
	return list, rows.Err()
}

// NodeSecret is what servers on this database know each other by. The first one
// makes it.
func (s *Store) NodeSecret(ctx context.Context) (secret []byte, err error) {
	err = s.do(ctx, "node secret", func(t *tx) error {
		if _, err := t.exec(`insert into meta (name, value) values ('node_secret', $1) on conflict (name) do nothing`, rand.Text()); err != nil {
			return err
		}
		return t.row(`select value from meta where name = 'node_secret'`).Scan(&secret)
	})
	return secret, err
}

// Elsewhere returns the URL of the server that has a tenant's sandbox, "" when
// this one has it or there is no such sandbox. An empty tenant stands for any:
// then id must be an ID or a slug. [sandbox.CodeNodeUnavailable] says that the server is
// not there just now.
func (s *Store) Elsewhere(ctx context.Context, tenant sandbox.TenantID, id string) (string, error) {
	var node string
	if tenant == "" {
		err := s.read.QueryRowContext(ctx, `select node from sandboxes where id = $1 or slug = $1`, id).Scan(&node)
		if none(err) {
			return "", nil
		}
		if err != nil {
			return "", wrap(err, "find the sandbox's server")
		}
	} else {
		sb, err := s.Sandbox(ctx, tenant, id)
		switch sandbox.AsError(err).Kind {
		case sandbox.NotFound, sandbox.Conflict, sandbox.Invalid:
			return "", nil // for who looks again to say
		}
		if err != nil {
			return "", err
		}
		node = sb.Node
	}
	return s.NodeURL(ctx, node)
}

// ElsewhereTemplate is Elsewhere for a tenant's template, by id or slug, and for a
// build of one, by id. Official ones are every server's own.
func (s *Store) ElsewhereTemplate(ctx context.Context, tenant sandbox.TenantID, id string) (string, error) {
	var node string
	err := s.read.QueryRowContext(ctx, `select node from templates where tenant = $1 and tenant <> '' and (id = $2 or slug = $2) and deleted_at = 0
		union all select node from builds where id = $2 and (tenant = $1 or tenant = '') limit 1`, string(tenant), id).Scan(&node)
	if none(err) {
		return "", nil
	}
	if err != nil {
		return "", wrap(err, "find the template's server")
	}
	return s.urlOf(node, errBuilderAway)
}

// NodeURL returns where the server is that is a node; "" when it is this one.
// [sandbox.CodeNodeUnavailable] says that it is not there just now.
func (s *Store) NodeURL(_ context.Context, node string) (string, error) {
	return s.urlOf(node, errNodeAway)
}

// urlOf returns where a server is reached, "" for this one, and away when it is
// not there.
func (s *Store) urlOf(node string, away *sandbox.Error) (string, error) {
	if node == s.cfg.Node {
		return "", nil
	}
	s.others.mu.Lock()
	n := s.others.seen[node]
	s.others.mu.Unlock()
	if n.url == "" || time.Since(n.at) > nodeSilence {
		return "", away.With("node", node)
	}
	return n.url, nil
}

var (
	errNodeAway    = sandbox.E(sandbox.Unavailable, sandbox.CodeNodeUnavailable, "the server that has this sandbox can't be reached just now")
	errBuilderAway = sandbox.E(sandbox.Unavailable, sandbox.CodeNodeUnavailable, "the server that has this template can't be reached just now")
)
