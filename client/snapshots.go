package client

import (
	"context"
	"iter"
	"net/url"

	"silica.dev/silica/api"
)

// Pause stores memory and files of a sandbox and frees the host's memory. Start
// has everything go on.
func (c *Client) Pause(ctx context.Context, id string) (*api.Sandbox, error) {
	return fetch[api.Sandbox](ctx, c, post(api.SandboxPath(id, "pause"), nil).again())
}

// TakeSnapshot keeps memory and files of a running sandbox, which goes on. It may
// answer while the snapshot is still being taken: see WaitForSnapshot.
func (c *Client) TakeSnapshot(ctx context.Context, id string, req api.CreateSnapshot) (*api.Snapshot, error) {
	cl := post(api.SandboxPath(id, "snapshots"), req).again().headed(api.HeaderIdempotencyKey, keyOr(req.IdempotencyKey))
	return fetch[api.Snapshot](ctx, c, cl)
}

// WaitForSnapshot returns a snapshot once it is no longer being taken or
// restored; its Status says how that ended.
func (c *Client) WaitForSnapshot(ctx context.Context, snap *api.Snapshot) (*api.Snapshot, error) {
	for _, err := range c.SnapshotEvents(ctx, snap.SandboxID, snap.ID) {
		if err != nil {
			return nil, err
		}
	}
	return c.Snapshot(ctx, snap.ID)
}

// SnapshotEvents yields how far a snapshot is, until it is ready, failed or
// deleted. An error is the last thing yielded.
func (c *Client) SnapshotEvents(ctx context.Context, id, snapshot string) iter.Seq2[api.SnapshotEvent, error] {
	seq := c.resume(ctx, get(api.SandboxPath(id, "snapshots", url.PathEscape(snapshot), "events")), "", nil)
	return decode(seq, func(_ serverEvent, ev *api.SnapshotEvent) (fate, error) {
		if ev.Status == api.SnapshotCreating || ev.Status == api.SnapshotRestoring {
			return keep, nil
		}
		return final, nil
	})
}

// SandboxSnapshots lists the snapshots of a sandbox, be it destroyed, newest first.
func (c *Client) SandboxSnapshots(ctx context.Context, id string) ([]api.Snapshot, error) {
	return rows[api.Snapshot](ctx, c, get(api.SandboxPath(id, "snapshots")))
}

// Snapshots lists the tenant's snapshots, newest first.
func (c *Client) Snapshots(ctx context.Context, f api.SnapshotFilter) ([]api.Snapshot, error) {
	return rows[api.Snapshot](ctx, c, get(api.PathSnapshots).with("sandbox_id", f.SandboxID).with("status", f.Status))
}

// Snapshot returns one snapshot.
func (c *Client) Snapshot(ctx context.Context, id string) (*api.Snapshot, error) {
	return fetch[api.Snapshot](ctx, c, get(api.SnapshotPath(id)))
}

// DeleteSnapshot deletes one snapshot.
func (c *Client) DeleteSnapshot(ctx context.Context, id string) (*api.Snapshot, error) {
	return fetch[api.Snapshot](ctx, c, del(api.SnapshotPath(id)))
}

// Restore has the sandbox that a snapshot was taken of go on from it, in place.
func (c *Client) Restore(ctx context.Context, snapshot string) (*api.Sandbox, error) {
	return fetch[api.Sandbox](ctx, c, post(api.SnapshotPath(snapshot, "restore"), nil))
}

// Fork makes req.Count copies of a running sandbox, or with req.SnapshotID of a
// snapshot, whose sandbox may be gone: id may be empty then.
func (c *Client) Fork(ctx context.Context, id string, req api.ForkSandbox) ([]api.Sandbox, error) {
	path := api.SandboxPath(id, "fork")
	if id == "" {
		path = api.SnapshotPath(req.SnapshotID, "fork")
	}
	req.Count = max(req.Count, 1) // so that the answer is a list
	out, err := fetch[struct {
		Data []api.Sandbox `json:"data"`
	}](ctx, c, post(path, req).again().headed(api.HeaderIdempotencyKey, keyOr(req.IdempotencyKey)))
	if err != nil {
		return nil, err
	}
	return out.Data, nil
}
