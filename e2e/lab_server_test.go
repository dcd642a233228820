package e2e

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// options says how a server differs from the usual one.
type options struct {
	flags []string // after the harness's own, so they win
	env   []string
	data  string // empty: a fresh copy of the template's
	// database is a postgres:// URL; empty: SQLite in data.
	database string
}

// Server is one "silica serve" with a data folder, a network name and addresses
// of its own.
type Server struct {
	lab      *lab
	name     string // of its interfaces, tables and cgroups
	data     string
	url      string
	flags    []string
	env      []string
	log      *logFile
	database string
	patience time.Duration // for readiness

	readyAfter time.Duration // measured by the last begin
	cmd        *exec.Cmd
	exited     chan struct{} // closed when cmd ended
}

// newServer makes a server that does not run yet.
func (l *lab) newServer(o options) (*Server, error) {
	l.mu.Lock()
	l.servers++
	n := l.servers
	l.mu.Unlock()

	port, err := freePort()
	if err != nil {
		return nil, err
	}
	network, err := freeNetwork(n)
	if err != nil {
		return nil, err
	}
	name := serverName(n)
	dir := filepath.Join(l.dir, name)
	data := o.data
	if data == "" {
		data = filepath.Join(dir, "data")
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	return &Server{
		lab: l, name: name, data: data, url: "http://" + addr,
		log:      &logFile{path: filepath.Join(dir, "log")},
		patience: 3 * time.Minute,
		flags: append([]string{"serve", "--listen=" + addr, "--data=" + data, "--network-name=" + name, "--network-prefix=" + network.String(),
			"--warm-pool=2", "--empty-slots=2", "--create-wait=20s", "--log-level=debug"}, o.flags...),
		database: o.database,
		env:      append(append(plainEnv(), "SILICA_BOOTSTRAP_KEY="+bootstrapKey, "SILICA_DATABASE="+o.database), o.env...),
	}, nil
}

// serverName is at most six characters, another one for each server and, nearly
// always, for each run.
func serverName(n int) string {
	const letters = "abcdefghijklmnopqrstuvwxyz0123456789"
	h := fnv.New32a()
	fmt.Fprint(h, os.Getpid())
	v := h.Sum32()
	name := []byte("e")
	for range 3 {
		name = append(name, letters[v%36])
		v /= 36
	}
	return string(append(name, letters[n/36%36], letters[n%36]))
}

// freeNetwork finds 4096 private addresses this machine does not use.
func freeNetwork(n int) (netip.Prefix, error) {
	used, err := net.InterfaceAddrs()
	if err != nil {
		return netip.Prefix{}, err
	}
	for i := range 256 {
		block := (os.Getpid()*7 + n + i*37) % 256
		p := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(200 + block/16), byte(block % 16 * 16), 0}), 20)
		if !overlaps(used, p) {
			return p, nil
		}
	}
	return netip.Prefix{}, errors.New("no free network below 10.200.0.0/12")
}

func overlaps(used []net.Addr, p netip.Prefix) bool {
	for _, a := range used {
		if q, err := netip.ParsePrefix(a.String()); err == nil && q.Overlaps(p) {
			return true
		}
	}
	return false
}

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

// begin starts the program and waits until it is ready.
func (s *Server) begin() error {
	if err := s.launch(); err != nil {
		return err
	}
	return s.awaitReady()
}

func (s *Server) launch() error {
	out, err := s.log.open()
	if err != nil {
		return err
	}
	defer out.Close()
	s.cmd = exec.Command(s.lab.bin, s.flags...)
	s.cmd.Env = s.env
	s.cmd.Dir = filepath.Dir(s.log.path) // no silica.yaml there
	s.cmd.Stdout, s.cmd.Stderr = out, out
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // an interrupt is for the tests, which then stop it in order
	if err := s.cmd.Start(); err != nil {
		return err
	}
	exited := make(chan struct{})
	s.exited = exited
	go func(cmd *exec.Cmd) {
		_ = cmd.Wait()
		close(exited)
	}(s.cmd)
	return nil
}

func (s *Server) awaitReady() error {
	started := time.Now()
	ctx, cancel := context.WithTimeout(context.Background(), s.patience)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		if status, err := s.probe(ctx, "/readyz"); err == nil && status == http.StatusOK {
			s.readyAfter = time.Since(started)
			return nil
		}
		select {
		case <-s.exited:
			return fmt.Errorf("silica serve ended: %v", s.cmd.ProcessState)
		case <-ctx.Done():
			return fmt.Errorf("silica serve is not ready after %s", s.patience)
		case <-tick.C:
		}
	}
}

// probe asks once, without a key.
func (s *Server) probe(ctx context.Context, path string) (int, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url+path, nil)
	if err != nil {
		return 0, err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	res.Body.Close()
	return res.StatusCode, nil
}

func (s *Server) pid() int { return s.cmd.Process.Pid }

func (s *Server) running() bool {
	if s.exited == nil {
		return false
	}
	select {
	case <-s.exited:
		return false
	default:
		return true
	}
}

// stop asks the program to end, as an operator does.
func (s *Server) stop() error { return s.end(syscall.SIGTERM) }

// kill ends it without a warning.
func (s *Server) kill() error { return s.end(syscall.SIGKILL) }

func (s *Server) end(sig syscall.Signal) error {
	if !s.running() {
		return nil
	}
	_ = s.cmd.Process.Signal(sig)
	timeout := time.NewTimer(30 * time.Second)
	defer timeout.Stop()
	select {
	case <-s.exited:
		return nil
	case <-timeout.C:
		_ = s.cmd.Process.Kill()
		<-s.exited
		return fmt.Errorf("silica serve did not end within 30 s of %s", sig)
	}
}

// close empties the server and its host for good and lists what stayed behind.
func (s *Server) close() (leaks []string) {
	if !s.running() {
		if err := s.begin(); err != nil {
			leaks = append(leaks, "could not start it once more: "+err.Error())
		}
	}
	if s.running() {
		if out, err := s.lab.silica(s, bootstrapKey, "drain", "--yes").CombinedOutput(); err != nil {
			leaks = append(leaks, fmt.Sprintf("silica drain: %v: %s", err, out))
		}
		if err := s.stop(); err != nil {
			leaks = append(leaks, err.Error())
		}
	}
	tr := traces{name: s.name, data: s.data}
	tr.endEngines()
	leaks = append(leaks, tr.settled(10*time.Second)...)
	tr.erase()
	return leaks
}

// ownServer starts a server for one test, which fails when the server leaves
// anything behind.
func ownServer(t *testing.T, o options) *Server {
	t.Helper()
	s, err := theLab.start(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, l := range s.close() {
			t.Errorf("left behind: %s", l)
		}
		if t.Failed() {
			t.Logf("log of the server:\n%s\nlog of its engine:\n%s", s.log.tail(0, 80), s.engineLog())
		}
	})
	return s
}

// engineLog returns the end of what the server's engines logged.
func (s *Server) engineLog() string {
	var all strings.Builder
	files, _ := filepath.Glob(filepath.Join(s.data, "engine", "*", "engine.log"))
	for _, f := range files {
		all.WriteString((&logFile{path: f}).tail(0, 30))
	}
	return all.String()
}

// restart begins again after stop or kill.
func (s *Server) restart(t *testing.T) {
	t.Helper()
	if err := s.begin(); err != nil {
		t.Fatalf("start again: %v\n%s", err, s.log.tail(0, 40))
	}
}
