package server

import (
	"cmp"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"silica.dev/silica/api"
	"silica.dev/silica/sandbox"
)

// wireTemplate makes the union of what public clients read of a template.
func (s *Server) wireTemplate(t sandbox.Template) api.Template {
	built := t.Built // what a sandbox of it gets now
	if t.Revision == "" {
		built = t.Spec
	}
	cores, memory, disk := built.VCPU, built.MemoryMiB, built.DiskMiB
	orElse(&cores, (s.cfg.Defaults.MilliCPU+sandbox.Core-1)/sandbox.Core)
	orElse(&memory, s.cfg.Defaults.Memory/sandbox.MiB)
	orElse(&disk, s.cfg.Defaults.Disk/sandbox.MiB)
	created, changed := t.CreatedAt.UTC(), t.UpdatedAt.UTC()
	if t.UpdatedAt.IsZero() {
		changed = created
	}
	official := t.Tenant == ""
	tags := append([]string{}, t.Tags...)
	if official && !slices.Contains(tags, "official") {
		tags = append(tags, "official")
	}
	category := cmp.Or(t.Category, "base")
	a := api.Template{
		ID: t.ID, Slug: t.Slug, Name: cmp.Or(t.Name, t.Slug), Description: t.Description, TenantID: orNull(string(t.Tenant)),
		ImageID: t.Slug, ImageRef: t.Slug, Category: category, Categories: []string{category}, Tags: tags, Runtimes: []string{},
		CPUCount: cores, VCPUs: cores, DefaultCPU: cores, MemoryMB: memory, DefaultMemoryMB: memory, DiskMB: disk,
		Workdir: cmp.Or(t.Workdir, built.Workdir, homeDir), InstallCommand: orNull(built.InstallCmd), StartCommand: orNull(built.StartCmd),
		ArtifactPaths: append([]string{}, built.ArtifactPaths...), ReadinessProbe: probe(built),
		BuildSpec: wireSpec(t.Spec), Pool: api.Pool(t.Pool), Metadata: t.Metadata,
		Status: cmp.Or(string(t.Status), string(sandbox.TemplateDraft)), Revision: orNull(t.Revision), PendingRevision: orNull(t.Pending), CurrentBuildID: orNull(t.LastBuild),
		Default: official && t.Slug == s.cfg.DefaultTemplate, BuiltIn: official, IsOfficial: official, Public: official,
		CreatedAt: created, InsertedAt: created, UpdatedAt: changed,
	}
	if built.PreviewPort > 0 {
		a.PreviewPort = &built.PreviewPort
	}
	if a.Metadata == nil {
		a.Metadata = map[string]any{}
	}
	return a
}

func probe(b sandbox.BuildSpec) *api.ReadinessProbe {
	switch {
	case b.PreviewPort > 0:
		return &api.ReadinessProbe{Type: "http", URL: "http://127.0.0.1:" + strconv.Itoa(b.PreviewPort), Command: b.ReadyCmd}
	case b.ReadyCmd != "":
		return &api.ReadinessProbe{Type: "command", Command: b.ReadyCmd}
	}
	return nil
}

func wireSpec(b sandbox.BuildSpec) api.BuildSpec {
	a := api.BuildSpec{
		From: b.From, VCPU: b.VCPU, MemoryMiB: b.MemoryMiB, DiskMiB: b.DiskMiB, Steps: []api.BuildStep{}, Env: b.Env,
		Workdir: b.Workdir, User: b.User, StartCmd: b.StartCmd, ReadyCmd: b.ReadyCmd, PreviewPort: b.PreviewPort,
		ArtifactPaths: append([]string{}, b.ArtifactPaths...), Packages: b.Packages, InstallCmd: b.InstallCmd, WarmStart: b.WarmStart,
	}
	for _, step := range b.Steps {
		a.Steps = append(a.Steps, api.BuildStep(step))
	}
	if a.Env == nil {
		a.Env = map[string]string{}
	}
	return a
}

// listTemplates lists what the caller may create from, with other names of
// official ones when they are asked for, and only those of a tag, category or word.
func (s *Server) listTemplates(w http.ResponseWriter, r *http.Request, c sandbox.Caller) error {
	found, err := s.deps.Templates.Templates(r.Context(), c)
	if err != nil {
		return err
	}
	q := r.URL.Query()
	l := api.TemplateList{DefaultTemplateID: s.cfg.DefaultTemplate, Data: []api.Template{}}
	bySlug := map[string]api.Template{}
	for _, t := range found {
		a := s.wireTemplate(t)
		bySlug[a.Slug] = a
		if fitsSearch(a, q.Get("tag"), q.Get("category"), cmp.Or(q.Get("search"), q.Get("q"))) {
			l.Data = append(l.Data, a)
		}
	}
	slices.SortStableFunc(l.Data, func(a, b api.Template) int { // the default first
		return cmp.Compare(b2i(b.Default), b2i(a.Default))
	})
	if with, _ := strconv.ParseBool(q.Get("include_aliases")); with {
		aliases := s.deps.Templates.Aliases()
		for _, name := range slices.Sorted(maps.Keys(aliases)) {
			a, ok := bySlug[aliases[name]]
			if !ok || !fitsSearch(a, q.Get("tag"), q.Get("category"), cmp.Or(q.Get("search"), q.Get("q"))) {
				continue
			}
			of := a.Slug
			a.ID, a.Slug, a.AliasOf, a.Default = name, name, &of, false
			l.Data = append(l.Data, a)
		}
	}
	writeJSON(w, http.StatusOK, l)
	return nil
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

func fitsSearch(a api.Template, tag, category, word string) bool {
	switch {
	case tag != "" && !slices.ContainsFunc(strings.Split(tag, ","), func(one string) bool { return slices.Contains(a.Tags, strings.TrimSpace(one)) }):
		return false
	case category != "" && a.Category != category:
		return false
	}
	text := strings.ToLower(strings.Join(append([]string{a.Slug, a.Name, a.Description}, a.Tags...), "\n"))
	return strings.Contains(text, strings.ToLower(word))
}

func (s *Server) getTemplate(w http.ResponseWriter, r *http.Request, c sandbox.Caller) error {
	t, err := s.deps.Templates.FindTemplate(r.Context(), c.Tenant, param(r, "id"))
	if err != nil {
		return err
	}
	writeOne(w, http.StatusOK, s.wireTemplate(t))
	return nil
}

// spec reads a BuildSpec; nil when there is none.
func (s *Server) spec(f *fields, need bool) (*sandbox.BuildSpec, error) {
	if !need && !f.given("build_spec") {
		return nil, nil
	}
	b, err := sandbox.ParseBuildSpec(f.m["build_spec"], s.cfg.Caps)
	if err != nil {
		return nil, err
	}
	return &b, nil
}

func (f *fields) pool() *sandbox.PoolSize {
	in, ok := read(f, "an object", decodeAs[map[string]*int], "pool")
	if !ok {
		return nil
	}
	var p sandbox.PoolSize
	for name, v := range in {
		switch {
		case name != "minIdle" && name != "maxIdle":
			f.reject("pool."+name, "is no field of a pool: those are minIdle and maxIdle")
		case v != nil && name == "minIdle":
			p.MinIdle = *v
		case v != nil:
			p.MaxIdle = *v
		}
	}
	return &p
}

// maxTemplateText bounds a template's description, in bytes.
const maxTemplateText = 4096

// createTemplate adds a template of the caller's tenant, which is not built yet.
func (s *Server) createTemplate(w http.ResponseWriter, r *http.Request, c sandbox.Caller) error {
	f, err := readFields(r)
	if err != nil {
		return err
	}
	req, err := templateRequest(f)
	if err != nil {
		return err
	}
	spec, err := s.spec(f, true)
	if err != nil {
		return err
	}
	req.Spec = *spec
	t, err := s.deps.Templates.Create(r.Context(), c, req)
	if err != nil {
		return err
	}
	writeOne(w, http.StatusCreated, s.wireTemplate(t))
	return nil
}

// templateRequest reads all of a new template but its BuildSpec.
func templateRequest(f *fields) (sandbox.TemplateRequest, error) {
	req := sandbox.TemplateRequest{
		Name: f.label(maxLabel, "name"), Slug: f.text(maxLabel, "slug"), Description: f.text(maxTemplateText, "description"),
		Tags: f.tags("tags"), Metadata: f.object("metadata", maxMetadata),
	}
	if p := f.pool(); p != nil {
		req.Pool = *p
	}
	if req.Name == "" && req.Slug == "" {
		f.reject("name", "is missing")
	}
	return req, f.err
}

// templateFrom makes a template of the files that a sandbox has now, and has it built.
func (s *Server) templateFrom(w http.ResponseWriter, r *http.Request, c sandbox.Caller) error {
	f, err := readFields(r)
	if err != nil {
		return err
	}
	req, err := templateRequest(f)
	if err != nil {
		return err
	}
	ctx, g, sb, err := s.deps.Sandboxes.Guest(r.Context(), c, param(r, "id"))
	if err != nil {
		return err
	}
	t, err := s.deps.Templates.CreateFrom(ctx, c, sb, g, req)
	if err != nil {
		return err
	}
	writeOne(w, http.StatusCreated, s.wireTemplate(t))
	return nil
}

// changeTemplate sets what the body names. "Once created, the ID cannot be changed."
func (s *Server) changeTemplate(w http.ResponseWriter, r *http.Request, c sandbox.Caller) error {
	f, err := readFields(r)
	if err != nil {
		return err
	}
	t, err := s.deps.Templates.FindTemplate(r.Context(), c.Tenant, param(r, "id"))
	if err != nil {
		return err
	}
	if slug := f.text(maxLabel, "slug"); slug != "" && slug != t.Slug {
		f.reject("slug", "can't be changed: make another template")
	}
	ch := sandbox.TemplateChange{Pool: f.pool()}
	if v := f.label(maxLabel, "name"); f.given("name") {
		ch.Name = &v
		if v == "" {
			f.reject("name", "must not be empty")
		}
	}
	if v := f.text(maxTemplateText, "description"); f.given("description") {
		ch.Description = &v
	}
	if v := f.tags("tags"); f.given("tags") {
		ch.Tags = &v
	}
	if v := f.object("metadata", maxMetadata); f.given("metadata") {
		ch.Metadata = &v
	}
	if f.err != nil {
		return f.err
	}
	if ch.Spec, err = s.spec(f, false); err != nil {
		return err
	}
	if t, err = s.deps.Templates.Change(r.Context(), c, t.ID, ch); err != nil {
		return err
	}
	writeOne(w, http.StatusOK, s.wireTemplate(t))
	return nil
}

func (s *Server) deleteTemplate(w http.ResponseWriter, r *http.Request, c sandbox.Caller) error {
	if err := s.deps.Templates.Delete(r.Context(), c, param(r, "id")); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// validateSpec checks a BuildSpec and shows it with its defaults. What is wrong
// is answered as everywhere: see fail.
func (s *Server) validateSpec(w http.ResponseWriter, r *http.Request, _ sandbox.Caller) error {
	f, err := readFields(r)
	if err != nil {
		return err
	}
	spec, err := s.spec(f, true)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, api.ValidBuildSpec{Valid: true, BuildSpec: wireSpec(*spec), Errors: []api.Problem{}})
	return nil
}
