package gvisor

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"sync"
	"time"

	"silica.dev/silica/internal/runtime/gvisor/wire"
	"silica.dev/silica/sandbox"
)

// startPatience bounds an engine's start, with all it finds to adopt and free.
const startPatience = 30 * time.Second

// lost says that an engine went away in the middle of a call.
var lost = sandbox.E(sandbox.Unavailable, sandbox.CodeUnavailable, "the sandbox runtime was interrupted")

// engine is the client of one engine process, which it starts when none answers.
type engine struct {
	id   string
	dir  string
	args []string // to start it with
	http *http.Client

	mu      sync.Mutex // one start at a time
	version string     // what it says of itself, and
	files   string     // of the files it keeps
}

func newEngine(id, dir string, args []string) *engine {
	socket := filepath.Join(dir, socketName)
	return &engine{id: id, dir: dir, args: args, http: &http.Client{Transport: &http.Transport{
		DialContext:         func(ctx context.Context, _, _ string) (net.Conn, error) { return wire.Dial(ctx, socket) },
		MaxIdleConnsPerHost: 8,
		DisableCompression:  true,
	}}}
}

// up makes sure that the engine answers, starting it if need be.
func (e *engine) up(ctx context.Context) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, startPatience)
	defer cancel()
	var pong wire.Pong
	ping := func(ctx context.Context) error { return e.once(ctx, wire.PathPing, struct{}{}, &pong) }
	err := ping(ctx)
	if err != nil {
		var ended <-chan error
		if ended, err = launch(e.dir, e.args); err != nil {
			return err
		}
		if err = retry(ctx, ended, ping); err != nil {
			return fmt.Errorf("%w: %s", err, tail(e.dir))
		}
	}
	e.version, e.files = pong.Version, pong.Files
	return nil
}

// call makes one call. When no engine answered at all it starts one and asks
// again; a call that broke off is only repeated if again says so.
func (e *engine) call(ctx context.Context, path string, req, res any, again bool) error {
	for tries := 0; ; tries++ {
		err := e.once(ctx, path, req, res)
		var broken *brokenError
		if !errors.As(err, &broken) {
			return err
		}
		if ctx.Err() != nil {
			return fmt.Errorf("%s: %w", path, context.Cause(ctx))
		}
		if err := e.up(ctx); err != nil {
			return lost.Because(err)
		}
		if tries == 3 || !(again || gone(broken.cause)) {
			return lost.Because(broken.cause)
		}
	}
}

// brokenError is a call that got no answer.
type brokenError struct{ cause error }

func (b *brokenError) Error() string { return b.cause.Error() }
func (b *brokenError) Unwrap() error { return b.cause }

func (e *engine) once(ctx context.Context, path string, req, res any) error {
	body, err := json.Marshal(req)
	if err != nil {
		return err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://engine"+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	answer, err := e.http.Do(r)
	if err != nil {
		return &brokenError{err}
	}
	defer answer.Body.Close()
	decoder := json.NewDecoder(answer.Body)
	if answer.StatusCode != http.StatusOK {
		var we wire.Error
		if err := decoder.Decode(&we); err != nil {
			return &brokenError{err}
		}
		return we.Err()
	}
	if res == nil {
		return nil
	}
	if err := decoder.Decode(res); err != nil {
		return &brokenError{err}
	}
	return nil
}
