// Package pgtest runs a PostgreSQL server for tests, so that they need neither
// an installed one nor its passwords.
package pgtest

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib" // the driver named "pgx"
)

// ErrMissing says that PostgreSQL's programs are not on this machine.
var ErrMissing = errors.New("PostgreSQL is not installed: scripts/install.sh test installs it")

// Server is one PostgreSQL in a temporary folder, reached by a socket in it.
type Server struct {
	bin  string // folder of its programs
	dir  string
	as   *syscall.Credential // nil: the user of the tests
	cmd  *exec.Cmd
	gone chan struct{} // closed when cmd has ended
}

const startWait = 30 * time.Second

// Start makes a database cluster and runs a server on it.
func Start(ctx context.Context) (*Server, error) {
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if len(found) == 0 {
		return nil, ErrMissing
	}
	s := &Server{bin: filepath.Dir(found[len(found)-1])}
	var err error
	if s.dir, err = os.MkdirTemp("", "silica-pg-"); err != nil {
		return nil, err
	}
	if err := s.setUp(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("start PostgreSQL: %w", err), s.Close())
	}
	return s, nil
}

func (s *Server) setUp(ctx context.Context) error {
	if os.Geteuid() == 0 { // which PostgreSQL refuses to be
		if err := s.giveAway(); err != nil {
			return err
		}
	}
	init := s.command(ctx, "initdb", "--no-sync", "--auth=trust", "--username=silica", "--encoding=UTF8", "--locale=C", s.data())
	if out, err := init.CombinedOutput(); err != nil {
		return fmt.Errorf("initdb: %w: %s", err, out)
	}
	return s.Begin(ctx)
}

// giveAway makes the folder that of the user whom Debian's package has made.
func (s *Server) giveAway() error {
	u, err := user.Lookup("postgres")
	if err != nil {
		return err
	}
	uid, err1 := strconv.Atoi(u.Uid)
	gid, err2 := strconv.Atoi(u.Gid)
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	s.as = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	return os.Chown(s.dir, uid, gid)
}

func (s *Server) data() string { return filepath.Join(s.dir, "data") }

func (s *Server) command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, filepath.Join(s.bin, name), args...)
	cmd.Dir = s.dir
	cmd.Env = []string{"LC_ALL=C", "TZ=UTC", "PATH=/usr/bin:/bin"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: s.as, Setpgid: true}
	return cmd
}

// Begin runs the server after End, on what it has stored, and returns when it
// takes connections.
func (s *Server) Begin(ctx context.Context) error {
	log, err := os.OpenFile(filepath.Join(s.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	// Without fsync it is fast, and loses nothing unless the machine goes down.
	cmd := s.command(context.WithoutCancel(ctx), "postgres", "-D", s.data(), "-k", s.dir, "-c", "listen_addresses=", "-c", "fsync=off",
		"-c", "max_connections=300", "-c", "shared_buffers=32MB", "-c", "autovacuum_naptime=5min")
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return err
	}
	gone := make(chan struct{})
	s.cmd, s.gone = cmd, gone
	go func() {
		_ = cmd.Wait()
		close(gone)
	}()
	db, err := sql.Open("pgx", s.url("postgres"))
	if err != nil {
		return err
	}
	defer db.Close()
	ctx, cancel := context.WithTimeout(ctx, startWait)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := db.PingContext(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-gone:
			return fmt.Errorf("the server ended: %s", s.lastLog())
		case <-ctx.Done():
			return fmt.Errorf("it takes no connections: %w", err)
		case <-tick.C:
		}
	}
}

// End stops the server: SIGINT cuts connections off and keeps all that was
// committed in order, SIGQUIT is a crash.
func (s *Server) End(sig syscall.Signal) {
	if s.cmd == nil {
		return
	}
	_ = s.cmd.Process.Signal(sig)
	<-s.gone
	s.cmd = nil
}

// Close stops the server and removes all of it.
func (s *Server) Close() error {
	s.End(syscall.SIGQUIT)
	return os.RemoveAll(s.dir)
}

// Database makes a database, empty or a copy of the one that like names, which
// nobody may be using. It returns its URL.
func (s *Server) Database(ctx context.Context, name, like string) (string, error) {
	db, err := sql.Open("pgx", s.url("postgres"))
	if err != nil {
		return "", err
	}
	defer db.Close()
	if like == "" {
		like = "template0"
	}
	if _, err := db.ExecContext(ctx, `create database "`+name+`" template "`+like+`"`); err != nil {
		return "", fmt.Errorf("make database %s: %w", name, err)
	}
	return s.url(name), nil
}

func (s *Server) url(database string) string {
	u := url.URL{Scheme: "postgres", User: url.User("silica"), Path: "/" + database,
		RawQuery: url.Values{"host": {s.dir}, "sslmode": {"disable"}}.Encode()}
	return u.String()
}

func (s *Server) lastLog() string {
	text, _ := os.ReadFile(filepath.Join(s.dir, "log"))
	return string(text[max(0, len(text)-2000):])
}
