package client_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/coder/websocket"

	"silica.dev/silica/api"
	"silica.dev/silica/client"
)

// sockets serves one WebSocket endpoint with f, as a server would.
func sockets(t *testing.T, protocol string, f func(ctx context.Context, ws *websocket.Conn, r *http.Request)) *client.Client {
	t.Helper()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer msk_u_x" {
			t.Errorf("key: %q", r.Header.Get("Authorization"))
		}
		if r.Method == http.MethodPost {
			w.WriteHeader(http.StatusCreated)
			_, _ = io.WriteString(w, `{"session_id":"s1"}`)
			return
		}
		if r.URL.Query().Get("session_id") != "" {
			off := r.URL.Query().Get("offset")
			if off == "" {
				off = "40"
			}
			w.Header().Set("X-Stream-Offset", off)
		}
		ws, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{protocol}})
		if err != nil {
			t.Error(err)
			return
		}
		defer ws.CloseNow()
		if ws.Subprotocol() != protocol {
			t.Errorf("subprotocol %q", ws.Subprotocol())
		}
		f(r.Context(), ws, r)
	}))
	t.Cleanup(srv.Close)
	c, err := client.New(srv.URL, "msk_u_x")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func send(ctx context.Context, ws *websocket.Conn, p string) {
	_ = ws.Write(ctx, websocket.MessageBinary, []byte(p))
}

// A command's streams are what the command wrote, and its input ends.
func TestCommand(t *testing.T) {
	c := sockets(t, "miosa-exec-v1", func(ctx context.Context, ws *websocket.Conn, r *http.Request) {
		if got := r.URL.Query().Get("command") + "|" + r.URL.Query().Get("env") + "|" + r.URL.Query().Get("timeout"); got != "cat a+b|A=b c|2" {
			t.Errorf("asked for %q", got)
		}
		for {
			kind, p, err := ws.Read(ctx)
			if err != nil {
				t.Error(err)
				return
			}
			if kind == websocket.MessageText {
				if !strings.Contains(string(p), "stdin_close") {
					t.Errorf("control %s", p)
				}
				break
			}
			send(ctx, ws, "\x01"+string(p[1:]))
		}
		send(ctx, ws, "\x02oops")
		send(ctx, ws, "\x03"+string(binary.BigEndian.AppendUint32(nil, 7)))
		_ = ws.Close(websocket.StatusNormalClosure, "exit 7")
	})
	var out, errs bytes.Buffer
	cmd := c.Command("sbx_1", "cat a+b")
	cmd.Env, cmd.Timeout = map[string]string{"A": "b c"}, 1500*time.Millisecond
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(strings.Repeat("x", 100_000)), &out, &errs
	err := cmd.Run(t.Context())
	var exit *client.ExitError
	if !errors.As(err, &exit) || exit.Code != 7 {
		t.Errorf("%v", err)
	}
	if out.Len() != 100_000 || errs.String() != "oops" {
		t.Errorf("%d bytes, %q", out.Len(), errs.String())
	}
}

// A command whose end is not known is an error, and says why.
func TestCommandCutShort(t *testing.T) {
	for name, f := range map[string]func(context.Context, *websocket.Conn, *http.Request){
		"broke": func(_ context.Context, ws *websocket.Conn, _ *http.Request) { _ = ws.CloseNow() },
		"server is shutting down": func(_ context.Context, ws *websocket.Conn, _ *http.Request) {
			_ = ws.Close(websocket.StatusGoingAway, "server is shutting down")
		},
	} {
		err := sockets(t, "miosa-exec-v1", f).Command("x", "sleep 9").Run(t.Context())
		if err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%v, want %s", err, name)
		}
	}
	stuck := func(ctx context.Context, ws *websocket.Conn, _ *http.Request) {
		_, _, _ = ws.Read(ctx)
		_, _, _ = ws.Read(ctx)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cmd := sockets(t, "miosa-exec-v1", stuck).Command("x", "sleep 9")
	if err := cmd.Start(ctx); err != nil {
		t.Fatal(err)
	}
	why := errors.New("enough")
	cancel(why)
	if err := cmd.Wait(); !errors.Is(err, why) {
		t.Errorf("%v, want %v", err, why)
	}
}

// What refuses a socket is an *Error as of any other call.
func TestSocketRefused(t *testing.T) {
	c, n := serve(t, func(n int, w http.ResponseWriter, _ *http.Request) {
		if n == 1 {
			refuse(w, http.StatusTooManyRequests, "RATE_LIMITED")
			return
		}
		w.WriteHeader(http.StatusConflict)
		_, _ = io.WriteString(w, `{"error":{"code":"SANDBOX_NOT_RUNNING","message":"`+strings.Repeat("m", 5000)+`"}}`)
	})
	err := c.Command("x", "true").Run(t.Context())
	if !client.HasCode(err, "SANDBOX_NOT_RUNNING") || n.Load() != 2 {
		t.Errorf("%d requests: %.100v", n.Load(), err)
	}
}

// A terminal says what its program's code was, and where a later attach goes on.
func TestTerminal(t *testing.T) {
	c := sockets(t, "", func(ctx context.Context, ws *websocket.Conn, r *http.Request) {
		switch r.URL.Query().Get("offset") {
		case "0":
			send(ctx, ws, "hello")
			_, p, _ := ws.Read(ctx)
			_, q, _ := ws.Read(ctx)
			send(ctx, ws, string(p)+string(q))
		case "45":
			send(ctx, ws, "!")
			_ = ws.Close(websocket.StatusNormalClosure, "exit 3")
		default:
			_ = ws.Write(ctx, websocket.MessageText, []byte(`{"type":"gap","from":40,"to":100}`))
			send(ctx, ws, "tail")
			_ = ws.Write(ctx, websocket.MessageText, []byte(`{"type":"error","code":"SANDBOX_NOT_RUNNING","message":"gone"}`))
			_ = ws.Close(websocket.StatusInternalError, "gone")
		}
	})
	term, err := c.OpenTerminal(t.Context(), "sbx_1", api.TerminalRequest{})
	if err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 45)
	if n, err := io.ReadFull(term, buf[:5]); err != nil || string(buf[:n]) != "hello" {
		t.Fatalf("%q %v", buf[:n], err)
	}
	if err := term.Resize(100, 30); err != nil {
		t.Fatal(err)
	}
	if _, err := term.Write([]byte("ls\n")); err != nil {
		t.Fatal(err)
	}
	echo := `{"cols":100,"rows":30,"type":"resize"}` + "ls\n"
	if _, err := io.ReadFull(term, buf[:len(echo)]); err != nil || string(buf[:len(echo)]) != echo {
		t.Fatalf("%q %v", buf, err)
	}
	if _, err := term.Read(buf); err == nil || err == io.EOF {
		t.Errorf("a broken connection reads as %v", err)
	}
	if want := int64(5 + len(echo)); term.Offset() != want {
		t.Errorf("offset %d, want %d", term.Offset(), want)
	}

	term, err = c.AttachTerminal(t.Context(), "sbx_1", "s1", 45)
	if err != nil {
		t.Fatal(err)
	}
	rest, err := io.ReadAll(term)
	if code, ok := term.ExitCode(); string(rest) != "!" || err != nil || code != 3 || !ok {
		t.Errorf("%q %v, exit %d %v", rest, err, code, ok)
	}
	_ = term.Close()

	term, err = c.AttachTerminal(t.Context(), "sbx_1", "s1", -1)
	if err != nil {
		t.Fatal(err)
	}
	rest, err = io.ReadAll(term)
	if !client.HasCode(err, "SANDBOX_NOT_RUNNING") || string(rest) != "tail" || term.Offset() != 104 {
		t.Errorf("%q %v at %d", rest, err, term.Offset())
	}
}

// Input that can't be read ends the command, which would take the part for all.
func TestCommandInputFails(t *testing.T) {
	c := sockets(t, "miosa-exec-v1", func(ctx context.Context, ws *websocket.Conn, _ *http.Request) {
		for {
			if kind, _, err := ws.Read(ctx); err != nil || kind == websocket.MessageText {
				if err == nil {
					t.Error("the command was told that its input is whole")
				}
				return
			}
		}
	})
	cmd := c.Command("x", "cat")
	why := errors.New("disk gone")
	cmd.Stdin = io.MultiReader(strings.NewReader("half"), iotest.ErrReader(why))
	if err := cmd.Run(t.Context()); !errors.Is(err, why) {
		t.Errorf("%v", err)
	}
}
