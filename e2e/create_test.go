package e2e

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"testing"
	"time"
)

// "create with every field"
func TestCreateTakesEveryField(t *testing.T) {
	t.Parallel()
	c := shared.tenant(t)
	a := c.created(t, obj{
		"template_id": "miosa-sandbox", "cpu_count": 2, "memory_mb": 768, "disk_mb": 3072, "timeout_sec": 120, "idle_timeout_sec": 60,
		"env": obj{"A": "1"}, "metadata": obj{"k": "v", "deep": obj{"n": 1}}, "auto_start": false, "name": "every-field",
		"tags": []string{"one", "two"}, "persistent": false,
		"workspace_slug": "clinic", "workspace_name": "The Clinic", "project_slug": "magnet", "project_name": "Magnet",
		"external_workspace_id": "clinic_123", "external_user_id": "dr-smith-456", "external_project_id": "project_789",
		"a_field_nobody_knows": obj{"is": "ignored"},
	})
	for field, want := range (obj{
		"template_id": "miosa-sandbox", "image_id": "miosa-sandbox", "cpu_count": 2.0, "memory_mb": 768.0, "disk_size_mb": 3072.0,
		"timeout_sec": 120.0, "idle_timeout_sec": 60.0, "name": "every-field", "state": "running", "ready": true,
		"external_workspace_id": "clinic_123", "external_user_id": "dr-smith-456", "external_project_id": "project_789",
		"metadata.k": "v", "metadata.deep.n": 1.0, "tenant_id": c.tenant, "destroyed_at": nil, "total_runtime_sec": nil,
		// "`preview_url` null until previews exist"
		"preview_url": nil,
	}) {
		if got := a.at(field); got != want {
			t.Errorf("%s: got %v, want %v", field, got, want)
		}
	}
	if _, there := a.JSON["preview_url"]; !there {
		t.Error("preview_url is missing, want null")
	}
	// The hybrid envelope: "all fields at the top level plus a `data` member
	// holding the same object".
	for field, want := range a.JSON {
		if got := a.at("data." + field); field != "data" && fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("data.%s: got %v, want %v", field, got, want)
		}
	}
	for field, form := range map[string]string{
		"id": `^sbx_[0-9a-z]{26}$`, "tenant_id": `^tnt_`, "owner_id": `^usr_`,
		"workspace_id": `^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`, "project_id": `^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`,
		"created_at": `^20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z$`, "started_at": `^20\d\d-.*Z$`, "ready_at": `^20\d\d-.*Z$`,
	} {
		if !regexp.MustCompile(form).MatchString(a.str(field)) {
			t.Errorf("%s: got %q, want the form %s", field, a.str(field), form)
		}
	}
	got := c.do(t, "GET", "sandboxes/"+a.str("id"), nil).want(t, 200, "")
	for field, want := range a.JSON {
		switch field {
		case "data", "timeout_remaining_ms", "updated_at":
			continue
		}
		if fmt.Sprint(got.at(field)) != fmt.Sprint(want) {
			t.Errorf("GET %s: got %v, create said %v", field, got.at(field), want)
		}
	}
}

// Seed 001: defaults 1 vCPU, 1024 MB, 3072 MB, `miosa-sandbox`; timeout 300.
func TestCreateDefaults(t *testing.T) {
	t.Parallel()
	c := shared.tenant(t)
	for _, body := range []any{nil, "", "{}", `{"env":null,"metadata":null,"cpu_count":null}`} {
		a := c.do(t, "POST", "sandboxes", body).want(t, 201, "")
		for field, want := range (obj{"cpu_count": 1.0, "memory_mb": 1024.0, "disk_size_mb": 3072.0, "timeout_sec": 300.0, "template_id": "miosa-sandbox"}) {
			if got := a.at(field); got != want {
				t.Errorf("body %v: %s: got %v, want %v", body, field, got, want)
			}
		}
	}
}

// "`image` and `vcpus` of seed 000 are aliases of `template_id` and `cpu_count`;
// both given and different → 422"; named sizes of the public clients.
func TestCreateSizes(t *testing.T) {
	t.Parallel()
	c := shared.tenant(t)
	good := []struct {
		body      obj
		cpu, mem  float64
		disk      float64
		sizeLabel any
	}{
		{obj{"image": "miosa-sandbox", "vcpus": 2}, 2, 1024, 3072, nil},
		{obj{"template_id": "miosa-sandbox", "image": "miosa-sandbox", "cpu_count": 2, "vcpus": 2}, 2, 1024, 3072, nil},
		{obj{"disk_size_mb": 2048}, 1, 1024, 2048, nil},
		{obj{"size": "small"}, 2, 4096, 10240, "small"},
		{obj{"cpu_count": 1, "memory_mb": 2048, "disk_mb": 10240}, 1, 2048, 10240, "xs"},
	}
	for _, g := range good {
		a := c.do(t, "POST", "sandboxes", g.body).want(t, 201, "")
		if a.num("cpu_count") != g.cpu || a.num("memory_mb") != g.mem || a.num("disk_size_mb") != g.disk || a.at("size") != g.sizeLabel {
			t.Errorf("%v: got cpu %v, memory %v, disk %v, size %v", g.body, a.at("cpu_count"), a.at("memory_mb"), a.at("disk_size_mb"), a.at("size"))
		}
		c.do(t, "DELETE", "sandboxes/"+a.str("id"), nil)
	}
	bad := []struct {
		body  obj
		field string
	}{
		{obj{"template_id": "miosa-sandbox", "image": "python"}, ""},
		{obj{"cpu_count": 1, "vcpus": 2}, ""},
		{obj{"disk_mb": 2048, "disk_size_mb": 3072}, ""},
		{obj{"cpu_count": 5}, "cpu_count"},
		{obj{"memory_mb": 8193}, "memory_mb"},
		{obj{"disk_mb": 10241}, "disk_mb"},
		{obj{"cpu_count": -1}, "cpu_count"},
		{obj{"memory_mb": 1}, "memory_mb"},
		{obj{"size": "enormous"}, "size"},
		{obj{"timeout_sec": -1}, "timeout_sec"},
		{obj{"timeout_sec": 1 << 40}, "timeout_sec"},
	}
	for _, b := range bad {
		a := c.do(t, "POST", "sandboxes", b.body).want(t, 422, "VALIDATION_ERROR")
		if b.field != "" && a.str("error.details.field") != b.field {
			t.Errorf("%v: details.field: got %v, want %s", b.body, a.at("error.details"), b.field)
		}
	}
	if n := len(c.do(t, "GET", "sandboxes", nil).list()); n != 0 {
		t.Errorf("refused requests left %d sandboxes", n)
	}
	// Seed 001: "400 INVALID_TEMPLATE: template_id is not a recognized template."
	c.do(t, "POST", "sandboxes", obj{"template_id": "no-such-template"}).want(t, 400, "INVALID_TEMPLATE")
	c.do(t, "POST", "sandboxes", obj{"image": "../../etc"}).want(t, 400, "INVALID_TEMPLATE")
}

// "workspace and project rows auto-created by slug; `external_*` never
// authorises anything, tenancy comes from the key alone"; "list with all six
// filters".
func TestPlacesAndFilters(t *testing.T) {
	t.Parallel()
	c, other := shared.tenant(t), shared.tenant(t)
	first := c.created(t, obj{"workspace_slug": "one", "workspace_name": "One", "project_slug": "p", "external_workspace_id": "ew", "external_user_id": "eu", "external_project_id": "ep"})
	again := c.created(t, obj{"workspace_slug": "one", "project_slug": "p"})
	elsewhere := c.created(t, obj{"workspace_slug": "two", "project_slug": "p"})
	plain := c.created(t, obj{})
	foreign := other.created(t, obj{"workspace_slug": "one", "project_slug": "p", "external_workspace_id": "ew", "external_user_id": "eu", "external_project_id": "ep"})

	if first.str("workspace_id") != again.str("workspace_id") || first.str("project_id") != again.str("project_id") {
		t.Error("the same slugs named different places")
	}
	if first.str("workspace_id") == elsewhere.str("workspace_id") || first.str("project_id") == elsewhere.str("project_id") {
		t.Error("a project of one workspace was found in another")
	}
	if plain.str("workspace_id") == "" || plain.str("workspace_id") == first.str("workspace_id") {
		t.Errorf("default workspace: got %q", plain.str("workspace_id"))
	}
	if first.str("workspace_id") == foreign.str("workspace_id") || first.str("project_id") == foreign.str("project_id") {
		t.Error("two tenants share a workspace or project by slug")
	}
	// By id: one's own works, another tenant's is not there.
	byID := c.created(t, obj{"workspace_id": first.str("workspace_id"), "project_id": first.str("project_id")})
	if byID.str("project_id") != first.str("project_id") {
		t.Errorf("project by id: got %v", byID.at("project_id"))
	}
	for _, body := range []obj{{"workspace_id": foreign.str("workspace_id")}, {"project_id": foreign.str("project_id")}, {"workspace_id": "not-a-uuid"}} {
		if a := c.do(t, "POST", "sandboxes", body); a.Status != 404 && a.Status != 422 {
			t.Errorf("%v: got %s, want 404 or 422", body, a)
		}
	}
	c.do(t, "DELETE", "sandboxes/"+byID.str("id"), nil).want(t, 200, "")

	lists := []struct {
		query string
		want  []answer
	}{
		{"", []answer{first, again, elsewhere, plain}},
		{"workspace_id=" + first.str("workspace_id"), []answer{first, again}},
		{"project_id=" + elsewhere.str("project_id"), []answer{elsewhere}},
		{"external_workspace_id=ew", []answer{first}},
		{"external_user_id=eu", []answer{first}},
		{"external_project_id=ep", []answer{first}},
		{"state=running", []answer{first, again, elsewhere, plain}},
		{"state=running&external_user_id=eu", []answer{first}},
		{"state=paused", nil},
		{"state=destroyed", []answer{byID}},
		{"workspace_id=" + foreign.str("workspace_id"), nil},
		{"external_user_id=nobody", nil},
	}
	for _, l := range lists {
		a := c.do(t, "GET", "sandboxes?"+l.query, nil).want(t, 200, "")
		var got, want []string
		for _, sb := range a.list() {
			got = append(got, fmt.Sprint(sb["id"]))
		}
		for _, w := range l.want {
			want = append(want, w.str("id"))
		}
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("list %q: got %v, want %v", l.query, got, want)
		}
	}
	if _, isArray := c.do(t, "GET", "sandboxes?state=paused", nil).at("data").([]any); !isArray {
		t.Error("an empty list is no array")
	}
	c.do(t, "GET", "sandboxes?state=sleeping", nil).want(t, 422, "VALIDATION_ERROR")
}

// "409 SANDBOX_LIMIT_EXCEEDED: Tenant has reached the concurrent sandbox limit";
// "the concurrency limit (provisioning and running count)".
func TestConcurrencyLimit(t *testing.T) {
	t.Parallel()
	admin := shared.as(bootstrapKey)
	tenant := admin.do(t, "POST", "tenants", obj{"name": "small", "max_sandboxes": 3}).want(t, 201, "")
	c, neighbour := shared.tenant(t), shared.tenant(t)
	c.key = admin.do(t, "POST", "api-keys", obj{"tenant_id": tenant.str("id")}).want(t, 201, "").str("token")

	// Six at once for three places.
	type result struct {
		a   answer
		err error
	}
	results := make(chan result)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for range 6 {
		go func() {
			a, err := c.try(ctx, "POST", "sandboxes", obj{})
			results <- result{a, err}
		}()
	}
	var made []string
	for range 6 {
		r := <-results
		switch {
		case r.err != nil:
			t.Error(r.err)
		case r.a.Status == 201:
			made = append(made, r.a.str("id"))
		default:
			if r.a.Status != 409 || r.a.str("error.code") != "SANDBOX_LIMIT_EXCEEDED" {
				t.Errorf("got %s, want 409 SANDBOX_LIMIT_EXCEEDED", r.a)
			}
		}
	}
	if len(made) != 3 {
		t.Fatalf("%d sandboxes were made, want 3", len(made))
	}
	neighbour.created(t, obj{}) // another tenant has its own count
	c.do(t, "DELETE", "sandboxes/"+made[0], nil).want(t, 200, "")
	c.created(t, obj{})
	c.do(t, "POST", "sandboxes", obj{}).want(t, 409, "SANDBOX_LIMIT_EXCEEDED")
}

// "Same key within 24 h returns the existing sandbox instead of creating a new
// one"; "idempotency keys for 24 hours with payload-mismatch 409".
func TestIdempotency(t *testing.T) {
	t.Parallel()
	c, other := shared.tenant(t), shared.tenant(t)
	key := header{"Idempotency-Key", "3f1c"}
	first := c.do(t, "POST", "sandboxes", `{"name":"x","memory_mb":512}`, key).want(t, 201, "")
	// The same meaning, spelled otherwise.
	again := c.do(t, "POST", "sandboxes", "{ \"memory_mb\": 512,\n \"name\": \"x\"}", key).want(t, 201, "")
	if first.str("id") != again.str("id") {
		t.Errorf("the same key made %s and %s", first.str("id"), again.str("id"))
	}
	c.do(t, "POST", "sandboxes", obj{"name": "y"}, key).want(t, 409, "IDEMPOTENCY_PAYLOAD_MISMATCH")
	if foreign := other.do(t, "POST", "sandboxes", obj{"name": "y"}, key).want(t, 201, ""); foreign.str("id") == first.str("id") {
		t.Error("a key of one tenant returned the sandbox of another")
	}
	// A refused request does not use the key up.
	fresh := header{"Idempotency-Key", "second"}
	c.do(t, "POST", "sandboxes", obj{"cpu_count": 99}, fresh).want(t, 422, "VALIDATION_ERROR")
	c.do(t, "POST", "sandboxes", obj{"cpu_count": 1}, fresh).want(t, 201, "")
	// Destroyed is still that sandbox.
	c.do(t, "DELETE", "sandboxes/"+first.str("id"), nil).want(t, 200, "")
	if a := c.do(t, "POST", "sandboxes", `{"name":"x","memory_mb":512}`, key).want(t, 201, ""); a.str("id") != first.str("id") || a.str("state") != "destroyed" {
		t.Errorf("after its end: got %s in %s, want %s destroyed", a.str("id"), a.str("state"), first.str("id"))
	}

	ids := make(chan string)
	for range 8 {
		go func() {
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			a, err := c.try(ctx, "POST", "sandboxes", obj{"name": "race"}, header{"Idempotency-Key", "race"})
			if err != nil || a.Status != 201 {
				ids <- fmt.Sprint("failed: ", a, err)
				return
			}
			ids <- a.str("id")
		}()
	}
	seen := map[string]int{}
	for range 8 {
		seen[<-ids]++
	}
	if len(seen) != 1 {
		t.Errorf("eight requests with one key at once: got %v, want one sandbox", seen)
	}
}
