package server

import (
	"context"
	"net/http"
	"strconv"
	"time"

	"silica.dev/silica/api"
	"silica.dev/silica/sandbox"
)

// errOtherRequest is also for an idempotency key of somebody who sees more.
var errOtherRequest = sandbox.E(sandbox.Conflict, sandbox.CodeIdempotency, "this idempotency key was used for a different request")

// create makes the sandbox that a request asks for, or finds the one it made.
func (s *Server) create(r *http.Request, c sandbox.Caller) (sandbox.Sandbox, error) {
	req, err := s.parseCreate(r)
	if err != nil {
		return sandbox.Sandbox{}, err
	}
	sb, err := s.deps.Sandboxes.Create(r.Context(), c, req)
	if err == nil && !c.Sees(sb.Workspace) {
		err = errOtherRequest
	}
	return sb, err
}

func (s *Server) createSandbox(w http.ResponseWriter, r *http.Request, c sandbox.Caller) error {
	sb, err := s.create(r, c)
	if err != nil {
		return err
	}
	w.Header().Set("Location", api.Base+api.SandboxPath(string(sb.ID)))
	writeOne(w, http.StatusCreated, wireSandbox(r, sb, time.Now()))
	return nil
}

func (s *Server) getSandbox(w http.ResponseWriter, r *http.Request, c sandbox.Caller) error {
	sb, err := s.deps.Sandboxes.Get(r.Context(), c, param(r, "id"))
	if err != nil {
		return err
	}
	writeOne(w, http.StatusOK, wireSandbox(r, sb, time.Now()))
	return nil
}

// getByName finds a sandbox that lives by its name alone. Clients that get or
// create one rely on NOT_FOUND.
func (s *Server) getByName(w http.ResponseWriter, r *http.Request, c sandbox.Caller) error {
	name := param(r, "name")
	found, err := s.deps.Sandboxes.List(r.Context(), c, sandbox.Filter{Name: name, Limit: 2})
	if err != nil {
		return err
	}
	switch {
	case name == "" || len(found.Sandboxes) == 0:
		return sandbox.E(sandbox.NotFound, sandbox.CodeNotFound, "sandbox not found")
	case len(found.Sandboxes) > 1:
		return sandbox.E(sandbox.Conflict, sandbox.CodeConflict, "several sandboxes have this name: use an id")
	}
	writeOne(w, http.StatusOK, wireSandbox(r, found.Sandboxes[0], time.Now()))
	return nil
}

// setTags replaces the tags.
func (s *Server) setTags(w http.ResponseWriter, r *http.Request, c sandbox.Caller) error {
	f, err := readFields(r)
	if err != nil {
		return err
	}
	tags := f.tags("tags")
	if f.err == nil && tags == nil {
		f.reject("tags", "is needed: an array of strings")
	}
	if f.err != nil {
		return f.err
	}
	sb, err := s.deps.Sandboxes.Update(context.WithoutCancel(r.Context()), c, param(r, "id"), sandbox.Change{Tags: &tags})
	if err != nil {
		return err
	}
	writeOne(w, http.StatusOK, wireSandbox(r, sb, time.Now()))
	return nil
}

func (s *Server) listSandboxes(w http.ResponseWriter, r *http.Request, c sandbox.Caller) error {
	f, page, err := listFilter(r, sandboxStates)
	if err != nil {
		return err
	}
	found, err := s.deps.Sandboxes.List(r.Context(), c, f)
	if err != nil {
		return err
	}
	now := time.Now()
	writePage(w, found, f, page, func(sb sandbox.Sandbox) api.Sandbox { return wireSandbox(r, sb, now) })
	return nil
}

func (s *Server) deleteSandbox(w http.ResponseWriter, r *http.Request, c sandbox.Caller) error {
	// Once asked for, it is done whether or not the client stays.
	sb, err := s.deps.Sandboxes.Destroy(context.WithoutCancel(r.Context()), c, param(r, "id"))
	if err != nil {
		return err
	}
	writeOne(w, http.StatusOK, api.DestroyedSandbox{
		ID: string(sb.ID), State: api.StateDestroyed, TotalRuntimeSec: seconds(sb.Runtime(time.Now())),
	})
	return nil
}

func wireReadiness(sb sandbox.Sandbox) api.Readiness {
	a := api.Readiness{
		ID: string(sb.ID), SandboxID: string(sb.ID), Ready: sb.Ready, Status: string(sb.State), State: string(sb.State),
		BootPath: orNull(string(sb.BootPath)), BootMS: bootMS(sb), ReadyAt: timeOrNull(sb.ReadyAt), Reason: orNull(sb.Reason),
	}
	if sb.Ready {
		a.Status = "ready"
	}
	return a
}

// coming tells whether a sandbox that is not ready may become so.
func coming(sb sandbox.Sandbox) bool { return !sb.Ready && sb.State.Live() }

// readinessHold is how long an answer of "not yet" is held back: long enough
// to calm clients that poll every 10 ms, short enough not to be felt.
const readinessHold = 50 * time.Millisecond

func (s *Server) readiness(w http.ResponseWriter, r *http.Request, c sandbox.Caller) error {
	sb, err := s.awaitReady(r.Context(), c, param(r, "id"), readinessHold)
	if err != nil {
		return err
	}
	writeOne(w, http.StatusOK, wireReadiness(sb))
	return nil
}

// awaitReady returns the sandbox when it is ready, can't be any more, or d is over.
func (s *Server) awaitReady(ctx context.Context, c sandbox.Caller, id string, d time.Duration) (sandbox.Sandbox, error) {
	sb, err := s.deps.Sandboxes.Get(ctx, c, id)
	if err != nil || !coming(sb) {
		return sb, err
	}
	held, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	if got, err := s.deps.Sandboxes.Ready(held, c, string(sb.ID)); err == nil {
		return got, nil
	}
	// Time is up, or the sandbox has failed: its record says which.
	return s.deps.Sandboxes.Get(ctx, c, string(sb.ID))
}

// Bounds of ?timeout= on the readiness stream, in seconds.
const (
	readyTimeout    = 60
	maxReadyTimeout = 600
)

// readinessStream sends one event: ready, or timeout when that did not come in
// time or can't come any more.
func (s *Server) readinessStream(w http.ResponseWriter, r *http.Request, c sandbox.Caller) error {
	timeout := float64(readyTimeout)
	if v := r.URL.Query().Get("timeout"); v != "" {
		var err error
		if timeout, err = strconv.ParseFloat(v, 64); err != nil || !(timeout >= 0) {
			return sandbox.Field("timeout", "must be a number of seconds")
		}
		timeout = min(timeout, maxReadyTimeout)
	}
	sb, err := s.deps.Sandboxes.Get(r.Context(), c, param(r, "id"))
	if err != nil {
		return err
	}
	out := s.openStream(w, r)
	defer out.close()
	wait, cancel := context.WithTimeout(out.ctx, time.Duration(timeout*float64(time.Second)))
	defer cancel()
	if coming(sb) {
		done := make(chan struct{})
		go func() {
			defer close(done)
			_, _ = s.deps.Sandboxes.Ready(wait, c, string(sb.ID))
		}()
		for waiting := true; waiting; {
			select {
			case <-done:
				waiting = false
			case <-out.beat.C:
				out.comment("heartbeat")
			}
		}
		if sb, err = s.deps.Sandboxes.Get(context.WithoutCancel(r.Context()), c, string(sb.ID)); err != nil {
			return err
		}
	}
	switch {
	case sb.Ready:
		out.object("", "ready", wireReadiness(sb))
	case s.closing.Err() != nil && wait.Err() != context.DeadlineExceeded:
		out.farewell()
	default:
		out.object("", "timeout", wireReadiness(sb))
	}
	return nil
}
