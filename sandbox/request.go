package sandbox

import "context"

// Request is what a piece of work goes back to, for logs: whoever reads one
// line finds all others. It is filled before the work begins.
type Request struct {
	ID      string
	Route   string
	Tenant  TenantID
	Sandbox string // as the caller named it
}

type requestKey struct{}

// WithRequest returns a context of work that r caused.
func WithRequest(ctx context.Context, r *Request) context.Context {
	return context.WithValue(ctx, requestKey{}, r)
}

// RequestOf returns what caused the work of ctx, nil when it was no request.
func RequestOf(ctx context.Context) *Request {
	r, _ := ctx.Value(requestKey{}).(*Request)
	return r
}
