package server

import (
	"context"
	"net/http"
	"strconv"

	"silica.dev/silica/api"
	"silica.dev/silica/sandbox"
)

const (
	templatePath = v1 + "/sandbox-templates/{id}"
	buildPath    = v1 + "/sandbox-template-builds/{id}"
)

// stepOutput is the event of what a step writes.
const stepOutput = "step_output"

func (s *Server) catalogueRoutes() []route {
	return []route{
		{"GET", v1 + "/sandbox-templates", templatesRead, counted, s.listTemplates},
		{"POST", v1 + "/sandbox-templates", templatesWrite, counted, s.createTemplate},
		{"POST", sbx + "/template", templatesWrite, counted, s.ofKnown(s.templateFrom)},
		{"GET", v1 + "/sandbox-templates/build-spec", templatesRead, counted, s.specSchema},
		{"POST", v1 + "/sandbox-templates/validate", templatesRead, counted, s.validateSpec},
		{"GET", templatePath, templatesRead, counted, s.getTemplate},
		{"PUT", templatePath, templatesWrite, counted, s.changeTemplate},
		{"PATCH", templatePath, templatesWrite, counted, s.changeTemplate},
		{"DELETE", templatePath, templatesWrite, counted, s.deleteTemplate},
		{"POST", templatePath + "/builds", templatesWrite, counted, s.createBuild},
		{"GET", templatePath + "/builds", templatesRead, counted, s.listBuilds},
		{"GET", buildPath, templatesRead, counted, s.getBuild},
		{"GET", buildPath + "/logs", templatesRead, counted, s.buildLog},
		{"GET", buildPath + "/logs/stream", templatesRead, counted | streamed, s.buildStream},
		{"POST", buildPath + "/cancel", templatesWrite, counted, s.cancelBuild},
		{"POST", buildPath + "/retry", templatesWrite, counted, s.retryBuild},
	}
}

// wireBuild makes the union of what public clients read of a build.
func wireBuild(b sandbox.Build, events []sandbox.BuildEvent) api.Build {
	a := api.Build{
		ID: b.ID, SandboxTemplateID: b.Template, TemplateID: b.Template, SourceType: "build_spec",
		State: string(b.State), Status: string(b.State), BuildSpec: wireSpec(b.Spec),
		BaseDigest: orNull(b.Base), Revision: orNull(b.Revision), LogURL: api.Base + "/sandbox-template-builds/" + b.ID + "/logs",
		ErrorCode: orNull(b.Code), ErrorMessage: orNull(b.Message), Error: orNull(b.Message),
		Metadata:  api.BuildMetadata{Events: []api.BuildEvent{}},
		StartedAt: timeOrNull(b.StartedAt), FinishedAt: timeOrNull(b.FinishedAt),
		InsertedAt: b.CreatedAt.UTC(), CreatedAt: b.CreatedAt.UTC(), UpdatedAt: b.UpdatedAt.UTC(),
	}
	if b.State == sandbox.BuildReady {
		a.ImageID = &a.TemplateID
	}
	switch {
	case b.State == sandbox.BuildReady || b.State == sandbox.BuildDistributing:
		a.Certification = new(string)
		*a.Certification = "passed"
	case b.Code == sandbox.CodeCertification:
		a.Certification = new(string)
		*a.Certification = "failed"
	}
	if !b.StartedAt.IsZero() && !b.FinishedAt.IsZero() {
		ms := b.FinishedAt.Sub(b.StartedAt).Milliseconds()
		a.DurationMS = &ms
	}
	for _, e := range events {
		if e.Event != stepOutput {
			a.Metadata.Events = append(a.Metadata.Events, wireBuildEvent(e))
		}
	}
	return a
}

func wireBuildEvent(e sandbox.BuildEvent) api.BuildEvent {
	a := api.BuildEvent{Seq: e.Seq, Event: e.Event, State: string(e.State), Step: e.Step, Text: e.Text, At: e.At.UTC()}
	if e.Took > 0 {
		ms := e.Took.Milliseconds()
		a.DurationMS = &ms
	}
	return a
}

func (s *Server) createBuild(w http.ResponseWriter, r *http.Request, c sandbox.Caller) error {
	f, err := readFields(r)
	if err != nil {
		return err
	}
	spec, err := s.spec(f, false)
	if err != nil {
		return err
	}
	b, err := s.deps.Templates.Queue(r.Context(), c, param(r, "id"), spec)
	if err != nil {
		return err
	}
	writeOne(w, http.StatusCreated, wireBuild(b, nil))
	return nil
}

func (s *Server) listBuilds(w http.ResponseWriter, r *http.Request, c sandbox.Caller) error {
	list, err := s.deps.Templates.Builds(r.Context(), c, param(r, "id"))
	if err != nil {
		return err
	}
	return writeList(w, r, list, func(b sandbox.Build) api.Build { return wireBuild(b, nil) })
}

func (s *Server) getBuild(w http.ResponseWriter, r *http.Request, c sandbox.Caller) error {
	b, events, err := s.deps.Templates.BuildLog(r.Context(), c, param(r, "id"))
	if err != nil {
		return err
	}
	writeOne(w, http.StatusOK, wireBuild(b, events))
	return nil
}

// buildLog: "/logs returns persisted lifecycle events".
func (s *Server) buildLog(w http.ResponseWriter, r *http.Request, c sandbox.Caller) error {
	b, events, err := s.deps.Templates.BuildLog(r.Context(), c, param(r, "id"))
	if err != nil {
		return err
	}
	l := api.BuildLog{BuildID: b.ID, State: string(b.State), Events: []api.BuildEvent{}}
	for _, e := range events {
		l.Events = append(l.Events, wireBuildEvent(e))
	}
	l.Data = l.Events
	writeJSON(w, http.StatusOK, l)
	return nil
}

// buildStream: "first replays persisted events, then emits live build_event
// messages until the build reaches ready, failed, or cancelled".
func (s *Server) buildStream(w http.ResponseWriter, r *http.Request, c sandbox.Caller) error {
	after := int64(0)
	if v := r.Header.Get(api.HeaderLastEventID); v != "" {
		var err error
		if after, err = strconv.ParseInt(v, 10, 64); err != nil || after < 0 {
			return sandbox.Field(api.HeaderLastEventID, "is no id of an event of this stream")
		}
	}
	id := param(r, "id")
	if _, err := s.deps.Templates.GetBuild(r.Context(), c, id); err != nil {
		return err
	}
	out := s.openStream(w, r)
	defer out.close()
	ctx, cancel := context.WithCancel(out.ctx)
	ch, wait := pump(ctx, s.deps.Templates.FollowBuild(ctx, c, id, after))
	defer func() { cancel(); wait() }()
	for {
		select {
		case it, ok := <-ch:
			switch {
			case !ok && s.closing.Err() != nil:
				out.farewell()
				return nil
			case !ok:
				return nil
			case it.err != nil:
				out.object("", api.EventClosing, map[string]any{"reason": "the build's log can't be read just now", "reconnect": true})
				return noteOnly(out, it.err)
			}
			out.object(strconv.FormatInt(it.v.Seq, 10), api.EventBuild, wireBuildEvent(it.v))
		case <-out.beat.C:
			out.comment("heartbeat")
		}
	}
}

func (s *Server) cancelBuild(w http.ResponseWriter, r *http.Request, c sandbox.Caller) error {
	b, err := s.deps.Templates.Cancel(r.Context(), c, param(r, "id"))
	if err != nil {
		return err
	}
	writeOne(w, http.StatusOK, wireBuild(b, nil))
	return nil
}

// retryBuild answers with the new attempt, which has an id of its own.
func (s *Server) retryBuild(w http.ResponseWriter, r *http.Request, c sandbox.Caller) error {
	b, err := s.deps.Templates.Retry(r.Context(), c, param(r, "id"))
	if err != nil {
		return err
	}
	writeOne(w, http.StatusCreated, wireBuild(b, nil))
	return nil
}

// specSchema publishes the BuildSpec as a JSON Schema.
func (s *Server) specSchema(w http.ResponseWriter, _ *http.Request, _ sandbox.Caller) error {
	text := func(about string) map[string]any { return map[string]any{"type": "string", "description": about} }
	number := func(least, most, standard int64, about string) map[string]any {
		return map[string]any{"type": "integer", "minimum": least, "maximum": most, "default": standard, "description": about}
	}
	list := func(about string, items map[string]any) map[string]any {
		return map[string]any{"type": "array", "items": items, "description": about}
	}
	folder := map[string]any{"type": "string", "pattern": "^/"}
	env := map[string]any{"type": "object", "additionalProperties": map[string]any{"type": "string"}, "description": "environment variables"}
	caps := s.cfg.Caps
	writeOne(w, http.StatusOK, map[string]any{
		"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "BuildSpec", "type": "object",
		"required": []string{"from"}, "additionalProperties": false,
		"properties": map[string]any{
			"from":      text("base image of the Debian or Ubuntu family, or template: and the slug of another template"),
			"vcpu":      number(1, caps.MilliCPU/sandbox.Core, 1, "CPUs of a sandbox that asks for none"),
			"memoryMib": number(sandbox.MinBuildMemoryMiB, caps.Memory/sandbox.MiB, 1024, "its memory in MiB"),
			"diskMib":   number(sandbox.MinBuildDiskMiB, caps.Disk/sandbox.MiB, 3072, "its writable disk in MiB"),
			"steps": map[string]any{"type": "array", "maxItems": sandbox.MaxSteps, "description": "done in order",
				"items": map[string]any{"type": "object", "minProperties": 1, "additionalProperties": false,
					"properties": map[string]any{"run": text("shell command"), "workdir": folder, "env": env}}},
			"env":           env,
			"workdir":       map[string]any{"type": "string", "pattern": "^/", "default": "/workspace", "description": "where commands start"},
			"user":          map[string]any{"type": "string", "default": "root", "description": "who runs commands"},
			"startCmd":      text("long-running command that template/start runs"),
			"readyCmd":      text("succeeds once what startCmd started answers"),
			"previewPort":   map[string]any{"type": "integer", "minimum": 1, "maximum": 65535, "description": "port of the app"},
			"artifactPaths": list("absolute paths that the artifact manifest names", folder),
			"packages":      list("packages of the base image's distribution to install", map[string]any{"type": "string"}),
			"installCmd":    text("run by template/start before startCmd"),
			"warm_start":    map[string]any{"type": "boolean", "default": false, "description": "have startCmd running in the memory that copies start from"},
		},
	})
	return nil
}
