package main

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"time"

	"silica.dev/silica/api"
)

// inside answers what is asked about the inside of the one sandbox there is.
func (f *fakeServer) inside(w http.ResponseWriter, r *http.Request, route string, answer func(int, any)) bool {
	code := int32(3)
	process := api.Process{PID: "42", SandboxID: fakeID, Kind: "process", Command: "sleep\n1", Status: api.ProcessFailed, ExitCode: &code, StartedAt: time.Now()}
	service := api.Service{Name: "web", Command: "serve", Status: "running", Restart: "always", RestartCount: 2}
	sandbox := api.Sandbox{ID: fakeID, State: api.StateRunning, Ready: true, CreatedAt: time.Now()}
	snap := api.Snapshot{ID: "snap_1", SandboxID: fakeID, Status: api.SnapshotCreating, SizeBytes: 3 << 20, Memory: true, CreatedAt: time.Now()}
	var body map[string]any
	if r.Header.Get("Content-Type") == "application/json" {
		_ = json.NewDecoder(r.Body).Decode(&body)
	}
	switch route {
	case "PATCH ":
		if name, ok := body["name"].(string); ok {
			sandbox.Name = &name
		}
		sandbox.Metadata, _ = body["metadata"].(map[string]any)
		answer(http.StatusOK, sandbox)
	case "PATCH /tags":
		sandbox.Tags = body["tags"]
		answer(http.StatusOK, sandbox)
	case "POST /extend":
		left := int64(body["timeout_sec"].(float64)) * 1000
		sandbox.TimeoutRemainingMS = &left
		answer(http.StatusOK, sandbox)
	case "GET " + api.Base + api.PathStorage:
		answer(http.StatusOK, api.List[api.StoredArtifact]{Data: []api.StoredArtifact{
			{ID: "sha256:0123456789abcdef", SizeBytes: 3 << 20, PutAt: time.Now(), Holders: []api.Holder{{Kind: "files", ID: fakeID}}},
			{ID: "sha256:f", SizeBytes: 1, PutAt: time.Now()}}})
	case "POST " + api.Base + api.PathStorage + "/gc":
		answer(http.StatusOK, api.Collected{Removed: 1, FreedBytes: 1 << 20})
	case "POST /pause":
		kept := true
		sandbox.State, sandbox.Ready, sandbox.Memory = api.StatePaused, false, &kept
		answer(http.StatusOK, sandbox)
	case "POST /snapshots":
		snap.Comment, _ = body["comment"].(string)
		if n, ok := body["expiration_seconds"].(float64); ok {
			snap.Comment += fmt.Sprintf(" for %g s", n)
		}
		answer(http.StatusCreated, snap)
	case "GET /snapshots/snap_1/events":
		fmt.Fprint(w, "event: ready\ndata: {\"type\":\"ready\",\"status\":\"ready\"}\n\n")
	case "GET " + api.Base + api.PathSnapshots:
		snap.Status, snap.Comment = api.SnapshotReady, "of "+r.URL.Query().Get("sandbox_id")
		answer(http.StatusOK, api.List[api.Snapshot]{Data: []api.Snapshot{snap}})
	case "GET " + api.Base + api.PathSnapshots + "/snap_1", "DELETE " + api.Base + api.PathSnapshots + "/snap_1":
		snap.Status = api.SnapshotReady
		answer(http.StatusOK, snap)
	case "POST " + api.Base + api.PathSnapshots + "/snap_1/restore":
		answer(http.StatusOK, sandbox)
	case "POST /fork", "POST " + api.Base + api.PathSnapshots + "/snap_1/fork":
		answer(http.StatusCreated, api.List[api.Sandbox]{Data: slices.Repeat([]api.Sandbox{sandbox}, int(body["count"].(float64)))})
	case "POST /stop", "POST /start", "POST /restart":
		answer(http.StatusOK, sandbox)
	case "GET /readiness/stream":
		fmt.Fprint(w, "event: ready\ndata: {}\n\n")
	case "POST /processes":
		process.Command, _ = body["command"].(string)
		answer(http.StatusCreated, process)
	case "GET /processes":
		answer(http.StatusOK, api.List[api.Process]{Data: []api.Process{process}})
	case "GET /processes/42", "DELETE /processes/42":
		answer(http.StatusOK, process)
	case "GET /processes/42/logs", "GET /services/web/logs":
		answer(http.StatusOK, api.Logs{Data: "a\nb\n", Lines: []string{"a", "b"}})
	case "GET /processes/42/stream":
		fmt.Fprint(w, "data: {\"type\":\"stdout\",\"data\":\"one\\n\"}\n\ndata: {\"type\":\"gap\",\"lost_bytes\":5}\n\ndata: {\"type\":\"exit\"}\n\n")
	case "GET /services":
		answer(http.StatusOK, api.List[api.Service]{Data: []api.Service{service}})
	case "POST /services/web/restart":
		answer(http.StatusOK, service)
	case "GET /files":
		answer(http.StatusOK, api.FileList{Path: r.URL.Query().Get("path"), Entries: []api.FileEntry{
			{Path: "/workspace/evil\x1b[2J", Mode: "0644", Size: 2048}, {Path: "/workspace/sub", IsDir: true, Mode: "0755"}}})
	case "POST /files/search":
		answer(http.StatusOK, api.SearchResult{Matches: []api.SearchMatch{{Path: "/a.py", Line: 7, Text: "def f():", Before: []string{"#"}}}, Truncated: true})
	case "PUT /files/archive":
		f.folder, _ = io.ReadAll(r.Body)
		files := int64(0)
		for tr := tar.NewReader(bytes.NewReader(f.folder)); ; {
			h, err := tr.Next()
			if err != nil {
				break
			}
			if h.Typeflag == tar.TypeReg {
				files++
			}
		}
		answer(http.StatusOK, api.Unpacked{Path: r.URL.Query().Get("path"), Files: files})
	case "GET /files/archive":
		_, _ = w.Write(f.folder)
	case "GET /metrics":
		answer(http.StatusOK, api.Metrics{SandboxID: fakeID, CPU: api.CPUMetrics{UsagePercent: 12.5}, Memory: api.MemoryMetrics{UsedBytes: 1 << 10, LimitBytes: 2 << 10}})
	case "PUT /env":
		answer(http.StatusOK, api.EnvList{Data: []api.EnvVar{{Key: "A", Name: "A"}}})
	case "GET /logs":
		answer(http.StatusOK, api.SandboxLog{Entries: []api.LogLine{{Level: "info", Line: "running"}}})
	case "GET " + api.Base + api.PathAudit:
		answer(http.StatusOK, api.AuditPage{Data: []api.AuditEntry{{Action: "POST /sandboxes", ResourceID: "sbx_1", Status: 201}}})
	case "GET " + api.Base + api.PathWorkspaces:
		answer(http.StatusOK, api.List[api.Workspace]{Data: []api.Workspace{{ID: "ws_1", Slug: "team", Name: "Team"}}})
	case "GET " + api.Base + api.PathCredits + "/balance":
		answer(http.StatusOK, api.Balance{Balance: 7})
	case "GET " + api.Base + api.PathQuotas + "/alice":
		answer(http.StatusOK, api.Quota{ExternalUserID: "alice", MaxSandboxes: 3, CurrentSandboxes: 1})
	case "GET " + api.Base + api.PathUsage:
		answer(http.StatusOK, api.UsageReport{GroupBy: "day", Results: []api.UsageResult{{Date: "2030-01-02", SandboxSeconds: 60, ActiveCPUSeconds: 2.5}}})
	default:
		return false
	}
	return true
}
