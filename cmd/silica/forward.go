package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"

	"github.com/spf13/cobra"

	"silica.dev/silica/client"
)

func newSandboxForward(t *terminal) *cobra.Command {
	return &cobra.Command{
		Use: "forward SANDBOX [[HOST:]LOCAL:]PORT...", Aliases: []string{"port-forward", "tunnel"},
		Short: "Make TCP ports of a sandbox ports of this machine, until interrupted",
		Long: `Make TCP ports of a sandbox ports of this machine, until interrupted. They are
open to this machine only, unless HOST says otherwise; LOCAL 0 takes any free port.`,
		Example: `  silica sandbox forward $id 3000
  silica sandbox forward $id 8080:3000 0.0.0.0:5432:5432`,
		Args: args(2, -1),
		RunE: talks(func(ctx context.Context, c *client.Client, given []string) error {
			if _, err := c.Get(ctx, given[0]); err != nil {
				return err
			}
			return forward(ctx, t, c, given[0], given[1:])
		}),
	}
}

// forwarded is one port of a sandbox and the address here.
type forwarded struct {
	Local string `json:"local"`
	Port  int    `json:"port"`
}

// parseForward reads [[HOST:]LOCAL:]PORT.
func parseForward(s string) (forwarded, error) {
	host, local := "127.0.0.1", ""
	remote := s
	if i := strings.LastIndex(s, ":"); i >= 0 {
		local, remote = s[:i], s[i+1:]
	} else {
		local = s
	}
	if i := strings.LastIndex(local, ":"); i >= 0 {
		host, local = strings.Trim(local[:i], "[]"), local[i+1:]
	}
	port, err := strconv.ParseUint(remote, 10, 16)
	_, lerr := strconv.ParseUint(local, 10, 16)
	if err != nil || lerr != nil || port == 0 {
		return forwarded{}, usageError{fmt.Errorf("%q: want PORT, LOCAL:PORT or HOST:LOCAL:PORT", s)}
	}
	return forwarded{net.JoinHostPort(host, local), int(port)}, nil
}

func forward(ctx context.Context, t *terminal, c *client.Client, id string, specs []string) error {
	ctx, cancel := context.WithCancel(ctx)
	var working sync.WaitGroup
	defer working.Wait()
	defer cancel()
	for _, spec := range specs {
		f, err := parseForward(spec)
		if err != nil {
			return err
		}
		l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", f.Local)
		if err != nil {
			return err
		}
		context.AfterFunc(ctx, func() { l.Close() })
		f.Local = l.Addr().String()
		if err := t.line(f, func(w io.Writer) { fmt.Fprintf(w, "%s -> %s:%d\n", f.Local, id, f.Port) }); err != nil {
			return err
		}
		working.Go(func() { serveForward(ctx, t, c, id, f.Port, l) })
	}
	<-ctx.Done()
	return nil
}

// serveForward takes connections until l is closed, and waits for their end.
func serveForward(ctx context.Context, t *terminal, c *client.Client, id string, port int, l net.Listener) {
	var open sync.WaitGroup
	defer open.Wait()
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		open.Go(func() {
			defer conn.Close()
			inside, err := c.DialPort(ctx, id, port)
			if err != nil {
				fmt.Fprintf(t.err, "silica: port %d: %v\n", port, err)
				return
			}
			stop := context.AfterFunc(ctx, func() { conn.Close(); inside.Close() })
			defer stop()
			join(conn, inside)
		})
	}
}

// join copies both ways until both have ended.
func join(a, b net.Conn) {
	var ways sync.WaitGroup
	way := func(to, from net.Conn) {
		_, err := io.Copy(to, from)
		if half, ok := to.(interface{ CloseWrite() error }); ok && err == nil {
			_ = half.CloseWrite()
			return
		}
		if !errors.Is(err, net.ErrClosed) {
			to.Close()
			from.Close()
		}
	}
	ways.Go(func() { way(a, b) })
	ways.Go(func() { way(b, a) })
	ways.Wait()
	a.Close()
	b.Close()
}
