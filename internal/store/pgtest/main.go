package pgtest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"testing"
)

// shared is the server of one test program. It starts with the first database.
var shared struct {
	start   sync.Once
	server  *Server
	err     error
	numbers atomic.Int64
}

// Main runs the tests of a package that uses New, and exits.
func Main(m *testing.M) {
	code := m.Run()
	if shared.server != nil {
		if err := shared.server.Close(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// New makes a database on the server of this test program, empty or a copy of
// the one named like, and returns its name and URL. Without PostgreSQL on the
// machine the test is skipped.
func New(t testing.TB, like string) (name, url string) {
	t.Helper()
	shared.start.Do(func() { shared.server, shared.err = Start(context.Background()) })
	if errors.Is(shared.err, ErrMissing) {
		t.Skip(shared.err)
	}
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	name = fmt.Sprint("test", shared.numbers.Add(1))
	url, err := shared.server.Database(context.Background(), name, like)
	if err != nil {
		t.Fatal(err)
	}
	return name, url
}
