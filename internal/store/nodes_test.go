package store

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"silica.dev/silica/internal/store/pgtest"
	"silica.dev/silica/sandbox"
)

// pair opens two nodes on one PostgreSQL.
func pair(t *testing.T) (a, b *Store) {
	url := newDatabase(t)
	a = openStore(t, Config{URL: url, Node: "node_a", NodeURL: "http://a"})
	b = openStore(t, Config{URL: url, Node: "node_b", NodeURL: "http://b"})
	return a, b
}

func TestNodesKeepTheirOwn(t *testing.T) {
	ctx := context.Background()
	a, b := pair(t)
	tn := tenant(t, a, "acme")
	onA, _, err := a.Create(ctx, fresh(tn), sandbox.CreateRequest{}, 2)
	if err != nil {
		t.Fatal(err)
	}
	member := fresh("")
	member.State = sandbox.Warm
	if err := a.AddMember(ctx, member); err != nil {
		t.Fatal(err)
	}
	onB, _, err := b.Create(ctx, fresh(tn), sandbox.CreateRequest{}, 2)
	if err != nil || onB.ID == member.ID || onB.Node != "node_b" {
		t.Fatalf("a create on b = %+v, %v; want one of its own, not the other's pool member", onB, err)
	}
	if _, _, err := a.Create(ctx, fresh(tn), sandbox.CreateRequest{}, 2); code(err) != sandbox.CodeSandboxLimit {
		t.Errorf("a third of two: %v; a tenant's limit counts on all nodes", err)
	}
	for _, c := range []struct {
		s    *Store
		want sandbox.ID
	}{{a, onA.ID}, {b, onB.ID}} {
		var tenants []sandbox.ID
		rows, err := c.s.Unfreed(ctx)
		for _, sb := range rows {
			if sb.Tenant != "" {
				tenants = append(tenants, sb.ID)
			}
		}
		if err != nil || len(tenants) != 1 || tenants[0] != c.want {
			t.Errorf("%s looks after %v, %v; want %s", c.s.cfg.Node, tenants, err, c.want)
		}
		if list, err := c.s.List(ctx, sandbox.Filter{Tenant: tn}); err != nil || list.Total != 2 {
			t.Errorf("%s lists %d, %v; want both", c.s.cfg.Node, list.Total, err)
		}
	}
	if warm, err := b.Warm(ctx); err != nil || len(warm) != 0 {
		t.Errorf("b's pool = %v, %v", warm, err)
	}
	if _, err := b.Move(ctx, onA.ID, sandbox.Provisioning, sandbox.Destroyed, nil); code(err) != sandbox.CodeNodeUnavailable {
		t.Errorf("b moves a's sandbox: %v", err)
	}
	tpl := sandbox.Template{Slug: "t", Revision: "1", Image: "sha256:a", CreatedAt: time.Now()}
	if err := a.SaveTemplate(ctx, tpl); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Template(ctx, "t"); code(err) != sandbox.CodeNoSuchTemplate {
		t.Errorf("b sees a template whose files a has: %v", err)
	}
}

func TestElsewhere(t *testing.T) {
	ctx := context.Background()
	a, b := pair(t)
	tn, stranger := tenant(t, a, "acme"), tenant(t, a, "stranger")
	sb := fresh(tn)
	sb.Name = "box"
	sb, _, err := a.Create(ctx, sb, sandbox.CreateRequest{}, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{string(sb.ID), sb.Slug, "box"} {
		if url, err := b.Elsewhere(ctx, tn, id); url != "http://a" || err != nil {
			t.Errorf("b looks for %s: %q, %v", id, url, err)
		}
		if url, err := a.Elsewhere(ctx, tn, id); url != "" || err != nil {
			t.Errorf("a looks for its own %s: %q, %v", id, url, err)
		}
		if url, err := b.Elsewhere(ctx, stranger, id); url != "" || err != nil {
			t.Errorf("a stranger looks for %s: %q, %v; want nothing told", id, url, err)
		}
	}
	if url, err := b.Elsewhere(ctx, "", string(sb.ID)); url != "http://a" || err != nil {
		t.Errorf("by id alone: %q, %v", url, err)
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	b.others.mu.Lock() // as after nodeSilence
	one := b.others.seen["node_a"]
	one.at = one.at.Add(-2 * nodeSilence)
	b.others.seen["node_a"] = one
	b.others.mu.Unlock()
	if _, err := b.Elsewhere(ctx, tn, "box"); code(err) != sandbox.CodeNodeUnavailable {
		t.Errorf("the server is gone: %v", err)
	}
}

func TestNodeIDIsHeldByOneServer(t *testing.T) {
	url := newDatabase(t)
	first := openStore(t, Config{URL: url, Node: "node_a"})
	soon, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	if _, err := Open(soon, Config{URL: url, Node: "node_a"}); err == nil || !strings.Contains(err.Error(), "node.id") {
		t.Errorf("a copied data folder: %v", err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	openStore(t, Config{URL: url, Node: "node_a"})
}

// Two nodes write at once, about the same rows: nothing is lost or repeated, and
// a reader with a cursor sees every event.
func TestNodesTakeTurns(t *testing.T) {
	ctx := context.Background()
	a, b := pair(t)
	tn := tenant(t, a, "acme")
	const each, limit = 40, 50
	ids := make([]sandbox.ID, 2*each)
	var wg sync.WaitGroup
	for i, s := range []*Store{a, b} {
		for k := range each {
			wg.Go(func() {
				sb, _, err := s.Create(ctx, fresh(tn), sandbox.CreateRequest{Workspace: sandbox.Place{Slug: fmt.Sprint("w", k)}}, limit)
				switch code(err) {
				case "":
					ids[i*each+k] = sb.ID
				case sandbox.CodeSandboxLimit:
				default:
					t.Errorf("Create: %v", err)
				}
			})
		}
	}
	stop := make(chan struct{})
	var seen []int64
	var reader sync.WaitGroup
	reader.Go(func() { // across all sandboxes, which is harder than any stream is
		for last := false; ; {
			rows, err := a.read.Query(`select seq from events where seq > $1 order by seq`, append([]int64{0}, seen...)[len(seen)])
			if err != nil {
				t.Error(err)
				return
			}
			for rows.Next() {
				var seq int64
				_ = rows.Scan(&seq)
				seen = append(seen, seq)
			}
			rows.Close()
			if last {
				return
			}
			select {
			case <-stop:
				last = true
			default:
			}
		}
	})
	wg.Wait()
	close(stop)
	reader.Wait()
	made := 0
	for _, id := range ids {
		if id != "" {
			made++
		}
	}
	var stored int
	if err := a.read.QueryRow(`select count(*) from events`).Scan(&stored); err != nil {
		t.Fatal(err)
	}
	if made != limit || stored != limit || len(seen) != limit {
		t.Errorf("%d made, %d events stored, %d seen by the reader; want %d", made, stored, len(seen), limit)
	}
}

// What was acknowledged is there, and what was refused is not, however the
// database goes down. The store needs no restart.
func TestPostgresGoesAwayUnderLoad(t *testing.T) {
	ctx := context.Background()
	own, err := pgtest.Start(ctx)
	if errors.Is(err, pgtest.ErrMissing) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = own.Close() })
	url, err := own.Database(ctx, "test", "")
	if err != nil {
		t.Fatal(err)
	}
	s := openStore(t, Config{URL: url, Node: "node_a"})
	tn := tenant(t, s, "acme")
	var mu sync.Mutex
	acknowledged, refused := map[sandbox.ID]bool{}, map[sandbox.ID]bool{}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				sb := fresh(tn)
				_, _, err := s.Create(ctx, sb, sandbox.CreateRequest{}, 0)
				mu.Lock()
				switch code(err) {
				case "":
					acknowledged[sb.ID] = true
				case sandbox.CodeUnavailable:
					refused[sb.ID] = true
				default:
					t.Errorf("while the database is away: %v", err)
				}
				mu.Unlock()
				if err != nil {
					time.Sleep(time.Millisecond) // refusals come fast
				}
			}
		})
	}
	count := func() int {
		mu.Lock()
		defer mu.Unlock()
		return len(acknowledged)
	}
	grows := func() {
		n := count()
		for deadline := time.Now().Add(30 * time.Second); count() < n+20; time.Sleep(5 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatal("no writes succeed any more")
			}
		}
	}
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGQUIT, syscall.SIGQUIT, syscall.SIGINT} {
		grows()
		own.End(sig)
		if err := own.Begin(ctx); err != nil {
			t.Fatal(err)
		}
	}
	grows()
	close(stop)
	wg.Wait()
	rows, err := s.Unfreed(ctx)
	if err != nil {
		t.Fatal(err)
	}
	stored := map[sandbox.ID]bool{}
	for _, sb := range rows {
		stored[sb.ID] = true
	}
	for id := range acknowledged {
		if !stored[id] {
			t.Errorf("%s was acknowledged and is lost", id)
		}
	}
	for id := range refused {
		if stored[id] {
			t.Errorf("%s was refused and is there", id)
		}
	}
	t.Logf("%d acknowledged, %d refused", len(acknowledged), len(refused))
}
