package server

import (
	"fmt"
	"sync"
	"time"

	"silica.dev/silica/sandbox"
)

// maxPolls is how often a second a tenant may look at readiness: three times
// what a client needs that polls every 10 ms.
const maxPolls = 300

// rationed is the refusal of a request that may be repeated after wait.
func rationed(wait time.Duration, format string, args ...any) error {
	seconds := int((wait + time.Second - 1) / time.Second)
	return sandbox.E(sandbox.Exhausted, sandbox.CodeRateLimited,
		fmt.Sprintf(format, args...)+fmt.Sprintf("; try again in %d s", seconds)).With(detailRetry, seconds)
}

// ration takes the tokens that a request costs. The bucket is the workspace's
// that the request is about, or, when that is none, one of the tenant.
func (s *Server) ration(l limit, c sandbox.Caller, workspace string) error {
	now := time.Now()
	if l&counted != 0 {
		if wait := s.limiter.take(string(c.Tenant)+"/"+workspace, now); wait > 0 {
			return rationed(wait, "more than %d requests a minute", s.cfg.RateLimit)
		}
	}
	if l&polled != 0 {
		if wait := s.polling.take(string(c.Tenant), now); wait > 0 {
			return rationed(wait, "readiness was asked for more than %d times a second", maxPolls)
		}
	}
	return nil
}

// inFlight counts the requests that are under way, by tenant.
type inFlight struct {
	most, mostStreams int

	mu      sync.Mutex
	tenants map[sandbox.TenantID]*underWay
}

type underWay struct{ all, streams int }

func newInFlight(most, mostStreams int) *inFlight {
	return &inFlight{most: most, mostStreams: mostStreams, tenants: map[sandbox.TenantID]*underWay{}}
}

// enter admits one request until leave is called.
func (f *inFlight) enter(tenant sandbox.TenantID, stream bool) (leave func(), err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	u := f.tenants[tenant]
	if u == nil {
		u = &underWay{}
	}
	streams := 0
	if stream {
		streams = 1
	}
	switch {
	case u.all >= f.most:
		return nil, rationed(time.Second, "more than %d requests at once", f.most)
	case u.streams+streams > f.mostStreams:
		return nil, rationed(time.Second, "more than %d streams at once", f.mostStreams)
	}
	u.all++
	u.streams += streams
	f.tenants[tenant] = u
	return func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		u.all--
		u.streams -= streams
		if u.all == 0 {
			delete(f.tenants, tenant)
		}
	}, nil
}

// count adds up all tenants.
func (f *inFlight) count() (all, streams int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, u := range f.tenants {
		all += u.all
		streams += u.streams
	}
	return all, streams
}
