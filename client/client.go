// Package client calls a Silica server so that Go programs need not know its
// wire: one method per operation of the contract, streams as iterators, sockets
// as connections, errors with stable codes.
//
// Every method takes a context and ends with it. What may safely be repeated is
// repeated for a while when the server is busy or the connection breaks; a
// command is never run twice.
package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strings"
	"time"

	"silica.dev/silica/api"
)

// Client talks to one server with one key. It may be used by many goroutines.
type Client struct {
	root      string // without a slash at the end
	key       string
	userAgent string
	http      *http.Client
	retries   int
}

// Option changes what New makes.
type Option func(*Client)

// WithHTTPClient uses h for every call. Its Timeout also cuts streams.
func WithHTTPClient(h *http.Client) Option { return func(c *Client) { c.http = h } }

// WithRetries sets how often a call that may be repeated is; default 3.
func WithRetries(n int) Option { return func(c *Client) { c.retries = n } }

// WithUserAgent names the program that calls.
func WithUserAgent(ua string) Option { return func(c *Client) { c.userAgent = ua } }

// New returns a client for the server at baseURL, "http://127.0.0.1:8080" with
// or without the API's prefix.
func New(baseURL, key string, opts ...Option) (*Client, error) {
	u, err := url.Parse(baseURL)
	if err != nil {
		return nil, fmt.Errorf("server URL: %w", err)
	}
	if u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return nil, fmt.Errorf("server URL %q: want http://host:port", baseURL)
	}
	root := strings.TrimRight(strings.TrimSuffix(strings.TrimRight(u.String(), "/"), api.Base), "/")
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.MaxIdleConnsPerHost = 64
	t.DisableCompression = true // downloads are bytes, and their length is told
	c := &Client{root: root, key: key, userAgent: "silica-go", http: &http.Client{Transport: t}, retries: 3}
	for _, o := range opts {
		o(c)
	}
	return c, nil
}

// Close drops idle connections. The client may be used on.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// do makes one call and decodes its JSON answer into out, unless out is nil.
func (c *Client) do(ctx context.Context, cl call, out any) error {
	res, err := c.open(ctx, cl)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if out == nil || res.StatusCode == http.StatusNoContent {
		_, _ = io.Copy(io.Discard, io.LimitReader(res.Body, 1<<20))
		return nil
	}
	if err := json.NewDecoder(res.Body).Decode(out); err != nil {
		return fmt.Errorf("%s %s: read answer: %w", cl.method, cl.path, err)
	}
	return nil
}

// open makes one call, repeating it where that is safe, and returns the
// successful answer with its body still to be read.
func (c *Client) open(ctx context.Context, cl call) (*http.Response, error) {
	var body []byte
	if cl.body != nil {
		var err error
		if body, err = json.Marshal(cl.body); err != nil {
			return nil, fmt.Errorf("%s %s: %w", cl.method, cl.path, err)
		}
	}
	var res *http.Response
	err := c.persist(ctx, cl, func(attempt int) (err error) {
		res, err = c.once(ctx, cl, body)
		if attempt > 0 && cl.method == http.MethodDelete && IsNotFound(err) {
			// The attempt before, whose answer was lost, has done it.
			res, err = &http.Response{StatusCode: http.StatusNoContent, Body: http.NoBody}, nil
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return res, nil
}

// persist tries until it works or may not be tried again.
func (c *Client) persist(ctx context.Context, cl call, try func(attempt int) error) error {
	for attempt := 0; ; attempt++ {
		err := try(attempt)
		if err == nil || attempt >= c.retries || ctx.Err() != nil || !mayRepeat(cl, err) {
			return err
		}
		if wait(ctx, backoff(attempt, err)) != nil {
			return err
		}
	}
}

func (c *Client) once(ctx context.Context, cl call, body []byte) (*http.Response, error) {
	u := c.root + cl.path
	if len(cl.query) > 0 {
		u += "?" + cl.query.Encode()
	}
	var rd io.Reader
	switch {
	case cl.stream != nil:
		rd = cl.stream
	case body != nil:
		rd = bytes.NewReader(body)
	}
	req, err := http.NewRequestWithContext(ctx, cl.method, u, rd)
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", cl.method, cl.path, err)
	}
	if cl.stream != nil {
		req.ContentLength = cl.size
	}
	req.Header = c.identity()
	req.Header.Set("Accept", "application/json")
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	for name, values := range cl.header {
		req.Header[name] = values
	}
	res, err := c.http.Do(req)
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", cl.method, cl.path, withoutURL(err))
	}
	if res.StatusCode >= 200 && res.StatusCode < 300 {
		return res, nil
	}
	defer res.Body.Close()
	return nil, readError(res)
}

// identity is what every request says of the caller.
func (c *Client) identity() http.Header {
	h := http.Header{"User-Agent": {c.userAgent}}
	if c.key != "" {
		h.Set("Authorization", "Bearer "+c.key)
	}
	return h
}

// withoutURL takes the method and URL off, which the caller adds in short.
func withoutURL(err error) error {
	var ue *url.Error
	if errors.As(err, &ue) {
		return ue.Err
	}
	return err
}

// mayRepeat tells whether the call can be made again after err. Only an answer
// of "too many requests" says for sure that nothing was begun.
func mayRepeat(cl call, err error) bool {
	if cl.stream != nil {
		return false // partly read by now
	}
	var e *Error
	if !errors.As(err, &e) {
		return cl.repeat // the connection broke
	}
	switch e.Status {
	case http.StatusTooManyRequests:
		return e.Code != "HOST_CAPACITY_EXHAUSTED" || cl.repeat
	case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return cl.repeat
	}
	return false
}

// backoff is how long to wait before the next attempt: what the server asked
// for, or a random share of an exponential.
func backoff(attempt int, err error) time.Duration {
	var e *Error
	if errors.As(err, &e) && e.RetryAfter > 0 {
		return min(e.RetryAfter, time.Minute)
	}
	top := min(100*time.Millisecond<<min(attempt, 10), 5*time.Second)
	return top/2 + rand.N(top/2)
}

func wait(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
