package supervise

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"silica.dev/silica/internal/agent/journal"
	"silica.dev/silica/sandbox"
)

// Restart says when a service that ended is started again.
type Restart string

// The policies.
const (
	Always    Restart = "always"
	OnFailure Restart = "on-failure"
	Never     Restart = "never"
)

// Definition is what the owner of a service says about it.
type Definition struct {
	ID      string            `json:"id"`
	Name    string            `json:"name"`
	Command string            `json:"command"`
	Env     map[string]string `json:"env,omitempty"`
	Dir     string            `json:"dir,omitempty"`
	Port    int               `json:"port,omitempty"`
	Restart Restart           `json:"restart"`
	Created time.Time         `json:"created"`
	Updated time.Time         `json:"updated"`
	Stopped bool              `json:"stopped,omitempty"` // by its owner
	Log     uint64            `json:"log"`
}

const (
	maxName    = 64
	maxCommand = 16 << 10
	maxEnv     = 16 << 10
	maxFile    = MaxServices * (maxCommand + maxEnv + 8<<10)
)

// check holds what comes from the host, or from a file that users can write,
// against the bounds.
func (d Definition) check() error {
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("._-", r)
	}
	switch {
	case d.Name == "" || len(d.Name) > maxName || strings.Trim(d.Name, "._-") == "" || strings.ContainsFunc(d.Name, func(r rune) bool { return !plain(r) }):
		return sandbox.Field("name", fmt.Sprintf("must be letters, digits, dots, hyphens and underscores, at most %d", maxName))
	case strings.HasPrefix(d.Name, "svc_"):
		return sandbox.Field("name", "must not begin like an id")
	case d.Command == "" || len(d.Command) > maxCommand || strings.Contains(d.Command, "\x00"):
		return sandbox.Field("command", fmt.Sprintf("must be given, of at most %d bytes and without NUL", maxCommand))
	case d.Port < 0 || d.Port > 65535:
		return sandbox.Field("port", "must be from 1 to 65535")
	case d.Dir != "" && (d.Dir[0] != '/' || len(d.Dir) > unix.PathMax || strings.Contains(d.Dir, "\x00")):
		return sandbox.Field("cwd", "must be an absolute path")
	case d.Restart != Always && d.Restart != OnFailure && d.Restart != Never:
		return sandbox.Field("restart", "must be always, on-failure or never")
	}
	size := 0
	for k, v := range d.Env {
		if size += len(k) + len(v) + 2; k == "" || strings.ContainsAny(k, "=\x00") || strings.Contains(v, "\x00") || size > maxEnv {
			return sandbox.Field("env", fmt.Sprintf("names must not be empty or hold =, nothing may hold a NUL byte, and all be at most %d bytes", maxEnv))
		}
	}
	return nil
}

// head describes a service's log; which one it belongs to, the definition says.
func (sv *service) head() []byte { return []byte(`{"service":true}`) }

// file is what is written down.
type file struct {
	Services []Definition `json:"services"`
}

// save writes the definitions down, whole or not at all. s.mu is held.
func (s *Supervisor) save() (err error) {
	defer func() {
		if errors.Is(err, unix.ENOSPC) {
			err = sandbox.E(sandbox.Exhausted, sandbox.CodeNoSpace, "the disk is full: the services can't be written down").Because(err)
		}
	}()
	f := file{Services: make([]Definition, len(s.services))}
	for i, sv := range s.services {
		f.Services[i] = sv.def
	}
	raw, err := json.MarshalIndent(f, "", "  ")
	if err != nil {
		return fmt.Errorf("encode the services: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(s.cfg.File), 0o700); err != nil {
		return fmt.Errorf("write the services: %w", err)
	}
	to, err := os.CreateTemp(filepath.Dir(s.cfg.File), ".services-")
	if err != nil {
		return fmt.Errorf("write the services: %w", err)
	}
	_, err = to.Write(raw)
	err = errors.Join(err, to.Sync(), to.Close())
	if err == nil {
		err = os.Rename(to.Name(), s.cfg.File)
	}
	if err != nil {
		os.Remove(to.Name())
		return fmt.Errorf("write the services: %w", err)
	}
	return nil
}

// Load reads what another agent has written down, once, and starts what was not
// stopped. logs are journals that may be the services'; those that are nobody's
// are removed.
func (s *Supervisor) Load(logs []journal.Loaded) {
	s.mu.Lock()
	defer s.mu.Unlock()
	defs := s.read()
	byID := map[uint64]*journal.Journal{}
	for _, l := range logs {
		byID[l.ID] = l.Journal
	}
	for _, d := range defs {
		if len(s.services) >= MaxServices || s.find(d.Name) != nil || s.find(d.ID) != nil || d.ID == "" || d.check() != nil {
			s.cfg.Damaged(fmt.Sprintf("a service in %s makes no sense and was left out", s.cfg.File))
			continue
		}
		log := byID[d.Log]
		if log == nil {
			log = s.cfg.Journals.Create()
			d.Log = log.ID
		}
		delete(byID, d.Log)
		sv := &service{def: d, log: log, status: Stopped}
		log.Describe(sv.head())
		log.Reopen()
		s.services = append(s.services, sv)
		if !d.Stopped {
			s.wg.Go(func() { // nobody waits for them
				s.mu.Lock()
				defer s.mu.Unlock()
				if sv.process == nil && sv.status == Stopped && !sv.def.Stopped {
					sv.remark("is started with the sandbox")
					s.launch(sv)
				}
			})
		}
	}
	for _, j := range byID {
		s.cfg.Journals.Remove(j)
	}
}

// read returns the definitions there are. A file that can't be read is set aside.
func (s *Supervisor) read() []Definition {
	if s.loaded || len(s.services) > 0 { // what is restored with its memory knows better than its files
		return nil
	}
	// Users can put anything there, also what blocks whoever opens it.
	fd, err := os.OpenFile(s.cfg.File, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil // it may still come
	}
	s.loaded = true
	var f file
	if err == nil {
		defer fd.Close()
		var raw []byte
		if raw, err = io.ReadAll(io.LimitReader(fd, maxFile+1)); err == nil && len(raw) > maxFile {
			err = errors.New("it is too large")
		}
		if err == nil {
			err = json.Unmarshal(raw, &f)
		}
	}
	if err != nil {
		aside := s.cfg.File + ".damaged"
		s.cfg.Log.Warn("services", "err", err)
		_ = os.RemoveAll(aside)
		if err := os.Rename(s.cfg.File, aside); err != nil {
			s.cfg.Log.Warn("services", "err", err)
		}
		s.cfg.Damaged(fmt.Sprintf("the services could not be read; the file was set aside as %s", aside))
		return nil
	}
	return f.Services
}
