package server

import (
	"net/http"
	"time"

	"silica.dev/silica/api"
	"silica.dev/silica/internal/event"
	"silica.dev/silica/sandbox"
)

// snapshotLook is how often a stream looks at a snapshot that nothing is told of.
const snapshotLook = time.Second

// snapshotEvents tells how far a snapshot is, until it is ready, failed or gone.
func (s *Server) snapshotEvents(w http.ResponseWriter, r *http.Request, c sandbox.Caller) error {
	snap, err := s.named(r.Context(), r, c)
	if err != nil {
		return err
	}
	out := s.openStream(w, r)
	defer out.close()
	news, wait := pump[event.Event](out.ctx, s.deps.Events.Follow(out.ctx, snap.Sandbox, -1))
	defer wait()
	defer out.cancel()
	look := time.NewTicker(snapshotLook)
	defer look.Stop()
	for told := sandbox.SnapshotStatus(""); ; {
		if snap.Status != told {
			out.object("", string(snap.Status), progressOf(snap))
			told = snap.Status
		}
		if settled(snap.Status) {
			return nil
		}
		select {
		case _, more := <-news:
			if !more {
				news = nil
			}
		case <-look.C:
		case <-out.beat.C:
			out.comment("heartbeat")
		case <-out.ctx.Done():
			if s.closing.Err() != nil {
				out.farewell()
			}
			return nil
		}
		now, err := s.visible(out.ctx, c, snap.ID)
		switch {
		case err == nil:
			snap = now
		case sandbox.AsError(err).Kind == sandbox.NotFound:
			snap.Status = sandbox.SnapshotDeleted
		}
	}
}

// settled tells whether there is nothing more to wait for.
func settled(status sandbox.SnapshotStatus) bool {
	return status != sandbox.SnapshotCreating && status != sandbox.SnapshotRestoring
}

// progress is what an event of a snapshot tells beside its name and time.
type progress struct {
	SnapshotID string  `json:"snapshot_id"`
	Status     string  `json:"status"`
	Step       string  `json:"step"`
	Progress   int     `json:"progress"`
	Error      *string `json:"error"`
}

func progressOf(snap sandbox.Snapshot) progress {
	p := progress{SnapshotID: snap.ID, Status: string(snap.Status), Step: string(snap.Status), Error: orNull(snap.Reason)}
	if settled(snap.Status) {
		p.Progress = 100
	}
	return p
}

// restoreStream restores, and tells so: restoring, then ready with the sandbox's
// id, or failed.
func (s *Server) restoreStream(w http.ResponseWriter, r *http.Request, c sandbox.Caller) error {
	snap, err := s.named(r.Context(), r, c)
	if err != nil {
		return err
	}
	out := s.openStreamUntil(w, r.Context(), s.closed)
	defer out.close()
	tell := func(status sandbox.SnapshotStatus, why error) {
		snap.Status, snap.Reason = status, ""
		if why != nil {
			e := sandbox.AsError(why)
			snap.Reason = e.Code + ": " + e.Message
		}
		out.object("", string(status), struct {
			progress
			SandboxID string `json:"sandbox_id"`
		}{progressOf(snap), string(snap.Sandbox)})
	}
	tell(sandbox.SnapshotRestoring, nil)
	done := make(chan error, 1)
	go func() {
		_, err := s.restore(r, c)
		done <- err
	}()
	for {
		select {
		case err := <-done:
			if err != nil {
				tell(sandbox.SnapshotFailed, err)
				return nil
			}
			tell(api.SnapshotReady, nil)
			return nil
		case <-out.beat.C:
			out.comment("heartbeat")
		}
	}
}
