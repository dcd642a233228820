package server

import (
	"context"
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"time"

	"silica.dev/silica/api"
	"silica.dev/silica/internal/guest"
	"silica.dev/silica/internal/guest/guestpb"
	"silica.dev/silica/sandbox"
)

// longWork is how long an agent may be busy with a whole tree of files without
// saying anything. It stops when the client leaves.
const longWork = 10 * time.Minute

// place reads a path from a JSON body, under any of its names.
func (f *fields) place(names ...string) string {
	p := f.text(maxPath, names...)
	if f.err == nil {
		p, f.err = cleanPath(names[0], p)
	}
	return p
}

// flag reads a boolean; standard is what it is when nobody says.
func (f *fields) flag(standard bool, names ...string) bool {
	if v, ok := f.boolean(names...); ok {
		return v
	}
	return standard
}

// mode reads permissions: "0755" in octal, or the bits as a number.
func (f *fields) mode(name string) (mode uint32, ok bool) {
	const most = 0o7777
	return read(f, `permissions in octal, such as "0755", or their bits as a number`, func(raw json.RawMessage) (uint32, bool) {
		if text, isText := decodeAs[string](raw); isText {
			n, err := strconv.ParseUint(strings.TrimPrefix(text, "0o"), 8, 32)
			return uint32(n), err == nil && n <= most
		}
		n, isNumber := decodeInteger(raw)
		return uint32(n), isNumber && n >= 0 && n <= most
	}, name)
}

// changeFile runs a request that changes files and answers with what is there
// then.
func (s *Server) changeFile(w http.ResponseWriter, r *http.Request, c sandbox.Caller, do func(f *fields) func(context.Context, *guest.Client) (*guestpb.Entry, error)) error {
	f, err := readFields(r)
	if err != nil {
		return err
	}
	change := do(f)
	if f.err != nil {
		return f.err
	}
	ctx, g, _, err := s.deps.Sandboxes.Guest(r.Context(), c, param(r, "id"))
	if err != nil {
		return err
	}
	ctx, _, cancel := patientFor(ctx, max(longWork, s.cfg.GuestWait))
	defer cancel()
	e, err := change(ctx, g)
	if err != nil {
		return err
	}
	writeOne(w, http.StatusOK, wireEntry(e))
	return nil
}

func (s *Server) makeFolder(w http.ResponseWriter, r *http.Request, c sandbox.Caller) error {
	return s.changeFile(w, r, c, func(f *fields) func(context.Context, *guest.Client) (*guestpb.Entry, error) {
		req := &guestpb.MakeDirRequest{Path: f.place("path"), Parents: f.flag(true, "recursive", "parents")}
		req.Mode, _ = f.mode("mode")
		return func(ctx context.Context, g *guest.Client) (*guestpb.Entry, error) { return g.MakeDir(ctx, req) }
	})
}

func (s *Server) moveFile(w http.ResponseWriter, r *http.Request, c sandbox.Caller) error {
	return s.changeFile(w, r, c, func(f *fields) func(context.Context, *guest.Client) (*guestpb.Entry, error) {
		req := &guestpb.MoveRequest{From: f.place(fromNames...), To: f.place(toNames...), Keep: !f.flag(true, "overwrite")}
		return func(ctx context.Context, g *guest.Client) (*guestpb.Entry, error) { return g.Move(ctx, req) }
	})
}

// What clients call the two ends of a move.
var (
	fromNames = []string{"from", "source", "old_path", "path"}
	toNames   = []string{"to", "destination", "new_path"}
)

func (s *Server) copyFile(w http.ResponseWriter, r *http.Request, c sandbox.Caller) error {
	return s.changeFile(w, r, c, func(f *fields) func(context.Context, *guest.Client) (*guestpb.Entry, error) {
		req := &guestpb.CopyRequest{
			From: f.place(fromNames...), To: f.place(toNames...),
			Recursive: f.flag(false, "recursive"), Keep: !f.flag(true, "overwrite"),
		}
		return func(ctx context.Context, g *guest.Client) (*guestpb.Entry, error) { return g.Copy(ctx, req) }
	})
}

func (s *Server) changeMode(w http.ResponseWriter, r *http.Request, c sandbox.Caller) error {
	return s.changeFile(w, r, c, func(f *fields) func(context.Context, *guest.Client) (*guestpb.Entry, error) {
		mode, ok := f.mode("mode")
		if !ok {
			f.reject("mode", "is missing")
		}
		req := &guestpb.ChangeRequest{Path: f.place("path"), Mode: &mode, Recursive: f.flag(false, "recursive")}
		return func(ctx context.Context, g *guest.Client) (*guestpb.Entry, error) { return g.Change(ctx, req) }
	})
}

func (s *Server) changeOwner(w http.ResponseWriter, r *http.Request, c sandbox.Caller) error {
	return s.changeFile(w, r, c, func(f *fields) func(context.Context, *guest.Client) (*guestpb.Entry, error) {
		const most = 1<<32 - 2 // what is left is no id, but "leave it"
		req := &guestpb.ChangeRequest{Path: f.place("path"), Recursive: f.flag(false, "recursive")}
		for name, to := range map[string]**uint32{"uid": &req.Uid, "gid": &req.Gid} {
			if n, ok := f.integer(0, most, name); ok {
				id := uint32(n)
				*to = &id
			}
		}
		if req.Uid == nil && req.Gid == nil {
			f.reject("uid", "or gid is missing")
		}
		return func(ctx context.Context, g *guest.Client) (*guestpb.Entry, error) { return g.Change(ctx, req) }
	})
}

// deleteFile takes its parameters from the body or the query: some proxies drop
// the body of a DELETE.
func (s *Server) deleteFile(w http.ResponseWriter, r *http.Request, c sandbox.Caller) error {
	f, err := readFields(r)
	if err != nil {
		return err
	}
	q := r.URL.Query()
	path, recursive := q.Get("path"), f.flag(false, "recursive")
	if _, inBody := f.m["path"]; inBody || path == "" {
		path = f.place("path")
	}
	if v := q.Get("recursive"); v != "" {
		if recursive, err = strconv.ParseBool(v); err != nil {
			f.reject("recursive", "must be true or false")
		}
	}
	if f.err != nil {
		return f.err
	}
	if path, err = cleanPath("path", path); err != nil {
		return err
	}
	ctx, g, sb, err := s.deps.Sandboxes.Guest(r.Context(), c, param(r, "id"))
	if err != nil {
		return err
	}
	ctx, _, cancel := patientFor(ctx, max(longWork, s.cfg.GuestWait))
	defer cancel()
	if err := g.Remove(ctx, path, recursive); err != nil {
		return err
	}
	writeOne(w, http.StatusOK, api.FileDeleted{SandboxID: string(sb.ID), Path: path, Deleted: true})
	return nil
}
