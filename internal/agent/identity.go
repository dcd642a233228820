package agent

import (
	"bytes"
	"cmp"
	"errors"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"silica.dev/silica/internal/agent/proc"
	"silica.dev/silica/internal/guest/guestpb"
	"silica.dev/silica/sandbox"
)

const (
	home       = "/root"
	searchPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	// drift is how far the clock may be off before it is set.
	drift = 50 * time.Millisecond
	// maxName is the kernel's bound on a host name.
	maxName = 64
)

// identity is what Init gave this sandbox.
type identity struct {
	env     map[string]string
	workdir string
}

// init gives the sandbox its identity. Only a bad request is an error: what the
// sandbox does not let us do (its disk may be full, its clock the host's) must not
// keep it from being used.
func (a *Agent) init(req *guestpb.InitRequest) error {
	if err := checkInit(req); err != nil {
		return err
	}
	a.become(req)
	a.remember() // what it starts is to find the sandbox as it will be
	return nil
}

func (a *Agent) become(req *guestpb.InitRequest) {
	id := identity{env: maps.Clone(req.Env), workdir: req.Workdir}
	if id.workdir == "" {
		id.workdir = home
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.identity = id
	a.table.SetLimit(int(req.MaxProcesses))

	warn := func(what string, err error) {
		if err != nil {
			a.cfg.Log.Warn("init", "step", what, "err", err)
		}
	}
	if req.UnixNano != 0 {
		warn("clock", setClock(req.UnixNano))
	}
	if len(req.Entropy) > 0 {
		// The agent's own names come from the kernel's generator; programs that
		// were snapshotted get theirs there too.
		warn("entropy", os.WriteFile("/dev/urandom", req.Entropy, 0))
	}
	if req.Hostname != "" {
		warn("hostname", a.setHostname(req.Hostname))
	}
	if len(req.Nameservers) > 0 {
		var b strings.Builder
		for _, ns := range req.Nameservers {
			b.WriteString("nameserver " + ns + "\n")
		}
		warn("nameservers", a.replace("/etc/resolv.conf", []byte(b.String())))
	}
}

// remember takes over what an agent before this one left in the sandbox's files.
func (a *Agent) remember() {
	loaded, err := a.journals.Load()
	if err != nil {
		a.cfg.Log.Warn("output of earlier processes", "err", err)
	}
	a.services.Load(a.table.Remember(loaded))
}

// setEnv replaces the environment of what is started from now on.
func (a *Agent) setEnv(env map[string]string) error {
	if err := checkEnv(env); err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.identity.env = maps.Clone(env)
	return nil
}

func checkEnv(env map[string]string) error {
	for k, v := range env {
		if k == "" || strings.ContainsAny(k, "=\x00") || strings.Contains(v, "\x00") {
			return sandbox.Field("env", "names must not be empty or hold =, and nothing may hold a NUL byte")
		}
	}
	return nil
}

func checkInit(req *guestpb.InitRequest) error {
	if err := checkEnv(req.Env); err != nil {
		return err
	}
	if len(req.Hostname) > maxName || strings.Trim(req.Hostname, "-.") != req.Hostname || strings.ContainsFunc(req.Hostname, notHostname) {
		return sandbox.Field("hostname", "must be letters, digits, dots and hyphens, at most 64")
	}
	if req.Workdir != "" && (req.Workdir[0] != '/' || strings.Contains(req.Workdir, "\x00")) {
		return sandbox.Field("workdir", "must be an absolute path")
	}
	for _, ns := range req.Nameservers {
		if _, err := netip.ParseAddr(ns); err != nil {
			return sandbox.Field("nameservers", "must be addresses")
		}
	}
	const most = 1 << 20
	if req.MaxProcesses > most {
		return sandbox.Field("max_processes", "is too large")
	}
	return nil
}

func notHostname(r rune) bool {
	return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '.')
}

// setClock sets the wall clock if it is off. Some kernels have only the host's.
func setClock(nano int64) error {
	if d := time.Until(time.Unix(0, nano)); d < drift && d > -drift {
		return nil
	}
	ts := unix.NsecToTimespec(nano)
	err := unix.ClockSettime(unix.CLOCK_REALTIME, &ts)
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOSYS) {
		return nil
	}
	return err
}

// setHostname names the machine, also in the files where programs look.
func (a *Agent) setHostname(name string) error {
	kernel := unix.Sethostname([]byte(name))
	if errors.Is(kernel, unix.EPERM) && !a.cfg.Init {
		kernel = nil
	}
	file := a.replace("/etc/hostname", []byte(name+"\n"))
	old, err := os.ReadFile(filepath.Join(a.cfg.Root, "/etc/hosts"))
	if errors.Is(err, os.ErrNotExist) {
		old = []byte("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n")
	}
	return errors.Join(kernel, file, a.replace("/etc/hosts", withHost(old, name)))
}

// withHost replaces the line of 127.0.1.1, the address of a machine's own name.
func withHost(hosts []byte, name string) []byte {
	var out bytes.Buffer
	for line := range bytes.Lines(hosts) {
		if f := bytes.Fields(line); len(f) > 0 && string(f[0]) == "127.0.1.1" {
			continue
		}
		out.Write(bytes.TrimRight(line, "\n"))
		out.WriteByte('\n')
	}
	out.WriteString("127.0.1.1\t" + name + "\n")
	return out.Bytes()
}

// replace writes a small file of the system if it is not so already. In place:
// it may be a mount.
func (a *Agent) replace(name string, data []byte) error {
	name = filepath.Join(a.cfg.Root, name)
	if old, err := os.ReadFile(name); err == nil && bytes.Equal(old, data) {
		return nil
	}
	return os.WriteFile(name, data, 0o644)
}

// complete fills in what a command does not say itself.
func (a *Agent) complete(args []string, dir string, env map[string]string, terminal bool) proc.Spec {
	a.mu.Lock()
	id := a.identity
	a.mu.Unlock()
	spec := proc.Spec{Args: args, Dir: cmp.Or(dir, id.workdir)}
	spec.Env = id.environ(env, spec.Dir, terminal)
	return spec
}

// environ is what a process starts with: the defaults, then Init's, then its own.
func (id *identity) environ(own map[string]string, dir string, terminal bool) []string {
	all := map[string]string{
		"PATH": searchPath, "HOME": home, "USER": "root", "LOGNAME": "root", "LANG": "C.UTF-8",
		"PWD": dir, // as a shell would leave it
	}
	if terminal {
		all["TERM"] = "xterm-256color"
	}
	maps.Copy(all, id.env)
	maps.Copy(all, own)
	env := make([]string, 0, len(all)+1)
	for k, v := range all {
		env = append(env, k+"="+v)
	}
	return env
}
