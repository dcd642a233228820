package engine

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"os"
	"runtime/debug"
	"sync"

	"silica.dev/silica/internal/runtime/gvisor/wire"
	"silica.dev/silica/sandbox"
)

// maxBody bounds a request; the daemon is the only client.
const maxBody = 1 << 20

// Handler is the engine's HTTP surface. shutdown ends the process.
func (e *Engine) Handler(shutdown func()) http.Handler {
	mux := http.NewServeMux()
	handle(mux, wire.PathPing, func(context.Context, struct{}) (wire.Pong, error) {
		return wire.Pong{Version: e.cfg.Version, Files: filesFormat(), Pid: os.Getpid()}, nil
	})
	handle(mux, wire.PathStart, e.Start)
	handle(mux, wire.PathDestroy, func(ctx context.Context, r wire.IDRequest) (struct{}, error) {
		return struct{}{}, e.Destroy(ctx, r.ID)
	})
	handle(mux, wire.PathWait, func(ctx context.Context, r wire.IDRequest) (any, error) { return e.Wait(ctx, r.ID) })
	handle(mux, wire.PathLookup, func(_ context.Context, r wire.IDRequest) (wire.Found, error) { return e.Lookup(r.ID) })
	handle(mux, wire.PathUsage, func(ctx context.Context, r wire.IDRequest) (any, error) { return e.Usage(ctx, r.ID) })
	handle(mux, wire.PathLimits, func(_ context.Context, r wire.IDRequest) (any, error) { return e.Limits(r.ID) })
	handle(mux, wire.PathList, func(context.Context, struct{}) (wire.ListResponse, error) {
		return wire.ListResponse{IDs: e.List()}, nil
	})
	handle(mux, wire.PathSnapshot, func(ctx context.Context, r wire.SnapshotRequest) (struct{}, error) {
		return struct{}{}, e.Snapshot(ctx, r.ID, r.Dir)
	})
	handle(mux, wire.PathKeep, func(ctx context.Context, r wire.KeepRequest) (struct{}, error) {
		return struct{}{}, e.Keep(ctx, r.ID, r.Dir)
	})
	handle(mux, wire.PathSave, func(ctx context.Context, r wire.SaveRequest) (struct{}, error) {
		return struct{}{}, e.Save(ctx, r)
	})
	handle(mux, wire.PathThaw, func(ctx context.Context, r wire.IDRequest) (struct{}, error) {
		return struct{}{}, e.Thaw(ctx, r.ID)
	})
	handle(mux, wire.PathPrepare, func(_ context.Context, r wire.PrepareRequest) (struct{}, error) {
		e.Prepare(r)
		return struct{}{}, nil
	})
	handle(mux, wire.PathShutdown, func(_ context.Context, r wire.ShutdownRequest) (struct{}, error) {
		if r.IfIdle && len(e.List()) > 0 {
			return struct{}{}, sandbox.E(sandbox.Conflict, sandbox.CodeConflict, "the engine holds sandboxes")
		}
		shutdown()
		return struct{}{}, nil
	})
	return mux
}

// handle registers one call: JSON in, JSON or [wire.Error] out.
func handle[Req, Res any](mux *http.ServeMux, path string, call func(context.Context, Req) (Res, error)) {
	mux.HandleFunc("POST "+path, func(w http.ResponseWriter, r *http.Request) {
		var req Req
		err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody)).Decode(&req)
		if err != nil {
			err = sandbox.E(sandbox.Malformed, sandbox.CodeBadRequest, "unreadable request").Because(err)
		}
		var res any
		if err == nil {
			res, err = call(r.Context(), req)
		}
		w.Header().Set("Content-Type", "application/json")
		if err != nil {
			w.WriteHeader(http.StatusConflict)
			res = wire.NewError(err)
		}
		_ = json.NewEncoder(w).Encode(res) // a client that is gone asks again
	})
}

// Serve answers on a unix socket only root can open, until ctx ends or the
// daemon asks for it.
func (e *Engine) Serve(ctx context.Context, l net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	srv := &http.Server{Handler: e.Handler(cancel), BaseContext: func(net.Listener) context.Context { return ctx }}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(l) }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
	}
	// Calls under way see their context end; the last answers go out.
	err := srv.Shutdown(context.WithoutCancel(ctx))
	if serr := <-done; !errors.Is(serr, http.ErrServerClosed) {
		err = errors.Join(err, serr)
	}
	return err
}

// filesFormat names what kept files depend on: gVisor's version alone, for the
// rest of this program has no part in them.
var filesFormat = sync.OnceValue(func() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return ""
	}
	for _, m := range info.Deps {
		if m.Path == "gvisor.dev/gvisor" {
			return m.Version
		}
	}
	return ""
})
