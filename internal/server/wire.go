package server

import (
	"cmp"
	"encoding/json"
	"net/http"
	"strings"
	"time"

	"silica.dev/silica/api"
	"silica.dev/silica/sandbox"
)

// wireSandbox makes the sandbox object of the wire. No member may be called
// ports, volumes, services, snapshots, events, domains, env, logs, metrics,
// secrets, files, exec, terminal, network, audit or inbox: a public client
// decodes the object into a struct in which those are something else.
func wireSandbox(r *http.Request, sb sandbox.Sandbox, now time.Time) api.Sandbox {
	a := api.Sandbox{
		ID: string(sb.ID), Slug: sb.Slug, Name: orNull(sb.Name),
		TenantID: string(sb.Tenant), OwnerID: sb.Owner, WorkspaceID: sb.Workspace, ProjectID: sb.Project,
		ExternalWorkspaceID: orNull(sb.External.Workspace), ExternalUserID: orNull(sb.External.User), ExternalProjectID: orNull(sb.External.Project),
		TemplateID: cmp.Or(sb.Spec.Image, sb.Spec.Template), ImageID: sb.Spec.Image, // by slug
		State: string(sb.State), Status: string(sb.State), StateReason: orNull(sb.Reason), Ready: sb.Ready,
		CPUCount: (sb.Spec.MilliCPU + sandbox.Core - 1) / sandbox.Core, MemoryMB: sb.Spec.Memory / sandbox.MiB,
		DiskSizeMB: sb.Spec.Disk / sandbox.MiB, DiskMB: sb.Spec.Disk / sandbox.MiB,
		BootPath: orNull(string(sb.BootPath)), BootMS: bootMS(sb),
		AutoStart: sb.AutoStart, Persistent: sb.Persist, AlwaysOn: sb.AlwaysOn,
		TimeoutSec: seconds(sb.Timeout), IdleTimeoutSec: seconds(sb.Idle),
		Metadata: sb.Metadata, Tags: wireTags(r, sb.Tags),
		CreatedAt: sb.CreatedAt.UTC(), UpdatedAt: sb.UpdatedAt.UTC(),
		StartedAt: timeOrNull(sb.StartedAt), ReadyAt: timeOrNull(sb.ReadyAt), DestroyedAt: timeOrNull(sb.DestroyedAt),
	}
	if a.Metadata == nil {
		a.Metadata = map[string]any{}
	}
	if flatMetadata(r) {
		texts := map[string]any{}
		for k, v := range textOnly(a.Metadata) {
			texts[k] = v
		}
		a.Metadata = texts
	}
	if z := sizeOf(sb.Spec.Resources); z != nil {
		a.Size, a.ResourceContract = &z.Name, contractOf(z)
	}
	a.TimeoutRemainingMS = timeoutRemaining(sb, now)
	if sb.State == sandbox.Paused {
		kept := sb.Memory != ""
		a.Memory = &kept
	}
	if sb.State == sandbox.Destroyed {
		ran := seconds(sb.Runtime(now))
		a.TotalRuntimeSec = &ran
	}
	return a
}

// timeoutRemaining is null for what does not run, or has no hard limit.
func timeoutRemaining(sb sandbox.Sandbox, now time.Time) *int64 {
	end := sb.Deadline()
	if end.IsZero() || sb.State != sandbox.Running {
		return nil
	}
	left := max(end.Sub(now).Milliseconds(), 0)
	return &left
}

// seconds rounds up: a second begun is a second.
func seconds(d time.Duration) int64 { return int64((d + time.Second - 1) / time.Second) }

func bootMS(sb sandbox.Sandbox) *int64 {
	if sb.BootPath == "" || sb.StartedAt.IsZero() {
		return nil
	}
	ms := sb.Boot.Milliseconds()
	return &ms
}

func orNull(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

func timeOrNull(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}

// flatMetadata tells whether the caller is the public CLI, whose decoder
// breaks on metadata that is not text and on tags that are an array: on get, on
// list, and so on most of its commands.
func flatMetadata(r *http.Request) bool { return strings.HasPrefix(r.UserAgent(), "miosa-cli/") }

// wireTags leaves tags out when there are none, which suits every client.
func wireTags(r *http.Request, tags []string) any {
	if len(tags) == 0 {
		return nil
	}
	if !flatMetadata(r) {
		return tags
	}
	m := make(map[string]string, len(tags))
	for _, t := range tags {
		m[t] = ""
	}
	return m
}

func textOnly(m map[string]any) map[string]string {
	out := make(map[string]string, len(m))
	for k, v := range m {
		if text, ok := v.(string); ok {
			out[k] = text
		} else if raw, err := json.Marshal(v); err == nil {
			out[k] = string(raw)
		}
	}
	return out
}
