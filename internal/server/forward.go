package server

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strconv"
	"strings"
	"time"

	"silica.dev/silica/api"
	"silica.dev/silica/sandbox"
)

// Nodes knows the other servers on the same database.
type Nodes interface {
	// Elsewhere returns the URL of the server that has a tenant's sandbox; "" when
	// this one has it, or there is no such. An empty tenant stands for any.
	Elsewhere(ctx context.Context, tenant sandbox.TenantID, id string) (string, error)
	// NodeURL is the same for what a node is known to have, as a snapshot.
	NodeURL(ctx context.Context, node string) (string, error)
	// ElsewhereTemplate is the same for a tenant's template, and for a build.
	ElsewhereTemplate(ctx context.Context, tenant sandbox.TenantID, id string) (string, error)
}

var (
	errNodeAway = sandbox.E(sandbox.Unavailable, sandbox.CodeNodeUnavailable, "the server that has this sandbox can't be reached just now")
	errNodeLost = sandbox.E(sandbox.Timeout, sandbox.CodeTimeout, "the server that has this sandbox went away meanwhile: it may have happened, look before you repeat it")
)

// forwarder sends requests to the server that has their sandbox. It answers them
// all over again, the caller's key included: what one server decides for another
// is only where a request goes.
type forwarder struct {
	nodes     Nodes
	secret    []byte // known to the servers on one database
	transport *http.Transport
}

func newForwarder(nodes Nodes, secret []byte) *forwarder {
	dialer := &net.Dialer{Timeout: 3 * time.Second, KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 5 * time.Second, Interval: 2 * time.Second, Count: 3}}
	return &forwarder{nodes, secret, &http.Transport{
		DialContext: dialer.DialContext, TLSHandshakeTimeout: 3 * time.Second,
		MaxIdleConnsPerHost: 64, IdleConnTimeout: time.Minute, DisableCompression: true,
		// No HTTP/2: WebSockets need a connection of their own.
		TLSNextProto: map[string]func(string, *tls.Conn) http.RoundTripper{},
	}}
}

// aboutSandbox tells whether a route is about one sandbox, {id}.
func aboutSandbox(pattern string) bool {
	for _, p := range []string{sbx, computer} {
		if rest, ok := strings.CutPrefix(pattern, p); ok && (rest == "" || rest[0] == '/') {
			return true
		}
	}
	return false
}

// aboutTemplate tells whether a route is about one template or build, {id}.
func aboutTemplate(pattern string) bool {
	return strings.HasPrefix(pattern, templatePath) || strings.HasPrefix(pattern, buildPath)
}

// strangeToken tells whether a terminal is asked for with a token that another
// server may have made. That one will know.
func (s *Server) strangeToken(r *http.Request, rt route) bool {
	if s.forward == nil || rt.limit&tokened == 0 || hopped(r) {
		return false
	}
	secret, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !ok || !strings.HasPrefix(secret, streamTokenPrefix) {
		return false
	}
	_, ours := s.tokens.find(secret)
	return !ours
}

// elsewhere answers a request for a sandbox that another server has, and tells
// whether that was so. A caller without a tenant is yet to be found, there.
func (s *Server) elsewhere(w http.ResponseWriter, r *http.Request, rt route, c sandbox.Caller) bool {
	if s.forward == nil {
		return false
	}
	to, err := s.whereabouts(r, rt, c)
	if err == nil && to == "" {
		return false
	}
	if err == nil && hopped(r) { // the two servers do not agree: rather no answer than a circle
		err = errNodeAway
	}
	if err == nil {
		err = s.handOn(w, r, rt, c, to)
	}
	if err != nil {
		s.fail(w, r, err)
	}
	return true
}

// whereabouts returns the URL of the server that has what a request is about; ""
// when this one will do.
func (s *Server) whereabouts(r *http.Request, rt route, c sandbox.Caller) (string, error) {
	switch {
	case aboutSandbox(rt.pattern):
		return s.forward.nodes.Elsewhere(r.Context(), c.Tenant, param(r, "id"))
	case aboutTemplate(rt.pattern):
		return s.forward.nodes.ElsewhereTemplate(r.Context(), c.Tenant, param(r, "id"))
	case strings.HasPrefix(rt.pattern, snapshot):
		snap, err := s.visible(r.Context(), c, param(r, "sid"))
		if err != nil {
			return "", nil // for who looks again to say
		}
		return s.forward.nodes.NodeURL(r.Context(), snap.Node)
	}
	return "", nil
}

// handOn has the server at to answer.
func (s *Server) handOn(w http.ResponseWriter, r *http.Request, rt route, c sandbox.Caller, to string) error {
	target, err := url.Parse(to)
	if err != nil {
		return errNodeAway.Because(err)
	}
	query := r.URL.RawQuery
	if ticket := r.URL.Query().Get("ticket"); ticket != "" && c.KeyID != "" && r.Header.Get("Authorization") == "" {
		// It is used up; the other server gets one of its own.
		if ticket, err = s.deps.Accounts.NewTicket(r.Context(), c.KeyID); err != nil {
			return err
		}
		q := r.URL.Query()
		q.Set("ticket", ticket)
		query = q.Encode()
	}
	// A stream that only watches ends with the beginning of our shutdown, a
	// command with the end of its grace.
	end := s.closed
	if rt.limit&streamed != 0 && rt.limit&socketed == 0 && rt.method == http.MethodGet {
		end = s.closing
	}
	ctx, cancel := context.WithCancelCause(r.Context())
	defer cancel(nil)
	defer context.AfterFunc(end, func() { cancel(errStopping) })()

	var failed error
	proxy := httputil.ReverseProxy{
		Transport:     s.forward.transport,
		FlushInterval: -1,
		Rewrite: func(p *httputil.ProxyRequest) {
			p.SetURL(target)
			p.Out.Host = p.In.Host // answers and origins of browsers refer to it
			p.Out.URL.RawQuery = query
			p.Out.Header.Set(api.HeaderRequestID, requestID(r))
			s.forward.sign(p.Out, r.RemoteAddr)
			if r.Method == http.MethodGet || r.Method == http.MethodHead { // read already
				p.Out.Body, p.Out.ContentLength = nil, 0
			}
		},
		ModifyResponse: func(res *http.Response) error {
			for name := range res.Header {
				w.Header().Del(name)
			}
			if rec, ok := w.(*response); ok && res.StatusCode == http.StatusSwitchingProtocols {
				rec.begin(res.StatusCode)
			}
			if strings.HasPrefix(res.Header.Get("Content-Type"), "text/event-stream") {
				res.Body = &relayedStream{ReadCloser: res.Body, ctx: ctx, last: []byte("\n\n")}
			}
			return nil
		},
		ErrorHandler: func(_ http.ResponseWriter, _ *http.Request, err error) { failed = err },
		ErrorLog:     s.http.ErrorLog,
	}
	proxy.ServeHTTP(w, r.WithContext(ctx))
	return s.lostOnTheWay(r, ctx, failed)
}

// errStopping is the cause of the end of a request that was forwarded.
var errStopping = sandbox.E(sandbox.Unavailable, sandbox.CodeUnavailable, "the server is shutting down")

// lostOnTheWay says what a failure to get an answer means.
func (s *Server) lostOnTheWay(r *http.Request, ctx context.Context, err error) error {
	var ours *sandbox.Error
	var op *net.OpError
	switch {
	case err == nil:
		return nil
	case r.Context().Err() != nil:
		return context.Cause(r.Context())
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.As(err, &ours): // of the body, as it came
		return err
	case errors.As(err, &op) && op.Op == "dial", r.Method == http.MethodGet, r.Method == http.MethodHead:
		return errNodeAway.Because(err)
	}
	return errNodeLost.Because(err)
}

// headerHop carries, between servers, the client's address, the time and proof
// that one of them wrote it.
const headerHop = "Silica-Hop"

// hopAge bounds how old a hop may be, and how far two clocks may be apart.
const hopAge = 5 * time.Minute

func (f *forwarder) sign(r *http.Request, from string) {
	text := from + " " + strconv.FormatInt(time.Now().Unix(), 10)
	r.Header.Set(headerHop, text+" "+f.proof(r.Method, r.URL.RequestURI(), text))
}

func (f *forwarder) proof(method, uri, text string) string {
	mac := hmac.New(sha256.New, f.secret)
	fmt.Fprintf(mac, "%s\n%s\n%s", text, method, uri)
	return hex.EncodeToString(mac.Sum(nil))
}

type hopKey struct{}

// hopped tells whether another server has sent the request here.
func hopped(r *http.Request) bool { return r.Context().Value(hopKey{}) != nil }

// arrive gives a request that another server forwarded its client's address.
// Whoever else sends the header is a client like any other.
func (f *forwarder) arrive(r *http.Request) *http.Request {
	hop := r.Header.Get(headerHop)
	if hop == "" || f == nil {
		return r
	}
	r.Header.Del(headerHop)
	parts := strings.Split(hop, " ")
	if len(parts) != 3 {
		return r
	}
	at, err := strconv.ParseInt(parts[1], 10, 64)
	if err != nil || time.Since(time.Unix(at, 0)).Abs() > hopAge ||
		!hmac.Equal([]byte(parts[2]), []byte(f.proof(r.Method, r.RequestURI, parts[0]+" "+parts[1]))) {
		return r
	}
	r = r.WithContext(context.WithValue(r.Context(), hopKey{}, true))
	r.RemoteAddr = parts[0]
	return r
}

// relayedStream is another server's event stream. When it breaks off between two
// events, its reader is told why.
type relayedStream struct {
	io.ReadCloser
	ctx  context.Context
	last []byte // two bytes that were read before
	rest []byte // of the farewell
	over bool
}

func (e *relayedStream) Read(p []byte) (int, error) {
	if e.over {
		n := copy(p, e.rest)
		if e.rest = e.rest[n:]; n == 0 {
			return 0, io.EOF
		}
		return n, nil
	}
	n, err := e.ReadCloser.Read(p)
	e.last = append(e.last, p[max(0, n-2):n]...)
	e.last = e.last[len(e.last)-2:]
	if err == nil || err == io.EOF || !bytes.Equal(e.last, []byte("\n\n")) {
		return n, err
	}
	reason, reconnect := "the server that has this sandbox is gone", true
	var cause *sandbox.Error
	if errors.As(context.Cause(e.ctx), &cause) {
		reason, reconnect = cause.Message, cause != errRevoked
	}
	e.over, e.rest = true, closingEvent(reason, reconnect)
	if n == 0 {
		return e.Read(p)
	}
	return n, nil
}

func closingEvent(reason string, reconnect bool) []byte {
	e := &eventStream{}
	e.begin("", api.EventClosing, time.Now())
	return fmt.Appendf(e.buf, ",\"reason\":%q,\"reconnect\":%t}\n\n", reason, reconnect)
}
