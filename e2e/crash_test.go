package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// fate is what a client has been told about one sandbox it asked for.
type fate struct {
	key      string // idempotency key of its create
	brief    bool   // asked for with a timeout of a second
	id       string // empty: its create was never answered
	tried    bool   // an upload of /root/mark was begun; there is only one, so its content is certain
	content  string // of /root/mark, once the upload was answered
	deleting bool   // DELETE was sent
	deleted  bool   // DELETE was answered
}

// load is one tenant's clients: they create, upload, run and delete, and
// remember exactly what was acknowledged.
type load struct {
	c *Client

	mu    sync.Mutex
	n     int
	fates []*fate
	bad   []string // answers that should never come
}

const (
	crashRounds = 50
	crashLive   = 4 // sandboxes a tenant keeps at most
)

func (l *load) complain(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.bad = append(l.bad, fmt.Sprintf(format, args...))
}

// pick returns a random sandbox that is known and not being deleted.
func (l *load) pick() *fate {
	l.mu.Lock()
	defer l.mu.Unlock()
	live := l.living()
	if len(live) == 0 {
		return nil
	}
	return live[rand.IntN(len(live))]
}

func (l *load) living() []*fate {
	var live []*fate
	for _, f := range l.fates {
		if f.id != "" && !f.deleting && !f.brief {
			live = append(live, f)
		}
	}
	return live
}

// create asks for one more, or again for one whose answer was lost. It tells
// whether there was an answer: else nobody knows whether there is a sandbox.
func (l *load) create(ctx context.Context, f *fate) bool {
	body := obj{"name": f.key, "timeout_sec": 900}
	if f.brief {
		body["timeout_sec"] = 1
	}
	a, err := l.c.try(ctx, "POST", "sandboxes", body, header{"Idempotency-Key", f.key})
	if err != nil {
		return false
	}
	if a.Status != http.StatusCreated {
		l.complain("create: %s", a)
		return true
	}
	id := a.str("id")
	l.mu.Lock()
	if f.id != "" && f.id != id {
		l.bad = append(l.bad, fmt.Sprintf("key %s made %s and %s", f.key, f.id, id))
	}
	f.id = id
	l.mu.Unlock()
	return true
}

// work does random things until ctx ends or nobody answers.
func (l *load) work(ctx context.Context) {
	for ctx.Err() == nil {
		l.mu.Lock()
		room := len(l.living()) < crashLive
		l.mu.Unlock()
		f := l.pick()
		switch dice := rand.IntN(10); {
		case f == nil || room && dice < 3:
			l.mu.Lock()
			l.n++
			f = &fate{key: fmt.Sprintf("%s-%d", l.c.tenant, l.n), brief: rand.IntN(8) == 0}
			l.fates = append(l.fates, f)
			l.mu.Unlock()
			if !l.create(ctx, f) {
				return
			}
		case dice < 5:
			content := fmt.Sprintf("%s %d", f.key, rand.Uint64())
			l.mu.Lock()
			tried := f.tried
			f.tried = true
			l.mu.Unlock()
			if tried {
				continue
			}
			a, err := l.c.try(ctx, "POST", "sandboxes/"+f.id+"/files", obj{"path": "/root/mark", "content": []byte(content)})
			if err != nil {
				return
			}
			if a.Status == http.StatusOK {
				l.mu.Lock()
				f.content = content
				l.mu.Unlock()
			}
		case dice < 8:
			a, err := l.c.try(ctx, "POST", "sandboxes/"+f.id+"/exec", obj{"command": "cat /root/mark; sleep 0.1"})
			if err != nil {
				return
			}
			if a.Status >= 500 {
				l.complain("exec: %s", a)
			}
		default:
			l.mu.Lock()
			f.deleting = true
			l.mu.Unlock()
			a, err := l.c.try(ctx, "DELETE", "sandboxes/"+f.id, nil)
			if err != nil {
				return
			}
			if a.Status != http.StatusOK {
				l.complain("delete: %s", a)
			}
			l.mu.Lock()
			f.deleted = true
			l.mu.Unlock()
		}
	}
}

// settle asks again for what was not answered, and compares what there is with
// what was acknowledged.
func (l *load) settle(t *testing.T, round int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	want := map[string]*fate{}
	for _, f := range l.fates {
		if f.id == "" {
			l.create(ctx, f)
		}
		if f.deleting && !f.deleted {
			l.c.do(t, "DELETE", "sandboxes/"+f.id, nil).want(t, 200, "")
			f.deleted = true
		}
		if !f.deleted && !f.brief && f.id != "" {
			want[f.id] = f
		}
	}
	for _, b := range l.bad {
		t.Errorf("round %d: %s", round, b)
	}
	l.bad = nil
	var why string
	if !soon(20*time.Second, func() bool {
		why = ""
		seen := map[string]bool{}
		for _, sb := range l.c.do(t, "GET", "sandboxes", nil).want(t, 200, "").list() {
			id := fmt.Sprint(sb["id"])
			seen[id] = true
			if _, ok := want[id]; !ok || sb["state"] != "running" {
				why += fmt.Sprintf("%s is %v (%v); ", id, sb["state"], sb["state_reason"])
			}
		}
		for id := range want {
			if !seen[id] {
				why += id + " is gone; "
			}
		}
		return why == ""
	}) {
		t.Fatalf("round %d: not as acknowledged: %s %v", round, why, l.bad)
	}
	for id, f := range want {
		a := l.c.exec(t, id, "cat /root/mark 2>/dev/null || true")
		if a.Status != 200 || f.content != "" && a.str("stdout") != f.content {
			t.Errorf("round %d: %s: /root/mark: got %s, want %q", round, id, a, f.content)
		}
	}
	l.fates = slices.DeleteFunc(l.fates, func(f *fate) bool { return f.id != "" && (f.deleted || f.brief && round%5 == 0) })
}

// "`kill -9` of the daemon 50 times at random moments under load: nothing lost,
// stuck or leaked (a test, bounded in time). Two tenants in every isolation
// test."; "no sandbox stuck in a passing state after restart; nothing leaked;
// nothing acknowledged is lost".
func TestKillingTheDaemonLosesNothing(t *testing.T) {
	t.Parallel()
	s := ownServer(t, options{flags: []string{"--rate-limit=0", "--max-sandboxes=30"}})
	loads := []*load{{c: s.tenant(t)}, {c: s.tenant(t)}}
	start := time.Now()
	var slowest time.Duration
	for round := range crashRounds {
		ctx, stop := context.WithCancel(t.Context())
		var working sync.WaitGroup
		for _, l := range loads {
			for range 2 {
				working.Go(func() { l.work(ctx) })
			}
		}
		<-time.After(time.Duration(rand.IntN(1200)) * time.Millisecond)
		if err := s.kill(); err != nil {
			t.Fatal(err)
		}
		stop()
		working.Wait()
		if rand.IntN(5) == 0 { // and once more while it starts
			if err := s.launch(); err != nil {
				t.Fatal(err)
			}
			<-time.After(time.Duration(rand.IntN(400)) * time.Millisecond)
			if err := s.kill(); err != nil {
				t.Fatal(err)
			}
		}
		s.restart(t)
		slowest = max(slowest, s.readyAfter)
		for _, l := range loads {
			l.settle(t, round)
		}
		if t.Failed() {
			t.FailNow()
		}
	}
	t.Logf("%d rounds in %s; slowest start %s", crashRounds, time.Since(start), slowest)
	made := 0
	for _, l := range loads {
		made += l.n
	}
	t.Logf("%d creates", made)
	if made < crashRounds {
		t.Errorf("only %d creates in %d rounds: that is no load", made, crashRounds)
	}
	// Nothing runs that is not accounted for: sandboxes, two ready ones, two
	// empty slots.
	live := 0
	for _, l := range loads {
		live += len(l.c.do(t, "GET", "sandboxes", nil).list())
	}
	tr := traces{s.name, s.data}
	eventually(t, 20*time.Second, fmt.Sprintf("no more sentries than the %d sandboxes and 4 ready", live), func() bool {
		return len(tr.sentries()) <= live+4 && len(tr.links()) <= live+4+2
	})
}

// "`kill -9`, SIGTERM or an upgrade of the daemon leaves sandboxes running … and
// the next start adopts them".
func TestSandboxesOutliveTheDaemon(t *testing.T) {
	t.Parallel()
	s := ownServer(t, options{})
	c := s.tenant(t)
	id := c.create(t, nil)
	c.sh(t, id, "nohup sh -c 'i=0; while true; do i=$((i+1)); echo $i > /tmp/beat; sleep 0.1; done' >/dev/null 2>&1 & until [ -s /tmp/beat ]; do sleep 0.02; done")
	for name, end := range map[string]func() error{"SIGTERM": s.stop, "SIGKILL": s.kill} {
		before := c.sh(t, id, "cat /tmp/beat")
		if err := end(); err != nil {
			t.Fatal(err)
		}
		s.restart(t)
		a := c.do(t, "GET", "sandboxes/"+id, nil).want(t, 200, "")
		if a.str("state") != "running" {
			t.Fatalf("after %s: %s", name, a)
		}
		eventually(t, 5*time.Second, "after "+name+" the process inside goes on counting", func() bool {
			now := c.sh(t, id, "cat /tmp/beat")
			return len(now) > len(before) || len(now) == len(before) && now > before
		})
	}
}

// "Sandboxes survive the death of either": the engine is started again.
func TestSandboxesOutliveTheEngine(t *testing.T) {
	t.Parallel()
	s := ownServer(t, options{})
	c := s.tenant(t)
	id := c.create(t, nil)
	c.upload(t, id, "/root/mark", []byte("here")).want(t, 200, "")
	for _, e := range engines(t, s) {
		killNow(t, e)
	}
	eventually(t, 20*time.Second, "the sandbox answers", func() bool { return c.exec(t, id, "cat /root/mark").str("stdout") == "here" })
	eventually(t, 20*time.Second, "a create succeeds", func() bool { return c.do(t, "POST", "sandboxes", obj{}).Status == 201 })
	c.do(t, "DELETE", "sandboxes/"+id, nil).want(t, 200, "")
}

func engines(t *testing.T, s *Server) []process {
	t.Helper()
	e := traces{s.name, s.data}.engines()
	if len(e) == 0 {
		t.Fatalf("no engine among %v", traces{s.name, s.data}.processes())
	}
	return e
}

// "if the sentry dies all the same, the sandbox goes to `error` with an event that
// says why".
func TestSentryDies(t *testing.T) {
	t.Parallel()
	s := ownServer(t, options{flags: []string{"--warm-pool=0", "--empty-slots=0"}})
	c := s.tenant(t)
	id := c.create(t, nil)
	sentries := traces{s.name, s.data}.sentries()
	if len(sentries) != 1 {
		t.Fatalf("one sandbox has %d sentries: %v", len(sentries), sentries)
	}
	events := c.open(t, "GET", "sandboxes/"+id+"/events", nil)
	answered := make(chan answer, 1)
	go func() {
		a, _ := c.try(t.Context(), "POST", "sandboxes/"+id+"/exec", obj{"command": "sleep 100", "timeout": 100})
		answered <- a
	}()
	eventually(t, 10*time.Second, "the command runs", func() bool { return c.sh(t, id, "pgrep -xc sleep || true") == "1" })
	start := time.Now()
	killNow(t, sentries[0])
	failed := events.until(t, 10*time.Second, "error", state("error"))
	if reason, _ := failed.JSON()["reason"].(string); reason == "" {
		t.Errorf("the event does not say why: %v", failed)
	}
	events.ends(t, 5*time.Second)
	select {
	case a := <-answered:
		if a.Status != 409 {
			t.Errorf("the command that ran: got %s, want 409", a)
		}
	case <-time.After(10 * time.Second):
		t.Error("the command that ran got no answer")
	}
	t.Logf("known after %s", time.Since(start))
	a := c.do(t, "GET", "sandboxes/"+id, nil).want(t, 200, "")
	if a.str("state") != "error" || a.str("state_reason") == "" || a.at("ready") != false {
		t.Errorf("got %s", a)
	}
	c.exec(t, id, "true").want(t, 409, "SANDBOX_NOT_RUNNING")
	c.do(t, "DELETE", "sandboxes/"+id, nil).want(t, 200, "")
	if got := c.do(t, "GET", "sandboxes/"+id, nil).str("state"); got != "destroyed" {
		t.Errorf("state %q, want destroyed", got)
	}
}

// "machine rebooted": every process is gone at once, the rows are not.
func TestEverythingDiesAtOnce(t *testing.T) {
	t.Parallel()
	s := ownServer(t, options{})
	c := s.tenant(t)
	ids := []string{c.create(t, nil), c.create(t, nil)}
	tr := traces{s.name, s.data}
	if err := s.kill(); err != nil {
		t.Fatal(err)
	}
	for _, p := range tr.processes() {
		if !strings.Contains(p.args, "silica serve") {
			killNow(t, p)
		}
	}
	eventually(t, 10*time.Second, "nothing runs", func() bool { return len(tr.processes()) == 0 })
	s.restart(t)
	for _, id := range ids {
		eventually(t, 20*time.Second, id+" is in error, with a reason", func() bool {
			a := c.do(t, "GET", "sandboxes/"+id, nil).want(t, 200, "")
			return a.str("state") == "error" && a.str("state_reason") != ""
		})
		c.exec(t, id, "true").want(t, 409, "SANDBOX_NOT_RUNNING")
	}
	if got := c.sh(t, c.create(t, nil), "echo works"); got != "works" {
		t.Errorf("a new one: got %q", got)
	}
}

// "destroy …: everything gone within 1 s"; "create/destroy loop: no growth in
// memory, descriptors, namespaces, mounts, cgroups, files".
func TestDestroyFreesEverything(t *testing.T) {
	t.Parallel()
	s := ownServer(t, options{flags: []string{"--warm-pool=0", "--empty-slots=0"}})
	c := s.tenant(t)
	tr := traces{s.name, s.data}
	round := func() {
		id := c.create(t, nil)
		c.sh(t, id, "echo x > /root/file; sleep 100 & true")
		c.do(t, "DELETE", "sandboxes/"+id, nil).want(t, 200, "")
	}
	round() // what is made once
	settled := func() []string {
		var now []string
		for _, l := range tr.all() {
			if !strings.HasPrefix(l, "process") {
				now = append(now, l)
			}
		}
		return now
	}
	eventually(t, 5*time.Second, "no sentry is left", func() bool { return len(tr.sentries()) == 0 })
	base, baseFiles := settled(), openFiles(t, s)
	for range 20 {
		round()
	}
	start := time.Now()
	eventually(t, 5*time.Second, "no sentry is left", func() bool { return len(tr.sentries()) == 0 })
	eventually(t, 5*time.Second, "the host is as before", func() bool { return len(settled()) <= len(base) })
	t.Logf("gone within %s", time.Since(start))
	if now := openFiles(t, s); now > baseFiles+8 {
		t.Errorf("20 sandboxes later daemon and engine hold %d descriptors, before %d", now, baseFiles)
	}
}
