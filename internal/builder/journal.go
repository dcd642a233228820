package builder

import (
	"strings"
	"sync"
	"time"

	"silica.dev/silica/sandbox"
)

const (
	// journalPause is how long lines of a build wait for others to be kept with:
	// each commit costs the disk a wait.
	journalPause = 250 * time.Millisecond
	// maxLine bounds one event's text, maxOutput all that the steps of a build
	// write.
	maxEventText   = 8 << 10
	maxBuildOutput = 4 << 20
)

// journal gathers what a build tells and has it kept, in order, a few lines at a
// time.
type journal struct {
	keep func([]sandbox.BuildEvent)

	writing sync.Mutex // held while keep runs, so that lines stay in order
	mu      sync.Mutex
	pending []sandbox.BuildEvent
	output  int
	timer   *time.Timer
}

func newJournal(keep func([]sandbox.BuildEvent)) *journal { return &journal{keep: keep} }

// add takes a line. It does not wait for it to be kept.
func (j *journal) add(e sandbox.BuildEvent) {
	e.Text = storable(e.Text)
	j.mu.Lock()
	defer j.mu.Unlock()
	if e.Event == stepOutput {
		before := j.output
		j.output += len(e.Text) + 100 // an event without text is none for nothing
		if before >= maxBuildOutput {
			return
		}
		if j.output >= maxBuildOutput {
			e.Text = "(the output is too long: the rest is not kept)\n"
		}
	}
	j.pending = append(j.pending, e)
	if j.timer == nil {
		j.timer = time.AfterFunc(journalPause, j.flush)
	}
}

// flush returns when all that was added is kept.
func (j *journal) flush() {
	j.writing.Lock()
	defer j.writing.Unlock()
	j.mu.Lock()
	events := j.pending
	j.pending = nil
	if j.timer != nil {
		j.timer.Stop()
		j.timer = nil
	}
	j.mu.Unlock()
	if len(events) > 0 {
		j.keep(events)
	}
}

// storable makes what a program wrote into text that every database takes, within
// bounds: of what is too long the end counts.
func storable(text string) string {
	if len(text) > maxEventText {
		text = "…" + text[len(text)-maxEventText:]
	}
	return strings.ToValidUTF8(strings.ReplaceAll(text, "\x00", "\uFFFD"), "\uFFFD")
}
