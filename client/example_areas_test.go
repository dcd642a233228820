package client_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"strings"

	"github.com/coder/websocket"

	"silica.dev/silica/api"
	"silica.dev/silica/client"
)

// connect is what every program begins with.
func connect() *client.Client {
	c, err := client.New(exampleServer(), "msk_…")
	if err != nil {
		log.Fatal(err)
	}
	return c
}

func ExampleClient_All() {
	for sb, err := range connect().All(context.Background(), api.SandboxFilter{Tags: []string{"ci"}}) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(sb.ID, sb.State)
	}
	// Output:
	// sbx_2 running
	// sbx_1 paused
}

// A persistent sandbox is paused with its files and boots again with them.
func ExampleClient_Stop() {
	ctx, c := context.Background(), connect()
	sb, err := c.Stop(ctx, "sbx_1")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(sb.State)
	if _, err := c.Start(ctx, sb.ID); err != nil {
		log.Fatal(err)
	}
	if sb, err = c.WaitUntilReady(ctx, sb.ID); err != nil {
		log.Fatal(err)
	}
	fmt.Println(sb.State)
	// Output:
	// paused
	// running
}

func ExampleHasCode() {
	_, err := connect().Get(context.Background(), "nobody's")
	fmt.Println(client.HasCode(err, "NOT_FOUND"))
	// Output: true
}

func ExampleClient_Command() {
	cmd := connect().Command("sbx_1", "sort")
	cmd.Stdin = strings.NewReader("pear\napple\n")
	cmd.Stdout = os.Stdout
	if err := cmd.Run(context.Background()); err != nil {
		log.Fatal(err) // an *ExitError if it is the command's own
	}
	// Output:
	// apple
	// pear
}

func exampleCommand(w http.ResponseWriter, r *http.Request) {
	ws, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{"miosa-exec-v1"}})
	if err != nil {
		return
	}
	defer ws.CloseNow()
	for kind := websocket.MessageBinary; kind == websocket.MessageBinary; { // until stdin_close
		if kind, _, err = ws.Read(r.Context()); err != nil {
			return
		}
	}
	send(r.Context(), ws, "\x01apple\npear\n")
	send(r.Context(), ws, "\x03"+string(binary.BigEndian.AppendUint32(nil, 0)))
	_ = ws.Close(websocket.StatusNormalClosure, "exit 0")
}

// What runs in the background outlives its caller; whoever comes back goes on
// reading where it was.
func ExampleClient_ProcessStream() {
	ctx, c := context.Background(), connect()
	p, err := c.StartProcess(ctx, "sbx_1", api.ProcessRequest{Command: "python3 train.py"})
	if err != nil {
		log.Fatal(err)
	}
	for ev, err := range c.ProcessStream(ctx, "sbx_1", p.PID, "") {
		if err != nil {
			log.Fatal(err)
		}
		switch ev.Type {
		case api.ExecStdout, api.ExecStderr:
			os.Stdout.Write(ev.Bytes())
		case api.ExecExit:
			fmt.Println("exit", ev.ExitCode)
		}
	}
	// Output:
	// epoch 1
	// exit 0
}

func ExampleClient_OpenTerminal() {
	ctx := context.Background()
	term, err := connect().OpenTerminal(ctx, "sbx_1", api.TerminalRequest{Cols: 120, Rows: 40})
	if err != nil {
		log.Fatal(err)
	}
	defer term.Close()
	if _, err := term.Write([]byte("exit 3\n")); err != nil {
		log.Fatal(err)
	}
	if _, err := io.Copy(os.Stdout, term); err != nil {
		log.Fatal(err) // term.Reattach goes on where it was
	}
	code, _ := term.ExitCode()
	fmt.Println("exit", code)
	// Output:
	// $ exit 3
	// exit 3
}

func exampleTerminal(w http.ResponseWriter, r *http.Request) {
	ws, err := websocket.Accept(w, r, nil)
	if err != nil {
		return
	}
	defer ws.CloseNow()
	_, p, err := ws.Read(r.Context())
	if err != nil {
		return
	}
	send(r.Context(), ws, "$ "+string(p))
	_ = ws.Close(websocket.StatusNormalClosure, "exit 3")
}

// A server that listens inside a sandbox is talked to as if it were here.
func ExampleClient_DialPort() {
	c := connect()
	h := http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return c.DialPort(ctx, "sbx_1", 8000) },
	}}
	res, err := h.Get("http://sandbox/")
	if err != nil {
		log.Fatal(err)
	}
	defer res.Body.Close()
	if _, err := io.Copy(os.Stdout, res.Body); err != nil {
		log.Fatal(err)
	}
	// Output: served inside
}

func exampleTunnel(w http.ResponseWriter, r *http.Request) {
	ws, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{"miosa-tunnel-v1"}})
	if err != nil {
		return
	}
	defer ws.CloseNow()
	if _, _, err = ws.Read(r.Context()); err != nil {
		return
	}
	send(r.Context(), ws, "HTTP/1.1 200 OK\r\nContent-Length: 14\r\n\r\nserved inside\n")
	_, _, _ = ws.Read(r.Context())
}

func ExampleClient_ListFiles() {
	files, err := connect().ListFiles(context.Background(), "sbx_1", "/root")
	if err != nil {
		log.Fatal(err)
	}
	for _, f := range files {
		fmt.Println(f.Name, f.Type, f.Size)
	}
	// Output: in.txt file 5
}

func ExampleClient_Search() {
	found, err := connect().Search(context.Background(), "sbx_1", api.SearchRequest{Query: "TODO", Include: []string{"*.go"}})
	if err != nil {
		log.Fatal(err)
	}
	for _, m := range found.Matches {
		fmt.Printf("%s:%d: %s\n", m.Path, m.Line, m.Text)
	}
	// Output: /workspace/main.go:3: // TODO: less
}

// A key that may only look, and a bound for one of your own users.
func ExampleClient_CreateKey() {
	ctx, c := context.Background(), connect()
	key, err := c.CreateKey(ctx, api.CreateKey{Name: "dashboard", Scopes: []string{"sandboxes:read"}})
	if err != nil {
		log.Fatal(err)
	}
	quota, err := c.SetQuota(ctx, "ann", api.QuotaRequest{MaxConcurrent: 2})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(key.Scopes, quota.ExternalUserID, quota.MaxConcurrent)
	// Output: [sandboxes:read] ann 2
}
