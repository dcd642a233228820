package server

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"silica.dev/silica/api"
	"silica.dev/silica/client"
	"silica.dev/silica/internal/guest/guestpb"
	"silica.dev/silica/sandbox"
)

func connectClient(t *testing.T, base, key string) *client.Client {
	t.Helper()
	c, err := client.New(base, key)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// The Go client against the server: every method once, as people use it.
func TestClientSpeaksToServer(t *testing.T) {
	w, _, base := serveWorld(t, Config{})
	ctx := t.Context()
	c := connectClient(t, base+"/api/v1/", keyA)

	sb, err := c.Create(ctx, api.CreateSandbox{
		TemplateID: "miosa-sandbox", CPUCount: 2, MemoryMB: 2048, DiskMB: 4096, TimeoutSec: 60, IdleTimeoutSec: 9,
		Env: map[string]string{"A": "1"}, Metadata: map[string]any{"k": "v"}, Tags: []string{"x"}, Name: "box", AutoStart: true,
		WorkspaceSlug: "w", ProjectSlug: "p", ExternalUserID: "u", ExternalWorkspaceID: "c", ExternalProjectID: "d",
	})
	if err != nil {
		t.Fatal(err)
	}
	if !sb.Ready || sb.State != api.StateRunning || sb.CPUCount != 2 || *sb.BootMS != 31 || *sb.Name != "box" || sb.StartedAt == nil {
		t.Errorf("%+v", sb)
	}
	if w.created[0].Idempotency.Key == "" {
		t.Error("a create must carry an idempotency key, so that it may be repeated")
	}
	if got, err := c.Get(ctx, "box"); err != nil || got.ID != sb.ID {
		t.Errorf("get by name: %v %v", got, err)
	}
	if got, err := c.List(ctx, api.SandboxFilter{ExternalUserID: "u", State: "running"}); err != nil || len(got) != 1 {
		t.Errorf("list: %v %v", got, err)
	}
	if got, err := c.WaitUntilReady(ctx, sb.ID); err != nil || !got.Ready {
		t.Errorf("wait: %v %v", got, err)
	}
	if got, err := c.Readiness(ctx, sb.ID); err != nil || got.Status != "ready" {
		t.Errorf("readiness: %v %v", got, err)
	}

	w.agent.on("c", func(p *process) {
		_ = p.stdout("out\n\xff")
		_ = p.stderr("err\n")
		p.exit(&guestpb.ProcessEvent_Exited{ExitCode: 3})
	})
	res, err := c.Exec(ctx, sb.ID, api.ExecRequest{Command: "c", TimeoutSec: 5, WorkingDir: "/", Env: map[string]string{"B": "2"}})
	if err != nil || res.ExitCode != 3 || res.Stdout != "out\n\uFFFD" || string(res.StdoutBase64) != "out\n\xff" || res.Stderr != "err\n" {
		t.Errorf("exec: %+v %v", res, err)
	}
	var out bytes.Buffer
	var exit *api.ExecEvent
	for ev, err := range c.ExecStream(ctx, sb.ID, api.ExecRequest{Command: "c"}) {
		if err != nil {
			t.Fatal(err)
		}
		switch ev.Type {
		case api.ExecStdout:
			out.Write(ev.Bytes())
		case api.ExecExit:
			exit = &ev
		}
	}
	if out.String() != "out\n\xff" || exit == nil || exit.ExitCode != 3 {
		t.Errorf("exec stream: %q %v", out.String(), exit)
	}

	for name, r := range map[string]io.Reader{"known length": strings.NewReader("hello"), "unknown length": io.MultiReader(strings.NewReader("hel"), strings.NewReader("lo"))} {
		if got, err := c.Upload(ctx, sb.ID, "/w/a b%2F.txt", r); err != nil || got.Size != 5 {
			t.Errorf("upload, %s: %v %v", name, got, err)
		}
	}
	f, err := c.Download(ctx, sb.ID, "/w/a b%2F.txt")
	if err != nil {
		t.Fatal(err)
	}
	raw, _ := io.ReadAll(f)
	f.Close()
	if string(raw) != "hello" || f.Size != 5 {
		t.Errorf("download: %q %d", raw, f.Size)
	}
	if f, err = c.DownloadRange(ctx, sb.ID, "/w/a b%2F.txt", 1, 3); err != nil {
		t.Fatal(err)
	}
	raw, _ = io.ReadAll(f)
	f.Close()
	if string(raw) != "ell" {
		t.Errorf("range: %q", raw)
	}
	if got, err := c.ListFiles(ctx, sb.ID, "/w"); err != nil || len(got) != 1 || got[0].Size != 5 {
		t.Errorf("list files: %v %v", got, err)
	}
	if got, err := c.Stat(ctx, sb.ID, "/w/a b%2F.txt"); err != nil || got.Type != "file" {
		t.Errorf("stat: %v %v", got, err)
	}
	_, err = c.Stat(ctx, sb.ID, "/nope")
	var e *client.Error
	if !errors.As(err, &e) || e.Status != 404 || e.Code != "FILE_NOT_FOUND" || e.RequestID == "" || !client.IsNotFound(err) || !client.HasCode(err, "FILE_NOT_FOUND") {
		t.Errorf("error: %#v", err)
	}

	if got, err := c.Templates(ctx, client.TemplateFilter{}); err != nil || got.DefaultTemplateID != "miosa-sandbox" || len(got.Data) != 1 {
		t.Errorf("templates: %v %v", got, err)
	}
	if got, err := c.Template(ctx, "miosa-sandbox"); err != nil || got.VCPUs != 1 {
		t.Errorf("template: %v %v", got, err)
	}
	if err := errors.Join(c.Health(ctx), c.Ready(ctx)); err != nil {
		t.Error(err)
	}
	for range 2 {
		if got, err := c.Delete(ctx, sb.ID); err != nil || got.State != api.StateDestroyed || got.TotalRuntimeSec != 1 {
			t.Errorf("delete: %v %v", got, err)
		}
	}
	if _, err := c.Exec(ctx, sb.ID, api.ExecRequest{Command: "c"}); !client.HasCode(err, "SANDBOX_NOT_RUNNING") {
		t.Errorf("exec on a destroyed one: %v", err)
	}
	var gone *client.StateError
	if _, err := c.WaitUntilReady(ctx, sb.ID); !errors.As(err, &gone) {
		t.Errorf("wait for a destroyed one: %v", err)
	}
}

func TestClientManagesTenants(t *testing.T) {
	_, _, base := serveWorld(t, Config{})
	ctx := t.Context()
	c := connectClient(t, base, keyAdmin)
	tn, err := c.CreateTenant(ctx, api.CreateTenant{Name: "Acme", Slug: "acme", MaxSandboxes: 2})
	if err != nil || tn.MaxSandboxes != 2 {
		t.Fatal(tn, err)
	}
	if all, err := c.Tenants(ctx); err != nil || len(all) != 1 {
		t.Error(all, err)
	}
	k, err := c.CreateKey(ctx, api.CreateKey{Name: "k", TenantID: tn.ID})
	if err != nil || k.Token == "" {
		t.Fatal(k, err)
	}
	if all, err := c.Keys(ctx, tn.ID); err != nil || len(all) != 1 || all[0].Token != "" {
		t.Error(all, err)
	}
	if err := errors.Join(c.DeleteKey(ctx, tn.ID, k.ID), c.DeleteTenant(ctx, tn.ID)); err != nil {
		t.Error(err)
	}
}

// Leaving the loop over an exec stream ends the command.
func TestClientLeavesExecStream(t *testing.T) {
	w, _, base := serveWorld(t, Config{})
	id := create(t, base, `{}`)
	ended := make(chan struct{})
	w.agent.on("tick", func(p *process) {
		defer close(ended)
		_ = p.stdout("x\n")
		<-p.ctx.Done()
	})
	for range connectClient(t, base, keyA).ExecStream(t.Context(), id, api.ExecRequest{Command: "tick"}) {
		break
	}
	select {
	case <-ended:
	case <-time.After(5 * time.Second):
		t.Error("the command runs on")
	}
}

// Events end with the sandbox, and survive the loss of a connection.
func TestClientFollowsEvents(t *testing.T) {
	w, _, base := serveWorld(t, Config{})
	id := create(t, base, `{}`)
	c := connectClient(t, base, keyA)
	var states []string
	last := ""
	for ev, err := range c.Events(t.Context(), id, "") {
		if err != nil {
			t.Fatal(err)
		}
		states, last = append(states, ev.State), ev.ID
		switch len(states) {
		case 1:
			w.awaitFollower()
			w.move(id, sandbox.Paused)
		case 2:
			w.cut() // the server's side of the log breaks: the stream ends early
			w.move(id, sandbox.Running)
		case 3:
			w.move(id, sandbox.Destroyed)
		}
	}
	if got := strings.Join(states, " "); got != "running paused running destroyed" {
		t.Errorf("states: %s", got)
	}
	if _, err := c.Get(t.Context(), id); err != nil {
		t.Error(err)
	}
	// Going on from the last event of all is an end, too.
	bounded, stop := context.WithTimeout(t.Context(), 10*time.Second)
	defer stop()
	for ev, err := range c.Events(bounded, id, last) {
		t.Errorf("after the end: %+v, %v", ev, err)
	}
	for _, err := range c.Events(t.Context(), "sbx_none", "") {
		if !client.IsNotFound(err) {
			t.Errorf("unknown sandbox: %v", err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	live := create(t, base, `{}`)
	for _, err := range c.Events(ctx, live, "") {
		if err != nil && !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		cancel()
	}
}

// Waiting is over when the sandbox is ready, whatever the stream does.
func TestClientWaits(t *testing.T) {
	w, _, base := serveWorld(t, Config{})
	w.notReady = true
	c := connectClient(t, base, keyA)
	id := create(t, base, `{}`)
	go func() { w.move(id, sandbox.Running) }()
	if sb, err := c.WaitUntilReady(t.Context(), id); err != nil || !sb.Ready {
		t.Error(sb, err)
	}
	if _, err := c.WaitUntilReady(t.Context(), "sbx_none"); !client.IsNotFound(err) {
		t.Error(err)
	}
	never := create(t, base, `{}`)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := c.WaitUntilReady(ctx, never); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
}
