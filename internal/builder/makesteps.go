package builder

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"

	"silica.dev/silica/internal/guest"
	"silica.dev/silica/internal/guest/guestpb"
	"silica.dev/silica/internal/runtime"
	"silica.dev/silica/sandbox"
)

// What the sandboxes have that steps run in. Less would make builds fail that
// run well elsewhere; the disk holds what the steps write, not the base image.
const (
	buildCores  = 2
	buildMemory = 4096 * sandbox.MiB
	buildDisk   = 16384 * sandbox.MiB

	defaultStepTimeout = 30 * time.Minute
	captureTimeout     = 10 * time.Minute
	lookTimeout        = 5 * time.Second // for what a failed step's sandbox has to say
)

// Limits on what a step's output makes of events.
const (
	maxLine      = 2 << 10
	maxStepLines = 5000
	lastLines    = 20
	tellEvery    = 250 * time.Millisecond
)

// runSteps returns the image that is there after all steps.
func (b *Builder) runSteps(ctx context.Context, base kept, steps []step, report func(sandbox.BuildEvent)) (sandbox.Ref, error) {
	final := keyOf("captured", steps[len(steps)-1].key)
	if k, release, ok := b.cache().open(ctx, final); ok {
		defer release()
		for _, s := range steps {
			report(sandbox.BuildEvent{Event: "step_cached", Step: s.number, Text: s.String()})
		}
		return k.Ref, nil
	}
	w, done, err := b.beginAfter(ctx, base, steps)
	if err != nil {
		return "", fmt.Errorf("start a sandbox for the steps: %w", err)
	}
	defer w.leave(ctx)
	for i, s := range steps {
		if i < done {
			report(sandbox.BuildEvent{Event: "step_cached", Step: s.number, Text: s.String()})
			continue
		}
		began := b.now()
		report(sandbox.BuildEvent{Event: "step_started", Step: s.number, Text: s.String()})
		if err := w.run(ctx, s, report); err != nil {
			return "", err
		}
		report(sandbox.BuildEvent{Event: "step_finished", Step: s.number, Text: s.String(), Took: b.now().Sub(began)})
		w.keep(ctx, s)
	}
	report(sandbox.BuildEvent{Event: "step_output", Text: "making the image"})
	ref, err := b.capture(ctx, w.client, base.Ref)
	if err != nil {
		return "", fmt.Errorf("make an image of the steps: %w", err)
	}
	_, release, err := b.cache().add(ctx, kept{Key: final, Ref: ref})
	if err != nil {
		return "", err
	}
	release()
	return ref, nil
}

// workshop is a sandbox that steps run in.
type workshop struct {
	*member
	base  sandbox.Ref
	leave func(context.Context)
}

// beginAfter starts a sandbox with the files that the longest cached beginning of
// steps left, and tells how many steps that is.
func (b *Builder) beginAfter(ctx context.Context, base kept, steps []step) (*workshop, int, error) {
	if _, ok := b.Driver.(runtime.FileKeeper); ok {
		for done := len(steps); done > 0; done-- {
			key := layerKey(steps[done-1])
			k, release, ok := b.cache().open(ctx, key)
			if !ok {
				continue
			}
			w, err := b.startWorkshop(ctx, base.Ref, k.Ref)
			if err == nil {
				stop := w.leave
				w.leave = func(ctx context.Context) { stop(ctx); release() }
				return w, done, nil
			}
			release()
			if ctx.Err() != nil {
				return nil, 0, err
			}
			b.Log.Warn("what earlier steps left can't be used", "step", steps[done-1], "err", err)
			b.cache().drop(ctx, key)
		}
	}
	w, err := b.startWorkshop(ctx, base.Ref, "")
	return w, 0, err
}

func layerKey(s step) string { return keyOf("layer", s.key) }

// startWorkshop starts a sandbox that no row names: recovery destroys it should
// we not come to.
func (b *Builder) startWorkshop(ctx context.Context, base, files sandbox.Ref) (*workshop, error) {
	id := sandbox.NewID()
	m := &member{builder: b, id: id}
	m.client = guest.NewClient(func(ctx context.Context) (net.Conn, error) { return b.Driver.Dial(ctx, id, guest.Port) })
	w := &workshop{member: m, base: base, leave: m.destroy}
	err := b.Driver.Start(ctx, runtime.StartRequest{ID: id, Image: base, Files: files,
		Resources: sandbox.Resources{MilliCPU: buildCores * sandbox.Core, Memory: buildMemory, Disk: buildDisk}})
	if err == nil {
		entropy := make([]byte, 32)
		_, _ = rand.Read(entropy) // never fails
		_, err = m.client.Init(ctx, &guestpb.InitRequest{Hostname: "build", UnixNano: time.Now().UnixNano(), Entropy: entropy,
			Workdir: "/root", Nameservers: b.Nameservers})
	}
	if err != nil {
		m.destroy(ctx)
		return nil, err
	}
	return w, nil
}

// keep puts aside what is there after s. That it can't costs the next build time,
// and this one nothing.
func (w *workshop) keep(ctx context.Context, s step) {
	driver, ok := w.builder.Driver.(runtime.FileKeeper)
	if !ok {
		return
	}
	ref, err := driver.KeepFiles(ctx, w.id)
	if err != nil {
		w.builder.Log.Warn("a step's result is not kept", "step", s, "err", err)
		return
	}
	_, release, err := w.builder.cache().add(context.WithoutCancel(ctx), kept{Key: layerKey(s), Ref: ref})
	if err == nil {
		release()
	} else {
		w.builder.Log.Warn("a step's result is not kept", "step", s, "err", err)
		w.builder.discard(context.WithoutCancel(ctx), ref)
	}
	// A sandbox that stays frozen is found so by the next step.
	if err := driver.Thaw(ctx, w.id); err != nil {
		w.builder.Log.Warn("a build's sandbox does not go on", "sandbox", w.id, "err", err)
	}
}

// run runs one step to its end.
func (w *workshop) run(ctx context.Context, s step, report func(sandbox.BuildEvent)) error {
	if _, err := w.client.MakeDir(ctx, &guestpb.MakeDirRequest{Path: s.workdir, Parents: true}); err != nil && !sandbox.HasCode(err, sandbox.CodeFileExists) {
		return w.failed(ctx, s, err, nil)
	}
	if s.run == "" {
		return nil
	}
	limit := w.builder.Making.StepTimeout
	if limit == 0 {
		limit = defaultStepTimeout
	}
	env := map[string]string{"DEBIAN_FRONTEND": "noninteractive"}
	for _, more := range []map[string]string{w.builder.Making.Env, s.env} {
		for k, v := range more {
			env[k] = v
		}
	}
	out := tell(s, report)
	defer out.end()
	// The agent keeps the time; the second limit is for one that does not.
	within, cancel := context.WithTimeout(ctx, limit+lookTimeout)
	defer cancel()
	req := &guestpb.StartRequest{Args: []string{"/bin/sh", "-c", s.run}, Cwd: s.workdir, Env: env, TimeoutMs: limit.Milliseconds()}
	for ev, err := range w.client.Start(within, req) {
		if err != nil {
			if ctx.Err() == nil && within.Err() != nil {
				return tooSlow(s, limit, out)
			}
			return w.failed(ctx, s, err, out)
		}
		if o := ev.GetOutput(); o != nil {
			out.add(o.Data)
		}
		if x := ev.GetExited(); x != nil {
			if x.TimedOut {
				return tooSlow(s, limit, out)
			}
			if x.ExitCode != 0 {
				return w.exited(ctx, s, x, out)
			}
			return nil
		}
	}
	return w.failed(ctx, s, errors.New("the agent told no end"), out)
}

func tooSlow(s step, limit time.Duration, out *output) error {
	return out.explain(s, sandbox.E(sandbox.Timeout, sandbox.CodeStepTimeout, fmt.Sprintf("%s did not end within %s", s.title(), limit)))
}

func (s step) title() string {
	if s.number == 0 {
		return "installing the packages"
	}
	return fmt.Sprintf("step %d", s.number)
}

// exited says why a step failed.
func (w *workshop) exited(ctx context.Context, s step, x *guestpb.ProcessEvent_Exited, out *output) error {
	e := sandbox.E(sandbox.Invalid, sandbox.CodeStepFailed, fmt.Sprintf("%s failed with exit code %d", s.title(), x.ExitCode))
	switch {
	case w.full(ctx):
		e = sandbox.E(sandbox.Exhausted, sandbox.CodeBuildNoSpace, fmt.Sprintf("%s failed: the build's disk of %d MiB is full", s.title(), buildDisk/sandbox.MiB))
	case x.OutOfMemory:
		e.Message = fmt.Sprintf("%s ran out of memory: builds have %d MiB", s.title(), buildMemory/sandbox.MiB)
	case x.Signal != "":
		e.Message = fmt.Sprintf("%s was ended by %s", s.title(), x.Signal)
	}
	return out.explain(s, e.With("exit_code", int(x.ExitCode)))
}

// full tells whether the disk is.
func (w *workshop) full(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	const least = 16 << 20 // bytes
	m, err := w.client.Metrics(ctx)
	return err == nil && m.DiskTotal > 0 && m.DiskTotal-m.DiskUsed < least
}

// failed says why a step did not come to its end.
func (w *workshop) failed(ctx context.Context, s step, err error, out *output) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	reason := sandbox.AsError(err).Message
	look, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	if sandbox.HasCode(err, sandbox.CodeSandboxGone) {
		if exit, werr := w.builder.Driver.Wait(look, w.id); werr == nil && exit.Reason != "" {
			reason = exit.Reason
		}
	}
	return out.explain(s, sandbox.E(sandbox.Invalid, sandbox.CodeStepFailed, s.title()+" did not come to its end: "+reason).Because(err))
}

// output makes events of what a step writes.
type output struct {
	step   step
	report func(sandbox.BuildEvent)
	stop   func()

	mu    sync.Mutex
	part  []byte   // a line that has not ended
	text  []byte   // lines not told yet
	last  []string // lines told
	lines int
}

// tell tells at intervals what was added. It must be ended.
func tell(s step, report func(sandbox.BuildEvent)) *output {
	o := &output{step: s, report: report}
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(tellEvery)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				o.mu.Lock()
				o.flush()
				o.mu.Unlock()
			case <-done:
				return
			}
		}
	})
	o.stop = sync.OnceFunc(func() { close(done); wg.Wait() })
	return o
}

func (o *output) add(data []byte) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for len(data) > 0 {
		line, rest, ended := bytes.Cut(data, []byte("\n"))
		o.part = append(o.part, line[:min(len(line), maxLine-len(o.part))]...)
		data = rest
		if ended {
			o.line()
		}
	}
}

// line takes the line that ended. Of those over a terminal's line the last
// version counts.
func (o *output) line() {
	text := strings.ToValidUTF8(strings.TrimRight(string(o.part), "\r"), "\uFFFD")
	text = strings.ReplaceAll(text[strings.LastIndex(text, "\r")+1:], "\x00", "")
	o.part = o.part[:0]
	if o.last = append(o.last, text); len(o.last) > lastLines {
		o.last = o.last[1:]
	}
	switch o.lines++; {
	case o.lines == maxStepLines+1:
		text = "… further lines are left out"
	case o.lines > maxStepLines:
		return
	}
	o.text = append(append(o.text, text...), '\n')
	if len(o.text) > maxEventText-maxLine {
		o.flush()
	}
}

func (o *output) flush() {
	if len(o.text) > 0 {
		o.report(sandbox.BuildEvent{Event: "step_output", Step: o.step.number, Text: strings.TrimSuffix(string(o.text), "\n")})
		o.text = nil
	}
}

// end tells the rest. It may be called again.
func (o *output) end() {
	o.stop()
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.part) > 0 {
		o.line()
	}
	o.flush()
}

// explain adds what a failed step wrote last.
func (o *output) explain(s step, e *sandbox.Error) error {
	e = e.With("step", s.number).With("command", s.String())
	if o == nil {
		return e
	}
	o.end()
	return e.With("output", strings.Join(o.last, "\n"))
}
