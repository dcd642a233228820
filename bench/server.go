package bench

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"silica.dev/silica/client"
)

// What sets own servers apart from any other on the machine.
const (
	ownName    = "slbnch"
	ownNetwork = "10.239.0.0/16"
)

// withServer starts a server with these settings, lets run measure it, and
// leaves the machine as it was but for the data folder.
func (c Config) withServer(ctx context.Context, set Settings, run func(target) error) (err error) {
	c.Log(fmt.Sprintf("starting a server: warm pool %d, empty slots %d", set.WarmPool, set.EmptySlots))
	if err := os.MkdirAll(c.Data, 0o700); err != nil {
		return err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	addr := l.Addr().String()
	l.Close()
	key := "msk_a_" + strings.ToLower(rand.Text())
	logName := filepath.Join(c.Data, "bench.log")
	log, err := os.OpenFile(logName, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()

	cmd := exec.Command(c.Binary, "serve", "--listen", addr, "--data", c.Data, "--network-name", ownName, "--network-prefix", ownNetwork,
		"--rate-limit", "0", "--max-sandboxes", "1000", "--warm-pool", fmt.Sprint(set.WarmPool), "--empty-slots", fmt.Sprint(set.EmptySlots))
	cmd.Env = append(os.Environ(), "SILICA_BOOTSTRAP_KEY="+key, "SILICA_CONFIG=/dev/null")
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	if err := cmd.Start(); err != nil {
		return err
	}
	exited := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(exited)
	}()
	cl, err := client.New("http://"+addr, key, client.WithRetries(0), client.WithUserAgent("silica-bench"))
	if err != nil {
		return err
	}
	defer cl.Close()
	t := target{Config: c, Settings: set, client: cl, url: "http://" + addr, pid: cmd.Process.Pid, data: c.Data}
	defer func() {
		stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer cancel()
		_, drained := cl.Drain(stopping)
		_ = cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-exited:
		case <-stopping.Done():
			_ = cmd.Process.Kill()
			<-exited
			drained = errors.Join(drained, errors.New("the server did not end"))
		}
		t.endEngines(stopping)
		if drained != nil {
			err = errors.Join(err, fmt.Errorf("clean up after the server: %w", drained))
		}
	}()
	if err := t.awaitReady(ctx, exited); err != nil {
		return fmt.Errorf("%w; its log is %s", err, logName)
	}
	if err := settle(ctx); err != nil { // pools fill
		return err
	}
	return run(t)
}

func (t target) awaitReady(ctx context.Context, exited <-chan struct{}) error {
	ctx, cancel := context.WithTimeoutCause(ctx, 20*time.Minute, errors.New("the server did not become ready"))
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for t.client.Ready(ctx) != nil {
		select {
		case <-tick.C:
		case <-exited:
			return errors.New("the server ended")
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// endEngines ends what outlives its server by design.
func (t target) endEngines(ctx context.Context) {
	for _, p := range t.processes() {
		if filepath.Base(p.exe) == "silica-engine" && !strings.HasPrefix(p.name, "runsc-") {
			_ = syscall.Kill(p.pid, syscall.SIGTERM)
		}
	}
	_, _ = until(ctx, 10*time.Second, func() bool { return len(t.processes()) == 0 })
}
