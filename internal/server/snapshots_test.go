package server

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"silica.dev/silica/api"
	"silica.dev/silica/sandbox"
)

// Seed 001: "Creates a named checkpoint for a running sandbox.", "List, inspect,
// restore, and delete snapshots". Contract §9.2: "data (GO, CLI)", "reads
// snapshot_id, else id (PY)", "DELETE must also return data (GO)".
func TestSnapshotsOnTheWire(t *testing.T) {
	w, _, base := serveWorld(t, Config{})
	id := create(t, base, `{"name":"n"}`)
	v1 := base + "/api/v1"
	for _, path := range []string{"/sandboxes/n/snapshots", "/sandboxes/" + id + "/snapshot", "/computers/n/snapshots", "/computers/n/checkpoints"} {
		a := request(t, "POST", v1+path, `{"comment":"before dependency upgrade","keep":true,"retention_seconds":60,"expiration_days":2}`)
		if a.status != 201 || a.header.Get("Location") == "" {
			t.Fatalf("POST %s: %d %s", path, a.status, a.raw)
		}
		for _, m := range []map[string]any{a.body, a.body["data"].(map[string]any)} {
			if m["id"] == "" || m["snapshot_id"] != m["id"] || m["sandbox_id"] != id || m["status"] != "ready" ||
				m["comment"] != "before dependency upgrade" || m["keep"] != true || m["retention_seconds"] != 60.0 || m["memory"] != true {
				t.Errorf("POST %s: %v", path, m)
			}
			// §12.32: "created_at must be RFC 3339".
			for _, field := range []string{"created_at", "updated_at", "expires_at"} {
				if _, err := time.Parse(time.RFC3339, m[field].(string)); err != nil {
					t.Errorf("%s: %v", field, err)
				}
			}
		}
	}
	if got := w.snapped[0]; got.Retention != time.Minute || got.Expires != 48*time.Hour || !got.Keep {
		t.Errorf("asked for %+v", got)
	}
	list := request(t, "GET", v1+"/sandboxes/n/snapshots", "").body["data"].([]any)
	if len(list) != 4 {
		t.Fatalf("%d snapshots, want 4", len(list))
	}
	sid := list[0].(map[string]any)["id"].(string)
	for _, path := range []string{"/sandboxes/n/snapshots/", "/computers/n/snapshots/", "/computers/n/checkpoints/", "/snapshots/"} {
		if a := request(t, "GET", v1+path+sid, ""); a.status != 200 || a.body["id"] != sid || a.body["data"].(map[string]any)["id"] != sid {
			t.Errorf("GET %s: %d %s", path, a.status, a.raw)
		}
	}
	for _, path := range []string{"/sandboxes/n/restore/" + sid, "/computers/n/restore/" + sid, "/computers/n/checkpoints/" + sid + "/restore", "/snapshots/" + sid + "/restore"} {
		a := request(t, "POST", v1+path, `{}`)
		if a.status != 200 || a.body["id"] != id || a.body["data"].(map[string]any)["status"] != "running" {
			t.Errorf("POST %s: %d %s", path, a.status, a.raw)
		}
	}
	if len(w.restored) != 4 || w.restored[3] != [2]string{id, sid} {
		t.Errorf("restored %v", w.restored)
	}
	if a := request(t, "DELETE", v1+"/sandboxes/n/snapshots/"+sid, ""); a.status != 200 || a.body["data"].(map[string]any)["status"] != "deleted" {
		t.Errorf("DELETE: %d %s", a.status, a.raw)
	}
	request(t, "GET", v1+"/snapshots/"+sid, "").want(t, 404, "NOT_FOUND")
	if all := request(t, "GET", v1+"/snapshots?sandbox_id=n&status=ready", "").body["data"].([]any); len(all) != 3 {
		t.Errorf("%d snapshots are left, want 3", len(all))
	}
	request(t, "GET", v1+"/snapshots?status=red", "").want(t, 422, "VALIDATION_ERROR")
}

// "Idempotency-Key: same key within 24 h returns the existing" one; a client that
// repeats by itself makes a key. Another body, or another sandbox, is another request.
func TestSnapshotsAndForksCarryTheirKeys(t *testing.T) {
	w, _, base := serveWorld(t, Config{})
	id, other := create(t, base, `{}`), create(t, base, `{}`)
	v1, key := base+"/api/v1/sandboxes/", []string{"Idempotency-Key", "k"}
	for _, to := range []string{id, id, other} {
		request(t, "POST", v1+to+"/snapshots", `{"comment":"c"}`, key...).want(t, 201, "")
		request(t, "POST", v1+to+"/fork", `{"count":2}`, key...).want(t, 201, "")
	}
	var digests [][32]byte
	for i := range 3 {
		if w.snapped[i].Idempotency.Key != "k" || w.forked[i].Idempotency.Key != "k" {
			t.Errorf("keys %q and %q", w.snapped[i].Idempotency.Key, w.forked[i].Idempotency.Key)
		}
		digests = append(digests, w.snapped[i].Idempotency.Digest, w.forked[i].Idempotency.Digest)
	}
	if digests[0] != digests[2] || digests[1] != digests[3] || digests[0] == digests[4] || digests[1] == digests[5] || digests[0] == digests[1] {
		t.Errorf("digests %x", digests)
	}
	request(t, "POST", v1+id+"/fork", `{}`, "Idempotency-Key", "\xff").want(t, 422, "VALIDATION_ERROR")

	c := connectClient(t, base+"/api/v1/", keyA)
	snap, err := c.TakeSnapshot(t.Context(), id, api.CreateSnapshot{})
	if err == nil {
		_, err = c.Fork(t.Context(), "", api.ForkSandbox{SnapshotID: snap.ID})
	}
	if err != nil || w.snapped[3].Idempotency.Key == "" || w.forked[3].Idempotency.Key == "" {
		t.Errorf("the client's keys: %+v, %+v, %v", w.snapped[3], w.forked[3], err)
	}
}

// "Fork of a destroyed or foreign sandbox", a snapshot of another sandbox's or
// another's: not found, and nothing done.
func TestForeignSnapshots(t *testing.T) {
	w, _, base := serveWorld(t, Config{})
	v1 := base + "/api/v1"
	id, other := create(t, base, `{}`), create(t, base, `{}`)
	sid := request(t, "POST", v1+"/sandboxes/"+id+"/snapshots", "").body["id"].(string)
	for _, path := range []string{"GET /sandboxes/" + other + "/snapshots/" + sid, "DELETE /sandboxes/" + other + "/snapshots/" + sid, "POST /sandboxes/" + other + "/restore/" + sid} {
		method, path, _ := strings.Cut(path, " ")
		request(t, method, v1+path, "").want(t, 404, "NOT_FOUND")
	}
	anyOf := []string{"GET /snapshots/", "DELETE /snapshots/", "POST /snapshots/*/restore", "POST /snapshots/*/fork"}
	as := func(who string, header ...string) {
		for _, path := range anyOf {
			method, path, _ := strings.Cut(path, " ")
			path = strings.Replace(path, "*", sid, 1)
			if strings.HasSuffix(path, "/") {
				path += sid
			}
			if a := request(t, method, v1+path, "", header...); a.status != 404 || a.code() != "NOT_FOUND" {
				t.Errorf("%s %s as %s: %d %s", method, path, who, a.status, a.raw)
			}
		}
		if l, _ := request(t, "GET", v1+"/snapshots", "", header...).body["data"].([]any); len(l) != 0 {
			t.Errorf("%s lists %d", who, len(l))
		}
	}
	as("another tenant", "Authorization", "Bearer "+keyB)
	w.changeCaller(keyA, func(c *sandbox.Caller) { c.Workspace = "another" })
	as("another workspace")
	w.changeCaller(keyA, func(c *sandbox.Caller) { c.Workspace = "" })
	if len(w.restored)+len(w.forked) != 0 || len(w.snapshots) != 1 {
		t.Errorf("something was done: %v %v, %d snapshots", w.restored, w.forked, len(w.snapshots))
	}
	request(t, "DELETE", v1+"/sandboxes/"+id, "")
	request(t, "POST", v1+"/sandboxes/"+id+"/fork", "").want(t, 409, "SANDBOX_NOT_RUNNING")
	request(t, "POST", v1+"/sandboxes/"+id+"/snapshots", "").want(t, 409, "SANDBOX_NOT_RUNNING")
	if l := request(t, "GET", v1+"/sandboxes/"+id+"/snapshots", "").body["data"].([]any); len(l) != 1 {
		t.Errorf("a destroyed sandbox has %d snapshots, want 1", len(l))
	}
}

// Seed 004: "optional snapshot to fork from. :name … :external_user_id … Returns
// the new sandbox object." Contract §11: "hybrid object with both vocabularies".
func TestForkOnTheWire(t *testing.T) {
	w, _, base := serveWorld(t, Config{})
	v1 := base + "/api/v1"
	id := create(t, base, `{"metadata":{"n":1}}`)
	a := request(t, "POST", v1+"/sandboxes/"+id+"/fork", `{"name":"copy","external_user_id":"u","timeout_sec":60,"metadata":{"k":{"deep":true}},"template_id":"x"}`,
		"Idempotency-Key", "k", "User-Agent", "miosa-go/2.0.2")
	if a.status != 201 || a.body["id"] == id || a.body["name"] != "copy" || a.body["data"].(map[string]any)["template_type"] != "miosa-sandbox" {
		t.Fatalf("fork: %d %s", a.status, a.raw)
	}
	// §12.4: "GO legacy Fork decodes into a struct that embeds service handles".
	var h goHandle
	if err := json.Unmarshal(a.raw, &h); err != nil || h.Metadata["k"] != `{"deep":true}` {
		t.Errorf("%+v: %v", h, err)
	}
	if got := w.forked[0]; got.Count != 1 || got.Name != "copy" || got.External.User != "u" || got.Timeout != time.Minute || got.Idempotency.Key != "k" {
		t.Errorf("asked for %+v", got)
	}
	// Our own extension: count.
	a = request(t, "POST", v1+"/sandboxes/"+id+"/fork", `{"count":3}`)
	data, _ := a.body["data"].([]any)
	if a.status != 201 || len(data) != 3 || len(a.body["sandboxes"].([]any)) != 3 || data[0].(map[string]any)["id"] != a.body["id"] {
		t.Errorf("three: %d %s", a.status, a.raw)
	}
	for body, field := range map[string]string{`{"count":0}`: "count", `{"count":17}`: "count", `{"name":"a/b"}`: "name", `{"metadata":[]}`: "metadata", `{"snapshot_id":7}`: "snapshot_id"} {
		a := request(t, "POST", v1+"/sandboxes/"+id+"/fork", body)
		a.want(t, 422, "VALIDATION_ERROR")
		if !strings.Contains(string(a.raw), `"field":"`+field+`"`) {
			t.Errorf("%s: %s does not name %s", body, a.raw, field)
		}
	}
	sid := request(t, "POST", v1+"/sandboxes/"+id+"/snapshots", "").body["id"].(string)
	for path, body := range map[string]string{"/sandboxes/" + id + "/fork": `{"snapshot_id":"` + sid + `"}`, "/snapshots/" + sid + "/fork": ""} {
		if a := request(t, "POST", v1+path, body); a.status != 201 || w.forked[len(w.forked)-1].Snapshot != sid {
			t.Errorf("%s: %d %s", path, a.status, a.raw)
		}
	}
	request(t, "POST", v1+"/snapshots/"+sid+"/fork", `{"snapshot_id":"snap_other"}`).want(t, 422, "VALIDATION_ERROR")
	request(t, "POST", v1+"/sandboxes/"+id+"/fork", `{"snapshot_id":"snap_other"}`).want(t, 404, "NOT_FOUND")
}

// Recorded: "Pause → {id,state:"paused"}; resume → sandbox object."
func TestPauseOnTheWire(t *testing.T) {
	_, _, base := serveWorld(t, Config{})
	id := create(t, base, `{}`)
	for _, family := range []string{"/api/v1/sandboxes/", "/api/v1/computers/"} {
		for range 2 {
			if a := request(t, "POST", base+family+id+"/pause", `{}`); a.status != 200 || a.body["id"] != id || a.body["state"] != "paused" {
				t.Fatalf("pause: %d %s", a.status, a.raw)
			}
		}
		if a := request(t, "GET", base+"/api/v1/sandboxes/"+id, ""); a.body["memory"] != true {
			t.Errorf("paused with memory %v", a.body["memory"])
		}
		if a := request(t, "POST", base+family+id+"/resume", `{}`); a.status != 200 || a.body["state"] != "running" || a.body["status"] != "running" {
			t.Errorf("resume: %d %s", a.status, a.raw)
		}
	}
	request(t, "DELETE", base+"/api/v1/sandboxes/"+id, "")
	request(t, "POST", base+"/api/v1/sandboxes/"+id+"/pause", "").want(t, 409, "SANDBOX_NOT_RUNNING")
}

// §8.3: "data {type,snapshot_id,status,step,progress(int),error}; client stops at
// ready/failed/deleted".
func TestSnapshotEvents(t *testing.T) {
	w, _, base := serveWorld(t, Config{})
	id := create(t, base, `{}`)
	w.newSnapshots = sandbox.SnapshotCreating
	sid := request(t, "POST", base+"/api/v1/sandboxes/"+id+"/snapshots", "").body["id"].(string)
	res := stream(t, "GET", base+"/api/v1/computers/"+id+"/snapshots/"+sid+"/events", "")
	w.awaitFollower()
	w.finish(sandbox.SnapshotFailed, "the disk is full")
	var types []string
	for _, ev := range readSSE(t, res.Body, nil) {
		types = append(types, ev.data["type"].(string))
		if ev.data["snapshot_id"] != sid {
			t.Errorf("event of %v", ev.data)
		}
		if ev.data["type"] == "failed" && (ev.data["error"] != "the disk is full" || ev.data["progress"] != 100.0) {
			t.Errorf("failed: %v", ev.data)
		}
	}
	if got := strings.Join(types, " "); got != "creating failed" {
		t.Errorf("events %q", got)
	}
	res = stream(t, "POST", base+"/api/v1/computers/"+id+"/checkpoints/"+sid+"/restore/stream", "")
	if res.StatusCode != http.StatusOK {
		t.Fatal(res.Status)
	}
	types = nil
	for _, ev := range readSSE(t, res.Body, nil) {
		types = append(types, ev.data["type"].(string))
	}
	if got := strings.Join(types, " "); got != "restoring ready" {
		t.Errorf("events of a restore %q", got)
	}
}

// "Export and import of a snapshot as one file, for moving to another machine."
func TestParcelsOnTheWire(t *testing.T) {
	w, _, base := serveWorld(t, Config{})
	v1, operator := base+"/api/v1/snapshots", []string{"Authorization", "Bearer " + keyAdmin}
	id := create(t, base, `{}`)
	sid := request(t, "POST", base+"/api/v1/sandboxes/"+id+"/snapshots", "").body["id"].(string)
	a := request(t, "GET", v1+"/"+sid+"/export", "")
	if a.status != 200 || string(a.raw) != "parcel "+sid || a.header.Get("Content-Type") != "application/octet-stream" || !strings.Contains(a.header.Get("Content-Disposition"), sid) {
		t.Errorf("%d %q %v", a.status, a.raw, a.header)
	}
	// Another tenant's, and one that never was; and keys that may not.
	request(t, "GET", v1+"/"+sid+"/export", "", "Authorization", "Bearer "+keyB).want(t, 404, "NOT_FOUND")
	request(t, "GET", v1+"/snap_none/export", "").want(t, 404, "NOT_FOUND")
	request(t, "POST", v1+"/import", string(a.raw)).want(t, 403, "FORBIDDEN")
	w.changeCaller(keyA, func(c *sandbox.Caller) { c.Scopes = sandbox.ScopesOf(sandboxesRead) })
	request(t, "GET", v1+"/"+sid+"/export", "").want(t, 403, "insufficient_scope")
	w.changeCaller(keyA, func(c *sandbox.Caller) { c.Scopes = sandbox.AllScopes })

	b := request(t, "POST", v1+"/import?tenant_id=tnt_b", string(a.raw), operator...)
	if b.status != 201 || b.body["status"] != "ready" || b.body["sandbox_id"] != "" || b.header.Get("Location") != "/api/v1/snapshots/"+b.body["id"].(string) {
		t.Fatalf("%d %s", b.status, b.raw)
	}
	imported := b.body["id"].(string)
	request(t, "GET", v1+"/"+imported, "").want(t, 404, "NOT_FOUND")
	request(t, "GET", v1+"/"+imported, "", "Authorization", "Bearer "+keyB).want(t, 200, "")
	request(t, "POST", v1+"/import", "hello", operator...).want(t, 400, "INVALID_SNAPSHOT")
	w.finish(sandbox.SnapshotCreating, "")
	request(t, "GET", v1+"/"+sid+"/export", "").want(t, 409, "SNAPSHOT_NOT_READY")
}

// "`silica storage ls|gc` shows who holds what": to operators.
func TestStorageOnTheWire(t *testing.T) {
	_, _, base := serveWorld(t, Config{})
	operator := []string{"Authorization", "Bearer " + keyAdmin}
	a := request(t, "GET", base+"/api/v1/storage", "", operator...)
	raw, _ := json.Marshal(a.body["data"].([]any)[0].(map[string]any)["holders"])
	if want := `[{"id":"sbx_1","kind":"files","tenant_id":"tnt_a"}]`; a.status != 200 || string(raw) != want {
		t.Errorf("%d, held by %s, want %s", a.status, raw, want)
	}
	if a = request(t, "POST", base+"/api/v1/storage/gc", "", operator...); a.status != 200 || a.body["removed"] != 1.0 || a.body["freed_bytes"] != 5.0 {
		t.Errorf("%d %s", a.status, a.raw)
	}
	request(t, "GET", base+"/api/v1/storage", "").want(t, 403, "FORBIDDEN")
}

// Rows are shared, files are not: what makes something of a snapshot goes to the
// server that has it.
func TestSnapshotsAreWhereTheirNodeIs(t *testing.T) {
	owner, _, ownerURL := serveWorld(t, Config{})
	reader, s, readerURL := serveWorld(t, Config{})
	posts := &signposts{url: map[string]string{}}
	s.forward = newForwarder(posts, []byte("secret"))
	id := create(t, ownerURL, `{}`)
	sid := request(t, "POST", ownerURL+"/api/v1/sandboxes/"+id+"/snapshots", "").body["id"].(string)
	shared := *owner.snapshots[0]
	shared.Node = "node_a"
	reader.snapshots = []*sandbox.Snapshot{&shared}
	posts.point("node_a", ownerURL)
	if a := request(t, "POST", readerURL+"/api/v1/snapshots/"+sid+"/restore", ""); a.status != 200 || a.body["id"] != id || len(owner.restored) != 1 {
		t.Errorf("restore: %d %s", a.status, a.raw)
	}
	if a := request(t, "DELETE", readerURL+"/api/v1/snapshots/"+sid, ""); a.status != 200 || len(owner.snapshots) != 0 {
		t.Errorf("delete: %d %s", a.status, a.raw)
	}
	request(t, "GET", readerURL+"/api/v1/snapshots/snap_none", "").want(t, 404, "NOT_FOUND")
}
