package sandbox

import (
	"errors"
	"fmt"
)

// Kind says what an error asks of the caller.
type Kind int

const (
	Internal        Kind = iota // nothing; the details are in the daemon's log
	Invalid                     // change the request: a value is wrong
	Malformed                   // change the request: it could not be read
	Unauthenticated             // present a key
	Forbidden                   // ask for a wider key
	NotFound                    // stop asking
	Conflict                    // try again when the state has changed
	TooLarge                    // send less
	Exhausted                   // wait, or raise the quota
	Unavailable                 // try again soon; nothing has happened
	Timeout                     // it may have happened: look before you repeat
)

// Stable codes. Their spelling is part of the API: docs/errors.md.
const (
	CodeInternal         = "INTERNAL_ERROR"
	CodeBadRequest       = "BAD_REQUEST"
	CodeValidation       = "VALIDATION_ERROR"
	CodeInvalidTemplate  = "INVALID_TEMPLATE"
	CodeUnauthorized     = "UNAUTHORIZED"
	CodeForbidden        = "FORBIDDEN"
	CodeScope            = "insufficient_scope" // lower case: so public clients know it
	CodeNotFound         = "NOT_FOUND"
	CodeFileNotFound     = "FILE_NOT_FOUND"
	CodeFileTooLarge     = "FILE_TOO_LARGE"
	CodeBodyTooLarge     = "BODY_TOO_LARGE"
	CodeInvalidPath      = "INVALID_PATH"
	CodeIsDirectory      = "IS_A_DIRECTORY"
	CodeNotDirectory     = "NOT_A_DIRECTORY"
	CodeNotRegularFile   = "NOT_A_REGULAR_FILE"
	CodePermissionDenied = "PERMISSION_DENIED"
	CodeFileExists       = "FILE_EXISTS"
	CodeNoSpace          = "NO_SPACE"
	CodeSandboxLimit     = "SANDBOX_LIMIT_EXCEEDED"
	CodeQuota            = "QUOTA_EXCEEDED"
	CodeCredits          = "INSUFFICIENT_CREDITS"
	CodeNotRunning       = "SANDBOX_NOT_RUNNING"
	CodeSandboxGone      = "SANDBOX_LOST"
	CodeTemplateNotReady = "TEMPLATE_NOT_READY"
	CodeSnapshotFailed   = "SNAPSHOT_FAILED"       // of a build: the template did not start, or could not be kept
	CodeCertification    = "CERTIFICATION_FAILED"  // of a build: copies are not what they must be
	CodeTemplateStart    = "TEMPLATE_START_FAILED" // the app of a template did not come to run
	CodeIdempotency      = "IDEMPOTENCY_PAYLOAD_MISMATCH"
	CodeConflict         = "CONFLICT"
	CodeRateLimited      = "RATE_LIMITED"
	CodeExecTimeout      = "EXEC_TIMEOUT"
	CodeTimeout          = "TIMEOUT"
	CodeUnavailable      = "UNAVAILABLE"
	CodeNodeUnavailable  = "NODE_UNAVAILABLE"
	CodeMethodNotAllowed = "METHOD_NOT_ALLOWED"
	CodeHostFull         = "HOST_CAPACITY_EXHAUSTED"
	CodeWorkdirNotFound  = "WORKING_DIR_NOT_FOUND"
	CodeRange            = "RANGE_NOT_SATISFIABLE"
	CodeUpgradeRequired  = "UPGRADE_REQUIRED"
	CodeInvalidPort      = "INVALID_PORT"
	CodePortClosed       = "PORT_CLOSED"
	CodeTokenExpired     = "STREAM_TOKEN_EXPIRED"
	CodeTokenUsed        = "STREAM_TOKEN_USED"
	CodeTokenMismatch    = "STREAM_TOKEN_MISMATCH"
	CodeNoSuchTemplate   = "not_found" // lower case: so the catalogue's contract spells it
	CodeRequired         = "REQUIRED"  // of a BuildSpec, as are the next four
	CodeUnsupportedBase  = "UNSUPPORTED_BASE_IMAGE"
	CodeOutOfRange       = "OUT_OF_RANGE"
	CodeInvalidInteger   = "INVALID_INTEGER"
	CodeInvalidStep      = "INVALID_STEP"
	CodeTaken            = "VALIDATION_FAILED"    // a slug that is the tenant's already
	CodeBaseNotFound     = "BASE_IMAGE_NOT_FOUND" // of a build, as are the next twelve
	CodeRegistryLogin    = "REGISTRY_UNAUTHORIZED"
	CodeRegistryDown     = "REGISTRY_UNAVAILABLE"
	CodeInvalidImage     = "INVALID_IMAGE"
	CodeImageTooLarge    = "IMAGE_TOO_LARGE"
	CodeStepFailed       = "BUILD_STEP_FAILED"
	CodeStepTimeout      = "BUILD_STEP_TIMEOUT"
	CodeBuildNoSpace     = "BUILD_NO_SPACE"
	CodeBuildFailed      = "BUILD_FAILED"
	CodeNotDistributed   = "DISTRIBUTION_FAILED"
	CodeBuildCancelled   = "BUILD_CANCELLED"
	CodeBuildState       = "INVALID_BUILD_STATE"
	CodeDraining         = "DRAINING"      // the server takes no new sandboxes
	CodeStartFailed      = "START_FAILED"  // event: the sandbox never came to run
	CodeOutOfMemory      = "OUT_OF_MEMORY" // event
	CodeProcessLimit     = "PROCESS_LIMIT" // event
	CodeDiskFull         = "DISK_FULL"     // event
	CodeStateDamaged     = "STATE_DAMAGED" // event
	CodeMemoryLost       = "MEMORY_LOST"   // event: it was booted with its files
	CodeSnapshotNotReady = "SNAPSHOT_NOT_READY"
	CodeSnapshotUnusable = "SNAPSHOT_UNUSABLE"
	CodeInvalidSnapshot  = "INVALID_SNAPSHOT"
)

// Error is a classified error. Message and Details go to the user; the wrapped
// cause goes to the log and never leaves the daemon.
type Error struct {
	Kind    Kind
	Code    string
	Message string
	Details map[string]any
	cause   error
}

// E makes a classified error. message is a sentence for the user.
func E(kind Kind, code, message string) *Error {
	return &Error{Kind: kind, Code: code, Message: message}
}

// Field makes the error for a request field with an unusable value.
func Field(name, message string) *Error {
	return &Error{Kind: Invalid, Code: CodeValidation, Message: name + ": " + message,
		Details: map[string]any{"field": name, "reason": message}}
}

// Because returns a copy of e that wraps cause, for the log.
func (e *Error) Because(cause error) *Error {
	c := *e
	c.cause = cause
	return &c
}

// With returns a copy of e with one more detail for the user.
func (e *Error) With(key string, value any) *Error {
	c := *e
	c.Details = map[string]any{key: value}
	for k, v := range e.Details {
		c.Details[k] = v
	}
	return &c
}

func (e *Error) Error() string {
	if e.cause != nil {
		return fmt.Sprintf("%s: %s: %v", e.Code, e.Message, e.cause)
	}
	return e.Code + ": " + e.Message
}

func (e *Error) Unwrap() error { return e.cause }

// AsError returns the first classified error in err's chain, or an Internal
// one whose message tells nothing about the inside.
func AsError(err error) *Error {
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	return &Error{Kind: Internal, Code: CodeInternal, Message: "internal error", cause: err}
}

// HasCode tells whether err is classified with code.
func HasCode(err error, code string) bool {
	var e *Error
	return errors.As(err, &e) && e.Code == code
}
