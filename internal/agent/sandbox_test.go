package agent_test

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"silica.dev/silica/internal/guest/guestpb"
	"silica.dev/silica/sandbox"
)

// noticeLog collects notices in the background.
type noticeLog struct {
	mu   sync.Mutex
	list []*guestpb.Notice
}

func (a *guestAgent) follow(t *testing.T) *noticeLog {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	log, done, up := &noticeLog{}, make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for n, err := range a.Notices(ctx, 0) {
			if err != nil {
				return
			}
			log.mu.Lock()
			log.list = append(log.list, n)
			if len(log.list) == 1 {
				close(up)
			}
			log.mu.Unlock()
		}
	}()
	t.Cleanup(func() { cancel(); <-done })
	select {
	case <-up:
	case <-time.After(5 * time.Second):
		t.Fatal("no READY")
	}
	return log
}

func (l *noticeLog) find(kind guestpb.Notice_Kind) *guestpb.Notice {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, n := range l.list {
		if n.Kind == kind {
			return n
		}
	}
	return nil
}

func (l *noticeLog) expect(t *testing.T, kind guestpb.Notice_Kind) *guestpb.Notice {
	t.Helper()
	until(t, "notice "+kind.String(), func() bool { return l.find(kind) != nil })
	return l.find(kind)
}

func TestNoticesAreBufferedAndOrdered(t *testing.T) {
	a := one(t)
	req := shell("sleep 60")
	req.TimeoutMs = 1
	a.run(t, req)
	a.run(t, req)
	var first, second []*guestpb.Notice
	for n, err := range a.Notices(t.Context(), 0) {
		if err != nil {
			t.Fatal(err)
		}
		if first = append(first, n); len(first) == 3 {
			break
		}
	}
	if first[0].Kind != guestpb.Notice_READY || first[1].Seq+1 != first[2].Seq || first[1].Kind != guestpb.Notice_TREE_KILLED {
		t.Errorf("got %v", first)
	}
	for n, err := range a.Notices(t.Context(), first[1].Seq) {
		if err != nil {
			t.Fatal(err)
		}
		if second = append(second, n); len(second) == 2 {
			break
		}
	}
	if second[0].Kind != guestpb.Notice_READY || second[1].Seq != first[2].Seq {
		t.Errorf("after %d: %v", first[1].Seq, second)
	}
}

func TestRelieve(t *testing.T) {
	eachTracker(t, func(t *testing.T, a *guestAgent) {
		notices := a.follow(t)
		exe, _ := os.Executable()
		for _, inShell := range []bool{false, true} {
			req := &guestpb.StartRequest{Args: []string{exe}, Cwd: "/", Env: map[string]string{envRole: "hog"}}
			if inShell {
				req.Args = []string{"sh", "-c", exe + "; exit $?"}
			}
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			var exit *guestpb.ProcessEvent_Exited
			for ev, err := range a.Start(ctx, req) {
				if err != nil {
					t.Fatal(err)
				}
				if strings.Contains(string(ev.GetOutput().GetData()), "full") {
					res, err := a.Relieve(ctx)
					if err != nil || res.Pid == 0 || res.Memory < 64<<20 || res.Command == "" {
						t.Fatalf("relieved %v, %v", res, err)
					}
				}
				if e := ev.GetExited(); e != nil {
					exit = e
				}
			}
			if !exit.GetOutOfMemory() || exit.ExitCode != 137 {
				t.Errorf("in a shell %v: exit %v", inShell, exit)
			}
		}
		n := notices.expect(t, guestpb.Notice_OUT_OF_MEMORY)
		if !strings.Contains(n.Message, "MB") {
			t.Errorf("message %q", n.Message)
		}
		if os.Getenv(envAddr) != "" {
			return // it would be us
		}
		if res, err := a.Relieve(t.Context()); err != nil || res.Pid != 0 {
			t.Errorf("with nothing to end: %v, %v", res, err)
		}
	})
}

func TestProcessLimit(t *testing.T) {
	if trackers()[len(trackers())-1] == "walk" {
		t.Skip("root is bound by nothing else than a cgroup here")
	}
	a := one(t)
	notices := a.follow(t)
	if _, err := a.Init(t.Context(), &guestpb.InitRequest{MaxProcesses: 40}); err != nil {
		t.Fatal(err)
	}
	// A shell that is refused a fork ends; what it started stays. (Started as
	// often as it takes: a busy machine refuses forks for reasons of its own.)
	r := a.sh(t, "while :; do sleep 60 & done")
	if r.exit.ExitCode == 0 {
		t.Errorf("nothing was refused: %v", r.exit)
	}
	until(t, "the limit is noticed", func() bool {
		if notices.find(guestpb.Notice_PROCESS_LIMIT) != nil {
			return true
		}
		a.sh(t, "sleep 60 & sleep 0.1")
		return false
	})
	list, err := a.Processes(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range list {
		_ = a.Signal(t.Context(), &guestpb.SignalRequest{Pid: p.Pid, Signal: 9, Tree: true}) // gone already
	}
	few := func() bool {
		m, err := a.Metrics(t.Context())
		return err == nil && m.Processes < 8
	}
	until(t, "those are dead", few)

	// A fork bomb: everybody forks for ever. The agent goes on working.
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	_, done := a.background(t, ctx, shell(`b() { while :; do (b) & done; }; b 2>/dev/null; sleep 60`))
	for range 5 {
		if r := a.run(t, &guestpb.StartRequest{Args: []string{"echo", "alive"}, Cwd: "/"}); r.out != "alive\n" {
			t.Errorf("beside a fork bomb: %q %q %v", r.out, r.err, r.exit)
		}
	}
	cancel()
	<-done
	until(t, "the bomb is defused", few)
}

func TestDiskFull(t *testing.T) {
	if os.Getenv(envAddr) != "" {
		t.Skip("the disk is another one")
	}
	a := one(t)
	notices := a.follow(t)
	// By a write through the agent …
	_, err := a.WriteFile(t.Context(), a.disk+"/big", 0, bytes.NewReader(make([]byte, 8<<20)))
	if !sandbox.HasCode(err, sandbox.CodeNoSpace) {
		t.Errorf("8 MiB on a disk of 4: %v", err)
	}
	if list, err := a.ListDir(t.Context(), a.disk, 1); err != nil || len(list) != 0 {
		t.Errorf("left behind: %v, %v", list, err)
	}
	// … and by a program.
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	a.background(t, ctx, shell("head -c 10000000 /dev/zero >"+a.disk+"/full; sleep 60"))
	notices.expect(t, guestpb.Notice_DISK_FULL)
	m, err := a.Metrics(t.Context())
	if err != nil || m.DiskTotal != 4<<20 || m.DiskUsed < 3<<20 || m.MemoryTotal <= 0 || m.MemoryUsed <= 0 || m.Processes == 0 {
		t.Errorf("metrics %v, %v", m, err)
	}
}

func TestInit(t *testing.T) {
	a := one(t)
	remote := os.Getenv(envAddr) != ""
	if remote {
		a.root = ""
	}
	req := &guestpb.InitRequest{
		Hostname: "box-1", Env: map[string]string{"A": "init", "B": "init"}, UnixNano: time.Now().UnixNano(),
		Entropy: make([]byte, 32), Workdir: "/proc", Nameservers: []string{"192.0.2.1", "2001:db8::1"},
	}
	first, err := a.Init(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	run := func(script string) string {
		return a.run(t, &guestpb.StartRequest{Args: []string{"sh", "-c", script}, Env: map[string]string{"B": "own"}}).out
	}
	if got := run("hostname; pwd; echo $A $B"); got != "box-1\n/proc\ninit own\n" {
		t.Errorf("got %q", got)
	}
	for name, want := range map[string]string{"hostname": "box-1\n", "hosts": "127.0.1.1\tbox-1\n", "resolv.conf": "nameserver 192.0.2.1\nnameserver 2001:db8::1\n"} {
		f, err := a.ReadFile(t.Context(), a.root+"/etc/"+name, 0)
		if err != nil {
			t.Fatal(err)
		}
		var b bytes.Buffer
		b.ReadFrom(f)
		f.Close()
		if !strings.HasSuffix(b.String(), want) {
			t.Errorf("%s is %q", name, b.String())
		}
	}
	second, err := a.Init(t.Context(), &guestpb.InitRequest{Hostname: "box-2"})
	if err != nil || second.Seed != first.Seed || len(first.Seed) < 16 || first.AgentVersion == "" {
		t.Errorf("seeds %v, %v, %v", first, second, err)
	}
	if got := a.run(t, &guestpb.StartRequest{Args: []string{"sh", "-c", "hostname; pwd; echo ${A-unset}"}, Cwd: "/"}).out; got != "box-2\n/\nunset\n" {
		t.Errorf("after the second: %q", got)
	}
	if !remote {
		if b, _ := os.ReadFile(filepath.Join(a.root, "etc/hosts")); strings.Count(string(b), "127.0.1.1") != 1 {
			t.Errorf("hosts: %q", b)
		}
	}
	for name, bad := range map[string]*guestpb.InitRequest{
		"hostname": {Hostname: "a b"}, "long hostname": {Hostname: strings.Repeat("a", 65)}, "env": {Env: map[string]string{"A=": "x"}},
		"workdir": {Workdir: "x"}, "nameserver": {Nameservers: []string{"x\ny"}},
	} {
		if _, err := a.Init(t.Context(), bad); !sandbox.HasCode(err, sandbox.CodeValidation) {
			t.Errorf("bad %s: %v", name, err)
		}
	}
}

func TestHealthAndReady(t *testing.T) {
	a := one(t)
	res, err := http.Get("http://" + a.addr + "/health")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	var h struct{ Seed, Version string }
	if err := json.NewDecoder(res.Body).Decode(&h); err != nil || h.Seed == "" || h.Version == "" {
		t.Errorf("health %v, %v", h, err)
	}
	if a.ready == nil {
		return
	}
	for range 3 {
		a.ready.Write([]byte{'r'})
		a.told.SetReadDeadline(time.Now().Add(5 * time.Second))
		if n, err := a.told.Read(make([]byte, 2)); n != 1 || err != nil {
			t.Errorf("ready: %d, %v", n, err)
		}
	}
}
