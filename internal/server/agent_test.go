package server

import (
	"context"
	"log/slog"
	"net"
	"os"
	"testing"

	"silica.dev/silica/internal/agent"
	"silica.dev/silica/internal/guest"
)

// realAgent puts the agent itself behind the world's sandboxes: files are those
// of this machine. It returns a folder for them.
func (w *world) realAgent(t *testing.T) (dir string) {
	t.Helper()
	a, err := agent.New(agent.Config{Version: "test", Root: t.TempDir(), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	l, err := agent.Listen(ctx, "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- a.Serve(ctx, l) }()
	w.agent.client = guest.NewClient(func(ctx context.Context) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "tcp", l.Addr().String())
	})
	t.Cleanup(func() {
		w.agent.client.Close()
		stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
		a.Close()
	})
	dir = t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}
