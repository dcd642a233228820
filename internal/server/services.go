package server

import (
	"context"
	"net/http"
	"strconv"
	"strings"
	"time"

	"silica.dev/silica/api"
	"silica.dev/silica/internal/guest"
	"silica.dev/silica/internal/guest/guestpb"
	"silica.dev/silica/sandbox"
)

// kindService marks the processes of services, which the agent supervises.
const kindService = "service"

var errNoService = sandbox.E(sandbox.NotFound, sandbox.CodeNotFound, "service not found")

func (s *Server) createService(w http.ResponseWriter, r *http.Request, c sandbox.Caller) error {
	f, err := readFields(r)
	if err != nil {
		return err
	}
	port, _ := f.integer(0, 65535, "port")
	req := &guestpb.Service{
		Name: f.label(maxLabel, "name"), Command: f.text(maxCommand, "command"), Port: uint32(port),
		Env: f.env("env"), Cwd: f.text(maxPath, "cwd", "working_dir", "dir"), Restart: f.restart("restart", "restart_policy"),
	}
	if f.err != nil {
		return f.err
	}
	return s.withGuest(r, c, func(ctx context.Context, g *guest.Client, sb sandbox.Sandbox) error {
		sv, err := g.CreateService(ctx, req)
		if err != nil {
			return err
		}
		writeOne(w, http.StatusCreated, wireService(sb.ID)(sv))
		return nil
	})
}

// restart reads a policy, also in the words of other supervisors.
func (f *fields) restart(names ...string) string {
	switch v := f.label(maxLabel, names...); v {
	case "no":
		return "never"
	case "on_failure":
		return "on-failure"
	case "unless-stopped":
		return "always"
	default:
		return v // the agent knows which there are
	}
}

// withGuest does something with a sandbox's agent, which must answer in time.
func (s *Server) withGuest(r *http.Request, c sandbox.Caller, do func(context.Context, *guest.Client, sandbox.Sandbox) error) error {
	ctx, g, sb, err := s.deps.Sandboxes.Guest(r.Context(), c, param(r, "id"))
	if err != nil {
		return err
	}
	ctx, _, cancel := s.patient(ctx)
	defer cancel()
	return do(ctx, g, sb)
}

func (s *Server) listServices(w http.ResponseWriter, r *http.Request, c sandbox.Caller) error {
	return s.withGuest(r, c, func(ctx context.Context, g *guest.Client, sb sandbox.Sandbox) error {
		list, err := g.Services(ctx)
		if err != nil {
			return err
		}
		return writeList(w, r, list, wireService(sb.ID))
	})
}

// findService finds the service that the path names by id or name.
func findService(ctx context.Context, g *guest.Client, ref string) (*guestpb.Service, error) {
	list, err := g.Services(ctx)
	if err != nil {
		return nil, err
	}
	for _, sv := range list {
		if sv != nil && (sv.Id == ref || sv.Name == ref) {
			return sv, nil
		}
	}
	return nil, errNoService
}

func (s *Server) getService(w http.ResponseWriter, r *http.Request, c sandbox.Caller) error {
	return s.withGuest(r, c, func(ctx context.Context, g *guest.Client, sb sandbox.Sandbox) error {
		sv, err := findService(ctx, g, param(r, "service"))
		if err != nil {
			return err
		}
		writeOne(w, http.StatusOK, wireService(sb.ID)(sv))
		return nil
	})
}

func (s *Server) deleteService(w http.ResponseWriter, r *http.Request, c sandbox.Caller) error {
	return s.withGuest(r, c, func(ctx context.Context, g *guest.Client, _ sandbox.Sandbox) error {
		sv, err := control(ctx, g, param(r, "service"), guestpb.ControlServiceRequest_DELETE)
		if err != nil {
			return err
		}
		writeOne(w, http.StatusOK, api.ServiceDeleted{ID: shown(sv.Id, maxLabel), Name: shown(sv.Name, maxLabel), Deleted: true})
		return nil
	})
}

// controlService makes the handler of one of start, stop and restart.
func (s *Server) controlService(action guestpb.ControlServiceRequest_Action) handler {
	return func(w http.ResponseWriter, r *http.Request, c sandbox.Caller) error {
		return s.withGuest(r, c, func(ctx context.Context, g *guest.Client, sb sandbox.Sandbox) error {
			sv, err := control(ctx, g, param(r, "service"), action)
			if err != nil {
				return err
			}
			writeOne(w, http.StatusOK, wireService(sb.ID)(sv))
			return nil
		})
	}
}

func control(ctx context.Context, g *guest.Client, ref string, action guestpb.ControlServiceRequest_Action) (*guestpb.Service, error) {
	sv, err := g.ControlService(ctx, ref, action)
	if err != nil && absent(err) {
		return nil, errNoService.Because(err)
	}
	return sv, err
}

// serviceLogs answers with the last lines of a service as one object when tail
// is given, and else with a stream, which ends with what there is unless follow
// is asked for. The public clients want one or the other.
func (s *Server) serviceLogs(w http.ResponseWriter, r *http.Request, c sandbox.Caller) error {
	q := r.URL.Query()
	follow := q.Get("follow") == "true" || q.Get("follow") == "1"
	tail, err := tailOf(r)
	if err != nil {
		return err
	}
	at, err := positionOf(r)
	if err != nil {
		return err
	}
	ctx, g, _, err := s.deps.Sandboxes.Guest(r.Context(), c, param(r, "id"))
	if err != nil {
		return err
	}
	pctx, _, cancel := s.patient(ctx)
	defer cancel()
	sv, err := findService(pctx, g, param(r, "service"))
	if err != nil {
		return err
	}
	if (q.Has("tail") || q.Has("lines")) && !follow && !strings.Contains(r.Header.Get("Accept"), "text/event-stream") {
		return s.writeLogs(pctx, w, c, g, sv.Log, tail)
	}
	cancel()
	req := &guestpb.AttachRequest{Id: sv.Log, TailLines: uint32(tail), Once: !follow}
	if at.given && (at.id == 0 || at.id == sv.Log) {
		req.TailLines, req.Offset = 0, at.offset
	}
	return s.tail(ctx, w, g, req, &tailing{name: eventName})
}

func wireService(id sandbox.ID) func(*guestpb.Service) api.Service {
	return func(sv *guestpb.Service) api.Service {
		a := api.Service{
			ID: shown(sv.GetId(), maxLabel), SandboxID: string(id), ComputerID: string(id), Name: shown(sv.GetName(), maxLabel),
			Command: shown(sv.GetCommand(), maxCommand), Status: serviceStatus(sv.GetStatus()), Env: map[string]string{},
			Cwd: shown(sv.GetCwd(), maxPath), RestartCount: int(sv.GetRestarts()),
			CreatedAt: time.Unix(0, sv.GetCreatedUnixNano()).UTC(), UpdatedAt: time.Unix(0, sv.GetUpdatedUnixNano()).UTC(),
			StartedAt: nanoOrNull(sv.GetStartedUnixNano()), NextStartAt: nanoOrNull(sv.GetNextStartUnixNano()),
		}
		a.Restart = shown(sv.GetRestart(), maxLabel)
		a.RestartPolicy = a.Restart
		for k, v := range sv.GetEnv() {
			a.Env[k] = v
		}
		if sv.GetPort() > 0 {
			port := int(sv.GetPort())
			a.Port = &port
		}
		if sv.GetPid() > 0 {
			pid := strconv.FormatUint(uint64(sv.GetPid()), 10)
			a.PID = &pid
		}
		if sv.GetLastExit() != nil {
			a.ExitCode = &sv.LastExit.ExitCode
		}
		return a
	}
}

// serviceStatus repeats only what the contract knows.
func serviceStatus(word string) string {
	switch word {
	case "starting", "running", "stopping", "stopped", "backoff", "failed":
		return word
	}
	return "failed"
}

func nanoOrNull(nano int64) *time.Time {
	if nano == 0 {
		return nil
	}
	return timeOrNull(time.Unix(0, nano))
}
