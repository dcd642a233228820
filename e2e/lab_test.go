package e2e

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// bootstrapKey is the admin key of every server here. They listen on loopback
// and live for seconds.
const bootstrapKey = "msk_a_e2e_only_on_loopback_0123456789"

// theLab is set by TestMain.
var theLab *lab

// lab owns what the tests share: the program, the template's data, and the folder
// of this run, which is on the same file system so that blobs can be linked.
//
//	CACHE/template/   data folder in which the default template was built
//	CACHE/run-PID/    one folder a server: data, log
type lab struct {
	bin   string
	cache string
	dir   string

	// Measured when the template's server was started on its finished data.
	secondStart time.Duration

	mu      sync.Mutex
	servers int
}

func openLab() (*lab, error) {
	bin, err := filepath.Abs("../bin/silica")
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(bin); err != nil {
		return nil, fmt.Errorf("%w: run \"make build\" first", err)
	}
	cache := os.Getenv("SILICA_TEST_CACHE")
	if cache == "" {
		user, err := os.UserCacheDir()
		if err != nil {
			return nil, fmt.Errorf("set SILICA_TEST_CACHE: %w", err)
		}
		cache = filepath.Join(user, "silica-test", "e2e")
	}
	l := &lab{bin: bin, cache: cache, dir: filepath.Join(cache, "run-"+strconv.Itoa(os.Getpid()))}
	if err := os.MkdirAll(l.dir, 0o700); err != nil {
		return nil, err
	}
	if err := l.sweep(); err != nil {
		return nil, fmt.Errorf("clear up after an earlier run: %w", err)
	}
	if err := l.buildTemplate(); err != nil {
		return nil, fmt.Errorf("build the default template: %w", err)
	}
	return l, nil
}

func (l *lab) close() {
	if to := os.Getenv("SILICA_TEST_LOGS"); to != "" { // whoever looks for a cause wants all of them
		logs, _ := filepath.Glob(filepath.Join(l.dir, "*", "log"))
		for _, log := range logs {
			_ = copyFile(log, filepath.Join(to, filepath.Base(filepath.Dir(log))+".log"))
		}
	}
	_ = os.RemoveAll(l.dir)
}

// sweep ends what runs whose test process was killed left on the machine.
func (l *lab) sweep() error {
	old, err := filepath.Glob(filepath.Join(l.cache, "run-*"))
	if err != nil {
		return err
	}
	for _, dir := range old {
		pid, err := strconv.Atoi(strings.TrimPrefix(filepath.Base(dir), "run-"))
		if err == nil && unix.Kill(pid, 0) == nil {
			continue // alive, or us
		}
		entries, err := os.ReadDir(dir)
		if err != nil {
			return err
		}
		for _, e := range entries {
			traces{name: e.Name(), data: filepath.Join(dir, e.Name(), "data")}.erase()
		}
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
	}
	return nil
}

// buildTemplate starts a server on the kept data folder and stops it when the
// template is usable. The server itself knows whether there is anything to do.
func (l *lab) buildTemplate() error {
	lock, err := os.OpenFile(filepath.Join(l.cache, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return err
	}
	fmt.Fprintln(os.Stderr, "e2e: preparing the default template (minutes the first time, seconds after that)")
	s, err := l.newServer(options{data: filepath.Join(l.cache, "template"), flags: []string{"--warm-pool=0", "--empty-slots=0"}})
	if err != nil {
		return err
	}
	s.patience = 15 * time.Minute
	if err := s.begin(); err != nil {
		return errors.Join(err, errors.New(s.log.tail(0, 30)))
	}
	// Once more, on finished data: this is the second start a user sees.
	if err := s.stop(); err != nil {
		return err
	}
	if err := s.begin(); err != nil {
		return err
	}
	l.secondStart = s.readyAfter
	if leaks := s.close(); len(leaks) > 0 {
		return fmt.Errorf("the template's server left behind: %s", strings.Join(leaks, "; "))
	}
	return nil
}

// cloneTemplate makes a data folder with the default template ready. Big files
// are hard links: whoever wants to damage one must replace it.
func (l *lab) cloneTemplate(to string) error {
	from := filepath.Join(l.cache, "template")
	return filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		target := filepath.Join(to, rel)
		switch {
		case d.IsDir():
			return os.MkdirAll(target, 0o700)
		case d.Type()&fs.ModeSymlink != 0:
			link, err := os.Readlink(path)
			if err != nil {
				return err
			}
			return os.Symlink(link, target)
		case !d.Type().IsRegular():
			return nil // a socket or a pipe of a server that is gone
		case strings.HasPrefix(rel, "blobs/"), d.Name() == "silica-engine":
			if err := os.Link(path, target); !errors.Is(err, unix.EXDEV) {
				return err
			}
		}
		return copyFile(path, target)
	})
}

func copyFile(from, to string) error {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	info, err := src.Stat()
	if err != nil {
		return err
	}
	dst, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, info.Mode().Perm())
	if err != nil {
		return err
	}
	_, err = io.Copy(dst, src)
	return errors.Join(err, dst.Close())
}

// start makes a server with the template ready, under a name and on addresses
// nobody else on this machine uses, and waits until it is ready.
func (l *lab) start(o options) (*Server, error) {
	s, err := l.newServer(o)
	if err != nil {
		return nil, err
	}
	if err := l.cloneTemplate(s.data); err != nil {
		return nil, fmt.Errorf("copy the template: %w", err)
	}
	if s.database != "" {
		if err := s.moveTemplate(); err != nil {
			return nil, fmt.Errorf("bring the template to PostgreSQL: %w", err)
		}
	}
	if err := s.begin(); err != nil {
		return nil, errors.Join(err, errors.New(s.log.tail(0, 30)))
	}
	return s, nil
}

// silica runs the command line program as a user of s would.
func (l *lab) silica(s *Server, key string, args ...string) *exec.Cmd {
	cmd := exec.Command(l.bin, args...)
	cmd.Dir = l.dir
	cmd.Env = append(plainEnv(), "SILICA_URL="+s.url, "SILICA_API_KEY="+key)
	return cmd
}

// plainEnv is the environment without settings of Silica.
func plainEnv() []string {
	var env []string
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "SILICA_") {
			env = append(env, kv)
		}
	}
	return env
}
