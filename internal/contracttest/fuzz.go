package contracttest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"hash/fnv"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// What "go test -args" may choose.
var (
	seedFlag   = flag.Uint64("contract.seed", 0, "seed of what is sent; 0: another one each time")
	roundsFlag = flag.Int("contract.rounds", 0, "random requests an operation; 0: the test's own number")
	onlyFlag   = flag.String("contract.only", "", "only operations whose \"METHOD /path\" contains this")
)

// Target is a running server.
type Target struct {
	Base   string // http://host:port
	Key    string // of a tenant
	Other  string // of another tenant
	Admin  string // an operator's
	Rounds int    // random requests an operation, beside those that are always made
	// Most bounds the requests of an operation, 0: all. Beyond it a random choice
	// of them is made.
	Most int
	// Subject returns values for the {names} of an operation's path that belong
	// to Key's tenant, made anew for each operation. Names it lacks get a word
	// that names nothing.
	Subject func(op *Operation) map[string]string
	// Over tells whether the last subject has ended, as it may by what was sent to
	// it before, in the middle of an answer. Nil: it never does.
	Over func() bool
	// Skip tells which operations would end the test's own server.
	Skip func(op *Operation) bool
	// Patience is how long an answer may take to begin.
	Patience time.Duration
}

// attempt is one request.
type attempt struct {
	what   string // said in findings
	op     *Operation
	url    string
	key    string
	kind   string // Content-Type; empty: none
	body   string
	has    bool // there is a body
	chunk  bool // sent without a length
	header http.Header
	// refuse, when not 0, is the status that must come.
	refuse int
	// never2xx says that success would be a fault.
	never2xx bool
}

// reply is what came.
type reply struct {
	status int
	header http.Header
	body   []byte
}

type fuzzer struct {
	t        testing.TB
	d        *Document
	Target   // of the requests
	http     *http.Client
	mu       sync.Mutex
	findings map[string]int
	sent     int
}

// Fuzz sends every operation of the document what no client should send, and
// what one may, and reports every answer the document does not cover, every
// 5xx, every connection that breaks, and every message that tells of internals.
func Fuzz(t testing.TB, d *Document, target Target) {
	seed := *seedFlag
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	if *roundsFlag > 0 {
		target.Rounds = *roundsFlag
	}
	if target.Patience == 0 {
		target.Patience = 20 * time.Second
	}
	t.Logf("seed %d: again with -args -contract.seed=%d", seed, seed)
	transport := &http.Transport{MaxIdleConnsPerHost: 8, DisableCompression: true}
	defer transport.CloseIdleConnections()
	f := &fuzzer{t: t, d: d, Target: target, findings: map[string]int{}, http: &http.Client{
		Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
	start := time.Now()
	for _, op := range d.Operations() {
		if target.Skip != nil && target.Skip(op) || !strings.Contains(op.Key(), *onlyFlag) {
			continue
		}
		h := fnv.New64a()
		_, _ = io.WriteString(h, op.Key())
		m := &maker{d: d, rand: rand.New(rand.NewPCG(seed, h.Sum64()))}
		f.operation(op, m)
	}
	t.Logf("%d requests to %d operations in %v", f.sent, len(d.ops), time.Since(start).Round(time.Millisecond))
}

// operation makes all requests to one operation, a few at a time.
func (f *fuzzer) operation(op *Operation, m *maker) {
	subject := map[string]string{}
	if f.Subject != nil {
		subject = f.Subject(op)
	}
	f.foreign(op, m, subject)
	queue := make(chan attempt)
	var workers sync.WaitGroup
	for range 6 {
		workers.Go(func() {
			for a := range queue {
				f.try(a)
			}
		})
	}
	list := f.attempts(op, m, subject)
	if n := len(list); f.Most > 0 && n > f.Most && *roundsFlag == 0 {
		// The first few are who may call at all.
		m.rand.Shuffle(n-8, func(i, j int) { list[8+i], list[8+j] = list[8+j], list[8+i] })
		list = list[:f.Most]
	}
	for _, a := range list {
		queue <- a
	}
	close(queue)
	workers.Wait()
}

// foreign checks that the things of one tenant look to another like things that
// never were.
func (f *fuzzer) foreign(op *Operation, m *maker, subject map[string]string) {
	if f.Other == "" || op.Public || len(subject) == 0 || !strings.Contains(op.Path, "{id}") {
		return
	}
	a := f.base(op, m, subject)
	a.what, a.key, a.never2xx = "another tenant's id", f.Other, true
	theirs, ok := f.try(a)
	b := a
	b.what, b.url = "an id that never was", strings.Replace(a.url, url.PathEscape(subject["id"]), "sbx_0000000000000000", 1)
	none, ok2 := f.try(b)
	if ok && ok2 && (theirs.status != none.status || codeOf(theirs) != codeOf(none)) {
		f.find(a, theirs, fmt.Sprintf("tells another tenant's id from none: %d %s and %d %s", theirs.status, codeOf(theirs), none.status, codeOf(none)))
	}
}

func codeOf(r reply) string {
	var e struct {
		Code string `json:"code"`
	}
	_ = json.Unmarshal(r.body, &e)
	return e.Code
}

// parameters returns the operation's, resolved, of one place.
func (f *fuzzer) parameters(op *Operation, in string) []object {
	var list []object
	all, _ := op.node["parameters"].([]any)
	for _, p := range all {
		if node, _ := f.d.resolve(p, ""); node["in"] == in {
			list = append(list, node)
		}
	}
	return list
}

// bodySchema returns what a JSON body of the operation looks like, nil when it
// takes none.
func (f *fuzzer) bodySchema(op *Operation) object {
	body, _ := f.d.resolve(op.node["requestBody"], "")
	content, _ := body["content"].(object)
	media, _ := content["application/json"].(object)
	if media == nil {
		return nil
	}
	s, _ := f.d.resolve(media["schema"], "")
	for _, name := range []string{"oneOf", "anyOf"} {
		if list, ok := s[name].([]any); ok && len(list) > 0 {
			s, _ = f.d.resolve(list[0], "")
		}
	}
	return s
}

// base is a request as a client would make it.
func (f *fuzzer) base(op *Operation, m *maker, subject map[string]string) attempt {
	a := attempt{what: "as documented", op: op, key: f.Key, url: f.Base + fill(op.Path, subject), header: http.Header{}}
	query := url.Values{}
	for _, p := range f.parameters(op, "query") {
		if p["required"] == true || m.rand.IntN(3) == 0 {
			v := []rune(plain(m.value(p["schema"], p["name"].(string), 0)))
			query.Set(p["name"].(string), string(v[:min(len(v), 500)])) // together they must fit into a request line
		}
	}
	if len(query) > 0 {
		a.url += "?" + query.Encode()
	}
	if s := f.bodySchema(op); s != nil {
		a.kind, a.has, a.body = "application/json", true, encode(m.value(s, "", 0))
	}
	if f.forAdmin(op) {
		a.key = f.Admin
	}
	return a
}

// forAdmin tells whether only operators may call.
func (f *fuzzer) forAdmin(op *Operation) bool {
	scope, _ := op.node["x-silica-scope"].(string)
	return scope == "admin"
}

func fill(path string, values map[string]string) string {
	return regexp.MustCompile(`\{[^}]+\}`).ReplaceAllStringFunc(path, func(name string) string {
		v, ok := values[strings.Trim(name, "{}")]
		if !ok {
			v = "nothing"
		}
		return url.PathEscape(v)
	})
}

func plain(v any) string {
	if s, ok := v.(string); ok {
		return s
	}
	return encode(v)
}

// attempts lists the requests to one operation: those that are always made,
// then random ones.
func (f *fuzzer) attempts(op *Operation, m *maker, subject map[string]string) []attempt {
	var list []attempt
	add := func(what string, change func(a *attempt)) {
		a := f.base(op, m, subject)
		a.what = what
		change(&a)
		list = append(list, a)
	}
	add("as documented", func(*attempt) {})
	if !op.Public {
		for what, key := range map[string]string{"no key": "", "a wrong key": "msk_u_wrong", "an odd key": strings.Repeat("é", 600)} {
			add(what, func(a *attempt) { a.key, a.refuse = key, http.StatusUnauthorized })
		}
		add("another scheme", func(a *attempt) {
			a.key, a.refuse = "", http.StatusUnauthorized
			a.header.Set("Authorization", "Basic "+f.Key)
		})
	}
	if f.forAdmin(op) {
		add("a key that is no admin's", func(a *attempt) { a.key, a.refuse = f.Key, http.StatusForbidden })
	}
	f.oddPaths(op, subject, add)
	f.oddQueries(op, m, add)
	for _, p := range f.parameters(op, "header") {
		for _, v := range []string{"", "-1", "x", strings.Repeat("9", 400), "bytes=5-1", "bytes=-9999999999999999999", "\xff\xfe"} {
			add("header "+p["name"].(string), func(a *attempt) { a.header.Set(p["name"].(string), v) })
		}
	}
	f.oddBodies(op, m, add)
	for range f.Rounds {
		add("random", func(*attempt) {})
	}
	return list
}

func (f *fuzzer) oddPaths(op *Operation, subject map[string]string, add func(string, func(*attempt))) {
	for _, p := range f.parameters(op, "path") {
		name := p["name"].(string)
		for _, v := range oddStrings {
			if v == "" || v == ".." {
				continue // another path
			}
			add("path "+name, func(a *attempt) {
				odd := map[string]string{}
				for k, v := range subject {
					odd[k] = v
				}
				odd[name] = v
				_, query, _ := strings.Cut(a.url, "?")
				a.url = f.Base + fill(op.Path, odd) + "?" + query
			})
		}
	}
}

func (f *fuzzer) oddQueries(op *Operation, m *maker, add func(string, func(*attempt))) {
	set := func(a *attempt, change func(url.Values)) {
		before, raw, _ := strings.Cut(a.url, "?")
		q, _ := url.ParseQuery(raw)
		change(q)
		a.url = before + "?" + q.Encode()
	}
	for _, p := range f.parameters(op, "query") {
		name := p["name"].(string)
		for _, v := range append([]string{"1e9", "99999999999999999999", "1.5", "[]"}, oddStrings...) {
			add("query "+name, func(a *attempt) { set(a, func(q url.Values) { q.Set(name, v) }) })
		}
		add("query "+name+" twice", func(a *attempt) {
			set(a, func(q url.Values) { q[name] = []string{plain(m.value(p["schema"], name, 0)), "x"} })
		})
		add("query without "+name, func(a *attempt) { set(a, func(q url.Values) { q.Del(name) }) })
	}
	for _, raw := range []string{"a=b&a=c", "%zz", "=&=&", "a;b", strings.Repeat("a=b&", 500)} {
		add("odd query", func(a *attempt) { a.url, _, _ = strings.Cut(a.url, "?"); a.url += "?" + raw })
	}
}

func (f *fuzzer) oddBodies(op *Operation, m *maker, add func(string, func(*attempt))) {
	if op.node["requestBody"] == nil {
		add("a body nobody asked for", func(a *attempt) { a.kind, a.has, a.body = "application/json", true, "null" })
		return
	}
	for _, body := range oddBodies() {
		add("odd body", func(a *attempt) { a.kind, a.has, a.body = "application/json", true, body })
	}
	for _, kind := range []string{"", "text/plain", "application/xml", "multipart/form-data", "multipart/form-data; boundary=x", "application/x-www-form-urlencoded", "application/json; charset=utf-16", ";;;"} {
		add("content type "+kind, func(a *attempt) { a.kind, a.has = kind, true })
	}
	add("chunked", func(a *attempt) { a.chunk = true })
	schema := f.bodySchema(op)
	props, _ := schema["properties"].(object)
	for name, p := range props {
		for _, text := range oddValues {
			add("member "+name, func(a *attempt) { a.has, a.body = true, with(f.given(m, schema), name, text) })
		}
		if s, _ := f.d.resolve(p, ""); slices.Contains(typesOf(s), "string") {
			for _, text := range oddStrings {
				add("member "+name, func(a *attempt) { a.has, a.body = true, with(f.given(m, schema), name, encode(text)) })
			}
		}
		add("without "+name, func(a *attempt) {
			o := f.given(m, schema)
			delete(o, name)
			a.has, a.body = true, encode(o)
		})
	}
}

func (f *fuzzer) given(m *maker, schema object) object { return m.object(schema, 0) }

// mayFail lists the codes of 5xx that are answers: nothing is broken.
var mayFail = map[string]bool{"EXEC_TIMEOUT": true, "NO_SPACE": true, "HOST_CAPACITY_EXHAUSTED": true}

// internals is what no message to a client may hold.
var internals = regexp.MustCompile(`(?i)\.go:\d|goroutine \d|runtime error|nil pointer|panic|sqlite|sqlstate|constraint failed|no such (table|column)|dial (tcp|unix)|connection refused|broken pipe|%!\w?\(|\*errors\.|context (canceled|deadline)|/var/lib/|json: cannot|strconv\.|proto:|unmarshal`)

// try makes a request and judges the answer. ok is false when none came.
func (f *fuzzer) try(a attempt) (got reply, ok bool) {
	ctx, cancel := context.WithCancel(f.t.Context())
	defer cancel()
	late := time.AfterFunc(f.Patience, cancel)
	defer late.Stop()
	var body io.Reader
	if a.has {
		body = strings.NewReader(a.body)
		if a.chunk {
			body = io.MultiReader(body) // hides the length
		}
	}
	req, err := http.NewRequestWithContext(ctx, a.op.Method, a.url, body)
	if err != nil {
		f.t.Errorf("%s: %s: %v", a.op.Key(), a.what, err)
		return got, false
	}
	for name, values := range a.header {
		req.Header[name] = values
	}
	if a.kind != "" {
		req.Header.Set("Content-Type", a.kind)
	}
	if a.key != "" {
		req.Header.Set("Authorization", "Bearer "+a.key)
	}
	f.mu.Lock()
	f.sent++
	f.mu.Unlock()
	res, err := f.http.Do(req)
	if err != nil {
		if f.t.Context().Err() == nil && !invalidHere(err) {
			f.find(a, got, fmt.Sprintf("no answer: %v", err))
		}
		return got, false
	}
	defer res.Body.Close()
	got = reply{status: res.StatusCode, header: res.Header}
	if strings.HasPrefix(res.Header.Get("Content-Type"), "text/event-stream") {
		// A stream may go on for ever. Its beginning is enough.
		late.Reset(100 * time.Millisecond)
		got.body, _ = io.ReadAll(io.LimitReader(res.Body, 64<<10))
	} else if got.body, err = io.ReadAll(io.LimitReader(res.Body, 8<<20)); err != nil {
		if f.Over != nil && f.Over() {
			return got, false
		}
		f.find(a, got, fmt.Sprintf("the answer broke off: %v", err))
		return got, false
	}
	f.judge(a, got)
	return got, true
}

// invalidHere tells whether a request never left, as one with a line feed in a
// header.
func invalidHere(err error) bool {
	var u *url.Error
	return errors.As(err, &u) && strings.Contains(u.Err.Error(), "invalid header field value")
}

func (f *fuzzer) judge(a attempt, r reply) {
	if r.status == http.StatusRequestHeaderFieldsTooLarge && len(a.url) > 32<<10 {
		return // net/http's own answer: no handler has seen the request
	}
	if r.header.Get("X-Request-Id") == "" {
		f.find(a, r, "no x-request-id")
	}
	if r.status >= 500 && !mayFail[codeOf(r)] {
		f.find(a, r, "a server error")
	}
	if a.refuse != 0 && r.status != a.refuse && r.status != http.StatusTooManyRequests {
		f.find(a, r, fmt.Sprintf("must be refused with %d", a.refuse))
	}
	if a.never2xx && r.status < 400 {
		f.find(a, r, "must be refused")
	}
	if err := f.d.Check(a.op.Method, a.op.Path, r.status, r.header, r.body); err != nil {
		f.find(a, r, "not in the document: "+err.Error())
	}
	if r.status >= 400 {
		var e struct {
			Message string `json:"message"`
		}
		_ = json.Unmarshal(r.body, &e)
		if leak := internals.FindString(e.Message); leak != "" && !strings.Contains(a.body+a.url, leak) {
			f.find(a, r, fmt.Sprintf("the message tells of internals: %q", leak))
		}
	}
}

// find reports a fault, the same kind of an operation three times at most.
func (f *fuzzer) find(a attempt, r reply, what string) {
	kind, _, _ := strings.Cut(what, "\n")
	f.mu.Lock()
	f.findings[a.op.Key()+kind]++
	n := f.findings[a.op.Key()+kind]
	f.mu.Unlock()
	if n > 3 {
		return
	}
	f.t.Errorf("%s, %s: %s\n  sent: %s %s %q %s\n  got: %d %s", a.op.Key(), a.what, what,
		a.op.Method, cut(a.url, 300), a.kind, cut(a.body, 400), r.status, bytes.TrimSpace([]byte(cut(string(r.body), 600))))
}

func cut(s string, n int) string {
	if len(s) > n {
		return s[:n] + "…"
	}
	return s
}
