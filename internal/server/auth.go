package server

import (
	"crypto/sha256"
	"errors"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	"silica.dev/silica/sandbox"
)

var errKey = sandbox.E(sandbox.Unauthenticated, sandbox.CodeUnauthorized, "a valid API key is needed: Authorization: Bearer msk_…")

// One address may present maxGuesses wrong keys at once, and as many again in
// every guessWindow: 20 a second.
const (
	maxGuesses  = 100
	guessWindow = 5 * time.Second
)

func (s *Server) authenticate(r *http.Request) (sandbox.Caller, error) {
	scheme, secret, ok := strings.Cut(r.Header.Get("Authorization"), " ")
	secret = strings.TrimSpace(secret)
	if !ok || !strings.EqualFold(scheme, "Bearer") || secret == "" || len(secret) > 512 {
		return sandbox.Caller{}, errKey
	}
	from, now := origin(r.RemoteAddr), time.Now()
	// Guessers must not shut out those who share their address, such as
	// everybody behind one proxy, so keys that were right are asked about all
	// the same.
	if wait := s.guesses.wait(from, now); wait > 0 && !s.trusted.has(secret) {
		return sandbox.Caller{}, rationed(wait, "too many wrong keys from this address")
	}
	c, err := s.deps.Accounts.Authenticate(r.Context(), secret)
	if err == nil {
		s.trusted.add(secret)
		return c, nil
	}
	if e := (*sandbox.Error)(nil); errors.As(err, &e) && e.Kind == sandbox.Unauthenticated {
		s.guesses.take(from, now)
		s.trusted.drop(secret)
		return c, errKey.Because(err) // the same words whatever is wrong with it
	}
	return c, err
}

// origin is what wrong keys are counted by: the address, of IPv6 the network
// that one customer has.
func origin(remote string) string {
	ap, err := netip.ParseAddrPort(remote)
	if err != nil {
		return remote
	}
	a := ap.Addr().Unmap()
	if a.Is4() {
		return a.String()
	}
	p, _ := a.WithZone("").Prefix(64)
	return p.String()
}

// trusted remembers, by their hashes, keys that were right when last seen. It
// decides nothing but whether a key is worth a look.
type trusted struct {
	mu   sync.RWMutex
	keys map[[sha256.Size]byte]struct{}
}

// maxTrusted bounds the memory for keys; forgetting them is harmless.
const maxTrusted = 1 << 14

func newTrusted() *trusted { return &trusted{keys: map[[sha256.Size]byte]struct{}{}} }

func (t *trusted) has(secret string) bool {
	t.mu.RLock()
	defer t.mu.RUnlock()
	_, ok := t.keys[sha256.Sum256([]byte(secret))]
	return ok
}

func (t *trusted) add(secret string) {
	if t.has(secret) {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.keys) >= maxTrusted {
		clear(t.keys)
	}
	t.keys[sha256.Sum256([]byte(secret))] = struct{}{}
}

func (t *trusted) drop(secret string) {
	if !t.has(secret) {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.keys, sha256.Sum256([]byte(secret)))
}
