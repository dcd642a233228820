package server

import (
	"context"
	"io"
	"net/http"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"
)

// Whoever follows anything is told why it ends when the server stops: every
// stream that the contract names, now and later.
func TestEveryStreamEndsWithReason(t *testing.T) {
	w, s, base := serveWorld(t, Config{})
	w.notReady = true // so that waiting for readiness waits
	id := create(t, base, `{}`)
	type stream struct {
		name string
		res  *http.Response
	}
	var open []stream
	d := published(t)
	for _, op := range d.Operations() {
		if op.Method != "GET" || !d.Streams(op) {
			continue
		}
		path := regexp.MustCompile(`\{[^}]+\}`).ReplaceAllString(strings.Replace(op.Path, "{id}", id, 1), "x")
		req, err := http.NewRequestWithContext(t.Context(), "GET", base+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+keyA)
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		if res.StatusCode == http.StatusOK { // others need something that runs
			open = append(open, stream{op.Key(), res})
		}
	}
	if len(open) < 2 {
		t.Fatalf("only %d streams were opened", len(open))
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	var ended sync.WaitGroup
	for _, st := range open {
		ended.Go(func() {
			all, err := io.ReadAll(st.res.Body)
			events := strings.Split(strings.TrimSpace(string(all)), "\n\n")
			last := events[len(events)-1]
			if err != nil || !strings.Contains(last, "event: closing") || !strings.Contains(last, "shutting down") {
				t.Errorf("%s ends with %q, %v", st.name, last, err)
			}
		})
	}
	if err := s.Shutdown(ctx); err != nil {
		t.Error(err)
	}
	ended.Wait()
}
