package e2e

import (
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/anishathalye/porcupine"
)

// subject is one sandbox with everything that was done to it.
type subject struct {
	c       *Client
	id      string
	persist bool

	// still is held by whoever must not be disturbed: for reading by what changes
	// the data, for writing by what keeps or copies memory, in which the command
	// of a client would go on.
	still sync.RWMutex
	// moving is held for reading by what changes its state, for writing by who
	// kills its sentry.
	moving sync.RWMutex

	mu    sync.Mutex
	ops   []porcupine.Operation
	lost  int
	marks map[int]string // snapshots, by the name they have in the model
	gone  bool           // it was asked to be destroyed
	spent bool           // nothing more can become of it
}

// Bounds that keep a history small enough to be checked.
const (
	mostDeeds = 120
	mostLost  = 6
)

// worn tells whether a sandbox has seen enough, and no more is to be done to it.
func (s *subject) worn() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.gone || s.spent || len(s.ops) >= mostDeeds || s.lost >= mostLost
}

// campaign is one run of the program.
type campaign struct {
	srv   *Server
	began time.Time
	seed  uint64

	value atomic.Int64 // of files and names of snapshots; never the same twice
	up    gate

	mu       sync.Mutex
	subjects []*subject
	done     map[string]int // deeds, refusals and faults, by name
	faults   []string       // answers that should never come
	harmed   []string       // what was done to the server, and when
	full     bool           // the disk is

	filled [][2]time.Time // when it was; who does the harm writes it
}

// gate is closed while the server is down.
type gate struct {
	mu   sync.Mutex
	open chan struct{} // closed when it is open
}

func (g *gate) wait(ctx context.Context) {
	g.mu.Lock()
	open := g.open
	g.mu.Unlock()
	select {
	case <-open:
	case <-ctx.Done():
	}
}

func (g *gate) shut() { g.mu.Lock(); g.open = make(chan struct{}); g.mu.Unlock() }
func (g *gate) unlock() {
	g.mu.Lock()
	close(g.open)
	g.mu.Unlock()
}

func (k *campaign) tally(what string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.done[what]++
	if fault, ok := strings.CutPrefix(what, "fault: "); ok {
		k.harmed = append(k.harmed, fmt.Sprintf("%8.3f s: %s", time.Since(k.began).Seconds(), fault))
	}
}

func (k *campaign) complain(format string, args ...any) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.faults = append(k.faults, fmt.Sprintf("%8.3f s: ", time.Since(k.began).Seconds())+fmt.Sprintf(format, args...))
}

// verdict sorts an answer: it happened, it did not, or nobody knows.
type verdict int

const (
	happened verdict = iota
	refused
	unknown
)

func (k *campaign) judge(what action, a answer, err error) verdict {
	var op *net.OpError
	switch {
	case err != nil && errors.As(err, &op) && op.Op == "dial":
		return refused // it never got there
	case err != nil:
		return unknown
	case a.Status < 300:
		return happened
	case a.Status == http.StatusGatewayTimeout, a.str("error.code") == "SANDBOX_LOST", a.at("error.details.interrupted") == true:
		return unknown
	case what == back && a.Status != http.StatusNotFound: // it may be paused, as in the snapshot
		return unknown
	case a.Status >= 500 && a.Status != http.StatusServiceUnavailable && a.Status != http.StatusInsufficientStorage:
		k.mu.Lock()
		full := k.full
		k.mu.Unlock()
		if !full {
			k.complain("%s: %s", what, a)
		}
		return unknown
	}
	k.tally(fmt.Sprintf("refused: %s %d %s", what, a.Status, a.str("error.code")))
	return refused
}

// do makes a request for one deed and writes down what came of it. see reads the
// answer; it tells whether there is anything to be learned from it.
func (k *campaign) do(ctx context.Context, client int, s *subject, d deed, method, path string, body any, see func(answer) (result, bool)) verdict {
	call := time.Since(k.began).Nanoseconds()
	a, err := s.c.try(ctx, method, "sandboxes/"+s.id+path, body)
	v := k.judge(d.What, a, err)
	o := result{Lost: v == unknown}
	if v == happened && see != nil {
		var certain bool
		if o, certain = see(a); !certain {
			v, o = unknown, result{Lost: true}
		}
	}
	uses := d.What == read || d.What == write || d.What == count
	switch {
	case uses && (v == refused && err == nil && a.str("error.code") != "SANDBOX_NOT_RUNNING" || v == unknown && d.What == read):
		d, o = deed{What: wake}, result{Lost: true} // all that it may have done
	case d.What == start && v == refused && a.str("error.code") == "START_FAILED":
		d, o = deed{What: falter}, result{Lost: true}
	case v == refused, v == unknown && (d.What == look || d.What == fork):
		return v
	}
	k.tally(string(d.What))
	if v == unknown {
		k.tally("no answer: " + string(d.What))
	}
	s.note(client, d, o, call, time.Since(k.began).Nanoseconds())
	if d.What == back {
		s.note(client, deed{arrive, d.Value}, o, call, time.Since(k.began).Nanoseconds())
	}
	return v
}

func (s *subject) note(client int, d deed, o result, call, ret int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ops = append(s.ops, porcupine.Operation{ClientId: client, Input: d, Output: o, Call: call, Return: ret})
	if o.Lost {
		s.lost++
	}
}

// make creates a sandbox. When there is no answer it asks again, with the same
// key, until there is one.
func (k *campaign) make(ctx context.Context, client int, c *Client, persist bool) {
	key := fmt.Sprintf("r%d", k.value.Add(1))
	call := time.Since(k.began).Nanoseconds()
	for ctx.Err() == nil {
		a, err := c.try(ctx, "POST", "sandboxes", obj{"name": key, "persistent": persist, "timeout_sec": 7200}, header{"Idempotency-Key", key})
		switch k.judge(born, a, err) {
		case refused:
			if err != nil { // the server is down; an earlier try may have got there
				k.up.wait(ctx)
				continue
			}
			pauseFor(ctx, 100*time.Millisecond)
			return
		case happened:
			s := &subject{c: c, id: a.str("id"), persist: persist, marks: map[int]string{}}
			d := deed{What: born}
			if persist {
				d.Value = lasting
			}
			s.note(client, d, result{}, call, time.Since(k.began).Nanoseconds())
			k.add(s)
			return
		case unknown:
			k.up.wait(ctx)
		}
	}
}

func (k *campaign) add(s *subject) {
	k.tally(string(born))
	k.mu.Lock()
	k.subjects = append(k.subjects, s)
	k.mu.Unlock()
}

// number prints what a file holds, 0 if there is none. One that can't be read is
// none of these.
const number = `number() { if [ -e "$1" ]; then cat "$1" || exit 9; else echo 0; fi; }; exec 9>/root/lock; flock 9; `

// counting adds one to a counter, whole or not at all, and tells it.
const counting = number + `n=$(number /root/n) || exit 9; n=$((n+1)); echo $n >/root/n.new && sync /root/n.new && mv /root/n.new /root/n && echo $n`

// telling prints file and counter of one moment.
const telling = number + `f=$(number /root/f) && n=$(number /root/n) && echo $f $n`

// told reads what the commands above print. A command that did not end well may
// have done its work.
func told(a answer) (numbers []int, ok bool) {
	if a.num("exit_code") != 0 {
		return nil, false
	}
	for _, word := range strings.Fields(a.str("stdout")) {
		n, err := strconv.Atoi(word)
		if err != nil {
			return nil, false
		}
		numbers = append(numbers, n)
	}
	return numbers, len(numbers) > 0
}

// deeds are what clients do to sandboxes, and how often. A new ability of the
// product is a line here and a case in the model.
var deeds = []struct {
	weight int
	do     func(k *campaign, ctx context.Context, client int, s *subject)
}{
	{20, (*campaign).write},
	{24, (*campaign).count},
	{16, (*campaign).read},
	{8, (*campaign).look},
	{8, func(k *campaign, ctx context.Context, client int, s *subject) {
		if s.persist { // it would end others
			k.move(ctx, client, s, stop)
		}
	}},
	{1, func(k *campaign, ctx context.Context, client int, s *subject) { k.move(ctx, client, s, stop) }},
	{16, func(k *campaign, ctx context.Context, client int, s *subject) { k.move(ctx, client, s, start) }},
	{4, func(k *campaign, ctx context.Context, client int, s *subject) { k.move(ctx, client, s, pause) }},
	{3, (*campaign).keep},
	{3, (*campaign).restore},
	{2, (*campaign).fork},
	{1, (*campaign).destroy},
}

func (k *campaign) write(ctx context.Context, client int, s *subject) {
	s.still.RLock()
	defer s.still.RUnlock()
	v := int(k.value.Add(1))
	content := base64.StdEncoding.EncodeToString([]byte(strconv.Itoa(v)))
	k.do(ctx, client, s, deed{write, v}, "POST", "/files", obj{"path": "/root/f", "content": content}, nil)
}

func (k *campaign) count(ctx context.Context, client int, s *subject) {
	s.still.RLock()
	defer s.still.RUnlock()
	k.do(ctx, client, s, deed{What: count}, "POST", "/exec", obj{"command": counting}, func(a answer) (o result, ok bool) {
		n, ok := told(a)
		if ok {
			o.Number = n[0]
		}
		return o, ok
	})
}

func (k *campaign) read(ctx context.Context, client int, s *subject) {
	s.still.RLock()
	defer s.still.RUnlock()
	k.do(ctx, client, s, deed{What: read}, "POST", "/exec", obj{"command": telling}, func(a answer) (o result, ok bool) {
		n, ok := told(a)
		if ok = ok && len(n) == 2; ok {
			o.File, o.Number = n[0], n[1]
		}
		return o, ok
	})
}

// look learns nothing from a state that passes.
func (k *campaign) look(ctx context.Context, client int, s *subject) { k.state(ctx, client, s) }

func (k *campaign) state(ctx context.Context, client int, s *subject) (state string) {
	k.do(ctx, client, s, deed{What: look}, "GET", "", nil, func(a answer) (result, bool) {
		state = a.str("state")
		if state == "error" { // there is no way back
			s.mu.Lock()
			s.spent = true
			s.mu.Unlock()
		}
		return result{State: state}, state != "provisioning"
	})
	return state
}

// move changes the state. A start that takes long answers before it has happened.
func (k *campaign) move(ctx context.Context, client int, s *subject, what action) verdict {
	s.moving.RLock()
	defer s.moving.RUnlock()
	return k.do(ctx, client, s, deed{What: what}, "POST", "/"+string(what), nil, func(a answer) (result, bool) {
		return result{}, a.str("state") != "provisioning"
	})
}

// clean holds a sandbox still, unless a command that nobody waits for any more may
// go on in it: in a copy it would, too.
func (s *subject) clean() (release func(), ok bool) {
	s.still.Lock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lost > 0 {
		s.still.Unlock()
		return nil, false
	}
	return s.still.Unlock, true
}

// keep takes a snapshot and waits until it is whole.
func (k *campaign) keep(ctx context.Context, client int, s *subject) {
	release, ok := s.clean()
	if !ok {
		return
	}
	defer release()
	name := int(k.value.Add(1))
	k.do(ctx, client, s, deed{keep, name}, "POST", "/snapshots", obj{"comment": "reliability"}, func(a answer) (result, bool) {
		id := a.str("id")
		whole := soon(time.Minute, func() bool {
			if a.str("status") == "ready" {
				return true
			}
			k.up.wait(ctx)
			if now, err := s.c.try(ctx, "GET", "snapshots/"+id, nil); err == nil {
				a = now
			}
			return a.str("status") == "failed"
		}) && a.str("status") == "ready"
		if whole {
			s.mu.Lock()
			s.marks[name] = id
			s.mu.Unlock()
		}
		return result{}, whole
	})
}

// restore goes back to any of a sandbox's snapshots.
func (k *campaign) restore(ctx context.Context, client int, s *subject) {
	s.mu.Lock()
	name, id := 0, ""
	for name, id = range s.marks {
		break
	}
	s.mu.Unlock()
	if id == "" {
		return
	}
	s.moving.RLock()
	defer s.moving.RUnlock()
	k.do(ctx, client, s, deed{back, name}, "POST", "/restore/"+id, nil, func(a answer) (result, bool) {
		return result{}, a.str("state") == "running"
	})
}

// fork makes copies and looks what they hold before anybody else knows them.
func (k *campaign) fork(ctx context.Context, client int, s *subject) {
	release, ok := s.clean()
	if !ok {
		return
	}
	defer release()
	kind := briefCopy
	if s.persist {
		kind = lastingCopy
	}
	k.do(ctx, client, s, deed{What: fork}, "POST", "/fork", obj{"count": 2, "timeout_sec": 7200}, func(a answer) (o result, ok bool) {
		for i, made := range a.list() {
			child := &subject{c: s.c, id: fmt.Sprint(made["id"]), persist: s.persist, marks: map[int]string{}}
			call := time.Since(k.began).Nanoseconds()
			n, err := k.tell(ctx, child)
			if err != nil { // lost in a fault before anything was known of it
				k.tally("copies that were not looked at")
				_, _ = s.c.try(ctx, "DELETE", "sandboxes/"+child.id, nil)
				continue
			}
			if i > 0 && ok && n != (data{o.File, o.Number}) {
				k.complain("copies of %s hold %v and %v", s.id, data{o.File, o.Number}, n)
			}
			o, ok = result{File: n.File, Number: n.Number}, true
			child.note(client, deed{born, kind}, o, call, time.Since(k.began).Nanoseconds())
			k.add(child)
		}
		return o, ok
	})
}

// tell reads what a copy holds that nobody else knows yet.
func (k *campaign) tell(ctx context.Context, s *subject) (data, error) {
	a, err := s.c.try(ctx, "POST", "sandboxes/"+s.id+"/exec", obj{"command": telling})
	if err != nil {
		return data{}, err
	}
	n, ok := told(a)
	if !ok || len(n) != 2 {
		return data{}, fmt.Errorf("%s", a)
	}
	return data{n[0], n[1]}, nil
}

func (k *campaign) destroy(ctx context.Context, client int, s *subject) { k.end(ctx, client, s) }

func (k *campaign) end(ctx context.Context, client int, s *subject) verdict {
	s.moving.RLock()
	defer s.moving.RUnlock()
	s.mu.Lock()
	s.gone = true
	s.mu.Unlock()
	return k.do(ctx, client, s, deed{What: destroy}, "DELETE", "", nil, nil)
}

// mostLive bounds the sandboxes of one tenant that are worked on.
const mostLive = 4

// work is one client: it does random things until ctx ends. A request is answered
// or broken off by the server, never by the end of the load.
func (k *campaign) work(ctx context.Context, client int, c *Client, rnd *rand.Rand) {
	total := 0
	for _, d := range deeds {
		total += d.weight
	}
	for ctx.Err() == nil {
		k.up.wait(ctx)
		s, room := k.pick(c, rnd)
		switch {
		case room && (s == nil || rnd.IntN(12) == 0):
			k.make(context.WithoutCancel(ctx), client, c, rnd.IntN(3) > 0)
		case s == nil:
			pauseFor(ctx, 50*time.Millisecond) // the others destroy what is worn
		default:
			dice := rnd.IntN(total)
			for _, d := range deeds {
				if dice -= d.weight; dice < 0 {
					d.do(k, context.WithoutCancel(ctx), client, s)
					break
				}
			}
			if s.worn() {
				k.finish(context.WithoutCancel(ctx), client, s)
			}
		}
	}
}

func pauseFor(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// pick chooses one of the tenant's sandboxes, and tells whether it may have more.
func (k *campaign) pick(c *Client, rnd *rand.Rand) (s *subject, room bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	var live []*subject
	for _, s := range k.subjects {
		if s.c == c && !s.worn() {
			live = append(live, s)
		}
	}
	if len(live) > 0 {
		s = live[rnd.IntN(len(live))]
	}
	return s, len(live) < mostLive
}

// finish looks once more at a sandbox that has seen enough and destroys it.
func (k *campaign) finish(ctx context.Context, client int, s *subject) {
	s.mu.Lock()
	already := s.gone
	s.gone = true
	s.mu.Unlock()
	if already {
		return
	}
	k.inspect(ctx, client, s)
	k.destroy(ctx, client, s)
}

// inspect reads what a sandbox holds, started if need be.
func (k *campaign) inspect(ctx context.Context, client int, s *subject) {
	if k.state(ctx, client, s) == "paused" { // also one that use would not wake
		k.move(ctx, client, s, start)
	}
	k.read(ctx, client, s)
}

// alive lists the sandboxes nobody has asked to destroy.
func (k *campaign) alive() (list []*subject) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, s := range k.subjects {
		s.mu.Lock()
		if !s.gone {
			list = append(list, s)
		}
		s.mu.Unlock()
	}
	return list
}

func (k *campaign) all() []*subject {
	k.mu.Lock()
	defer k.mu.Unlock()
	return append([]*subject(nil), k.subjects...)
}

// byName orders a tally for the report.
func byName(a, b [2]string) int { return cmp.Compare(a[0], b[0]) }
