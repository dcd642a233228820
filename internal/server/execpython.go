package server

import (
	"context"
	"net/http"
	"strings"
	"time"

	"silica.dev/silica/sandbox"
)

// pythonBoot runs the file that its argument names as if it stood where the
// command starts, so that modules there are found. A traceback shows lines of
// the file, which is why the code is not an argument itself.
const pythonBoot = `import sys; p = sys.argv.pop(1); exec(compile(open(p, "rb").read(), p, "exec"))`

// execPython runs Python code and waits for its end, as exec does.
func (s *Server) execPython(w http.ResponseWriter, r *http.Request, c sandbox.Caller) error {
	f, err := readFields(r)
	if err != nil {
		return err
	}
	code := f.text(maxBody, "code")
	if code == "" {
		f.reject("code", "must not be empty")
	}
	req := execRequest(f, r)
	if f.err != nil {
		return f.err
	}
	x, err := s.begin(r, c, "python3", req)
	if err != nil {
		return err
	}
	defer x.cancel()
	ctx, _, cancel := s.patient(x.ctx)
	defer cancel()
	path, _, err := x.guest.Spool(ctx, strings.NewReader(code))
	if err != nil {
		return err
	}
	defer func() {
		// Whatever became of the command, its code goes.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), 5*time.Second)
		defer cancel()
		_ = x.guest.Remove(ctx, path, false)
	}()
	x.req.Args = []string{"python3", "-c", pythonBoot, path}
	return s.answerExec(w, x, c, x.guest.Start(x.ctx, x.req))
}
