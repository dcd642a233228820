package e2e

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"golang.org/x/sys/unix"
)

// What "go test ./e2e -run TestReliability -args" may choose; "make reliability"
// does.
var (
	reliabilityFor    = flag.Duration("reliability.for", 60*time.Second, "how long the load lasts")
	reliabilitySeed   = flag.Uint64("reliability.seed", 0, "seed of what is done; 0: another one each time")
	reliabilityReport = flag.String("reliability.report", "", "write a report to this file")
)

const (
	reliabilityTenants = 2
	reliabilityClients = 3       // of each
	dataSize           = 3 << 30 // bytes
)

// "random operations by many clients with a model beside them (sandboxes hold known
// files and counters), `kill -9` of the daemon and of sentries at random, disk-full
// windows; afterwards: no acknowledged write lost, one owner per sandbox, no stuck
// state, no leak, events complete and in order."
func TestReliability(t *testing.T) {
	seed := *reliabilitySeed
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("seed %d: again with -args -reliability.seed=%d", seed, seed)
	srv := reliabilityServer(t)
	k := &campaign{srv: srv, began: time.Now(), seed: seed, done: map[string]int{}, up: gate{open: make(chan struct{})}}
	k.up.unlock()

	ctx, end := context.WithTimeout(t.Context(), *reliabilityFor)
	defer end()
	var working sync.WaitGroup
	client := 0
	for range reliabilityTenants {
		c := srv.tenant(t)
		for range reliabilityClients {
			client++
			number, rnd := client, rand.New(rand.NewPCG(seed, uint64(client)))
			working.Go(func() { k.work(ctx, number, c, rnd) })
		}
	}
	k.harm(ctx, t, rand.New(rand.NewPCG(seed, 0)))
	working.Wait()
	k.settle(t, client+1)
	if *reliabilityReport != "" {
		k.report(t, *reliabilityReport)
	}
	t.Log("\n" + k.summary())
	if t.Failed() {
		t.Logf("the load began at %s; the harm done:\n%s", k.began.UTC().Format(time.RFC3339Nano), strings.Join(k.harmed, "\n"))
	}
}

// reliabilityServer keeps its data on a small file system of its own.
func reliabilityServer(t *testing.T) *Server {
	t.Helper()
	s, err := theLab.newServer(options{flags: []string{"--rate-limit=0", "--max-sandboxes=30", "--warm-pool=2"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(s.data, 0o700); err != nil {
		t.Fatal(err)
	}
	mountSmallDisk(t, s.data)
	t.Cleanup(func() {
		for _, l := range s.close() {
			if l != "mount "+s.data {
				t.Errorf("left behind: %s", l)
			}
		}
		_ = unix.Unmount(s.data, unix.MNT_DETACH)
		if t.Failed() {
			t.Logf("log of the server:\n%s\nlog of its engine:\n%s", s.log.tail(0, 120), s.engineLog())
			if *reliabilityReport != "" { // a long run's end tells little of its middle
				_ = os.WriteFile(*reliabilityReport+".log", []byte(s.log.since(0)), 0o600)
			}
		}
	})
	if err := theLab.cloneTemplate(s.data); err != nil {
		t.Fatal(err)
	}
	if err := s.begin(); err != nil {
		t.Fatalf("%v\n%s", err, s.log.tail(0, 40))
	}
	return s
}

// mountSmallDisk puts a file system of its own at dir, of the kind that servers have.
func mountSmallDisk(t *testing.T, dir string) {
	t.Helper()
	image := dir + ".img"
	f, err := os.Create(image)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Truncate(dataSize), f.Close()); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"mkfs.ext4", "-q", "-F", "-m", "0", image}, {"mount", "-o", "loop", image, dir}} {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", args, err, out)
		}
	}
}

// harm does what must not matter, again and again until ctx ends.
func (k *campaign) harm(ctx context.Context, t *testing.T, rnd *rand.Rand) {
	harms := []func(){
		func() { k.killDaemon(t, rnd, false) },
		func() { k.endSentry(t, rnd)() },
		func() { k.killDaemon(t, rnd, true) },
		func() { k.fillDisk(ctx, t, rnd) },
	}
	for {
		for _, i := range rnd.Perm(len(harms)) { // each in its turn, so that a short run has them all
			pauseFor(ctx, time.Duration(1000+rnd.IntN(3000))*time.Millisecond)
			if ctx.Err() != nil {
				return
			}
			harms[i]()
		}
	}
}

// killDaemon kills the server at any moment and starts it again; sometimes a
// sentry dies while it is away, and sometimes it is killed again as it starts.
func (k *campaign) killDaemon(t *testing.T, rnd *rand.Rand, victimToo bool) {
	k.up.shut()
	if err := k.srv.kill(); err != nil {
		t.Fatal(err)
	}
	k.tally("fault: daemon killed")
	after := func() {}
	if victimToo {
		after = k.endSentry(t, rnd)
	}
	if rnd.IntN(4) == 0 {
		if err := k.srv.launch(); err != nil {
			t.Fatal(err)
		}
		<-time.After(time.Duration(rnd.IntN(400)) * time.Millisecond)
		if err := k.srv.kill(); err != nil {
			t.Fatal(err)
		}
		k.tally("fault: daemon killed while it starts")
	}
	k.srv.restart(t)
	after()
	k.up.unlock()
}

// endSentry kills the sentry of a sandbox whose state nobody changes meanwhile.
// The function that it returns waits until the server knows, and writes it down.
func (k *campaign) endSentry(t *testing.T, rnd *rand.Rand) func() {
	var s *subject
	var pid int
	if !soon(5*time.Second, func() bool { s, pid = k.victim(rnd); return s != nil }) {
		return func() {}
	}
	call := time.Since(k.began).Nanoseconds()
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		s.moving.Unlock()
		return func() {}
	}
	k.tally("fault: sentry killed")
	return func() {
		defer s.moving.Unlock()
		why := ""
		if !soon(time.Minute, func() bool {
			a, err := s.c.try(t.Context(), "GET", "sandboxes/"+s.id, nil)
			why = fmt.Sprint(a, err)
			if now := k.owners(s.id); len(now) == 1 && now[0] != pid {
				return true // known, and woken by whoever uses it
			}
			state := a.str("state")
			return err == nil && state != "running" && state != "provisioning"
		}) {
			t.Errorf("a minute after its sentry was killed: %s", why)
		}
		s.note(0, deed{What: crash}, result{}, call, time.Since(k.began).Nanoseconds())
	}
}

// victim is a sandbox with its sentry, whose moving is held for the caller; nil
// when there is none just now.
func (k *campaign) victim(rnd *rand.Rand) (*subject, int) {
	list := k.alive()
	rnd.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
	for _, s := range list {
		if !s.moving.TryLock() {
			continue
		}
		if owners := k.owners(s.id); len(owners) == 1 {
			return s, owners[0]
		}
		s.moving.Unlock()
	}
	return nil, 0
}

// owners lists the sentries that run a sandbox.
func (k *campaign) owners(id string) []int { return k.srv.sentriesOf(id) }

// fillDisk leaves the server without room for a while; sometimes it is killed then.
func (k *campaign) fillDisk(ctx context.Context, t *testing.T, rnd *rand.Rand) {
	began := time.Now()
	k.mu.Lock()
	k.full = true
	k.mu.Unlock()
	k.tally("fault: disk full")
	filler := filepath.Join(k.srv.data, "filler")
	fallocate(t, filler)
	pauseFor(ctx, time.Duration(500+rnd.IntN(2500))*time.Millisecond)
	killed := rnd.IntN(3) == 0
	if killed {
		k.up.shut()
		if err := k.srv.kill(); err != nil {
			t.Fatal(err)
		}
		k.tally("fault: daemon killed while the disk is full")
	}
	if err := os.Remove(filler); err != nil {
		t.Error(err)
	}
	if killed {
		k.srv.restart(t)
		k.up.unlock()
	}
	pauseFor(ctx, time.Second) // what was begun while it was full is answered
	k.mu.Lock()
	k.full = false
	k.mu.Unlock()
	k.filled = append(k.filled, [2]time.Time{began, time.Now()})
}

// fallocate takes all the room there is, at once.
func fallocate(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	end := int64(0)
	for size := int64(1) << 30; size >= 4096; {
		if err := unix.Fallocate(int(f.Fd()), 0, end, size); err != nil {
			size /= 2
			continue
		}
		end += size
	}
}

// settle waits for what goes on, reads everything once more, destroys it, and
// holds all histories and events against the model.
func (k *campaign) settle(t *testing.T, client int) {
	t.Helper()
	ctx := context.WithoutCancel(t.Context())
	for _, f := range k.faults {
		t.Error(f)
	}
	for _, s := range k.alive() {
		eventually(t, time.Minute, s.id+" is in no passing state", func() bool {
			a, err := s.c.try(ctx, "GET", "sandboxes/"+s.id, nil)
			return err == nil && a.str("state") != "provisioning"
		})
		if n := len(k.owners(s.id)); n > 1 {
			t.Errorf("%s has %d sentries", s.id, n)
		}
		k.inspect(ctx, client, s)
	}
	for _, s := range k.all() {
		if v := k.end(ctx, client, s); v != happened {
			t.Errorf("%s can't be destroyed", s.id)
		}
		if n := k.owners(s.id); !soon(20*time.Second, func() bool { n = k.owners(s.id); return len(n) == 0 }) {
			t.Errorf("%s is destroyed and has the sentries %v", s.id, n)
		}
	}
	deadline := max(20*time.Second, *reliabilityFor/10)
	for _, s := range k.all() {
		told, err := s.told(ctx)
		if err != nil {
			t.Errorf("events of %s: %v", s.id, err)
		}
		if why := disordered(told); why != "" {
			t.Errorf("events of %s: %s", s.id, why)
		}
		k.starved(client, s, told)
		if why := inconsistent(s.ops, deadline); why != "" {
			t.Errorf("%s (persistent: %v): %s", s.id, s.persist, why)
		}
	}
}

// following are the states that may come after each other, on the wire.
var following = map[string][]string{
	"":             {"provisioning", "running"},
	"provisioning": {"running", "paused", "destroyed", "error"},
	"running":      {"paused", "destroyed", "error", "provisioning"},
	"paused":       {"provisioning", "running", "destroyed", "error"},
	"error":        {"destroyed"},
}

// told are all events of a destroyed sandbox.
func (s *subject) told(ctx context.Context) (all []frame, err error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	req, err := s.c.request(ctx, "GET", "sandboxes/"+s.id+"/events", nil, header{"Last-Event-ID", "0"}, header{"Accept", "text/event-stream"})
	if err != nil {
		return nil, err
	}
	res, err := s.c.http.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	r := newFrames(res.Body)
	for {
		f, err := r.next()
		if err != nil {
			return all, nil // the stream of a destroyed sandbox ends
		}
		all = append(all, f)
	}
}

// starved adds the deaths that docs/state.md promises nothing better for: of a
// sandbox whose disk became full while what it starts from was still being read in
// behind its start. It must have told so, and have started a moment before.
func (k *campaign) starved(client int, s *subject, told []frame) {
	started := time.Time{}
	for _, f := range told {
		o := f.JSON()
		at, _ := time.Parse(time.RFC3339Nano, fmt.Sprint(o["timestamp"]))
		switch {
		case f.Event == "state_changed" && o["state"] == "running":
			started = at
		case f.Event == "error" && o["code"] == "SANDBOX_LOST" && at.Sub(started) < 3*time.Second &&
			slices.ContainsFunc(k.filled, func(w [2]time.Time) bool { return at.After(w[0]) && at.Before(w[1]) }):
			k.tally("starved of disk behind its start")
			s.note(client, deed{What: crash}, result{}, started.Sub(k.began).Nanoseconds(), at.Sub(k.began).Nanoseconds())
		}
	}
}

// disordered tells what is wrong with the events of a destroyed sandbox.
func disordered(told []frame) string {
	state, last := "", ""
	for _, f := range told {
		if f.ID != "" && len(f.ID) == len(last) && f.ID <= last || len(f.ID) < len(last) {
			return fmt.Sprintf("%s comes after %s", f.ID, last)
		}
		last = f.ID
		if f.Event != "state_changed" {
			continue
		}
		next, _ := f.JSON()["state"].(string)
		before, _ := f.JSON()["previous_state"].(string)
		if before != state && !(state == "" && before != "") {
			return fmt.Sprintf("%q became %q, but it was %q", before, next, state)
		}
		if !slices.Contains(following[state], next) {
			return fmt.Sprintf("%q became %q", state, next)
		}
		state = next
	}
	if state != "destroyed" {
		return fmt.Sprintf("the last state told is %q", state)
	}
	return ""
}

// summary tells what was done, one line a kind.
func (k *campaign) summary() string {
	var rows [][2]string
	for what, n := range k.done {
		rows = append(rows, [2]string{what, fmt.Sprint(n)})
	}
	slices.SortFunc(rows, byName)
	var b strings.Builder
	fmt.Fprintf(&b, "%d sandboxes, %s of load, seed %d\n", len(k.subjects), *reliabilityFor, k.seed)
	for _, r := range rows {
		fmt.Fprintf(&b, "%8s  %s\n", r[1], r[0])
	}
	return b.String()
}

// report writes the summary as a page.
func (k *campaign) report(t *testing.T, path string) {
	verdict := "no acknowledged write lost, no stuck state, one owner each, events complete and in order"
	if t.Failed() {
		verdict = "FAILED"
	}
	text := fmt.Sprintf("# Reliability run\n\n%s, %d CPUs: %s.\n\n```\n%s```\n", time.Now().UTC().Format(time.DateOnly), runtime.NumCPU(), verdict, k.summary())
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Error(err)
	}
}

// The model finds what it is there to find.
func TestReliabilityModel(t *testing.T) {
	history := func(steps ...any) (ops []porcupine.Operation) {
		for i := 0; i < len(steps); i += 2 {
			at := int64(i)
			ops = append(ops, porcupine.Operation{Input: steps[i], Output: steps[i+1], Call: at, Return: at + 1})
		}
		return ops
	}
	made := []any{deed{What: born, Value: lasting}, result{}, deed{write, 5}, result{}, deed{What: count}, result{Number: 1}}
	for name, tt := range map[string]struct {
		then []any
		ok   bool
	}{
		"what was written is read":                 {[]any{deed{What: read}, result{File: 5, Number: 1}}, true},
		"a lost write":                             {[]any{deed{What: read}, result{File: 0, Number: 1}}, false},
		"a count twice":                            {[]any{deed{What: count}, result{Number: 3}}, false},
		"files over a stop":                        {[]any{deed{What: stop}, result{}, deed{What: start}, result{}, deed{What: read}, result{File: 5, Number: 1}}, true},
		"files gone after a stop":                  {[]any{deed{What: stop}, result{}, deed{What: start}, result{}, deed{What: read}, result{}}, false},
		"stopped, and yet it runs":                 {[]any{deed{What: stop}, result{}, deed{What: look}, result{State: "running"}}, false},
		"use does not wake what was stopped":       {[]any{deed{What: stop}, result{}, deed{What: read}, result{File: 5, Number: 1}}, false},
		"use wakes what was paused":                {[]any{deed{What: pause}, result{}, deed{What: read}, result{File: 5, Number: 1}}, true},
		"a crash takes what it never stopped with": {[]any{deed{What: crash}, result{}, deed{What: look}, result{State: "error"}}, true},
		"a crash leaves the files of the last stop": {[]any{deed{What: stop}, result{}, deed{What: start}, result{}, deed{write, 6}, result{},
			deed{What: crash}, result{}, deed{What: start}, result{}, deed{What: read}, result{File: 5, Number: 1}}, true},
		"a crash that loses the files of the last stop": {[]any{deed{What: stop}, result{}, deed{What: start}, result{},
			deed{What: crash}, result{}, deed{What: start}, result{}, deed{What: read}, result{}}, false},
		"back to a snapshot":                  {[]any{deed{keep, 9}, result{}, deed{write, 6}, result{}, deed{back, 9}, result{}, deed{arrive, 9}, result{}, deed{What: read}, result{File: 5, Number: 1}}, true},
		"paused for a moment on the way back": {[]any{deed{keep, 9}, result{}, deed{back, 9}, result{}, deed{What: look}, result{State: "paused"}, deed{arrive, 9}, result{}, deed{What: look}, result{State: "running"}}, true},
		"a restore that restores nothing":     {[]any{deed{keep, 9}, result{}, deed{write, 6}, result{}, deed{back, 9}, result{}, deed{arrive, 9}, result{}, deed{What: read}, result{File: 6, Number: 1}}, false},
		"a write that nobody knows of, later": {[]any{deed{write, 7}, result{Lost: true}, deed{What: read}, result{File: 5, Number: 1}, deed{What: read}, result{File: 7, Number: 1}}, true},
		"a command that nobody knows of, which woke it and did no more": {[]any{deed{What: pause}, result{}, deed{What: count}, result{Lost: true},
			deed{What: look}, result{State: "running"}, deed{What: read}, result{File: 5, Number: 1}}, true},
		"and one that could not wake it":       {[]any{deed{What: stop}, result{}, deed{What: count}, result{Lost: true}, deed{What: look}, result{State: "running"}}, false},
		"use wakes what could not be started":  {[]any{deed{What: stop}, result{}, deed{What: falter}, result{Lost: true}, deed{What: read}, result{File: 5, Number: 1}}, true},
		"a copy of something else":             {[]any{deed{What: fork}, result{File: 4, Number: 1}}, false},
		"running again after it was destroyed": {[]any{deed{What: destroy}, result{}, deed{What: look}, result{State: "running"}}, false},
	} {
		if why := inconsistent(history(append(slices.Clone(made), tt.then...)...), time.Minute); (why == "") != tt.ok {
			t.Errorf("%s: consistent %v, want %v: %s", name, why == "", tt.ok, why)
		}
	}
}
