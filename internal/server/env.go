package server

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strconv"

	"silica.dev/silica/api"
	"silica.dev/silica/sandbox"
)

// envRoutes come in two dialects: a set that is put, and single variables that
// are posted and patched. No answer shows a value.
func (s *Server) envRoutes() []route {
	return []route{
		{"GET", sbx + "/env", sandboxesRead, counted, s.listEnv},
		{"PUT", sbx + "/env", sandboxesWrite, counted, s.ofKnown(s.putEnv)},
		{"DELETE", sbx + "/env/{name}", sandboxesWrite, counted, s.deleteEnv},
		{"POST", sbx + "/env", sandboxesWrite, counted, s.ofKnown(s.postEnv)},
		{"PATCH", sbx + "/env/{name}", sandboxesWrite, counted, s.ofKnown(s.patchEnv)},
	}
}

// ofKnown answers NOT_FOUND for a sandbox that the caller has not, before it
// matters what is in the body.
func (s *Server) ofKnown(next handler) handler {
	return func(w http.ResponseWriter, r *http.Request, c sandbox.Caller) error {
		if _, err := s.deps.Sandboxes.Get(r.Context(), c, param(r, "id")); err != nil {
			return err
		}
		return next(w, r, c)
	}
}

const maxEnvKey = 256

var envKeyForm = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

func (s *Server) listEnv(w http.ResponseWriter, r *http.Request, c sandbox.Caller) error {
	sb, err := s.deps.Sandboxes.Get(r.Context(), c, param(r, "id"))
	if err != nil {
		return err
	}
	writeEnv(w, sb)
	return nil
}

func writeEnv(w http.ResponseWriter, sb sandbox.Sandbox) {
	l := api.EnvList{Data: make([]api.EnvVar, 0, len(sb.Spec.Env))}
	for _, key := range slices.Sorted(maps.Keys(sb.Spec.Env)) {
		l.Data = append(l.Data, api.EnvVar{Key: key, Name: key})
	}
	writeJSON(w, http.StatusOK, l)
}

// putEnv sets variables; ?replace=true drops all others.
func (s *Server) putEnv(w http.ResponseWriter, r *http.Request, c sandbox.Caller) error {
	var replace bool
	if v := r.URL.Query().Get("replace"); v != "" {
		var err error
		if replace, err = strconv.ParseBool(v); err != nil {
			return sandbox.Field("replace", "must be true or false")
		}
	}
	f, err := readFields(r)
	if err != nil {
		return err
	}
	set := f.vars("vars", "env")
	if f.err == nil && set == nil {
		f.reject("vars", "is needed: a list of {key, value}")
	}
	if f.err != nil {
		return f.err
	}
	sb, err := s.setEnv(r, c, sandbox.EnvChange{Set: set, Replace: replace})
	if err != nil {
		return err
	}
	writeEnv(w, sb)
	return nil
}

// setEnv goes on when the client leaves: the row and the agent must not differ.
func (s *Server) setEnv(r *http.Request, c sandbox.Caller, ch sandbox.EnvChange) (sandbox.Sandbox, error) {
	return s.deps.Sandboxes.SetEnv(context.WithoutCancel(r.Context()), c, param(r, "id"), ch)
}

// vars reads variables as a list of {key, value}, or as an object.
func (f *fields) vars(names ...string) map[string]string {
	set, _ := read(f, "a list of {key, value}, or an object", func(raw json.RawMessage) (map[string]string, bool) {
		set := map[string]string{}
		if raw = bytes.TrimSpace(raw); len(raw) > 0 && raw[0] == '{' {
			var texts map[string]*string
			if json.Unmarshal(raw, &texts) != nil {
				return nil, false
			}
			for k, v := range texts {
				if v == nil {
					return nil, false
				}
				f.variable(set, k, *v)
			}
			return set, true
		}
		var list []struct {
			Key, Name string
			Value     *string
		}
		if json.Unmarshal(raw, &list) != nil {
			return nil, false
		}
		for _, v := range list {
			key := v.Key
			if key == "" {
				key = v.Name
			}
			if v.Value == nil {
				f.reject("vars", "%.64q has no value", key)
				continue
			}
			f.variable(set, key, *v.Value)
		}
		return set, true
	}, names...)
	return set
}

// variable adds one to set, if it can be one.
func (f *fields) variable(set map[string]string, key, value string) {
	if !envKeyForm.MatchString(key) || len(key) > maxEnvKey {
		f.reject("key", "%.64q must be letters, digits and underscores, not beginning with a digit, and at most %d", key, maxEnvKey)
	}
	if len(key)+len(value)+1 > maxEnvValue {
		f.reject("value", "of %.64q must not be longer than %d bytes", key, maxEnvValue)
	}
	if _, twice := set[key]; twice {
		f.reject("vars", "%.64q is there twice", key)
	}
	set[key] = value
}

// postEnv sets one variable.
func (s *Server) postEnv(w http.ResponseWriter, r *http.Request, c sandbox.Caller) error {
	f, err := readFields(r)
	if err != nil {
		return err
	}
	key, _ := read(f, "a string", decodeAs[string], "name", "key")
	return s.setOne(w, r, c, f, key, http.StatusCreated)
}

// patchEnv sets one variable that the path names.
func (s *Server) patchEnv(w http.ResponseWriter, r *http.Request, c sandbox.Caller) error {
	f, err := readFields(r)
	if err != nil {
		return err
	}
	return s.setOne(w, r, c, f, param(r, "name"), http.StatusOK)
}

func (s *Server) setOne(w http.ResponseWriter, r *http.Request, c sandbox.Caller, f *fields, key string, status int) error {
	value, ok := read(f, "a string", decodeAs[string], "value")
	if !ok {
		f.reject("value", "is needed")
	}
	set := map[string]string{}
	f.variable(set, key, value)
	if f.err != nil {
		return f.err
	}
	if _, err := s.setEnv(r, c, sandbox.EnvChange{Set: set}); err != nil {
		return err
	}
	writeOne(w, status, api.EnvVar{Key: key, Name: key})
	return nil
}

func (s *Server) deleteEnv(w http.ResponseWriter, r *http.Request, c sandbox.Caller) error {
	key := param(r, "name")
	if _, err := s.setEnv(r, c, sandbox.EnvChange{Unset: []string{key}}); err != nil {
		return fmt.Errorf("delete variable: %w", err)
	}
	writeOne(w, http.StatusOK, api.DeletedEnvVar{Deleted: true, Key: key, Name: key})
	return nil
}
