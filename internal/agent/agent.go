// Package agent is the guest side of a sandbox, so that the host need not reach
// into it: it serves package guest's protocol over processes, files and what
// there is to know about them.
//
// Inside a sandbox it is process 1. Users' programs run as root, but with the
// capabilities a container engine gives: they can't mount, trace the agent or
// load anything into the kernel. They can still end their own sandbox, by a
// SIGKILL to process 1 for one, and call the agent as the host does: nothing it
// offers goes beyond what root may do in there anyway.
package agent

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"

	"connectrpc.com/connect"

	"silica.dev/silica/internal/agent/files"
	"silica.dev/silica/internal/agent/journal"
	"silica.dev/silica/internal/agent/proc"
	"silica.dev/silica/internal/agent/supervise"
	"silica.dev/silica/internal/guest/guestpb"
	"silica.dev/silica/internal/guest/guestpb/guestpbconnect"
)

// maxRequest bounds one RPC message from the host.
const maxRequest = 8 << 20

// Config says where an agent finds itself.
type Config struct {
	Version string
	// Root is put before the paths of the files Init writes (/etc/hostname …).
	Root string
	// Disk is the folder whose file system users fill.
	Disk string
	// State is root's own folder, for the output of spawned processes and the
	// definitions of services. It comes back with the sandbox's files.
	State string
	// Cgroup is a folder of a version 1 pids hierarchy for process groups, nil
	// for none.
	Cgroup *os.File
	// Init says that the agent is process 1 of a sandbox: everything in there
	// is its users', and limits are set on itself to be inherited.
	Init bool
	Log  *slog.Logger
}

// Agent serves one sandbox.
type Agent struct {
	cfg      Config
	seed     string
	journals *journal.Store
	table    *proc.Table
	services *supervise.Supervisor
	files    *files.Files
	notices  *notices
	handler  http.Handler

	mu       sync.Mutex
	identity identity
}

// New starts an agent's process table. Close ends it.
func New(cfg Config) (*Agent, error) {
	if cfg.Disk == "" {
		cfg.Disk = "/"
	}
	if cfg.State == "" {
		cfg.State = filepath.Join("/", cfg.Root, "var/lib/silica")
	}
	var seed [16]byte
	if _, err := rand.Read(seed[:]); err != nil {
		return nil, fmt.Errorf("draw the seed: %w", err)
	}
	a := &Agent{cfg: cfg, seed: hex.EncodeToString(seed[:]), notices: newNotices(), identity: identity{workdir: home}}
	a.journals = journal.NewStore(journal.Config{Dir: filepath.Join(cfg.State, "output")})
	table, err := proc.NewTable(proc.Config{
		Journals: a.journals,
		Cgroup:   cfg.Cgroup,
		Rlimit:   cfg.Init,
		Everyone: cfg.Init,
		Disk:     cfg.Disk,
		Report:   func(what proc.Trouble, text string) { a.notices.add(noticeKind[what], text) },
	})
	if err != nil {
		return nil, err
	}
	a.table = table
	a.services = supervise.New(supervise.Config{
		File: filepath.Join(cfg.State, "services.json"), Table: table, Journals: a.journals,
		Spec: func(args []string, dir string, env map[string]string) proc.Spec {
			return a.complete(args, dir, env, false)
		},
		Damaged: func(text string) { a.notices.add(guestpb.Notice_STATE_DAMAGED, text) },
		Log:     cfg.Log,
	})
	a.files = files.New(table.CheckDisk)
	a.handler = a.routes()
	return a, nil
}

// Close ends everything that runs.
func (a *Agent) Close() {
	a.services.Close()
	a.table.Close()
}

func (a *Agent) routes() http.Handler {
	path, rpc := guestpbconnect.NewAgentHandler(service{a: a},
		connect.WithReadMaxBytes(maxRequest),
		// The host is a veth away: compressing costs more than it saves, and
		// each compressor holds most of a megabyte.
		connect.WithCompression("gzip", nil, nil),
	)
	mux := http.NewServeMux()
	mux.Handle(path, holdFlush(rpc))
	mux.HandleFunc("GET /health", a.health)
	mux.HandleFunc("GET /files", a.getFile)
	mux.HandleFunc("PUT /files", a.putFile)
	mux.HandleFunc("POST /files/spool", a.spoolFile)
	mux.HandleFunc("POST /files/commit", a.commitFile)
	mux.HandleFunc("GET /files/archive", a.getArchive)
	mux.HandleFunc("PUT /files/archive", a.putArchive)
	mux.HandleFunc("GET /files/capture", a.getCapture)
	return mux
}

// Serve answers on l until ctx ends.
func (a *Agent) Serve(ctx context.Context, l net.Listener) error {
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	s := &http.Server{
		Handler:        a.handler,
		Protocols:      &protocols,
		MaxHeaderBytes: 64 << 10,
		ErrorLog:       slog.NewLogLogger(a.cfg.Log.Handler(), slog.LevelDebug),
	}
	stop := context.AfterFunc(ctx, func() { s.Close() })
	defer stop()
	if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve: %w", err)
	}
	return nil
}

// Listen opens the agent's port. Connections send no keepalives: the host knows
// when a sandbox dies, and a sandbox that idles must not wake up.
func Listen(ctx context.Context, addr string) (net.Listener, error) {
	l, err := (&net.ListenConfig{KeepAlive: -1}).Listen(ctx, "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", addr, err)
	}
	return l, nil
}

func (a *Agent) health(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, struct {
		Seed    string `json:"seed"`
		Version string `json:"version"`
	}{a.seed, a.cfg.Version})
}

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v) // the reader has gone
}

// noticeKind is how troubles travel.
var noticeKind = map[proc.Trouble]guestpb.Notice_Kind{
	proc.ProcessLimit: guestpb.Notice_PROCESS_LIMIT,
	proc.TreeKilled:   guestpb.Notice_TREE_KILLED,
	proc.DiskFull:     guestpb.Notice_DISK_FULL,
	proc.OutOfMemory:  guestpb.Notice_OUT_OF_MEMORY,
}
