package server

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"silica.dev/silica/sandbox"
)

// errRevoked is the cause of the end of a stream whose key may no longer have it.
var errRevoked = sandbox.E(sandbox.Unauthenticated, sandbox.CodeUnauthorized, "the key of this stream was revoked, has expired, or may no longer do this")

// sessions are the open streams, by key, so that they end with it. Nothing is
// polled: changes of accounts are told.
type sessions struct {
	changes atomic.Uint64

	mu   sync.Mutex
	keys map[string]map[*session]struct{}
}

type session struct {
	caller sandbox.Caller
	need   scope
	cancel context.CancelCauseFunc
}

func newSessions() *sessions { return &sessions{keys: map[string]map[*session]struct{}{}} }

// version changes with every change of accounts.
func (s *sessions) version() uint64 { return s.changes.Load() }

// enter binds ctx to the caller's key: it ends with errRevoked when the key is
// deleted, expires, or loses what the stream needs.
func (s *sessions) enter(ctx context.Context, c sandbox.Caller, need scope) (_ context.Context, leave func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	one := &session{c, need, cancel}
	var expiry *time.Timer
	if !c.ExpiresAt.IsZero() {
		expiry = time.AfterFunc(time.Until(c.ExpiresAt), func() { cancel(errRevoked) })
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.keys[c.KeyID] == nil {
		s.keys[c.KeyID] = map[*session]struct{}{}
	}
	s.keys[c.KeyID][one] = struct{}{}
	return ctx, func() {
		if expiry != nil {
			expiry.Stop()
		}
		cancel(nil)
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.keys[c.KeyID], one)
		if len(s.keys[c.KeyID]) == 0 {
			delete(s.keys, c.KeyID)
		}
	}
}

// open lists the keys with streams.
func (s *sessions) open() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	ids := make([]string, 0, len(s.keys))
	for id := range s.keys {
		ids = append(ids, id)
	}
	return ids
}

// end ends the streams of a key that it may no longer have.
func (s *sessions) end(key string, may func(*session) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for one := range s.keys[key] {
		if !may(one) {
			one.cancel(errRevoked)
		}
	}
}

// recheck ends the streams whose keys may no longer have them. It runs after
// every change of accounts.
func (s *Server) recheck() {
	s.sessions.changes.Add(1)
	ctx, cancel := context.WithTimeout(s.closed, 5*time.Second)
	defer cancel()
	for _, id := range s.sessions.open() {
		now, err := s.deps.Accounts.Caller(ctx, id)
		e := (*sandbox.Error)(nil)
		switch {
		case errors.As(err, &e) && e.Kind == sandbox.Unauthenticated:
			s.sessions.end(id, func(*session) bool { return false })
		case err != nil && s.closed.Err() == nil:
			// The database can't tell just now. Whoever was revoked must not profit.
			time.AfterFunc(time.Second, s.recheck)
			return
		default:
			s.sessions.end(id, func(one *session) bool { return allow(now, one.need) == nil && now.Workspace == one.caller.Workspace })
		}
	}
}
