package server

import (
	"crypto/rand"
	"net/http"
	"sync"
	"time"

	"silica.dev/silica/sandbox"
)

// streamTokenLife is how long a token may wait for its socket.
const streamTokenLife = time.Minute

const streamTokenPrefix = "stt_"

var (
	errTokenExpired = sandbox.E(sandbox.Unauthenticated, sandbox.CodeTokenExpired, "the token has expired: ask for another with the session_id")
	errTokenUsed    = sandbox.E(sandbox.Unauthenticated, sandbox.CodeTokenUsed, "the token was used: ask for another with the session_id")
	errTokenOther   = sandbox.E(sandbox.Forbidden, sandbox.CodeTokenMismatch, "the token is for another terminal")
)

// streamToken stands for a key, once, for one terminal.
type streamToken struct {
	key     string
	sandbox sandbox.ID
	session string
	expires time.Time
	used    bool
}

// streamTokens are in memory: a terminal outlives the daemon, a minute's token
// need not.
type streamTokens struct {
	mu  sync.Mutex
	all map[string]*streamToken
}

// mint makes a token, and forgets those that expired longer than a life ago:
// until then their users are told what is wrong.
func (t *streamTokens) mint(key string, sb sandbox.ID, session string, now time.Time) (token string, expires time.Time) {
	token, expires = streamTokenPrefix+rand.Text(), now.Add(streamTokenLife)
	t.mu.Lock()
	defer t.mu.Unlock()
	for old, o := range t.all {
		if now.Sub(o.expires) > streamTokenLife {
			delete(t.all, old)
		}
	}
	if t.all == nil {
		t.all = map[string]*streamToken{}
	}
	t.all[token] = &streamToken{key: key, sandbox: sb, session: session, expires: expires}
	return token, expires
}

// find returns the token, if it is ours.
func (t *streamTokens) find(token string) (found streamToken, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if f := t.all[token]; f != nil {
		return *f, true
	}
	return streamToken{}, false
}

// take uses a token up.
func (t *streamTokens) take(token string, now time.Time) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	f := t.all[token]
	switch {
	case f == nil || now.After(f.expires):
		return errTokenExpired
	case f.used:
		return errTokenUsed
	}
	f.used = true
	return nil
}

// redeem finds the caller of a terminal's stream by the token it was given. The
// key behind it is looked at anew: it may have been revoked since.
func (s *Server) redeem(r *http.Request, token string, t streamToken) (sandbox.Caller, error) {
	c, err := s.deps.Accounts.Caller(r.Context(), t.key)
	if err != nil {
		return sandbox.Caller{}, err
	}
	sb, err := s.deps.Sandboxes.Get(r.Context(), c, param(r, "id"))
	if err != nil || sb.ID != t.sandbox || r.URL.Query().Get("session_id") != t.session {
		return sandbox.Caller{}, errTokenOther.Because(err)
	}
	return c, s.tokens.take(token, time.Now())
}
