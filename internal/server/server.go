package server

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"

	"silica.dev/silica/internal/server/reference"
	"silica.dev/silica/sandbox"
)

// Config is what the operator may choose. Zero values take the defaults named.
type Config struct {
	Version         string
	NodeSecret      []byte // known to all servers on one database
	DefaultTemplate string // "miosa-sandbox"
	PublicURL       string // where clients reach the API; empty: as the request says
	RateLimit       int    // requests a minute and workspace; 0: no limit, also none on polling readiness
	MaxUpload       int64  // bytes of one file; 100 MiB
	SigningKey      []byte // of links to files; drawn anew if empty, which ends all older links

	// Defaults is the size of a sandbox that names none: 1 core, 1024 MiB,
	// 3072 MiB. Caps bounds sizes given in numbers (4, 8192, 10240), NamedCaps
	// those given by name (16, 32768, 81920).
	Defaults, Caps, NamedCaps sandbox.Resources

	// MaxOutput is how much one blocking command may answer, in bytes; 32 MiB.
	// ExecMemory is how much all of them may hold in memory at one moment; 512
	// MiB. Output beyond either is dropped and the answer says truncated.
	// One tenant gets a quarter of ExecMemory at most.
	MaxOutput  int
	ExecMemory int64

	// MaxInFlight is how many requests of one tenant may be under way at one
	// moment (256), and MaxStreams how many of them may be streams (128).
	MaxInFlight, MaxStreams int

	// GuestWait is how long an agent may keep silent before the request that
	// waits for it is given up; 30 s.
	GuestWait time.Duration

	// Patience with clients: how long a write may block before the client is
	// dropped (60 s), and how long one may leave a body half sent (15 s).
	WriteIdle, ReadIdle time.Duration
	Heartbeat           time.Duration // of streams; 15 s

	// Prices is what credits in usage reports are reckoned by, and MaxSandboxes
	// the limit of tenants that have none of their own, to be told.
	Prices       sandbox.Prices
	MaxSandboxes int
}

func (c *Config) setDefaults() {
	set := func(r *sandbox.Resources, cores, memory, disk int64) {
		if *r == (sandbox.Resources{}) {
			*r = sandbox.Resources{MilliCPU: cores * sandbox.Core, Memory: memory * sandbox.MiB, Disk: disk * sandbox.MiB}
		}
	}
	if len(c.SigningKey) == 0 {
		c.SigningKey = []byte(rand.Text())
	}
	set(&c.Defaults, 1, 1024, 3072)
	set(&c.Caps, 4, 8192, 10240)
	set(&c.NamedCaps, 16, 32768, 81920)
	orElse(&c.DefaultTemplate, "miosa-sandbox")
	orElse(&c.MaxUpload, 100*sandbox.MiB)
	orElse(&c.MaxOutput, 32<<20)
	orElse(&c.ExecMemory, 512*sandbox.MiB)
	orElse(&c.MaxInFlight, 256)
	orElse(&c.MaxStreams, 128)
	orElse(&c.GuestWait, 30*time.Second)
	orElse(&c.WriteIdle, time.Minute)
	orElse(&c.ReadIdle, 15*time.Second)
	orElse(&c.Heartbeat, 15*time.Second)
}

func orElse[T comparable](v *T, standard T) {
	var zero T
	if *v == zero {
		*v = standard
	}
}

// Deps is what the server asks. All are needed but Ready and Log.
type Deps struct {
	Sandboxes Sandboxes
	Snapshots Snapshots
	Storage   Storage
	Parcels   Parcels
	Events    Events
	Accounts  Accounts
	Directory Directory
	Books     Books
	Audit     AuditLog
	Templates Templates
	Ready     func(context.Context) error // nil error: the daemon takes work
	Nodes     Nodes                       // nil: no other server shares the database
	Registry  *prometheus.Registry        // served at /metrics; gets the server's own
	Tracer    trace.Tracer                // nil: no spans
	Log       *slog.Logger
}

// Server is the HTTP side of the daemon. It is an http.Handler.
type Server struct {
	cfg      Config
	deps     Deps
	log      *slog.Logger
	mux      *chi.Mux
	metrics  *metrics
	http     *http.Server
	limiter  *limiter // of requests, by tenant
	polling  *limiter // of looks at readiness, by tenant
	guesses  *limiter // of wrong keys, by address
	trusted  *trusted
	inFlight *inFlight
	sockets  openSockets
	tokens   streamTokens
	forward  *forwarder             // nil: no other server shares the database
	contract func() ([]byte, error) // the OpenAPI document, made once
	sessions *sessions
	page     func() ([]byte, error) // the same for people, made once
	places   *places
	apps     *launches

	execMemory *budget // what blocking commands hold

	// closing ends when Shutdown begins: streams that only watch end then.
	// closed ends when its grace is over: commands end then.
	closing, closed     context.Context
	beginClose, endSoon context.CancelFunc
}

// New returns a server that is not listening yet.
func New(cfg Config, deps Deps) *Server {
	cfg.setDefaults()
	if deps.Log == nil {
		deps.Log = slog.New(slog.DiscardHandler)
	}
	if deps.Tracer == nil {
		deps.Tracer = noop.NewTracerProvider().Tracer("")
	}
	if deps.Registry == nil {
		deps.Registry = prometheus.NewRegistry()
	}
	s := &Server{
		cfg: cfg, deps: deps, log: deps.Log,
		limiter: newLimiter(cfg.RateLimit, time.Minute), guesses: newLimiter(maxGuesses, guessWindow), trusted: newTrusted(),
		inFlight: newInFlight(cfg.MaxInFlight, cfg.MaxStreams), sessions: newSessions(), places: newPlaces(), apps: newLaunches(), execMemory: newBudget(cfg.ExecMemory),
	}
	s.metrics = newMetrics(deps.Registry, s.inFlight)
	polls := 0
	if cfg.RateLimit > 0 {
		polls = maxPolls
	}
	s.polling = newLimiter(polls, time.Second)
	if deps.Nodes != nil {
		s.forward = newForwarder(deps.Nodes, cfg.NodeSecret)
	}
	s.closing, s.beginClose = context.WithCancel(context.Background())
	s.closed, s.endSoon = context.WithCancel(context.Background())
	s.contract = sync.OnceValues(func() ([]byte, error) { return openAPIJSON(s.routes()) })
	s.page = sync.OnceValues(func() ([]byte, error) {
		contract, err := s.contract()
		if err != nil {
			return nil, err
		}
		return reference.Render(contract)
	})
	s.mux = s.mount()
	deps.Accounts.OnAccounts(s.recheck)
	s.http = &http.Server{
		Handler:           s,
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	return s
}

func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.mux.ServeHTTP(w, r) }

// Serve answers on ln until Shutdown. It returns nil then.
func (s *Server) Serve(ln net.Listener) error {
	if err := s.http.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve %s: %w", ln.Addr(), err)
	}
	return nil
}

// Shutdown stops taking requests, ends the streams that only watch with a
// reason, and waits for commands and files until ctx ends; what still runs then
// is told and cut off.
func (s *Server) Shutdown(ctx context.Context) error {
	s.beginClose()
	err := s.http.Shutdown(ctx)
	if err == nil {
		err = s.sockets.wait(ctx) // net/http does not count them
	}
	s.endSoon()
	if err == nil {
		return nil
	}
	// Handlers answer within moments once closed has ended.
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	if s.http.Shutdown(last) == nil && s.sockets.wait(last) == nil {
		return nil
	}
	if cerr := s.http.Close(); cerr != nil {
		return fmt.Errorf("close: %w", cerr)
	}
	return fmt.Errorf("shut down: %w", err)
}
