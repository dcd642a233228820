package gvisor_test

import (
	"bytes"
	"context"
	"net"
	"testing"
	"time"

	"silica.dev/silica/internal/guest"
	"silica.dev/silica/internal/guest/guestpb"
	"silica.dev/silica/internal/runtime"
	"silica.dev/silica/sandbox"
)

// The verbs the tests are written in.

func (h *host) start(snapshot sandbox.Ref) sandbox.ID {
	h.t.Helper()
	id := sandbox.NewID()
	err := h.driver.Start(h.t.Context(), runtime.StartRequest{ID: id, Image: h.image, Snapshot: snapshot, Resources: small})
	if err != nil {
		h.t.Fatalf("Start(snapshot %q): %v", snapshot, err)
	}
	return id
}

func (h *host) agent(id sandbox.ID) *guest.Client {
	c := guest.NewClient(func(ctx context.Context) (net.Conn, error) { return h.driver.Dial(ctx, id, guest.Port) })
	h.t.Cleanup(c.Close)
	return c
}

func (h *host) seed(id sandbox.ID) string {
	h.t.Helper()
	res, err := h.agent(id).Init(h.t.Context(), &guestpb.InitRequest{Hostname: "test", Entropy: make([]byte, 32)})
	if err != nil {
		h.t.Fatalf("Init(%s): %v", id, err)
	}
	return res.Seed
}

// sh runs a script and returns what it printed and its exit code.
func (h *host) sh(id sandbox.ID, script string) (string, int32) {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(h.t.Context(), time.Minute)
	defer cancel()
	var out bytes.Buffer
	for ev, err := range h.agent(id).Start(ctx, &guestpb.StartRequest{Args: []string{"sh", "-c", script}}) {
		if err != nil {
			h.t.Fatalf("sh -c %q in %s: %v (so far: %q)", script, id, err, out.String())
		}
		if o := ev.GetOutput(); o != nil {
			out.Write(o.Data)
		}
		if e := ev.GetExited(); e != nil {
			return out.String(), e.ExitCode
		}
	}
	h.t.Fatalf("sh -c %q in %s: the stream ended without an exit", script, id)
	return "", 0
}

func (h *host) snapshot(id sandbox.ID) sandbox.Ref {
	h.t.Helper()
	ref, err := h.driver.Snapshot(h.t.Context(), id)
	if err != nil {
		h.t.Fatalf("Snapshot(%s): %v", id, err)
	}
	return ref
}

func (h *host) destroy(id sandbox.ID) {
	h.t.Helper()
	if err := h.driver.Destroy(h.t.Context(), id); err != nil {
		h.t.Fatalf("Destroy(%s): %v", id, err)
	}
}

func (h *host) wait(id sandbox.ID) runtime.Exit {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(h.t.Context(), 30*time.Second)
	defer cancel()
	exit, err := h.driver.Wait(ctx, id)
	if err != nil {
		h.t.Fatalf("Wait(%s): %v", id, err)
	}
	return exit
}

// eventually waits for a condition.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not in 20 s: %s", what)
		}
	}
}
