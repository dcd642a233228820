// Package bench measures a Silica server over HTTP, and other runtimes beside it
// in the same run, so that numbers need not be believed.
package bench

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"silica.dev/silica/client"
)

// Config says what to measure.
type Config struct {
	// Binary is the silica program to start servers of its own with, one for
	// each configuration. Empty: measure the server at URL as it is.
	Binary string
	Data   string // data folder of own servers; kept, so that the template is built once

	URL, Key string // of a running server
	Pid      int    // its process, when it is on this machine; else 0

	Runc  string // path of runc to compare with; empty: leave it out
	Runsc string // path of runsc to compare with; empty: leave it out

	// Refill is how long the server gets between two starts to make anew what it
	// keeps ready.
	Refill time.Duration

	// Only leaves out what has none of these words in its name. Empty: nothing.
	Only []string

	Quick bool         // a tenth of the rounds: to see that it works, not to publish
	Log   func(string) // hears what is being done; never nil
}

// Settings are what the measured server keeps ready.
type Settings struct {
	WarmPool   int `json:"warm_pool"`
	EmptySlots int `json:"empty_slots"`
}

// Section is one measurement: a table of durations, or facts.
type Section struct {
	Title string `json:"title"`
	Note  string `json:"note,omitempty"`
	Rows  []Row  `json:"rows,omitempty"`
	Facts []Fact `json:"facts,omitempty"`
}

// Row is one series of durations.
type Row struct {
	What string `json:"what"`
	Goal string `json:"goal,omitempty"`
	Stats
}

// Fact is one number or text that is not a series of durations.
type Fact struct {
	What  string `json:"what"`
	Value string `json:"value"`
	Goal  string `json:"goal,omitempty"`
}

// Report is everything one run found.
type Report struct {
	Begun    time.Time     `json:"begun"`
	Took     time.Duration `json:"took_ns"`
	Quick    bool          `json:"quick,omitempty"`
	Machine  Machine       `json:"machine"`
	Sections []Section     `json:"sections"`
}

// rounds shortens a count for a quick run.
func (c Config) rounds(n int) int {
	if c.Quick {
		return max(2, n/10)
	}
	return n
}

// Run measures. What could be measured before an error is in the report.
func Run(ctx context.Context, c Config) (Report, error) {
	r := Report{Begun: time.Now().UTC(), Quick: c.Quick, Machine: thisMachine()}
	var err error
	if c.Binary == "" {
		err = c.running(ctx, &r)
	} else {
		err = c.own(ctx, &r)
	}
	r.Took = time.Since(r.Begun)
	return r, err
}

// running measures a server nobody may restart: what it keeps ready decides
// which path a create takes, and the answer says so.
func (c Config) running(ctx context.Context, r *Report) error {
	cl, err := client.New(c.URL, c.Key, client.WithRetries(0), client.WithUserAgent("silica-bench"))
	if err != nil {
		return err
	}
	defer cl.Close()
	t := target{Config: c, client: cl, url: c.URL, pid: c.Pid}
	return r.collect(ctx, t,
		step{"create", target.startsAsConfigured},
		step{"exec", target.exec},
		step{"files", target.files},
		step{"destroy", target.destroys},
		step{"comparisons", target.compare},
	)
}

// own measures servers it starts, one for each configuration in turn.
func (c Config) own(ctx context.Context, r *Report) error {
	for _, cfg := range []struct {
		Settings
		steps []step
	}{
		{Settings{WarmPool: 10, EmptySlots: 10}, []step{
			{"create from the warm pool", target.startsFromPool},
			{"exec", target.exec},
			{"files", target.files},
			{"terminal", target.terminal},
			{"exec over the socket", target.sockets},
			{"event streams", target.watchers},
			{"comparisons", target.compare},
		}},
		{Settings{WarmPool: 0, EmptySlots: 10}, []step{
			{"create on empty sentries", target.startsFromSlots},
		}},
		{Settings{WarmPool: 4, EmptySlots: 4}, []step{ // as a server has it by default
			{"state: pause, resume and snapshot", target.pauses},
			{"state: fork", target.forks},
			{"state: paused sandboxes", target.pausedOnes},
		}},
		{Settings{}, []step{
			{"create with nothing ready", target.startsFromNothing},
			{"destroy", target.destroys},
			{"memory", target.memory},
			{"create and destroy again and again", target.loop},
			{"get and list", target.lookups},
		}},
	} {
		steps := slices.DeleteFunc(cfg.steps, func(s step) bool { return !c.wants(s) })
		if len(steps) == 0 {
			continue
		}
		if err := c.withServer(ctx, cfg.Settings, func(t target) error { return r.collect(ctx, t, steps...) }); err != nil {
			return err
		}
	}
	return nil
}

// step is one measurement of a target.
type step struct {
	name string
	run  func(target, context.Context) (Section, error)
}

func (c Config) wants(s step) bool {
	return len(c.Only) == 0 || slices.ContainsFunc(c.Only, func(word string) bool { return strings.Contains(s.name, word) })
}

// collect adds what the steps find.
func (r *Report) collect(ctx context.Context, t target, steps ...step) error {
	for _, s := range steps {
		t.Log(s.name)
		section, err := s.run(t, ctx)
		if err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		r.Sections = append(r.Sections, section)
	}
	return nil
}

// target is the server being measured.
type target struct {
	Config
	Settings
	client *client.Client
	url    string
	pid    int    // of the daemon; 0: unknown, then nothing on the host is looked at
	data   string // of an own server; empty otherwise
}
