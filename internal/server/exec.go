package server

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"net/http"
	"strings"
	"sync"
	"time"

	"silica.dev/silica/internal/guest"
	"silica.dev/silica/internal/guest/guestpb"
	"silica.dev/silica/sandbox"
)

// Bounds of a command's timeout, in seconds.
const (
	execTimeout    = 30
	maxExecTimeout = 300
)

// watchdog is how much longer than its timeout a command is waited for: the
// agent ends it in time, unless the sandbox lies.
const watchdog = 10 * time.Second

// partialOutput bounds the output in the details of a timeout, each stream.
const partialOutput = 64 << 10

// parseExec reads the body of both exec routes.
func parseExec(r *http.Request) (command string, req *guestpb.StartRequest, err error) {
	f, err := readFields(r)
	if err != nil {
		return "", nil, err
	}
	return f.command(), execRequest(f, r), f.err
}

// execRequest reads what every command has: time, folder and variables.
func execRequest(f *fields, r *http.Request) *guestpb.StartRequest {
	timeout, given := f.integer(0, 1<<40, "timeout", "timeout_sec")
	switch {
	case !given || timeout == 0:
		timeout = execTimeout * 1000
	case timeout >= 1000 && strings.HasPrefix(strings.ToLower(r.UserAgent()), "miosa-elixir"):
		// That client documents milliseconds.
	default:
		timeout = min(timeout, maxExecTimeout) * 1000
	}
	return &guestpb.StartRequest{
		Cwd:       f.workdir(),
		Env:       f.env("env"),
		TimeoutMs: min(timeout, maxExecTimeout*1000),
	}
}

var (
	errExecTime = sandbox.E(sandbox.Timeout, sandbox.CodeExecTimeout, "the command ran out of time and was killed, with everything it had started")
	// A Conflict, although the server is to blame: most clients repeat a
	// request that failed with a 5xx, and this command must not run twice.
	errExecCut   = sandbox.E(sandbox.Conflict, sandbox.CodeConflict, "the server shut down while the command ran; it was killed")
	errNoVerdict = errors.New("the agent ended the stream without an exit")
)

// execution is a command that has been admitted.
type execution struct {
	id      string
	sb      sandbox.Sandbox
	guest   *guest.Client
	command string
	req     *guestpb.StartRequest // without Args: runCommand sets them
	ctx     context.Context       // ends with the client, the sandbox, the time, or the server
	cancel  context.CancelFunc
	abort   context.CancelCauseFunc // ends ctx for a reason
	start   time.Time
}

// admit reads the request and gets hold of the sandbox. Call cancel in the end.
func (s *Server) admit(r *http.Request, c sandbox.Caller) (*execution, error) {
	command, req, err := parseExec(r)
	if err != nil {
		return nil, err
	}
	return s.begin(r, c, command, req)
}

// begin gets hold of the sandbox for a command. Call cancel in the end.
func (s *Server) begin(r *http.Request, c sandbox.Caller, command string, req *guestpb.StartRequest) (*execution, error) {
	ctx, g, sb, err := s.deps.Sandboxes.Guest(r.Context(), c, param(r, "id"))
	if err != nil {
		return nil, err
	}
	x := &execution{id: sandbox.NewName("exec_"), sb: sb, guest: g, command: command, req: req, start: time.Now()}
	ctx, x.abort = context.WithCancelCause(ctx)
	stop := func() {}
	if req.TimeoutMs > 0 {
		limit := time.Duration(req.TimeoutMs)*time.Millisecond + watchdog
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, limit, errExecTime)
		stop = cancel
	}
	unhook := context.AfterFunc(s.closed, func() { x.abort(errExecCut) })
	ended := sync.OnceFunc(s.metrics.command()) // some cancel twice
	x.ctx, x.cancel = ctx, func() { unhook(); stop(); x.abort(nil); ended() }
	return x, nil
}

// show has whoever follows the sandbox's events see a command's output. Call
// close in the end.
func (s *Server) show(x *execution) *live {
	return &live{publish: s.deps.Events.Publish, sandbox: x.sb, execID: x.id}
}

func (s *Server) exec(w http.ResponseWriter, r *http.Request, c sandbox.Caller) error {
	x, err := s.admit(r, c)
	if err != nil {
		return err
	}
	defer x.cancel()
	return s.answerExec(w, x, c, runCommand(x.ctx, x.guest, x))
}

// answerExec runs an admitted command to its end and answers with its output.
func (s *Server) answerExec(w http.ResponseWriter, x *execution, c sandbox.Caller, events iter.Seq2[*guestpb.ProcessEvent, error]) error {
	out := newOutput(s.cfg.MaxOutput, s.execMemory, c.Tenant)
	defer out.release()
	exit, err := s.collect(x, out, events)
	if err == nil && exit.TimedOut {
		err = errExecTime
	}
	if sandbox.HasCode(err, sandbox.CodeExecTimeout) {
		return timedOut(x, out).Because(err)
	}
	if err != nil {
		return err
	}
	writeExec(w, x, exit, out)
	return nil
}

// collect runs the command to its end and keeps its output.
func (s *Server) collect(x *execution, out *output, events iter.Seq2[*guestpb.ProcessEvent, error]) (*guestpb.ProcessEvent_Exited, error) {
	shown := s.show(x)
	defer shown.close()
	var brake brake
	for ev, err := range events {
		if err != nil {
			return nil, err
		}
		switch e := ev.Event.(type) {
		case *guestpb.ProcessEvent_Output_:
			out.add(e.Output.Stream, e.Output.Data)
			shown.add(e.Output.Stream, e.Output.Data)
			if out.truncated {
				brake.hold(x.ctx, len(e.Output.Data))
			}
		case *guestpb.ProcessEvent_Exited_:
			return e.Exited, nil
		}
	}
	if x.ctx.Err() != nil {
		return nil, context.Cause(x.ctx)
	}
	return nil, lost(errNoVerdict)
}

func lost(cause error) error {
	return sandbox.E(sandbox.Conflict, sandbox.CodeSandboxGone, "the sandbox stopped answering").Because(cause)
}

// timedOut is the error of a command that ran out of time, with what it wrote.
func timedOut(x *execution, out *output) *sandbox.Error {
	return errExecTime.
		With("sandbox_id", string(x.sb.ID)).With("exec_id", x.id).
		With("timeout", float64(x.req.TimeoutMs)/1000).
		With("stdout", validText([]byte(out.text(guestpb.ProcessEvent_STDOUT, partialOutput)))).
		With("stderr", validText([]byte(out.text(guestpb.ProcessEvent_STDERR, partialOutput))))
}

func validText(p []byte) string { return strings.ToValidUTF8(string(p), replacement) }

// execHead is api.ExecResult without the texts, which are written piece by piece.
type execHead struct {
	SandboxID   string `json:"sandbox_id"`
	ExecID      string `json:"exec_id"`
	ExitCode    int32  `json:"exit_code"`
	Success     bool   `json:"success"`
	Signal      string `json:"signal,omitempty"`
	OutOfMemory bool   `json:"out_of_memory,omitempty"`
	Truncated   bool   `json:"truncated"`
	DurationMS  int64  `json:"duration_ms"`
}

// writeExec writes the result in the hybrid form without making a second copy
// of the output in memory.
func writeExec(w http.ResponseWriter, x *execution, exit *guestpb.ProcessEvent_Exited, out *output) {
	head, err := json.Marshal(execHead{
		SandboxID: string(x.sb.ID), ExecID: x.id, ExitCode: exit.ExitCode, Success: exit.ExitCode == 0,
		Signal: cutText(exit.Signal, 32), OutOfMemory: exit.OutOfMemory, Truncated: out.truncated,
		DurationMS: time.Since(x.start).Milliseconds(),
	})
	if err != nil {
		panic(fmt.Sprintf("exec result can't be encoded: %v", err))
	}
	bound(w, out.size())
	w.Header().Set("Content-Type", "application/json")
	bw := bufio.NewWriterSize(w, 32<<10)
	object := func() {
		_, _ = bw.Write(head[:len(head)-1])
		_, _ = bw.WriteString(`,"stdout":`)
		badOut := out.writeText(bw, guestpb.ProcessEvent_STDOUT)
		_, _ = bw.WriteString(`,"stderr":`)
		badErr := out.writeText(bw, guestpb.ProcessEvent_STDERR)
		_, _ = bw.WriteString(`,"output":`)
		out.writeText(bw, 0)
		if badOut {
			_, _ = bw.WriteString(`,"stdout_base64":`)
			out.writeBase64(bw, guestpb.ProcessEvent_STDOUT)
		}
		if badErr {
			_, _ = bw.WriteString(`,"stderr_base64":`)
			out.writeBase64(bw, guestpb.ProcessEvent_STDERR)
		}
	}
	object()
	_, _ = bw.WriteString(`,"data":`)
	object()
	_, _ = bw.WriteString("}}")
	_ = bw.Flush() // a client that has left is no error of ours
}
