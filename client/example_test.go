package client_test

import (
	"context"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"

	"silica.dev/silica/api"
	"silica.dev/silica/client"
)

// recorded is what a server answered to the requests of the examples, so that
// they run anywhere.
var recorded = map[string]string{
	"POST /sandboxes":                       `{"id":"sbx_1","state":"running","ready":true}`,
	"GET /sandboxes":                        `{"data":[{"id":"sbx_2","state":"running"},{"id":"sbx_1","state":"paused"}],"next_cursor":null}`,
	"GET /sandboxes/sbx_1":                  `{"id":"sbx_1","state":"running","ready":true}`,
	"GET /sandboxes/sbx_1/readiness/stream": "event: ready\ndata: {}\n\n",
	"POST /sandboxes/sbx_1/stop":            `{"id":"sbx_1","state":"paused"}`,
	"POST /sandboxes/sbx_1/start":           `{"id":"sbx_1","state":"running"}`,
	"DELETE /sandboxes/sbx_1":               `{"id":"sbx_1","state":"destroyed","total_runtime_sec":1}`,
	"POST /sandboxes/sbx_1/exec":            `{"stdout":"2\n","exit_code":0}`,
	"POST /sandboxes/sbx_1/exec/stream": "event: stdout\ndata: {\"type\":\"stdout\",\"data\":\"added 342 packages\\n\"}\n\n" +
		"event: exit\ndata: {\"type\":\"exit\",\"exit_code\":0}\n\n",
	"POST /sandboxes/sbx_1/files":         `{"path":"/root/in.txt","size":5}`,
	"GET /sandboxes/sbx_1/files":          `{"entries":[{"name":"in.txt","type":"file","size":5}]}`,
	"GET /sandboxes/sbx_1/files/download": "hello",
	"POST /sandboxes/sbx_1/files/search":  `{"matches":[{"path":"/workspace/main.go","line":3,"text":"// TODO: less"}]}`,
	"POST /sandboxes/sbx_1/processes":     `{"pid":"41","status":"running"}`,
	"GET /sandboxes/sbx_1/processes/41/stream": "id: 9-7\nevent: stdout\ndata: {\"type\":\"stdout\",\"data\":\"epoch 1\\n\"}\n\n" +
		"id: 9-7\nevent: exit\ndata: {\"type\":\"exit\",\"exit_code\":0}\n\n",
	"POST /sandboxes/sbx_1/terminal": `{"session_id":"0000000000000007"}`,
	"POST /api-keys":                 `{"id":"key_1","scopes":["sandboxes:read"],"token":"msk_u_…"}`,
	"PUT /quotas/external/ann":       `{"external_user_id":"ann","max_concurrent":2}`,
}

// exampleServer plays back what was recorded.
func exampleServer() string {
	return httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		path := strings.TrimPrefix(r.URL.Path, api.Base)
		switch {
		case path == "/sandboxes/sbx_1/exec/stream" && r.Method == http.MethodGet:
			exampleCommand(w, r)
		case path == "/sandboxes/sbx_1/terminal/stream":
			exampleTerminal(w, r)
		case path == "/sandboxes/sbx_1/tunnel/8000":
			exampleTunnel(w, r)
		case recorded[r.Method+" "+path] != "":
			_, _ = io.WriteString(w, recorded[r.Method+" "+path])
		default:
			w.WriteHeader(http.StatusNotFound)
			_, _ = io.WriteString(w, `{"error":{"code":"NOT_FOUND","message":"sandbox not found"}}`)
		}
	})).URL
}

func Example() {
	ctx := context.Background()
	c, err := client.New(exampleServer(), os.Getenv("SILICA_API_KEY"))
	if err != nil {
		log.Fatal(err)
	}
	sb, err := c.Create(ctx, api.CreateSandbox{TimeoutSec: 60})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Delete(ctx, sb.ID)
	if _, err := c.WaitUntilReady(ctx, sb.ID); err != nil {
		log.Fatal(err)
	}
	res, err := c.Exec(ctx, sb.ID, api.ExecRequest{Command: `python3 -c "print(1+1)"`})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Print(res.Stdout)
	// Output: 2
}

func ExampleClient_ExecStream() {
	ctx := context.Background()
	c := connect()
	for ev, err := range c.ExecStream(ctx, "sbx_1", api.ExecRequest{Command: "npm install", TimeoutSec: 300}) {
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
	// added 342 packages
	// exit 0
}

func ExampleClient_Upload() {
	ctx := context.Background()
	c := connect()
	if _, err := c.Upload(ctx, "sbx_1", "/root/in.txt", strings.NewReader("hello")); err != nil {
		log.Fatal(err)
	}
	f, err := c.Download(ctx, "sbx_1", "/root/in.txt")
	if err != nil {
		log.Fatal(err)
	}
	defer f.Close()
	if _, err := io.Copy(os.Stdout, f); err != nil {
		log.Fatal(err)
	}
	// Output: hello
}
