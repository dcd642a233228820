package server

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"path"
	"strconv"
	"strings"
	"sync"
	"time"

	"silica.dev/silica/api"
	"silica.dev/silica/internal/guest"
	"silica.dev/silica/internal/guest/guestpb"
	"silica.dev/silica/sandbox"
)

// The app of a template is one process of the agent's, which installs it and then
// becomes it. The daemon keeps nothing of it: who asks again, after a time-out or
// a restart of the daemon, finds the same process.

func (s *Server) appRoutes() []route {
	return []route{
		{"POST", sbx + "/template/start", sandboxesWrite, counted, s.startApp},
		{"GET", sbx + "/artifacts", sandboxesRead, counted, s.artifacts},
	}
}

const (
	// installWait is how long a request waits for an installation, which then goes
	// on: less than the minute after which public clients give up.
	installWait = 45 * time.Second
	// appWords is how much of the log's end the details of a failure have.
	appWords = 4 << 10
)

var errAppInstalls = errors.New("the installation goes on")

// appRequest is what a caller wants to run.
type appRequest struct {
	app     guest.App
	install bool
	restart bool
}

func parseApp(r *http.Request) (appRequest, error) {
	f, err := readFields(r)
	if err != nil {
		return appRequest{}, err
	}
	q := appRequest{app: guest.App{
		Install: f.text(maxCommand, "install_command"),
		Start:   f.text(maxCommand, "start_command"),
		Workdir: f.text(maxPath, "workdir", "working_dir", "cwd"),
	}}
	port, _ := f.integer(1, 65535, "port", "preview_port")
	q.app.Port = int(port)
	given := false
	if q.install, given = f.boolean("install"); !given {
		q.install = q.app.Install != "" // who names a command wants it run
	}
	q.restart, _ = f.boolean("restart")
	if q.app.Workdir != "" && !path.IsAbs(q.app.Workdir) {
		f.reject("workdir", "must be an absolute path")
	}
	return q, f.err
}

// of fills in what the template says.
func (q appRequest) of(t sandbox.Template) (guest.App, error) {
	a := q.app
	theirs := guest.AppOf(t)
	if a.Install == "" {
		a.Install = t.Built.InstallCmd
	}
	if !q.install {
		a.Install = ""
	}
	if a.Start == "" {
		a.Start = theirs.Start
	}
	if a.Port == 0 {
		a.Port = theirs.Port
	}
	if a.Workdir == "" {
		a.Workdir = appDir(t)
	}
	a.User = theirs.User
	if a.Start == "" {
		return a, sandbox.Field("start_command", "is needed: the template has none")
	}
	return a, nil
}

func appDir(t sandbox.Template) string {
	if t.Workdir == "" {
		return homeDir
	}
	return t.Workdir
}

// templateOf finds what a sandbox was made from; of a template that is no more
// only the name is left.
func (s *Server) templateOf(ctx context.Context, sb sandbox.Sandbox) (sandbox.Template, error) {
	t, err := s.deps.Templates.FindTemplate(ctx, sb.Tenant, sb.Spec.Template)
	if err != nil && sandbox.AsError(err).Kind == sandbox.NotFound {
		return sandbox.Template{ID: sb.Spec.Template, Slug: sb.Spec.Image}, nil
	}
	return t, err
}

// startApp starts the app of a sandbox's template. While the same one runs, or is
// being installed, it only tells of it; one that runs with other commands is
// ended first, and so is any when the caller wants a restart.
func (s *Server) startApp(w http.ResponseWriter, r *http.Request, c sandbox.Caller) error {
	ctx, g, sb, err := s.deps.Sandboxes.Guest(r.Context(), c, param(r, "id"))
	if err != nil {
		return err
	}
	q, err := parseApp(r)
	if err != nil {
		return err
	}
	t, err := s.templateOf(ctx, sb)
	if err != nil {
		return err
	}
	app, err := q.of(t)
	if err != nil {
		return err
	}
	p, runs, err := s.ensureApp(ctx, g, sb.ID, app, q.restart)
	if err != nil {
		return err
	}
	status, err := s.awaitApp(ctx, g, p)
	if err != nil {
		return err
	}
	writeOne(w, http.StatusOK, api.App{
		Status: status, SandboxID: string(sb.ID), TemplateID: cmp.Or(sb.Spec.Image, sb.Spec.Template), Workdir: app.Workdir, PreviewPort: portOrNull(app.Port),
		LogsPath: guest.AppLog, PIDPath: guest.AppPID, ArtifactPaths: artifactPaths(t), AlreadyRuns: runs,
	})
	return nil
}

// ensureApp has this app run, and says whether it did so before.
func (s *Server) ensureApp(ctx context.Context, g *guest.Client, id sandbox.ID, app guest.App, restart bool) (p *guestpb.Process, runs bool, err error) {
	ctx, _, cancel := s.patient(ctx)
	defer cancel()
	unlock, err := s.apps.lock(ctx, id)
	if err != nil {
		return nil, false, err
	}
	defer unlock()
	last, err := g.LastApp(ctx)
	if err != nil {
		return nil, false, err
	}
	if last != nil && last.Running {
		if app.Is(last) && !restart {
			return last, true, nil
		}
		if err := g.StopApp(ctx, last); err != nil {
			return nil, false, err
		}
	}
	p, err = g.StartApp(ctx, app)
	return p, false, err
}

// awaitApp waits until an app is past its installation, and has not ended at
// once; if that takes long, only for a while.
func (s *Server) awaitApp(ctx context.Context, g *guest.Client, p *guestpb.Process) (status string, err error) {
	within, cancel := context.WithTimeoutCause(ctx, installWait, errAppInstalls)
	defer cancel()
	exit, err := g.AwaitApp(within, p.Id)
	switch {
	case errors.Is(context.Cause(within), errAppInstalls):
		return api.AppInstalling, nil
	case err != nil:
		return "", err
	case exit == nil || exit.ExitCode == 0:
		return api.AppStarted, nil
	}
	return "", s.appFailed(ctx, g, p.Id, exit)
}

// appFailed is the error of an app that ended instead of running. A Conflict,
// because most clients repeat a request that failed with a 5xx.
func (s *Server) appFailed(ctx context.Context, g *guest.Client, id uint64, exit *guestpb.ProcessEvent_Exited) error {
	ctx, _, cancel := s.patient(ctx)
	defer cancel()
	phase := "install"
	if p, err := g.Process(ctx, id); err == nil && guest.AppInstalled(p) {
		phase = "start"
	}
	words, _, err := g.AppTail(ctx, appWords)
	e := sandbox.E(sandbox.Conflict, sandbox.CodeTemplateStart,
		"the "+phase+" command ended with exit code "+strconv.Itoa(int(exit.ExitCode))).
		With("phase", phase).With("exit_code", exit.ExitCode).With("output", validText(words)).With("logs_path", guest.AppLog)
	if err != nil {
		return e.Because(err)
	}
	return e
}

// artifacts tells where results of a sandbox are, and of its app.
func (s *Server) artifacts(w http.ResponseWriter, r *http.Request, c sandbox.Caller) error {
	sb, err := s.deps.Sandboxes.Get(r.Context(), c, param(r, "id"))
	if err != nil {
		return err
	}
	t, err := s.templateOf(r.Context(), sb)
	if err != nil {
		return err
	}
	app := guest.AppOf(t)
	a := api.Artifacts{
		SandboxID: string(sb.ID), TemplateID: cmp.Or(sb.Spec.Image, sb.Spec.Template), Workdir: appDir(t), ArtifactPaths: artifactPaths(t),
		Preview: api.AppPreview{Port: portOrNull(app.Port)}, LogsPath: guest.AppLog, PIDPath: guest.AppPID,
		Lifecycle: api.AppLifecycle{Status: api.AppNotStarted, StartCommand: orNull(app.Start), LogsPath: guest.AppLog, PIDPath: guest.AppPID},
	}
	if sb.State == sandbox.Running {
		if err := s.describeApp(r, c, &a); err != nil {
			return err
		}
	}
	writeOne(w, http.StatusOK, a)
	return nil
}

// describeApp adds what runs in a sandbox. It is the sandbox's word.
func (s *Server) describeApp(r *http.Request, c sandbox.Caller, a *api.Artifacts) error {
	return s.withGuest(r, c, func(ctx context.Context, g *guest.Client, _ sandbox.Sandbox) error {
		p, err := g.LastApp(ctx)
		if err != nil || p == nil {
			return err
		}
		l := &a.Lifecycle
		l.Status, l.StartedAt = api.AppStarted, nanoOrNull(p.StartedUnixNano)
		if app, ok := guest.ReadApp(p.Args); ok {
			a.Workdir, a.Preview.Port = shown(app.Workdir, maxPath), portOrNull(app.Port)
			command := shown(app.Start, maxShown)
			l.StartCommand = &command
		}
		if p.Running {
			pid := strconv.FormatUint(uint64(p.Pid), 10)
			if l.PID = &pid; !guest.AppInstalled(p) {
				l.Status = api.AppInstalling
			}
			return nil
		}
		code := p.Exit.GetExitCode()
		l.ExitCode, l.EndedAt, l.Status = &code, nanoOrNull(p.EndedUnixNano), api.AppFailed
		if code == 0 {
			l.Status = api.AppExited
		}
		return nil
	})
}

func artifactPaths(t sandbox.Template) []string {
	if len(t.Built.ArtifactPaths) == 0 {
		return []string{appDir(t)}
	}
	return t.Built.ArtifactPaths
}

func portOrNull(port int) *int {
	if port < 1 || port > 65535 {
		return nil
	}
	return &port
}

// appLogWait is how long a sandbox's log waits for what its app printed.
const appLogWait = 2 * time.Second

// appLog returns the last lines that the app of a sandbox printed. A sandbox that
// does not answer has none: what befell it can be read all the same.
func (s *Server) appLog(ctx context.Context, c sandbox.Caller, sb sandbox.Sandbox, n int) (lines []api.LogLine) {
	const most = 256 << 10
	if sb.State != sandbox.Running || !sb.Ready || n == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, appLogWait)
	defer cancel()
	ctx, g, _, err := s.deps.Sandboxes.Guest(ctx, c, string(sb.ID))
	if err != nil {
		return nil
	}
	text, at, err := g.AppTail(ctx, most)
	if err != nil {
		return nil
	}
	for line := range strings.Lines(validText(text)) {
		line = strings.TrimRight(line, "\r\n")
		lines = append(lines, api.LogLine{Timestamp: at.UTC(), Source: "template", Stream: "stdout", Level: "info", Line: line, Message: line})
	}
	return lines[max(len(lines)-n, 0):]
}

// launches lets one at a time start the app of a sandbox.
type launches struct {
	mu   sync.Mutex
	busy map[sandbox.ID]chan struct{} // closed by who holds it
}

func newLaunches() *launches { return &launches{busy: map[sandbox.ID]chan struct{}{}} }

func (l *launches) lock(ctx context.Context, id sandbox.ID) (unlock func(), err error) {
	for {
		l.mu.Lock()
		held, taken := l.busy[id]
		if !taken {
			mine := make(chan struct{})
			l.busy[id] = mine
			l.mu.Unlock()
			return func() {
				l.mu.Lock()
				delete(l.busy, id)
				l.mu.Unlock()
				close(mine)
			}, nil
		}
		l.mu.Unlock()
		select {
		case <-held:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}
