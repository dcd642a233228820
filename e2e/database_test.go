package e2e

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// The same life on both databases: create, run, restart, list, destroy.
func TestDatabases(t *testing.T) {
	for _, db := range []string{"sqlite", "postgres"} {
		t.Run(db, func(t *testing.T) {
			o := options{}
			if db == "postgres" {
				_, o.database = postgres(t)
			}
			s := ownServer(t, o)
			c := s.tenant(t)
			id := c.create(t, obj{"name": "box", "metadata": obj{"big": 12345678901234567}})
			c.sh(t, id, "echo kept >/tmp/file")
			if err := s.kill(); err != nil {
				t.Fatal(err)
			}
			s.restart(t)
			if got := c.sh(t, "box", "cat /tmp/file"); got != "kept" {
				t.Errorf("after a restart: %q", got)
			}
			if list := c.do(t, "GET", "sandboxes?state=running", nil).list(); len(list) != 1 || list[0]["id"] != id {
				t.Errorf("list = %v", list)
			}
			c.do(t, "DELETE", "sandboxes/"+id, nil).want(t, 200, "")
			c.do(t, "GET", "sandboxes/%00", nil).want(t, 404, "NOT_FOUND")
		})
	}
}

// "PostgreSQL restarted under load (requests fail cleanly, nothing is lost,
// recovery without restart of the daemon)".
func TestPostgresRestarts(t *testing.T) {
	pg, url := postgres(t)
	s := ownServer(t, options{database: url, flags: []string{"--rate-limit=0", "--max-sandboxes=1000"}})
	c := s.tenant(t)
	watched := c.create(t, nil)
	events := c.open(t, "GET", "sandboxes/"+watched+"/events", nil)
	events.until(t, 10*time.Second, "running", state("running"))

	stop := make(chan struct{})
	var mu sync.Mutex
	var made []string
	refused := 0
	var load sync.WaitGroup
	for range 3 {
		load.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
				a, err := c.try(ctx, "POST", "sandboxes", obj{})
				if err == nil && a.Status == 201 {
					mu.Lock()
					made = append(made, a.str("id"))
					mu.Unlock()
					_, _ = c.try(ctx, "POST", "sandboxes/"+a.str("id")+"/exec", obj{"command": "true"})
				} else if code := a.str("error.code"); err != nil || a.Status != 503 || code != "UNAVAILABLE" && code != "HOST_CAPACITY_EXHAUSTED" {
					t.Errorf("while the database is away: %s %v", a, err)
				} else {
					mu.Lock()
					refused++
					mu.Unlock()
				}
				cancel()
			}
		})
	}
	count := func() int { mu.Lock(); defer mu.Unlock(); return len(made) }
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGQUIT} {
		n := count()
		eventually(t, time.Minute, "creates succeed", func() bool { return count() >= n+3 })
		pg.End(sig)
		if err := pg.Begin(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	n := count()
	eventually(t, time.Minute, "creates succeed again", func() bool { return count() >= n+3 })
	close(stop)
	load.Wait()
	t.Logf("%d made, %d refused", len(made), refused)

	for _, id := range made {
		var a answer
		if !soon(30*time.Second, func() bool { a = c.do(t, "GET", "sandboxes/"+id, nil); return a.str("state") == "running" }) {
			t.Errorf("acknowledged, and now: %s", a)
		}
	}
	if live := c.do(t, "GET", "sandboxes?state=running&limit=1000", nil).list(); len(live) != len(made)+1 {
		t.Errorf("%d run, %d were acknowledged", len(live), len(made)+1)
	}
	c.do(t, "DELETE", "sandboxes/"+watched, nil).want(t, 200, "")
	events.until(t, 20*time.Second, "destroyed, on the stream from before", state("destroyed"))
}

// "Two daemons on one PostgreSQL: each data folder has a node id and a lock, a
// row names its node, only that node touches the host and runs its timers, the
// other forwards to its advertised URL".
func TestTwoServers(t *testing.T) {
	_, url := postgres(t)
	a := ownServer(t, options{database: url, flags: []string{"--rate-limit=0"}})
	b := ownServer(t, options{database: url, flags: []string{"--rate-limit=0"}})
	onA := a.tenant(t)
	onB := b.as(onA.key) // the same caller, at the other door
	first, second := onA.create(t, obj{"name": "first"}), onB.create(t, obj{"name": "second"})

	t.Run("each serves both", func(t *testing.T) {
		for _, c := range []*Client{onA, onB} {
			if got := c.sh(t, first, "hostname"); got == "" {
				t.Error("no host name")
			}
			c.upload(t, "second", "/tmp/f", []byte(c.srv.name)).want(t, 200, "")
			if got := c.download(t, second, "/tmp/f"); string(got.Body) != c.srv.name {
				t.Errorf("download = %s", got)
			}
			if list := c.do(t, "GET", "sandboxes", nil).list(); len(list) != 2 {
				t.Errorf("%s lists %d", c.srv.name, len(list))
			}
		}
	})
	t.Run("strangers see nothing", func(t *testing.T) {
		stranger := b.tenant(t)
		for _, id := range []string{first, "first"} {
			stranger.do(t, "GET", "sandboxes/"+id, nil).want(t, 404, "NOT_FOUND")
			stranger.exec(t, id, "true").want(t, 404, "NOT_FOUND")
		}
	})
	t.Run("terminal", func(t *testing.T) {
		made := onB.do(t, "POST", "sandboxes/"+first+"/terminal", obj{}).want(t, 201, "")
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		at := fmt.Sprintf("%s?session_id=%s&token=%s", made.str("ws_url"), made.str("session_id"), made.str("stream_auth"))
		if !strings.Contains(at, strings.TrimPrefix(b.url, "http")) {
			t.Errorf("ws_url %s is not at the door that was asked", made.str("ws_url"))
		}
		ws, _, err := websocket.Dial(ctx, at, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer ws.CloseNow()
		if err := ws.Write(ctx, websocket.MessageBinary, []byte("echo $((6*7))x\n")); err != nil {
			t.Fatal(err)
		}
		for seen := ""; !strings.Contains(seen, "42x"); {
			_, data, err := ws.Read(ctx)
			if err != nil {
				t.Fatalf("after %q: %v", seen, err)
			}
			seen += string(data)
		}
	})
	t.Run("a revoked key", func(t *testing.T) {
		key := b.as(bootstrapKey).do(t, "POST", "api-keys", obj{"tenant_id": onA.tenant, "name": "short"}).want(t, 201, "")
		short := b.as(key.str("token"))
		short.do(t, "GET", "sandboxes", nil).want(t, 200, "")
		onA.do(t, "DELETE", "api-keys/"+key.str("id"), nil).want(t, 200, "")
		eventually(t, 10*time.Second, "the other server refuses it", func() bool { return short.do(t, "GET", "sandboxes", nil).Status == http.StatusUnauthorized })
	})

	live := onB.open(t, "GET", "sandboxes/"+first+"/events", nil)
	live.until(t, 10*time.Second, "running", state("running"))
	onA.exec(t, first, "echo through")
	live.until(t, 10*time.Second, "output of the other server's sandbox", func(f frame) bool { return f.Event == "exec_output" })
	short := onA.create(t, obj{"timeout_sec": 3})
	if err := a.kill(); err != nil {
		t.Fatal(err)
	}
	live.until(t, 10*time.Second, "why the stream ends", func(f frame) bool { return f.Event == "closing" && f.JSON()["reconnect"] == true })
	for _, method := range []string{"GET", "DELETE"} {
		onB.do(t, method, "sandboxes/"+first, nil).want(t, 503, "NODE_UNAVAILABLE")
	}
	onB.exec(t, first, "true").want(t, 503, "NODE_UNAVAILABLE")
	onB.sh(t, second, "true") // its own go on
	third := onB.create(t, nil)
	if list := onB.do(t, "GET", "sandboxes", nil).list(); len(list) != 4 {
		t.Errorf("lists show %d, want all servers' 4", len(list))
	}
	// B starts again as well: neither has taken over, or freed, what is the other's.
	if err := b.kill(); err != nil {
		t.Fatal(err)
	}
	b.restart(t)
	a.restart(t)
	for _, c := range []*Client{onA, onB} {
		for _, id := range []string{first, second, third} {
			eventually(t, 20*time.Second, id+" answers at "+c.srv.name, func() bool { return c.exec(t, id, "true").Status == 200 })
		}
	}
	eventually(t, 20*time.Second, "A's timer", func() bool { return onB.do(t, "GET", "sandboxes/"+short, nil).str("state") != "running" })
	onB.do(t, "DELETE", "sandboxes/"+first, nil).want(t, 200, "")
	onA.do(t, "DELETE", "sandboxes/"+second, nil).want(t, 200, "")

	drained, err := theLab.silica(a, bootstrapKey, "drain", "--yes").CombinedOutput()
	if err != nil {
		t.Errorf("drain: %v: %s", err, drained)
	}
	onA.do(t, "POST", "sandboxes", obj{}).want(t, 503, "DRAINING")
	onB.sh(t, third, "true") // is on the other
	onB.create(t, nil)
}

func TestDataFolderIsLocked(t *testing.T) {
	s := ownServer(t, options{})
	flags := append([]string{}, s.flags...)
	flags[1] = "--listen=127.0.0.1:0"
	cmd := theLab.silica(s, "", flags...)
	out, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "another silica serve uses") {
		t.Errorf("a second server on the folder: %v: %s", err, out)
	}
}
