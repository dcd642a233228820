package agent

import (
	"context"

	"connectrpc.com/connect"

	"silica.dev/silica/internal/agent/supervise"
	"silica.dev/silica/internal/guest/guestpb"
	"silica.dev/silica/sandbox"
)

func (s service) CreateService(_ context.Context, r *connect.Request[guestpb.CreateServiceRequest]) (*connect.Response[guestpb.ServiceResponse], error) {
	m := r.Msg.Service
	if m == nil {
		return nil, wireError(sandbox.Field("service", "must be given"))
	}
	sv, err := s.a.services.Create(supervise.Definition{
		Name: m.Name, Command: m.Command, Env: m.Env, Dir: m.Cwd, Port: int(min(m.Port, 1<<20)), Restart: supervise.Restart(m.Restart),
	})
	return answerService(sv, err)
}

func (s service) ListServices(context.Context, *connect.Request[guestpb.ListServicesRequest]) (*connect.Response[guestpb.ListServicesResponse], error) {
	res := &guestpb.ListServicesResponse{}
	for _, sv := range s.a.services.List() {
		res.Services = append(res.Services, wireService(sv))
	}
	return answer(res, nil)
}

func (s service) ControlService(ctx context.Context, r *connect.Request[guestpb.ControlServiceRequest]) (*connect.Response[guestpb.ServiceResponse], error) {
	all := s.a.services
	switch ref := r.Msg.Service; r.Msg.Action {
	case guestpb.ControlServiceRequest_START:
		return answerService(all.Start(ref))
	case guestpb.ControlServiceRequest_STOP:
		return answerService(all.Stop(ctx, ref))
	case guestpb.ControlServiceRequest_RESTART:
		return answerService(all.Restart(ctx, ref))
	case guestpb.ControlServiceRequest_DELETE:
		return answerService(all.Delete(ctx, ref))
	}
	return nil, wireError(sandbox.Field("action", "is unknown"))
}

func answerService(sv supervise.Service, err error) (*connect.Response[guestpb.ServiceResponse], error) {
	return answer(&guestpb.ServiceResponse{Service: wireService(sv)}, err)
}

func wireService(sv supervise.Service) *guestpb.Service {
	w := &guestpb.Service{
		Id: sv.ID, Name: sv.Name, Command: sv.Command, Env: sv.Env, Cwd: sv.Dir, Port: uint32(sv.Port), Restart: string(sv.Restart),
		CreatedUnixNano: sv.Created.UnixNano(), UpdatedUnixNano: sv.Updated.UnixNano(),
		Status: string(sv.Status), Pid: uint32(sv.PID), Restarts: uint32(sv.Restarts), Log: sv.Log,
	}
	if !sv.Began.IsZero() {
		w.StartedUnixNano = sv.Began.UnixNano()
	}
	if !sv.NextStart.IsZero() {
		w.NextStartUnixNano = sv.NextStart.UnixNano()
	}
	if sv.Last != nil {
		w.LastExit = wireExit(*sv.Last)
	}
	return w
}
