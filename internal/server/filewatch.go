package server

import (
	"context"
	"encoding/json"
	"net/http"
	"strconv"
	"time"

	"silica.dev/silica/api"
	"silica.dev/silica/internal/guest/guestpb"
	"silica.dev/silica/sandbox"
)

// maxWatched is how long a path in an event may be. A real one has 4096 bytes at
// most, each of them three in our spelling.
const maxWatched = 3 * maxPath

// verbs are what happens to files, as watchers are told.
var verbs = map[guestpb.WatchEvent_Kind]string{
	guestpb.WatchEvent_CREATED: "created", guestpb.WatchEvent_MODIFIED: "modified", guestpb.WatchEvent_DELETED: "deleted",
	guestpb.WatchEvent_RENAMED: "renamed", guestpb.WatchEvent_CHMOD: "chmod",
}

// watchFiles streams what changes in a folder, and by default in all below it.
// The answer's headers come once the watch stands: what happens from then on is
// told. A reader that is too slow is told that events were lost.
func (s *Server) watchFiles(w http.ResponseWriter, r *http.Request, c sandbox.Caller) error {
	path, _, err := folder(r, treeDir, 0)
	if err != nil {
		return err
	}
	recursive := true
	if v := r.URL.Query().Get("recursive"); v != "" {
		if recursive, err = strconv.ParseBool(v); err != nil {
			return sandbox.Field("recursive", "must be true or false")
		}
	}
	guestCtx, g, _, err := s.deps.Sandboxes.Guest(r.Context(), c, param(r, "id"))
	if err != nil {
		return err
	}
	ctx, agent, cancel := s.patient(guestCtx)
	defer cancel()
	changes, wait := pump(ctx, g.Watch(ctx, &guestpb.WatchRequest{Path: path, Recursive: recursive}))
	defer func() { cancel(); wait() }()
	first, ok := <-changes
	if ok && first.err != nil {
		return first.err
	}
	if !ok || first.v.GetKind() != guestpb.WatchEvent_WATCHING {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		return lost(nil)
	}
	agent.rest()
	out := s.openStream(w, r)
	defer out.close()
	for {
		select {
		case it, ok := <-changes:
			if ok && it.err == nil {
				if gone := out.change(it.v); gone {
					out.ended("the watched folder is gone", false)
					return nil
				}
				continue
			}
			switch {
			case r.Context().Err() != nil: // the client left, or its key may no longer watch
			case guestCtx.Err() != nil:
				out.ended(sandbox.AsError(context.Cause(guestCtx)).Message, false)
			default:
				out.ended("the sandbox stopped watching", true)
			}
			return noteOnly(out, it.err)
		case <-out.ctx.Done():
			if s.closing.Err() != nil {
				out.farewell()
			}
			return nil
		case <-out.beat.C:
			out.comment("heartbeat")
		}
	}
}

func (e *eventStream) ended(reason string, reconnect bool) {
	e.object("", api.EventClosing, map[string]any{"reason": reason, "reconnect": reconnect})
}

// change sends one change. Its type is the verb, not the event's name: some
// clients look at the one, some at the other. gone says that it was the last.
func (e *eventStream) change(ev *guestpb.WatchEvent) (gone bool) {
	if len(ev.GetPath()) > maxWatched || len(ev.GetOldPath()) > maxWatched {
		return false // no honest agent sends it
	}
	switch ev.GetKind() {
	case guestpb.WatchEvent_GONE:
		return true
	case guestpb.WatchEvent_OVERFLOW:
		e.object("", "overflow", map[string]any{"path": ev.GetPath(), "message": "events were lost: look for yourself what changed"})
		return false
	}
	verb, ok := verbs[ev.GetKind()]
	if !ok {
		return false
	}
	raw, err := json.Marshal(api.FileChange{
		Type: verb, Event: verb, Path: ev.GetPath(), OldPath: orNull(ev.GetOldPath()), IsDir: ev.GetIsDir(),
		Size: ev.GetSize(), SizeBytes: ev.GetSize(), Timestamp: time.Now().UTC(),
	})
	if err != nil {
		panic("event can't be encoded: " + err.Error())
	}
	e.buf = append(append(append(e.buf, "event: change\ndata: "...), raw...), "\n\n"...)
	e.flush()
	return false
}
