package gvisor

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// Names in an engine's folder, DATA/engine/ID.
const (
	programName = "silica-engine"
	socketName  = "engine.sock"
	logName     = "engine.log"
)

// engineID names an engine by its program: what the bytes are, nothing else.
func engineID(program []byte) string {
	sum := sha256.Sum256(program)
	return hex.EncodeToString(sum[:16])
}

// extract puts the program into dir, whole or not at all.
func extract(dir string, program []byte) error {
	path := filepath.Join(dir, programName)
	if info, err := os.Stat(path); err == nil && info.Size() == int64(len(program)) {
		return nil // the folder is named after the content
	}
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return fmt.Errorf("make engine folder: %w", err)
	}
	tmp, err := os.CreateTemp(dir, ".program-")
	if err != nil {
		return fmt.Errorf("extract engine: %w", err)
	}
	_, err = tmp.Write(program)
	// gVisor starts its processes as others than root.
	err = errors.Join(err, tmp.Chmod(0o755), tmp.Sync(), tmp.Close())
	if err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("extract engine: %w", err), os.Remove(tmp.Name()))
	}
	return nil
}

// logLimit is the size, in bytes, beyond which a starting engine's log begins
// anew; the last one is kept as engine.log.old.
const logLimit = 64 << 20

// openLog opens the log of an engine that is about to start in dir.
func openLog(dir string) (*os.File, error) {
	path := filepath.Join(dir, logName)
	if info, err := os.Stat(path); err == nil && info.Size() > logLimit {
		if err := os.Rename(path, path+".old"); err != nil {
			return nil, err
		}
	}
	return os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
}

// launch starts an engine that outlives this process. The returned channel says
// when it ended, while this process lives to see it.
func launch(dir string, args []string) (<-chan error, error) {
	log, err := openLog(dir)
	if err != nil {
		return nil, fmt.Errorf("engine log: %w", err)
	}
	defer log.Close()
	cmd := exec.Command(filepath.Join(dir, programName), args...)
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
	cmd.Stderr = log // stdin and stdout stay the null device
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start engine: %w", err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	return ended, nil
}

// retry is how long a condition outside this process is asked for again.
func retry(ctx context.Context, ended <-chan error, ask func(context.Context) error) error {
	for pause := 2 * time.Millisecond; ; pause = min(2*pause, 50*time.Millisecond) {
		err := ask(ctx)
		if err == nil {
			return nil
		}
		select {
		case end := <-ended:
			return fmt.Errorf("the engine ended: %w", errors.Join(end, err))
		case <-ctx.Done():
			return errors.Join(ctx.Err(), err)
		case <-time.After(pause):
		}
	}
}

// ended waits until the engine's process has let go of its lock.
func (e *engine) ended(ctx context.Context) error {
	f, err := os.Open(filepath.Join(e.dir, socketName+".lock"))
	if err != nil {
		return err
	}
	defer f.Close()
	return retry(ctx, nil, func(context.Context) error {
		return syscall.Flock(int(f.Fd()), syscall.LOCK_SH|syscall.LOCK_NB)
	})
}

// tail returns the end of an engine's log, for an error about it.
func tail(dir string) string {
	f, err := os.Open(filepath.Join(dir, logName))
	if err != nil {
		return ""
	}
	defer f.Close()
	const most = 600
	if info, err := f.Stat(); err == nil && info.Size() > most {
		_, _ = f.Seek(-most, 2)
	}
	buf := make([]byte, most)
	n, _ := f.Read(buf)
	return string(buf[:n])
}

// gone tells whether an error of a call means that no engine answers.
func gone(err error) bool {
	return errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, fs.ErrNotExist)
}
