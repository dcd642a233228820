package server

import (
	"crypto/sha256"
	"encoding/json"
	"net/http"
	"regexp"
	"slices"
	"time"
	"unicode/utf8"

	"silica.dev/silica/api"
	"silica.dev/silica/sandbox"
)

const maxSeconds = 10 * 365 * 24 * 3600 // what a timeout may be at all

var (
	uuidForm = regexp.MustCompile(`^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}$`)
	slugForm = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._-]{0,62})$`)
)

// parseCreate reads the body and headers of POST /sandboxes. Names that mean
// the same may all be given, if they say the same.
func (s *Server) parseCreate(r *http.Request) (sandbox.CreateRequest, error) {
	var req sandbox.CreateRequest
	f, err := readFields(r)
	if err != nil {
		return req, err
	}
	req.Template = f.label(maxLabel, "template_id", "image", "template", "template_type")
	req.Resources = s.size(f)
	timeout, _ := f.integer(0, maxSeconds, "timeout_sec")
	idle, _ := f.integer(0, maxSeconds, "idle_timeout_sec")
	req.Timeout, req.Idle = time.Duration(timeout)*time.Second, time.Duration(idle)*time.Second
	req.Name = f.name("name")
	req.Env = f.env("env")
	req.Metadata = f.object("metadata", maxMetadata)
	req.Tags = f.tags("tags")
	req.External = sandbox.External{
		Workspace: f.label(maxLabel, "external_workspace_id"),
		User:      f.label(maxLabel, "external_user_id"),
		Project:   f.label(maxLabel, "external_project_id"),
	}
	req.Workspace, req.Project = place(f, "workspace"), place(f, "project")
	req.AutoStart, _ = f.boolean("auto_start")
	req.AlwaysOn, _ = f.boolean("always_on")
	persist, given := f.boolean("persistent")
	if !given { // one public client can only say it this way
		persist, _ = req.Metadata[persistKey].(bool)
	}
	req.Persist = persist

	req.Idempotency = f.idempotency(r, req)
	return req, f.err
}

// idempotency reads the key of a request that asks for req.
func (f *fields) idempotency(r *http.Request, req any) sandbox.Idempotency {
	key := r.Header.Get(api.HeaderIdempotencyKey)
	if len(key) > maxIdempotent {
		f.reject(api.HeaderIdempotencyKey, "must not be longer than %d bytes", maxIdempotent)
	}
	if !utf8.ValidString(key) { // no text to a database
		f.reject(api.HeaderIdempotencyKey, "must be UTF-8")
	}
	if key == "" || f.err != nil {
		return sandbox.Idempotency{}
	}
	return sandbox.Idempotency{Key: key, Digest: digest(req)}
}

// digest names what a request asks for, however it was spelled.
func digest(req any) [32]byte {
	raw, err := json.Marshal(req) // sorts the keys of maps
	if err != nil {
		panic("request can't be encoded: " + err.Error())
	}
	return sha256.Sum256(raw)
}

func place(f *fields, what string) sandbox.Place {
	p := sandbox.Place{
		ID:   f.label(maxLabel, what+"_id"),
		Slug: f.label(63, what+"_slug"),
		Name: f.label(maxLabel, what+"_name"),
	}
	if p.ID != "" && !uuidForm.MatchString(p.ID) {
		f.reject(what+"_id", "must be a UUID")
	}
	if p.Slug != "" && !slugForm.MatchString(p.Slug) {
		f.reject(what+"_slug", "must be letters, digits, dots, dashes and underscores")
	}
	return p
}

// size reads the size, by name or in numbers. Numbers that are those of a named
// size are that size, and held to the caps of named ones.
func (s *Server) size(f *fields) sandbox.Resources {
	most := int64(1 << 30) // far beyond every cap, far from overflow
	name := f.text(maxLabel, "size")
	cores, _ := f.integer(1, most, "cpu_count", "vcpus")
	memory, _ := f.integer(1, most, "memory_mb")
	disk, _ := f.integer(1, most, "disk_mb", "disk_size_mb")
	res := sandbox.Resources{MilliCPU: cores * sandbox.Core, Memory: memory * sandbox.MiB, Disk: disk * sandbox.MiB}

	caps := s.cfg.Caps
	if name != "" {
		i := slices.IndexFunc(api.Sizes[:], func(z api.Size) bool { return z.Name == name })
		if i < 0 {
			f.reject("size", "must be one of xs, small, medium, large, xl")
			return res
		}
		z := api.Sizes[i]
		for field, v := range map[string][2]int64{
			"cpu_count": {cores, z.CPUCount}, "memory_mb": {memory, z.MemoryMB}, "disk_size_mb": {disk, z.DiskSize},
		} {
			if v[0] != 0 && v[0] != v[1] {
				f.reject(field, "says otherwise than size %q (%d)", name, v[1])
			}
		}
		res, caps = resourcesOf(z), s.cfg.NamedCaps
	} else if sizeOf(res) != nil {
		caps = s.cfg.NamedCaps
	}
	over := func(field string, v, top, unit int64) {
		if v > top {
			if name != "" {
				field = "size"
			}
			f.reject(field, "must be from 1 to %d", top/unit)
		}
	}
	over("cpu_count", res.MilliCPU, caps.MilliCPU, sandbox.Core)
	over("memory_mb", res.Memory, caps.Memory, sandbox.MiB)
	over("disk_mb", res.Disk, caps.Disk, sandbox.MiB)
	return res
}

func resourcesOf(z api.Size) sandbox.Resources {
	return sandbox.Resources{MilliCPU: z.CPUCount * sandbox.Core, Memory: z.MemoryMB * sandbox.MiB, Disk: z.DiskSize * sandbox.MiB}
}

// sizeOf returns the published size that has these resources, or nil.
func sizeOf(res sandbox.Resources) *api.Size {
	for i, z := range api.Sizes {
		if resourcesOf(z) == res {
			return &api.Sizes[i]
		}
	}
	return nil
}
