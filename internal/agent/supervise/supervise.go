// Package supervise keeps services running, so that whoever defines one need not
// watch it: a service that ends is started anew as its policy says, ever more
// slowly, and one that was defined comes back after the sandbox was stopped.
package supervise

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"silica.dev/silica/internal/agent/journal"
	"silica.dev/silica/internal/agent/proc"
	"silica.dev/silica/sandbox"
)

const (
	// MaxServices bounds how many a sandbox has.
	MaxServices = 64
	// Kind is what the services' processes are listed as.
	Kind = "service"

	firstWait = time.Second
	longest   = 30 * time.Second
	steady    = 30 * time.Second // who ran so long starts with the first wait again
	grace     = 5 * time.Second  // between SIGTERM and SIGKILL
)

// Status is what a service is about.
type Status string

// The statuses.
const (
	Starting Status = "starting" // its predecessor is being ended
	Running  Status = "running"
	Stopping Status = "stopping"
	Stopped  Status = "stopped" // by its owner, or because it ended well and need not run again
	Backoff  Status = "backoff" // it ended, and is started again soon
	Failed   Status = "failed"  // it ended badly, and its policy is to leave it
)

// Config is what a Supervisor works with.
type Config struct {
	File     string // of the definitions
	Table    *proc.Table
	Journals *journal.Store
	// Spec completes what is to run with the sandbox's environment.
	Spec func(args []string, dir string, env map[string]string) proc.Spec
	// Damaged is told that the file was set aside.
	Damaged func(text string)
	Log     *slog.Logger
}

// Supervisor holds the services of a sandbox.
type Supervisor struct {
	cfg Config
	wg  sync.WaitGroup // launches under way after a load

	mu       sync.Mutex
	services []*service // by creation
	loaded   bool
	closed   bool
}

// service is one of them. Supervisor.mu guards it.
type service struct {
	def      Definition
	log      *journal.Journal
	status   Status
	process  *proc.Process // nil: it does not run
	over     chan struct{} // closed when process has ended
	began    time.Time     // the last start
	wait     time.Duration // of the last backoff; 0: none
	timer    *time.Timer   // of the backoff
	due      time.Time     // its end
	restarts int
	last     *proc.Exit
	removed  bool
}

// Service is a service as others see it.
type Service struct {
	Definition
	Status    Status
	PID       int
	Restarts  int
	Began     time.Time
	NextStart time.Time
	Last      *proc.Exit
}

// New returns a Supervisor without services; see Load.
func New(cfg Config) *Supervisor { return &Supervisor{cfg: cfg} }

// Close lets nothing start any more. What runs is the table's to end.
func (s *Supervisor) Close() {
	s.mu.Lock()
	s.closed = true
	for _, sv := range s.services {
		sv.calm()
	}
	s.mu.Unlock()
	s.wg.Wait()
}

// Create adds a service and starts it.
func (s *Supervisor) Create(def Definition) (Service, error) {
	def.ID = sandbox.NewName("svc_")
	def.Created = time.Now().UTC()
	def.Updated = def.Created
	def.Restart = cmp.Or(def.Restart, Always)
	if err := def.check(); err != nil {
		return Service{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.find(def.Name) != nil {
		return Service{}, sandbox.E(sandbox.Conflict, sandbox.CodeConflict, fmt.Sprintf("there is a service %q already", def.Name))
	}
	if len(s.services) >= MaxServices {
		return Service{}, sandbox.E(sandbox.Conflict, sandbox.CodeConflict, fmt.Sprintf("a sandbox has at most %d services", MaxServices))
	}
	log := s.cfg.Journals.Create()
	def.Log = log.ID
	sv := &service{def: def, log: log, status: Stopped}
	log.Describe(sv.head())
	s.services = append(s.services, sv)
	if err := s.save(); err != nil {
		s.services = s.services[:len(s.services)-1]
		s.cfg.Journals.Remove(log)
		return Service{}, err
	}
	s.launch(sv)
	return sv.show(), nil
}

// List shows all services by creation.
func (s *Supervisor) List() []Service {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]Service, len(s.services))
	for i, sv := range s.services {
		list[i] = sv.show()
	}
	return list
}

// find looks for an id or a name.
func (s *Supervisor) find(ref string) *service {
	i := slices.IndexFunc(s.services, func(sv *service) bool { return sv.def.ID == ref || sv.def.Name == ref })
	if i < 0 {
		return nil
	}
	return s.services[i]
}

func (s *Supervisor) must(ref string) (*service, error) {
	if sv := s.find(ref); sv != nil {
		return sv, nil
	}
	return nil, sandbox.E(sandbox.NotFound, sandbox.CodeNotFound, "no such service")
}

// Start starts a service that does not run, without waiting for its backoff.
func (s *Supervisor) Start(ref string) (Service, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	sv, err := s.must(ref)
	if err != nil {
		return Service{}, err
	}
	err = s.want(sv, true)
	sv.wait = 0
	if sv.process == nil {
		s.launch(sv)
	} else if sv.status == Stopping {
		sv.status = Starting
	}
	return sv.show(), err
}

// want notes whether a service shall run. What can't be written down is so all
// the same, until the sandbox is stopped.
func (s *Supervisor) want(sv *service, run bool) error {
	sv.calm()
	if sv.def.Stopped == !run {
		return nil
	}
	sv.def.Stopped, sv.def.Updated = !run, time.Now().UTC()
	return s.save()
}

// Stop ends a service and returns when it has ended, or ctx has.
func (s *Supervisor) Stop(ctx context.Context, ref string) (Service, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	sv, err := s.must(ref)
	if err != nil {
		return Service{}, err
	}
	err = s.want(sv, false)
	sv.status = Stopped
	if sv.process != nil {
		sv.status = Stopping
		s.end(ctx, sv)
	}
	return sv.show(), err
}

// Restart ends a service and starts it anew.
func (s *Supervisor) Restart(ctx context.Context, ref string) (Service, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	sv, err := s.must(ref)
	if err != nil {
		return Service{}, err
	}
	err = s.want(sv, true)
	sv.wait = 0
	if sv.process != nil {
		sv.status = Starting // ended starts it
		s.end(ctx, sv)
	} else {
		s.launch(sv)
	}
	return sv.show(), err
}

// Delete ends a service and forgets it, with what it wrote.
func (s *Supervisor) Delete(ctx context.Context, ref string) (Service, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	sv, err := s.must(ref)
	if err != nil {
		return Service{}, err
	}
	sv.removed = true
	sv.calm()
	s.services = slices.DeleteFunc(s.services, func(o *service) bool { return o == sv })
	err = s.save()
	sv.status = Stopped
	if sv.process != nil {
		sv.status = Stopping
		s.end(ctx, sv)
	}
	s.cfg.Journals.Remove(sv.log)
	return sv.show(), err
}

// end asks a service's processes to end, and makes them after a while. It
// returns once they have or ctx has ended; s.mu is released meanwhile.
func (s *Supervisor) end(ctx context.Context, sv *service) {
	p, over := sv.process, sv.over
	s.mu.Unlock()
	defer s.mu.Lock()
	s.cfg.Table.SignalTree(p, unix.SIGTERM)
	kill := time.AfterFunc(grace, func() { s.cfg.Table.SignalTree(p, unix.SIGKILL) })
	select {
	case <-over:
		kill.Stop()
	case <-ctx.Done(): // the timer goes on
	}
}

// calm calls off a start that is due.
func (sv *service) calm() {
	if sv.timer != nil {
		sv.timer.Stop()
		sv.timer = nil
	}
	sv.due = time.Time{}
}

// shells are tried in this order, as everywhere.
var shells = []string{"/bin/bash", "/bin/sh"}

// launch starts a service's process. s.mu is held.
func (s *Supervisor) launch(sv *service) {
	if s.closed || sv.removed {
		return
	}
	sv.calm()
	sv.began = time.Now()
	var err error
	for _, shell := range shells {
		spec := s.cfg.Spec([]string{shell, "-c", sv.def.Command}, sv.def.Dir, sv.def.Env)
		label := proc.Label{Kind: Kind, Name: sv.def.Name, Command: sv.def.Command}
		over := make(chan struct{})
		sv.process, err = s.cfg.Table.Serve(spec, label, sv.log, func(p *proc.Process, e proc.Exit) { s.ended(sv, p, e) })
		if err == nil {
			sv.over, sv.status = over, Running
			return
		}
		if !sandbox.HasCode(err, sandbox.CodeFileNotFound) {
			break
		}
	}
	sv.process = nil
	sv.remark("could not be started: %s", sandbox.AsError(err).Message)
	s.next(sv, proc.Exit{Code: 126})
}

// ended notes that a service's process has, and kills what it left behind:
// daemons would pile up with every start.
func (s *Supervisor) ended(sv *service, p *proc.Process, e proc.Exit) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cfg.Table.SignalTree(p, unix.SIGKILL)
	close(sv.over)
	sv.process = nil
	if time.Since(sv.began) >= steady {
		sv.wait = 0
	}
	how := fmt.Sprintf("exited with code %d", e.Code)
	if e.Signal != 0 {
		how = "was ended by " + unix.SignalName(e.Signal)
	}
	sv.remark("%s after %s", how, time.Since(sv.began).Round(time.Millisecond))
	s.next(sv, e)
}

// next decides what becomes of a service that has ended.
func (s *Supervisor) next(sv *service, e proc.Exit) {
	sv.last = &e
	switch {
	case sv.status == Starting && !sv.def.Stopped: // its owner asked for it
		sv.status = Running // if it can't be, it is as if it had ended
		s.launch(sv)
		return
	case sv.def.Stopped || sv.removed:
		sv.status = Stopped
		return
	case sv.def.Restart == Never || sv.def.Restart == OnFailure && e.Code == 0:
		sv.status = Stopped
		if e.Code != 0 {
			sv.status = Failed
		}
		return
	case s.closed:
		return
	}
	sv.wait = min(max(2*sv.wait, firstWait), longest)
	sv.status, sv.due = Backoff, time.Now().Add(sv.wait)
	sv.remark("is started again in %s", sv.wait)
	var timer *time.Timer
	timer = time.AfterFunc(sv.wait, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if sv.timer == timer { // else called off meanwhile
			sv.restarts++
			s.launch(sv)
		}
	})
	sv.timer = timer
}

// remark writes a line of the supervisor's own into a service's log.
func (sv *service) remark(format string, args ...any) {
	sv.log.Append(byte(proc.System), []byte(fmt.Sprintf(sv.def.Name+" "+format+"\n", args...)))
}

func (sv *service) show() Service {
	v := Service{Definition: sv.def, Status: sv.status, Restarts: sv.restarts, Began: sv.began, NextStart: sv.due, Last: sv.last}
	if sv.process != nil {
		v.PID = sv.process.PID
	}
	return v
}

// Attach tells what a service wrote and writes, over all its starts. It reports
// false if no service has this log.
func (s *Supervisor) Attach(ctx context.Context, log uint64, r proc.Replay, o proc.Observer) (bool, error) {
	s.mu.Lock()
	i := slices.IndexFunc(s.services, func(sv *service) bool { return sv.def.Log == log })
	if i < 0 {
		s.mu.Unlock()
		return false, nil
	}
	sv := s.services[i]
	info := proc.Info{
		ID: log, Label: proc.Label{Kind: Kind, Name: sv.def.Name, Command: sv.def.Command}, Dir: sv.def.Dir,
		Started: sv.began, Running: sv.process != nil,
	}
	j := sv.log
	s.mu.Unlock()
	from := r.Start(j)
	info.First, info.End = j.Range()
	if err := o.Attached(info, from); err != nil {
		return true, err
	}
	ended, err := j.Read(ctx, from, r.Once, o)
	if err != nil || !ended {
		return true, err
	}
	return true, o.Exited(proc.Exit{})
}
