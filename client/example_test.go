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

// exampleServer stands in for a Silica server, so that the examples run anywhere.
func exampleServer() string {
	mux := http.NewServeMux()
	answer := func(pattern, body string) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, body) })
	}
	answer("POST /api/v1/sandboxes", `{"id":"sbx_1","state":"running","ready":true}`)
	answer("GET /api/v1/sandboxes/sbx_1", `{"id":"sbx_1","state":"running","ready":true}`)
	answer("GET /api/v1/sandboxes/sbx_1/readiness/stream", "event: ready\ndata: {}\n\n")
	answer("POST /api/v1/sandboxes/sbx_1/exec", `{"stdout":"2\n","exit_code":0}`)
	answer("POST /api/v1/sandboxes/sbx_1/exec/stream",
		"event: stdout\ndata: {\"type\":\"stdout\",\"data\":\"added 342 packages\\n\"}\n\nevent: exit\ndata: {\"type\":\"exit\",\"exit_code\":0}\n\n")
	answer("POST /api/v1/sandboxes/sbx_1/files", `{"path":"/root/in.txt","size":5}`)
	answer("GET /api/v1/sandboxes/sbx_1/files/download", "hello")
	answer("DELETE /api/v1/sandboxes/sbx_1", `{"id":"sbx_1","state":"destroyed","total_runtime_sec":1}`)
	return httptest.NewServer(mux).URL
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
	c, err := client.New(exampleServer(), "msk_…")
	if err != nil {
		log.Fatal(err)
	}
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
	c, err := client.New(exampleServer(), "msk_…")
	if err != nil {
		log.Fatal(err)
	}
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
