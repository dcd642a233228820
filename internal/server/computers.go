package server

import (
	"cmp"
	"context"
	"net/http"
	"time"

	"silica.dev/silica/api"
	"silica.dev/silica/sandbox"
)

// computerRoutes are the sandboxes again, in the words of clients that know
// computers. What lies below one and is answered alike is mounted by
// [asComputer].
func (s *Server) computerRoutes() []route {
	answer := func(do func(context.Context, sandbox.Caller, string) (sandbox.Sandbox, error)) handler {
		return func(w http.ResponseWriter, r *http.Request, c sandbox.Caller) error {
			// Once asked for, it is done whether or not the client stays.
			sb, err := do(context.WithoutCancel(r.Context()), c, param(r, "id"))
			if err != nil {
				return err
			}
			writeOne(w, http.StatusOK, wireComputer(sb))
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
		{"POST", v1 + "/computers", sandboxesWrite, counted, s.createComputer},
		{"GET", v1 + "/computers", sandboxesRead, counted, s.listComputers},
		{"GET", computer, sandboxesRead, counted, s.getComputer},
		{"PATCH", computer, sandboxesWrite, counted, s.ofKnown(s.updateComputer)},
		{"DELETE", computer, sandboxesWrite, counted, s.deleteComputer},
		{"POST", computer + "/start", sandboxesWrite, counted, change(Sandboxes.Start)},
		{"POST", computer + "/stop", sandboxesWrite, counted, change(Sandboxes.Stop)},
		{"POST", computer + "/pause", sandboxesWrite, counted, answer(pause)},
		{"POST", computer + "/resume", sandboxesWrite, counted, change(Sandboxes.Start)},
		{"POST", computer + "/restart", sandboxesWrite, counted, change(Sandboxes.Restart)},
	}
}

// computerStatus maps a sandbox's states to words that every client of computers
// knows: one turns them into names that must exist already in its program.
func computerStatus(s sandbox.State) string {
	switch s {
	case sandbox.Provisioning:
		return "starting"
	case sandbox.Paused, sandbox.Destroyed:
		return "stopped"
	}
	return string(s)
}

// computerStates reads a filter, in the words of computers or of sandboxes.
func computerStates(word string) []sandbox.State {
	switch word {
	case "creating", "starting":
		return []sandbox.State{sandbox.Provisioning}
	case "active":
		return []sandbox.State{sandbox.Running}
	case "stopped":
		return []sandbox.State{sandbox.Paused}
	}
	return sandboxStates(word)
}

func wireComputer(sb sandbox.Sandbox) api.Computer {
	a := api.Computer{
		ID: string(sb.ID), Slug: sb.Slug, Name: orNull(sb.Name),
		Status: computerStatus(sb.State), State: string(sb.State), StateReason: orNull(sb.Reason), Ready: sb.Ready,
		Visibility: "private", TemplateType: cmp.Or(sb.Spec.Image, sb.Spec.Template), TemplateID: cmp.Or(sb.Spec.Image, sb.Spec.Template),
		CPUCount: (sb.Spec.MilliCPU + sandbox.Core - 1) / sandbox.Core, MemoryMB: sb.Spec.Memory / sandbox.MiB, DiskSizeMB: sb.Spec.Disk / sandbox.MiB,
		TenantID: string(sb.Tenant), OwnerID: sb.Owner, WorkspaceID: sb.Workspace, ProjectID: sb.Project,
		ExternalWorkspaceID: orNull(sb.External.Workspace), ExternalUserID: orNull(sb.External.User), ExternalProjectID: orNull(sb.External.Project),
		Persistent: sb.Persist, AlwaysOn: sb.AlwaysOn, TimeoutSec: seconds(sb.Timeout), IdleTimeoutSec: seconds(sb.Idle),
		Metadata:  textOnly(sb.Metadata),
		CreatedAt: sb.CreatedAt.UTC(), UpdatedAt: sb.UpdatedAt.UTC(), StartedAt: timeOrNull(sb.StartedAt),
	}
	if z := sizeOf(sb.Spec.Resources); z != nil {
		a.Size, a.ResourceContract = &z.Name, contractOf(z)
	}
	return a
}

func (s *Server) createComputer(w http.ResponseWriter, r *http.Request, c sandbox.Caller) error {
	sb, err := s.create(r, c)
	if err != nil {
		return err
	}
	w.Header().Set("Location", api.Base+"/computers/"+string(sb.ID))
	writeOne(w, http.StatusCreated, wireComputer(sb))
	return nil
}

func (s *Server) listComputers(w http.ResponseWriter, r *http.Request, c sandbox.Caller) error {
	f, page, err := listFilter(r, computerStates)
	if err != nil {
		return err
	}
	found, err := s.deps.Sandboxes.List(r.Context(), c, f)
	if err != nil {
		return err
	}
	writePage(w, found, f, page, wireComputer)
	return nil
}

func (s *Server) getComputer(w http.ResponseWriter, r *http.Request, c sandbox.Caller) error {
	sb, err := s.deps.Sandboxes.Get(r.Context(), c, param(r, "id"))
	if err != nil {
		return err
	}
	writeOne(w, http.StatusOK, wireComputer(sb))
	return nil
}

func (s *Server) updateComputer(w http.ResponseWriter, r *http.Request, c sandbox.Caller) error {
	f, err := readFields(r)
	if err != nil {
		return err
	}
	var ch sandbox.Change
	if _, given := f.m["name"]; given {
		name := f.label(maxLabel, "name")
		ch.Name = &name
	}
	if _, given := f.m["metadata"]; given {
		metadata := f.object("metadata", maxMetadata)
		ch.Metadata = &metadata
	}
	if _, given := f.m["tags"]; given {
		tags := f.tags("tags")
		ch.Tags = &tags
	}
	if v, ok := f.boolean("always_on"); ok {
		ch.AlwaysOn = &v
	}
	for name, into := range map[string]**time.Duration{"timeout_sec": &ch.Timeout, "idle_timeout_sec": &ch.Idle} {
		if n, ok := f.integer(0, maxSeconds, name); ok {
			d := time.Duration(n) * time.Second
			*into = &d
		}
	}
	if f.err != nil {
		return f.err
	}
	sb, err := s.deps.Sandboxes.Update(context.WithoutCancel(r.Context()), c, param(r, "id"), ch)
	if err != nil {
		return err
	}
	writeOne(w, http.StatusOK, wireComputer(sb))
	return nil
}

func (s *Server) deleteComputer(w http.ResponseWriter, r *http.Request, c sandbox.Caller) error {
	sb, err := s.deps.Sandboxes.Destroy(context.WithoutCancel(r.Context()), c, param(r, "id"))
	if err != nil {
		return err
	}
	writeOne(w, http.StatusOK, api.DeletedComputer{
		ID: string(sb.ID), Status: computerStatus(sb.State), State: string(sb.State), TotalRuntimeSec: seconds(sb.Runtime(time.Now())),
	})
	return nil
}
