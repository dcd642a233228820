package e2e

import (
	"testing"
	"time"
)

// "a key revoked while its stream is open (the stream ends)", and a ticket opens
// one stream where no header can be set.
func TestRevokedKeyEndsItsStream(t *testing.T) {
	t.Parallel()
	c := shared.tenant(t)
	id := c.create(t, nil)
	k := c.do(t, "POST", "api-keys", obj{"name": "watcher", "scopes": []string{"sandboxes:read"}}).want(t, 201, "")
	watcher := shared.as(k.str("token"))
	watcher.do(t, "DELETE", "sandboxes/"+id, nil).want(t, 403, "insufficient_scope")

	s := watcher.open(t, "GET", "sandboxes/"+id+"/events", nil)
	s.until(t, 10*time.Second, "running", state("running"))
	ticket := watcher.do(t, "POST", "auth/sse-ticket", nil).want(t, 201, "").str("ticket")
	other := shared.as("").open(t, "GET", "sandboxes/"+id+"/events?ticket="+ticket, nil)
	other.until(t, 10*time.Second, "running", state("running"))
	shared.as("").do(t, "GET", "sandboxes/"+id+"/events?ticket="+ticket, nil).want(t, 401, "UNAUTHORIZED")

	c.do(t, "DELETE", "api-keys/"+k.str("id"), nil).want(t, 200, "")
	for _, s := range []*stream{s, other} {
		f := s.until(t, time.Second, "closing", func(f frame) bool { return f.Event == "closing" })
		if f.JSON()["reconnect"] != false {
			t.Errorf("closing: got %v", f.JSON())
		}
		s.ends(t, time.Second)
	}
	watcher.do(t, "GET", "sandboxes/"+id, nil).want(t, 401, "UNAUTHORIZED")

	// Who did it is in the audit log, before the answer.
	found := false
	for _, e := range c.do(t, "GET", "audit?limit=20", nil).want(t, 200, "").list() {
		found = found || e["action"] == "DELETE /api/v1/api-keys/{id}" && e["resource_id"] == k.str("id") && e["status"] == 200.0
	}
	if !found {
		t.Error("the revocation is not in the audit log")
	}
}

// "races at the quota": 16 creates at once, limit 2.
func TestQuotaOfAnExternalUser(t *testing.T) {
	t.Parallel()
	c := shared.tenant(t)
	c.do(t, "PUT", "quotas/external/u1", obj{"max_concurrent": 2}).want(t, 200, "")
	made, refused := make(chan answer, 16), 0
	for range cap(made) {
		go func() { made <- c.do(t, "POST", "sandboxes", obj{"external_user_id": "u1"}) }()
	}
	for range cap(made) {
		if a := <-made; a.Status == 409 {
			a.want(t, 409, "QUOTA_EXCEEDED")
			refused++
		} else {
			a.want(t, 201, "")
		}
	}
	if refused != cap(made)-2 {
		t.Errorf("%d of %d were refused", refused, cap(made))
	}
	if q := c.do(t, "GET", "quotas/external/u1", nil).want(t, 200, ""); q.num("current_sandboxes") != 2 {
		t.Errorf("quota: %s", q)
	}
}
