package guest

import (
	"context"
	"errors"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"silica.dev/silica/internal/guest/guestpb"
	"silica.dev/silica/sandbox"
)

// Where the app of a template leaves its traces, inside its sandbox.
const (
	AppFolder = "/tmp/miosa-run"
	AppLog    = AppFolder + "/template.log" // what installation and app print
	AppPID    = AppFolder + "/template.pid" // of the app, once it is installed
)

// KindApp marks an app in the agent's table of processes.
const KindApp = "template"

// App is what a template has to run in its sandboxes: a program that goes on in
// the background, and how it is installed.
type App struct {
	Install string // run to its end first; empty: nothing to install
	Start   string
	Port    int    // told to both as PORT; 0: none
	Workdir string // made if need be
	User    string // empty: root
	Env     map[string]string
}

// appScript installs an app and becomes it. Its arguments are workdir, port,
// user, start and install command. What it prints itself goes to the agent's
// journal, and says how far it is; everything else goes to the log.
const appScript = `umask 022
mkdir -p ` + AppFolder + ` || exit 125
exec 3>&1 >` + AppLog + ` 2>&1 </dev/null
rm -f ` + AppPID + `
mkdir -p "$1" && cd "$1" || exit 125
[ -z "$2" ] || export PORT="$2"
sh=/bin/sh; [ ! -x /bin/bash ] || sh=/bin/bash
as=; [ -z "$3" ] || {
	home=$(getent passwd "$3" | cut -d: -f6); group=$(id -g "$3") || exit 125
	export HOME="${home:-/}" USER="$3" LOGNAME="$3"
	as="setpriv --reuid $3 --regid $group --init-groups --"
}
if [ -n "$5" ]; then
	$as $sh -c "$5" 3>&- || { code=$?; echo "the install command failed with exit code $code"; exit $code; }
fi
echo $$ >` + AppPID + `
echo ` + AppBegun + ` >&3
exec 3>&-
exec $as $sh -c "$4"
`

// AppBegun is what an app's journal says once it is installed.
const AppBegun = "app-begun"

// appSettle is how long an app must live until it counts as running.
const appSettle = 300 * time.Millisecond

// ReadApp reads back what [App.args] wrote; ok is false for another command.
func ReadApp(args []string) (a App, ok bool) {
	if len(args) != 9 || args[2] != appScript {
		return App{}, false
	}
	port, _ := strconv.Atoi(args[5])
	return App{Workdir: args[4], Port: port, User: args[6], Start: args[7], Install: args[8]}, true
}

func (a App) args() []string {
	port := ""
	if a.Port != 0 {
		port = strconv.Itoa(a.Port)
	}
	return []string{"/bin/sh", "-c", appScript, "app", a.Workdir, port, a.User, a.Start, a.Install}
}

// Is tells whether a process is this app, however it was installed.
func (a App) Is(p *guestpb.Process) bool {
	mine := a.args()
	return len(p.Args) == len(mine) && slices.Equal(p.Args[:len(mine)-1], mine[:len(mine)-1])
}

// StartApp starts an app in the background.
func (c *Client) StartApp(ctx context.Context, a App) (*guestpb.Process, error) {
	return c.Spawn(ctx, &guestpb.SpawnRequest{
		Kind: KindApp, Name: KindApp, Command: a.Start,
		Start: &guestpb.StartRequest{Args: a.args(), Cwd: "/", Env: a.Env},
	})
}

// AppOf is the app of a template, without its installation.
func AppOf(t sandbox.Template) App {
	return App{Start: t.Built.StartCmd, Port: t.Built.PreviewPort, Workdir: t.Workdir, User: t.User}
}

// LastApp returns the app that was started last, whether or not it still runs;
// nil when there was none.
func (c *Client) LastApp(ctx context.Context) (last *guestpb.Process, err error) {
	list, err := c.Processes(ctx, KindApp)
	for _, p := range list {
		if p != nil && p.Kind == KindApp && (last == nil || p.Id > last.Id) {
			last = p
		}
	}
	return last, err
}

// AppInstalled tells whether a process that is an app has come to its start command.
func AppInstalled(p *guestpb.Process) bool { return p.End > 0 }

// appGrace is how long an app may take to end by itself.
const appGrace = 5 * time.Second

// StopApp ends an app with everything it started.
func (c *Client) StopApp(ctx context.Context, p *guestpb.Process) error {
	const term, kill = 15, 9
	for _, signal := range []int32{term, kill} {
		if err := c.Signal(ctx, &guestpb.SignalRequest{Id: p.Id, Signal: signal, Tree: true}); err != nil {
			return err
		}
		patience, cancel := context.WithTimeout(ctx, appGrace)
		err := c.awaitExit(patience, p.Id)
		cancel()
		if err == nil || ctx.Err() != nil {
			return err
		}
	}
	return lost
}

func (c *Client) awaitExit(ctx context.Context, id uint64) error {
	for ev, err := range c.Attach(ctx, &guestpb.AttachRequest{Id: id, ExitOnly: true}) {
		if err != nil {
			return err
		}
		if ev.GetExited() != nil {
			return nil
		}
	}
	return lost
}

// AwaitApp blocks until an app is installed and has run for a moment, or has
// ended: then the exit says how.
func (c *Client) AwaitApp(ctx context.Context, id uint64) (*guestpb.ProcessEvent_Exited, error) {
	settled, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var said strings.Builder
	for ev, err := range c.Attach(settled, &guestpb.AttachRequest{Id: id}) {
		if err != nil {
			if errors.Is(context.Cause(settled), errSettled) {
				return nil, nil
			}
			return nil, err
		}
		if exit := ev.GetExited(); exit != nil {
			return exit, nil
		}
		if out := ev.GetOutput(); out != nil && said.Len() <= len(AppBegun) {
			said.Write(out.Data)
			if strings.Contains(said.String(), AppBegun) {
				time.AfterFunc(appSettle, func() { cancel(errSettled) })
			}
		}
	}
	if err := context.Cause(settled); err != nil && !errors.Is(err, errSettled) {
		return nil, err
	} else if err == nil {
		return nil, lost
	}
	return nil, nil
}

var errSettled = errors.New("the app has run for a moment")

// AppTail returns the last bytes of what the app printed, at most n, and when it
// did so last; nothing when there is no log.
func (c *Client) AppTail(ctx context.Context, n int64) (text []byte, at time.Time, err error) {
	e, err := c.Stat(ctx, AppLog)
	if none(err) {
		return nil, at, nil
	}
	if err != nil {
		return nil, at, err
	}
	f, err := c.ReadFile(ctx, AppLog, max(e.Size-n, 0))
	if none(err) {
		return nil, at, nil
	}
	if err != nil {
		return nil, at, err
	}
	defer f.Close()
	text, err = io.ReadAll(io.LimitReader(f, n))
	return text, time.Unix(0, e.ModifiedUnixNano), err
}

// none tells whether an error says that there is no such file.
func none(err error) bool {
	var e *sandbox.Error
	return errors.As(err, &e) && (e.Kind == sandbox.NotFound || e.Code == sandbox.CodeFileNotFound)
}
