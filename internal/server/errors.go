package server

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strconv"
	"time"

	"silica.dev/silica/api"
	"silica.dev/silica/sandbox"
)

// statusOfKind maps what an error asks of the caller to HTTP.
var statusOfKind = map[sandbox.Kind]int{
	sandbox.Internal:        http.StatusInternalServerError,
	sandbox.Invalid:         http.StatusUnprocessableEntity,
	sandbox.Malformed:       http.StatusBadRequest,
	sandbox.Unauthenticated: http.StatusUnauthorized,
	sandbox.Forbidden:       http.StatusForbidden,
	sandbox.NotFound:        http.StatusNotFound,
	sandbox.Conflict:        http.StatusConflict,
	sandbox.TooLarge:        http.StatusRequestEntityTooLarge,
	sandbox.Exhausted:       http.StatusTooManyRequests,
	sandbox.Unavailable:     http.StatusServiceUnavailable,
	sandbox.Timeout:         http.StatusGatewayTimeout,
}

// statusOfCode lists the codes whose status the contract, or HTTP, fixes
// otherwise than their kind would.
var statusOfCode = map[string]int{
	sandbox.CodeInvalidTemplate:  http.StatusBadRequest,
	sandbox.CodeSandboxLimit:     http.StatusConflict, // a quota, but the contract says 409
	sandbox.CodeTemplateNotReady: http.StatusConflict,
	sandbox.CodeQuota:            http.StatusConflict,
	sandbox.CodeCredits:          http.StatusPaymentRequired,
	sandbox.CodeNoSpace:          http.StatusInsufficientStorage,
	sandbox.CodeHostFull:         http.StatusServiceUnavailable,
	sandbox.CodeMethodNotAllowed: http.StatusMethodNotAllowed,
	sandbox.CodeRange:            http.StatusRequestedRangeNotSatisfiable,
	sandbox.CodeUpgradeRequired:  http.StatusUpgradeRequired,
}

func statusOf(e *sandbox.Error) int {
	if s, ok := statusOfCode[e.Code]; ok {
		return s
	}
	return statusOfKind[e.Kind]
}

// statusGone stands in the log for a client that left before its answer.
const statusGone = 499

// detailRetry is the detail that becomes Retry-After: seconds, an int.
const detailRetry = "retry_after"

// fail is the only place where an error becomes a response.
func (s *Server) fail(w http.ResponseWriter, r *http.Request, err error) {
	if cause := context.Cause(r.Context()); errors.Is(err, context.Canceled) && errors.Is(cause, errRevoked) {
		err = cause
	}
	e := sandbox.AsError(err)
	status := statusOf(e)
	rec, _ := w.(*response)
	if rec != nil {
		rec.err = err
		if rec.status != 0 {
			// Half an answer is out. Let the client see that it is only half.
			panic(http.ErrAbortHandler)
		}
		if r.Context().Err() != nil && errors.Is(err, context.Canceled) {
			rec.status = statusGone
			return
		}
	}
	if rec == nil || !rec.curt {
		drain(r)
	}
	id := requestID(r)
	body := api.NewError(e.Code, e.Message, e.Details, id)
	if body.Errors = e.Details[sandbox.DetailProblems]; body.Errors != nil {
		// Public clients read them beside the message.
		if _, spec := body.Errors.([]sandbox.Problem); spec {
			body.Valid = new(bool)
		}
	}
	if seconds, ok := e.Details[detailRetry].(int); ok {
		w.Header().Set("Retry-After", strconv.Itoa(seconds))
		f := float64(seconds)
		body.RetryAfter = &f
	} else if status == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", "1")
	}
	if status == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", "Bearer")
	}
	writeJSON(w, status, body)
}

// turnAway refuses who is not known, or has too much under way already. They
// get no patience.
func (s *Server) turnAway(w http.ResponseWriter, r *http.Request, err error) {
	if rec, ok := w.(*response); ok {
		rec.curt = true
	}
	s.fail(w, r, err)
}

// drain reads what is left of a refused upload, within bounds, because many
// clients only look for an answer once they have sent everything.
func drain(r *http.Request) {
	b, ok := r.Body.(*body)
	if !ok || b.ended || b.dead || r.Header.Get("Expect") != "" && !b.begun {
		return
	}
	const maxDrain, maxTime = 256 << 20, 10 * time.Second
	if r.ContentLength > maxDrain {
		return
	}
	b.giveUp = time.Now().Add(maxTime)
	_, _ = io.CopyN(io.Discard, b, maxDrain)
}
