package agent_test

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"

	"silica.dev/silica/internal/guest/guestpb"
	"silica.dev/silica/sandbox"
)

func (a *guestAgent) service(t *testing.T, name string) *guestpb.Service {
	t.Helper()
	list, err := a.Services(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, sv := range list {
		if sv.Name == name {
			return sv
		}
	}
	t.Fatalf("no service %q among %v", name, list)
	return nil
}

func (a *guestAgent) serve(t *testing.T, sv *guestpb.Service) *guestpb.Service {
	t.Helper()
	made, err := a.CreateService(t.Context(), sv)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_, _ = a.ControlService(context.Background(), made.Id, guestpb.ControlServiceRequest_DELETE)
	})
	return made
}

func TestServiceIsKeptRunning(t *testing.T) {
	a := one(t)
	sv := a.serve(t, &guestpb.Service{Name: "web", Command: "echo begin; exec sleep 4712", Cwd: "/", Port: 80, Env: map[string]string{"A": "b"}})
	if sv.Status != "running" || sv.Pid == 0 || sv.Restart != "always" || !strings.HasPrefix(sv.Id, "svc_") || sv.Port != 80 {
		t.Fatalf("made %v", sv)
	}
	// Listed apart from other processes, as one of its kind.
	if list, err := a.Processes(t.Context(), "test"); err != nil || len(list) != 0 {
		t.Errorf("listed as a process: %v, %v", list, err)
	}
	a.attach(t, &guestpb.AttachRequest{Id: sv.Log}, func(r *attached) bool { return strings.Contains(r.out, "begin") })
	if err := a.Signal(t.Context(), &guestpb.SignalRequest{Pid: sv.Pid, Signal: 9}); err != nil {
		t.Fatal(err)
	}
	until(t, "it was started again", func() bool {
		now := a.service(t, "web")
		return now.Status == "running" && now.Pid != sv.Pid && now.Restarts == 1 && now.LastExit.GetSignal() == "SIGKILL"
	})
	r := a.attach(t, &guestpb.AttachRequest{Id: sv.Log}, func(r *attached) bool { return strings.Count(r.out, "begin\n") == 2 })
	if remarks := r.byStream[guestpb.ProcessEvent_SYSTEM]; !strings.Contains(remarks, "web was ended by SIGKILL") || !strings.Contains(remarks, "started again in 1s") {
		t.Errorf("remarks %q", remarks)
	}

	stopped, err := a.ControlService(t.Context(), "web", guestpb.ControlServiceRequest_STOP)
	if err != nil || stopped.Status != "stopped" || stopped.Pid != 0 {
		t.Errorf("stopped: %v, %v", stopped, err)
	}
	if n := a.alive(t, "sleep 4712"); n != 0 {
		t.Errorf("%d live after the stop", n)
	}
	started, err := a.ControlService(t.Context(), sv.Id, guestpb.ControlServiceRequest_START)
	if err != nil || started.Status != "running" {
		t.Errorf("started: %v, %v", started, err)
	}
	again, err := a.ControlService(t.Context(), sv.Id, guestpb.ControlServiceRequest_RESTART)
	if err != nil || again.Status != "running" || again.Pid == started.Pid {
		t.Errorf("restarted: %v, %v", again, err)
	}
	if _, err := a.ControlService(t.Context(), sv.Id, guestpb.ControlServiceRequest_DELETE); err != nil {
		t.Error(err)
	}
	if _, err := a.ControlService(t.Context(), "web", guestpb.ControlServiceRequest_START); !sandbox.HasCode(err, sandbox.CodeNotFound) {
		t.Errorf("deleted, and yet: %v", err)
	}
	until(t, "it is gone", func() bool { return a.alive(t, "sleep 4712") == 0 })
}

func TestServicePolicies(t *testing.T) {
	a := one(t)
	for _, tt := range []struct{ restart, command, want string }{
		{"never", "exit 0", "stopped"},
		{"never", "exit 3", "failed"},
		{"on-failure", "exit 0", "stopped"},
		{"on-failure", "exit 3", "backoff"},
		{"always", "exit 0", "backoff"},
		{"always", "no-such-command", "backoff"},
	} {
		t.Run(tt.restart+" "+tt.command, func(t *testing.T) {
			sv := a.serve(t, &guestpb.Service{Name: "s", Command: tt.command, Cwd: "/", Restart: tt.restart})
			until(t, tt.want, func() bool { return a.service(t, "s").Status == tt.want })
			now := a.service(t, "s")
			if (now.NextStartUnixNano > 0) != (tt.want == "backoff") || now.LastExit == nil {
				t.Errorf("now %v", now)
			}
			if _, err := a.ControlService(t.Context(), sv.Id, guestpb.ControlServiceRequest_DELETE); err != nil {
				t.Error(err)
			}
		})
	}
	sv := a.serve(t, &guestpb.Service{Name: "nowhere", Command: "true", Cwd: "/no/such/folder"})
	if sv.Status != "backoff" {
		t.Errorf("in a folder that is not there: %v", sv)
	}
	// What a service leaves behind does not pile up.
	a.serve(t, &guestpb.Service{Name: "daemon", Command: "setsid sleep 4713 & exit 1", Cwd: "/"})
	until(t, "it was started twice", func() bool { return a.service(t, "daemon").Restarts >= 1 })
	until(t, "its daemons are gone", func() bool { return a.alive(t, "sleep 4713") == 0 })
}

func TestServiceRefuses(t *testing.T) {
	a := one(t)
	a.serve(t, &guestpb.Service{Name: "there", Command: "sleep 100", Cwd: "/"})
	for _, tt := range []struct {
		sv   *guestpb.Service
		code string
	}{
		{&guestpb.Service{Command: "true"}, sandbox.CodeValidation},
		{&guestpb.Service{Name: "a\x1b[2Jb", Command: "true"}, sandbox.CodeValidation},
		{&guestpb.Service{Name: "..", Command: "true"}, sandbox.CodeValidation},
		{&guestpb.Service{Name: "a/b", Command: "true"}, sandbox.CodeValidation},
		{&guestpb.Service{Name: "svc_1", Command: "true"}, sandbox.CodeValidation},
		{&guestpb.Service{Name: "s"}, sandbox.CodeValidation},
		{&guestpb.Service{Name: "s", Command: "true", Port: 70000}, sandbox.CodeValidation},
		{&guestpb.Service{Name: "s", Command: "true", Restart: "often"}, sandbox.CodeValidation},
		{&guestpb.Service{Name: "s", Command: "true", Env: map[string]string{"": "x"}}, sandbox.CodeValidation},
		{&guestpb.Service{Name: "s", Command: "true", Cwd: "here"}, sandbox.CodeValidation},
		{&guestpb.Service{Name: "there", Command: "true"}, sandbox.CodeConflict},
	} {
		if sv, err := a.CreateService(t.Context(), tt.sv); !sandbox.HasCode(err, tt.code) {
			t.Errorf("%v: %v, %v; want %s", tt.sv, sv, err, tt.code)
		}
	}
	for i := range 63 {
		a.serve(t, &guestpb.Service{Name: fmt.Sprint("s", i), Command: "true", Restart: "never", Cwd: "/"})
	}
	if _, err := a.CreateService(t.Context(), &guestpb.Service{Name: "more", Command: "true"}); !sandbox.HasCode(err, sandbox.CodeConflict) {
		t.Errorf("the 65th: %v", err)
	}
}

// Services, and what processes wrote, come back with the sandbox's files.
func TestServicesComeBack(t *testing.T) {
	if os.Getenv(envAddr) != "" {
		t.Skip("the sandbox can't be stopped from here")
	}
	a := one(t)
	web := a.serve(t, &guestpb.Service{Name: "web", Command: "echo $A here; exec sleep 4714", Cwd: "/", Env: map[string]string{"A": "b"}})
	off := a.serve(t, &guestpb.Service{Name: "off", Command: "echo off", Cwd: "/", Restart: "never"})
	if _, err := a.ControlService(t.Context(), "off", guestpb.ControlServiceRequest_STOP); err != nil {
		t.Fatal(err)
	}
	a.attach(t, &guestpb.AttachRequest{Id: web.Log}, func(r *attached) bool { return strings.Contains(r.out, "b here") })
	ended := a.spawn(t, shell("echo done; exit 4"))
	a.attach(t, &guestpb.AttachRequest{Id: ended.Id}, nil)
	cutOff := a.spawn(t, shell("echo going on; sleep 1000"))
	a.attach(t, &guestpb.AttachRequest{Id: cutOff.Id}, func(r *attached) bool { return strings.Contains(r.out, "going on") })

	b := another(t, a)
	if list, err := b.Services(t.Context()); err != nil || len(list) != 0 {
		t.Errorf("before Init: %v, %v", list, err)
	}
	for range 2 {
		if _, err := b.Init(t.Context(), &guestpb.InitRequest{}); err != nil {
			t.Fatal(err)
		}
	}
	until(t, "the service runs again", func() bool { return b.service(t, "web").Status == "running" })
	if sv := b.service(t, "web"); sv.Id != web.Id || sv.Log != web.Log || sv.Env["A"] != "b" {
		t.Errorf("came back as %v", sv)
	}
	if sv := b.service(t, "off"); sv.Id != off.Id || sv.Status != "stopped" {
		t.Errorf("the stopped one came back as %v", sv)
	}
	b.attach(t, &guestpb.AttachRequest{Id: web.Log}, func(r *attached) bool { return strings.Count(r.out, "b here") == 2 })
	if r := b.attach(t, &guestpb.AttachRequest{Id: ended.Id}, nil); r.out != "done\n" || r.exit.GetExitCode() != 4 || r.first.Process.Command != "as written" {
		t.Errorf("the ended process came back as %q %v %v", r.out, r.exit, r.first)
	}
	if r := b.attach(t, &guestpb.AttachRequest{Id: cutOff.Id}, nil); r.out != "going on\n" || r.exit.GetSignal() != "SIGKILL" {
		t.Errorf("the one cut off came back as %q %v", r.out, r.exit)
	}
	if p := b.spawn(t, shell("true")); p.Id <= cutOff.Id {
		t.Errorf("id %d was given before", p.Id)
	}
}

func TestDamagedServicesAreSetAside(t *testing.T) {
	if os.Getenv(envAddr) != "" {
		t.Skip("the sandbox can't be stopped from here")
	}
	for name, text := range map[string]string{
		"no JSON":     "{services: [",
		"wrong types": `{"services": [{"name": 7}]}`,
		"one of two":  `{"services": [{"id": "svc_1", "name": "ok", "command": "sleep 100", "dir": "/", "restart": "always"}, {"id": "svc_2", "name": "no/pe", "command": "x", "restart": "always"}]}`,
	} {
		t.Run(name, func(t *testing.T) {
			a := one(t)
			dir := a.root + "/var/lib/silica"
			if err := os.MkdirAll(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(dir+"/services.json", []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			log := a.follow(t)
			if _, err := a.Init(t.Context(), &guestpb.InitRequest{}); err != nil {
				t.Fatal(err)
			}
			until(t, "it is told", func() bool { return log.find(guestpb.Notice_STATE_DAMAGED) != nil })
			list, err := a.Services(t.Context())
			if want := strings.Count(name, "one"); err != nil || len(list) != want {
				t.Errorf("%v, %v", list, err)
			}
			a.serve(t, &guestpb.Service{Name: "new", Command: "sleep 100", Cwd: "/"})
		})
	}
}
