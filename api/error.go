package api

// ErrorBody is the body of every answer that is not a success. The code and
// message stand twice because public clients read them in different places.
type ErrorBody struct {
	Error      Error    `json:"error"`
	Code       string   `json:"code"`
	Message    string   `json:"message"`
	RequestID  string   `json:"request_id"`
	RetryAfter *float64 `json:"retry_after,omitempty"` // seconds; with 429 and some 503
	Errors     any      `json:"errors,omitempty"`      // all that is wrong with a BuildSpec, or texts by field
	Valid      *bool    `json:"valid,omitempty"`       // false, of a BuildSpec
}

// Error says what went wrong. Codes are listed in docs/errors.md.
type Error struct {
	Code      string         `json:"code"`
	Message   string         `json:"message"`
	Details   map[string]any `json:"details"` // null when there are none
	RequestID string         `json:"request_id"`
}

// NewError returns the body for one error.
func NewError(code, message string, details map[string]any, requestID string) ErrorBody {
	return ErrorBody{
		Error: Error{Code: code, Message: message, Details: details, RequestID: requestID},
		Code:  code, Message: message, RequestID: requestID,
	}
}
