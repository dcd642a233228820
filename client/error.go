package client

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"silica.dev/silica/api"
)

// Error is the server's refusal.
type Error struct {
	Status     int    // of HTTP; 0 when it came inside a stream
	Code       string // stable, see docs/errors.md
	Message    string // for people
	Details    map[string]any
	RequestID  string
	RetryAfter time.Duration // 0: the server did not say
}

func (e *Error) Error() string {
	s := e.Message
	if e.Code != "" {
		s += " (" + e.Code
		if e.RequestID != "" {
			s += ", request " + e.RequestID
		}
		s += ")"
	}
	return s
}

// Problems lists all that is wrong with a BuildSpec, if that is what was refused.
func (e *Error) Problems() (list []api.Problem) {
	raw, err := json.Marshal(e.Details["errors"])
	if err != nil || json.Unmarshal(raw, &list) != nil {
		return nil
	}
	return list
}

// HasCode tells whether err is the server's refusal with this code.
func HasCode(err error, code string) bool {
	var e *Error
	return errors.As(err, &e) && e.Code == code
}

// IsNotFound tells whether err says that there is no such thing.
func IsNotFound(err error) bool {
	var e *Error
	return errors.As(err, &e) && e.Status == http.StatusNotFound
}

// isRefusal tells whether asking again is in vain.
func isRefusal(status int) bool {
	return status >= 400 && status < 500 && status != http.StatusTooManyRequests
}

// StateError says that a sandbox will not become ready any more.
type StateError struct{ Sandbox api.Sandbox }

func (e *StateError) Error() string {
	s := fmt.Sprintf("sandbox %s is %s", e.Sandbox.ID, e.Sandbox.State)
	if e.Sandbox.StateReason != nil {
		s += ": " + *e.Sandbox.StateReason
	}
	return s
}

func readError(res *http.Response) error {
	e := &Error{Status: res.StatusCode, RequestID: res.Header.Get(api.HeaderRequestID)}
	raw, _ := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	var body api.ErrorBody
	if json.Unmarshal(raw, &body) == nil && body.Error.Code != "" {
		e.Code, e.Message, e.Details = body.Error.Code, body.Error.Message, body.Error.Details
	} else {
		e.Message = fmt.Sprintf("the server answered %s, which is not how Silica reports errors", res.Status)
	}
	if s, err := strconv.ParseFloat(res.Header.Get("Retry-After"), 64); err == nil && s > 0 {
		e.RetryAfter = time.Duration(s * float64(time.Second))
	}
	return e
}
