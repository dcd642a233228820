package doctor

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// recorded lays out the files of a machine.
func recorded(t *testing.T, files map[string]string) machine {
	t.Helper()
	root := t.TempDir()
	for name, text := range files {
		p := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return machine{root: root}
}

const (
	mountsV1 = `cgroup /sys/fs/cgroup/cpu cgroup rw,relatime,cpu 0 0
cgroup /sys/fs/cgroup/memory cgroup rw,relatime,memory 0 0
cgroup /sys/fs/cgroup/pids cgroup rw,relatime,pids 0 0
cgroup2 /sys/fs/cgroup/unified cgroup2 rw,relatime 0 0
`
	mountsReadOnly = "cgroup /sys/fs/cgroup/cpu,memory,pids cgroup ro,nosuid,cpu,memory,pids 0 0\n"
	limitsGood     = "Max processes             94220                94220                processes\nMax open files            1048576              1048576              files\n"
	limitsLow      = "Max processes             unlimited            unlimited            processes\nMax open files            1024                 1024              files\n"
)

func TestRecordedMachines(t *testing.T) {
	for _, c := range []struct {
		name  string
		files map[string]string
		check func(machine) Finding
		want  Level
		found string
	}{
		{"cgroup v2", map[string]string{"sys/fs/cgroup/cgroup.controllers": "cpuset cpu io memory pids\n"}, machine.cgroups, OK, "v2"},
		{"cgroup v2 without memory", map[string]string{"sys/fs/cgroup/cgroup.controllers": "cpu pids\n"}, machine.cgroups, Failure, "v2 without memory"},
		{"cgroup v1", map[string]string{"proc/mounts": mountsV1}, machine.cgroups, OK, "v1"},
		{"cgroup v1 read-only", map[string]string{"proc/mounts": mountsReadOnly}, machine.cgroups, Failure, "v1 without cpu, memory, pids"},
		{"no cgroups", nil, machine.cgroups, Failure, "without"},
		{"new kernel", map[string]string{"proc/sys/kernel/osrelease": "6.1.0-13-amd64\n"}, machine.kernel, OK, "6.1.0"},
		{"old kernel", map[string]string{"proc/sys/kernel/osrelease": "4.19.0\n"}, machine.kernel, Failure, "4.19.0"},
		{"no kernel release", nil, machine.kernel, Warning, "unknown"},
		{"seccomp", map[string]string{"proc/sys/kernel/seccomp/actions_avail": "kill_process trap errno allow\n"}, machine.systrap, OK, ""},
		{"no seccomp", nil, machine.systrap, Failure, "seccomp"},
		{"no ptrace", map[string]string{"proc/sys/kernel/seccomp/actions_avail": "trap errno\n", "proc/sys/kernel/yama/ptrace_scope": "3\n"}, machine.systrap, Failure, "ptrace_scope"},
		{"memory", map[string]string{"proc/meminfo": "MemTotal: 9 kB\nMemAvailable:    8388608 kB\n"}, machine.memory, OK, "8192 MiB"},
		{"little memory", map[string]string{"proc/meminfo": "MemAvailable: 204800 kB\n"}, machine.memory, Warning, "200 MiB"},
		{"limits", map[string]string{"proc/self/limits": limitsGood}, machine.limits, OK, ""},
		{"few files", map[string]string{"proc/self/limits": limitsLow, "proc/sys/kernel/pid_max": "4096\n"}, machine.limits, Warning, "open files 1024, pid_max 4096"},
		{"rcu", map[string]string{"sys/kernel/rcu_expedited": "0"}, machine.rcu, OK, ""},
		{"no rcu", nil, machine.rcu, Warning, ""},
	} {
		got := c.check(recorded(t, c.files))
		if got.Level != c.want || !strings.Contains(got.Found, c.found) {
			t.Errorf("%s: got %s %q, want %s with %q", c.name, got.Level, got.Found, c.want, c.found)
		}
		if got.Level == Failure && (got.Effect == "" || got.Fix == "") {
			t.Errorf("%s: a failure must say its effect and its fix: %+v", c.name, got)
		}
	}
}

func TestResolver(t *testing.T) {
	for _, c := range []struct {
		conf  string
		allow string
		want  Level
	}{
		{"nameserver 9.9.9.9\n", "", OK},
		{"nameserver 192.168.1.1\n", "", Warning},
		{"nameserver 192.168.1.1\n", "192.168.1.1/32", OK},
		{"nameserver 127.0.0.53\n", "127.0.0.0/8", Warning},
		{"nameserver 10.0.0.2\nnameserver 9.9.9.9\n", "", Info},
		{"# none\n", "", Warning},
	} {
		m := recorded(t, map[string]string{"etc/resolv.conf": c.conf})
		if c.allow != "" {
			m.EgressAllow = []netip.Prefix{netip.MustParsePrefix(c.allow)}
		}
		if got := m.resolver(); got.Level != c.want {
			t.Errorf("%q allowing %q: got %+v, want %s", c.conf, c.allow, got, c.want)
		}
	}
}

func TestPort(t *testing.T) {
	ctx := context.Background()
	serve := func(h http.HandlerFunc) string {
		s := httptest.NewServer(h)
		t.Cleanup(s.Close)
		return s.Listener.Addr().String()
	}
	silica := serve(func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("X-Request-Id", "req_1") })
	other := serve(func(http.ResponseWriter, *http.Request) {})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	free := l.Addr().String()
	l.Close()
	for _, c := range []struct {
		addr string
		want Level
	}{{silica, OK}, {other, Failure}, {free, OK}, {"192.0.2.1:1", Failure}} {
		if got := (machine{Options: Options{Listen: c.addr}}).port(ctx); got.Level != c.want {
			t.Errorf("%s: got %+v, want %s", c.addr, got, c.want)
		}
	}
}

func TestDataFolder(t *testing.T) {
	dir := t.TempDir()
	m := machine{Options: Options{Data: filepath.Join(dir, "not", "yet")}}
	if got := m.data(); got.Level != OK {
		t.Errorf("folder to be made: %+v", got)
	}
	if left, _ := os.ReadDir(dir); len(left) != 0 {
		t.Errorf("the check left %v behind", left)
	}
}

func TestWorst(t *testing.T) {
	if got := Worst([]Finding{{Level: OK}, {Level: Failure}, {Level: Warning}}); got != Failure {
		t.Errorf("got %s, want failure", got)
	}
}

func TestUserAndBuild(t *testing.T) {
	if got := (machine{}).user(1000); got.Level != Failure {
		t.Errorf("user 1000: %+v", got)
	}
	m := machine{Options: Options{BuiltIn: errors.New("not built")}}
	if got := m.built(); got.Level != Failure {
		t.Errorf("missing engine: %+v", got)
	}
}
