package bench

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"silica.dev/silica/api"
	"silica.dev/silica/client"
)

// terminal measures a key on its way through the shell's line editor and back.
func (t target) terminal(ctx context.Context) (s Section, err error) {
	s = Section{Title: "Terminal", Note: "From the write of one key to the read of its echo, bash's line editor between them."}
	id, end, err := t.one(ctx)
	if err != nil {
		return s, err
	}
	defer end()
	term, err := t.client.OpenTerminal(ctx, id, api.TerminalRequest{})
	if err != nil {
		return s, fmt.Errorf("open a terminal: %w", err)
	}
	defer term.Close()
	screen := make([]byte, 4096)
	expect := func(text string) error {
		for seen := ""; !strings.Contains(seen, text); {
			n, err := term.Read(screen)
			if err != nil {
				return fmt.Errorf("read the terminal: %w", err)
			}
			seen += string(screen[:n])
		}
		return nil
	}
	// A prompt that none of the keys is in, whatever the image's own is. The line that
	// sets it does not look like it.
	const prompt = "<$ "
	if _, err := term.Write([]byte("PS1=$'\\x3c$ '\n")); err != nil {
		return s, err
	}
	if err := expect(prompt); err != nil {
		return s, err
	}
	var took []time.Duration
	for i := range t.rounds(500) + 5 {
		if i%50 == 49 { // an empty line again
			if _, err := term.Write([]byte("\x03")); err != nil {
				return s, err
			}
			if err := expect(prompt); err != nil {
				return s, err
			}
		}
		key := string(rune('a' + i%26))
		begun := time.Now()
		if _, err := term.Write([]byte(key)); err != nil {
			return s, err
		}
		if err := expect(key); err != nil {
			return s, err
		}
		if i >= 5 {
			took = append(took, time.Since(begun))
		}
	}
	s.Rows = []Row{{What: "key to echo", Goal: "p50 ≤ 3 ms", Stats: summarise(took, 0)}}
	return s, nil
}

// sockets runs many commands over WebSockets at once.
func (t target) sockets(ctx context.Context) (Section, error) {
	const callers = 32
	s := Section{Title: "Exec over the socket", Note: fmt.Sprintf("%d callers in one sandbox, each with a socket a command.", callers)}
	id, end, err := t.one(ctx)
	if err != nil {
		return s, err
	}
	defer end()
	var mu sync.Mutex
	var took []time.Duration
	failed := 0
	each := t.rounds(50)
	begun := time.Now()
	var wg sync.WaitGroup
	for range callers {
		wg.Go(func() {
			for range each {
				one := time.Now()
				err := t.client.Command(id, "true").Run(ctx)
				mu.Lock()
				if err != nil {
					failed++
				} else {
					took = append(took, time.Since(one))
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	rate := float64(len(took)) / time.Since(begun).Seconds()
	s.Rows = []Row{{What: "true", Stats: summarise(took, failed)}}
	s.Facts = []Fact{{"rate", fmt.Sprintf("%.0f commands a second", rate), "≥ 200 a second"}}
	return s, ctx.Err()
}

// lookups reads rows: of the sandboxes that earlier measurements destroyed, as
// a thousand living ones would measure something else.
func (t target) lookups(ctx context.Context) (Section, error) {
	s := Section{Title: "Get and list", Note: "Over HTTP, the answer decoded. The list is of destroyed sandboxes, whose rows are as large as others."}
	id, end, err := t.one(ctx)
	if err != nil {
		return s, err
	}
	defer end()
	var get, list []time.Duration
	for range t.rounds(1000) {
		begun := time.Now()
		if _, err := t.client.Get(ctx, id); err != nil {
			return s, fmt.Errorf("get: %w", err)
		}
		get = append(get, time.Since(begun))
	}
	rows := 0
	for range t.rounds(100) {
		begun := time.Now()
		all, err := t.client.ListPage(ctx, api.SandboxFilter{State: "destroyed", Limit: 1000})
		if err != nil {
			return s, fmt.Errorf("list: %w", err)
		}
		list, rows = append(list, time.Since(begun)), len(all.Data)
	}
	var done atomic.Int64
	var wg sync.WaitGroup
	within, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	for range 8 {
		wg.Go(func() {
			for within.Err() == nil {
				if _, err := t.client.Get(within, id); err == nil {
					done.Add(1)
				}
			}
		})
	}
	wg.Wait()
	s.Rows = []Row{
		{What: "get", Goal: "p50 ≤ 1 ms", Stats: summarise(get, 0)},
		{What: fmt.Sprintf("list of %d", rows), Goal: "p50 ≤ 15 ms", Stats: summarise(list, 0)},
	}
	s.Facts = []Fact{{"gets, 8 callers", fmt.Sprintf("%.0f a second", float64(done.Load())/5), "≥ 1000 a second"}}
	return s, ctx.Err()
}

// watchers opens many event streams, which take memory, and then lets something
// happen, which all of them must hear of.
func (t target) watchers(ctx context.Context) (s Section, err error) {
	const tenants, each = 5, 100 // a tenant may hold a hundred and some streams
	s = Section{Title: fmt.Sprintf("%d idle event streams", tenants*each), Note: "Over server-sent events, of a sandbox in each of five tenants; then one change in each, and when its event has come everywhere."}
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	type watched struct {
		client *client.Client
		id     string
	}
	var all []watched
	defer func() {
		for _, w := range all {
			_, _ = w.client.Delete(context.WithoutCancel(ctx), w.id)
		}
	}()
	for i := range tenants {
		tn, err := t.client.CreateTenant(ctx, api.CreateTenant{Name: fmt.Sprintf("watchers %d", i), MaxSandboxes: 2})
		if err != nil {
			return s, fmt.Errorf("create a tenant: %w", err)
		}
		key, err := t.client.CreateKey(ctx, api.CreateKey{TenantID: tn.ID, Name: "bench"})
		if err != nil {
			return s, fmt.Errorf("create a key: %w", err)
		}
		cl, err := client.New(t.url, key.Token, client.WithRetries(0))
		if err != nil {
			return s, err
		}
		sb, err := cl.Create(ctx, api.CreateSandbox{TimeoutSec: 900})
		if err != nil {
			return s, fmt.Errorf("create: %w", err)
		}
		all = append(all, watched{cl, sb.ID})
		if _, err := cl.WaitUntilReady(ctx, sb.ID); err != nil {
			return s, err
		}
	}
	before := kilobytes(t.pid, "status", "VmRSS")
	opened, heard := make(chan error, tenants*each), make(chan time.Time, tenants*each)
	for _, w := range all {
		for range each {
			wg.Go(func() {
				first := true
				for ev, err := range w.client.Events(ctx, w.id, "") {
					if first {
						first = false
						opened <- err
					}
					if err != nil {
						return
					}
					if ev.Type == api.EventUpdated {
						heard <- time.Now()
						return
					}
				}
			})
		}
	}
	for range tenants * each {
		if err := <-opened; err != nil {
			return s, fmt.Errorf("open a stream: %w", err)
		}
	}
	if err := settle(ctx); err != nil {
		return s, err
	}
	held := kilobytes(t.pid, "status", "VmRSS") - before
	begun := time.Now()
	for _, w := range all {
		if _, err := w.client.SetTags(ctx, w.id, "seen"); err != nil {
			return s, fmt.Errorf("change a sandbox: %w", err)
		}
	}
	var took []time.Duration
	for range tenants * each {
		select {
		case at := <-heard:
			took = append(took, at.Sub(begun))
		case <-time.After(30 * time.Second):
			return s, errors.New("an event did not come everywhere")
		}
	}
	s.Rows = []Row{{What: "change to event", Goal: "all ≤ 100 ms", Stats: summarise(took, 0)}}
	s.Facts = []Fact{{"memory of the daemon, each", fmt.Sprintf("%.1f KiB", float64(held)/(tenants*each)/1024), "≤ 30 KiB"}}
	return s, nil
}
