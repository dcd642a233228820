package builder

import (
	"fmt"
	"time"

	"silica.dev/silica/sandbox"
)

// Status is how far a template is.
type Status struct {
	Template string
	Ready    bool
	Doing    string    // "installing packages 143/312"; empty when ready
	Since    time.Time // when the work under way began
	Err      string    // why the last try failed, for users; empty when none did
}

// String is a line for logs and terminals.
func (s Status) String() string {
	switch {
	case s.Ready:
		return fmt.Sprintf("template %s is ready", s.Template)
	case s.Doing == "" && s.Err != "":
		return fmt.Sprintf("template %s could not be built: %s", s.Template, s.Err)
	case s.Doing == "":
		return fmt.Sprintf("template %s waits to be built", s.Template)
	}
	return fmt.Sprintf("building template %s: %s", s.Template, s.Doing)
}

// told is what Report heard last.
type told struct {
	step string // Doing without its numbers
	at   time.Time
}

// Status tells how far a template is.
func (b *Builder) Status(slug string) Status {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.status[slug]
	s.Template = slug
	return s
}

func (b *Builder) begin(slug, doing string) {
	b.set(slug, func(s *Status) { s.Since, s.Doing, s.Err = b.now(), doing, "" })
}

// doing does not touch Ready: a snapshot made again leaves the template usable.
func (b *Builder) doing(slug, doing string) {
	b.set(slug, func(s *Status) {
		if !s.Ready {
			s.Doing = doing
		}
	})
}

func (b *Builder) ready(slug string) {
	b.set(slug, func(s *Status) { s.Ready, s.Doing, s.Err = true, "", "" })
}

func (b *Builder) failed(slug string, err error) {
	b.set(slug, func(s *Status) { s.Ready, s.Doing, s.Err = false, "", sandbox.AsError(err).Message })
}

// unwatch forgets how far a template is.
func (b *Builder) unwatch(slug string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.status, slug)
	delete(b.told, slug)
}

// set changes a status and reports it: each step at once, its numbers about
// once a second.
func (b *Builder) set(slug string, change func(*Status)) {
	b.mu.Lock()
	s := b.status[slug]
	s.Template = slug
	change(&s)
	b.status[slug] = s
	last, now := b.told[slug], b.now()
	step := stepOf(s)
	tell := b.Report != nil && (step != last.step || now.Sub(last.at) >= time.Second)
	if tell {
		b.told[slug] = told{step, now}
	}
	b.mu.Unlock()
	if tell {
		b.Report(s)
	}
}

func stepOf(s Status) string {
	step := make([]rune, 0, len(s.Doing))
	for _, r := range s.Doing {
		if r < '0' || r > '9' {
			step = append(step, r)
		}
	}
	return fmt.Sprint(string(step), s.Ready, s.Err)
}
