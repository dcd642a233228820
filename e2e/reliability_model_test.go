package e2e

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/anishathalye/porcupine"
)

// action is what a client, or fate, does to one sandbox.
type action string

const (
	born    action = "create"  // file and counter are what it begins with; of which kind it is, the value says
	write   action = "write"   // value into its file
	count   action = "count"   // one more in its counter, and tell
	read    action = "read"    // file and counter
	look    action = "look"    // at its state
	wake    action = "wake"    // what using it does first; nobody asks for it alone
	stop    action = "stop"    // pause with files, or destroy what is not persistent
	start   action = "start"   // back, from memory or files
	falter  action = "falter"  // a start that failed, after which use may try it again
	pause   action = "pause"   // with memory
	keep    action = "keep"    // a snapshot, named value
	back    action = "restore" // to the snapshot named value: it is paused as that was
	arrive  action = "arrive"  // what follows a restore: it runs
	fork    action = "fork"    // file and counter are those of every copy
	destroy action = "destroy" // for good
	crash   action = "crash"   // its sentry was killed
)

// deed is an action with what was asked.
type deed struct {
	What  action
	Value int
}

// result is what came of a deed. Lost: nobody was told, so that it happened at
// some time, or never.
type result struct {
	Lost   bool
	State  string // of look
	File   int
	Number int
}

// Kinds of sandboxes, the value of born.
const (
	brief = iota // not persistent
	lasting
	briefCopy // made from a snapshot
	lastingCopy
)

// life is the model of a sandbox: what every history must be explained by.
type life struct {
	State   string // "" before it is created
	Persist bool
	Now     data
	Kept    data   // what is left when its sentry dies
	HasKept bool   // without, it is lost then
	Stopped bool   // by its user, so that use does not wake it
	Going   bool   // restored, and to run
	Marks   string // snapshots: " name=file/number"
}

// data is what a sandbox holds.
type data struct{ File, Number int }

// step is the specification: the lives that may follow l, none if the result
// can't be.
func (l life) step(d deed, o result) []any {
	next := l.after(d, o)
	if !o.Lost {
		return next
	}
	switch d.What {
	case write, count:
		if woken, ok := l.used(); ok { // or the server was killed before it got to the command
			next = append(next, woken)
		}
	}
	return append(next, l) // or it never happened
}

// used is the life of a sandbox that somebody uses, which may wake it.
func (l life) used() (life, bool) {
	if l.State == "paused" && l.Persist && !l.Stopped {
		l.State = "running"
	}
	return l, l.State == "running"
}

func (l life) after(d deed, o result) []any {
	running := l.State == "running"
	one := func(n life) []any { return []any{n} }
	switch d.What {
	case write, count, read, wake:
		if l, running = l.used(); !running {
			return nil
		}
	}
	switch d.What {
	case wake:
		return one(l)
	case born:
		if l.State != "" {
			return nil
		}
		now := data{o.File, o.Number}
		l = life{State: "running", Persist: d.Value == lasting || d.Value == lastingCopy, Now: now}
		if d.Value >= briefCopy {
			l.Kept, l.HasKept = now, true
		}
		return one(l)
	case write:
		l.Now.File = d.Value
		return one(l)
	case count:
		if l.Now.Number++; !o.Lost && o.Number != l.Now.Number {
			return nil
		}
		return one(l)
	case read:
		if l.Now != (data{o.File, o.Number}) {
			return nil
		}
		return one(l)
	case look:
		if l.State != o.State {
			return nil
		}
		return one(l)
	case stop:
		switch {
		case running && l.Persist:
			l.State, l.Kept, l.HasKept, l.Stopped = "paused", l.Now, true, true
		case running:
			l.State = "destroyed"
		case l.State == "": // what does not run any more stays as it is
			return nil
		}
		return one(l)
	case pause:
		if running {
			l.State, l.Kept, l.HasKept, l.Stopped = "paused", l.Now, true, false
		}
		if l.State != "paused" {
			return nil
		}
		return one(l)
	case start:
		if l.State == "paused" {
			l.State = "running"
		}
		if l.State != "running" {
			return nil
		}
		return one(l)
	case falter:
		if l.State == "paused" {
			l.Stopped = false
		}
		return one(l)
	case fork:
		if !running && l.State != "paused" || l.Now != (data{o.File, o.Number}) {
			return nil
		}
		return one(l)
	case keep:
		if !running && l.State != "paused" {
			return nil
		}
		l.Marks += fmt.Sprintf(" %d=%d/%d", d.Value, l.Now.File, l.Now.Number)
		return one(l)
	case back:
		i := strings.Index(l.Marks, fmt.Sprintf(" %d=", d.Value))
		if i < 0 || !running && l.State != "paused" {
			return nil
		}
		var name int
		_, _ = fmt.Sscanf(l.Marks[i:], " %d=%d/%d", &name, &l.Now.File, &l.Now.Number)
		l.State, l.Kept, l.HasKept, l.Stopped, l.Going = "paused", l.Now, true, false, true
		return one(l)
	case arrive:
		if !l.Going || !running && l.State != "paused" {
			return nil
		}
		l.State, l.Going = "running", false
		return one(l)
	case destroy:
		if l.State == "" {
			return nil
		}
		l.State = "destroyed"
		return one(l)
	case crash:
		if running && l.Persist && l.HasKept {
			l.State, l.Now, l.Stopped = "paused", l.Kept, false
		} else if running {
			l.State = "error"
		}
		return one(l)
	}
	return nil
}

// lives is the specification for the checker.
var lives = (&porcupine.NondeterministicModel{
	Init: func() []any { return []any{life{}} },
	Step: func(state, input, output any) []any { return state.(life).step(input.(deed), output.(result)) },
	DescribeOperation: func(input, output any) string {
		d, o := input.(deed), output.(result)
		if o.Lost {
			return fmt.Sprintf("%s(%d) → ?", d.What, d.Value)
		}
		return fmt.Sprintf("%s(%d) → %s %d/%d", d.What, d.Value, o.State, o.File, o.Number)
	},
	DescribeState: func(state any) string { return fmt.Sprintf("%+v", state) },
}).ToModel()

// inconsistent tells why a history can't be that of one sandbox; "" if it can.
// Whatever was lost may have happened until the end.
func inconsistent(ops []porcupine.Operation, patience time.Duration) string {
	end := int64(0)
	for _, op := range ops {
		end = max(end, op.Call, op.Return)
	}
	ops = slices.Clone(ops)
	for i := range ops {
		if ops[i].Output.(result).Lost {
			ops[i].Return = end + 1
		}
	}
	switch porcupine.CheckOperationsTimeout(lives, ops, patience) {
	case porcupine.Ok:
		return ""
	case porcupine.Unknown:
		return fmt.Sprintf("not decided within %s", patience)
	}
	slices.SortFunc(ops, func(a, b porcupine.Operation) int { return int(a.Call - b.Call) })
	var why strings.Builder
	for _, op := range ops {
		fmt.Fprintf(&why, "\n  %9.3f–%9.3f s client %d: %s", float64(op.Call)/1e9, float64(op.Return)/1e9, op.ClientId, lives.DescribeOperation(op.Input, op.Output))
	}
	return "no order of these explains what was answered:" + why.String()
}
