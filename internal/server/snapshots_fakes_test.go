package server

import (
	"context"
	"io"
	"slices"
	"strings"
	"time"

	"silica.dev/silica/sandbox"
)

// fakeStorage holds an artifact with a holder, and one without.
type fakeStorage struct{}

func (fakeStorage) Artifacts(context.Context) ([]sandbox.Artifact, error) {
	return []sandbox.Artifact{
		{Ref: "sha256:a", Size: 7, PutAt: time.Now(), Holders: []sandbox.Holder{{Kind: sandbox.HeldFiles, ID: "sbx_1", Tenant: "tnt_a", Ref: "sha256:a"}}},
		{Ref: "sha256:b", Size: 5, PutAt: time.Now()},
	}, nil
}

func (fakeStorage) Collect(context.Context) ([]sandbox.Artifact, error) {
	return []sandbox.Artifact{{Ref: "sha256:b", Size: 5}}, nil
}

func (w *world) Pause(ctx context.Context, c sandbox.Caller, id string) (sandbox.Sandbox, error) {
	sb, err := w.Get(ctx, c, id)
	if err != nil || sb.State == sandbox.Paused {
		return sb, err
	}
	if sb.State != sandbox.Running {
		return sb, sandbox.E(sandbox.Conflict, sandbox.CodeNotRunning, "the sandbox is "+string(sb.State))
	}
	w.mu.Lock()
	w.boxes[sb.ID].Memory = "sha256:memory"
	w.mu.Unlock()
	w.move(string(sb.ID), sandbox.Paused)
	return w.Get(ctx, c, id)
}

func (w *world) TakeSnapshot(ctx context.Context, c sandbox.Caller, id string, req sandbox.SnapshotRequest) (sandbox.Snapshot, error) {
	sb, err := w.Get(ctx, c, id)
	if err != nil {
		return sandbox.Snapshot{}, err
	}
	if sb.State != sandbox.Running {
		return sandbox.Snapshot{}, sandbox.E(sandbox.Conflict, sandbox.CodeNotRunning, "the sandbox is "+string(sb.State))
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	snap := &sandbox.Snapshot{
		ID: sandbox.NewName("snap_"), Tenant: sb.Tenant, Workspace: sb.Workspace, Sandbox: sb.ID, Status: w.newSnapshots,
		Comment: req.Comment, Keep: req.Keep, Spec: sb.Spec, Memory: "sha256:memory", Size: 4096,
		Retention: req.Retention, CreatedAt: now, UpdatedAt: now,
	}
	if req.Expires > 0 {
		snap.ExpiresAt = now.Add(req.Expires)
	}
	w.snapped = append(w.snapped, req)
	w.snapshots = append([]*sandbox.Snapshot{snap}, w.snapshots...)
	return *snap, nil
}

func (w *world) Snapshots(ctx context.Context, c sandbox.Caller, id string) ([]sandbox.Snapshot, error) {
	var of sandbox.ID
	if id != "" {
		sb, err := w.Get(ctx, c, id)
		if err != nil {
			return nil, err
		}
		of = sb.ID
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	var list []sandbox.Snapshot
	for _, snap := range w.snapshots {
		if snap.Tenant == c.Tenant && (of == "" || snap.Sandbox == of) {
			list = append(list, *snap)
		}
	}
	return list, nil
}

func (w *world) Snapshot(_ context.Context, c sandbox.Caller, id string) (sandbox.Snapshot, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, snap := range w.snapshots {
		if snap.Tenant == c.Tenant && snap.ID == id && c.Sees(snap.Workspace) {
			return *snap, nil
		}
	}
	return sandbox.Snapshot{}, sandbox.E(sandbox.NotFound, sandbox.CodeNotFound, "snapshot not found")
}

// finish has every snapshot that is being made reach a status.
func (w *world) finish(status sandbox.SnapshotStatus, reason string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, snap := range w.snapshots {
		snap.Status, snap.Reason = status, reason
	}
	w.touch()
}

func (w *world) DeleteSnapshot(ctx context.Context, c sandbox.Caller, id string) (sandbox.Snapshot, error) {
	snap, err := w.Snapshot(ctx, c, id)
	if err != nil {
		return snap, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.snapshots = slices.DeleteFunc(w.snapshots, func(s *sandbox.Snapshot) bool { return s.ID == id })
	snap.Status = sandbox.SnapshotDeleted
	return snap, nil
}

func (w *world) Restore(ctx context.Context, c sandbox.Caller, id, snapshotID string) (sandbox.Sandbox, error) {
	snap, err := w.Snapshot(ctx, c, snapshotID)
	if err != nil {
		return sandbox.Sandbox{}, err
	}
	sb, err := w.Get(ctx, c, id)
	if err == nil && sb.State == sandbox.Destroyed {
		err = sandbox.E(sandbox.Conflict, sandbox.CodeNotRunning, "the sandbox has ended")
	}
	if err != nil {
		return sb, err
	}
	w.mu.Lock()
	w.restored = append(w.restored, [2]string{string(sb.ID), snap.ID})
	w.mu.Unlock()
	w.move(string(sb.ID), sandbox.Running)
	return w.Get(ctx, c, id)
}

func (w *world) Fork(ctx context.Context, c sandbox.Caller, id string, req sandbox.ForkRequest) ([]sandbox.Sandbox, error) {
	var parent sandbox.Sandbox
	var err error
	if req.Snapshot != "" {
		var snap sandbox.Snapshot
		if snap, err = w.Snapshot(ctx, c, req.Snapshot); err == nil {
			parent, err = w.Get(ctx, c, string(snap.Sandbox))
		}
	} else if parent, err = w.Get(ctx, c, id); err == nil && parent.State != sandbox.Running {
		err = sandbox.E(sandbox.Conflict, sandbox.CodeNotRunning, "the sandbox is "+string(parent.State))
	}
	if err != nil {
		return nil, err
	}
	w.mu.Lock()
	w.forked = append(w.forked, req)
	w.mu.Unlock()
	var copies []sandbox.Sandbox
	for range req.Count {
		cr := sandbox.CreateRequest{Name: req.Name, Metadata: parent.Metadata, External: req.External, Timeout: req.Timeout}
		if req.Metadata != nil {
			cr.Metadata = req.Metadata
		}
		sb, err := w.Create(ctx, c, cr)
		if err != nil {
			return nil, err
		}
		copies = append(copies, sb)
	}
	return copies, nil
}

// fakeParcels are files that hold nothing but an id.
type fakeParcels struct{ w *world }

func (fakeParcels) Export(_ context.Context, snap sandbox.Snapshot, begin func() io.Writer) error {
	if snap.Status != sandbox.SnapshotReady {
		return sandbox.E(sandbox.Conflict, sandbox.CodeSnapshotNotReady, "the snapshot is not ready")
	}
	_, err := io.WriteString(begin(), "parcel "+snap.ID)
	return err
}

func (p fakeParcels) Import(_ context.Context, tenant sandbox.TenantID, r io.Reader) (sandbox.Snapshot, error) {
	raw, err := io.ReadAll(r)
	if err != nil {
		return sandbox.Snapshot{}, err
	}
	if !strings.HasPrefix(string(raw), "parcel ") {
		return sandbox.Snapshot{}, sandbox.E(sandbox.Malformed, sandbox.CodeInvalidSnapshot, "the file is not a snapshot")
	}
	snap := &sandbox.Snapshot{ID: sandbox.NewName("snap_"), Tenant: tenant, Status: sandbox.SnapshotReady, Size: int64(len(raw)), CreatedAt: time.Now(), UpdatedAt: time.Now()}
	p.w.mu.Lock()
	defer p.w.mu.Unlock()
	p.w.snapshots = append(p.w.snapshots, snap)
	return *snap, nil
}
