package server

import (
	"context"
	"slices"
	"time"

	"connectrpc.com/connect"

	"silica.dev/silica/internal/guest"
	"silica.dev/silica/internal/guest/guestpb"
	"silica.dev/silica/sandbox"
)

// The services of the fake agent write into spawned processes of its table.

func (a *fakeAgent) CreateService(_ context.Context, req *connect.Request[guestpb.CreateServiceRequest]) (*connect.Response[guestpb.ServiceResponse], error) {
	sv := req.Msg.Service
	if sv.Name == "" || sv.Command == "" {
		return nil, guest.WireError(sandbox.Field("name", "and command must be given"))
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	log := uint64(len(a.spawned) + 1)
	a.spawned = append(a.spawned, &spawned{Process: &guestpb.Process{Id: log, Kind: kindService, Pid: 7}})
	sv.Id, sv.Status, sv.Pid, sv.Log = "svc_"+sv.Name, "running", 7, log
	sv.CreatedUnixNano, sv.UpdatedUnixNano, sv.StartedUnixNano = time.Now().UnixNano(), time.Now().UnixNano(), time.Now().UnixNano()
	if sv.Restart == "" {
		sv.Restart = "always"
	}
	a.services = append(a.services, sv)
	return connect.NewResponse(&guestpb.ServiceResponse{Service: sv}), nil
}

func (a *fakeAgent) ListServices(context.Context, *connect.Request[guestpb.ListServicesRequest]) (*connect.Response[guestpb.ListServicesResponse], error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return connect.NewResponse(&guestpb.ListServicesResponse{Services: slices.Clone(a.services)}), nil
}

func (a *fakeAgent) ControlService(_ context.Context, req *connect.Request[guestpb.ControlServiceRequest]) (*connect.Response[guestpb.ServiceResponse], error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	i := slices.IndexFunc(a.services, func(sv *guestpb.Service) bool { return sv.Id == req.Msg.Service || sv.Name == req.Msg.Service })
	if i < 0 {
		return nil, guest.WireError(sandbox.E(sandbox.NotFound, sandbox.CodeNotFound, "no such service"))
	}
	sv := a.services[i]
	switch req.Msg.Action {
	case guestpb.ControlServiceRequest_STOP:
		sv.Status, sv.Pid, sv.LastExit = "stopped", 0, &guestpb.ProcessEvent_Exited{ExitCode: 143, Signal: "SIGTERM"}
	case guestpb.ControlServiceRequest_DELETE:
		a.services = slices.Delete(a.services, i, i+1)
	default:
		sv.Status, sv.Pid = "running", 8
	}
	return connect.NewResponse(&guestpb.ServiceResponse{Service: sv}), nil
}
