package server

import (
	"context"
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

// authenticate finds the caller by the key in the header or, of a stream that is
// opened where no header can be set, by a ticket.
func (s *Server) authenticate(r *http.Request, rt route) (sandbox.Caller, error) {
	if ticket := r.URL.Query().Get("ticket"); ticket != "" && rt.method == http.MethodGet && rt.limit&streamed != 0 && r.Header.Get("Authorization") == "" {
		return s.identify(r, ticket, s.deps.Accounts.Redeem)
	}
	scheme, secret, ok := strings.Cut(r.Header.Get("Authorization"), " ")
	secret = strings.TrimSpace(secret)
	if !ok || !strings.EqualFold(scheme, "Bearer") || secret == "" {
		return sandbox.Caller{}, errKey
	}
	if t, ours := s.tokens.find(secret); ours && rt.limit&tokened != 0 {
		return s.redeem(r, secret, t)
	}
	c, err := s.identify(r, secret, s.deps.Accounts.Authenticate)
	if err == nil {
		s.trusted.add(secret)
	}
	return c, err
}

// identify asks whose a secret is, and counts wrong ones.
func (s *Server) identify(r *http.Request, secret string, ask func(context.Context, string) (sandbox.Caller, error)) (sandbox.Caller, error) {
	if len(secret) > 512 {
		return sandbox.Caller{}, errKey
	}
	from, now := origin(r.RemoteAddr), time.Now()
	// Guessers must not shut out those who share their address, such as
	// everybody behind one proxy, so keys that were right are asked about all
	// the same.
	if wait := s.guesses.wait(from, now); wait > 0 && !s.trusted.has(secret) {
		return sandbox.Caller{}, rationed(wait, "too many wrong keys from this address")
	}
	c, err := ask(r.Context(), secret)
	if err == nil {
		return c, nil
	}
	if e := (*sandbox.Error)(nil); errors.As(err, &e) && e.Kind == sandbox.Unauthenticated {
		s.guesses.take(from, now)
		s.trusted.drop(secret)
		return c, errKey.Because(err) // the same words whatever is wrong with it
	}
	return c, err
}

// allow tells whether a caller may use a route at all.
func allow(c sandbox.Caller, need scope) error {
	switch {
	case need == public || need == anyKey:
		return nil
	case need == admin && !c.Admin:
		return sandbox.E(sandbox.Forbidden, sandbox.CodeForbidden, "this needs an admin key")
	case !c.Scopes.Has(need):
		return lacks(need)
	}
	return nil
}

func lacks(need scope) error {
	return sandbox.E(sandbox.Forbidden, sandbox.CodeScope, "this needs a key with the scope "+string(need)).With("scope", string(need))
}

// keyProtocol begins the WebSocket subprotocol in which a browser's client hides
// its key: it can't set headers.
const keyProtocol = "bearer."

// moveKey puts the key of a WebSocket's handshake into the header where keys are
// looked for, unless there is one: it may stand in the query or be offered as a
// subprotocol.
func moveKey(r *http.Request) {
	if r.Header.Get("Authorization") != "" {
		return
	}
	secret := r.URL.Query().Get("token")
	if secret == "" {
		secret = offeredKey(r)
	}
	if secret != "" {
		r.Header.Set("Authorization", "Bearer "+secret)
	}
}

// offeredKey returns the key among the offered subprotocols, if there is one.
func offeredKey(r *http.Request) string {
	for _, offers := range r.Header.Values("Sec-WebSocket-Protocol") {
		for offer := range strings.SplitSeq(offers, ",") {
			if key, ok := strings.CutPrefix(strings.TrimSpace(offer), keyProtocol); ok {
				return key
			}
		}
	}
	return ""
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
