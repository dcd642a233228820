package server

import (
	"cmp"
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"time"

	"silica.dev/silica/api"
	"silica.dev/silica/sandbox"
)

// snapshotRoutes are snapshots, below their sandbox and by themselves, and what
// is made of them. A checkpoint is another client's word for a snapshot.
func (s *Server) snapshotRoutes() []route {
	const one, checkpoint = sbx + "/snapshots/{sid}", sbx + "/checkpoints/{sid}"
	return []route{
		{"POST", sbx + "/snapshots", sandboxesWrite, counted, s.ofKnown(s.takeSnapshot)},
		{"POST", sbx + "/snapshot", sandboxesWrite, counted, s.ofKnown(s.takeSnapshot)},
		{"GET", sbx + "/snapshots", sandboxesRead, counted, s.listSandboxSnapshots},
		{"GET", one, sandboxesRead, counted, s.getSnapshot},
		{"DELETE", one, sandboxesWrite, counted, s.deleteSnapshot},
		{"GET", one + "/events", sandboxesRead, counted | streamed, s.snapshotEvents},
		{"POST", sbx + "/restore/{sid}", sandboxesWrite, counted, s.restoreSnapshot},
		{"POST", sbx + "/fork", sandboxesWrite, counted, s.ofKnown(s.forkSandbox)},

		{"POST", sbx + "/checkpoints", sandboxesWrite, counted, s.ofKnown(s.takeSnapshot)},
		{"GET", sbx + "/checkpoints", sandboxesRead, counted, s.listSandboxSnapshots},
		{"GET", checkpoint, sandboxesRead, counted, s.getSnapshot},
		{"DELETE", checkpoint, sandboxesWrite, counted, s.deleteSnapshot},
		{"POST", checkpoint + "/restore", sandboxesWrite, counted, s.restoreSnapshot},
		{"POST", checkpoint + "/restore/stream", sandboxesWrite, counted | streamed, s.restoreStream},

		{"GET", v1 + "/snapshots", sandboxesRead, counted, s.listSnapshots},
		{"GET", snapshot, sandboxesRead, counted, s.getSnapshot},
		{"DELETE", snapshot, sandboxesWrite, counted, s.deleteSnapshot},
		{"POST", snapshot + "/restore", sandboxesWrite, counted, s.restoreSnapshot},
		{"POST", snapshot + "/fork", sandboxesWrite, counted, s.forkSandbox},
	}
}

var noSuchSnapshot = sandbox.E(sandbox.NotFound, sandbox.CodeNotFound, "snapshot not found")

// named returns the snapshot that a path names. Below a sandbox it is one of
// that sandbox's; what a key does not see is not there.
func (s *Server) named(ctx context.Context, r *http.Request, c sandbox.Caller) (sandbox.Snapshot, error) {
	var of sandbox.ID
	if id := param(r, "id"); id != "" {
		sb, err := s.deps.Sandboxes.Get(ctx, c, id)
		if err != nil {
			return sandbox.Snapshot{}, err
		}
		of = sb.ID
	}
	snap, err := s.visible(ctx, c, param(r, "sid"))
	if err == nil && of != "" && snap.Sandbox != of {
		err = noSuchSnapshot
	}
	return snap, err
}

// visible returns a snapshot, unless a key for one workspace asks for one of another.
func (s *Server) visible(ctx context.Context, c sandbox.Caller, id string) (sandbox.Snapshot, error) {
	snap, err := s.deps.Snapshots.Snapshot(ctx, c, id)
	if err == nil && !c.Sees(snap.Workspace) {
		err = noSuchSnapshot
	}
	return snap, err
}

func wireSnapshot(snap sandbox.Snapshot) api.Snapshot {
	a := api.Snapshot{
		ID: snap.ID, SnapshotID: snap.ID, SandboxID: string(snap.Sandbox), WorkspaceID: snap.Workspace, TemplateID: cmp.Or(snap.Spec.Image, snap.Spec.Template),
		Status: string(snap.Status), Error: orNull(snap.Reason), Comment: snap.Comment, Keep: snap.Keep,
		SizeBytes: snap.Size, Memory: snap.Memory != "",
		CPUCount: (snap.Spec.MilliCPU + sandbox.Core - 1) / sandbox.Core, MemoryMB: snap.Spec.Memory / sandbox.MiB, DiskSizeMB: snap.Spec.Disk / sandbox.MiB,
		LastUsedAt: timeOrNull(snap.LastUsedAt), ExpiresAt: timeOrNull(snap.ExpiresAt),
		CreatedAt: snap.CreatedAt.UTC(), UpdatedAt: snap.UpdatedAt.UTC(),
	}
	if snap.Retention > 0 {
		n := seconds(snap.Retention)
		a.RetentionSeconds = &n
	}
	return a
}

// maxComment bounds a snapshot's comment, in bytes.
const maxComment = 1024

const day = 24 * time.Hour

func parseSnapshot(r *http.Request) (req sandbox.SnapshotRequest, err error) {
	f, err := readFields(r)
	if err != nil {
		return req, err
	}
	req.Comment = f.text(maxComment, "comment")
	req.Keep, _ = f.boolean("keep")
	if d := f.seconds("retention_seconds"); d != nil {
		req.Retention = *d
	}
	expires, days := f.seconds("expiration_seconds"), time.Duration(0)
	if n, ok := f.integer(0, maxSeconds/int64(day/time.Second), "expiration_days"); ok {
		days = time.Duration(n) * day
	}
	switch {
	case expires == nil:
		req.Expires = days
	case days != 0 && days != *expires:
		f.reject("expiration_days", "says otherwise than expiration_seconds, which means the same")
	default:
		req.Expires = *expires
	}
	req.Idempotency = f.idempotency(r, asked{"snapshot", param(r, "id"), req})
	return req, f.err
}

// asked is what an idempotency key stands for, beside the body: of whom.
type asked struct {
	What, Of string
	Request  any
}

func (s *Server) takeSnapshot(w http.ResponseWriter, r *http.Request, c sandbox.Caller) error {
	req, err := parseSnapshot(r)
	if err != nil {
		return err
	}
	snap, err := s.deps.Snapshots.TakeSnapshot(context.WithoutCancel(r.Context()), c, param(r, "id"), req)
	if err == nil && !c.Sees(snap.Workspace) {
		err = errOtherRequest
	}
	if err != nil {
		return err
	}
	w.Header().Set("Location", api.Base+api.SnapshotPath(snap.ID))
	writeOne(w, http.StatusCreated, wireSnapshot(snap))
	return nil
}

func (s *Server) listSandboxSnapshots(w http.ResponseWriter, r *http.Request, c sandbox.Caller) error {
	return s.writeSnapshots(w, r, c, param(r, "id"))
}

func (s *Server) listSnapshots(w http.ResponseWriter, r *http.Request, c sandbox.Caller) error {
	return s.writeSnapshots(w, r, c, cmp.Or(r.URL.Query().Get("sandbox_id"), r.URL.Query().Get("computer_id")))
}

var snapshotStatuses = []string{api.SnapshotCreating, api.SnapshotReady, api.SnapshotRestoring, api.SnapshotFailed, api.SnapshotDeleted}

func (s *Server) writeSnapshots(w http.ResponseWriter, r *http.Request, c sandbox.Caller, id string) error {
	status := r.URL.Query().Get("status")
	if status != "" && !slices.Contains(snapshotStatuses, status) {
		return sandbox.Field("status", "must be one of "+strings.Join(snapshotStatuses, ", "))
	}
	all, err := s.deps.Snapshots.Snapshots(r.Context(), c, id)
	if err != nil {
		return err
	}
	all = slices.DeleteFunc(all, func(snap sandbox.Snapshot) bool {
		return !c.Sees(snap.Workspace) || status != "" && string(snap.Status) != status
	})
	return writeList(w, r, all, wireSnapshot)
}

func (s *Server) getSnapshot(w http.ResponseWriter, r *http.Request, c sandbox.Caller) error {
	snap, err := s.named(r.Context(), r, c)
	if err != nil {
		return err
	}
	writeOne(w, http.StatusOK, wireSnapshot(snap))
	return nil
}

func (s *Server) deleteSnapshot(w http.ResponseWriter, r *http.Request, c sandbox.Caller) error {
	ctx := context.WithoutCancel(r.Context())
	snap, err := s.named(ctx, r, c)
	if err == nil {
		snap, err = s.deps.Snapshots.DeleteSnapshot(ctx, c, snap.ID)
	}
	if err != nil {
		return err
	}
	writeOne(w, http.StatusOK, wireSnapshot(snap))
	return nil
}

// wireDual makes the object of answers that clients of sandboxes and of
// computers both read, flat too.
func wireDual(r *http.Request, sb sandbox.Sandbox, now time.Time) api.DualSandbox {
	a := api.DualSandbox{Sandbox: wireSandbox(r, sb, now), Visibility: "private", TemplateType: sb.Spec.Template}
	if strings.Contains(r.URL.Path, "/computers/") {
		a.Status = computerStatus(sb.State)
	}
	if fromGo(r) { // its decoder takes no other metadata here
		texts := map[string]any{}
		for k, v := range textOnly(sb.Metadata) {
			texts[k] = v
		}
		a.Metadata = texts
	}
	return a
}

// restore has the sandbox that a path names, or else the one that the snapshot
// was taken of, go on from the snapshot.
func (s *Server) restore(r *http.Request, c sandbox.Caller) (sandbox.Sandbox, error) {
	ctx := context.WithoutCancel(r.Context())
	snap, err := s.named(ctx, r, c)
	if err != nil {
		return sandbox.Sandbox{}, err
	}
	return s.deps.Snapshots.Restore(ctx, c, string(snap.Sandbox), snap.ID)
}

func (s *Server) restoreSnapshot(w http.ResponseWriter, r *http.Request, c sandbox.Caller) error {
	sb, err := s.restore(r, c)
	if err != nil {
		return err
	}
	writeOne(w, http.StatusOK, wireDual(r, sb, time.Now()))
	return nil
}

func parseFork(r *http.Request) (req sandbox.ForkRequest, counted bool, err error) {
	f, err := readFields(r)
	if err != nil {
		return req, false, err
	}
	req.Snapshot = f.label(maxLabel, "snapshot_id")
	if sid := param(r, "sid"); sid != "" {
		if req.Snapshot != "" && req.Snapshot != sid {
			f.reject("snapshot_id", "says otherwise than the path")
		}
		req.Snapshot = sid
	}
	req.Name = f.name("name")
	req.External = sandbox.External{
		Workspace: f.label(maxLabel, "external_workspace_id"),
		User:      f.label(maxLabel, "external_user_id"),
		Project:   f.label(maxLabel, "external_project_id"),
	}
	if d := f.seconds("timeout_sec"); d != nil {
		req.Timeout = *d
	}
	req.Metadata = f.object("metadata", maxMetadata)
	n, counted := f.integer(1, maxCopies, "count")
	req.Count = int(max(n, 1))
	req.Idempotency = f.idempotency(r, asked{"fork", param(r, "id"), req})
	return req, counted, f.err
}

// maxCopies bounds how many copies one request makes.
const maxCopies = 16

func (s *Server) forkSandbox(w http.ResponseWriter, r *http.Request, c sandbox.Caller) error {
	req, counted, err := parseFork(r)
	if err != nil {
		return err
	}
	copies, err := s.deps.Snapshots.Fork(context.WithoutCancel(r.Context()), c, param(r, "id"), req)
	if err == nil && !c.Sees(copies[0].Workspace) {
		err = errOtherRequest
	}
	if err != nil {
		return err
	}
	writeCopies(w, r, copies, counted)
	return nil
}

// writeCopies answers with the first copy, as public clients expect, and with a
// list of all below "data" and "sandboxes" to who said how many.
func writeCopies(w http.ResponseWriter, r *http.Request, copies []sandbox.Sandbox, list bool) {
	now := time.Now()
	w.Header().Set("Location", api.Base+api.SandboxPath(string(copies[0].ID)))
	if !list {
		writeOne(w, http.StatusCreated, wireDual(r, copies[0], now))
		return
	}
	all := make([]json.RawMessage, len(copies))
	for i, sb := range copies {
		raw, err := json.Marshal(wireDual(r, sb, now))
		if err != nil {
			panic("answer can't be encoded: " + err.Error())
		}
		all[i] = raw
	}
	if rec, ok := w.(*response); ok {
		rec.made = string(copies[0].ID)
	}
	writeJSON(w, http.StatusCreated, struct {
		api.DualSandbox
		Data      []json.RawMessage `json:"data"`
		Sandboxes []json.RawMessage `json:"sandboxes"`
	}{wireDual(r, copies[0], now), all, all})
}
