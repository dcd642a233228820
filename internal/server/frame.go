package server

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"runtime/debug"
	"strings"
	"time"

	"github.com/go-chi/chi/v5"

	"silica.dev/silica/api"
	"silica.dev/silica/sandbox"
)

// requestID names the request in answers and logs.
func requestID(r *http.Request) string {
	if q := sandbox.RequestOf(r.Context()); q != nil {
		return q.ID
	}
	return ""
}

// saneID tells whether a caller's own request id may be used.
func saneID(id string) bool {
	if id == "" || len(id) > 128 {
		return false
	}
	return strings.IndexFunc(id, func(c rune) bool {
		return (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && c != '-' && c != '_' && c != '.'
	}) < 0
}

// frame is around every request: its id, deadlines on its connection, a log
// line, and an answer even when the handler panics.
func (s *Server) frame(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		start := time.Now()
		id := r.Header.Get(api.HeaderRequestID)
		if !saneID(id) {
			id = sandbox.NewName("req_")
		}
		ctx, end := s.span(r)
		r = r.WithContext(sandbox.WithRequest(ctx, &sandbox.Request{ID: id}))
		rc := http.NewResponseController(w)
		rec := &response{ResponseWriter: w, rc: rc, idle: s.cfg.WriteIdle}
		rec.Header().Set(api.HeaderRequestID, id)
		b := &body{r: r.Body, rc: rc, idle: s.cfg.ReadIdle, start: start, ended: r.ContentLength == 0}
		r.Body = b
		defer func() {
			p := recover()
			half := rec.status != 0 // something is out already
			if p != nil && p != http.ErrAbortHandler {
				s.log.ErrorContext(r.Context(), "panic", "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
				if !half {
					s.fail(rec, r, fmt.Errorf("panic: %v", p))
				}
			}
			rec.finish()
			b.finish()
			s.account(r, rec, time.Since(start))
			s.metrics.traffic(b.n, rec.bytes)
			end(r, rec)
			if p != nil && (half || p == http.ErrAbortHandler) {
				panic(http.ErrAbortHandler)
			}
		}()
		next.ServeHTTP(rec, r)
	})
}

// account writes the access log and the metrics of one request.
func (s *Server) account(r *http.Request, rec *response, took time.Duration) {
	q := sandbox.RequestOf(r.Context())
	if q.Route == "" {
		q.Route = chi.RouteContext(r.Context()).RoutePattern() // not one of the table
	}
	s.metrics.observe(q.Route, r.Method, rec.status, took)
	level := slog.LevelInfo
	attrs := []any{
		"request_id", q.ID, "method", r.Method, "route", q.Route, "status", rec.status,
		"duration_ms", float64(took.Microseconds()) / 1000, "bytes", rec.bytes,
	}
	if q.Tenant != "" {
		attrs = append(attrs, "tenant", string(q.Tenant))
	}
	if q.Sandbox != "" {
		attrs = append(attrs, "sandbox", q.Sandbox)
	}
	if rec.err != nil {
		attrs = append(attrs, "err", cutText(rec.err.Error(), 2048))
		if rec.status >= 500 {
			level = slog.LevelError
		}
	}
	if q.Route == api.PathHealth || q.Route == api.PathReady {
		level = slog.LevelDebug // asked several times a second, "not yet" is no fault
	}
	s.log.Log(r.Context(), level, "request", attrs...)
}

func cutText(s string, n int) string {
	if len(s) > n {
		return s[:n] + "…"
	}
	return s
}

// serve finds the caller, takes a token, and runs the handler.
func (s *Server) serve(rt route) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		q := sandbox.RequestOf(r.Context())
		q.Route = rt.pattern
		if strings.HasPrefix(rt.pattern, sbx) || strings.HasPrefix(rt.pattern, computer) {
			q.Sandbox = cutText(param(r, "id"), 64)
		}
		var c sandbox.Caller
		r = s.forward.arrive(r)
		version := s.sessions.version()
		if rt.limit&socketed != 0 {
			moveKey(r)
		}
		if s.strangeToken(r, rt) && s.elsewhere(w, r, rt, c) {
			return
		}
		if rt.scope != public {
			var err error
			if c, err = s.authenticate(r, rt); err != nil {
				s.turnAway(w, r, err)
				return
			}
			q.Tenant = c.Tenant
		}
		if rt.scope != public && rt.limit&operator == 0 {
			leave, err := s.inFlight.enter(c.Tenant, rt.limit&streamed != 0)
			if err != nil {
				s.turnAway(w, r, err)
				return
			}
			defer leave()
		}
		workspace, elsewhere := s.locate(r, rt, c)
		if err := s.ration(rt.limit, c, workspace); err != nil {
			s.fail(w, r, err)
			return
		}
		defer s.auditing(w, r, rt, c)()
		if err := cmp.Or(allow(c, rt.scope), elsewhere); err != nil {
			s.fail(w, r, err)
			return
		}
		if rt.scope != public && rt.limit&streamed != 0 {
			ctx, leave := s.sessions.enter(r.Context(), c, rt.scope)
			defer leave()
			r = r.WithContext(ctx)
			if s.sessions.version() != version { // between finding the caller and here
				s.recheck()
			}
		}
		// Some clients send a body with a GET. It must be out of the way, or
		// the connection can't be watched for the client's leaving.
		if r.Method == http.MethodGet || r.Method == http.MethodHead {
			_, _ = io.CopyN(io.Discard, r.Body, maxBody)
		}
		if s.elsewhere(w, r, rt, c) {
			return
		}
		if err := rt.handle(w, r, c); err != nil {
			s.fail(w, r, err)
		}
	}
}

// response notes what was answered, and gives every write a deadline, so that
// a client that does not read holds nothing for long.
type response struct {
	http.ResponseWriter
	rc     *http.ResponseController
	idle   time.Duration
	armed  time.Time // when the deadline was last moved
	until  time.Time // when all must be out; zero: as long as it moves
	curt   bool      // an error is answered without reading the rest of the body
	status int       // 0: nothing is out yet
	bytes  int64
	err    error // what the answer is about, for the log

	made  string           // id of what a 201 is about
	first func(status int) // runs once, before anything goes out; may be nil
}

func (w *response) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *response) WriteHeader(status int) {
	if w.status == 0 {
		w.begin(status)
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *response) begin(status int) {
	w.status = status
	if first := w.first; first != nil {
		w.first = nil
		first(status)
	}
}

func (w *response) Write(p []byte) (int, error) {
	if w.status == 0 {
		w.begin(http.StatusOK)
	}
	w.arm(w.idle / 8)
	n, err := w.ResponseWriter.Write(p)
	w.bytes += int64(n)
	return n, err
}

// Flush sends what is buffered. It is here so that the deadline holds for it.
func (w *response) Flush() { _ = w.FlushError() }

// FlushError is Flush for http.ResponseController.
func (w *response) FlushError() error {
	w.arm(w.idle / 8)
	return w.rc.Flush()
}

// arm moves the deadline, unless that was done within the last slack.
func (w *response) arm(slack time.Duration) {
	now := time.Now()
	if now.Sub(w.armed) > slack {
		by := now.Add(w.idle)
		if !w.until.IsZero() && w.until.Before(by) {
			by = w.until
		}
		_ = w.rc.SetWriteDeadline(by)
		w.armed = now
	}
}

// An answer that is held in memory must be taken within readGrace and a second
// for every slowestReader bytes of it.
const (
	readGrace     = 30 * time.Second
	slowestReader = 64 << 10
)

// bound gives the whole answer, of about size bytes, a deadline, so that
// reading it drop by drop is no way to hold its memory.
func bound(w http.ResponseWriter, size int64) {
	if rec, ok := w.(*response); ok {
		rec.until = time.Now().Add(readGrace + time.Duration(size)*time.Second/slowestReader)
	}
}

// finish covers the write that net/http does after the handler.
func (w *response) finish() { w.arm(0) }

// maxBody bounds a JSON body that is no file.
const maxBody = 1 << 20

// slowest is how many bytes a second a body must bring on average after the
// first half minute, so that drop by drop is no way to hold a handler.
const slowest = 4 << 10

// body is a request body that may not stand still.
type body struct {
	r      io.ReadCloser
	rc     *http.ResponseController
	idle   time.Duration
	start  time.Time
	giveUp time.Time // zero: by rate alone
	n      int64
	begun  bool
	ended  bool // all of it has been read
	dead   bool // it broke off, or stood still
}

var errSlowBody = sandbox.E(sandbox.Malformed, sandbox.CodeBadRequest, "the request's body stopped coming")

func (b *body) Read(p []byte) (int, error) {
	if b.ended {
		return 0, io.EOF
	}
	b.begun = true
	by := time.Now().Add(b.idle)
	if last := b.start.Add(30*time.Second + time.Duration(b.n/slowest)*time.Second); last.Before(by) {
		by = last
	}
	if !b.giveUp.IsZero() && b.giveUp.Before(by) {
		by = b.giveUp
	}
	_ = b.rc.SetReadDeadline(by)
	n, err := b.r.Read(p)
	b.n += int64(n)
	if err != nil {
		b.ended, b.dead = err == io.EOF, err != io.EOF
		// From now on the connection is only watched for the client's leaving.
		_ = b.rc.SetReadDeadline(time.Time{})
		if errors.Is(err, os.ErrDeadlineExceeded) {
			err = errSlowBody.Because(err)
		}
	}
	return n, err
}

func (b *body) Close() error { return b.r.Close() }

// finish bounds what net/http still reads after the handler.
func (b *body) finish() {
	switch {
	case b.dead:
		_ = b.rc.SetReadDeadline(time.Now())
	case !b.ended:
		_ = b.rc.SetReadDeadline(time.Now().Add(2 * time.Second))
	}
}
