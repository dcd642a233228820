package server

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"silica.dev/silica/internal/guest/guestpb"
	"silica.dev/silica/internal/server/socket"
	"silica.dev/silica/sandbox"
)

// execSpawn is the socket of the Go and the Python client. Only the first says
// who it is.
func (s *Server) execSpawn(w http.ResponseWriter, r *http.Request, c sandbox.Caller) error {
	d := &socket.Spawn{Binary: true, JSON: !fromGo(r)}
	return s.execSocket(w, r, c, d, true)
}

// execBinary is the socket of the TypeScript client.
func (s *Server) execBinary(w http.ResponseWriter, r *http.Request, c sandbox.Caller) error {
	return s.execSocket(w, r, c, &socket.Binary{}, false)
}

// execCloseCode is the socket of the Elixir client.
func (s *Server) execCloseCode(w http.ResponseWriter, r *http.Request, c sandbox.Caller) error {
	return s.execSocket(w, r, c, socket.CloseCode{}, false)
}

func fromGo(r *http.Request) bool { return strings.HasPrefix(r.UserAgent(), "miosa-go/") }

// execSocket runs a command whose streams are carried by a WebSocket. The
// command ends with it.
func (s *Server) execSocket(w http.ResponseWriter, r *http.Request, c sandbox.Caller, d socket.Dialect, commas bool) error {
	if !socket.Asked(r) {
		return s.noSocket(r, c)
	}
	command, args, req, err := parseSpawn(r, commas)
	if err != nil {
		return err
	}
	x, err := s.begin(r, c, command, req)
	if err != nil {
		return err
	}
	defer x.cancel()
	events := runCommand(x.ctx, x.guest, x)
	if len(args) > 0 {
		req.Args = append([]string{command}, args...)
		events = x.guest.Start(x.ctx, req)
	}
	shown := s.show(x)
	defer shown.close()
	var talk *dialogue
	for ev, err := range events {
		if talk == nil {
			if err != nil { // whatever prevents the start still gets an ordinary answer
				return err
			}
			w.Header().Set("X-Exec-Id", x.id)
			if talk, err = s.openDialogue(w, r, x.ctx, d, socket.BinaryProtocol); err != nil {
				return err
			}
			defer talk.close()
			talk.listen(program{guest: x.guest, pid: ev.GetStarted().GetPid(), terminal: req.Pty != nil}, func() { x.abort(errClientLeft) })
			continue
		}
		if err != nil {
			return talk.broke(err)
		}
		switch e := ev.Event.(type) {
		case *guestpb.ProcessEvent_Output_:
			shown.add(e.Output.Stream, e.Output.Data)
			if talk.output(e.Output.Stream, e.Output.Data) != nil {
				return nil // the client has left
			}
		case *guestpb.ProcessEvent_Exited_:
			talk.exit(e.Exited)
			return nil
		}
	}
	if talk == nil {
		return s.endOf(x)
	}
	return talk.broke(s.endOf(x))
}

// maxArgs bounds the words of a command line.
const maxArgs = 1024

// parseSpawn reads what to run from the query. args may come one by one, or,
// with commas, in one. The command is the shell's to read when there are none.
func parseSpawn(r *http.Request, commas bool) (command string, args []string, req *guestpb.StartRequest, err error) {
	q := spawnQuery(r)
	f := fieldsOf(q, "command", "cwd", "working_dir", "dir")
	command = f.command()
	args = slices.DeleteFunc(q["args"], func(a string) bool { return a == "" && len(q["args"]) == 1 })
	if commas && len(args) == 1 {
		args = strings.Split(args[0], ",")
	}
	if len(args) > maxArgs {
		f.reject("args", "must not be more than %d", maxArgs)
	}
	for _, a := range args {
		f.check("args", a, maxCommand)
	}
	req = &guestpb.StartRequest{Stdin: true, Cwd: f.workdir(), Env: spawnEnv(f, q["env"])}
	if text := q.Get("timeout"); text != "" {
		sec, err := strconv.ParseInt(text, 10, 64)
		if err != nil || sec < 0 || sec > maxSocketTime {
			f.reject("timeout", "must be from 0 to %d seconds", maxSocketTime)
		}
		req.TimeoutMs = sec * 1000
	}
	req.Pty = spawnPty(f, q)
	return command, args, req, f.err
}

// fieldsOf makes texts of a query what they would be in a body. An empty one is
// as good as none.
func fieldsOf(q url.Values, names ...string) *fields {
	f := &fields{m: map[string]json.RawMessage{}}
	for _, name := range names {
		if v := q.Get(name); v != "" {
			f.m[name], _ = json.Marshal(v) // a string always can be
		}
	}
	return f
}

// maxSocketTime bounds the timeout of a command with a socket, in seconds. 0 is
// none: such a command ends with its client.
const maxSocketTime = 7 * 24 * 3600

// spawnPty reads whether the command wants a terminal: when it says so, or says
// nothing but gives a size.
func spawnPty(f *fields, q url.Values) *guestpb.Pty {
	wanted := q.Get("rows") != "" || q.Get("cols") != ""
	for _, name := range []string{"tty", "pty"} {
		if v := q.Get(name); v != "" {
			var err error
			if wanted, err = strconv.ParseBool(v); err != nil {
				f.reject(name, "must be true or false")
			}
		}
	}
	if !wanted {
		return nil
	}
	size := func(name string, standard int) uint32 {
		v := q.Get(name)
		if v == "" || v == "0" { // zero is how some clients spell "unknown"
			return uint32(standard)
		}
		n, err := strconv.Atoi(v)
		if err != nil || n < 1 || n > maxCells {
			f.reject(name, "must be from 1 to %d", maxCells)
		}
		return uint32(n)
	}
	return &guestpb.Pty{Cols: size("cols", 80), Rows: size("rows", 24)}
}

// spawnEnv reads variables: a JSON object, or NAME=VALUE as often as needed.
func spawnEnv(f *fields, given []string) map[string]string {
	if len(given) == 0 {
		return nil
	}
	if len(given) == 1 && (given[0] == "" || strings.HasPrefix(given[0], "{")) {
		if given[0] != "" {
			f.m["env"] = json.RawMessage(given[0])
		}
		return f.env("env")
	}
	env := make(map[string]string, len(given))
	for _, pair := range given {
		name, value, ok := strings.Cut(pair, "=")
		switch {
		case !ok || name == "":
			f.reject("env", "must be NAME=VALUE or a JSON object")
		case len(pair) > maxEnvValue:
			f.reject("env."+cutText(name, 64), "must not be longer than %d bytes", maxEnvValue)
		}
		f.check("env", pair, maxEnvValue)
		env[name] = value
	}
	return env
}

// spawnQuery reads the query of a spawn. Some clients escape only a few
// characters, so a percent sign may be just that; and the one known to leave
// the plus sign alone means no space by it.
func spawnQuery(r *http.Request) url.Values {
	q := url.Values{}
	for pair := range strings.SplitSeq(r.URL.RawQuery, "&") {
		name, value, _ := strings.Cut(pair, "=")
		q.Add(name, unescape(value, !fromGo(r)))
	}
	return q
}

// unescape reads a part of a query as far as it is escaped.
func unescape(s string, plusIsSpace bool) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '%' && i+2 < len(s) {
			if c, err := strconv.ParseUint(s[i+1:i+3], 16, 8); err == nil {
				b.WriteByte(byte(c))
				i += 2
				continue
			}
		}
		if s[i] == '+' && plusIsSpace {
			b.WriteByte(' ')
			continue
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// noSocket refuses an ordinary request to an endpoint that is a WebSocket.
func (s *Server) noSocket(r *http.Request, c sandbox.Caller) error {
	if _, err := s.deps.Sandboxes.Get(r.Context(), c, param(r, "id")); err != nil {
		return err
	}
	return errUpgrade
}

var (
	errUpgrade    = sandbox.E(sandbox.Malformed, sandbox.CodeUpgradeRequired, "this endpoint is a WebSocket: ask for an upgrade of the connection")
	errClientLeft = errors.New("the client has left")
)
