package server

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"time"

	"silica.dev/silica/sandbox"
)

// lifeRoutes are what changes a sandbox's life. None stops half way when the
// client leaves.
func (s *Server) lifeRoutes() []route {
	answer := func(do func(context.Context, sandbox.Caller, string) (sandbox.Sandbox, error)) handler {
		return func(w http.ResponseWriter, r *http.Request, c sandbox.Caller) error {
			sb, err := do(context.WithoutCancel(r.Context()), c, param(r, "id"))
			if err != nil {
				return err
			}
			writeOne(w, http.StatusOK, wireSandbox(r, sb, time.Now()))
			return nil
		}
	}
	change := func(do func(Sandboxes, context.Context, sandbox.Caller, string) (sandbox.Sandbox, error)) handler {
		return answer(func(ctx context.Context, c sandbox.Caller, id string) (sandbox.Sandbox, error) {
			return do(s.deps.Sandboxes, ctx, c, id)
		})
	}
	pause := func(ctx context.Context, c sandbox.Caller, id string) (sandbox.Sandbox, error) {
		return s.deps.Snapshots.Pause(ctx, c, id)
	}
	return []route{
		{"PATCH", sbx, sandboxesWrite, counted, s.updateSandbox},
		{"POST", sbx + "/extend", sandboxesWrite, counted, s.extendSandbox},
		{"POST", sbx + "/stop", sandboxesWrite, counted, change(Sandboxes.Stop)},
		{"POST", sbx + "/start", sandboxesWrite, counted, change(Sandboxes.Start)},
		{"POST", sbx + "/resume", sandboxesWrite, counted, change(Sandboxes.Start)}, // the only word of public clients for it
		{"POST", sbx + "/pause", sandboxesWrite, counted, answer(pause)},
		{"POST", sbx + "/restart", sandboxesWrite, counted, change(Sandboxes.Restart)},
	}
}

// changeable are the members of PATCH.
var changeable = []string{"name", "slug", "tags", "metadata", "always_on", "timeout_sec", "idle_timeout_sec"}

func (s *Server) updateSandbox(w http.ResponseWriter, r *http.Request, c sandbox.Caller) error {
	// A sandbox that is not there is no matter of what is in the body.
	if _, err := s.deps.Sandboxes.Get(r.Context(), c, param(r, "id")); err != nil {
		return err
	}
	ch, err := parseChange(r)
	if err != nil {
		return err
	}
	sb, err := s.deps.Sandboxes.Update(r.Context(), c, param(r, "id"), ch)
	if err != nil {
		return err
	}
	writeOne(w, http.StatusOK, wireSandbox(r, sb, time.Now()))
	return nil
}

// parseChange reads the body of PATCH. Unlike a create it refuses members it
// does not know: who misspells one would think it changed.
func parseChange(r *http.Request) (ch sandbox.Change, err error) {
	f, err := readFields(r)
	if err != nil {
		return ch, err
	}
	for name := range f.m {
		if !slices.Contains(changeable, name) {
			f.reject(cutText(name, 64), "can't be changed; what can is %s", strings.Join(changeable, ", "))
		}
	}
	if f.given("name") {
		name := f.name("name")
		ch.Name = &name
	}
	if f.given("slug") {
		slug := f.text(maxLabel, "slug")
		ch.Slug = &slug
	}
	if f.given("tags") {
		tags := f.tags("tags")
		ch.Tags = &tags
	}
	if f.given("metadata") {
		metadata := f.object("metadata", maxMetadata)
		ch.Metadata = &metadata
		if persist, ok := metadata[persistKey].(bool); ok {
			ch.Persist = &persist
		}
	}
	if v, ok := f.boolean("always_on"); ok {
		ch.AlwaysOn = &v
	}
	ch.Timeout = f.seconds("timeout_sec")
	ch.Idle = f.seconds("idle_timeout_sec")
	return ch, f.err
}

// persistKey of metadata is how one public client says that a sandbox's files
// are to be kept, on create and PATCH.
const persistKey = "miosa_persistent"

func (s *Server) extendSandbox(w http.ResponseWriter, r *http.Request, c sandbox.Caller) error {
	f, err := readFields(r)
	if err != nil {
		return err
	}
	var timeout time.Duration
	if d := f.seconds("timeout_sec"); d != nil {
		timeout = *d
	}
	if f.err != nil {
		return f.err
	}
	sb, err := s.deps.Sandboxes.Extend(r.Context(), c, param(r, "id"), timeout)
	if err != nil {
		return err
	}
	writeOne(w, http.StatusOK, wireSandbox(r, sb, time.Now()))
	return nil
}
