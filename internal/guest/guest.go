// Package guest is the protocol between the host and the agent inside a sandbox,
// with the host's side of it, so that neither side need know how the other
// carries bytes: Connect RPC (guestpb) for everything but file bodies, which are
// plain HTTP on the same port.
//
//	GET /files?path=P            the file's bytes; Range is honoured
//	PUT /files?path=P[&mode=M]   replaces the file at once with the body, parents are made
//	POST /files/spool            stores the body under a fresh name; answers {"path": …}
//	POST /files/commit?from=&to= renames a spooled file to its place
//	GET /files/archive?path=P&from=F&format=tar|tar.gz|zip  packs trees; path may be repeated
//	PUT /files/archive?path=P[&owners=true]  unpacks a tar or tar.gz into a folder
//
// Everything that comes out of a sandbox is hostile: the client bounds what it
// reads, and classifies errors only by codes of its own list.
package guest

import (
	"connectrpc.com/connect"

	"silica.dev/silica/sandbox"
)

// Port is where the agent listens inside a sandbox.
const Port uint16 = 49982

// CodeHeader carries the stable code of a classified error, on RPCs and on the
// file routes alike.
const CodeHeader = "Silica-Code"

// codes lists what an agent may answer, with the kind it stands for. A code
// that is absent is not believed.
var codes = map[string]sandbox.Kind{
	sandbox.CodeFileNotFound:     sandbox.NotFound,
	sandbox.CodeNotFound:         sandbox.NotFound,
	sandbox.CodeInvalidPath:      sandbox.Invalid,
	sandbox.CodeIsDirectory:      sandbox.Conflict,
	sandbox.CodeNotDirectory:     sandbox.Conflict,
	sandbox.CodeNotRegularFile:   sandbox.Conflict,
	sandbox.CodeFileExists:       sandbox.Conflict,
	sandbox.CodePermissionDenied: sandbox.Forbidden,
	sandbox.CodeNoSpace:          sandbox.Exhausted,
	sandbox.CodeValidation:       sandbox.Invalid,
	sandbox.CodeWorkdirNotFound:  sandbox.Invalid,
	sandbox.CodeConflict:         sandbox.Conflict,
}

// connectCode picks the Connect code under which a kind travels.
var connectCode = map[sandbox.Kind]connect.Code{
	sandbox.NotFound:  connect.CodeNotFound,
	sandbox.Invalid:   connect.CodeInvalidArgument,
	sandbox.Conflict:  connect.CodeFailedPrecondition,
	sandbox.Forbidden: connect.CodePermissionDenied,
	sandbox.Exhausted: connect.CodeResourceExhausted,
}

// WireError is the agent's side of errors: it turns err into what Connect sends.
func WireError(err error) *connect.Error {
	e := sandbox.AsError(err)
	code, ok := connectCode[e.Kind]
	if !ok {
		code = connect.CodeInternal
	}
	ce := connect.NewError(code, errText(e.Message))
	ce.Meta().Set(CodeHeader, e.Code)
	return ce
}

type errText string

func (e errText) Error() string { return string(e) }
