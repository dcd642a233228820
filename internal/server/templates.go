package server

import (
	"net/http"

	"silica.dev/silica/api"
	"silica.dev/silica/sandbox"
)

func (s *Server) wireTemplate(t sandbox.Template) api.Template {
	cores := (s.cfg.Defaults.MilliCPU + sandbox.Core - 1) / sandbox.Core
	memory, disk := s.cfg.Defaults.Memory/sandbox.MiB, s.cfg.Defaults.Disk/sandbox.MiB
	at := t.CreatedAt.UTC()
	name := t.Name
	if name == "" {
		name = t.Slug
	}
	workdir := t.Workdir
	if workdir == "" {
		workdir = homeDir
	}
	return api.Template{
		ID: t.Slug, Slug: t.Slug, Name: name, Description: t.Description, ImageID: t.Slug,
		Category: "base", Categories: []string{"base"}, Tags: []string{"official"},
		CPUCount: cores, VCPUs: cores, DefaultCPU: cores, MemoryMB: memory, DefaultMemoryMB: memory, DiskMB: disk,
		Workdir: workdir, Status: "ready", Default: t.Slug == s.cfg.DefaultTemplate,
		BuiltIn: true, IsOfficial: true, Public: true, CreatedAt: at, InsertedAt: at, UpdatedAt: at,
	}
}

func (s *Server) listTemplates(w http.ResponseWriter, r *http.Request, c sandbox.Caller) error {
	found, err := s.deps.Templates.Templates(r.Context(), c)
	if err != nil {
		return err
	}
	l := api.TemplateList{DefaultTemplateID: s.cfg.DefaultTemplate, Data: make([]api.Template, 0, len(found))}
	for _, t := range found {
		l.Data = append(l.Data, s.wireTemplate(t))
	}
	writeJSON(w, http.StatusOK, l)
	return nil
}

func (s *Server) getTemplate(w http.ResponseWriter, r *http.Request, c sandbox.Caller) error {
	found, err := s.deps.Templates.Templates(r.Context(), c)
	if err != nil {
		return err
	}
	id := param(r, "id")
	for _, t := range found {
		if t.Slug == id {
			writeOne(w, http.StatusOK, s.wireTemplate(t))
			return nil
		}
	}
	return sandbox.E(sandbox.NotFound, sandbox.CodeNoSuchTemplate, "template not found")
}
