package server

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"silica.dev/silica/api"
	"silica.dev/silica/internal/guest"
	"silica.dev/silica/internal/guest/guestpb"
	"silica.dev/silica/internal/server/socket"
	"silica.dev/silica/sandbox"
)

// producers are what a client of a computer's events can subscribe to. Those
// with a reason tell nothing here.
var producers = []struct{ name, reason string }{
	{"file", ""},
	{"process", "starts and ends of processes are not told of; ask for …/processes or …/commands"},
	{"window", "a sandbox has no display"},
	{"clipboard", "a sandbox has no display"},
	{"idle", "a sandbox has no display that somebody could leave"},
}

// maxWatches bounds the folders of one socket.
const maxWatches = 16

// computerEvents is a WebSocket that tells what happens inside. Asked without an
// upgrade, the endpoint is the stream of the sandbox's own events.
func (s *Server) computerEvents(w http.ResponseWriter, r *http.Request, c sandbox.Caller) error {
	if !socket.Asked(r) {
		return s.sandboxEvents(w, r, c)
	}
	events, paths, err := subscription(r)
	if err != nil {
		return err
	}
	ctx, g, _, err := s.deps.Sandboxes.Guest(r.Context(), c, param(r, "id"))
	if err != nil {
		return err
	}
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	defer context.AfterFunc(s.closing, func() { end(errShutdown) })()
	watches := &fileWatches{ch: make(chan api.ComputerEvent)}
	defer func() { end(nil); watches.wg.Wait() }()
	for _, path := range paths {
		if err := s.begunWatch(ctx, g, path, watches); err != nil {
			events = append(events, unavailable("file", path+": "+sandbox.AsError(err).Message))
		}
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	talk, err := s.openDialogue(w, r, ctx, socket.Terminal{})
	if err != nil {
		return err
	}
	defer talk.close()
	talk.listen(deaf{}, func() { end(errClientLeft) })
	for _, ev := range events {
		talk.note(ev)
	}
	for {
		select {
		case ev := <-watches.ch:
			talk.note(ev)
		case <-ctx.Done():
			return talk.broke(context.Cause(ctx))
		}
	}
}

// subscription reads what a client wants to hear of: by default all there is,
// and of files those below /workspace. events are what to tell it first.
func subscription(r *http.Request) (events []api.ComputerEvent, paths []string, err error) {
	q := r.URL.Query()
	wanted := strings.FieldsFunc(q.Get("subscribe"), func(c rune) bool { return c == ',' || c == ' ' })
	known := map[string]bool{}
	for _, p := range producers {
		known[p.name] = true
		if p.reason != "" && (len(wanted) == 0 || slices.Contains(wanted, p.name)) {
			events = append(events, unavailable(p.name, p.reason))
		}
	}
	for _, name := range wanted {
		if !known[name] {
			return nil, nil, sandbox.Field("subscribe", "must be of window, clipboard, file, process and idle, with commas")
		}
	}
	if len(wanted) > 0 && !slices.Contains(wanted, "file") {
		return events, nil, nil
	}
	given := q.Get("paths")
	if given == "" {
		given = treeDir
	}
	for path := range strings.SplitSeq(given, ",") {
		if path, err = cleanPath("paths", path); err != nil {
			return nil, nil, err
		}
		if !slices.Contains(paths, path) {
			paths = append(paths, path)
		}
	}
	if len(paths) > maxWatches {
		return nil, nil, sandbox.Field("paths", "must not be more than 16")
	}
	return events, paths, nil
}

func unavailable(producer, reason string) api.ComputerEvent {
	return computerEvent("producer.unavailable", map[string]any{"producer": producer, "reason": reason})
}

func computerEvent(name string, payload map[string]any) api.ComputerEvent {
	return api.ComputerEvent{Type: name, Timestamp: time.Now().UTC(), Payload: payload}
}

// fileWatches are what several watches tell, and the goroutines that do.
type fileWatches struct {
	ch chan api.ComputerEvent
	wg sync.WaitGroup
}

// begunWatch returns once the watch of a folder stands: what happens from then
// on is told, until ctx ends.
func (s *Server) begunWatch(ctx context.Context, g *guest.Client, path string, to *fileWatches) error {
	ctx, agent, cancel := s.patient(ctx)
	changes, wait := pump(ctx, g.Watch(ctx, &guestpb.WatchRequest{Path: path, Recursive: true}))
	stop := func() { cancel(); wait() }
	first, ok := <-changes
	if ok && first.err == nil && first.v.GetKind() != guestpb.WatchEvent_WATCHING || !ok {
		first.err = lost(nil)
	}
	if first.err != nil {
		stop()
		return first.err
	}
	agent.rest()
	to.wg.Go(func() {
		defer stop()
		for it := range changes {
			for _, ev := range fileEvents(it.v) {
				select {
				case to.ch <- ev:
				case <-ctx.Done():
					return
				}
			}
		}
		select {
		case to.ch <- unavailable("file", path+" is not watched any more"):
		case <-ctx.Done():
		}
	})
	return nil
}

// fileEvents is one change as these clients know it: a new name is another file.
func fileEvents(ev *guestpb.WatchEvent) []api.ComputerEvent {
	if len(ev.GetPath()) > maxWatched || len(ev.GetOldPath()) > maxWatched {
		return nil // no honest agent sends it
	}
	of := func(name, path string) api.ComputerEvent {
		return computerEvent("file."+name, map[string]any{"path": path})
	}
	switch ev.GetKind() {
	case guestpb.WatchEvent_CREATED, guestpb.WatchEvent_MODIFIED, guestpb.WatchEvent_DELETED:
		return []api.ComputerEvent{of(verbs[ev.GetKind()], ev.GetPath())}
	case guestpb.WatchEvent_RENAMED:
		return []api.ComputerEvent{of("deleted", ev.GetOldPath()), of("created", ev.GetPath())}
	case guestpb.WatchEvent_OVERFLOW:
		return []api.ComputerEvent{of("overflow", ev.GetPath())}
	}
	return nil
}

// deaf takes what a client sends to a socket that only tells.
type deaf struct{}

func (deaf) Input(context.Context, []byte) error    { return nil }
func (deaf) End(context.Context) error              { return nil }
func (deaf) Resize(context.Context, int, int) error { return nil }
func (deaf) Signal(context.Context, string) error   { return nil }
